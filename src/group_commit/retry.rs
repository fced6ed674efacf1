//! When a batch that failed runs again.

use std::time::{Duration, Instant};

use crate::error::Error;

/// How long a batch is run again while the database is away.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause before such a run.
pub(super) const PAUSE: Duration = Duration::from_millis(20);
/// Runs that follow at once on a lost race or connection, at most.
const AT_ONCE: u32 = 5;

/// What the callers of a batcher prefer when a batch fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// To wait: usage and deliveries must be stored. After any transient error the batch runs again, for 5 s.
    /// When these were not enough, later batches fail at once until one succeeds, so that they do not queue
    /// up. The work itself finds out the outcome of a lost commit.
    Store,
    /// To hear soon that it did not work: questions, and decisions that may be made twice with one result.
    /// After a lost race or connection the batch runs again at once, 5 times. It does not after waiting for a
    /// lock, nor when no connection can be opened. After a lost commit it runs again for 5 s: what was done
    /// gets the same answer a second time.
    Repeat,
}

/// The attempts at one batch.
pub(super) struct Attempts {
    retry: Retry,
    /// An earlier batch gave up, and none has succeeded since.
    is_away: bool,
    started: Instant,
    at_once: u32,
    /// The outcome of one of them is unknown.
    is_unknown: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    RunAtOnce,
    RunAfterPause,
    GiveUp,
}

impl Attempts {
    pub(super) fn new(retry: Retry, is_away: bool) -> Self {
        Self { retry, is_away, started: Instant::now(), at_once: 0, is_unknown: false }
    }

    /// What follows on this error. `is_open`: there is a connection, be it a broken one.
    pub(super) fn next(&mut self, error: &Error, is_open: bool) -> Next {
        let is_unknown = matches!(error, Error::OutcomeUnknown);
        self.is_unknown |= is_unknown;
        let (at_once, after_pause) = match self.retry {
            Retry::Store => (false, error.is_transient() && !self.is_away),
            Retry::Repeat => (
                is_unknown || is_open && error.is_transient() && !error.is_timeout(),
                self.is_unknown && !is_open && error.is_transient(),
            ),
        };
        if at_once && self.at_once < AT_ONCE {
            self.at_once += 1;
            Next::RunAtOnce
        } else if after_pause && self.started.elapsed() <= PATIENCE {
            Next::RunAfterPause
        } else {
            Next::GiveUp
        }
    }

    pub(super) fn is_unknown(&self) -> bool {
        self.is_unknown
    }
}

#[cfg(test)]
mod tests {
    use diesel::result::{DatabaseErrorKind, Error as DieselError};

    use super::*;

    const RACE: Error = Error::Busy("somebody was faster");

    fn timeout() -> Error {
        let message = Box::new("canceling statement due to lock timeout".to_owned());
        Error::Database(DieselError::DatabaseError(DatabaseErrorKind::Unknown, message))
    }

    #[test]
    fn what_must_be_stored_is_stored_later() {
        let mut attempts = Attempts::new(Retry::Store, false);
        for error in [RACE, timeout()] {
            assert_eq!(attempts.next(&error, false), Next::RunAfterPause);
        }
        assert_eq!(attempts.next(&Error::OutcomeUnknown, true), Next::GiveUp);
        assert!(attempts.is_unknown());
        let panic = Error::Panicked("here".to_owned());
        assert_eq!(Attempts::new(Retry::Store, false).next(&panic, true), Next::GiveUp);
        assert_eq!(Attempts::new(Retry::Store, true).next(&RACE, true), Next::GiveUp, "it is still away");
    }

    #[test]
    fn who_asks_hears_soon() {
        let new = || Attempts::new(Retry::Repeat, false);
        let mut attempts = new();
        for _ in 0..AT_ONCE {
            assert_eq!(attempts.next(&RACE, true), Next::RunAtOnce);
        }
        assert_eq!(attempts.next(&RACE, true), Next::GiveUp);
        assert_eq!(new().next(&RACE, false), Next::GiveUp, "no connection");
        assert_eq!(new().next(&timeout(), true), Next::GiveUp);
        let mut attempts = new();
        assert_eq!(attempts.next(&Error::OutcomeUnknown, true), Next::RunAtOnce);
        assert_eq!(attempts.next(&RACE, false), Next::RunAfterPause, "the outcome is worth a wait");
    }
}
