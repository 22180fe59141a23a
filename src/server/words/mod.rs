//! What people are told, and the choice between the languages; each has its own file. Codes and statuses never depend on
//! the language.

mod en;
mod quota;
mod ru;

use axum::http::HeaderMap;
use axum::http::header::ACCEPT_LANGUAGE;

use super::problem::Problem;
use crate::lang::Lang;

/// The language that `Accept-Language` prefers; English where it names neither.
pub fn language(headers: &HeaderMap) -> Lang {
    let header = headers.get(ACCEPT_LANGUAGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut best = (0.0, Lang::En);
    for entry in header.split(',') {
        let (tag, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let quality = parameters.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse).unwrap_or(0.0_f32);
        let primary = tag.trim().split('-').next().unwrap_or_default().to_ascii_lowercase();
        let language = match primary.as_str() {
            "ru" => Lang::Ru,
            "en" => Lang::En,
            _ => continue,
        };
        if quality > best.0 {
            best = (quality, language);
        }
    }
    best.1
}

/// The message of `problem`; `param` is the field it is about.
pub fn message(lang: Lang, problem: &Problem, param: Option<&str>) -> String {
    let field = param.unwrap_or("body");
    match lang {
        Lang::En => en::message(problem, field),
        Lang::Ru => ru::message(problem, field),
    }
}
