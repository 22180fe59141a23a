//! Blocks of the KV pool: ids and reference counts only; the tensors live in the runner. A block is free, owned by the
//! [`Block`] handles to it, or retained: unowned, but its contents are worth keeping until the room is needed.
//!
//! Must not know what the contents are.

use std::{cell::RefCell, rc::Rc};

/// Index of a block in the pool.
pub(super) type BlockId = u32;

const NONE: BlockId = BlockId::MAX;

/// All blocks. Handles point back here; single-threaded.
#[derive(Debug)]
pub(super) struct BlockPool {
    inner: Rc<RefCell<Inner>>,
}

#[derive(Debug)]
struct Inner {
    blocks: Vec<Meta>,
    free: Vec<BlockId>,
    /// Retained blocks, least recently used first: an intrusive doubly linked list.
    oldest: BlockId,
    newest: BlockId,
    num_retained: usize,
}

#[derive(Debug, Clone, Copy)]
struct Meta {
    references: u32,
    /// To be retained when the last reference goes.
    retain: bool,
    older: BlockId,
    newer: BlockId,
}

/// A share of a block. Cloning adds a reference; dropping gives it back.
#[derive(Debug)]
pub(super) struct Block {
    id: BlockId,
    inner: Rc<RefCell<Inner>>,
}

impl BlockPool {
    /// A pool of free blocks.
    pub fn new(num_blocks: usize) -> Self {
        let meta = Meta { references: 0, retain: false, older: NONE, newer: NONE };
        let inner = Inner {
            blocks: vec![meta; num_blocks],
            free: (0..num_blocks as BlockId).rev().collect(),
            oldest: NONE,
            newest: NONE,
            num_retained: 0,
        };
        Self { inner: Rc::new(RefCell::new(inner)) }
    }

    /// A free block, if there is one.
    pub fn take_free(&self) -> Option<Block> {
        let mut inner = self.inner.borrow_mut();
        let id = inner.free.pop()?;
        inner.blocks[id as usize].references = 1;
        Some(self.handle(id))
    }

    /// The least recently used retained block, if there is one; its contents are forgotten.
    pub fn take_oldest_retained(&self) -> Option<Block> {
        let mut inner = self.inner.borrow_mut();
        let id = (inner.oldest != NONE).then_some(inner.oldest)?;
        inner.unlink(id);
        inner.blocks[id as usize].references = 1;
        inner.blocks[id as usize].retain = false;
        Some(self.handle(id))
    }

    /// One more reference to a block with contents, whether owned or retained.
    pub fn share(&self, id: BlockId) -> Block {
        let mut inner = self.inner.borrow_mut();
        if inner.blocks[id as usize].references == 0 {
            inner.unlink(id);
        }
        inner.blocks[id as usize].references += 1;
        self.handle(id)
    }

    /// Whether a block is kept when its last reference goes. A retained block that is no longer wanted becomes free.
    pub fn set_retain(&self, id: BlockId, retain: bool) {
        let mut inner = self.inner.borrow_mut();
        let meta = &mut inner.blocks[id as usize];
        let was_retained = meta.references == 0 && meta.retain;
        meta.retain = retain;
        if was_retained && !retain {
            inner.unlink(id);
            inner.free.push(id);
        }
    }

    /// References to a block.
    pub fn references(&self, id: BlockId) -> u32 {
        self.inner.borrow().blocks[id as usize].references
    }

    /// All blocks.
    pub fn num_blocks(&self) -> usize {
        self.inner.borrow().blocks.len()
    }

    /// Blocks that nobody owns: free or retained.
    pub fn num_available(&self) -> usize {
        let inner = self.inner.borrow();
        inner.free.len() + inner.num_retained
    }

    /// Unowned blocks with contents.
    pub fn num_retained(&self) -> usize {
        self.inner.borrow().num_retained
    }

    fn handle(&self, id: BlockId) -> Block {
        Block { id, inner: Rc::clone(&self.inner) }
    }

    /// Proves that every block is in exactly one state.
    ///
    /// # Errors
    /// What is wrong.
    pub fn check_integrity(&self) -> Result<(), String> {
        let inner = self.inner.borrow();
        let mut seen = vec![false; inner.blocks.len()];
        let mut visit = |id: BlockId, state: &str| {
            let meta = inner.blocks[id as usize];
            if meta.references != 0 {
                return Err(format!("block {id} is {state} and has {} references", meta.references));
            }
            if std::mem::replace(&mut seen[id as usize], true) {
                return Err(format!("block {id} is {state} and was met before"));
            }
            Ok(())
        };
        for &id in &inner.free {
            visit(id, "free")?;
        }
        let (mut id, mut older, mut retained) = (inner.oldest, NONE, 0);
        while id != NONE {
            visit(id, "retained")?;
            if inner.blocks[id as usize].older != older {
                return Err(format!("block {id} has a broken link"));
            }
            retained += 1;
            (older, id) = (id, inner.blocks[id as usize].newer);
        }
        if older != inner.newest || retained != inner.num_retained {
            return Err(format!("{retained} blocks are linked as retained, {} counted", inner.num_retained));
        }
        match seen.iter().zip(&inner.blocks).position(|(&unowned, meta)| !unowned && meta.references == 0) {
            Some(id) => Err(format!("block {id} is lost: neither free, nor retained, nor owned")),
            None => Ok(()),
        }
    }
}

