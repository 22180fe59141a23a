//! Continuous batching: any number of requests, one thread, one step loop. Sees token ids, never strings.
//!
//! Must not import `text`, `generate`, `server` or anything above; only `model_runner` and `sampler` may import Candle.

mod request;

pub use request::{
    CacheScope, EngineError, EngineRequest, FinishReason, Generation, SamplingParams, SubmitError, TokenEvent,
    TokenLogprob, TokenUsage,
};
