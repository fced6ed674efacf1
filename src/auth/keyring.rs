//! A cache of keys that were valid a moment ago, so that few requests ask the database for their key.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::Principal;

/// How long a key counts as valid without another look. A key that another replica revokes works here that
/// much longer.
pub const BELIEVED_FOR: Duration = Duration::from_secs(2);
/// Keys in the cache at most.
const CAPACITY: usize = 10_000;

#[derive(Clone)]
struct CachedKey {
    principal: Principal,
    since: Instant,
    expires_at: Option<DateTime<Utc>>,
}

/// The keys, by the SHA-256 of their whole text.
pub struct Keyring(Cache<[u8; 32], CachedKey>);

impl Default for Keyring {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl Keyring {
    /// Whose key this is, if it was valid at the last look and that was just now.
    #[must_use]
    pub fn get(&self, text: &str, now: DateTime<Utc>) -> Option<Principal> {
        let cached = self.0.get(&digest(text))?;
        let valid = cached.since.elapsed() < BELIEVED_FOR && cached.expires_at.is_none_or(|at| now < at);
        valid.then_some(cached.principal)
    }

    /// Whose key this was at the last look, however long ago. That is enough to decide whose turn it is to
    /// look it up again.
    #[must_use]
    pub fn last(&self, text: &str) -> Option<Principal> {
        self.0.get(&digest(text)).map(|cached| cached.principal)
    }

    /// Remembers a key that a look which began at `since` found valid.
    pub fn put(&self, text: &str, principal: &Principal, expires_at: Option<DateTime<Utc>>, since: Instant) {
        self.0.insert(digest(text), CachedKey { principal: principal.clone(), since, expires_at });
    }

    /// Forgets all keys, because one was revoked.
    pub fn forget(&self) {
        self.0.clear();
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
