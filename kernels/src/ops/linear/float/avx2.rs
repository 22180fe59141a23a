//! The AVX2 kernel of float products: weights of three types become f32 in registers, four rows meet three tokens.
#![expect(clippy::inline_always, reason = "what is not inlined is not compiled for the instruction set")]
#![expect(clippy::needless_range_loop, reason = "register tiles are indexed by group and token")]

use std::arch::x86_64::{
    __m256, _mm_loadu_si128, _mm256_add_ps, _mm256_castsi256_ps, _mm256_cvtepu16_epi32, _mm256_cvtph_ps,
    _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_setzero_ps, _mm256_shuffle_ps, _mm256_slli_epi32,
    _mm256_storeu_ps,
};
use std::ops::Range;

use super::{GROUP, LANES, Output, PANEL, Panel, Product, Sums};
use crate::GgmlType;
use crate::packed::Part;

/// A float type that becomes f32 in a register.
trait Element {
    const BYTES: usize;

    /// # Safety
    /// AVX2 and F16C must be there, and 8 values at `at`.
    unsafe fn load(at: *const u8) -> __m256;
}

enum F32 {}
enum F16 {}
enum Bf16 {}

impl Element for F32 {
    const BYTES: usize = 4;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_loadu_ps(at.cast()) }
    }
}

impl Element for F16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_cvtph_ps(_mm_loadu_si128(at.cast())) }
    }
}

impl Element for Bf16 {
    const BYTES: usize = 2;

    #[inline(always)]
    unsafe fn load(at: *const u8) -> __m256 {
        // SAFETY: the caller's promise.
        unsafe { _mm256_castsi256_ps(_mm256_slli_epi32::<16>(_mm256_cvtepu16_epi32(_mm_loadu_si128(at.cast())))) }
    }
}

/// Multiplies row groups of float weights with one token, which has no use for a cache. Eight rows from places far apart
/// are read straight through, so that each is one sequential stream of memory.
///
/// # Safety
/// AVX2, FMA and F16C must be there; `x` has the part's columns, and no other thread works on the same row groups.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn multiply_one(part: &Part, groups: Range<usize>, x: &[f32], out: Output<'_>) {
    debug_assert!(part.is_float() && x.len() == part.columns);
    let all = groups.start * GROUP..part.rows.min(groups.end * GROUP);
    let length = all.len() / GROUP;
    let rest = all.start + length * GROUP..all.end;
    let far_apart = (0..length).map(|i| (std::array::from_fn(|r| all.start + r * length + i), GROUP));
    // Rows beyond the last repeat it; their sums are not stored.
    let last = (!rest.is_empty()).then(|| (std::array::from_fn(|r| (rest.start + r).min(rest.end - 1)), rest.len()));
    for (rows, count) in far_apart.chain(last) {
        let weights = rows.map(|row: usize| part.unit(row).as_ptr());
        let mut sums = [Sums::ZERO];
        // SAFETY: the rows hold as many columns as `x`; otherwise the caller's promise.
        unsafe {
            let lanes = [sums[0].0.as_mut_ptr()];
            match part.ggml_type {
                GgmlType::F16 => tile::<F16, 8, 1>(weights, [x.as_ptr()], x.len(), lanes),
                GgmlType::BF16 => tile::<Bf16, 8, 1>(weights, [x.as_ptr()], x.len(), lanes),
                _ => tile::<F32, 8, 1>(weights, [x.as_ptr()], x.len(), lanes),
            }
            reduce(&mut sums);
            for (row, total) in rows.into_iter().zip(sums[0].0[0]).take(count) {
                out.store(0, row, &[total]);
            }
        }
    }
}

