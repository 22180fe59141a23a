//! What chat templates expect of the Python around them: transformers' `tojson`, `raise_exception` and `strftime_now`,
//! Python's methods of strings and dictionaries, and Python's spelling of constants.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Environment, Error, ErrorKind, Value};
use serde_json::Value as Json;

use super::json::to_json;
use super::strftime::strftime;

/// Adds everything to an environment.
pub(super) fn install(environment: &mut Environment<'static>) {
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_formatter(|out, state, value| match value.kind() {
        ValueKind::None => out.write_str("None").map_err(Error::from),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }).map_err(Error::from),
        _ => minijinja::escape_formatter(out, state, value),
    });
    environment.add_filter("tojson", tojson);
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message))
    });
    environment.add_function("strftime_now", |format: String| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        strftime(&format, now.as_secs())
    });
}

/// transformers' filter: `json.dumps` without escaping what is not ASCII.
#[expect(clippy::needless_pass_by_value, reason = "the engine's signature for filters")]
fn tojson(value: &Value, options: Kwargs) -> Result<Value, Error> {
    let _ensure_ascii: Option<bool> = options.get("ensure_ascii")?;
    let indent: Option<usize> = options.get("indent")?;
    let sort_keys: Option<bool> = options.get("sort_keys")?;
    let _separators: Option<Value> = options.get("separators")?;
    options.assert_all_used()?;
    Ok(Value::from(to_json(value, indent, sort_keys.unwrap_or(false))?))
}

/// A JSON value as a template sees it, every string (keys included) passed through `shield`.
pub(super) fn value(json: &Json, shield: &impl Fn(&str) -> String) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64(), number.as_f64()) {
            (Some(integer), ..) => Value::from(integer),
            (_, Some(integer), _) => Value::from(integer),
            (.., float) => Value::from(float.unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(shield(text)),
        Json::Array(items) => items.iter().map(|item| value(item, shield)).collect(),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(key, item)| (shield(key), value(item, shield)))),
    }
}

/// One sentence for an error of the template engine.
pub(super) fn describe(error: &Error) -> String {
    let at = error.line().map(|line| format!(" (line {line} of the template)")).unwrap_or_default();
    match (error.kind(), error.detail()) {
        (ErrorKind::OutOfFuel, _) => format!("rendering it takes too many steps{at}"),
        (ErrorKind::InvalidOperation | ErrorKind::SyntaxError, Some(detail)) => format!("{detail}{at}"),
        (kind, Some(detail)) => format!("{kind}: {detail}{at}"),
        (kind, None) => format!("{kind}{at}"),
    }
}

/// transformers knows a block `{% generation %}…{% endgeneration %}` that marks the assistant's words for training and
/// renders its body; here it becomes an `if` that is always true.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let (tag, after) = tag.split_at(end);
        let word = tag.trim_start_matches(['{', '%', '-', '+']).trim_end_matches(['}', '%', '-', '+']).trim();
        match word {
            "generation" => out.push_str(&tag.replacen("generation", "if true", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endif", 1)),
            _ => out.push_str(tag),
        }
        rest = after;
    }
    out.push_str(rest);
    out
}
