//! One token's key and value of one head go into their page, in its type.
#![expect(clippy::inline_always, reason = "whatever is not inlined into the kernel loses its instruction set")]

use half::f16;

use crate::kv::{BLOCK_SIZE, scale_bytes};
use crate::simd::{Kernel, LANES, Simd};

/// Keys and values of one head of one token, and the page of their block: keys `(head_dim, BLOCK_SIZE)`, then values
/// `(BLOCK_SIZE, head_dim)`, each followed by its scales where the type has any.
pub(super) struct StoreRow<'a, B> {
    pub keys: &'a [f32],
    pub values: &'a [f32],
    pub page: &'a mut [B],
    pub offset: usize,
}

impl Kernel for StoreRow<'_, f16> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.keys.len();
        let (key_page, value_page) = self.page.split_at_mut(BLOCK_SIZE * head_dim);
        let mut lanes = [f16::ZERO; LANES];
        let (keys, rest) = self.keys.as_chunks::<LANES>();
        for (keys, columns) in keys.iter().zip(key_page.chunks_exact_mut(LANES * BLOCK_SIZE)) {
            simd.store_f16(simd.load(keys), &mut lanes);
            for (key, column) in lanes.iter().zip(columns.chunks_exact_mut(BLOCK_SIZE)) {
                column[self.offset] = *key;
            }
        }
        for (d, key) in (head_dim - rest.len()..).zip(rest) {
            key_page[d * BLOCK_SIZE + self.offset] = f16::from_f32(*key);
        }
        let (values, rest) = self.values.as_chunks::<LANES>();
        let (to, to_rest) = value_page[self.offset * head_dim..][..head_dim].as_chunks_mut::<LANES>();
        for (values, to) in values.iter().zip(to) {
            simd.store_f16(simd.load(values), to);
        }
        for (to, value) in to_rest.iter_mut().zip(rest) {
            *to = f16::from_f32(*value);
        }
    }
}

impl Kernel for StoreRow<'_, u8> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let head_dim = self.keys.len();
        let (key_page, value_page) = self.page.split_at_mut(self.page.len() / 2);
        let (columns, scales) = key_page.split_at_mut(BLOCK_SIZE * head_dim);
        let scale = scale_of(simd, self.keys);
        scales[scale_bytes(self.offset)].copy_from_slice(&scale.to_le_bytes());
        for (keys, columns) in self.keys.chunks(LANES).zip(columns.chunks_mut(LANES * BLOCK_SIZE)) {
            let lanes = quantised(simd, keys, scale);
            for (key, column) in lanes.iter().zip(columns.chunks_exact_mut(BLOCK_SIZE)) {
                column[self.offset] = *key;
            }
        }
        let (rows, scales) = value_page.split_at_mut(BLOCK_SIZE * head_dim);
        let scale = scale_of(simd, self.values);
        scales[scale_bytes(self.offset)].copy_from_slice(&scale.to_le_bytes());
        let row = &mut rows[self.offset * head_dim..][..head_dim];
        for (values, to) in self.values.chunks(LANES).zip(row.chunks_mut(LANES)) {
            let lanes = quantised(simd, values, scale);
            match <&mut [u8; LANES]>::try_from(&mut *to) {
                Ok(to) => *to = lanes,
                Err(_) => to.copy_from_slice(&lanes[..to.len()]),
            }
        }
    }
}

/// The scale by which the largest magnitude becomes 127; NaN where a value is not finite, so that it stays visible.
#[inline(always)]
fn scale_of<S: Simd>(simd: S, values: &[f32]) -> f32 {
    let zero = simd.splat(0.0);
    let (mut largest, mut poison) = (zero, zero);
    for values in values.chunks(LANES) {
        let values = load(simd, values);
        largest = simd.max(largest, simd.max(values, simd.sub(zero, values)));
        poison = simd.mul_add(values, zero, poison);
    }
    (simd.max_lane(largest) + simd.sum(poison)) / 127.0
}

/// The signed bytes next to `values / scale`, ties to even; any where the scale is not finite.
#[inline(always)]
fn quantised<S: Simd>(simd: S, values: &[f32], scale: f32) -> [u8; LANES] {
    /// Added to a small number, it leaves the nearest integer in the low bits.
    const MAGIC: f32 = 12_582_912.0;
    let quotients = simd.div(load(simd, values), simd.splat(scale));
    simd.to_array(simd.add(quotients, simd.splat(MAGIC))).map(|x| x.to_bits() as u8)
}

/// Up to [`LANES`] values, then zeros.
#[inline(always)]
fn load<S: Simd>(simd: S, values: &[f32]) -> S::V {
    if let Ok(lanes) = values.try_into() {
        return simd.load(lanes);
    }
    let mut lanes = [0.0; LANES];
    lanes[..values.len()].copy_from_slice(values);
    simd.load(&lanes)
}
