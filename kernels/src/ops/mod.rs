//! One operation per file: what it computes, its plain reference, its fast paths, its property test.

mod add_bias;
pub(crate) mod attention;
mod embed;
mod keep_rows;
pub(crate) mod linear;
mod receive;
pub(crate) mod residual;
mod rms_norm;
pub(crate) mod rope;
mod rope_and_store;
mod silu_mul;
