//! Shares: of what all have to share nobody takes so much that too little is left for others.
//!
//! Who holds something may take more as long as at least as much stays free as it holds then. So one alone
//! gets half of all, two get a third each, and whoever comes new finds something, however many there are.
//! What is asked for first, by who holds nothing, may be as large as what is free.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Who takes a share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// An org, by whichever of its keys.
    Org(i64),
    /// A key of the platform, by the bytes of its id.
    Key([u8; 16]),
    /// The platform, whatever the key.
    Platform,
    /// All who have shown no valid key yet.
    Stranger,
}

impl Holder {
    /// The platform's key with this id.
    #[must_use]
    pub fn key(id: &str) -> Self {
        let mut bytes = [0; 16];
        bytes.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        Self::Key(bytes)
    }
}

/// So much of something that all share: KiB of memory, places in a queue.
pub struct Shares {
    total: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    all: usize,
    by: HashMap<Holder, usize>,
}

impl Shares {
    /// So much to share.
    #[must_use]
    pub fn new(total: usize) -> Arc<Self> {
        Arc::new(Self { total, taken: Mutex::default() })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How much there is, taken or free.
    #[must_use]
    pub fn total(&self) -> usize {
        self.total
    }

    /// How much is taken.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.taken().all
    }

    /// Takes `amount` for `holder`, until what it gives goes. `None`: there is not so much, or it is more
    /// than its share.
    #[must_use]
    pub fn take(self: &Arc<Self>, holder: Holder, amount: usize) -> Option<Share> {
        self.add(holder, amount).then(|| Share { shares: Arc::clone(self), holder, amount })
    }

    fn add(&self, holder: Holder, amount: usize) -> bool {
        let mut taken = self.taken();
        let Some(free) = self.total.checked_sub(taken.all + amount) else { return false };
        let held = taken.by.get(&holder).copied().unwrap_or_default();
        if held > 0 && held + amount > free {
            return false;
        }
        taken.all += amount;
        *taken.by.entry(holder).or_default() += amount;
        true
    }
}

/// What somebody has taken.
pub struct Share {
    shares: Arc<Shares>,
    holder: Holder,
    amount: usize,
}

impl Share {
    /// Takes more, until it is `amount`; false: that is more than its holder may.
    #[must_use]
    pub fn grow(&mut self, amount: usize) -> bool {
        let more = amount.saturating_sub(self.amount);
        let grown = more == 0 || self.shares.add(self.holder, more);
        if grown {
            self.amount += more;
        }
        grown
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all -= self.amount;
        if let Some(held) = taken.by.get_mut(&self.holder) {
            *held -= self.amount;
            if *held == 0 {
                taken.by.remove(&self.holder);
            }
        }
    }
}

/// Turns at something that few can use at once: who has many turns to take waits behind itself, not before
/// others.
pub struct Turns {
    /// Turns of one holder at once.
    at_once: usize,
    waiting: Mutex<HashMap<Holder, Weak<Semaphore>>>,
}

/// A turn, until it goes.
pub struct Turn {
    _permit: OwnedSemaphorePermit,
}

impl Turns {
    /// One holder has `at_once` turns, at least one.
    #[must_use]
    pub fn new(at_once: usize) -> Self {
        Self { at_once: at_once.max(1), waiting: Mutex::default() }
    }

    /// Waits for a turn, for so long at most.
    pub async fn wait(&self, holder: Holder, within: Duration) -> Option<Turn> {
        let own = self.own(holder);
        let permit = tokio::time::timeout(within, own.acquire_owned()).await.ok()?.ok()?;
        Some(Turn { _permit: permit })
    }

    fn own(&self, holder: Holder) -> Arc<Semaphore> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = waiting.get(&holder).and_then(Weak::upgrade) {
            return own;
        }
        // Those who have gone are forgotten before their number becomes large.
        if waiting.len() >= 256 {
            waiting.retain(|_, own| own.strong_count() > 0);
        }
        let own = Arc::new(Semaphore::new(self.at_once));
        waiting.insert(holder, Arc::downgrade(&own));
        own
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Holder = Holder::Org(1);
    const B: Holder = Holder::Org(2);

    #[test]
    fn nobody_takes_more_than_it_leaves() {
        let shares = Shares::new(12);
        let take = |holder, amount| shares.take(holder, amount);
        let first = take(A, 1).expect("it is free");
        let second = take(A, 5).expect("it leaves as much");
        assert!(take(A, 1).is_none());
        let other = take(B, 2).expect("another finds something");
        assert!(take(B, 2).is_none() && take(Holder::Stranger, 5).is_none());
        drop(first);
        assert!(take(A, 1).is_none(), "five are held, four would be left");
        drop(second);
        assert_eq!(shares.in_use(), 2);
        let mut all = take(A, 10).expect("nothing was held before");
        assert!(!all.grow(11) && all.grow(10));
        drop((all, other));
        assert_eq!(shares.in_use(), 0);
        assert!(shares.taken().by.is_empty());
        assert!(Shares::new(1).take(A, 1).is_some(), "one of one");
    }

    #[tokio::test]
    async fn who_has_many_turns_to_take_waits_behind_itself() {
        let (turns, soon) = (Turns::new(2), Duration::from_millis(20));
        let held = (turns.wait(A, soon).await.expect("a turn"), turns.wait(A, soon).await.expect("a turn"));
        assert!(turns.wait(A, soon).await.is_none());
        assert!(turns.wait(B, soon).await.is_some());
        drop(held);
        assert!(turns.wait(A, soon).await.is_some());
    }

    #[test]
    fn keys_are_told_apart() {
        assert_ne!(Holder::key("abcdefghijklmnop"), Holder::key("abcdefghijklmnoq"));
    }
}
