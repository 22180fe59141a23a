//! Load generator for any OpenAI-compatible chat server, ours or a peer's: what its users would see under load.
//!
//! Knows the server only by its URL; must not import the engine, the server or anything else of this program.
//!
//! What the figures mean:
//! - TTFT: from sending a request to its first chunk with text;
//! - ITL: gap between two following text chunks, over all requests;
//! - decode tokens/s, per request: (completion tokens - 1) / (last - first text chunk);
//! - prefill tokens/s, per request: prompt tokens not served from the cache / TTFT;
//! - output tokens/s: completion tokens of all requests / wall time of the run.

mod client;
mod load;
mod prompt;
mod report;
mod stall;

pub use client::{Answer, Client, ClientOptions, RequestError};
pub use load::{Load, run};
pub use prompt::Prompts;
pub use report::{Report, Spread, table};
pub use stall::{Stall, StallReport, measure_stall};

#[cfg(test)]
mod tests;
