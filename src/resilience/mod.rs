//! Getting along with dependencies that fail: breakers that stop asking, retries that ask again. Must not know what the
//! dependencies are.

mod breaker;
mod retry;

pub use breaker::{Breaker, BreakerOpen, BreakerReport, BreakerSettings, BreakerState, Breakers, Permit};
pub use retry::Retry;
