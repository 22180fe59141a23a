//! The prefix cache by itself: what is shared, with whom, and what is given up first.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;

const TENANT: CacheScope = CacheScope { shared_tokens: 0, tenant: 7 };

fn tokens(blocks: usize, first: u32) -> Vec<u32> {
    (0..(blocks * BLOCK_SIZE) as u32).map(|i| first + i).collect()
}

fn prefix(tokens: &[u32]) -> Prefix<'_> {
    Prefix { tokens, scope: TENANT }
}

/// Computes `tokens` as a sequence would and keeps its blocks.
fn compute(cache: &mut PrefixCache, prefix: Prefix<'_>) -> (BlockTable, Chain) {
    let found = cache.lookup(prefix, prefix.tokens.len() / BLOCK_SIZE, 0);
    let mut table = BlockTable::default();
    let mut chain = cache.take(&found, &mut table);
    while table.len() < prefix.tokens.len().div_ceil(BLOCK_SIZE) {
        table.push(cache.allocate().unwrap());
    }
    cache.complete(&mut chain, prefix, &table);
    cache.pool().check_integrity().unwrap();
    (table, chain)
}

#[test]
fn a_prefix_is_found_as_far_as_it_agrees() {
    let mut cache = PrefixCache::new(8, true);
    let first = tokens(3, 0);
    let (table, _) = compute(&mut cache, prefix(&first));
    let mut second = first.clone();
    second[2 * BLOCK_SIZE + 5] += 1;
    let found = cache.lookup(prefix(&second), 3, 0);
    assert_eq!(found.hits, table.blocks()[..2].iter().map(Block::id).collect::<Vec<_>>());
    assert_eq!(cache.lookup(prefix(&first), 2, 0).hits.len(), 2, "no more than asked for");
    second[0] += 1;
    assert_eq!(cache.lookup(prefix(&second), 3, 0).hits.len(), 0);
}

#[test]
fn equal_blocks_behind_different_beginnings_are_different() {
    let mut cache = PrefixCache::new(8, true);
    let tail = tokens(1, 1000);
    let first: Vec<u32> = tokens(1, 0).into_iter().chain(tail.clone()).collect();
    let second: Vec<u32> = tokens(1, 500).into_iter().chain(tail.clone()).collect();
    let _first = compute(&mut cache, prefix(&first));
    assert_eq!(cache.lookup(prefix(&second), 2, 0).hits.len(), 0);
    let (table, _chain) = compute(&mut cache, Prefix { tokens: &second[..BLOCK_SIZE], scope: TENANT });
    assert_eq!(cache.lookup(prefix(&second), 2, 0).hits, [table.blocks()[0].id()]);
    assert_eq!(cache.lookup(prefix(&tail), 1, 0).hits.len(), 0);
}

#[test]
fn tenants_share_the_installations_part_only() {
    let mut cache = PrefixCache::new(8, true);
    let text = tokens(3, 0);
    // One and a half blocks are the installation's: only the whole one is shared.
    let scope = |tenant| CacheScope { shared_tokens: BLOCK_SIZE + BLOCK_SIZE / 2, tenant };
    let _kept = compute(&mut cache, Prefix { tokens: &text, scope: scope(1) });
    assert_eq!(cache.lookup(Prefix { tokens: &text, scope: scope(1) }, 3, 0).hits.len(), 3);
    assert_eq!(cache.lookup(Prefix { tokens: &text, scope: scope(2) }, 3, 0).hits.len(), 1);
    assert_eq!(cache.lookup(prefix(&text), 3, 0).hits.len(), 0, "a prompt without a shared part");
}

#[test]
fn the_end_of_the_least_recently_used_goes_first() {
    let mut cache = PrefixCache::new(4, true);
    let (old, new) = (tokens(2, 0), tokens(2, 1000));
    drop(compute(&mut cache, prefix(&old)));
    drop(compute(&mut cache, prefix(&new)));
    drop(compute(&mut cache, prefix(&old)));
    assert_eq!(cache.pool().num_retained(), 4);
    let taken = cache.allocate().unwrap();
    assert_eq!(cache.lookup(prefix(&new), 2, 0).hits.len(), 1, "the newer text was used longer ago");
    assert_eq!(cache.lookup(prefix(&old), 2, 0).hits.len(), 2);
    let more = cache.allocate().unwrap();
    assert_eq!(cache.lookup(prefix(&new), 2, 0).hits.len(), 0);
    drop((taken, more));
    cache.check_integrity([].into_iter()).unwrap();
}

#[test]
fn owned_blocks_are_never_evicted() {
    let mut cache = PrefixCache::new(2, true);
    let text = tokens(2, 0);
    let kept = compute(&mut cache, prefix(&text));
    assert!(cache.allocate().is_none());
    assert_eq!(cache.lookup(prefix(&text), 2, 0).hits.len(), 2);
    drop(kept);
    assert!(cache.allocate().is_some());
}

