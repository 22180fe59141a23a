//! Why there is no card, in the language of the person who reads it.

use kernels::{LEAST_CAPABILITY, LEAST_DRIVER, NoCard};

use crate::lang::Lang;

/// The reason and what helps; English is the error's own text.
pub(super) fn told(reason: &kernels::Error, lang: Lang) -> String {
    match (lang, reason) {
        (Lang::Ru, kernels::Error::NoCard(reason)) => in_russian(reason),
        _ => reason.to_string(),
    }
}

fn in_russian(reason: &NoCard) -> String {
    let otherwise = format!("установите драйвер {LEAST_DRIVER} или новее либо задайте device = \"cpu\"");
    match reason {
        NoCard::Build => "программа собрана без CUDA; возьмите сборку для карт NVIDIA".to_owned(),
        NoCard::Driver => format!("на этой машине нет драйвера NVIDIA (libcuda.so.1): {otherwise}"),
        NoCard::OldDriver { cuda: (major, minor) } => {
            format!("драйвер NVIDIA слишком старый, в нём CUDA {major}.{minor}: {otherwise}")
        }
        NoCard::DriverFails(words) => {
            format!("драйвер NVIDIA не запускается: {words}; сначала карту должен показать nvidia-smi")
        }
        NoCard::Number { ordinal, count } => format!("нет карты {ordinal}: карт у драйвера {count}, счёт с нуля"),
        NoCard::OldCard { ordinal, capability: (major, minor) } => {
            let (least_major, least_minor) = LEAST_CAPABILITY;
            format!(
                "вычислительные возможности карты {ordinal} — {major}.{minor}, а ядра собраны для {least_major}.{least_minor} и \
                 новее; возьмите другую карту или задайте device = \"cpu\""
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_says_what_helps_in_both_languages() {
        let reasons = [
            (NoCard::Build, ["take the build", "возьмите сборку"]),
            (NoCard::Driver, ["version 580 or later", "драйвер 580 или новее"]),
            (
                NoCard::OldDriver { cuda: (12, 4) },
                ["CUDA 12.4 of at least 13.0; install driver 580", "CUDA 12.4: установите драйвер 580"],
            ),
            (NoCard::DriverFails("no memory".to_owned()), ["no memory; nvidia-smi", "no memory; сначала"]),
            (
                NoCard::Number { ordinal: 3, count: 2 },
                ["no card 3: the driver shows 2", "нет карты 3: карт у драйвера 2"],
            ),
            (
                NoCard::OldCard { ordinal: 1, capability: (6, 1) },
                ["6.1, kernels are compiled for 7.5", "6.1, а ядра собраны для 7.5"],
            ),
        ];
        for (reason, [english, russian]) in reasons {
            let error = kernels::Error::from(reason);
            assert!(told(&error, Lang::En).contains(english), "{error}");
            assert!(told(&error, Lang::Ru).contains(russian), "{}", told(&error, Lang::Ru));
        }
    }
}
