//! What the person who starts the server sees: what was found, what it costs, when it is ready and what to try.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use anyhow::anyhow;
use kernels::CardInfo;
use models::{Encoder, ModelFile};

use super::devices::Devices;
use super::machine::{self, Machine};
use super::no_card;
use super::processors::Processors;
use super::sizes::Sizes;
use crate::auth::FirstUser;
use crate::generate::{EmbeddingModel, Generator};
use crate::lang::Lang;
use crate::manifest::Manifest;

/// The terminal of the person who starts the server, in that person's language.
#[derive(Debug, Clone, Copy, Default)]
pub struct Report {
    lang: Lang,
}

impl Report {
    /// A report in this language.
    pub fn new(lang: Lang) -> Self {
        Self { lang }
    }

    /// The card that was asked for cannot be used.
    pub(super) fn refused(self, reason: &kernels::Error) -> anyhow::Error {
        anyhow!(no_card::told(reason, self.lang))
    }

    /// Machine and model, before the weights are read.
    ///
    /// # Errors
    /// When the model's configuration cannot be read.
    pub(super) fn found(
        self,
        machine: &Machine,
        devices: &Devices,
        file: &ModelFile,
        (context, card_layers): (usize, usize),
    ) -> models::Result<()> {
        let config = file.config()?;
        let (isa, threads) = (devices.host.isa(), devices.host.threads());
        let (id, path, format) = (Manifest::name_of(file.path()), file.path().display(), file.format());
        let (architecture, layers, vocabulary) = (config.architecture, config.num_layers, config.vocab_size);
        let own = config.max_context;
        say(&format!("Steppe {}", env!("CARGO_PKG_VERSION")));
        let processors = self.processors(&machine.processors);
        let mut head = self.lang.pick("  device     ", "  устройство ");
        for card in &devices.cards {
            let number = if devices.cards.len() > 1 { format!("{}: ", card.ordinal) } else { String::new() };
            say(&format!("{head}{number}{}", self.card(&card.info, (card_layers, layers))));
            head = "             ";
        }
        say(&self.lang.pick(
            format!("{head}CPU, {isa}, {threads} threads on {processors}"),
            format!("{head}CPU, {isa}, потоков: {threads}, {processors}"),
        ));
        if let Some(reason) = &devices.no_card {
            let reason = no_card::told(reason, self.lang);
            say(&self.lang.pick(format!("             no GPU: {reason}"), format!("             без GPU: {reason}")));
        }
        if machine.processors.nodes > 1 && !machine.processors.interleaved {
            say(self.lang.pick(
                "             to use the memory of all nodes evenly: numactl --interleave=all steppe serve …",
                "             чтобы память всех узлов работала поровну: numactl --interleave=all steppe serve …",
            ));
        }
        say(&self.lang.pick(format!("  model      {id}: {path}"), format!("  модель     {id}: {path}")));
        say(&self.lang.pick(
            format!("             {architecture:?}, {format}, {layers} layers, vocabulary {vocabulary}"),
            format!("             {architecture:?}, {format}, слоёв: {layers}, словарь: {vocabulary}"),
        ));
        say(&self.lang.pick(
            format!("  context    {context} tokens (the model's own: {own})"),
            format!("  контекст   токенов: {context} (у самой модели: {own})"),
        ));
        Ok(())
    }

    fn card(self, card: &CardInfo, (used, layers): (usize, usize)) -> String {
        let CardInfo { name, compute_capability: (major, minor), driver, driver_cuda, .. } = card;
        let [free, total] = [card.free_memory, card.total_memory].map(|bytes| bytes as f64 / f64::from(1 << 30));
        let (cuda_major, cuda_minor) = driver_cuda;
        self.lang.pick(
            format!(
                "{name}, compute capability {major}.{minor}, {free:.1} of {total:.1} GiB free, driver {driver} \
                 (CUDA {cuda_major}.{cuda_minor}), {used} of {layers} layers"
            ),
            format!(
                "{name}, вычислительные возможности {major}.{minor}, свободно {free:.1} из {total:.1} ГиБ, \
                 драйвер {driver} (CUDA {cuda_major}.{cuda_minor}), слоёв: {used} из {layers}"
            ),
        )
    }

