//! HTTP only: routes, bodies, errors, events. What an answer is made of is `generate`'s business.

mod access;
mod admin;
mod ask;
mod billing;
mod body;
mod checks;
mod client;
mod docs;
mod envelope;
mod error;
mod figures;
pub mod fuzz;
mod health;
mod mismatch;
mod openai;
mod problem;
mod query;
mod requests;
mod router;
mod serve;
mod sse;
mod stall;
mod state;
mod terms;
mod tls;
mod token;
mod tokens;
mod trail;
mod words;

pub use docs::ApiDoc;
pub use openai::unix_time;
pub use router::router;
pub use serve::serve;
pub use state::{AppState, Phase};
pub use tls::Tls;
