//! What the sampler's kernels find in device memory, as `cuda/sample.cuh` declares it.

use crate::gpu::launch::{Address, Argument};
use crate::sampling::{MAX_ALTERNATIVES, SamplerParams};

/// Logits of a row that one block of the first two kernels has.
pub const CHUNK: usize = 4096;
/// Chunks that the sum over a row takes at once; with [`CHUNK`] this bounds the vocabulary at 2^18 tokens.
pub const MAX_CHUNKS: usize = 64;
/// Threads of every block.
pub const THREADS: usize = 512;
/// Tokens that are kept for truncations, and for alternatives.
pub const MAX_CANDIDATES: usize = 4096;
pub const MAX_LIKELY: usize = 512;
/// No row, no alternatives, no mask.
pub const NONE: u32 = u32::MAX;

/// Below this, temperature is 0.
const COLDEST: f32 = 1e-5;
/// Biases beyond this mean "always" or "never".
const LARGEST_BIAS: f32 = 1e6;

const GREEDY: u32 = 1;
const TOP_K: u32 = 2;
const TOP_P: u32 = 4;
const MIN_P: u32 = 8;
const TYPICAL: u32 = 16;

/// Of a [`Head`]: the logits are not finite, the mask allows nothing.
pub const NOT_FINITE: u32 = 1;
pub const NOTHING_ALLOWED: u32 = 2;

/// What may be copied to the card byte by byte.
///
/// # Safety
/// `repr(C)` without padding.
pub unsafe trait Plain: Copy {
    /// Their bytes.
    fn bytes(values: &[Self]) -> &[u8] {
        // SAFETY: the trait's promise: there is no padding.
        unsafe { std::slice::from_raw_parts(values.as_ptr().cast(), size_of_val(values)) }
    }
}

// SAFETY: a number.
unsafe impl Plain for u32 {}

/// Where a sequence's lists and counts lie.
#[derive(Debug, Clone, Copy)]
pub struct SlotMemory {
    /// `(vocab)`, or null.
    pub counts: Address,
    /// Pairs of id and bias, ascending ids.
    pub biases: Address,
    pub num_biases: usize,
    /// Ids.
    pub stops: Address,
    pub num_stops: usize,
}

/// A running sequence.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct SlotRecord {
    seed: u64,
    /// Shares of 2^64.
    top_p: u64,
    typical_p: u64,
    counts: Address,
    biases: Address,
    stops: Address,
    scale: f32,
    min_p: f32,
    repetition: f32,
    frequency: f32,
    presence: f32,
    least_weight: f32,
    flags: u32,
    top_k: u32,
    num_biases: u32,
    num_stops: u32,
    min_tokens: u32,
    logprobs: u32,
    num_generated: u32,
    unused: u32,
}

// SAFETY: 8-byte fields first, then an even number of 4-byte fields.
unsafe impl Plain for SlotRecord {}

impl SlotRecord {
    /// `num_generated`: tokens of the answer before the first to be chosen.
    pub fn new(params: &SamplerParams<'_>, vocab: usize, memory: &SlotMemory, num_generated: usize) -> Self {
        let flag = |is_set: bool, flag: u32| if is_set { flag } else { 0 };
        let flags = flag(params.temperature < COLDEST || params.top_k == 1, GREEDY)
            | flag((2..vocab).contains(&(params.top_k as usize)), TOP_K)
            | flag(params.top_p < 1.0, TOP_P)
            | flag(params.min_p > 0.0, MIN_P)
            | flag(params.typical_p < 1.0, TYPICAL);
        Self {
            seed: params.seed,
            top_p: share(params.top_p),
            typical_p: share(params.typical_p),
            counts: memory.counts,
            biases: memory.biases,
            stops: memory.stops,
            scale: params.temperature.recip(),
            min_p: params.min_p.min(1.0),
            repetition: params.repetition_penalty,
            frequency: params.frequency_penalty,
            presence: params.presence_penalty,
            least_weight: least_weight(params, flags, vocab),
            flags,
            top_k: params.top_k,
            num_biases: memory.num_biases as u32,
            num_stops: memory.num_stops as u32,
            min_tokens: params.min_tokens.try_into().unwrap_or(u32::MAX),
            logprobs: params.logprobs.map_or(NONE, u32::from),
            num_generated: num_generated as u32,
            unused: 0,
        }
    }
}

/// A share below 1 in units of 2^-64; exact from 2^-40 on.
fn share(p: f32) -> u64 {
    (f64::from(p.max(0.0)) * 2f64.powi(64)) as u64
}

/// A weight relative to the likeliest token's, below which no token can be chosen.
///
/// What follows a token in the order of weights weighs, with it, at most `vocab` times its own weight. If this is no more
/// than `1 - top_p` of the total, which is at least 1, then the tokens before it suffice. Half of that, because weights
/// in fixed point are rounded: by `vocab / 2` units of 2^-45 together, while `1 - top_p` is at least 2^-24. A hundredth
/// is taken from `min_p`, so that what it cuts is decided in one place, where all tokens near it are known. For
/// `typical_p` alone the same holds of tokens further from the mean than the likeliest; the kernel checks that.
fn least_weight(params: &SamplerParams<'_>, flags: u32, vocab: usize) -> f32 {
    let of_share = |p: f32| ((1.0 - f64::from(p.max(0.0))) / vocab as f64 * 0.5) as f32;
    let of_min_p = if flags & MIN_P == 0 { 0.0 } else { params.min_p.min(1.0) * 0.99 };
    if flags & TOP_P != 0 {
        of_min_p.max(of_share(params.top_p))
    } else if flags & MIN_P == 0 && flags & TYPICAL != 0 {
        of_share(params.typical_p)
    } else {
        of_min_p
    }
}

