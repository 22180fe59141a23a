//! The words for limits and budgets that are reached, in both languages.

use std::time::Duration;

use crate::lang::Lang;
use crate::ledger::{Account, Period, Subject};
use crate::limits::{Limit, Reason, Refusal, ScopeKind};

/// A limit that is reached, and when to come again.
pub fn refusal(lang: Lang, refusal: &Refusal) -> String {
    let Reason::Limit(kind, limit) = refusal.reason else {
        return lang
            .pick(
                "The server cannot count requests at the moment. Try again in a few seconds.",
                "Сервер сейчас не может считать запросы. Повторите через несколько секунд.",
            )
            .into();
    };
    let whose = match kind {
        ScopeKind::Global => lang.pick("this server", "этого сервера"),
        ScopeKind::User => lang.pick("this user", "этого пользователя"),
        ScopeKind::Key => lang.pick("this API key", "этого ключа API"),
        ScopeKind::Department => lang.pick("this department", "этого отдела"),
        ScopeKind::Address => lang.pick("this address", "этого адреса"),
    };
    let what = match limit {
        Limit::RequestsPerMinute => lang.pick("requests per minute", "запросов в минуту"),
        Limit::RequestsPerHour => lang.pick("requests per hour", "запросов в час"),
        Limit::TokensPerMinute => lang.pick("tokens per minute", "токенов в минуту"),
        Limit::ParallelRequests => lang.pick("requests at the same time", "одновременных запросов"),
    };
    match refusal.retry_after {
        Some(wait) => {
            let seconds = seconds(wait);
            lang.pick(
                format!("Rate limit reached for {whose}: {what}. Try again in {seconds} s."),
                format!("Достигнут предел для {whose}: {what}. Повторите через {seconds} с."),
            )
        }
        None => lang.pick(
            format!("This request alone is beyond the limit of {whose}: {what}. Ask for less."),
            format!("Уже один этот запрос больше предела для {whose}: {what}. Попросите меньше."),
        ),
    }
}

/// An account that cannot pay.
pub fn short(lang: Lang, account: &Account) -> String {
    match account {
        Account::Purse { .. } => lang
            .pick(
                "The balance is too low for this request. Ask the administrator to top it up, or ask for a shorter answer.",
                "На балансе не хватает средств на этот запрос. Попросите администратора пополнить его или попросите ответ \
                 короче.",
            )
            .into(),
        Account::Budget(budget) => {
            let whose = match &budget.subject {
                Subject::User(_) => lang.pick("this user", "этого пользователя"),
                Subject::Key(_) => lang.pick("this API key", "этого ключа API"),
                Subject::Department(_) => lang.pick("this department", "этого отдела"),
            };
            let when = match budget.period {
                Period::Day => lang.pick("of today ", "на сегодня "),
                Period::Month => lang.pick("of this month ", "на этот месяц "),
                Period::Total => "",
            };
            lang.pick(
                format!("The budget {when}of {whose} is too low for this request."),
                format!("Бюджета {when}для {whose} не хватает на этот запрос."),
            )
        }
    }
}

fn seconds(wait: Duration) -> u64 {
    wait.as_secs_f64().ceil().max(1.0) as u64
}
