//! One answer on its way: events of the engine become pieces of text, stop strings end it at once, and its times are
//! measured.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer_text::{AnswerText, Step, TokenText};
use super::flight::{Ended, Flight, Told};
use super::{Finish, GenerateError, Piece, Prepared, ServedModel};
use crate::engine::{EngineError, FinishReason, Generation, TokenEvent, TokenUsage};
use crate::resilience::Permit;
use crate::telemetry::{GenerationTrace, ModelMetrics, Phases};

/// One answer on its way.
pub(super) struct Choice {
    generation: Generation,
    text: AnswerText,
    prompt: Vec<u32>,
    /// Nothing but the prompt is told and counted.
    only_prompt: bool,
    usage: TokenUsage,
    model: Arc<ServedModel>,
    clock: Clock,
    permit: Option<Permit>,
    trace: GenerationTrace,
    /// What was answered, where traces tell it.
    told: Option<String>,
}

/// Who hears of an answer besides those who watch.
pub(super) struct Reports {
    pub metrics: ModelMetrics,
    pub trace: GenerationTrace,
    /// Hears whether the model works, if this answer is the one to tell.
    pub permit: Option<Permit>,
}

impl Choice {
    pub fn new(
        generation: Generation,
        prepared: Prepared,
        model: &Arc<ServedModel>,
        reports: Reports,
        arrival: Instant,
    ) -> Self {
        let request = prepared.request;
        let Reports { metrics, trace, permit } = reports;
        Self {
            generation,
            text: AnswerText::new(Arc::clone(&model.tokenizer), prepared.stops, prepared.continuing),
            usage: TokenUsage { prompt_tokens: request.prompt.len(), ..TokenUsage::default() },
            prompt: if request.prompt_logprobs.is_some() { request.prompt } else { Vec::new() },
            only_prompt: prepared.only_prompt,
            model: Arc::clone(model),
            clock: Clock {
                arrival,
                queue_wait: None,
                first_token: None,
                last_token: None,
                started: None,
                metrics,
                ended: None,
            },
            permit,
            told: trace.tells_content().then(String::new),
            trace,
        }
    }

    /// Tells its pieces until the last one, or until nobody is left who wants them. Returns what the whole run has told,
    /// if this was the last answer of a run worth keeping.
    pub async fn run(mut self, index: usize, flight: Arc<Flight>) -> Option<Vec<Told>> {
        let mut abandoned = flight.abandoned();
        'events: loop {
            let event = tokio::select! {
                biased;
                _ = abandoned.wait_for(|abandoned| *abandoned) => break,
                event = self.generation.next() => event.unwrap_or(TokenEvent::Failed(EngineError::Stopped)),
            };
            for piece in self.pieces(event) {
                if let (Some(told), Piece::Text { text, .. }) = (&mut self.told, &piece) {
                    told.push_str(text);
                }
                let last = matches!(piece, Piece::Done { .. } | Piece::Failed(_));
                flight.tell(index, piece);
                if last {
                    break 'events;
                }
            }
        }
        let Clock { arrival, queue_wait, first_token, started, ended, .. } = self.clock;
        self.trace.answered(
            Phases {
                started: queue_wait.zip(started),
                first_token,
                finish: ended.unwrap_or("abort"),
                tokens: self.usage.completion_tokens,
            },
            self.told.take(),
        );
        let ended = Ended {
            // What has not started has used nothing.
            usage: queue_wait.map_or_else(TokenUsage::default, |_| self.usage),
            queue_wait,
            first_token: first_token.map(|at| at - arrival),
        };
        // The engine frees its blocks before anybody settles.
        drop(self);
        flight.ended(index, ended)
    }

    fn pieces(&mut self, event: TokenEvent) -> Vec<Piece> {
        match event {
            TokenEvent::Started { queue_wait, cached_tokens } => {
                self.usage.cached_tokens = cached_tokens;
                self.clock.started(queue_wait);
                Vec::new()
            }
            TokenEvent::Prompt(logprobs) => {
                let pairs = self.prompt.iter().zip(&logprobs);
                let token =
                    |(&id, logprob): (&u32, &Option<_>)| TokenText::new(&self.model.tokenizer, id, logprob.as_ref());
                vec![Piece::Prompt(pairs.map(token).collect())]
            }
            TokenEvent::Token { .. } if self.only_prompt => Vec::new(),
            TokenEvent::Token { id, logprob } => {
                self.usage.completion_tokens += 1;
                self.clock.token();
                let step = self.text.push(id, logprob.as_ref());
                let stopped = step.stopped;
                let mut pieces = text_piece(step);
                if stopped {
                    pieces.push(self.done(Finish::Stop));
                }
                pieces
            }
            TokenEvent::Finished { usage, .. } if self.only_prompt => {
                self.usage = TokenUsage { completion_tokens: 0, ..usage };
                vec![self.done(Finish::Length)]
            }
            TokenEvent::Finished { reason, usage } => {
                self.usage = usage;
                let step = self.text.finish();
                let stopped = step.stopped;
                let mut pieces = text_piece(step);
                pieces.push(match reason {
                    FinishReason::Deadline => self.failed(GenerateError::Deadline),
                    FinishReason::Length if !stopped => self.done(Finish::Length),
                    FinishReason::Length | FinishReason::Stop => self.done(Finish::Stop),
                });
                pieces
            }
            TokenEvent::Failed(error) => vec![self.failed(GenerateError::Engine(error))],
        }
    }

    fn done(&mut self, finish: Finish) -> Piece {
        self.clock.ended(if finish == Finish::Stop { "stop" } else { "length" }, self.usage);
        if let Some(permit) = self.permit.take() {
            permit.succeed();
        }
        Piece::Done { finish, usage: self.usage }
    }

    fn failed(&mut self, error: GenerateError) -> Piece {
        self.clock.ended("error", self.usage);
        // Values that are no numbers are the prompt's doing as well; a failed step is not.
        if let (GenerateError::Engine(EngineError::Step(_)), Some(permit)) = (&error, self.permit.take()) {
            permit.fail();
        }
        Piece::Failed(error)
    }
}

impl Drop for Choice {
    fn drop(&mut self) {
        self.clock.ended("abort", self.usage);
    }
}

fn text_piece(step: Step) -> Vec<Piece> {
    if step.text.is_empty() && step.tokens.is_empty() {
        return Vec::new();
    }
    vec![Piece::Text { text: step.text, tokens: step.tokens }]
}

/// Measures one answer.
struct Clock {
    arrival: Instant,
    last_token: Option<Instant>,
    metrics: ModelMetrics,
    /// None before it has left the queue.
    queue_wait: Option<Duration>,
    started: Option<Instant>,
    first_token: Option<Instant>,
    /// Why.
    ended: Option<&'static str>,
}

impl Clock {
    fn started(&mut self, queue_wait: Duration) {
        self.queue_wait = Some(queue_wait);
        self.started = Some(Instant::now());
        self.metrics.queue_time.record(queue_wait);
    }

    fn token(&mut self) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => {
                self.first_token = Some(now);
                self.metrics.time_to_first_token.record(now - self.arrival);
            }
            Some(last) => self.metrics.inter_token_latency.record(now - last),
        }
    }

    fn ended(&mut self, reason: &'static str, usage: TokenUsage) {
        if self.ended.replace(self.ended.unwrap_or(reason)).is_none() {
            self.metrics.ended(reason, self.arrival.elapsed(), usage.prompt_tokens, usage.completion_tokens);
        }
    }
}
