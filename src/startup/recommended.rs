//! The sampling that a model's own files recommend: `generation_config.json`, or the keys of a GGUF file.

use std::path::Path;

use models::ModelFile;
use serde_json::{Map, Value as Json};

use crate::manifest::SamplingDefaults;

/// Larger files are no generation config.
const MAX_BYTES: u64 = 1 << 20;

/// What the files recommend; a value outside the API's range is no recommendation.
pub fn sampling(file: &ModelFile) -> SamplingDefaults {
    if file.path().is_dir() {
        return read_object(&file.path().join("generation_config.json")).map(|c| of_config(&c)).unwrap_or_default();
    }
    let metadata = file.metadata();
    of_gguf(|key| metadata.iter().find(|(known, _)| known == key).map(|(_, value)| value.as_str()))
}

fn read_object(path: &Path) -> Option<Map<String, Json>> {
    if std::fs::metadata(path).ok()?.len() > MAX_BYTES {
        return None;
    }
    serde_json::from_slice(&std::fs::read(path).ok()?).ok()
}

fn of_config(config: &Map<String, Json>) -> SamplingDefaults {
    if config.get("do_sample") == Some(&Json::Bool(false)) {
        return SamplingDefaults::default();
    }
    within_ranges(|name| config.get(name).and_then(Json::as_f64))
}

fn of_gguf<'a>(value: impl Fn(&str) -> Option<&'a str>) -> SamplingDefaults {
    within_ranges(|name| {
        let key = match name {
            "temperature" => "temp",
            "repetition_penalty" => "penalty_repeat",
            other => other,
        };
        value(&format!("general.sampling.{key}"))?.parse().ok()
    })
}

fn within_ranges(number: impl Fn(&str) -> Option<f64>) -> SamplingDefaults {
    let within = |name: &str, low: f64, high: f64| {
        number(name).filter(|value| (low..=high).contains(value)).map(|value| value as f32)
    };
    SamplingDefaults {
        temperature: within("temperature", 0.0, 2.0),
        top_k: within("top_k", 0.0, f64::from(u32::MAX)).map(|k| k as u32),
        top_p: within("top_p", 0.0, 1.0),
        min_p: within("min_p", 0.0, 1.0),
        typical_p: within("typical_p", 0.0, 1.0),
        repetition_penalty: within("repetition_penalty", 0.01, 10.0),
        ..SamplingDefaults::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_config_is_read_and_nonsense_passed_over() {
        let config =
            serde_json::json!({"do_sample": true, "temperature": 0.6, "top_p": 7, "top_k": "x", "eos_token_id": 2});
        let expected = SamplingDefaults { temperature: Some(0.6), ..SamplingDefaults::default() };
        assert_eq!(of_config(config.as_object().unwrap_or(&Map::new())), expected);
        let greedy = serde_json::json!({"do_sample": false, "temperature": 0.6});
        assert_eq!(of_config(greedy.as_object().unwrap_or(&Map::new())), SamplingDefaults::default());
    }

    #[test]
    fn gguf_keys_have_names_of_their_own() {
        let value = |key: &str| match key {
            "general.sampling.temp" => Some("0.7"),
            "general.sampling.top_k" => Some("20"),
            "general.sampling.penalty_repeat" => Some("1.05"),
            _ => None,
        };
        let expected = SamplingDefaults {
            temperature: Some(0.7),
            top_k: Some(20),
            repetition_penalty: Some(1.05),
            ..SamplingDefaults::default()
        };
        assert_eq!(of_gguf(value), expected);
    }
}
