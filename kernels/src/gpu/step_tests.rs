//! The tables of a step as the card reads them.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use super::*;
use crate::KvCacheType;

const SHAPE: AttentionShape =
    AttentionShape { num_heads: 4, num_kv_heads: 2, head_dim: 64, cache_type: KvCacheType::F16, window: None };
const CAPACITY: StepCapacity = StepCapacity { rows: 21, spans: 4, span_blocks: 9, cache_blocks: 6 };

fn span(query_start: usize, query_len: usize, context_len: usize, block_table: &[u32]) -> Span {
    Span { query_start, query_len, context_len, block_table: block_table.to_vec() }
}

/// What lies on the card.
fn words(tables: &StepTables) -> Vec<u32> {
    tables.device.to_vec1().unwrap()
}

#[test]
fn rows_have_their_ids_positions_and_slots_and_padding_has_none() {
    let gpu = Gpu::open(0).unwrap();
    let mut tables = StepTables::new(&gpu, SHAPE, CAPACITY).unwrap();
    // A larger step before, of which nothing may be left.
    let whole = [span(0, 21, 21, &[3])];
    tables.fill(&gpu, &[9; 21], &whole, (21, false)).unwrap();
    let spans = [span(0, 3, 35, &[5, 1, 4]), span(3, 1, 64, &[0, 2])];
    tables.fill(&gpu, &[7, 8, 9, 10], &spans, (8, false)).unwrap();
    let (found, Layout { ids, positions, slots, tables: blocks, .. }) = (words(&tables), tables.layout);
    assert_eq!(found[0], 4);
    assert_eq!(found[1] as usize, tables.attention_blocks().0);
    assert_eq!(found[ids..ids + 8], [7, 8, 9, 10, 0, 0, 0, 0]);
    assert_eq!(found[positions..positions + 8], [32, 33, 34, 63, 0, 0, 0, 0]);
    let none = NO_SLOT;
    assert_eq!(found[slots..slots + 8], [32, 33, 34, 2 * 32 + 31, none, none, none, none]);
    assert_eq!(found[blocks..blocks + 4], [5, 1, 0, 2], "blocks of the contexts alone");
    assert_eq!((tables.num_rows(), tables.padded_rows()), (4, 8));
}

#[test]
fn parts_stay_where_they_are_from_step_to_step() {
    let gpu = Gpu::open(0).unwrap();
    let mut tables = StepTables::new(&gpu, SHAPE, CAPACITY).unwrap();
    let places = |tables: &StepTables| {
        [tables.counts(&gpu), tables.ids(&gpu), tables.positions(&gpu), tables.slots(&gpu), tables.items(&gpu)]
            .map(Result::unwrap)
    };
    let before = places(&tables);
    tables.fill(&gpu, &[1; 20], &[span(0, 20, 90, &[0, 1, 2])], (21, false)).unwrap();
    assert_eq!(places(&tables), before);
}

#[test]
fn steps_beyond_the_capacity_are_refused() {
    let gpu = Gpu::open(0).unwrap();
    let mut tables = StepTables::new(&gpu, SHAPE, CAPACITY).unwrap();
    let one = |len: usize| [span(0, len, len, &[0, 1])];
    assert!(tables.fill(&gpu, &[0; 22], &one(22), (22, false)).is_err(), "rows");
    assert!(tables.fill(&gpu, &[0; 4], &one(4), (22, false)).is_err(), "padded rows");
    assert!(tables.fill(&gpu, &[0; 4], &one(4), (3, false)).is_err(), "less than its rows");
    assert!(tables.fill(&gpu, &[0; 3], &one(4), (4, false)).is_err(), "rows of no id");
    assert!(tables.fill(&gpu, &[0; 4], &[span(0, 4, 4, &[6])], (4, false)).is_err(), "a block that is not there");
    let many: Vec<Span> = (0..5).map(|i| span(i, 1, 1, &[0])).collect();
    assert!(tables.fill(&gpu, &[0; 5], &many, (5, false)).is_err(), "spans");
    let long: Vec<Span> = (0..4).map(|i| span(i, 1, 96, &[0, 1, 2])).collect();
    assert!(tables.fill(&gpu, &[0; 4], &long, (4, false)).is_err(), "blocks of spans");
}
