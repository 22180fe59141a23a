//! Which block of the card computes which part of a step's attention: queries cut into tiles, tiles of few rows spread
//! over blocks by what they read. Must not know kernels or memory. What is cut where changes speed, and no bit of an output.

use std::cmp::Reverse;

use super::attention_shape::{AttentionShape, FRAGMENT_ROWS};
use crate::{BLOCK_SIZE, Span};

/// Positions whose results are merged with others in order; `PARTITION` in `cuda/attention.cuh`.
pub(super) const PARTITION: usize = 128;
/// Pages of a partition.
const PARTITION_PAGES: usize = PARTITION / BLOCK_SIZE;
/// A tile is not cut for less than this part of a block's share.
const LEAST_CUT: usize = 8;

/// What there is to spread work over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub multiprocessors: usize,
    /// Blocks of the kernel for few queries.
    pub blocks: usize,
    /// Groups of four floats for partial results.
    pub partials: usize,
}

/// `AttentionItem` of `cuda/step.cuh`.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Item {
    pub first_row: u32,
    pub tokens: u32,
    pub first_position: u32,
    pub table: u32,
    pub kv_head: u32,
    pub begin: u32,
    pub end: u32,
    pub next: u32,
    pub items: u32,
    pub counter: u32,
    pub partials: u32,
    pub num_partials: u32,
    pub partial: u32,
    pub unused: [u32; 3],
}

impl Item {
    /// Words of an item.
    pub const WORDS: usize = size_of::<Self>() / size_of::<u32>();

    /// As the card reads it.
    pub fn words(&self) -> [u32; Self::WORDS] {
        let Self { first_row, tokens, first_position, table, kv_head, begin, end, next, .. } = *self;
        let Self { items, counter, partials, num_partials, partial, unused: [a, b, c], .. } = *self;
        let tile = [first_row, tokens, first_position, table, kv_head, begin, end, next];
        let split = [items, counter, partials, num_partials, partial, a, b, c];
        std::array::from_fn(|i| if i < tile.len() { tile[i] } else { split[i - tile.len()] })
    }
}

/// Neighbouring queries of one span, and what they see.
#[derive(Debug, Clone, Copy)]
struct Tile {
    first_row: usize,
    tokens: usize,
    first_position: usize,
    /// Where the ids of the span's blocks begin among those of all spans.
    table: usize,
    /// Partitions.
    begin: usize,
    end: usize,
}

impl Tile {
    /// Pages from the first partition to the last position.
    fn pages(&self) -> usize {
        (self.first_position + self.tokens).div_ceil(BLOCK_SIZE) - self.begin * PARTITION_PAGES
    }

    /// The whole of it, under one head.
    fn item(&self, kv_head: usize) -> Item {
        Item {
            first_row: self.first_row as u32,
            tokens: self.tokens as u32,
            first_position: self.first_position as u32,
            table: self.table as u32,
            kv_head: kv_head as u32,
            begin: self.begin as u32,
            end: self.end as u32,
            items: 1,
            ..Item::default()
        }
    }
}

/// The work of a step. Its vectors are kept for the next one.
#[derive(Debug, Default)]
pub(super) struct Plan {
    /// Items of the kernel for few queries: those that blocks begin with, then those that follow.
    pub few: Vec<Item>,
    /// Blocks of that kernel that have something to do.
    pub few_blocks: usize,
    /// Items of the kernel for many queries, a block each, the longest first.
    pub many: Vec<Item>,
    num_spans: usize,
    tiles: Vec<Tile>,
    /// Items with their blocks, before those that follow are moved back.
    cut: Vec<(usize, Item)>,
}

impl Plan {
    /// Most items of a step of so many rows and spans.
    pub fn max_items(shape: &AttentionShape, room: &Room, rows: usize, spans: usize) -> usize {
        let tokens = (FRAGMENT_ROWS / shape.group()).max(1);
        (spans + rows.div_ceil(tokens)) * shape.num_kv_heads + room.blocks
    }

    /// Whether no item reads a key of this step that belongs to the queries of another: every span is one tile.
    pub fn has_no_order(&self) -> bool {
        self.many.is_empty() && self.tiles.len() == self.num_spans
    }

    /// Plans the attention of `spans`.
    pub fn make(&mut self, shape: &AttentionShape, room: &Room, spans: &[Span]) {
        self.num_spans = spans.len();
        self.tiles.clear();
        self.many.clear();
        let use_many = uses_many(shape, room, spans);
        let mut table = 0;
        for span in spans {
            let is_many = is_long(shape, span) && use_many;
            let rows = if is_many { shape.many_rows() } else { FRAGMENT_ROWS };
            let tokens = rows / shape.group();
            for first in (0..span.query_len).step_by(tokens) {
                let tile = tile(shape, span, first, tokens.min(span.query_len - first), table);
                if is_many {
                    self.many.extend((0..shape.num_kv_heads).map(|head| tile.item(head)));
                } else {
                    self.tiles.push(tile);
                }
            }
            table += span.context_len.div_ceil(BLOCK_SIZE);
        }
        self.many.sort_by_key(|item| Reverse(item.end - item.begin));
        self.cut(shape, room);
        self.link();
    }

