//! The API over sockets, with the mock executor in the model's place: every endpoint, every refusal, every header.
//! `real.rs` alone runs the demo model.
#![expect(clippy::unwrap_used, reason = "tests")]

mod access;
mod audit;
mod caching;
mod chat;
mod collector;
mod completions;
mod config;
mod connections;
mod crash;
mod directory;
mod figures;
mod fuzz;
mod harness;
mod health;
mod http;
mod issuer;
mod killed;
mod lifecycle;
mod limits;
mod loading;
mod money;
mod operation;
mod poison;
mod process;
mod real;
mod refusals;
mod replicas;
mod similar;
mod slapd;
mod streams;
mod telemetry;
mod telling;
mod tls;

#[path = "../../src/kv_store/testing.rs"]
#[expect(dead_code, reason = "the unit tests use the rest")]
mod testing;
