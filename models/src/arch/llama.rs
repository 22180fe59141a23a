//! Llama 2, 3, 3.1 and later (Touvron et al., 2023) and the models of their shape (SmolLM2, Saiga), and Mistral (Jiang
//! et al., 2023), which is Llama with a sliding window where its configuration states one.

use super::Variant;
use crate::{Result, layers::Step, weights::Weights};

/// The shared block as it is.
#[derive(Debug)]
pub(crate) struct Llama;

impl Variant for Llama {
    fn load(_: &mut Weights, _: usize) -> Result<Self> {
        Ok(Self)
    }

    fn adjust_qkv(&self, _: &Step) -> Result<()> {
        Ok(())
    }
}
