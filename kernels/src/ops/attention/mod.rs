//! Causal attention over the paged cache, read where it lies (FlashAttention, Dao et al., 2022; paged as in Kwon et
//! al., 2023). This file checks the arguments and splits the work; `tile` does it.
//!
//! Invariant: a query's output is a function of its own q and of the keys and values it sees. A softmax runs over the
//! positions between two multiples of [`PARTITION`], and its results are merged in the order of positions: neither
//! depends on which rows share a tile, on the step's chunking, or on who computes a partition.

mod block;
mod tile;

#[cfg(test)]
mod tests;

use std::ops::Range;

use candle_core::{CpuStorage, InplaceOp3, Layout, Tensor};

use self::block::Stored;
use self::tile::TileTask;
use super::rope_and_store::query_heads;
use crate::kv::{BLOCK_SIZE, PageShape, check_spans};
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::{Compute, KvLayer, Result, Span, StepRows, rows};

/// Positions over which one softmax runs before its result is merged: long contexts of few sequences are split here.
const PARTITION: usize = 256;
/// Query rows (tokens times heads of a group) that one pass over the keys and values serves.
const TILE_ROWS: usize = 48;
/// Multiply-adds below which other threads would start too late to help.
const SERIAL_WORK: usize = 64 * 1024;

impl Compute {
    /// Causal attention of each span's queries over its pages. `qkv` as left by [`Compute::rope_and_store`]; `out`: as [`Compute::attended_rows`] makes them. `window`: only the last so many positions are seen.
    ///
    /// # Errors
    /// When shapes do not fit each other.
    pub fn attention(
        &self,
        qkv: &Tensor,
        step: &StepRows<'_>,
        kv: &KvLayer,
        scale: f32,
        window: Option<usize>,
        out: &Tensor,
    ) -> Result<()> {
        const OP: &str = "attention";
        if let Some(gpu) = self.gpu() {
            let (card, tables) = step.on_card(OP)?;
            let angles = card.angles(gpu, tables)?;
            return gpu.attention(card.attention(), qkv, (tables, kv), angles, (scale, window), out);
        }
        let spans = step.spans;
        let (num_tokens, columns) = rows::matrix(OP, "qkv", qkv)?;
        let shape = kv.shape(OP)?;
        let num_heads = query_heads(OP, columns, shape)?;
        rows::expect(OP, "out", out, &[num_tokens, num_heads * shape.head_dim])?;
        check_spans(OP, spans, num_tokens, shape.num_blocks)?;
        if num_tokens == 0 {
            return Ok(());
        }
        let window = window.unwrap_or(usize::MAX).max(1);
        let job = Job { columns, num_heads, shape, scale, window };
        Ok(out.inplace_op3(qkv, &kv.pages, &Attention { compute: self, spans, job })?)
    }
}

/// What all tiles of a call share.
#[derive(Debug, Clone, Copy)]
struct Job {
    /// Elements of a row of qkv.
    columns: usize,
    num_heads: usize,
    shape: PageShape,
    scale: f32,
    /// Positions a query sees, its own included.
    window: usize,
}

impl Job {
    /// Query heads that share a key/value head.
    fn group(&self) -> usize {
        self.num_heads / self.shape.num_kv_heads
    }

    /// Columns of the accumulators: whole vectors.
    fn padded_dim(&self) -> usize {
        self.shape.head_dim.next_multiple_of(16)
    }

    /// Tokens of a tile.
    fn tile_positions(&self) -> usize {
        (TILE_ROWS / self.group()).clamp(1, BLOCK_SIZE)
    }

    /// Elements of one partition's result for one tile and key/value head.
    fn partial_len(&self) -> usize {
        self.tile_positions() * self.group() * (self.padded_dim() + 2)
    }

    /// The partitions that a tile's queries see.
    fn partitions(&self, tile: Tile) -> Range<usize> {
        self.first_seen(tile.first) / PARTITION..(tile.end - 1) / PARTITION + 1
    }

    /// The first position that a query at `position` sees.
    fn first_seen(&self, position: usize) -> usize {
        (position + 1).saturating_sub(self.window)
    }
}

