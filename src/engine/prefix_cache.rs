//! Which full blocks hold the KV of which tokens. A trie over blocks of [`BLOCK_SIZE`] tokens: a block's key is its
//! parent's node, the salt of whoever may share it, and its tokens. Keys live in a map with a randomly keyed hash, and a
//! hit compares the whole key, so neither accident nor intent makes one request read another's KV.
//!
//! Must not know who runs, waits or is preempted; it allocates blocks and forgets contents to do so.

use std::{
    collections::{HashMap, HashSet, hash_map},
    hash::{BuildHasher as _, RandomState},
    rc::Rc,
};

use kernels::BLOCK_SIZE;

use super::{
    CacheScope,
    block_pool::{Block, BlockId, BlockPool, BlockTable},
};

/// A node of the trie: a prefix of whole blocks. Never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(super) struct NodeId(u64);

#[derive(Debug, PartialEq, Eq, Hash)]
struct BlockKey {
    parent: NodeId,
    /// `None` for blocks that the whole installation shares.
    tenant: Option<u64>,
    tokens: [u32; BLOCK_SIZE],
}

#[derive(Debug)]
struct Entry {
    node: NodeId,
    state: State,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// A running sequence of this priority is going to compute it.
    Computing { sequence: u64, priority: i32 },
    /// This block holds it.
    Cached(BlockId),
}

/// The cache and the pool that it allocates from.
#[derive(Debug)]
pub(super) struct PrefixCache {
    pool: BlockPool,
    enabled: bool,
    entries: HashMap<Rc<BlockKey>, Entry>,
    /// Keys of cached blocks, by block.
    keys: Vec<Option<Rc<BlockKey>>>,
    computing: HashSet<NodeId>,
    last_node: u64,
}

/// A sequence's place in the trie: its full blocks that are computed, and those that it has announced.
#[derive(Debug, Default)]
pub(super) struct Chain {
    tip: NodeId,
    num_blocks: usize,
    claims: Vec<Rc<BlockKey>>,
}

/// What the cache knows of a sequence's beginning.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Lookup {
    /// Cached blocks from position 0 on.
    pub hits: Vec<BlockId>,
    /// The next block is being computed by another sequence.
    pub awaits: Option<NodeId>,
    tip: NodeId,
}

/// Who asks: token ids and with whom they may be shared.
#[derive(Debug, Clone, Copy)]
pub(super) struct Prefix<'a> {
    pub tokens: &'a [u32],
    pub scope: CacheScope,
}

impl Prefix<'_> {
    fn key(self, block: usize, parent: NodeId) -> Option<BlockKey> {
        let end = (block + 1) * BLOCK_SIZE;
        let tokens = self.tokens.get(end - BLOCK_SIZE..end)?.try_into().ok()?;
        let tenant = (end > self.scope.shared_tokens).then_some(self.scope.tenant);
        Some(BlockKey { parent, tenant, tokens })
    }

    /// A number for each full block, by the block and everything before it: equal where a cache would have one entry.
    pub fn hashes(self, hasher: &RandomState) -> impl Iterator<Item = u64> {
        let mut parent = NodeId::default();
        (0..).map_while(move |block| {
            parent = NodeId(hasher.hash_one(self.key(block, parent)?));
            Some(parent.0)
        })
    }
}

impl PrefixCache {
    /// A cache over a new pool; when not `enabled` it only allocates.
    pub fn new(num_blocks: usize, enabled: bool) -> Self {
        Self {
            pool: BlockPool::new(num_blocks),
            enabled,
            entries: HashMap::new(),
            keys: vec![None; num_blocks],
            computing: HashSet::new(),
            last_node: 0,
        }
    }

    /// The pool.
    pub fn pool(&self) -> &BlockPool {
        &self.pool
    }

    /// A block to write to: a free one, or else the least recently used of the cached.
    pub fn allocate(&mut self) -> Option<Block> {
        self.pool.take_free().or_else(|| {
            let block = self.pool.take_oldest_retained()?;
            if let Some(key) = self.keys[block.id() as usize].take() {
                self.entries.remove(&key);
            }
            Some(block)
        })
    }

    /// What is cached of the first `max_blocks` blocks, and whether a sequence of at least this priority is computing
    /// the block after that.
    pub fn lookup(&self, prefix: Prefix<'_>, max_blocks: usize, priority: i32) -> Lookup {
        let mut found = Lookup::default();
        if !self.enabled {
            return found;
        }
        for block in 0..max_blocks {
            let entry = prefix.key(block, found.tip).and_then(|key| self.entries.get(&key));
            match entry.map(|entry| (entry.node, entry.state)) {
                Some((node, State::Cached(id))) => {
                    found.hits.push(id);
                    found.tip = node;
                }
                Some((node, State::Computing { priority: others, .. })) if others >= priority => {
                    found.awaits = Some(node);
                    break;
                }
                _ => break,
            }
        }
        found
    }

