//! Whether the clock may be believed: a clock that jumps would date entries that never change.
//!
//! A jump is a change of the clock against the time that passed, which a second clock counts that nobody
//! sets. What jumped is believed again when it came back, or when it stayed for [`DOUBT`]: then somebody
//! corrected it.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

/// A smaller change is a correction, and is followed.
pub(super) const JUMP: TimeDelta = TimeDelta::seconds(60);
/// How long a clock that jumped is doubted.
pub(super) const DOUBT: Duration = Duration::from_secs(20);
/// How long a clock must run without a jump before old rows are deleted by it.
pub(super) const SETTLED: Duration = Duration::from_secs(600);

/// Compares the clock with the time that passed.
#[derive(Debug, Default)]
pub(super) struct ClockWatch(Mutex<Option<State>>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// The clock less the time that passed, as it is believed.
    offset: TimeDelta,
    /// Since when it is believed, in time that passed.
    since: Duration,
    /// A jump that is doubted.
    doubted: Option<Jump>,
}

#[derive(Clone, Copy, Debug)]
struct Jump {
    /// The clock less the time that passed, after it.
    offset: TimeDelta,
    /// When it was seen, in time that passed.
    at: Duration,
}

/// How far the clock may be believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Belief {
    /// It ran evenly for [`SETTLED`].
    Settled,
    Running,
    /// It jumped by so much, less than [`DOUBT`] ago.
    Doubted(TimeDelta),
}

impl ClockWatch {
    /// Looks at the clock, `passed` after some fixed moment.
    pub(super) fn look(&self, clock: DateTime<Utc>, passed: Duration) -> Belief {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let offset = (clock - DateTime::UNIX_EPOCH) - TimeDelta::from_std(passed).unwrap_or(TimeDelta::MAX);
        let state = held.get_or_insert(State { offset, since: passed, doubted: None });
        state.look(offset, passed)
    }
}

impl State {
    fn look(&mut self, offset: TimeDelta, passed: Duration) -> Belief {
        if is_near(offset, self.offset) {
            (self.offset, self.doubted) = (offset, None);
            let settled = passed.saturating_sub(self.since) >= SETTLED;
            return if settled { Belief::Settled } else { Belief::Running };
        }
        let jump = self.doubted.filter(|jump| is_near(offset, jump.offset)).unwrap_or_else(|| {
            let by_s = (offset - self.offset).num_seconds();
            tracing::error!(by_s, "the clock jumped: nothing is written until it is back, or has stayed");
            Jump { offset, at: passed }
        });
        if passed.saturating_sub(jump.at) < DOUBT {
            self.doubted = Some(jump);
            return Belief::Doubted(offset - self.offset);
        }
        tracing::warn!(by_s = (offset - self.offset).num_seconds(), "the clock stayed where it jumped to");
        *self = Self { offset, since: passed, doubted: None };
        Belief::Running
    }
}

fn is_near(one: TimeDelta, other: TimeDelta) -> bool {
    (one - other).abs() < JUMP
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Steps of (seconds that passed, what the clock is ahead of them), and what is believed then.
    #[test]
    fn a_jump_is_doubted_until_it_is_over_or_has_stayed() {
        let doubted = |seconds| Belief::Doubted(TimeDelta::seconds(seconds));
        let month = 40 * 86_400;
        let cases: &[&[(u64, i64, Belief)]] = &[
            // Evenly, and slewed by less than a minute a look.
            &[(0, 0, Belief::Running), (10, 30, Belief::Running), (20, 80, Belief::Running)],
            // Ahead for twelve seconds.
            &[
                (0, 0, Belief::Running),
                (5, month, doubted(month)),
                (17, month + 1, doubted(month + 1)),
                (18, 0, Belief::Running),
            ],
            // Back for good.
            &[(0, 0, Belief::Running), (5, -3_600, doubted(-3_600)), (25, -3_600, Belief::Running)],
            // From one wrong time to another: doubted anew.
            &[
                (0, 0, Belief::Running),
                (5, month, doubted(month)),
                (24, -month, doubted(-month)),
                (26, -month, doubted(-month)),
            ],
            // Rows are deleted after ten even minutes; a jump that stayed starts them anew.
            &[
                (0, 0, Belief::Running),
                (599, 0, Belief::Running),
                (600, 0, Belief::Settled),
                (601, month, doubted(month)),
                (630, month, Belief::Running),
                (1_230, month, Belief::Settled),
            ],
        ];
        for steps in cases {
            let watch = ClockWatch::default();
            for (passed, ahead, belief) in *steps {
                let passed_s = i64::try_from(*passed).expect("small");
                let clock = DateTime::UNIX_EPOCH + TimeDelta::seconds(passed_s + ahead);
                let told = watch.look(clock, Duration::from_secs(*passed));
                assert_eq!(told, *belief, "after {passed} s, {ahead} s ahead, in {steps:?}");
            }
        }
    }
}
