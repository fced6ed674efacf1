//! How many requests a second go to each account. The rate halves when Stripe answers 429, and grows again
//! with each answer. The key's mode is one, so account and mode are one name.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The smallest rate, in requests a second.
const LEAST: f64 = 1.0;
/// What an answer adds to the rate, as a share of the full rate: fifty answers make a halved rate whole.
const GROWTH: f64 = 0.01;

/// A token bucket for each account.
#[derive(Debug)]
pub(super) struct Rates {
    /// Requests a second at most.
    full: f64,
    buckets: Mutex<HashMap<String, Bucket>>,
}

#[derive(Debug)]
struct Bucket {
    rate: f64,
    /// Requests that may go at once; below 0: requests that wait.
    tokens: f64,
    filled: Instant,
    /// Stripe asked to wait until then.
    not_before: Instant,
}

impl Rates {
    pub(super) fn new(requests_per_second: u32) -> Self {
        Self { full: f64::from(requests_per_second.max(1)), buckets: Mutex::default() }
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<String, Bucket>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, account: &str, now: Instant, change: impl FnOnce(&mut Bucket, f64) -> T) -> T {
        let mut buckets = self.buckets();
        let bucket = buckets.entry(account.to_owned()).or_insert(Bucket {
            rate: self.full,
            tokens: 1.0,
            filled: now,
            not_before: now,
        });
        change(bucket, self.full)
    }

    /// Takes a place, and waits for its time.
    pub(super) async fn wait(&self, account: &str) {
        let pause = self.take(account, Instant::now());
        if !pause.is_zero() {
            tokio::time::sleep(pause).await;
        }
    }

    fn take(&self, account: &str, now: Instant) -> Duration {
        self.with(account, now, |bucket, _| {
            let since = now.saturating_duration_since(bucket.filled).as_secs_f64();
            // A tenth of a second may go at once, so that a late wake-up loses nothing.
            let most = (bucket.rate / 10.0).max(1.0);
            bucket.tokens = (bucket.tokens + since * bucket.rate).min(most) - 1.0;
            bucket.filled = now;
            let own_turn = Duration::from_secs_f64((-bucket.tokens).max(0.0) / bucket.rate);
            own_turn.max(bucket.not_before.saturating_duration_since(now))
        })
    }

    pub(super) fn succeeded(&self, account: &str) {
        self.with(account, Instant::now(), |bucket, full| {
            bucket.rate = (bucket.rate + full * GROWTH).min(full);
        });
    }

    pub(super) fn limited(&self, account: &str, wait: Option<Duration>) {
        let now = Instant::now();
        self.with(account, now, |bucket, _| {
            // Requests that were on their way together are answered together: they count once.
            if bucket.not_before <= now {
                bucket.rate = (bucket.rate / 2.0).max(LEAST);
            }
            bucket.not_before = bucket.not_before.max(now + wait.unwrap_or(Duration::from_secs(1)));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_go_evenly_and_fewer_after_a_429() {
        let rates = Rates::new(20);
        let now = Instant::now();
        let mut last = Duration::ZERO;
        for n in 0..41 {
            last = rates.take("", now);
            assert!(last <= Duration::from_millis(50 * n), "{n}: {last:?}");
        }
        assert!(
            last >= Duration::from_millis(1900),
            "40 requests after the first take two seconds: {last:?}"
        );
        assert!(rates.take("acct_1", now).is_zero(), "another account has its own rate");
        rates.limited("acct_1", Some(Duration::from_secs(3)));
        rates.limited("acct_1", None);
        let rate = |account: &str| rates.with(account, now, |bucket, _| bucket.rate);
        assert!((rate("acct_1") - 10.0).abs() < 1e-9, "two answers of one moment count once");
        assert!(rates.take("acct_1", Instant::now()) > Duration::from_millis(2900));
        (0..50).for_each(|_| rates.succeeded("acct_1"));
        assert!((rate("acct_1") - 20.0).abs() < 1e-6, "it grows again");
    }
}
