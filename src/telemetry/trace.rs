//! What is found out about a request on its way, for its line in the log and for its spans. Span and attribute names are
//! those of OpenTelemetry's conventions for HTTP and generative AI, version 1.38. Prompts and answers are told only where
//! the configuration asks for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use opentelemetry::propagation::{Extractor, TextMapPropagator as _};
use opentelemetry::trace::{SpanBuilder, SpanKind, Status, TraceContextExt as _};
use opentelemetry::{Array, Context, KeyValue, StringValue, Value};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;

/// What is known of a request when it ends.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Notes {
    pub user_id: Option<String>,
    pub model: Option<String>,
    pub cache: Option<&'static str>,
    pub prompt_tokens: Option<u64>,
    pub completion_tokens: Option<u64>,
}

/// Where spans go; nowhere by default.
#[derive(Debug, Clone, Default)]
pub(super) struct Spans {
    pub tracer: Option<SdkTracer>,
    pub capture_content: bool,
}

/// A request on its way. Cheap to clone; clones are the same request.
#[derive(Debug, Clone, Default)]
pub struct RequestTrace {
    notes: Arc<Mutex<Notes>>,
    spans: Spans,
    /// With the request's span, where there is one.
    context: Context,
}

/// What the model is asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// `chat` or `text_completion`.
    pub operation: &'static str,
    /// The model's name.
    pub model: String,
    /// Answers to each prompt.
    pub choices: usize,
    /// The seed, if one is given.
    pub seed: Option<u64>,
    /// Sampling temperature, if the request states it.
    pub temperature: Option<f32>,
    /// Share of probability that is sampled from, if the request states it.
    pub top_p: Option<f32>,
    /// Tokens of an answer at most, if the request states it.
    pub max_tokens: Option<usize>,
}

/// What a generation has come to.
#[derive(Debug, Clone, Copy, Default)]
pub struct Used {
    /// Tokens of the prompts.
    pub prompt_tokens: u64,
    /// Of these, tokens from a cache.
    pub cached_tokens: u64,
    /// Tokens of the answers.
    pub completion_tokens: u64,
    /// What the prompt cache did.
    pub cache: &'static str,
    /// `completed`, `cancelled` or `failed`.
    pub outcome: &'static str,
}

/// When one answer was where.
#[derive(Debug, Clone, Copy)]
pub struct Phases {
    /// It left the queue after so long, at this moment.
    pub started: Option<(Duration, Instant)>,
    /// Its first token.
    pub first_token: Option<Instant>,
    /// Why it ended.
    pub finish: &'static str,
    /// Tokens of the answer.
    pub tokens: usize,
}

/// A generation on its way. Cheap to clone; its span ends with [`Self::end`] or with the last clone.
#[derive(Debug, Clone, Default)]
pub struct GenerationTrace {
    request: RequestTrace,
    context: Context,
    finishes: Arc<Mutex<Vec<&'static str>>>,
    answers: Arc<Mutex<Vec<String>>>,
}

impl Spans {
    /// A request has come, with these headers.
    pub fn request(&self, headers: &dyn Extractor, method: &str, route: &str, request_id: &str) -> RequestTrace {
        let Some(tracer) = &self.tracer else { return RequestTrace::default() };
        let parent = TraceContextPropagator::new().extract_with_context(&Context::new(), headers);
        let attributes = [
            KeyValue::new("http.request.method", method.to_owned()),
            KeyValue::new("http.route", route.to_owned()),
            KeyValue::new("steppe.request_id", request_id.to_owned()),
        ];
        let span = SpanBuilder::from_name(format!("{method} {route}")).with_kind(SpanKind::Server);
        let span = span.with_attributes(attributes).start_with_context(tracer, &parent);
        RequestTrace { notes: Arc::default(), spans: self.clone(), context: parent.with_span(span) }
    }
}

impl RequestTrace {
    /// What is known so far.
    pub fn notes(&self) -> MutexGuard<'_, Notes> {
        self.notes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether prompts and answers are told.
    fn tells_content(&self) -> bool {
        self.spans.capture_content && self.context.span().span_context().is_sampled()
    }