/// Words of a list: the pairs of biases in ascending order of ids, those of one id in the order given, then the stops.
/// Ids that no token has are left out. Returns the number of pairs.
pub fn fill_lists(params: &SamplerParams<'_>, vocab: usize, words: &mut Vec<u32>) -> usize {
    let mut biases: Vec<(u32, f32)> = params.logit_bias.to_vec();
    biases.retain(|&(id, _)| (id as usize) < vocab);
    biases.sort_by_key(|&(id, _)| id);
    words.clear();
    words.extend(biases.iter().flat_map(|&(id, bias)| [id, bias.clamp(-LARGEST_BIAS, LARGEST_BIAS).to_bits()]));
    words.extend(params.stop_token_ids.iter().filter(|&&id| (id as usize) < vocab));
    biases.len()
}

/// Words of a [`RowRecord`], and of what stands before the first one.
pub const ROW_WORDS: usize = 8;

/// A row of logits of a step.
#[derive(Debug, Clone, Copy)]
pub struct RowRecord {
    /// Which row of the tensor.
    pub logits: usize,
    pub slot: usize,
    /// The draft that the row was computed from; the prompt's next token.
    pub token: u32,
    /// Alternatives to report with the prompt's token.
    pub prompt: Option<u8>,
    /// Row of the run's beginning, place in the run, and its length.
    pub first: usize,
    pub index: usize,
    pub length: usize,
    pub mask: Option<usize>,
}

impl RowRecord {
    pub fn words(&self) -> [u32; ROW_WORDS] {
        [
            self.logits as u32,
            self.slot as u32,
            self.token,
            self.prompt.map_or(NONE, u32::from),
            self.first as u32,
            self.index as u32,
            self.length as u32,
            self.mask.map_or(NONE, |mask| mask as u32),
        ]
    }
}

/// What came of a row.
#[derive(Debug, Clone, Copy)]
pub struct Head {
    pub token: u32,
    pub flags: u32,
    /// Of a run's first row: tokens that it brought.
    pub accepted: usize,
    pub logprob: f32,
}

impl Head {
    /// That of a row in an area of the output.
    pub fn of_row(output: &[u32], row: usize) -> Self {
        let words = &output[row * HEAD_WORDS..][..HEAD_WORDS];
        Self { token: words[0], flags: words[1], accepted: words[2] as usize, logprob: f32::from_bits(words[3]) }
    }
}

/// Words of a [`Head`], and of a row's alternatives, each an id and a log-probability.
pub const HEAD_WORDS: usize = 4;
pub const ROW_ALTERNATIVES: usize = 2 * MAX_ALTERNATIVES as usize;

/// Where everything lies. By value with each launch.
#[repr(C)]
#[derive(Debug, Clone, Copy)]
pub struct WorkspaceRecord {
    pub slots: Address,
    pub step: Address,
    pub masks: Address,
    pub last_tokens: Address,
    pub changed: Address,
    pub scans: Address,
    pub peaks: Address,
    pub sums: Address,
    pub candidates: Address,
    pub likely: Address,
    pub listed: Address,
    pub arrived: Address,
    pub output: Address,
    pub vocab: u32,
    pub chunks: u32,
    pub max_rows: u32,
    pub unused: u32,
}

// SAFETY: as `Workspace` of sample.cuh; 8-byte fields first, then an even number of 4-byte fields.
unsafe impl Argument for WorkspaceRecord {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_sizes_that_the_kernels_expect() {
        assert_eq!((size_of::<SlotRecord>(), size_of::<WorkspaceRecord>()), (104, 120));
    }

    #[test]
    fn the_sampler_leaves_out_only_what_no_truncation_keeps() {
        let of = |params: SamplerParams<'_>| {
            let memory = SlotMemory {
                counts: Address::NULL,
                biases: Address::NULL,
                num_biases: 0,
                stops: Address::NULL,
                num_stops: 0,
            };
            let record = SlotRecord::new(&params, 1000, &memory, 0);
            (record.flags, record.least_weight)
        };
        let plain = SamplerParams::default();
        assert_eq!(of(plain), (0, 0.0));
        assert_eq!(of(SamplerParams { temperature: 9e-6, ..plain }).0, GREEDY);
        assert_eq!(of(SamplerParams { top_k: 1, ..plain }).0, GREEDY);
        assert_eq!(of(SamplerParams { top_k: 999, ..plain }), (TOP_K, 0.0));
        assert_eq!(of(SamplerParams { top_k: 1000, ..plain }), (0, 0.0));
        let top_p = SamplerParams { top_p: 0.5, ..plain };
        assert_eq!(of(top_p), (TOP_P, 0.00025));
        assert_eq!(of(SamplerParams { min_p: 0.1, ..top_p }), (TOP_P | MIN_P, 0.1 * 0.99));
        assert_eq!(of(SamplerParams { typical_p: 0.5, ..plain }), (TYPICAL, 0.00025));
        assert_eq!(of(SamplerParams { typical_p: 0.5, min_p: 0.2, ..plain }), (TYPICAL | MIN_P, 0.2 * 0.99));
        assert_eq!((share(0.5), share(0.0), share(-1.0)), (1 << 63, 0, 0));
        assert_eq!(share(1.0 - f32::EPSILON / 2.0), u64::MAX - (1 << 40) + 1);
    }
}
