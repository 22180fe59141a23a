//! Memory that attention works in on a card, between the blocks that share a sum.

use std::ops::Range;

use candle_core::{DType, Tensor};

use super::attention_shape::AttentionShape;
use super::plan::Room;
use super::{Address, CardInfo, Gpu};
use crate::{Error, Result};

/// Partial results of attention take this part of the card's memory, within limits of bytes.
const PARTIALS_PART: usize = 512;
const PARTIALS_BYTES: Range<usize> = 16 << 20..256 << 20;

/// Memory that attention works in: one for all tables whose steps follow each other.
#[derive(Debug, Clone)]
pub(crate) struct AttentionMemory {
    partials: Tensor,
    counters: Tensor,
}

impl AttentionMemory {
    /// Bytes that it takes on this card.
    pub fn bytes(card: &CardInfo) -> usize {
        (card.total_memory / PARTIALS_PART).clamp(PARTIALS_BYTES.start, PARTIALS_BYTES.end)
    }

    /// Memory for attention of this shape.
    ///
    /// # Errors
    /// When the card has none left.
    pub fn new(gpu: &Gpu, shape: &AttentionShape) -> Result<Self> {
        let partials = Tensor::zeros(Self::bytes(gpu.info()) / size_of::<f32>(), DType::F32, gpu.device())?;
        let counters = Tensor::zeros(gpu.attention_blocks(shape), DType::U32, gpu.device())?;
        Ok(Self { partials, counters })
    }

    /// Of partial results, and of counters that are 0 between launches, as many as plans within `room` may need.
    ///
    /// # Errors
    /// When it was made for another shape, and is too small.
    pub(super) fn addresses(&self, gpu: &Gpu, room: &Room) -> Result<(Address, Address)> {
        let &Room { blocks, partials, .. } = room;
        if self.counters.elem_count() < blocks || self.partials.elem_count() < 4 * partials {
            return Err(Error::shape("attention", "its memory was made for another shape"));
        }
        Ok((gpu.address(&self.partials)?, gpu.address(&self.counters)?))
    }
}