    fn processors(self, found: &Processors) -> String {
        let Processors { cores, logical, nodes, quota, .. } = *found;
        let mut text = self.lang.pick(format!("{cores} cores"), format!("ядер: {cores}"));
        if logical > cores {
            text += &self.lang.pick(format!(" ({logical} hyper-threads)"), format!(" (гиперпотоков: {logical})"));
        }
        if nodes > 1 {
            text += &self.lang.pick(format!(", {nodes} NUMA nodes"), format!(", узлов NUMA: {nodes}"));
        }
        if let Some(quota) = quota.map(|hundredths| hundredths as f64 / 100.0) {
            text += &self.lang.pick(
                format!(", limited to the time of {quota} by the control group"),
                format!(", контрольная группа даёт времени на {quota}"),
            );
        }
        text
    }

    /// The embedding model.
    pub(super) fn found_embeddings(self, encoder: &Encoder, model: &EmbeddingModel) {
        let (name, dimensions, tokens) = (&model.name, encoder.dimensions(), encoder.max_tokens());
        say(&self.lang.pick(
            format!("  embeddings {name}: {dimensions} dimensions, texts up to {tokens} tokens"),
            format!("  эмбеддинги {name}: измерений: {dimensions}, токенов в тексте до {tokens}"),
        ));
    }

    /// The memory plan.
    pub(super) fn plan(self, sizes: &Sizes) {
        say(&sizes.table(machine::resident().unwrap_or(0), self.lang));
    }

    /// The first user was made, and a key.
    pub(super) fn first_user(self, first: &FirstUser, file: &Path) {
        let (name, password, file) = (first.name, &first.password, file.display());
        say(&self.lang.pick(
            format!("  first user {name}, password {password} (shown only now); an API key is in {file}"),
            format!("  первый пользователь {name}, пароль {password} (больше не покажется); ключ API — в {file}"),
        ));
    }

    /// Ready, and a line to try, which carries the key if there is one.
    pub(super) fn ready(
        self,
        generator: &Generator,
        address: SocketAddr,
        key: Option<&str>,
        tls: bool,
        after: Duration,
    ) {
        let host = match address.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        let scheme = if tls { "https" } else { "http" };
        let url = format!("{scheme}://{}", SocketAddr::new(host, address.port()));
        let (id, seconds) = (&generator.model().id, after.as_secs_f64());
        let question = self.lang.pick("What is a steppe?", "Что такое степь?");
        let body = format!(r#"{{"messages": [{{"role": "user", "content": "{question}"}}], "stream": true}}"#);
        say(&self.lang.pick(
            format!("Ready after {seconds:.1} s: {id} at {url} (documentation: {url}/docs). Try:"),
            format!("Готово через {seconds:.1} с: {id}, {url} (документация: {url}/docs). Попробуйте:"),
        ));
        let key = key.map(|key| format!("-H 'Authorization: Bearer {key}' ")).unwrap_or_default();
        say(&format!("\n  curl -N {url}/v1/chat/completions {key}-H 'Content-Type: application/json' -d '{body}'\n"));
    }

    /// The server was told to stop.
    pub(super) fn stopping(self) {
        say(self.lang.pick(
            "stopping: running requests may finish, new ones are refused",
            "остановка: начатые запросы завершаются, новые не принимаются",
        ));
    }

    /// The server was told to stop a second time.
    pub(super) fn stopping_at_once(self) {
        say(self.lang.pick("stopping at once", "немедленная остановка"));
    }
}

#[expect(clippy::print_stdout, reason = "the output of the command")]
fn say(text: &str) {
    println!("{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_are_told_with_what_limits_them() {
        let plain = Processors { cores: 8, logical: 8, nodes: 1, quota: None, interleaved: false };
        let all = Processors { logical: 16, nodes: 2, quota: Some(650), ..plain };
        let told = |lang, processors| Report::new(lang).processors(&processors);
        assert_eq!(told(Lang::En, plain), "8 cores");
        assert_eq!(
            told(Lang::En, all),
            "8 cores (16 hyper-threads), 2 NUMA nodes, limited to the time of 6.5 by the control group"
        );
        assert_eq!(
            told(Lang::Ru, all),
            "ядер: 8 (гиперпотоков: 16), узлов NUMA: 2, контрольная группа даёт времени на 6.5"
        );
    }
}
