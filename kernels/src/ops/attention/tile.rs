//! One tile of attention: the queries of some neighbouring tokens and one group of heads, over all positions that they
//! see. Rows of a tile are tokens times heads of the group, a token's heads together.

use std::ops::Range;

use super::block::{Convert, Element, Merge, Product, Scale, Softmax, Stored};
use super::{Job, PARTITION, Tile};
use crate::kv::BLOCK_SIZE;
use crate::scratch::Buffer;
use crate::shared::Shared;
use crate::simd::dispatch;
use crate::{Isa, Span};

/// Rows up to which stored elements are converted in registers, anew for each product, instead of once into memory.
const DIRECT_ROWS: usize = 6;

/// Pages of keys or values between the one that is read and the one that is brought into the cache meanwhile.
const PAGES_AHEAD: usize = 2;

/// A tile and what it reads.
pub(super) struct TileTask<'a, B> {
    pub job: Job,
    pub span: &'a Span,
    pub tile: Tile,
    pub kv_head: usize,
    /// `(num_tokens, job.columns)`.
    pub qkv: &'a [f32],
    pub pages: &'a [B],
    pub isa: Isa,
}

/// A softmax not yet normalised, of every row of a tile.
struct Sums<'a> {
    /// `(rows, padded_dim)`: values times weights.
    values: &'a mut [f32],
    /// `(rows)`: the largest score.
    max: &'a mut [f32],
    /// `(rows)`: the sum of weights, at least 1; 0 in a row that has seen nothing.
    weights: &'a mut [f32],
}

/// The working memory of a tile.
struct Memory<'a> {
    /// `(rows, head_dim)`, scaled.
    queries: &'a mut [f32],
    /// `(rows, PARTITION)`: scores, then weights.
    scores: &'a mut [f32],
    /// `(head_dim, BLOCK_SIZE)`.
    keys: &'a mut [f32],
    /// `(BLOCK_SIZE, padded_dim)`.
    values: &'a mut [f32],
    /// The running partition.
    partial: Sums<'a>,
    /// The partitions before it.
    total: Sums<'a>,
}