    /// The model is asked; `prompt` is called where prompts are told.
    pub fn generation(&self, asked: Asked, prompt: impl FnOnce() -> String) -> GenerationTrace {
        self.notes().model = Some(asked.model.clone());
        let Some(tracer) = &self.spans.tracer else {
            return GenerationTrace { request: self.clone(), ..GenerationTrace::default() };
        };
        let Asked { operation, model, choices, seed, temperature, top_p, max_tokens } = asked;
        let name = format!("{operation} {model}");
        let mut attributes = vec![
            KeyValue::new("gen_ai.operation.name", operation),
            KeyValue::new("gen_ai.provider.name", "steppe"),
            KeyValue::new("gen_ai.system", "steppe"),
            KeyValue::new("gen_ai.request.model", model.clone()),
            KeyValue::new("gen_ai.response.model", model),
        ];
        if choices > 1 {
            attributes.push(KeyValue::new("gen_ai.request.choice.count", choices as i64));
        }
        attributes.extend(seed.map(|seed| KeyValue::new("gen_ai.request.seed", seed as i64)));
        attributes.extend(max_tokens.map(|most| KeyValue::new("gen_ai.request.max_tokens", most as i64)));
        let float = |key, value: Option<f32>| value.map(|value| KeyValue::new(key, f64::from(value)));
        attributes.extend(float("gen_ai.request.temperature", temperature));
        attributes.extend(float("gen_ai.request.top_p", top_p));
        if self.tells_content() {
            attributes.push(KeyValue::new("gen_ai.input.messages", prompt()));
        }
        // The model is in this process: no client's call.
        let span = SpanBuilder::from_name(name).with_kind(SpanKind::Internal).with_attributes(attributes);
        let context = self.context.with_span(span.start_with_context(tracer, &self.context));
        GenerationTrace { request: self.clone(), context, ..GenerationTrace::default() }
    }

    /// The answer has been sent, or the client has left.
    pub fn end(&self, status: u16) {
        let span = self.context.span();
        if !span.span_context().is_valid() {
            return;
        }
        span.set_attribute(KeyValue::new("http.response.status_code", i64::from(status)));
        if let Some(user_id) = &self.notes().user_id {
            span.set_attribute(KeyValue::new("user.id", user_id.clone()));
        }
        if status >= 500 {
            span.set_status(Status::error(""));
        }
        span.end();
    }
}

impl GenerationTrace {
    /// Whether prompts and answers are told.
    pub fn tells_content(&self) -> bool {
        self.request.tells_content()
    }

    /// One answer has ended: its phases become spans. `text` is the answer, where answers are told.
    pub fn answered(&self, phases: Phases, text: Option<String>) {
        let Some(tracer) = &self.request.spans.tracer else { return };
        lock(&self.finishes).push(phases.finish);
        lock(&self.answers).extend(text);
        let now = Instant::now();
        let child = |name: &'static str, from: Instant, to: Instant, attributes: Vec<KeyValue>| {
            let span = SpanBuilder::from_name(name).with_start_time(wall(from)).with_attributes(attributes);
            let span = span.start_with_context(tracer, &self.context);
            opentelemetry::trace::Span::end_with_timestamp(&mut { span }, wall(to));
        };
        let Some((waited, started)) = phases.started else { return };
        child("queue", started.checked_sub(waited).unwrap_or(started), started, Vec::new());
        let Some(first) = phases.first_token else { return child("prefill", started, now, Vec::new()) };
        child("prefill", started, first, Vec::new());
        child("decode", first, now, vec![KeyValue::new("gen_ai.usage.output_tokens", phases.tokens as i64)]);
    }

    /// It has come to this.
    pub fn end(&self, used: Used) {
        let Used { prompt_tokens, cached_tokens, completion_tokens, cache, outcome } = used;
        {
            let mut notes = self.request.notes();
            notes.cache = Some(cache);
            (notes.prompt_tokens, notes.completion_tokens) = (Some(prompt_tokens), Some(completion_tokens));
        }
        let span = self.context.span();
        if !span.span_context().is_valid() {
            return;
        }
        let finishes: Vec<StringValue> = lock(&self.finishes).drain(..).map(StringValue::from).collect();
        span.set_attributes([
            KeyValue::new("gen_ai.usage.input_tokens", prompt_tokens as i64),
            KeyValue::new("gen_ai.usage.output_tokens", completion_tokens as i64),
            KeyValue::new("gen_ai.usage.cache_read.input_tokens", cached_tokens as i64),
            KeyValue::new("gen_ai.response.finish_reasons", Value::Array(Array::String(finishes))),
            KeyValue::new("steppe.cache", cache),
            KeyValue::new("steppe.outcome", outcome),
        ]);
        if self.request.tells_content() {
            span.set_attribute(KeyValue::new("gen_ai.output.messages", lock(&self.answers).join("\n\n")));
        }
        if outcome == "failed" {
            span.set_attribute(KeyValue::new("error.type", "engine"));
            span.set_status(Status::error("the generation failed"));
        }
        span.end();
    }

    /// It was refused, for this kind of reason.
    pub fn refused(&self, kind: &'static str) {
        let span = self.context.span();
        if span.span_context().is_valid() {
            span.set_attribute(KeyValue::new("error.type", kind));
            span.set_status(Status::error("refused"));
            span.end();
        }
    }
}

fn lock<T>(list: &Mutex<T>) -> MutexGuard<'_, T> {
    list.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The time on the wall when this was.
fn wall(at: Instant) -> SystemTime {
    SystemTime::now() - at.elapsed()
}
