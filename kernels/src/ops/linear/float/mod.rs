//! Products in f32: float weights as they lie in memory, quantised ones dequantised a small panel at a time, against f32
//! activations. For quantised weights this is the reference that parity is judged by.
//!
//! Order of an output's sum: 8 lanes, lane `l` taking columns `8i + l` in turn by fused multiply-adds, then
//! `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`. The plain and the AVX2 version give the same bits.

#[cfg(target_arch = "x86_64")]
mod avx2;

use std::ops::Range;

use super::{Input, Output};
use crate::Isa;
use crate::formats::GROUP;
use crate::packed::Part;

/// Columns whose products are summed before the next token's turn; a multiple of 32. Keeps activations in cache.
const PANEL: usize = 512;
/// Tokens whose sums are kept while the panels of a group pass.
const TILE: usize = 48;
const LANES: usize = 8;

/// 8 rows of dequantised weights, `PANEL` columns each.
#[repr(align(64))]
struct Panel([[f32; PANEL]; GROUP]);

/// The lanes of the sums of 8 rows for one token.
#[derive(Debug, Clone, Copy)]
#[repr(align(64))]
struct Sums([[f32; LANES]; GROUP]);

impl Sums {
    const ZERO: Self = Self([[0.0; LANES]; GROUP]);
}

/// Rows of weights and the tokens that they meet, over some columns.
struct Product<'a> {
    part: &'a Part,
    /// At most 8 rows.
    rows: Range<usize>,
    columns: Range<usize>,
    x: Input<'a>,
    first_token: usize,
}

/// Multiplies row groups `groups` of `part` with all rows of `x`.
pub(super) fn multiply(isa: Isa, part: &Part, groups: Range<usize>, x: Input<'_>, out: Output<'_>) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 && part.is_float() && x.num_tokens() == 1 {
        // SAFETY: this instruction set was detected, `x` has the part's columns, and a group belongs to one task.
        unsafe { avx2::multiply_one(part, groups, x.values, out) };
        return;
    }
    let mut panel = Panel([[0.0; PANEL]; GROUP]);
    let mut sums = [Sums::ZERO; TILE];
    for group in groups {
        let rows = group * GROUP..part.rows.min((group + 1) * GROUP);
        for first in (0..x.num_tokens()).step_by(TILE) {
            let tokens = first..x.num_tokens().min(first + TILE);
            let sums = &mut sums[..tokens.len()];
            sums.fill(Sums::ZERO);
            for start in (0..part.columns).step_by(PANEL) {
                let columns = start..part.columns.min(start + PANEL);
                let product = Product { part, rows: rows.clone(), columns, x, first_token: tokens.start };
                add_panel(isa, &product, &mut panel, sums);
            }
            reduce(isa, sums);
            for (token, Sums(totals)) in tokens.zip(sums) {
                // SAFETY: a group of rows belongs to one task.
                unsafe { out.store(token, rows.start, &totals[0][..rows.len()]) };
            }
        }
    }
}

/// Puts the totals of 8 rows where the first one's lanes were.
fn reduce(isa: Isa, sums: &mut [Sums]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: this instruction set was detected.
        unsafe { avx2::reduce(sums) };
        return;
    }
    for Sums(lanes) in sums {
        lanes[0] = lanes.map(|l| ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])));
    }
}

/// Adds the product of as many tokens as there are sums, by way of `panel` where the weights are converted.
fn add_panel(isa: Isa, product: &Product<'_>, panel: &mut Panel, sums: &mut [Sums]) {
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 {
        // SAFETY: this instruction set was detected, and the ranges lie inside the part and the activations; columns
        // are at most a panel.
        unsafe { avx2::add(product, panel, sums) };
        return;
    }
    product.fill(panel);
    for (token, Sums(lanes)) in sums.iter_mut().enumerate() {
        let x = product.token(token);
        for (weights, lanes) in panel.0.iter().zip(lanes) {
            for (weights, x) in weights.chunks_exact(LANES).zip(x.chunks(LANES)) {
                for ((lane, weight), x) in lanes.iter_mut().zip(weights).zip(x) {
                    *lane = weight.mul_add(*x, *lane);
                }
            }
        }
    }
}

impl Product<'_> {
    /// Dequantises the weights.
    fn fill(&self, panel: &mut Panel) {
        for (row, weights) in self.rows.clone().zip(&mut panel.0) {
            self.part.dequantise(row, self.columns.start, &mut weights[..self.columns.len()]);
        }
    }

    /// The columns of the `index`th token.
    fn token(&self, index: usize) -> &[f32] {
        &self.x.stored(self.first_token + index)[self.columns.clone()]
    }
}