impl<B: Stored> TileTask<'_, B> {
    fn rows(&self) -> usize {
        (self.tile.end - self.tile.first) * self.job.group()
    }

    /// Computes the tile and writes its rows of `out`, `(num_tokens, num_heads * head_dim)`.
    pub fn run(&self, buffer: &mut Buffer, out: Shared<'_, f32>) {
        let mut memory = self.memory(buffer);
        self.load_queries(memory.queries);
        memory.total.clear();
        for partition in self.job.partitions(self.tile) {
            self.partition(partition, &mut memory);
            memory.total.merge(&memory.partial, self.isa);
        }
        self.write(&memory.total, out);
    }

    /// Computes the `index`th partition that the tile sees into its place in `partials`.
    pub fn run_partition(&self, index: usize, buffer: &mut Buffer, partials: Shared<'_, f32>) {
        let mut memory = self.memory(buffer);
        self.load_queries(memory.queries);
        let range = self.partial(index);
        // SAFETY: every partition of every tile and head has a place of its own, and this task alone has this one.
        let place = unsafe { partials.slice(range.start, range.len()) };
        memory.partial = Sums::carve(place, self.rows(), self.job.padded_dim()).0;
        self.partition(self.job.partitions(self.tile).start + index, &mut memory);
    }

    /// Merges what [`TileTask::run_partition`] left of all partitions and writes the tile's rows of `out`.
    pub fn merge_partitions(&self, partials: Shared<'_, f32>, buffer: &mut Buffer, out: Shared<'_, f32>) {
        let memory = self.memory(buffer);
        let mut total = memory.total;
        total.clear();
        for index in 0..self.job.partitions(self.tile).len() {
            let range = self.partial(index);
            // SAFETY: as in `run_partition`, whose tasks have all ended; a tile's partials belong to this task.
            let place = unsafe { partials.slice(range.start, range.len()) };
            total.merge(&Sums::carve(place, self.rows(), self.job.padded_dim()).0, self.isa);
        }
        self.write(&total, out);
    }

    /// Where the `index`th partition of this tile and head lies.
    fn partial(&self, index: usize) -> Range<usize> {
        let len = self.job.partial_len();
        let place = (self.tile.partitions_before + index) * self.job.shape.num_kv_heads + self.kv_head;
        place * len..(place + 1) * len
    }

    fn memory<'m>(&self, buffer: &'m mut Buffer) -> Memory<'m> {
        let (rows, head_dim, padded) = (self.rows(), self.job.shape.head_dim, self.job.padded_dim());
        let sums = rows * (padded + 2);
        let len = rows * (head_dim + PARTITION) + BLOCK_SIZE * (head_dim + padded) + 2 * sums;
        // Pages first: their rows are whole cache lines.
        let (keys, rest) = buffer.get(len).split_at_mut(head_dim * BLOCK_SIZE);
        let (values, rest) = rest.split_at_mut(BLOCK_SIZE * padded);
        let (scores, rest) = rest.split_at_mut(rows * PARTITION);
        let (queries, rest) = rest.split_at_mut(rows * head_dim);
        let (partial, rest) = Sums::carve(rest, rows, padded);
        let (total, _) = Sums::carve(rest, rows, padded);
        Memory { queries, scores, keys, values, partial, total }
    }

    fn load_queries(&self, queries: &mut [f32]) {
        let group_len = self.job.group() * self.job.shape.head_dim;
        let first_row = self.span.query_start + self.tile.first - self.span.first_position();
        for (i, to) in queries.chunks_exact_mut(group_len).enumerate() {
            let from = &self.qkv[(first_row + i) * self.job.columns + self.kv_head * group_len..][..group_len];
            for (to, from) in to.iter_mut().zip(from) {
                *to = from * self.job.scale;
            }
        }
    }

    fn write(&self, total: &Sums<'_>, out: Shared<'_, f32>) {
        let (head_dim, padded) = (self.job.shape.head_dim, self.job.padded_dim());
        let group = self.job.group();
        let first_row = self.span.query_start + self.tile.first - self.span.first_position();
        for (i, (values, weights)) in total.values.chunks_exact(padded).zip(&*total.weights).enumerate() {
            let head = (first_row + i / group) * self.job.num_heads + self.kv_head * group + i % group;
            // SAFETY: this task alone writes these heads of these rows.
            let out = unsafe { out.slice(head * head_dim, head_dim) };
            let factor = 1.0 / weights;
            for (out, value) in out.iter_mut().zip(values) {
                *out = value * factor;
            }
        }
    }

    /// The softmax over one partition into `memory.partial`: scores, weights, weighted values.
    fn partition(&self, partition: usize, memory: &mut Memory<'_>) {
        memory.partial.clear();
        let start = partition * PARTITION;
        let first = start.max(self.job.first_seen(self.tile.first));
        let end = (start + PARTITION).min(self.tile.end);
        let blocks = first / BLOCK_SIZE..end.div_ceil(BLOCK_SIZE);
        for (i, block) in blocks.clone().enumerate() {
            self.score(block, self.page(&blocks, i + PAGES_AHEAD), memory);
        }
        for position in self.tile.first..self.tile.end {
            let seen = self.seen(position, start, PARTITION);
            if !seen.is_empty() {
                let rows = self.row_range(&(position..position + 1));
                let scores = &mut memory.scores[times(&rows, PARTITION)];
                let (max, sum) = (&mut memory.partial.max[rows.clone()], &mut memory.partial.weights[rows]);
                dispatch(self.isa, Softmax { scores, seen, max, sum });
            }
        }
        for (i, block) in blocks.clone().enumerate() {
            self.add_values(block, self.page(&blocks, blocks.len() + i + PAGES_AHEAD), memory);
        }
    }

    /// The `i`th page that is read for the partition of `blocks`, or one of the next partition: all keys, then all values.
    fn page(&self, blocks: &Range<usize>, i: usize) -> &[B] {
        let seen = self.tile.end.div_ceil(BLOCK_SIZE);
        match i.checked_sub(blocks.len()) {
            None => self.keys(blocks.start + i),
            Some(i) if i < blocks.len() => self.values(blocks.start + i),
            Some(i) if blocks.start + i < seen => self.keys(blocks.start + i),
            Some(_) => &[],
        }
    }

    /// Scores of one block. `ahead`: what to bring into the cache meanwhile.
    fn score(&self, block: usize, ahead: &[B], memory: &mut Memory<'_>) {
        let (isa, depth) = (self.isa, self.job.shape.head_dim);
        let rows = self.row_range(&self.sight(block).some);
        let stored = self.keys(block);
        let queries = &memory.queries[times(&rows, depth)];
        let scores = &mut memory.scores[rows.start * PARTITION + block * BLOCK_SIZE % PARTITION..];
        if rows.len() <= DIRECT_ROWS {
            dispatch(isa, scores_of(rows.len(), queries, stored, scores, ahead));
        } else {
            dispatch(isa, Convert { from: stored, to: memory.keys });
            dispatch(isa, scores_of(rows.len(), queries, memory.keys, scores, &[]));
        }
        self.scale(self.job.shape.keys(self.span.block_table[block], self.kv_head), rows.len(), scores);
    }

    /// Adds the weighted values of one block. `ahead`: what to bring into the cache meanwhile.
    fn add_values(&self, block: usize, ahead: &[B], memory: &mut Memory<'_>) {
        let (head_dim, padded) = (self.job.shape.head_dim, self.job.padded_dim());
        let sight = self.sight(block);
        let rows = self.row_range(&sight.some);
        let stored = self.values(block);
        let weights = &mut memory.scores[rows.start * PARTITION + block * BLOCK_SIZE % PARTITION..];
        self.scale(self.job.shape.values(self.span.block_table[block], self.kv_head), rows.len(), weights);
        let sums = &mut memory.partial.values[times(&rows, padded)];
        if rows.len() <= DIRECT_ROWS && head_dim == padded {
            self.add_seen(stored, &sight, weights, sums, ahead);
            return;
        }
        for (from, to) in stored.chunks_exact(head_dim).zip(memory.values.chunks_exact_mut(padded)) {
            dispatch(self.isa, Convert { from, to: &mut to[..head_dim] });
            to[head_dim..].fill(0.0);
        }
        self.add_seen(memory.values, &sight, weights, sums, &[]);
    }

    /// Adds the weighted values of the positions that each query sees: what it does not see is not touched, for
    /// a stale NaN times a weight of 0 would not be nothing. `weights` and `sums` start at `sight.some`.
    fn add_seen<E: Element>(&self, values: &[E], sight: &Sight, weights: &[f32], sums: &mut [f32], ahead: &[E]) {
        let padded = self.job.padded_dim();
        let mut add = |positions: Range<usize>, seen: Range<usize>| {
            let group = self.job.group();
            let rows = (positions.start - sight.some.start) * group..(positions.end - sight.some.start) * group;
            dispatch(
                self.isa,
                Product {
                    rows: rows.len(),
                    a: &weights[rows.start * PARTITION + seen.start..],
                    a_stride: PARTITION,
                    b: &values[seen.start * padded..],
                    depth: seen.len(),
                    columns: padded,
                    c: &mut sums[times(&rows, padded)],
                    c_stride: padded,
                    add: true,
                    ahead,
                },
            );
        };
        if !sight.all.is_empty() {
            add(sight.all.clone(), 0..BLOCK_SIZE);
        }
        for position in sight.partly() {
            add(position..position + 1, self.seen(position, sight.start, BLOCK_SIZE));
        }
    }

    /// Multiplies what belongs to the positions of the half page at `half`, in the first columns of `rows` rows, by their
    /// scales. What a query does not see may become NaN.
    fn scale(&self, half: usize, rows: usize, columns: &mut [f32]) {
        let shape = self.job.shape;
        let rest = &self.pages[half..][BLOCK_SIZE * shape.head_dim..shape.half_len];
        if let Some(factors) = &B::scales(rest) {
            let rows = &mut columns[..(rows - 1) * PARTITION + BLOCK_SIZE];
            dispatch(self.isa, Scale { rows, factors });
        }
    }

    /// The stored keys of one block, `(head_dim, BLOCK_SIZE)`.
    fn keys(&self, block: usize) -> &[B] {
        let at = self.job.shape.keys(self.span.block_table[block], self.kv_head);
        &self.pages[at..][..BLOCK_SIZE * self.job.shape.head_dim]
    }

    /// The stored values of one block, `(BLOCK_SIZE, head_dim)`.
    fn values(&self, block: usize) -> &[B] {
        let at = self.job.shape.values(self.span.block_table[block], self.kv_head);
        &self.pages[at..][..BLOCK_SIZE * self.job.shape.head_dim]
    }

    fn sight(&self, block: usize) -> Sight {
        let (start, end, window) = (block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE, self.job.window);
        let some = self.tile.first.max(start)..self.tile.end.min((end - 1).saturating_add(window));
        let all = some.start.max(end - 1)..some.end.min(start.saturating_add(window));
        Sight { start, some, all }
    }

    /// What the query at `position` sees of the `len` positions from `start`, as offsets into them.
    fn seen(&self, position: usize, start: usize, len: usize) -> Range<usize> {
        let first = self.job.first_seen(position).clamp(start, start + len);
        first - start..(position + 1).clamp(start, start + len) - start
    }

    /// Rows of the queries at `positions`.
    fn row_range(&self, positions: &Range<usize>) -> Range<usize> {
        let group = self.job.group();
        (positions.start - self.tile.first) * group..(positions.end - self.tile.first) * group
    }
}