/// As [`super::reduce`], for 8 rows at a time.
///
/// # Safety
/// AVX2 must be there.
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn reduce(sums: &mut [Sums]) {
    for Sums(lanes) in sums {
        let mut rows = [_mm256_setzero_ps(); GROUP];
        for r in 0..GROUP {
            // SAFETY: a row is 8 lanes.
            rows[r] = unsafe { _mm256_loadu_ps(lanes[r].as_ptr()) };
        }
        // Four lanes each of rows `r` and `r + 4`, then two of four rows, then one of all.
        let mut fours = [rows[0]; 4];
        for r in 0..4 {
            let low = _mm256_permute2f128_ps::<0x20>(rows[r], rows[r + 4]);
            fours[r] = _mm256_add_ps(low, _mm256_permute2f128_ps::<0x31>(rows[r], rows[r + 4]));
        }
        let mut twos = [rows[0]; 2];
        for i in 0..2 {
            let low = _mm256_shuffle_ps::<0b01_00_01_00>(fours[2 * i], fours[2 * i + 1]);
            twos[i] = _mm256_add_ps(low, _mm256_shuffle_ps::<0b11_10_11_10>(fours[2 * i], fours[2 * i + 1]));
        }
        let even = _mm256_shuffle_ps::<0b10_00_10_00>(twos[0], twos[1]);
        let totals = _mm256_add_ps(even, _mm256_shuffle_ps::<0b11_01_11_01>(twos[0], twos[1]));
        // SAFETY: as above.
        unsafe { _mm256_storeu_ps(lanes[0].as_mut_ptr(), totals) };
    }
}

/// As [`super::add_panel`].
///
/// # Safety
/// AVX2, FMA and F16C must be there; rows and columns lie inside the part, and `x` has them and the tokens; columns are
/// at most [`PANEL`].
#[target_feature(enable = "avx2,fma,f16c")]
pub(super) unsafe fn add(product: &Product<'_>, panel: &mut Panel, sums: &mut [Sums]) {
    /// From so many tokens on half floats are converted once for all of them.
    const CONVERT_ONCE: usize = 6;
    /// From so many tokens on floats are copied where rows that lie whole pages apart would share few places of the cache.
    const COPY_ONCE: usize = 24;
    let Product { part, ref rows, ref columns, .. } = *product;
    let bytes = part.ggml_type.block_bytes();
    let once = match part.ggml_type {
        GgmlType::F32 => sums.len() >= COPY_ONCE && (part.columns * bytes).is_multiple_of(4096),
        _ => sums.len() >= CONVERT_ONCE,
    };
    let mut weights = [panel.0[0].as_ptr().cast::<u8>(); GROUP];
    for (r, weights) in weights.iter_mut().enumerate() {
        *weights = if part.is_float() {
            // Rows beyond the last repeat it; their sums are not stored.
            let row = part.unit((rows.start + r).min(rows.end - 1));
            row[columns.start * bytes..columns.end * bytes].as_ptr()
        } else {
            panel.0[r].as_ptr().cast()
        };
    }
    // SAFETY: the rows hold the columns, as sliced or as the panel is long; otherwise the caller's promise.
    unsafe {
        match part.ggml_type {
            GgmlType::F32 if once => weights = convert::<F32>(weights, columns.len(), panel),
            GgmlType::F16 if once => weights = convert::<F16>(weights, columns.len(), panel),
            GgmlType::BF16 if once => weights = convert::<Bf16>(weights, columns.len(), panel),
            GgmlType::F16 => return add_tokens::<F16>(weights, product, sums),
            GgmlType::BF16 => return add_tokens::<Bf16>(weights, product, sums),
            GgmlType::F32 => {}
            _ => product.fill(panel),
        }
        add_tokens::<F32>(weights, product, sums);
    }
}

/// Converts `len` values of 8 rows into the panel and returns where they lie.
///
/// # Safety
/// AVX2 and F16C; every row has `len` values, at most [`PANEL`].
#[inline(always)]
unsafe fn convert<E: Element>(rows: [*const u8; GROUP], len: usize, panel: &mut Panel) -> [*const u8; GROUP] {
    debug_assert!(len <= PANEL);
    let whole = len / LANES * LANES;
    // SAFETY: the caller's promise; the rest of less than a vector goes by way of zeroed memory, and a panel's row is a
    // whole number of vectors.
    unsafe {
        for (row, panel) in rows.into_iter().zip(&mut panel.0) {
            for k in (0..whole).step_by(LANES) {
                _mm256_storeu_ps(panel.as_mut_ptr().add(k), E::load(row.add(k * E::BYTES)));
            }
            if whole < len {
                let mut rest = [0u8; 4 * LANES];
                rest.as_mut_ptr().copy_from_nonoverlapping(row.add(whole * E::BYTES), (len - whole) * E::BYTES);
                _mm256_storeu_ps(panel.as_mut_ptr().add(whole), E::load(rest.as_ptr()));
            }
        }
    }
    panel.0.each_ref().map(|row| row.as_ptr().cast())
}

