//! The layers that architectures are put together from. Each holds its packed weights and works on the workspaces of a
//! [`Step`]; none knows which architecture it serves.

mod attention;
mod feed_forward;
mod norm;
mod step;
mod vocabulary;

pub(crate) use attention::Attention;
pub(crate) use feed_forward::FeedForward;
pub(crate) use norm::RmsNorm;
pub(crate) use step::{Step, kept_spans};
pub(crate) use vocabulary::{Embedding, Head};