/// Which of a tile's queries see a block.
struct Sight {
    /// First position of the block.
    start: usize,
    /// Positions of the queries that see some of it.
    some: Range<usize>,
    /// Positions, among them, of the queries that see all of it; may be empty.
    all: Range<usize>,
}

impl Sight {
    /// Positions of the queries that see a part of the block.
    fn partly(&self) -> impl Iterator<Item = usize> {
        self.some.clone().filter(|position| !self.all.contains(position))
    }
}

impl<'a> Sums<'a> {
    /// Takes the memory of `rows` rows from the front of `memory`; returns the rest too.
    fn carve(memory: &'a mut [f32], rows: usize, padded_dim: usize) -> (Self, &'a mut [f32]) {
        let (values, rest) = memory.split_at_mut(rows * padded_dim);
        let (max, rest) = rest.split_at_mut(rows);
        let (weights, rest) = rest.split_at_mut(rows);
        (Self { values, max, weights }, rest)
    }

    /// Nothing seen yet.
    fn clear(&mut self) {
        self.values.fill(0.0);
        self.max.fill(f32::NEG_INFINITY);
        self.weights.fill(0.0);
    }

    /// Adds the sums of later positions.
    fn merge(&mut self, later: &Sums<'_>, isa: Isa) {
        let Self { values, max, weights } = self;
        let (later_values, later_max, later_weights) = (&*later.values, &*later.max, &*later.weights);
        dispatch(isa, Merge { values, max, weights, later_values, later_max, later_weights });
    }
}

/// The product of queries and keys, `(head_dim, BLOCK_SIZE)`, into the columns of `scores`, `(rows, PARTITION)`.
fn scores_of<'a, B: Element>(
    rows: usize,
    queries: &'a [f32],
    keys: &'a [B],
    scores: &'a mut [f32],
    ahead: &'a [B],
) -> Product<'a, B> {
    let (depth, columns) = (keys.len() / BLOCK_SIZE, BLOCK_SIZE);
    Product {
        rows,
        a: queries,
        a_stride: depth,
        b: keys,
        depth,
        columns,
        c: scores,
        c_stride: PARTITION,
        add: false,
        ahead,
    }
}

/// A range of rows as a range of elements.
fn times(rows: &Range<usize>, columns: usize) -> Range<usize> {
    rows.start * columns..rows.end * columns
}
