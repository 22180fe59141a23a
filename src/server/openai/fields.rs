//! The fields that every generating endpoint shares, and their validation. `docs.rs` shows these same types.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::RangeInclusive;

use serde::Deserialize;
use serde::de::IgnoredAny;
use utoipa::ToSchema;

use crate::generate::GenerateRequest;
use crate::generate::MAX_STOP_STRINGS;
use crate::manifest::SamplingDefaults;
use crate::server::error::ApiError;
use crate::server::problem::{Problem, Reason};

/// A field that is known but not done here: any value but null is refused.
pub type Unbuilt = Option<IgnoredAny>;

/// Most alternatives reported for a token.
pub const MAX_LOGPROBS: u64 = 20;

/// How to generate. Fields beyond OpenAI's: `top_k`, `min_p`, `typical_p`, `repetition_penalty`, `ignore_eos`,
/// `min_tokens`, `priority`.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct GenerationFields {
    /// Absent: the default model.
    pub model: Option<String>,
    /// Tokens of the answer at most. Absent: the configured default or the room that is left in the context.
    #[schema(minimum = 1)]
    pub max_tokens: Option<u64>,
    /// The same under its newer name.
    #[schema(minimum = 1)]
    pub max_completion_tokens: Option<u64>,
    /// 0 always takes the likeliest token.
    #[schema(minimum = 0, maximum = 2)]
    pub temperature: Option<f32>,
    /// Nucleus sampling; 1 is off.
    #[schema(minimum = 0, maximum = 1)]
    pub top_p: Option<f32>,
    /// Keep the k likeliest tokens; 0 and -1 are off.
    #[schema(minimum = -1)]
    pub top_k: Option<i64>,
    /// Keep tokens at least this share as likely as the likeliest; 0 is off.
    #[schema(minimum = 0, maximum = 1)]
    pub min_p: Option<f32>,
    /// Locally typical sampling; 1 is off.
    #[schema(minimum = 0, maximum = 1)]
    pub typical_p: Option<f32>,
    /// Makes tokens of prompt and answer less likely; 1 is off.
    #[schema(minimum = 0.01, maximum = 10)]
    pub repetition_penalty: Option<f32>,
    /// Subtracted for every time a token is in the answer.
    #[schema(minimum = -2, maximum = 2)]
    pub frequency_penalty: Option<f32>,
    /// Subtracted once if a token is in the answer.
    #[schema(minimum = -2, maximum = 2)]
    pub presence_penalty: Option<f32>,
    /// Token ids with what is added to their logits, -100 to 100.
    pub logit_bias: Option<BTreeMap<String, f32>>,
    /// Makes the answer reproducible.
    pub seed: Option<i64>,
    /// The answer ends before any of these.
    pub stop: Option<OneOrMany>,
    /// End tokens are not chosen before so many tokens.
    pub min_tokens: Option<u64>,
    /// End tokens do not end the answer.
    pub ignore_eos: Option<bool>,
    /// Answers to give.
    #[schema(minimum = 1)]
    pub n: Option<u64>,
    /// Higher goes first.
    #[schema(minimum = -100, maximum = 100)]
    pub priority: Option<i64>,
    /// Answer as server-sent events.
    pub stream: Option<bool>,
    /// Only with `stream`.
    pub stream_options: Option<StreamOptions>,
    /// Whose turn in the queue it is, where nobody need say who asks or one asks for others.
    pub user: Option<String>,
    /// For whom one asks and who pays: oneself, or another for those who may act for others.
    pub user_id: Option<String>,
    #[schema(ignore)]
    session_id: Unbuilt,
    #[schema(ignore)]
    guided_regex: Unbuilt,
    #[schema(ignore)]
    guided_grammar: Unbuilt,
    #[schema(ignore)]
    guided_json: Unbuilt,
    #[schema(ignore)]
    guided_choice: Unbuilt,
}

/// A string or a list of strings.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a string or a list of strings")]
pub enum OneOrMany {
    /// One.
    One(String),
    /// Several.
    Many(Vec<String>),
}

impl From<OneOrMany> for Vec<String> {
    fn from(value: OneOrMany) -> Self {
        match value {
            OneOrMany::One(one) => vec![one],
            OneOrMany::Many(many) => many,
        }
    }
}

/// How to stream.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct StreamOptions {
    /// One more chunk at the end carries `usage`.
    pub include_usage: Option<bool>,
}

/// What the handler does besides generating.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Options {
    /// The model asked for.
    pub model: Option<String>,
    /// Answers per prompt.
    pub choices: usize,
    /// As events.
    pub stream: bool,
    /// With a last chunk of usage.
    pub include_usage: bool,
    /// Whose turn it is, by the request's own word.
    pub user: Option<String>,
    /// For whom it is asked, by the request's own word.
    pub user_id: Option<String>,
}

