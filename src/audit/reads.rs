//! Reads of money leave an entry: one for each key, thing and parameters in a minute, so that a page that
//! asks again every second does not fill the log.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};

/// Which reads already have the entry of the present minute.
#[derive(Debug, Default)]
pub struct NotedReads {
    hasher: RandomState,
    minute: Mutex<(i64, HashSet<u64>)>,
}

impl NotedReads {
    /// Whether this read has its entry.
    #[must_use]
    pub fn has(&self, read: &(&str, &str, &str), now: DateTime<Utc>) -> bool {
        let noted = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        noted.0 == minute_of(now) && noted.1.contains(&self.hasher.hash_one(read))
    }

    /// Remembers that its entry is stored.
    pub fn note(&self, read: &(&str, &str, &str), now: DateTime<Utc>) {
        let mut noted = self.minute.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.0 != minute_of(now) {
            *noted = (minute_of(now), HashSet::new());
        }
        noted.1.insert(self.hasher.hash_one(read));
    }
}

fn minute_of(now: DateTime<Utc>) -> i64 {
    now.timestamp().div_euclid(60)
}