    /// Whether somebody is still computing this prefix.
    pub fn is_computing(&self, node: NodeId) -> bool {
        self.computing.contains(&node)
    }

    /// Shares the blocks of a lookup and starts a chain behind them.
    pub fn take(&mut self, found: &Lookup, table: &mut BlockTable) -> Chain {
        for &id in &found.hits {
            table.push(self.pool.share(id));
        }
        Chain { tip: found.tip, num_blocks: found.hits.len(), claims: Vec::new() }
    }

    /// Announces that a sequence is going to compute all full blocks of `prefix` behind its chain.
    pub fn claim(&mut self, chain: &mut Chain, prefix: Prefix<'_>, sequence: u64, priority: i32) {
        if !self.enabled {
            return;
        }
        let mut parent = chain.tip;
        for block in chain.num_blocks..prefix.tokens.len() / BLOCK_SIZE {
            let Some(key) = prefix.key(block, parent).map(Rc::new) else { break };
            parent = match self.entries.entry(Rc::clone(&key)) {
                hash_map::Entry::Occupied(entry) => entry.get().node,
                hash_map::Entry::Vacant(entry) => {
                    self.last_node += 1;
                    let node = NodeId(self.last_node);
                    entry.insert(Entry { node, state: State::Computing { sequence, priority } });
                    self.computing.insert(node);
                    chain.claims.push(key);
                    node
                }
            };
        }
    }

    /// Registers the full blocks of `prefix`, whose KV is computed and lies in `table`. Where somebody was faster, this
    /// sequence's block stays its own.
    pub fn complete(&mut self, chain: &mut Chain, prefix: Prefix<'_>, table: &BlockTable) {
        if !self.enabled {
            return;
        }
        while let Some(key) = prefix.key(chain.num_blocks, chain.tip) {
            let id = table.blocks()[chain.num_blocks].id();
            chain.tip = self.register(key, id);
            chain.num_blocks += 1;
        }
    }

    fn register(&mut self, key: BlockKey, id: BlockId) -> NodeId {
        let key = Rc::new(key);
        let entry = self.entries.entry(Rc::clone(&key)).or_insert_with(|| {
            self.last_node += 1;
            Entry { node: NodeId(self.last_node), state: State::Computing { sequence: 0, priority: 0 } }
        });
        if let State::Computing { .. } = entry.state {
            entry.state = State::Cached(id);
            self.computing.remove(&entry.node);
            self.keys[id as usize] = Some(key);
            self.pool.set_retain(id, true);
        }
        entry.node
    }

    /// Withdraws what a sequence announced and did not compute. To be called before its chain is dropped.
    pub fn abandon(&mut self, chain: &mut Chain, sequence: u64) {
        for key in chain.claims.drain(..) {
            if let hash_map::Entry::Occupied(entry) = self.entries.entry(key)
                && matches!(entry.get().state, State::Computing { sequence: owner, .. } if owner == sequence)
            {
                self.computing.remove(&entry.remove().node);
            }
        }
    }

    /// Forgets the contents of blocks that cannot be trusted.
    pub fn forget(&mut self, table: &BlockTable) {
        for block in table.blocks() {
            if let Some(key) = self.keys[block.id() as usize].take() {
                self.entries.remove(&key);
                self.pool.set_retain(block.id(), false);
            }
        }
    }

    /// Proves the map and the pool agree, and that `tables` are all owners there are.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_integrity<'a>(&self, tables: impl Iterator<Item = &'a BlockTable>) -> Result<(), String> {
        self.pool.check_integrity()?;
        let mut owners = vec![0u32; self.pool.num_blocks()];
        for block in tables.flat_map(BlockTable::blocks) {
            owners[block.id() as usize] += 1;
        }
        for (id, &owners) in owners.iter().enumerate() {
            let references = self.pool.references(id as BlockId);
            if references != owners {
                return Err(format!("block {id} has {references} references and {owners} owners"));
            }
            if owners > 1 && self.keys[id].is_none() {
                return Err(format!("block {id} has {owners} owners and is not in the cache"));
            }
        }
        for (id, key) in self.keys.iter().enumerate().filter_map(|(id, key)| Some((id, key.as_ref()?))) {
            match self.entries.get(key).map(|entry| entry.state) {
                Some(State::Cached(cached)) if cached as usize == id => {}
                other => return Err(format!("block {id} is cached and its entry says {other:?}")),
            }
        }
        let cached = self.keys.iter().flatten().count();
        if cached + self.computing.len() != self.entries.len() {
            let (computing, entries) = (self.computing.len(), self.entries.len());
            return Err(format!("{cached} blocks cached and {computing} computing do not make {entries} entries"));
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "prefix_cache_tests.rs"]
mod tests;
