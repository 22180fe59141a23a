//! What a product reads. Norm and gate are computed row by row on the way into the product, so that they cost no
//! pass over memory and no meeting of the threads of their own.

use candle_core::Tensor;

use crate::ops::{rms_norm, silu_mul};
use crate::scratch::Buffer;
use crate::{Compute, Isa, Norm, Residual, Result, rows};

use super::Input;

/// The left factor of a product with a matrix of `columns` inputs.
#[derive(Debug, Clone, Copy)]
pub enum Operand<'a> {
    /// Rows as they are: f32 `(num_tokens, columns)`, or as [`Compute::attended_rows`] makes them.
    Rows(&'a Tensor),
    /// The norm of the residual stream, which was told of it; see [`Residual`].
    Normed(&'a Residual, Norm<'a>),
    /// `silu(gate) * up` (Shazeer, 2020), of what [`Compute::linear_gated`] leaves: f32 `(num_tokens, 2 * columns)` with
    /// gate, then up, or on a card an operand of the products.
    Gated(&'a Tensor),
}

impl Operand<'_> {
    /// Checks shapes and types against `num_tokens` rows of `columns`.
    pub(super) fn check(&self, op: &'static str, num_tokens: usize, columns: usize) -> Result<()> {
        match *self {
            Self::Rows(x) => rows::expect(op, "x", x, &[num_tokens, columns]),
            Self::Normed(x, norm) => {
                rows::expect(op, "weight", norm.weight, &[columns])?;
                rows::expect(op, "x", x.rows(), &[num_tokens, columns])
            }
            Self::Gated(gate_up) => rows::expect(op, "gate_up", gate_up, &[num_tokens, 2 * columns]),
        }
    }
}

/// How a row of a product is made of a row in memory.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source<'a> {
    Plain,
    Normed { weight: &'a [f32], eps: f32 },
    Gated,
}

impl<'a> Input<'a> {
    /// The row of `token`, made in `buffer` if it does not lie in memory as it is.
    pub(super) fn row<'b>(&self, isa: Isa, token: usize, buffer: &'b mut Buffer) -> &'b [f32]
    where
        'a: 'b,
    {
        if matches!(self.source, Source::Plain) {
            return self.stored(token);
        }
        let row = buffer.get(self.columns);
        self.make(isa, token, row);
        row
    }

    /// The same rows, lying in memory: in `buffer` unless they do already.
    pub(super) fn materialised(self, compute: &Compute, buffer: &'a mut Buffer) -> Self {
        if matches!(self.source, Source::Plain) {
            return self;
        }
        let values = buffer.get(self.num_tokens() * self.columns);
        compute.for_each_row(values, self.columns, |token, row| self.make(compute.isa(), token, row));
        Input { values, columns: self.columns, source: Source::Plain }
    }

    fn make(&self, isa: Isa, token: usize, row: &mut [f32]) {
        let stored = self.stored(token);
        match self.source {
            Source::Plain => row.copy_from_slice(stored),
            Source::Normed { weight, eps } => rms_norm::norm(stored, weight, eps, row),
            Source::Gated => silu_mul::silu_mul(isa, stored, row),
        }
    }
}
