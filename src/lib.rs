//! Steppe serves local language models in its own process. The binary is thin; this library is the program.

pub mod audit;
pub mod auth;
pub mod bench;
pub mod cache;
mod calendar;
pub mod cli;
pub mod config;
pub mod engine;
pub mod generate;
pub mod health;
pub mod kv_store;
pub mod lang;
pub mod ledger;
pub mod library;
pub mod limits;
pub mod manifest;
pub mod resilience;
pub mod server;
pub mod startup;
pub mod store;
pub mod telemetry;
pub mod text;
mod trust;
