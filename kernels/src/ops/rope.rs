//! Rotary position embedding (Su et al., 2021): which elements pair up, how fast each pair turns, and the cosines and
//! sines of a step's positions, computed once per step in f64. Must not know the cache.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::Span;

/// Which elements of a head form a rotated pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RopeStyle {
    /// Neighbours `(2i, 2i + 1)`: GGUF files of architecture `llama`, whose q and k rows are permuted for it.
    Interleaved,
    /// Halves `(i, i + head_dim / 2)`: safetensors of all architectures here, GGUF of `qwen2` and `qwen3`.
    Neox,
}

/// Angular frequencies of the rotation, one per pair. Cheap to clone; clones share what was computed for a step.
#[derive(Debug, Clone)]
pub struct RopeTable {
    style: RopeStyle,
    inverse_frequencies: Arc<[f32]>,
    magnitude: f32,
    step: Arc<Mutex<StepAngles>>,
}

/// Cosines and sines of the rows of the last step seen: every layer of a step asks for the same ones.
#[derive(Debug, Default)]
pub(crate) struct StepAngles {
    /// `(first position, rows)` of each span.
    ranges: Vec<(usize, usize)>,
    /// `(rows, 2, head_dim / 2)`: cosines, then sines.
    values: Vec<f32>,
}

impl RopeTable {
    /// A table of `(head_dim / 2)` frequencies in radians per position, any scaling (linear, Llama 3.1's) already
    /// applied. `magnitude` is a factor on cosine and sine (YaRN's attention factor); 1 otherwise.
    pub fn new(style: RopeStyle, inverse_frequencies: Vec<f32>, magnitude: f32) -> Self {
        Self { style, inverse_frequencies: inverse_frequencies.into(), magnitude, step: Arc::default() }
    }

    /// How pairs are formed.
    pub fn style(&self) -> RopeStyle {
        self.style
    }

    /// Radians per position, `(head_dim / 2)` values.
    pub fn inverse_frequencies(&self) -> &[f32] {
        &self.inverse_frequencies
    }

    /// The factor on cosine and sine.
    pub(crate) fn magnitude(&self) -> f32 {
        self.magnitude
    }

    /// Cosines and sines of all rows of `spans`, in their order. The angle is the f64 product of position and
    /// frequency, so that a position's values are the same in every batch and exact to f32 at any length.
    pub(crate) fn angles(&self, spans: &[Span]) -> MutexGuard<'_, StepAngles> {
        let mut step = self.step.lock().unwrap_or_else(PoisonError::into_inner);
        let ranges = || spans.iter().map(|span| (span.first_position(), span.query_len));
        if step.ranges.iter().copied().eq(ranges()) {
            return step;
        }
        let StepAngles { ranges: known, values } = &mut *step;
        known.clear();
        values.clear();
        for (first, len) in ranges() {
            for position in first..first + len {
                let angle = |frequency: &f32| position as f64 * f64::from(*frequency);
                let magnitude = f64::from(self.magnitude);
                values.extend(self.inverse_frequencies.iter().map(|f| (angle(f).cos() * magnitude) as f32));
                values.extend(self.inverse_frequencies.iter().map(|f| (angle(f).sin() * magnitude) as f32));
            }
        }
        known.extend(ranges());
        step
    }
}

impl StepAngles {
    /// Cosines and sines of one row of the batch, `pairs` each.
    pub fn row(&self, row: usize, pairs: usize) -> (&[f32], &[f32]) {
        self.values[row * 2 * pairs..][..2 * pairs].split_at(pairs)
    }
}

/// Rotates one head in place: each pair `(a, b)` becomes `(a cos - b sin, b cos + a sin)`.
pub(crate) fn rotate(style: RopeStyle, head: &mut [f32], cos: &[f32], sin: &[f32]) {
    match style {
        RopeStyle::Interleaved => {
            for ((pair, cos), sin) in head.chunks_exact_mut(2).zip(cos).zip(sin) {
                let (a, b) = (pair[0], pair[1]);
                pair[0] = a * cos - b * sin;
                pair[1] = b * cos + a * sin;
            }
        }
        RopeStyle::Neox => {
            let (first, second) = head.split_at_mut(cos.len());
            for (((a, b), cos), sin) in first.iter_mut().zip(second).zip(cos).zip(sin) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    }
}
