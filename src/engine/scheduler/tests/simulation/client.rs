//! One who asks, and what it has been told.

use std::time::Duration;

use tokio::sync::mpsc;

use crate::engine::{EngineError, EngineRequest, FinishReason, TokenEvent, TokenUsage};

pub struct Client {
    pub request: EngineRequest,
    pub submitted: Duration,
    pub started: Option<Duration>,
    pub expected_wait: Duration,
    pub cached_tokens: usize,
    pub token_times: Vec<Duration>,
    pub tokens: Vec<u32>,
    pub end: Option<End>,
    /// The log-probabilities of the prompt have come.
    prompt_told: bool,
    /// Drops the receiver once so many tokens have come.
    pub leaves_after: Option<usize>,
    events: Option<mpsc::UnboundedReceiver<TokenEvent>>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum End {
    Finished(FinishReason, TokenUsage),
    Failed(EngineError),
    Left,
}

impl Client {
    pub fn new(
        request: EngineRequest,
        submitted: Duration,
        expected_wait: Duration,
        events: mpsc::UnboundedReceiver<TokenEvent>,
    ) -> Self {
        Self {
            request,
            submitted,
            started: None,
            expected_wait,
            cached_tokens: 0,
            token_times: Vec::new(),
            tokens: Vec::new(),
            end: None,
            prompt_told: false,
            leaves_after: None,
            events: Some(events),
        }
    }

    /// Goes away.
    pub fn leave(&mut self) {
        if self.events.take().is_some() && self.end.is_none() {
            self.end = Some(End::Left);
        }
    }

    /// Hears what there is. Whether more is to come.
    pub fn poll(&mut self, time: Duration) -> bool {
        while let Some(event) = self.events.as_mut().and_then(|events| events.try_recv().ok()) {
            self.take(event, time);
            if self.leaves_after == Some(self.tokens.len()) {
                self.leave();
            }
        }
        self.end.is_none()
    }

    fn take(&mut self, event: TokenEvent, time: Duration) {
        assert!(self.end.is_none(), "an event after the last one");
        match event {
            TokenEvent::Started { cached_tokens, queue_wait } => {
                assert!(self.started.is_none(), "started twice");
                self.started = Some(self.submitted + queue_wait);
                self.cached_tokens = cached_tokens;
            }
            TokenEvent::Prompt(logprobs) => {
                assert!(!self.prompt_told && self.tokens.is_empty());
                assert_eq!(logprobs.len(), self.request.prompt.len());
                self.prompt_told = true;
            }
            TokenEvent::Token { id, .. } => {
                assert!(self.started.is_some());
                assert_eq!(self.prompt_told, self.request.prompt_logprobs.is_some());
                self.tokens.push(id);
                self.token_times.push(time);
            }
            TokenEvent::Finished { reason, usage } => self.end = Some(End::Finished(reason, usage)),
            TokenEvent::Failed(error) => self.end = Some(End::Failed(error)),
        }
    }

    pub fn time_to_first_token(&self) -> Duration {
        self.token_times[0].saturating_sub(self.submitted)
    }

    /// The longest time between two tokens within a span of time.
    pub fn worst_gap(&self, from: Duration, to: Duration) -> Duration {
        let gaps = self.token_times.windows(2).filter(|pair| pair[1] >= from && pair[0] <= to);
        gaps.map(|pair| pair[1].saturating_sub(pair[0])).max().unwrap_or_default()
    }
}
