//! How many requests a key or an address may send: so many at once, and then as many in a minute, evenly
//! (GCRA, by the crate `governor`). Each daemon counts its own.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, MonotonicClock};
use governor::middleware::{StateInformationMiddleware, StateSnapshot};
use governor::state::keyed::HashMapStateStore;
use governor::state::{InMemoryState, NotKeyed};
use governor::{NotUntil, Quota, RateLimiter};

/// The window in which a limit counts, in seconds.
pub const WINDOW_S: u32 = 60;
/// Addresses with a state of their own at most; further ones share one.
const MAX_ADDRESSES: usize = 100_000;

/// What a limit says of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Requests in a window.
    pub quota: u32,
    /// Requests that may follow at once.
    pub remaining: u32,
    /// Seconds until all of them may.
    pub reset_s: u64,
    /// Seconds to wait, when the request is over the limit.
    pub wait_s: Option<u64>,
}

/// The limit of one key.
#[derive(Debug)]
pub struct Limit {
    quota: u32,
    limiter: RateLimiter<NotKeyed, InMemoryState, MonotonicClock, StateInformationMiddleware>,
}

impl Limit {
    /// So many requests a minute.
    #[must_use]
    pub fn new(per_minute: NonZeroU32) -> Self {
        let limiter = RateLimiter::direct_with_clock(Quota::per_minute(per_minute), MonotonicClock);
        Self { quota: per_minute.get(), limiter: limiter.with_middleware() }
    }

    /// Requests in a minute.
    #[must_use]
    pub fn quota(&self) -> u32 {
        self.quota
    }

    /// Counts a request.
    #[must_use]
    pub fn check(&self) -> Verdict {
        verdict(self.quota, self.limiter.check())
    }
}

type Addresses = HashMapStateStore<IpAddr>;

/// The limit of each address. IPv6 addresses of one /64 are one.
#[derive(Debug)]
pub struct AddressLimits {
    quota: u32,
    limiter: RateLimiter<IpAddr, Addresses, MonotonicClock, StateInformationMiddleware>,
}

impl AddressLimits {
    /// So many requests a minute from each address; `None` for 0: any number.
    #[must_use]
    pub fn new(per_minute: u32) -> Option<Self> {
        let quota = NonZeroU32::new(per_minute)?;
        let limiter = RateLimiter::hashmap_with_clock(Quota::per_minute(quota), MonotonicClock);
        Some(Self { quota: per_minute, limiter: limiter.with_middleware() })
    }

    /// Counts a request from an address.
    #[must_use]
    pub fn check(&self, address: IpAddr) -> Verdict {
        let full = self.limiter.len() >= MAX_ADDRESSES;
        let address = if full { IpAddr::V6(Ipv6Addr::UNSPECIFIED) } else { crate::networks::client(address) };
        verdict(self.quota, self.limiter.check_key(&address))
    }

    /// Forgets addresses that have sent nothing lately.
    pub fn forget_old(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }
}

fn verdict(
    quota: u32,
    checked: Result<StateSnapshot, NotUntil<<MonotonicClock as Clock>::Instant>>,
) -> Verdict {
    let seconds = |time: Duration| time.as_millis().div_ceil(1000) as u64;
    let full_in = |remaining: u32| {
        let missing = u64::from(quota.saturating_sub(remaining));
        (missing * u64::from(WINDOW_S)).div_ceil(u64::from(quota))
    };
    match checked {
        Ok(state) => {
            let remaining = state.remaining_burst_capacity();
            Verdict { quota, remaining, reset_s: full_in(remaining), wait_s: None }
        }
        Err(refused) => {
            let wait = seconds(refused.wait_time_from(MonotonicClock.now())).max(1);
            Verdict { quota, remaining: 0, reset_s: full_in(0).max(wait), wait_s: Some(wait) }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_may_come_at_once_and_then_one_after_the_other() {
        let limit = Limit::new(NonZeroU32::new(6).expect("not 0"));
        let first = limit.check();
        assert_eq!(first, Verdict { quota: 6, remaining: 5, reset_s: 10, wait_s: None });
        let left: Vec<u32> = (0..5).map(|_| limit.check().remaining).collect();
        assert_eq!(left, [4, 3, 2, 1, 0]);
        // Six in 60 s: one every 10 s.
        assert_eq!(limit.check(), Verdict { quota: 6, remaining: 0, reset_s: 60, wait_s: Some(10) });
    }

    #[test]
    fn addresses_do_not_share_and_networks_do() {
        let limits = AddressLimits::new(2).expect("a limit");
        let passes = |address: &str| limits.check(address.parse().expect("an address")).wait_s.is_none();
        assert!(passes("10.0.0.1") && passes("10.0.0.1") && !passes("10.0.0.1"));
        assert!(passes("10.0.0.2"));
        assert!(passes("2001:db8::1") && passes("2001:db8::2") && !passes("2001:db8::3"));
        assert!(passes("2001:db8:0:1::1"));
        assert!(AddressLimits::new(0).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let limits = AddressLimits::new(10).expect("a limit");
        for n in 0..u32::try_from(MAX_ADDRESSES).expect("small") + 50 {
            let _verdict = limits.check(IpAddr::V4(n.into()));
        }
        assert!(limits.limiter.len() <= MAX_ADDRESSES + 1, "{}", limits.limiter.len());
    }
}
