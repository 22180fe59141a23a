//! What the sections share when they judge values: ranges, units, "0 means automatic", and errors that name the place.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::ConfigError;

/// Names the place of a value for messages.
pub(super) type Origin<'a> = &'a dyn Fn(&str) -> String;

/// A number of seconds within a range.
pub(super) fn seconds(
    key: &'static str,
    value: u64,
    range: RangeInclusive<u64>,
    origin: Origin,
) -> Result<Duration, ConfigError> {
    within(key, value, range, origin).map(Duration::from_secs)
}

/// A number within a range.
pub(super) fn within<T>(key: &'static str, value: T, range: RangeInclusive<T>, origin: Origin) -> Result<T, ConfigError>
where
    T: PartialOrd + std::fmt::Display,
{
    if range.contains(&value) {
        return Ok(value);
    }
    Err(invalid(key, origin, format!("must be from {} to {}, not {value}", range.start(), range.end())))
}

/// An error about a value.
pub(super) fn invalid(key: &'static str, origin: Origin, problem: String) -> ConfigError {
    ConfigError::Value { key, origin: origin(key), problem }
}

/// 0 stands for "automatic".
pub(super) fn automatic(value: usize) -> Option<usize> {
    Some(value).filter(|value| *value != 0)
}
