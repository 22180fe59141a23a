//! Which replica takes a request: the one that has most of the prompt's beginning in its prefix cache, by what it was given
//! lately, unless it has much more to do than another; else the one with the least inside. A guess that only costs time
//! when it is wrong. Must not know what a replica is.

use std::{
    cmp::Reverse,
    collections::HashSet,
    hash::RandomState,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::prefix_cache::Prefix;

/// Requests that a replica may have beyond the least busy one, and a quarter of what that has, before others take what it
/// knows: some more rows make a step little longer, a prompt that is read again takes whole steps.
const SLACK: usize = 4;

/// Chooses replicas, and remembers what each was given.
#[derive(Debug)]
pub(super) struct Router {
    hasher: RandomState,
    /// One per replica.
    given: Mutex<Vec<Given>>,
    /// Blocks that are remembered of each replica; 0 where its prefix cache keeps none.
    capacity: usize,
}

/// The blocks of prompts that a replica was given, the latest in the first set. What is in neither is forgotten.
#[derive(Debug, Clone, Default)]
struct Given([HashSet<u64>; 2]);

impl Router {
    /// For so many replicas whose prefix caches hold `capacity` blocks.
    pub fn new(num_replicas: usize, capacity: usize) -> Self {
        let capacity = if num_replicas > 1 { capacity } else { 0 };
        Self { hasher: RandomState::new(), given: Mutex::new(vec![Given::default(); num_replicas]), capacity }
    }

    /// The names of a prompt's blocks, for the other two.
    pub fn blocks(&self, prompt: Prefix<'_>) -> Vec<u64> {
        prompt.hashes(&self.hasher).take(self.capacity).collect()
    }

    /// All replicas, the best for a prompt of these blocks first; `inside` are the requests that each has.
    pub fn order(&self, blocks: &[u64], inside: &[usize]) -> Vec<usize> {
        let least = inside.iter().copied().min().unwrap_or(0);
        let given = self.lock();
        let known = |replica: usize| {
            let is_free = inside[replica] <= least + least / 4 + SLACK;
            if is_free { given[replica].count_known(blocks) } else { 0 }
        };
        let mut replicas: Vec<usize> = (0..inside.len()).collect();
        replicas.sort_by_cached_key(|&replica| (Reverse(known(replica)), inside[replica]));
        replicas
    }

    /// Remembers that a replica has taken a prompt of these blocks.
    pub fn gave(&self, replica: usize, blocks: &[u64]) {
        self.lock()[replica].add(blocks, self.capacity);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Given>> {
        self.given.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Given {
    /// Leading blocks of these that were given.
    fn count_known(&self, blocks: &[u64]) -> usize {
        blocks.iter().take_while(|&block| self.0.iter().any(|blocks| blocks.contains(block))).count()
    }

    fn add(&mut self, blocks: &[u64], capacity: usize) {
        for &block in blocks {
            let [latest, earlier] = &mut self.0;
            if latest.len() >= capacity.div_ceil(2) {
                *earlier = std::mem::take(latest);
            }
            latest.insert(block);
        }
    }
}

#[cfg(test)]
mod tests {
    use kernels::BLOCK_SIZE;

    use super::*;
    use crate::engine::CacheScope;

    fn blocks(router: &Router, tokens: &[u32], tenant: u64) -> Vec<u64> {
        router.blocks(Prefix { tokens, scope: CacheScope { shared_tokens: BLOCK_SIZE, tenant } })
    }

    #[test]
    fn blocks_are_named_by_everything_up_to_them_and_by_who_may_share_them() {
        let router = Router::new(2, 100);
        let (tokens, other): (Vec<u32>, Vec<u32>) = ((0..100).collect(), (0..40).chain(50..110).collect());
        let names = blocks(&router, &tokens, 1);
        assert_eq!(names.len(), 3, "the last four tokens are no block");
        assert_eq!(names, blocks(&router, &tokens, 1));
        let others = blocks(&router, &other, 1);
        assert!(names[0] == others[0] && names[1] != others[1] && names[2] != others[2]);
        let tenants = blocks(&router, &tokens, 2);
        assert!(names[0] == tenants[0] && names[1] != tenants[1], "the first block is everybody's");
        assert!(blocks(&router, &tokens[..31], 1).is_empty());
        assert_ne!(names, blocks(&Router::new(2, 100), &tokens, 1), "nobody outside can foresee them");
        assert!(blocks(&Router::new(1, 100), &tokens, 1).is_empty(), "there is nothing to choose");
    }

    #[test]
    fn who_has_the_least_inside_comes_first() {
        let router = Router::new(3, 100);
        assert_eq!(router.order(&[], &[0, 0, 0]), [0, 1, 2]);
        assert_eq!(router.order(&[], &[2, 1, 0]), [2, 1, 0]);
        assert_eq!(router.order(&[7], &[1, 1, 0]), [2, 0, 1]);
    }

    #[test]
    fn who_knows_most_of_a_prompt_comes_first_while_it_is_not_much_busier() {
        let router = Router::new(3, 100);
        router.gave(1, &[1, 2, 3]);
        router.gave(2, &[1, 9]);
        assert_eq!(router.order(&[1, 2, 3, 4], &[0, 3, 3]), [1, 2, 0]);
        assert_eq!(router.order(&[1, 2, 3, 4], &[0, SLACK, SLACK]), [1, 2, 0]);
        assert_eq!(router.order(&[1, 2, 3, 4], &[0, SLACK + 1, SLACK]), [2, 0, 1]);
        assert_eq!(router.order(&[1, 8], &[0, 2, 1]), [2, 1, 0], "of those who know as much, the one with less inside");
        assert_eq!(router.order(&[5, 2, 3], &[0, 1, 1]), [0, 1, 2], "only what begins equally counts");
        assert_eq!(router.order(&[1, 2], &[40, 54, 55]), [1, 0, 2], "a quarter more is little");
        router.gave(0, &[1, 2, 3]);
        assert_eq!(router.order(&[1, 2, 3], &[0, 1, 0]), [0, 1, 2], "both have it now");
    }

    #[test]
    fn what_was_not_used_for_long_is_forgotten() {
        let router = Router::new(2, 8);
        router.gave(1, &[1, 2]);
        for block in 10..30 {
            router.gave(1, &[1]);
            router.gave(1, &[block]);
        }
        let given = router.lock();
        assert_eq!((given[1].count_known(&[1, 2]), given[1].count_known(&[2])), (1, 0));
        assert!(given[1].0.iter().map(HashSet::len).sum::<usize>() <= 8);
    }
}
