//! A part of the server, how it is, and what that means, in English and Russian.

use std::time::Duration;

use crate::lang::Lang;

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// Well.
    Ok,
    /// Not as it should be, or something less important is down.
    Degraded,
    /// It does not work.
    Down,
}

impl State {
    /// The word for it in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Degraded => "degraded",
            Self::Down => "down",
        }
    }
}

/// What a server is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part {
    /// The engine with its model.
    Model,
    /// The SQL database.
    Database,
    /// The store that replicas share.
    Redis,
    /// What stands in its place where there is none.
    Memory,
    /// Holds and settlements.
    Ledger,
    /// The disk of `data.dir`.
    Disk,
}

impl Part {
    /// The word for it in the API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Database => "database",
            Self::Redis => "redis",
            Self::Memory => "kv_store",
            Self::Ledger => "ledger",
            Self::Disk => "disk",
        }
    }

    /// What does not work, or works less well, while it is down.
    pub fn loss(self, lang: Lang) -> &'static str {
        match self {
            Self::Model => lang.pick("no request is answered", "запросы не выполняются"),
            Self::Database => lang.pick(
                "requests with credentials and everything under /admin and /billing are answered with 503",
                "на запросы с учётными данными и на всё под /admin и /billing сервер отвечает 503",
            ),
            Self::Redis | Self::Memory => lang.pick(
                "nothing comes from the prompt cache; limits are counted by each process, or requests refused, as \
                 limits.when_unavailable says",
                "кэш ответов не работает; лимиты каждый процесс считает сам либо отказывает — как задано в \
                 limits.when_unavailable",
            ),
            Self::Ledger => lang.pick(
                "requests that cost money or fall under a budget are refused; what has ended is settled later",
                "платные запросы и запросы под бюджетом отклоняются; завершённые будут учтены позже",
            ),
            Self::Disk => lang.pick(
                "SQLite, logs and first-start files cannot be written",
                "SQLite, журналы и файлы первого запуска не записываются",
            ),
        }
    }
}

/// Why a part is as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    /// The model loads.
    Loads,
    /// The model serves.
    Serves {
        /// Sequences that run.
        running: usize,
        /// Requests that wait.
        waiting: usize,
    },
    /// The server is stopping.
    Stops,
    /// It answered after so long.
    Answered(Duration),
    /// It did not answer within so long.
    Silent(Duration),
    /// It failed lately, and its breaker is open.
    LeftAlone,
    /// It failed.
    Failed(String),
    /// It is part of this process.
    InProcess,
    /// The last write was written.
    Writes,
    /// The last write was not.
    DoesNotWrite,
    /// So many bytes are free.
    Space(u64),
    /// Only so many bytes are free.
    LittleSpace(u64),
    /// So few bytes are free that writes will fail.
    NoSpace(u64),
}

impl Why {
    /// How such a part is.
    pub fn state(&self) -> State {
        match self {
            Self::Serves { .. } | Self::Answered(_) | Self::InProcess | Self::Writes | Self::Space(_) => State::Ok,
            Self::Loads | Self::Stops | Self::LittleSpace(_) => State::Degraded,
            Self::Silent(_) | Self::LeftAlone | Self::Failed(_) | Self::DoesNotWrite | Self::NoSpace(_) => State::Down,
        }
    }

    /// For people.
    pub fn text(&self, lang: Lang) -> String {
        let space = |bytes: u64| {
            let mib = bytes >> 20;
            lang.pick(format!("{mib} MiB are free"), format!("свободно {mib} МиБ"))
        };
        match self {
            Self::Loads => lang.pick("it loads", "загружается").into(),
            Self::Serves { running, waiting } => {
                lang.pick(format!("{running} run, {waiting} wait"), format!("выполняются: {running}, ждут: {waiting}"))
            }
            Self::Stops => lang.pick("the server is stopping", "сервер останавливается").into(),
            Self::Answered(after) => {
                let ms = after.as_secs_f64() * 1000.0;
                lang.pick(format!("it answered within {ms:.1} ms"), format!("ответ за {ms:.1} мс"))
            }
            Self::Silent(after) => {
                let ms = after.as_millis();
                lang.pick(format!("no answer within {ms} ms"), format!("нет ответа за {ms} мс"))
            }
            Self::LeftAlone => lang
                .pick(
                    "it failed lately and is left alone (/health/circuit-breakers)",
                    "недавно отказывала, обращения приостановлены (/health/circuit-breakers)",
                )
                .into(),
            Self::Failed(words) => words.clone(),
            Self::InProcess => lang.pick("in this process", "в этом процессе").into(),
            Self::Writes => lang.pick("the last write succeeded", "последняя запись удалась").into(),
            Self::DoesNotWrite => lang.pick("the last write failed", "последняя запись не удалась").into(),
            Self::Space(bytes) | Self::LittleSpace(bytes) | Self::NoSpace(bytes) => space(*bytes),
        }
    }
}

/// A part and how it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Component {
    /// Which.
    pub part: Part,
    /// How and why.
    pub why: Why,
}

/// The server as a whole: down without a model or a database, degraded by anything else.
pub(super) fn overall(components: &[Component]) -> State {
    let vital = |part| matches!(part, Part::Model | Part::Database);
    let weigh = |Component { part, why }: &Component| match why.state() {
        State::Down if vital(*part) => State::Down,
        State::Ok => State::Ok,
        State::Down | State::Degraded => State::Degraded,
    };
    components.iter().map(weigh).max().unwrap_or(State::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_vital_parts_bring_the_server_down() {
        let of = |part, why| overall(&[Component { part: Part::Disk, why: Why::Space(1) }, Component { part, why }]);
        assert_eq!(of(Part::Database, Why::Answered(Duration::ZERO)), State::Ok);
        assert_eq!(of(Part::Database, Why::LeftAlone), State::Down);
        assert_eq!(of(Part::Redis, Why::LeftAlone), State::Degraded);
        assert_eq!(of(Part::Model, Why::Loads), State::Degraded);
    }
}