impl GenerationFields {
    /// Writes the validated fields into `request`; returns what is left for the handler.
    pub fn apply(self, request: &mut GenerateRequest) -> Result<Options, ApiError> {
        self.refuse_unbuilt()?;
        request.max_tokens = self.max_tokens()?;
        request.sampling = self.sampling()?;
        request.logit_bias = bias(self.logit_bias.as_ref())?;
        request.seed = self.seed.map(i64::cast_unsigned);
        request.min_tokens = self.min_tokens.unwrap_or(0).try_into().unwrap_or(usize::MAX);
        if request.max_tokens.is_some_and(|max| request.min_tokens > max) {
            return Err(ApiError::invalid("min_tokens", Reason::Above("max_tokens")));
        }
        request.ignore_eos = self.ignore_eos.unwrap_or(false);
        request.priority = within("priority", self.priority, -100..=100)?.unwrap_or(0) as i32;
        request.stop = self.stop.map(Vec::from).unwrap_or_default();
        if request.stop.len() > MAX_STOP_STRINGS {
            return Err(ApiError::invalid("stop", Reason::TooMany(MAX_STOP_STRINGS)));
        }
        if request.stop.iter().any(String::is_empty) {
            return Err(ApiError::invalid("stop", Reason::Empty));
        }
        let stream = self.stream.unwrap_or(false);
        if self.stream_options.is_some() && !stream {
            return Err(ApiError::invalid("stream_options", Reason::Needs("stream")));
        }
        Ok(Options {
            model: self.model,
            choices: within("n", self.n, 1..=1024)?.unwrap_or(1) as usize,
            stream,
            include_usage: self.stream_options.and_then(|options| options.include_usage).unwrap_or(false),
            user: self.user,
            user_id: self.user_id,
        })
    }

    fn refuse_unbuilt(&self) -> Result<(), ApiError> {
        refuse_unbuilt(&[
            ("session_id", &self.session_id),
            ("guided_regex", &self.guided_regex),
            ("guided_grammar", &self.guided_grammar),
            ("guided_json", &self.guided_json),
            ("guided_choice", &self.guided_choice),
        ])
    }

    fn max_tokens(&self) -> Result<Option<usize>, ApiError> {
        let (name, value) = match (self.max_tokens, self.max_completion_tokens) {
            (Some(old), Some(new)) if old != new => {
                return Err(ApiError::invalid("max_tokens", Reason::Excludes("max_completion_tokens")));
            }
            (old, None) => ("max_tokens", old),
            (_, new) => ("max_completion_tokens", new),
        };
        if value == Some(0) {
            return Err(ApiError::invalid(name, Reason::Below(1)));
        }
        // No context is larger, and sums with it stay in range.
        Ok(value.map(|value| value.min(i64::MAX as u64) as usize))
    }

    fn sampling(&self) -> Result<SamplingDefaults, ApiError> {
        let top_k = within("top_k", self.top_k, -1..=i64::from(u32::MAX))?;
        Ok(SamplingDefaults {
            temperature: within("temperature", self.temperature, 0.0..=2.0)?,
            top_k: top_k.map(|k| k.max(0) as u32),
            top_p: within("top_p", self.top_p, 0.0..=1.0)?,
            min_p: within("min_p", self.min_p, 0.0..=1.0)?,
            typical_p: within("typical_p", self.typical_p, 0.0..=1.0)?,
            repetition_penalty: within("repetition_penalty", self.repetition_penalty, 0.01..=10.0)?,
            frequency_penalty: within("frequency_penalty", self.frequency_penalty, -2.0..=2.0)?,
            presence_penalty: within("presence_penalty", self.presence_penalty, -2.0..=2.0)?,
        })
    }
}

fn bias(given: Option<&BTreeMap<String, f32>>) -> Result<Vec<(u32, f32)>, ApiError> {
    let Some(given) = given else { return Ok(Vec::new()) };
    let pair = |(key, &value): (&String, &f32)| {
        let id = key.parse().map_err(|_| ApiError::invalid("logit_bias", Reason::NotATokenId(key.clone())))?;
        let value = within(&format!("logit_bias.{key}"), Some(value), -100.0..=100.0)?;
        Ok((id, value.unwrap_or(0.0)))
    };
    given.iter().map(pair).collect()
}

/// Refuses the first of these fields that has a value.
pub fn refuse_unbuilt(fields: &[(&str, &Unbuilt)]) -> Result<(), ApiError> {
    match fields.iter().find(|(_, value)| value.is_some()) {
        Some((name, _)) => Err(ApiError::about(*name, Problem::NotBuilt)),
        None => Ok(()),
    }
}

/// Checks a range; names the field where it fails.
pub fn within<T: PartialOrd + Copy + AsF64>(
    param: &str,
    value: Option<T>,
    range: RangeInclusive<T>,
) -> Result<Option<T>, ApiError> {
    match value {
        Some(value) if !range.contains(&value) => {
            Err(ApiError::about(param, Problem::OutOfRange { low: range.start().as_f64(), high: range.end().as_f64() }))
        }
        other => Ok(other),
    }
}

/// The key of fair queueing for a user's name.
pub fn user_key(user: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    user.hash(&mut hasher);
    hasher.finish()
}

/// Numbers that a message can show.
pub trait AsF64 {
    /// The value for people.
    fn as_f64(&self) -> f64;
}

impl AsF64 for f32 {
    fn as_f64(&self) -> f64 {
        // Through the shortest decimal form, so that 0.01 is shown as such.
        self.to_string().parse().unwrap_or_else(|_| f64::from(*self))
    }
}

impl AsF64 for i64 {
    fn as_f64(&self) -> f64 {
        *self as f64
    }
}

impl AsF64 for u64 {
    fn as_f64(&self) -> f64 {
        *self as f64
    }
}