/// Neighbouring queries of one span.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tile {
    /// Index of the span.
    span: usize,
    /// Positions of the queries.
    first: usize,
    end: usize,
    /// Partitions before this tile's, over all tiles of the call.
    partitions_before: usize,
}

/// Lists of a call, kept for the next one.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    tiles: Vec<Tile>,
    partials: Buffer,
}

struct Attention<'a> {
    compute: &'a Compute,
    spans: &'a [Span],
    job: Job,
}

impl InplaceOp3 for Attention<'_> {
    fn name(&self) -> &'static str {
        "attention"
    }

    fn cpu_fwd(
        &self,
        out: &mut CpuStorage,
        out_layout: &Layout,
        qkv: &CpuStorage,
        qkv_layout: &Layout,
        pages: &CpuStorage,
        pages_layout: &Layout,
    ) -> candle_core::Result<()> {
        let (qkv, out) = (rows::f32s(qkv, qkv_layout)?, Shared::new(rows::f32s_mut(out, out_layout)?));
        match pages {
            CpuStorage::U8(_) => self.attend(qkv, rows::u8s(pages, pages_layout)?, out),
            _ => self.attend(qkv, rows::f16s(pages, pages_layout)?, out),
        }
        Ok(())
    }
}

impl Attention<'_> {
    /// Computes all tiles, in parallel where there is enough to do.
    fn attend<B: Stored>(&self, qkv: &[f32], pages: &[B], out: Shared<'_, f32>) {
        let mut plan = self.compute.attention_plan();
        let Plan { tiles, partials } = &mut *plan;
        let partitions = self.split_into_tiles(tiles);
        let (tiles, kv_heads, isa) = (&**tiles, self.job.shape.num_kv_heads, self.compute.isa());
        let task = |tile: usize, kv_head: usize| {
            let tile = tiles[tile];
            TileTask { job: self.job, span: &self.spans[tile.span], tile, kv_head, qkv, pages, isa }
        };
        let tasks = tiles.len() * kv_heads;
        if self.work() < SERIAL_WORK {
            self.compute
                .with_scratch(|buffer| (0..tasks).for_each(|i| task(i / kv_heads, i % kv_heads).run(buffer, out)));
        } else if partitions == tiles.len() || tasks >= 4 * self.compute.threads() {
            // Later tiles see more: they go first.
            self.compute.parallel_for_scratch(tasks, |buffer, i| {
                let i = tasks - 1 - i;
                task(i / kv_heads, i % kv_heads).run(buffer, out);
            });
        } else {
            let partials = Shared::new(partials.get(partitions * kv_heads * self.job.partial_len()));
            self.compute.parallel_for_scratch(partitions * kv_heads, |buffer, i| {
                let partition = i / kv_heads;
                let tile = tiles.partition_point(|tile| tile.partitions_before <= partition) - 1;
                task(tile, i % kv_heads).run_partition(partition - tiles[tile].partitions_before, buffer, partials);
            });
            self.compute.parallel_for_scratch(tasks, |buffer, i| {
                task(i / kv_heads, i % kv_heads).merge_partitions(partials, buffer, out);
            });
        }
    }

    /// Cuts the spans into tiles that start at multiples of the tile's length, and counts their partitions.
    fn split_into_tiles(&self, tiles: &mut Vec<Tile>) -> usize {
        let len = self.job.tile_positions();
        let mut partitions_before = 0;
        tiles.clear();
        for (i, span) in self.spans.iter().enumerate() {
            let mut first = span.first_position();
            while first < span.context_len {
                let end = (first + 1).next_multiple_of(len).min(span.context_len);
                let tile = Tile { span: i, first, end, partitions_before };
                partitions_before += self.job.partitions(tile).len();
                tiles.push(tile);
                first = end;
            }
        }
        partitions_before
    }

    /// An upper bound of the multiply-adds.
    fn work(&self) -> usize {
        let seen = |span: &Span| span.query_len.saturating_mul(span.context_len.min(self.job.window));
        let pairs = self.spans.iter().map(seen).fold(0, usize::saturating_add);
        pairs.saturating_mul(2 * self.job.num_heads * self.job.shape.head_dim)
    }
}
