//! Plans of random steps: whatever is seen is somebody's, once, and everything that is shared fits its memory.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::HashMap;

use fastrand::Rng;

use super::*;
use crate::KvCacheType;

fn random_shape(rng: &mut Rng) -> AttentionShape {
    let num_kv_heads = rng.usize(1..5);
    AttentionShape {
        num_heads: num_kv_heads * [1, 3, 4, 8, 20][rng.usize(..5)],
        num_kv_heads,
        head_dim: [64, 80, 128, 256][rng.usize(..4)],
        cache_type: KvCacheType::F16,
        window: [None, Some(1), Some(100), Some(1000)][rng.usize(..4)],
    }
}

fn random_spans(rng: &mut Rng) -> Vec<Span> {
    let (mut query_start, mut spans) = (0, Vec::new());
    for _ in 0..rng.usize(1..20) {
        let query_len = [1, 1, 1, 3, rng.usize(1..300)][rng.usize(..5)];
        let longest = [1, 40, 3000][rng.usize(..3)];
        let context_len = query_len + rng.usize(..longest);
        let block_table = vec![0; context_len.div_ceil(BLOCK_SIZE)];
        spans.push(Span { query_start, query_len, context_len, block_table });
        query_start += query_len;
    }
    spans
}

/// Items in the order in which blocks take them: those that begin a block, each with those that follow it.
fn taken(plan: &Plan) -> Vec<Item> {
    let mut items = plan.many.clone();
    for block in 0..plan.few_blocks {
        let mut at = block;
        loop {
            items.push(plan.few[at]);
            at = plan.few[at].next as usize;
            if at == 0 {
                break;
            }
        }
    }
    items
}

#[test]
fn every_partition_that_a_row_sees_is_taken_once() {
    let mut rng = Rng::with_seed(1);
    let mut plan = Plan::default();
    for round in 0..400 {
        let (shape, spans) = (random_shape(&mut rng), random_spans(&mut rng));
        let blocks = rng.usize(1..600);
        let room = Room { multiprocessors: rng.usize(1..200), blocks, partials: [0, 5000, 1 << 22][rng.usize(..3)] };
        plan.make(&shape, &room, &spans);
        let items = taken(&plan);
        assert_eq!(items.len(), plan.few.len() + plan.many.len(), "round {round}: some item is nobody's");
        let rows = spans.iter().map(|span| span.query_len).sum();
        assert!(items.len() <= Plan::max_items(&shape, &room, rows, spans.len()), "round {round}: {}", items.len());
        assert!(plan.few_blocks <= room.blocks, "round {round}");
        let mut seen: HashMap<(u32, u32, u32), usize> = HashMap::new();
        for item in &items {
            for (row, partition) in
                (0..item.tokens).flat_map(|i| (item.begin..item.end).map(move |part| (item.first_row + i, part)))
            {
                *seen.entry((row, item.kv_head, partition)).or_default() += 1;
            }
        }
        assert!(seen.values().all(|&times| times == 1), "round {round}: something is taken twice");
        for (span, row) in spans.iter().flat_map(|span| (0..span.query_len).map(move |i| (span, i))) {
            let position = span.first_position() + row;
            for partition in shape.first_seen(position) / PARTITION..=position / PARTITION {
                for head in 0..shape.num_kv_heads as u32 {
                    let key = ((span.query_start + row) as u32, head, partition as u32);
                    assert!(seen.contains_key(&key), "round {round}: {key:?} is nobody's");
                }
            }
        }
    }
}

#[test]
fn those_who_share_a_tile_agree_on_it_and_on_its_memory() {
    let mut rng = Rng::with_seed(2);
    let mut plan = Plan::default();
    for round in 0..400 {
        let (shape, spans) = (random_shape(&mut rng), random_spans(&mut rng));
        let room = Room { multiprocessors: 132, blocks: rng.usize(1..600), partials: [5000, 1 << 22][rng.usize(..2)] };
        plan.make(&shape, &room, &spans);
        let mut by_counter: HashMap<u32, Vec<Item>> = HashMap::new();
        for item in plan.few.iter().filter(|item| item.items > 1) {
            by_counter.entry(item.counter).or_default().push(*item);
        }
        let mut used = Vec::new();
        for (counter, mut items) in by_counter {
            assert!((counter as usize) < room.blocks, "round {round}: counter {counter}");
            items.sort_by_key(|item| item.begin);
            let first = items[0];
            assert_eq!(items.len(), first.items as usize, "round {round}");
            let mut partial = 0;
            for (index, item) in items.iter().enumerate() {
                let shared = |item: &Item| (item.first_row, item.kv_head, item.partials, item.num_partials);
                assert_eq!(shared(item), shared(&first), "round {round}");
                assert_eq!(item.partial, partial, "round {round}");
                // The first merges its own; the others leave one for each partition.
                partial += if index == 0 { 1 } else { item.end - item.begin };
            }
            assert_eq!(partial, first.num_partials, "round {round}");
            let len = (first.tokens as usize * shape.group() * (shape.head_dim + 2)).div_ceil(4);
            used.push(first.partials as usize..first.partials as usize + partial as usize * len);
        }
        used.sort_by_key(|range| range.start);
        assert!(used.is_sorted_by(|a, b| a.end <= b.start), "round {round}: partial results overlap");
        assert!(used.last().is_none_or(|last| last.end <= room.partials), "round {round}: {used:?}");
    }
}

#[test]
fn one_long_sequence_is_spread_over_all_blocks() {
    let shape =
        AttentionShape { num_heads: 32, num_kv_heads: 8, head_dim: 128, cache_type: KvCacheType::F16, window: None };
    let room = Room { multiprocessors: 132, blocks: 264, partials: 1 << 22 };
    let context_len = 32 * 1024;
    let spans = [Span { query_start: 0, query_len: 1, context_len, block_table: vec![0; context_len / BLOCK_SIZE] }];
    let mut plan = Plan::default();
    plan.make(&shape, &room, &spans);
    assert_eq!(plan.few_blocks, room.blocks);
    let longest = plan.few.iter().map(|item| item.end - item.begin).max().unwrap();
    assert!(longest as usize <= (context_len / PARTITION * 8).div_ceil(room.blocks) + 1, "{longest} partitions");
}
