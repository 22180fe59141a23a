//! A row as others read it: one line of JSON, or a message of syslog (RFC 5424).

use std::fmt::Write as _;
use std::sync::OnceLock;

use serde_json::{Map, Value as Json, json};

use crate::calendar::{civil_from_days, parse_day};
use crate::store::Moment;
use crate::store::audit::AuditRow;

/// `log audit`
const FACILITY: u8 = 13;
const WARNING: u8 = 4;
const INFORMATIONAL: u8 = 6;
/// RFC 5612 leaves this number to whoever has none of their own.
const ELEMENT: &str = "steppe@32473";

/// How rows are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// JSON Lines.
    Jsonl,
    /// RFC 5424.
    Syslog,
}

impl std::str::FromStr for Format {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "jsonl" => Ok(Self::Jsonl),
            "syslog" => Ok(Self::Syslog),
            other => Err(format!("`{other}` is no format; jsonl and syslog are")),
        }
    }
}

impl Format {
    /// The row in one line, without its end.
    pub fn line(self, row: &AuditRow) -> String {
        match self {
            Self::Jsonl => json_line(row),
            Self::Syslog => syslog_message(row, true),
        }
    }
}

fn object(row: &AuditRow) -> Map<String, Json> {
    let details: Json = serde_json::from_str(&row.details).unwrap_or(Json::Null);
    let object = json!({
        "seq": row.seq,
        "time": timestamp(row.moment),
        "kind": row.kind,
        "actor_id": row.actor_id,
        "actor": row.actor,
        "credential": row.credential,
        "key_id": row.key_id,
        "address": row.address,
        "request_id": row.request_id,
        "action": row.action,
        "object": row.object,
        "model": row.model,
        "outcome": row.outcome,
        "details": details,
        "hash": row.hash,
    });
    let Json::Object(mut object) = object else { return Map::new() };
    object.retain(|_, value| value.as_str() != Some(""));
    object
}

fn json_line(row: &AuditRow) -> String {
    one_line(&Json::Object(object(row)).to_string())
}

/// JSON escapes what is below a space; the rest of what ends lines or moves cursors is escaped here.
fn one_line(json: &str) -> String {
    let breaks = |character: char| character.is_control() || matches!(character, '\u{2028}' | '\u{2029}');
    if !json.contains(breaks) {
        return json.to_owned();
    }
    json.chars().fold(String::with_capacity(json.len() + 8), |mut line, character| {
        if breaks(character) {
            let _ = write!(line, "\\u{:04x}", u32::from(character));
        } else {
            line.push(character);
        }
        line
    })
}

/// A message of RFC 5424; its text is the line of JSON, without the details where they are not wanted.
pub fn syslog_message(row: &AuditRow, details: bool) -> String {
    let bad = matches!(row.kind.as_str(), "refusal") || matches!(row.outcome.as_str(), "failed" | "lost" | "slowed");
    let priority = FACILITY * 8 + if bad { WARNING } else { INFORMATIONAL };
    let (time, host, process) = (timestamp(row.moment), host_name(), std::process::id());
    let mut message = format!("<{priority}>1 {time} {host} steppe {process} {} [{ELEMENT}", row.kind);
    let seq = row.seq.to_string();
    let fields = [
        ("seq", seq.as_str()),
        ("actor", &row.actor),
        ("actorId", &row.actor_id),
        ("credential", &row.credential),
        ("keyId", &row.key_id),
        ("address", &row.address),
        ("requestId", &row.request_id),
        ("action", &row.action),
        ("object", &row.object),
        ("model", &row.model),
        ("outcome", &row.outcome),
    ];
    for (name, value) in fields.into_iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(message, " {name}=\"");
        for character in value.chars() {
            if matches!(character, '"' | '\\' | ']') {
                message.push('\\');
            }
            message.push(character);
        }
        message.push('"');
    }
    // The mark says that UTF-8 follows.
    message.push_str("] \u{feff}");
    if details {
        message.push_str(&json_line(row));
    } else {
        message
            .push_str(&json_line(&AuditRow { details: "\"left out: too long for a datagram\"".into(), ..row.clone() }));
    }
    message
}

/// `2026-01-31T23:59:59.123Z`
pub fn timestamp(moment: Moment) -> String {
    let moment = u64::try_from(moment).unwrap_or_default();
    let (seconds, milliseconds) = (moment / 1000, moment % 1000);
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milliseconds:03}Z")
}

/// A day, `2026-01-31`, or a moment, `2026-01-31T23:59:59Z`, both in UTC.
pub fn parse_moment(text: &str) -> Option<Moment> {
    let (day, time) = text.split_once('T').unwrap_or((text, "00:00:00Z"));
    let time = time.strip_suffix('Z')?;
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let parts: Vec<i64> =
        clock.split(':').map(|part| part.parse().ok().filter(|_| digits(part))).collect::<Option<_>>()?;
    let [hour @ 0..24, minute @ 0..60, second @ 0..60] = parts[..] else { return None };
    let milliseconds: i64 = Some(fraction).filter(|text| digits(text) && text.len() <= 3)?.parse().ok()?;
    let milliseconds = milliseconds * 10_i64.pow(3 - fraction.len() as u32);
    Some(parse_day(day)? * 86_400_000 + (hour * 3600 + minute * 60 + second) * 1000 + milliseconds)
}

/// As the kernel knows it.
fn host_name() -> &'static str {
    static NAME: OnceLock<String> = OnceLock::new();
    NAME.get_or_init(|| {
        let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let name: String = name.chars().filter(char::is_ascii_graphic).take(255).collect();
        if name.is_empty() { "-".into() } else { name }
    })
}
