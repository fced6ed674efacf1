//! Notices when the machine's clock jumps: a wrong date would stay in entries that never change.
//!
//! A second clock counts the time since the machine started; nobody can set it. A jump is a sudden change of
//! the difference between the two clocks. After a jump the clock is trusted again when it jumps back, or when
//! it stays for [`DOUBT`]: then somebody corrected it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A smaller change counts as a normal correction.
pub(super) const JUMP: TimeDelta = TimeDelta::seconds(60);
/// How long a clock is not trusted after a jump.
pub(super) const DOUBT: Duration = Duration::from_secs(20);
/// How long a clock must run without a jump before it may decide which rows are old enough to delete.
pub(super) const SETTLED: Duration = Duration::from_secs(600);

/// Compares the clock with the time since the machine started (`uptime`).
#[derive(Debug, Default)]
pub(super) struct ClockWatch(Mutex<Option<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// The trusted difference: clock minus uptime.
    offset: TimeDelta,
    /// Since which uptime it is trusted.
    since: Duration,
    /// A jump that is not trusted yet.
    jump: Option<Jump>,
}

#[derive(Clone, Copy, Debug)]
struct Jump {
    /// The new difference: clock minus uptime.
    offset: TimeDelta,
    /// At which uptime it was noticed.
    at: Duration,
}

/// Whether the clock can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockState {
    /// It ran without a jump for at least [`SETTLED`].
    Settled,
    /// It can be trusted, but has not run long enough to delete old rows by it.
    Running,
    /// It jumped by this much, less than [`DOUBT`] ago: nothing may be dated by it.
    Jumped(TimeDelta),
}

impl ClockWatch {
    /// Compares the two clocks.
    pub(super) fn check(&self, clock: DateTime<Utc>, uptime: Duration) -> ClockState {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = (clock - DateTime::UNIX_EPOCH) - TimeDelta::from_std(uptime).unwrap_or(TimeDelta::MAX);
        state.get_or_insert(State { offset, since: uptime, jump: None }).update(offset, uptime)
    }
}

impl State {
    fn update(&mut self, offset: TimeDelta, uptime: Duration) -> ClockState {
        if is_near(offset, self.offset) {
            (self.offset, self.jump) = (offset, None);
            let settled = uptime.saturating_sub(self.since) >= SETTLED;
            return if settled { ClockState::Settled } else { ClockState::Running };
        }
        let jump = self.jump.filter(|jump| is_near(offset, jump.offset)).unwrap_or_else(|| {
            let by_s = (offset - self.offset).num_seconds();
            tracing::error!(by_s, "the clock jumped: nothing is written until it is back, or has stayed");
            Jump { offset, at: uptime }
        });
        if uptime.saturating_sub(jump.at) < DOUBT {
            self.jump = Some(jump);
            return ClockState::Jumped(offset - self.offset);
        }
        tracing::warn!(by_s = (offset - self.offset).num_seconds(), "the clock stayed where it jumped to");
        *self = Self { offset, since: uptime, jump: None };
        ClockState::Running
    }
}

fn is_near(one: TimeDelta, other: TimeDelta) -> bool {
    (one - other).abs() < JUMP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of (uptime in seconds, seconds by which the clock is ahead of it, expected state).
    #[test]
    fn a_jump_is_not_trusted_until_it_is_over_or_has_stayed() {
        let jumped = |seconds| ClockState::Jumped(TimeDelta::seconds(seconds));
        let month = 40 * 86_400;
        let cases: &[&[(u64, i64, ClockState)]] = &[
            // No jump: corrected by less than a minute between two checks.
            &[(0, 0, ClockState::Running), (10, 30, ClockState::Running), (20, 80, ClockState::Running)],
            // Ahead for twelve seconds.
            &[
                (0, 0, ClockState::Running),
                (5, month, jumped(month)),
                (17, month + 1, jumped(month + 1)),
                (18, 0, ClockState::Running),
            ],
            // Back for good.
            &[(0, 0, ClockState::Running), (5, -3_600, jumped(-3_600)), (25, -3_600, ClockState::Running)],
            // From one wrong time to another: the waiting time starts again.
            &[
                (0, 0, ClockState::Running),
                (5, month, jumped(month)),
                (24, -month, jumped(-month)),
                (26, -month, jumped(-month)),
            ],
            // Settled after ten minutes without a jump; a jump that stayed starts them again.
            &[
                (0, 0, ClockState::Running),
                (599, 0, ClockState::Running),
                (600, 0, ClockState::Settled),
                (601, month, jumped(month)),
                (630, month, ClockState::Running),
                (1_230, month, ClockState::Settled),
            ],
        ];
        for steps in cases {
            let watch = ClockWatch::default();
            for (uptime, ahead, expected) in *steps {
                let uptime_s = i64::try_from(*uptime).expect("small");
                let clock = DateTime::UNIX_EPOCH + TimeDelta::seconds(uptime_s + ahead);
                let state = watch.check(clock, Duration::from_secs(*uptime));
                assert_eq!(state, *expected, "after {uptime} s, {ahead} s ahead, in {steps:?}");
            }
        }
    }
}