#[test]
fn a_claimed_block_is_awaited_until_it_is_done_or_given_up() {
    let mut cache = PrefixCache::new(8, true);
    let text = tokens(3, 0);
    let mut table = BlockTable::default();
    let mut chain = Chain::default();
    cache.claim(&mut chain, prefix(&text), 1, 5);
    let awaited = cache.lookup(prefix(&text), 3, 5).awaits.unwrap();
    assert!(cache.is_computing(awaited));
    assert_eq!(cache.lookup(prefix(&text), 3, 6).awaits, None, "a higher priority does not wait for a lower one");
    assert_eq!(cache.lookup(prefix(&tokens(3, 1)), 3, 0).awaits, None);

    table.push(cache.allocate().unwrap());
    cache.complete(&mut chain, prefix(&text[..BLOCK_SIZE]), &table);
    assert!(!cache.is_computing(awaited));
    let found = cache.lookup(prefix(&text), 3, 0);
    assert_eq!(found.hits.len(), 1);
    let next = found.awaits.unwrap();
    cache.abandon(&mut chain, 1);
    assert!(!cache.is_computing(next));
    assert_eq!(cache.lookup(prefix(&text), 3, 0), Lookup { awaits: None, ..found });
    cache.check_integrity([&table].into_iter()).unwrap();
}

#[test]
fn two_who_compute_the_same_keep_one_copy() {
    let mut cache = PrefixCache::new(4, true);
    let text = tokens(1, 0);
    let (mut first, mut second) = (Chain::default(), Chain::default());
    cache.claim(&mut first, prefix(&text), 1, 0);
    cache.claim(&mut second, prefix(&text), 2, 1);
    let mut tables = [BlockTable::default(), BlockTable::default()];
    for table in &mut tables {
        table.push(cache.allocate().unwrap());
    }
    cache.complete(&mut second, prefix(&text), &tables[1]);
    cache.complete(&mut first, prefix(&text), &tables[0]);
    cache.abandon(&mut first, 1);
    cache.abandon(&mut second, 2);
    assert_eq!(cache.lookup(prefix(&text), 1, 0).hits, [tables[1].blocks()[0].id()]);
    cache.check_integrity(tables.iter()).unwrap();
    drop(tables);
    assert_eq!((cache.pool().num_retained(), cache.pool().num_available()), (1, 4));
}

#[test]
fn giving_up_leaves_the_claims_of_others() {
    let mut cache = PrefixCache::new(1, true);
    let text = tokens(1, 0);
    let mut chains = [Chain::default(), Chain::default(), Chain::default()];
    cache.claim(&mut chains[0], prefix(&text), 1, 0);
    // A second one is faster, its block is evicted, and a third one claims what the first has claimed, too.
    let mut table = BlockTable::default();
    table.push(cache.allocate().unwrap());
    cache.complete(&mut chains[1], prefix(&text), &table);
    drop(table);
    drop(cache.allocate().unwrap());
    cache.claim(&mut chains[2], prefix(&text), 3, 0);
    let awaited = cache.lookup(prefix(&text), 1, 0).awaits.unwrap();
    cache.abandon(&mut chains[0], 1);
    assert!(cache.is_computing(awaited));
    cache.abandon(&mut chains[2], 3);
    assert!(!cache.is_computing(awaited));
    cache.check_integrity([].into_iter()).unwrap();
}

#[test]
fn forgotten_blocks_are_not_found_and_become_free() {
    let mut cache = PrefixCache::new(4, true);
    let text = tokens(2, 0);
    let (table, _chain) = compute(&mut cache, prefix(&text));
    cache.forget(&table);
    assert_eq!(cache.lookup(prefix(&text), 2, 0).hits.len(), 0);
    drop(table);
    assert_eq!((cache.pool().num_retained(), cache.pool().num_available()), (0, 4));
    cache.check_integrity([].into_iter()).unwrap();
}

#[test]
fn switched_off_it_only_allocates() {
    let mut cache = PrefixCache::new(2, false);
    let text = tokens(1, 0);
    drop(compute(&mut cache, prefix(&text)));
    assert_eq!(cache.lookup(prefix(&text), 1, 0), Lookup::default());
    assert_eq!(cache.pool().num_retained(), 0);
}

#[test]
fn integrity_notices_a_block_with_two_writers() {
    let mut cache = PrefixCache::new(2, true);
    let block = cache.allocate().unwrap();
    let mut tables = [BlockTable::default(), BlockTable::default()];
    tables[0].push(block.clone());
    tables[1].push(block);
    assert!(cache.check_integrity(tables.iter()).unwrap_err().contains("2 owners"));
    assert!(cache.check_integrity(tables[..1].iter()).unwrap_err().contains("references"));
}
