//! Time: one injected clock, so that tests can set it; and the dates and times that people send.

mod calendar;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, SubsecRound, Utc};

pub(crate) use self::calendar::NO_MOMENT;
pub use self::calendar::{Day, Moment, Month, day_start};
pub use self::watch::ClockState;
use self::watch::ClockWatch;

/// The source of "now". Cloning shares the source.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    /// `None`: the clock is always trusted.
    watch: Option<Arc<ClockWatch>>,
}

impl Clock {
    /// The machine's clock, watched for jumps.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(Utc::now).watched_for_jumps()
    }

    /// A clock that calls `now`, for tests. It is always trusted.
    pub fn from_fn(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self { source: Arc::new(now), watch: None }
    }

    /// This clock, watched for jumps from now on.
    #[must_use]
    pub fn watched_for_jumps(self) -> Self {
        let watched = Self { watch: Some(Arc::default()), ..self };
        let _first_state = watched.state();
        watched
    }

    /// The present instant in whole microseconds, which is what PostgreSQL stores.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        (self.source)().trunc_subsecs(6)
    }

    /// Whether the clock can be trusted at this moment.
    #[must_use]
    pub fn state(&self) -> ClockState {
        self.watch.as_ref().map_or(ClockState::Settled, |watch| watch.check(self.now(), time_since_boot()))
    }
}

/// Time since the machine started, including sleep. Nobody can set this clock.
fn time_since_boot() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    // On other systems the monotonic clock includes sleep.
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(id)).unwrap_or_default()
}
