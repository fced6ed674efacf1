//! A cache of keys that were valid a moment ago, so that few requests ask the database for their key; and
//! what this daemon knows of each key: when it was used, and its limits.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use quick_cache::sync::Cache;
use sha2::{Digest, Sha256};

use super::Principal;
use crate::limits::{Limit, Verdict};

/// How long a key counts as valid without another look. A key that another replica revokes works here that
/// much longer.
pub const BELIEVED_FOR: Duration = Duration::from_secs(2);
/// A daemon tries once in this time to write when a key was used, in microseconds.
const WRITTEN_EVERY_MICROS: i64 = 60_000_000;
/// Keys in the cache at most.
const CAPACITY: usize = 10_000;

#[derive(Clone)]
struct CachedKey {
    principal: Principal,
    since: Instant,
    expires_at: Option<DateTime<Utc>>,
}

/// What this daemon knows of a key, shared by all of its requests.
#[derive(Debug, Default)]
pub struct KeyState {
    /// When it was used last, in microseconds since 1970; 0: not yet.
    used_micros: AtomicI64,
    /// The use that is in the database, and when this daemon last tried to write one.
    written_micros: AtomicI64,
    tried_micros: AtomicI64,
    /// Requests a minute; 0: any number. Read first, so that a key without a limit takes no lock.
    per_minute: AtomicU32,
    limit: Mutex<Option<Arc<Limit>>>,
    /// A minute since 1970, and how many keys it has verified in vain in it.
    failures: Mutex<(i64, u32)>,
}

impl KeyState {
    /// Notes that the key is used.
    pub fn used(&self, now: DateTime<Utc>) {
        self.used_micros.store(now.timestamp_micros(), Ordering::Relaxed);
    }

    /// When it was used last.
    #[must_use]
    pub fn last_used(&self) -> Option<DateTime<Utc>> {
        let micros = self.used_micros.load(Ordering::Relaxed);
        DateTime::from_timestamp_micros(micros).filter(|_| micros != 0)
    }

    /// Sets its limit in requests a minute; 0: none. What it has used of a limit that stays is kept.
    pub fn set_limit(&self, per_minute: u32) {
        if self.per_minute.load(Ordering::Relaxed) == per_minute {
            return;
        }
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        *limit = NonZeroU32::new(per_minute).map(|quota| Arc::new(Limit::new(quota)));
        self.per_minute.store(per_minute, Ordering::Relaxed);
    }

    /// Whether it has a limit.
    #[must_use]
    pub fn is_limited(&self) -> bool {
        self.per_minute.load(Ordering::Relaxed) != 0
    }

    /// Counts a request; `None`: the key has no limit.
    #[must_use]
    pub fn count_request(&self) -> Option<Verdict> {
        if !self.is_limited() {
            return None;
        }
        let limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner).clone();
        limit.map(|limit| limit.check())
    }

    /// How many keys it has verified in vain in this minute.
    #[must_use]
    pub fn failures(&self, now: DateTime<Utc>) -> u32 {
        let failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        if failures.0 == minute_of(now) { failures.1 } else { 0 }
    }

    /// Counts a key that it verified in vain.
    pub fn count_failure(&self, now: DateTime<Utc>) {
        let mut failures = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        *failures = (minute_of(now), if failures.0 == minute_of(now) { failures.1 + 1 } else { 1 });
    }
}

fn minute_of(now: DateTime<Utc>) -> i64 {
    now.timestamp().div_euclid(60)
}

/// The keys, by the SHA-256 of their whole text.
pub struct Keyring {
    keys: Cache<[u8; 32], CachedKey>,
    /// By org and key id.
    states: Mutex<HashMap<(i64, String), Arc<KeyState>>>,
}

impl Default for Keyring {
    fn default() -> Self {
        Self { keys: Cache::new(CAPACITY), states: Mutex::default() }
    }
}

impl Keyring {
    /// Whose key this is, if it was valid at the last look and that was just now.
    #[must_use]
    pub fn get(&self, text: &str, now: DateTime<Utc>) -> Option<Principal> {
        let cached = self.keys.get(&digest(text))?;
        let valid = cached.since.elapsed() < BELIEVED_FOR && cached.expires_at.is_none_or(|at| now < at);
        valid.then_some(cached.principal)
    }

    /// Whose key this was at the last look, however long ago. That is enough to decide whose turn it is to
    /// look it up again.
    #[must_use]
    pub fn last(&self, text: &str) -> Option<Principal> {
        self.keys.get(&digest(text)).map(|cached| cached.principal)
    }

    /// Remembers a key that a look which began at `since` found valid.
    pub fn put(&self, text: &str, principal: &Principal, expires_at: Option<DateTime<Utc>>, since: Instant) {
        self.keys.insert(digest(text), CachedKey { principal: principal.clone(), since, expires_at });
    }

    /// What this daemon knows of a key.
    #[must_use]
    pub fn state(&self, org_id: i64, key_id: &str) -> Arc<KeyState> {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(states.entry((org_id, key_id.to_owned())).or_default())
    }

    /// The keys whose last use is to be written: org, id, and when it was. A key is tried once a minute, or
    /// with `all` at once.
    #[must_use]
    pub fn uses(&self, now: DateTime<Utc>, all: bool) -> Vec<(i64, String, DateTime<Utc>)> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        let now = now.timestamp_micros();
        let due = states.iter().filter_map(|((org_id, id), state)| {
            let at = state.last_used()?;
            let is_new = at.timestamp_micros() > state.written_micros.load(Ordering::Relaxed);
            let is_due = all || now - state.tried_micros.load(Ordering::Relaxed) >= WRITTEN_EVERY_MICROS;
            (is_new && is_due).then(|| (*org_id, id.clone(), at))
        });
        due.collect()
    }

    /// Notes that these uses were tried at `now`, and that those of the keys `ids` are in the database. Not
    /// called when the database failed: then the next turn tries again.
    pub fn written(&self, uses: &[(i64, String, DateTime<Utc>)], ids: &HashSet<String>, now: DateTime<Utc>) {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        for (org_id, id, at) in uses {
            let Some(state) = states.get(&(*org_id, id.clone())) else { continue };
            state.tried_micros.store(now.timestamp_micros(), Ordering::Relaxed);
            if ids.contains(id) {
                state.written_micros.store(at.timestamp_micros(), Ordering::Relaxed);
            }
        }
    }

    /// Forgets what is known of keys that were not used since `before`, unless a request still has it.
    pub fn forget_unused(&self, before: DateTime<Utc>) {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states.retain(|_, state| {
            Arc::strong_count(state) > 1 || state.last_used().is_some_and(|at| at >= before)
        });
    }

    /// Forgets all keys, because one was revoked.
    pub fn forget(&self) {
        self.keys.clear();
    }
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text).into()
}