impl Inner {
    fn link_newest(&mut self, id: BlockId) {
        let newest = self.newest;
        self.blocks[id as usize].older = newest;
        self.blocks[id as usize].newer = NONE;
        match newest {
            NONE => self.oldest = id,
            _ => self.blocks[newest as usize].newer = id,
        }
        self.newest = id;
        self.num_retained += 1;
    }

    fn unlink(&mut self, id: BlockId) {
        let Meta { older, newer, .. } = self.blocks[id as usize];
        match older {
            NONE => self.oldest = newer,
            _ => self.blocks[older as usize].newer = newer,
        }
        match newer {
            NONE => self.newest = older,
            _ => self.blocks[newer as usize].older = older,
        }
        self.num_retained -= 1;
    }
}

impl Block {
    /// Its index in the pool.
    pub fn id(&self) -> BlockId {
        self.id
    }
}

impl Clone for Block {
    fn clone(&self) -> Self {
        self.inner.borrow_mut().blocks[self.id as usize].references += 1;
        Self { id: self.id, inner: Rc::clone(&self.inner) }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let mut inner = self.inner.borrow_mut();
        let meta = &mut inner.blocks[self.id as usize];
        meta.references -= 1;
        match (meta.references, meta.retain) {
            (0, true) => inner.link_newest(self.id),
            (0, false) => inner.free.push(self.id),
            _ => {}
        }
    }
}

/// The blocks of one sequence in the order of positions.
#[derive(Debug, Default)]
pub(super) struct BlockTable {
    blocks: Vec<Block>,
}

impl BlockTable {
    /// Adds the next block.
    pub fn push(&mut self, block: Block) {
        self.blocks.push(block);
    }

    /// Number of blocks.
    pub fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The blocks.
    pub fn blocks(&self) -> &[Block] {
        &self.blocks
    }

    /// Gives all blocks back, last first: the end of a sequence is worth less to others than its beginning, and must
    /// be the first to be reused.
    pub fn clear(&mut self) {
        while self.blocks.pop().is_some() {}
    }
}

impl Drop for BlockTable {
    fn drop(&mut self) {
        self.clear();
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_when_the_last_share_goes() {
        let pool = BlockPool::new(2);
        let first = pool.take_free().unwrap();
        let second = first.clone();
        assert_eq!(pool.num_available(), 1);
        drop(first);
        assert_eq!((pool.num_available(), pool.references(second.id())), (1, 1));
        drop(second);
        assert_eq!(pool.num_available(), 2);
        pool.check_integrity().unwrap();
    }

    #[test]
    fn an_empty_pool_gives_nothing() {
        let pool = BlockPool::new(1);
        let block = pool.take_free().unwrap();
        assert!(pool.take_free().is_none() && pool.take_oldest_retained().is_none());
        drop(block);
    }

    #[test]
    fn retained_blocks_leave_in_order_of_last_use() {
        let pool = BlockPool::new(3);
        let blocks: Vec<Block> = (0..3).map(|_| pool.take_free().unwrap()).collect();
        let ids: Vec<BlockId> = blocks.iter().map(Block::id).collect();
        for &id in &ids {
            pool.set_retain(id, true);
        }
        drop(blocks);
        assert_eq!((pool.num_retained(), pool.num_available()), (3, 3));
        drop(pool.share(ids[0]));
        pool.check_integrity().unwrap();
        let order: Vec<BlockId> = (0..3)
            .map(|_| {
                let block = pool.take_oldest_retained().unwrap();
                let id = block.id();
                std::mem::forget(block);
                id
            })
            .collect();
        assert_eq!(order, [ids[1], ids[2], ids[0]]);
    }

    #[test]
    fn a_block_that_is_not_wanted_any_more_is_free() {
        let pool = BlockPool::new(2);
        let ids = [pool.take_free().unwrap(), pool.take_free().unwrap()].map(|block| {
            pool.set_retain(block.id(), true);
            block.id()
        });
        pool.set_retain(ids[0], false);
        assert_eq!((pool.num_retained(), pool.num_available()), (1, 2));
        drop(pool.take_oldest_retained().unwrap());
        assert_eq!((pool.num_retained(), pool.num_available()), (0, 2), "taken for something else");
        pool.check_integrity().unwrap();
    }

    #[test]
    fn a_table_gives_its_last_block_back_first() {
        let pool = BlockPool::new(3);
        let mut table = BlockTable::default();
        for _ in 0..3 {
            let block = pool.take_free().unwrap();
            pool.set_retain(block.id(), true);
            table.push(block);
        }
        let last = table.blocks()[2].id();
        drop(table);
        assert_eq!(pool.take_oldest_retained().unwrap().id(), last);
    }

    #[test]
    fn integrity_notices_a_lost_block() {
        let pool = BlockPool::new(2);
        std::mem::forget(pool.take_free().unwrap());
        pool.check_integrity().unwrap();
        pool.inner.borrow_mut().blocks[0].references = 0;
        assert!(pool.check_integrity().unwrap_err().contains("lost"));
        pool.inner.borrow_mut().free.push(1);
        assert!(pool.check_integrity().is_err());
    }
}
