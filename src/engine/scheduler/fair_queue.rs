//! Who is next among those that wait: the highest priority; within it, the user with the least service per weight (the
//! virtual token counter of Sheng et al., "Fairness in Serving Large Language Models", 2024); within a user, the
//! earliest arrival. Must not know what a request needs to run.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap, HashMap, VecDeque, binary_heap::PeekMut},
};

/// Service in units of tokens over weight, fixed point.
pub(super) type Service = u64;

const UNIT: Service = 1 << 16;

/// What so many tokens count for a user of this weight.
pub(super) fn service(tokens: usize, weight: u32) -> Service {
    tokens as Service * UNIT / Service::from(weight.max(1))
}

/// What waits in a [`FairQueue`].
pub(super) trait Queued {
    /// Whose request it is.
    fn user(&self) -> u64;
    /// Higher goes first.
    fn priority(&self) -> i32;
    /// In order of arrival.
    fn arrival(&self) -> u64;
}

/// Waiting requests, and the service that every user with requests inside has had.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    classes: BTreeMap<Reverse<i32>, Class<T>>,
    accounts: HashMap<u64, Account>,
    len: usize,
    num_joined: u64,
    /// The least service of a user who is here, as long as nobody was served or left.
    least: Option<Service>,
    /// What the least served have had: never falls, so that newcomers' credit does not add up.
    level: Service,
    /// Accounts at which those of users long gone are dropped.
    prune_at: usize,
}

/// Tokens that a user who comes may be behind those who are here, so that a prompt of usual length is not cut into
/// shares: who asks for little waits little, however much others have asked for.
const CREDIT: Service = 512 * UNIT;

/// Accounts that are always kept.
const FEW_ACCOUNTS: usize = 64;

#[derive(Debug)]
struct Class<T> {
    /// Users with an entry in `order`, each one's requests by arrival.
    users: HashMap<u64, VecDeque<T>>,
    /// One entry per user: a service that was true once and only grows, so that a stale one is found at the top.
    order: BinaryHeap<Reverse<(Service, Reverse<u64>, u64)>>,
}

#[derive(Debug)]
struct Account {
    service: Service,
    /// Requests of the user that wait or run.
    inside: usize,
    /// When the user joined; of equals, the newcomer goes first.
    joined: u64,
}

impl<T: Queued> FairQueue<T> {
    pub fn new() -> Self {
        Self {
            classes: BTreeMap::new(),
            accounts: HashMap::new(),
            len: 0,
            num_joined: 0,
            least: None,
            level: 0,
            prune_at: FEW_ACCOUNTS,
        }
    }

    /// Requests that wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A request arrives.
    pub fn join(&mut self, item: T) {
        self.enter(item.user());
        self.push(item);
    }

    /// A user has one more request inside. One who was away starts level with the least served who is here, less a
    /// credit: absence earns no more than that.
    pub fn enter(&mut self, user: u64) {
        if self.accounts.get(&user).is_none_or(|account| account.inside == 0) {
            self.level = self.level.max(self.least().unwrap_or(0));
            self.num_joined += 1;
            let joined = self.num_joined;
            let account = self.accounts.entry(user).or_insert(Account { service: 0, inside: 0, joined });
            account.service = account.service.max(self.level.saturating_sub(CREDIT));
            account.joined = joined;
            self.least = None;
        }
        if let Some(account) = self.accounts.get_mut(&user) {
            account.inside += 1;
        }
    }

    /// Puts back a request that has joined and not left: it keeps its place by arrival.
    pub fn push(&mut self, item: T) {
        let (user, arrival) = (item.user(), item.arrival());
        let class = self.classes.entry(Reverse(item.priority())).or_insert_with(Class::new);
        let waiting = class.users.entry(user).or_insert_with(|| {
            let (service, joined) =
                self.accounts.get(&user).map_or((0, 0), |account| (account.service, account.joined));
            class.order.push(Reverse((service, Reverse(joined), user)));
            VecDeque::new()
        });
        let place = waiting.partition_point(|other| other.arrival() < arrival);
        waiting.insert(place, item);
        self.len += 1;
    }