    /// Cuts the line of all partitions of all tiles and heads into shares of equal numbers of pages.
    fn cut(&mut self, shape: &AttentionShape, room: &Room) {
        let heads = shape.num_kv_heads;
        let total = self.tiles.iter().map(Tile::pages).sum::<usize>() * heads;
        let partitions = self.tiles.iter().map(|tile| tile.end - tile.begin).sum::<usize>() * heads;
        let mut line = Line { total, blocks: room.blocks.min(partitions), done: 0, partials: room.partials, used: 0 };
        let mut counters = 0;
        self.cut.clear();
        for tile in &self.tiles {
            for kv_head in 0..heads {
                let first = self.cut.len();
                line.cut(tile, tile.item(kv_head), partial_len(shape, tile), &mut self.cut);
                if self.cut.len() > first + 1 {
                    line.share(&mut self.cut[first..], counters, partial_len(shape, tile));
                    counters += 1;
                }
            }
        }
    }

    /// Puts the items that blocks begin with first, and the others behind them.
    fn link(&mut self) {
        self.few_blocks = self.cut.chunk_by(|a, b| a.0 == b.0).count();
        self.few.clear();
        self.few.resize(self.few_blocks, Item::default());
        for (block, items) in self.cut.chunk_by(|a, b| a.0 == b.0).enumerate() {
            let mut at = block;
            for (i, &(_, item)) in items.iter().enumerate() {
                if i > 0 {
                    self.few[at].next = self.few.len() as u32;
                    at = self.few.len();
                    self.few.push(item);
                } else {
                    self.few[at] = item;
                }
            }
        }
    }
}

/// The line of partitions, as far as it has been cut.
struct Line {
    /// Pages.
    total: usize,
    blocks: usize,
    done: usize,
    /// Groups of four floats for partial results: all, and used.
    partials: usize,
    used: usize,
}

impl Line {
    /// Cuts one tile under one head. Where there is no memory for more partial results the rest stays in one piece.
    fn cut(&mut self, tile: &Tile, whole: Item, partial_len: usize, to: &mut Vec<(usize, Item)>) {
        let (mut begin, end, mut is_cut) = (tile.begin, tile.end, false);
        let start = self.done;
        while begin < end {
            let block = self.done * self.blocks / self.total;
            let share_end = ((block + 1) * self.total).div_ceil(self.blocks);
            let rest = start + tile.pages() - self.done;
            let mut taken = (share_end - self.done).div_ceil(PARTITION_PAGES).min(end - begin);
            let left = rest.saturating_sub(taken * PARTITION_PAGES);
            let needed = (1 + end - begin - taken) * partial_len;
            if !is_cut && (left * LEAST_CUT * self.blocks <= self.total || self.used + needed > self.partials) {
                taken = end - begin;
            }
            is_cut = true;
            to.push((block, Item { begin: begin as u32, end: (begin + taken) as u32, ..whole }));
            begin += taken;
            self.done += rest.min(taken * PARTITION_PAGES);
        }
    }

    /// Gives the items of one tile and head a counter and places for their partial results: one of the first item, which
    /// merges its own in order, and one for each partition of the others.
    fn share(&mut self, items: &mut [(usize, Item)], counter: u32, partial_len: usize) {
        let (len, first_end) = (items.len() as u32, items[0].1.end);
        let num_partials = 1 + items[items.len() - 1].1.end - first_end;
        for (_, item) in &mut *items {
            item.items = len;
            item.counter = counter;
            item.partials = self.used as u32;
            item.num_partials = num_partials;
            item.partial = if item.end == first_end { 0 } else { 1 + item.begin - first_end };
        }
        self.used += num_partials as usize * partial_len;
    }
}

/// Whether a span does not fit one fragment.
fn is_long(shape: &AttentionShape, span: &Span) -> bool {
    span.query_len * shape.group() > FRAGMENT_ROWS
}

/// Whether the long spans keep every multiprocessor busy, a block for each tile and head. Where not, they are better
/// spread as those of few queries are.
fn uses_many(shape: &AttentionShape, room: &Room, spans: &[Span]) -> bool {
    let tokens = shape.many_rows() / shape.group();
    let long = spans.iter().filter(|span| is_long(shape, span));
    let tiles: usize = long.map(|span| span.query_len.div_ceil(tokens)).sum();
    shape.group() > FRAGMENT_ROWS || tiles * shape.num_kv_heads >= room.multiprocessors
}

fn tile(shape: &AttentionShape, span: &Span, first: usize, tokens: usize, table: usize) -> Tile {
    let first_position = span.first_position() + first;
    Tile {
        first_row: span.query_start + first,
        tokens,
        first_position,
        table,
        begin: shape.first_seen(first_position) / PARTITION,
        end: (first_position + tokens).div_ceil(PARTITION),
    }
}

/// Groups of four floats of a partial result: sums, maxima and weights of all rows.
fn partial_len(shape: &AttentionShape, tile: &Tile) -> usize {
    (tile.tokens * shape.group() * (shape.head_dim + 2)).div_ceil(4)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
