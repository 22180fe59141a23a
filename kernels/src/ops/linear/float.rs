//! Products in f32: weights of any type, dequantised a small panel at a time, against f32 activations. The path of
//! float weights, and for quantised ones the reference that parity is judged by.
//!
//! Order of an output's sum: 8 lanes, lane `l` taking columns `8i + l` in turn by fused multiply-adds, then
//! `((0 + 4) + (2 + 6)) + ((1 + 5) + (3 + 7))`. The plain and the AVX2 version give the same bits.

use std::ops::Range;

use super::{Input, Output};
use crate::Isa;
use crate::formats::GROUP;
use crate::packed::Part;

/// Columns of a panel; a multiple of 32.
const PANEL: usize = 256;
/// Tokens whose sums are kept while the panels of a group pass.
const TILE: usize = 48;
const LANES: usize = 8;

/// 8 rows of weights, `PANEL` columns each.
#[repr(align(64))]
struct Panel([[f32; PANEL]; GROUP]);

/// Lanes of the sums of 8 rows for each token of a tile.
#[repr(align(64))]
struct Sums([[[f32; LANES]; GROUP]; TILE]);

/// Multiplies row groups `groups` of `part` with all rows of `x`.
pub(super) fn multiply(isa: Isa, part: &Part, groups: Range<usize>, x: Input<'_>, out: Output<'_>) {
    let mut panel = Panel([[0.0; PANEL]; GROUP]);
    for group in groups {
        let rows = group * GROUP..part.rows.min((group + 1) * GROUP);
        for first in (0..x.num_tokens()).step_by(TILE) {
            let tokens = first..x.num_tokens().min(first + TILE);
            let mut sums = Sums([[[0.0; LANES]; GROUP]; TILE]);
            for start in (0..part.columns).step_by(PANEL) {
                let len = PANEL.min(part.columns - start);
                for (row, weights) in rows.clone().zip(&mut panel.0) {
                    part.dequantise(row, start, &mut weights[..len]);
                }
                for (token, lanes) in tokens.clone().zip(&mut sums.0) {
                    accumulate(isa, &panel, &x.row(token)[start..start + len], lanes);
                }
            }
            for (token, lanes) in tokens.zip(&sums.0) {
                let totals = lanes.map(|l| ((l[0] + l[4]) + (l[2] + l[6])) + ((l[1] + l[5]) + (l[3] + l[7])));
                // SAFETY: a group of rows belongs to one task.
                unsafe { out.store(token, rows.start, &totals[..rows.len()]) };
            }
        }
    }
}

/// Adds the products of one token's `x` (at most `PANEL` columns) with 8 rows of weights to their lanes.
fn accumulate(isa: Isa, panel: &Panel, x: &[f32], lanes: &mut [[f32; LANES]; GROUP]) {
    match isa {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 => {
            // SAFETY: this instruction set was detected, and `x` is no longer than a row of the panel.
            unsafe { avx2::accumulate(panel, x, lanes) }
        }
        _ => scalar(panel, x, lanes),
    }
}

fn scalar(panel: &Panel, x: &[f32], lanes: &mut [[f32; LANES]; GROUP]) {
    for (weights, lanes) in panel.0.iter().zip(lanes) {
        for (weights, x) in weights.chunks_exact(LANES).zip(x.chunks(LANES)) {
            for ((lane, weight), x) in lanes.iter_mut().zip(weights).zip(x) {
                *lane = weight.mul_add(*x, *lane);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use std::arch::x86_64::{
        _mm256_cmpgt_epi32, _mm256_fmadd_ps, _mm256_load_ps, _mm256_loadu_ps, _mm256_maskload_ps, _mm256_set1_epi32,
        _mm256_setr_epi32, _mm256_storeu_ps,
    };

    use super::{GROUP, LANES, PANEL, Panel};

    /// # Safety
    /// AVX2 and FMA must be there; `x` has at most `PANEL` values.
    #[target_feature(enable = "avx2,fma")]
    pub(super) unsafe fn accumulate(panel: &Panel, x: &[f32], lanes: &mut [[f32; LANES]; GROUP]) {
        debug_assert!(x.len() <= PANEL);
        // SAFETY: whole vectors of `x` are read up to its last whole one, the rest masked; rows of the panel are
        // longer than `x` rounded up.
        unsafe {
            let mut sums = [_mm256_loadu_ps(lanes[0].as_ptr()); GROUP];
            for (sum, lanes) in sums.iter_mut().zip(lanes.iter()) {
                *sum = _mm256_loadu_ps(lanes.as_ptr());
            }
            let whole = x.len() / LANES * LANES;
            for k in (0..whole).step_by(LANES) {
                let x = _mm256_loadu_ps(x.as_ptr().add(k));
                for (sum, weights) in sums.iter_mut().zip(&panel.0) {
                    *sum = _mm256_fmadd_ps(_mm256_load_ps(weights.as_ptr().add(k)), x, *sum);
                }
            }
            if whole < x.len() {
                let left = _mm256_set1_epi32((x.len() - whole) as i32);
                let mask = _mm256_cmpgt_epi32(left, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
                let x = _mm256_maskload_ps(x.as_ptr().add(whole), mask);
                for (sum, weights) in sums.iter_mut().zip(&panel.0) {
                    *sum = _mm256_fmadd_ps(_mm256_maskload_ps(weights.as_ptr().add(whole), mask), x, *sum);
                }
            }
            for (sum, lanes) in sums.iter().zip(lanes) {
                _mm256_storeu_ps(lanes.as_mut_ptr(), *sum);
            }
        }
    }
}
