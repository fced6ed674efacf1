//! Keys that were lately found valid, so that a request of usage need not ask the database whose key it
//! carries.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::Principal;

/// How long a key is believed without asking again: a key revoked on another replica works here that much
/// longer.
pub const BELIEVED_FOR: Duration = Duration::from_secs(2);
/// Keys held at most.
const CAPACITY: usize = 10_000;

#[derive(Clone)]
struct Believed {
    principal: Principal,
    since: Instant,
    expires_at: Option<DateTime<Utc>>,
}

/// The keys, by the SHA-256 of their whole text.
pub struct Keyring(Cache<[u8; 32], Believed>);

impl Default for Keyring {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl Keyring {
    /// Whose key this is, if it was found valid just now.
    #[must_use]
    pub fn get(&self, text: &str, now: DateTime<Utc>) -> Option<Principal> {
        let held = self.0.get(&digest(text))?;
        let valid = held.since.elapsed() < BELIEVED_FOR && held.expires_at.is_none_or(|at| now < at);
        valid.then_some(held.principal)
    }

    /// Who this key was when it was last found valid, however long ago: enough to say whose turn it is to
    /// look it up again.
    #[must_use]
    pub fn last(&self, text: &str) -> Option<Principal> {
        self.0.get(&digest(text)).map(|held| held.principal)
    }

    /// Remembers a key that was found valid by a look that began at `since`.
    pub fn put(&self, text: &str, principal: &Principal, expires_at: Option<DateTime<Utc>>, since: Instant) {
        self.0.insert(digest(text), Believed { principal: principal.clone(), since, expires_at });
    }

    /// Forgets all: a key was revoked.
    pub fn forget(&self) {
        self.0.clear();
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
