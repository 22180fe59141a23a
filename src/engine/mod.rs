//! Continuous batching: any number of requests, one thread, one step loop. Sees token ids, never strings.
//!
//! Must not import `text`, `generate`, `server` or anything above; only `model_runner` and `chooser` may import Candle.

mod admission;
mod batch;
mod block_pool;
mod chooser;
mod core;
mod draft;
mod encoding;
mod executor;
mod handle;
mod mock_executor;
mod model_runner;
mod options;
mod pipeline;
mod prefix_cache;
mod replica;
mod request;
mod routing;
mod sampler;
mod scheduler;
mod sequence;
mod status;

pub use batch::{
    LogitRows, PENDING_TOKEN, SampledToken, SamplingSpec, SequenceOutput, SequenceStart, SequenceStep, StepBatch,
    StepOutput,
};
pub use encoding::{ENCODER_TOKENS_PER_STEP, EncodeError, EncoderShape};
pub use executor::Executor;
pub use handle::{Engine, EngineHandle};
pub use mock_executor::{MockExecutor, MockOptions, StepCost};
pub use model_runner::ModelRunner;
pub use options::EngineOptions;
pub use request::{
    CacheScope, EngineError, EngineRequest, FinishReason, Generation, SamplingParams, Standing, SubmitError,
    TokenEvent, TokenLogprob, TokenUsage,
};
pub use sampler::{NotFinite, SamplerState, Scratch as SamplerScratch};
pub use status::{EngineState, EngineStats};

#[cfg(test)]
mod tests;