/// # Safety
/// AVX2, FMA and F16C; every row has the columns, and `x` has them and the tokens.
#[inline(always)]
unsafe fn add_tokens<E: Element>(rows: [*const u8; GROUP], product: &Product<'_>, sums: &mut [Sums]) {
    let len = product.columns.len();
    let token = |t: usize| product.token(t).as_ptr();
    let (low, high) = ([rows[0], rows[1], rows[2], rows[3]], [rows[4], rows[5], rows[6], rows[7]]);
    // SAFETY: the caller's promise.
    unsafe {
        let mut t = 0;
        while t < sums.len() {
            let at = sums[t..].as_mut_ptr();
            let lanes = |i: usize, half: usize| (*at.add(i)).0.as_mut_ptr().add(half * 4);
            match sums.len() - t {
                1 => {
                    tile::<E, 4, 1>(low, [token(t)], len, [lanes(0, 0)]);
                    tile::<E, 4, 1>(high, [token(t)], len, [lanes(0, 1)]);
                    t += 1;
                }
                2 | 4 => {
                    let x = [token(t), token(t + 1)];
                    tile::<E, 4, 2>(low, x, len, [lanes(0, 0), lanes(1, 0)]);
                    tile::<E, 4, 2>(high, x, len, [lanes(0, 1), lanes(1, 1)]);
                    t += 2;
                }
                _ => {
                    let x = [token(t), token(t + 1), token(t + 2)];
                    tile::<E, 4, 3>(low, x, len, [lanes(0, 0), lanes(1, 0), lanes(2, 0)]);
                    tile::<E, 4, 3>(high, x, len, [lanes(0, 1), lanes(1, 1), lanes(2, 1)]);
                    t += 3;
                }
            }
        }
    }
}

/// Adds the products of `R` rows and `T` tokens over `len` columns to their lanes.
///
/// # Safety
/// AVX2, FMA and F16C; `len` values behind each pointer of `rows` and `x`, `R` rows of lanes behind those of `lanes`.
#[inline(always)]
unsafe fn tile<E: Element, const R: usize, const T: usize>(
    rows: [*const u8; R],
    x: [*const f32; T],
    len: usize,
    lanes: [*mut [f32; LANES]; T],
) {
    let whole = len / LANES * LANES;
    // SAFETY: whole vectors are read up to the last whole one, the rest by way of zeroed memory.
    unsafe {
        let mut sums = [[_mm256_setzero_ps(); T]; R];
        for t in 0..T {
            for r in 0..R {
                sums[r][t] = _mm256_loadu_ps(lanes[t].add(r).cast());
            }
        }
        let mut k = 0;
        while k < whole {
            step::<E, R, T>(rows.map(|row| row.add(k * E::BYTES)), x.map(|x| x.add(k)), &mut sums);
            k += LANES;
        }
        if k < len {
            let mut row_rest = [[0u8; 4 * LANES]; R];
            let mut x_rest = [[0f32; LANES]; T];
            for r in 0..R {
                row_rest[r].as_mut_ptr().copy_from_nonoverlapping(rows[r].add(k * E::BYTES), (len - k) * E::BYTES);
            }
            for t in 0..T {
                x_rest[t].as_mut_ptr().copy_from_nonoverlapping(x[t].add(k), len - k);
            }
            step::<E, R, T>(row_rest.each_ref().map(|r| r.as_ptr()), x_rest.each_ref().map(|x| x.as_ptr()), &mut sums);
        }
        for t in 0..T {
            for r in 0..R {
                _mm256_storeu_ps(lanes[t].add(r).cast(), sums[r][t]);
            }
        }
    }
}

/// # Safety
/// AVX2, FMA and F16C; 8 values behind each pointer.
#[inline(always)]
unsafe fn step<E: Element, const R: usize, const T: usize>(
    rows: [*const u8; R],
    x: [*const f32; T],
    sums: &mut [[__m256; T]; R],
) {
    // SAFETY: the caller's promise.
    unsafe {
        let mut tokens = [_mm256_setzero_ps(); T];
        for t in 0..T {
            tokens[t] = _mm256_loadu_ps(x[t]);
        }
        for r in 0..R {
            let weights = E::load(rows[r]);
            for t in 0..T {
                sums[r][t] = _mm256_fmadd_ps(weights, tokens[t], sums[r][t]);
            }
        }
    }
}
