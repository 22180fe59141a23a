//! The answers to one request: each choice is followed by a small task of its own, so that stop strings end it at once
//! even when nobody reads. Dropping [`Answers`] ends the tasks, and with them the generations.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::answer_text::{AnswerText, Step, TokenText};
use super::{GenerateError, Prepared, ServedModel};
use crate::engine::{EngineError, FinishReason, Generation, TokenEvent, TokenUsage};
use crate::telemetry::ModelMetrics;

/// Why an answer is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// An end token or a stop string.
    Stop,
    /// `max_tokens` reached.
    Length,
}

/// One part of an answer, in this order: `Prompt`?, `Text`*, then `Done` or `Failed`.
#[derive(Debug, Clone, PartialEq)]
pub enum Piece {
    /// The prompt's tokens with their log-probabilities.
    Prompt(Vec<TokenText>),
    /// More text.
    Text {
        /// The text; may be empty while tokens are told.
        text: String,
        /// Tokens with log-probabilities, when asked for.
        tokens: Vec<TokenText>,
    },
    /// Complete.
    Done {
        /// Why.
        finish: Finish,
        /// What is counted: up to the token that completed a stop.
        usage: TokenUsage,
    },
    /// Ended early.
    Failed(GenerateError),
}

/// The merged answers of all choices.
#[derive(Debug)]
pub struct Answers {
    /// Requests ahead when it was taken.
    pub queue_position: usize,
    /// Wait expected then.
    pub expected_wait: Duration,
    receiver: mpsc::UnboundedReceiver<(usize, Piece)>,
}

impl Answers {
    /// The next piece of any choice; `None` after the last piece of the last one.
    pub async fn next(&mut self) -> Option<(usize, Piece)> {
        self.receiver.recv().await
    }

    pub(super) fn follow(
        generations: Vec<(Generation, Prepared)>,
        model: &Arc<ServedModel>,
        metrics: &ModelMetrics,
        arrival: Instant,
    ) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let queue_position = generations.iter().map(|(g, _)| g.queue_position).max().unwrap_or(0);
        let expected_wait = generations.iter().map(|(g, _)| g.expected_wait).max().unwrap_or_default();
        for (index, (generation, prepared)) in generations.into_iter().enumerate() {
            let choice = Choice {
                generation,
                text: AnswerText::new(Arc::clone(&model.tokenizer), prepared.stops, prepared.continuing),
                prompt: if prepared.request.prompt_logprobs.is_some() {
                    prepared.request.prompt.clone()
                } else {
                    Vec::new()
                },
                usage: TokenUsage { prompt_tokens: prepared.request.prompt.len(), ..TokenUsage::default() },
                model: Arc::clone(model),
                clock: Clock { arrival, last_token: None, metrics: metrics.clone(), ended: false },
            };
            tokio::spawn(choice.run(index, sender.clone()));
        }
        Self { queue_position, expected_wait, receiver }
    }
}

/// One answer on its way.
struct Choice {
    generation: Generation,
    text: AnswerText,
    prompt: Vec<u32>,
    usage: TokenUsage,
    model: Arc<ServedModel>,
    clock: Clock,
}

impl Choice {
    async fn run(mut self, index: usize, out: mpsc::UnboundedSender<(usize, Piece)>) {
        loop {
            let event = tokio::select! {
                biased;
                () = out.closed() => return,
                event = self.generation.next() => event.unwrap_or(TokenEvent::Failed(EngineError::Stopped)),
            };
            for piece in self.pieces(event) {
                let last = matches!(piece, Piece::Done { .. } | Piece::Failed(_));
                if out.send((index, piece)).is_err() || last {
                    return;
                }
            }
        }
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
        Piece::Done { finish, usage: self.usage }
    }

    fn failed(&mut self, error: GenerateError) -> Piece {
        self.clock.ended("error", self.usage);
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
    ended: bool,
}

impl Clock {
    fn started(&self, queue_wait: Duration) {
        self.metrics.queue_time.record(queue_wait);
    }

    fn token(&mut self) {
        let now = Instant::now();
        match self.last_token.replace(now) {
            None => self.metrics.time_to_first_token.record(now - self.arrival),
            Some(last) => self.metrics.inter_token_latency.record(now - last),
        }
    }

    fn ended(&mut self, reason: &'static str, usage: TokenUsage) {
        if !std::mem::replace(&mut self.ended, true) {
            self.metrics.ended(reason, self.arrival.elapsed(), usage.prompt_tokens, usage.completion_tokens);
        }
    }
}
