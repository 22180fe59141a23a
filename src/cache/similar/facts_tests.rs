//! Which texts have the same facts, and that no digit goes unseen.

use super::*;

fn agree(one: &str, other: &str) -> bool {
    facts(one).is_some_and(|facts_of_one| Some(facts_of_one) == facts(other))
}

#[test]
fn the_same_things_in_other_words_agree() {
    for (one, other) in [
        ("How do I reset my password?", "how can I reset the password"),
        ("What happened on 12 March 2024?", "On March 12, 2024 what happened?"),
        ("Что было 12.03.2024?", "что было 12 марта 2024 года"),
        ("Что было 2024-03-12?", "Что было 12 марта 2024?"),
        ("Is the 14-day trial free?", "Is the fourteen day trial free?"),
        ("Сколько стоит 5 кг?", "сколько стоят пять килограммов"),
        ("Сколько стоит 1 000 рублей?", "Сколько стоит 1000 руб.?"),
        ("Какая скидка, 7,5 %?", "какая скидка 7.5%"),
        ("Who works in Perm on Monday?", "On Monday who works in Perm?"),
        ("Почему не работает принтер?", "почему принтер не работает"),
        ("The printer isn't working, what to do?", "What to do if the printer is not working"),
        ("Где офис Казани?", "где офис в Казани"),
        ("Где отпуск за двадцать пять дней?", "где отпуск за 25 дней"),
    ] {
        assert!(agree(one, other), "{one} {:?}\n{other} {:?}", facts(one), facts(other));
    }
}

#[test]
fn what_must_be_equal_keeps_texts_apart() {
    for (one, other) in [
        ("Is the limit 5 kg?", "Is the limit 5 g?"),
        ("Is the limit 5?", "Is the limit -5?"),
        ("Is it five days?", "Is it six days?"),
        ("Is it open on Monday?", "Is it open on Tuesday?"),
        ("Can I come today?", "Can I come tomorrow?"),
        ("May I come in May?", "May I come in June?"),
        ("Is smoking allowed?", "Is smoking not allowed?"),
        ("What can I do if I did not get it?", "What can I not do if I did get it?"),
        ("Can I pay with a card?", "Can I pay without a card?"),
        ("How do I enable sync?", "How do I disable sync?"),
        ("Where is the office in Perm?", "Where is the office in Omsk?"),
        ("Perm office: where is it?", "Omsk office: where is it?"),
        ("from Perm to Omsk, how?", "from Omsk to Perm, how?"),
        ("How to move money from savings to checking?", "How to move money from checking to savings?"),
        ("What does `a == b` do?", "What does `a = b` do?"),
        ("what is C?", "what is C++?"),
        ("How to open a .txt file?", "How to open a .csv file?"),
        ("What does the supplier owe the customer?", "What does the customer owe the supplier?"),
        ("When is the meeting?", "Where is the meeting?"),
        ("где офис в казани", "где офис в самаре"),
        ("Is the deposit refundable?", "Is the deposit nonrefundable?"),
        ("Как показать панель?", "Как скрыть панель?"),
        ("Как написать Иванову?", "Как написать Петрову?"),
        ("Как настроить Outlook?", "Как настроить Thunderbird?"),
        ("как настроить outlook", "как настроить thunderbird"),
        ("Можно ли курить?", "Нельзя ли курить?"),
        ("как включить свет", "как выключить свет"),
        ("отчёт за март, где он", "отчёт за май, где он"),
        ("отпуск до праздников, как взять", "отпуск после праздников, как взять"),
        ("Что с оплаченным счётом?", "Что с неоплаченным счётом?"),
        ("Что за третий квартал?", "Что за второй квартал?"),
        ("как написать «Ромашке»", "как написать «Василькам»"),
        ("Is 日本 in it?", "Is 中国 in it?"),
    ] {
        assert!(!agree(one, other), "{one} {:?}\n{other} {:?}", facts(one), facts(other));
    }
}

#[test]
fn other_languages_have_no_facts() {
    for text in
        ["Wie kann ich mein Passwort nicht ändern?", "Puis-je ne pas venir demain matin?", "Қайда болады кеше жиналыс?"]
    {
        assert_eq!(facts(text), None);
    }
}

#[test]
fn no_text_panics_and_no_digit_goes_unseen() {
    let words = [
        "12.03.2024",
        "12",
        "марта",
        "March",
        "2024",
        "1 000",
        "-5",
        "10–15%",
        "$100",
        "5кг",
        "№ 7",
        "2-й",
        "«5»",
        "\"",
        "'",
        "`",
        "``x1``",
        "не",
        "not",
        "n't",
        "'s",
        "from",
        "из",
        "может",
        "may",
        "May",
        "ё",
        "А",
        "I",
        "GPT-4",
        "a@b.c",
        "https://x.y/1",
        ".",
        "…",
        "--",
        "-",
        "²",
        "٣",
        "日本",
        "\u{301}",
        "\n",
        "двадцать",
        "пять",
        "5",
        "%",
        "001",
        "1,500",
        "1,5",
        "10:30",
        "ß",
        "İ",
        "8-800-555",
        "3/4",
        "и",
        "год",
    ];
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let text: Vec<&str> = (0..random.usize(..9)).map(|_| words[random.usize(..words.len())]).collect();
        let text = text.join(if random.bool() { " " } else { "" });
        assert_eq!(facts(&text), facts(&text.clone()));
        let digits: Vec<usize> = text.match_indices(|c: char| c.is_ascii_digit()).map(|(at, _)| at).collect();
        let Some(&at) = digits.get(random.usize(..digits.len().max(1))) else { continue };
        let mut changed = text.clone().into_bytes();
        changed[at] = b'0' + (changed[at] - b'0' + random.u8(1..10)) % 10;
        let changed = String::from_utf8(changed).unwrap_or_default();
        assert!(!agree(&text, &changed), "{text:?} {changed:?} {:?}", facts(&text));
    }
}