    /// The least service of a user who is here.
    fn least(&mut self) -> Option<Service> {
        let here = || self.accounts.values().filter(|account| account.inside > 0).map(|account| account.service);
        self.least = self.least.or_else(|| here().min());
        self.least
    }

    /// A request that joined has ended, or is another user's now.
    pub fn leave(&mut self, user: u64) {
        let Some(account) = self.accounts.get_mut(&user) else { return };
        account.inside -= 1;
        let service = account.service;
        self.least = None;
        // The last to go closes the books: nobody owes anything to those who were not here.
        if account.inside == 0 && self.least().is_none() {
            self.level = self.level.max(service);
        }
        if self.accounts.len() >= self.prune_at {
            // Whoever is gone and behind would start with the credit anyway.
            let start = self.level.saturating_sub(CREDIT);
            self.accounts.retain(|_, account| account.inside > 0 || account.service > start);
            self.prune_at = FEW_ACCOUNTS.max(2 * self.accounts.len());
        }
    }

    /// Notes that a user was served so many tokens.
    pub fn charge(&mut self, user: u64, weight: u32, tokens: usize) {
        self.least = None;
        if let Some(account) = self.accounts.get_mut(&user) {
            account.service += service(tokens, weight);
        }
    }

    /// The user's service per weight.
    pub fn service(&self, user: u64) -> Service {
        self.accounts.get(&user).map_or(0, |account| account.service)
    }

    /// The next request.
    pub fn peek(&mut self) -> Option<&T> {
        while let Some(mut class) = self.classes.first_entry() {
            if class.get_mut().settle(&self.accounts) {
                break;
            }
            class.remove();
        }
        self.front()
    }

    /// The next request as of the last [`FairQueue::peek`].
    pub fn front(&self) -> Option<&T> {
        let class = self.classes.first_key_value()?.1;
        class.users.get(&class.order.peek()?.0.2)?.front()
    }

    /// Takes the next request.
    pub fn pop(&mut self) -> Option<T> {
        self.peek()?;
        let mut class = self.classes.first_entry()?;
        let user = class.get().order.peek()?.0.2;
        let item = class.get_mut().users.get_mut(&user)?.pop_front()?;
        self.len -= 1;
        Some(item)
    }

    /// All waiting requests, in no particular order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.classes.values().flat_map(|class| class.users.values().flatten())
    }

    /// Takes out every waiting request that `remove` says.
    pub fn extract(&mut self, mut remove: impl FnMut(&T) -> bool) -> Vec<T> {
        let mut removed = Vec::new();
        for waiting in self.classes.values_mut().flat_map(|class| class.users.values_mut()) {
            let mut index = 0;
            while index < waiting.len() {
                if remove(&waiting[index]) {
                    removed.extend(waiting.remove(index));
                } else {
                    index += 1;
                }
            }
        }
        self.len -= removed.len();
        removed
    }
}

impl<T> Class<T> {
    fn new() -> Self {
        Self { users: HashMap::new(), order: BinaryHeap::new() }
    }

    /// Brings the least served user with a waiting request to the top of `order`; false if there is none.
    fn settle(&mut self, accounts: &HashMap<u64, Account>) -> bool {
        while let Some(mut top) = self.order.peek_mut() {
            let Reverse((service, _, user)) = *top;
            if self.users.get(&user).is_none_or(VecDeque::is_empty) {
                self.users.remove(&user);
                PeekMut::pop(top);
                continue;
            }
            match accounts.get(&user) {
                Some(account) if account.service != service => {
                    *top = Reverse((account.service, Reverse(account.joined), user));
                }
                _ => return true,
            }
        }
        false
    }
}

#[cfg(test)]
impl<T> FairQueue<T> {
    /// Requests that have joined and not left.
    pub fn num_inside(&self) -> usize {
        self.accounts.values().map(|account| account.inside).sum()
    }
}
