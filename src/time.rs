//! Time, as the program sees it: one injected clock, so that tests can turn it.

mod watch;

use std::sync::Arc;
use std::time::Duration;

pub use self::watch::Belief;
use self::watch::ClockWatch;

use chrono::{DateTime, NaiveDate, NaiveTime, SubsecRound, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Where "now" comes from. Cloning shares the source.
#[derive(Clone)]
pub struct Clock {
    source: Arc<dyn Fn() -> DateTime<Utc> + Send + Sync>,
    /// `None`: whatever it says is believed.
    watch: Option<Arc<ClockWatch>>,
}

impl Clock {
    /// The machine's clock, watched for jumps.
    #[must_use]
    pub fn system() -> Self {
        Self::from_fn(Utc::now).watched()
    }

    /// A clock that asks `now`; tests turn it by hand, and it is believed.
    pub fn from_fn(now: impl Fn() -> DateTime<Utc> + Send + Sync + 'static) -> Self {
        Self { source: Arc::new(now), watch: None }
    }

    /// This clock, watched for jumps from now on.
    #[must_use]
    pub fn watched(self) -> Self {
        let watched = Self { watch: Some(Arc::default()), ..self };
        let _first_look = watched.belief();
        watched
    }

    /// The present instant, to the microsecond: what PostgreSQL can hold.
    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        (self.source)().trunc_subsecs(6)
    }

    /// How far it may be believed at this moment.
    #[must_use]
    pub fn belief(&self) -> Belief {
        self.watch.as_ref().map_or(Belief::Settled, |watch| watch.look(self.now(), passed()))
    }
}

/// The time that passed since the machine started, sleep included; nobody can set it.
fn passed() -> Duration {
    #[cfg(target_os = "linux")]
    let id = rustix::time::ClockId::Boottime;
    // Elsewhere this one counts sleep.
    #[cfg(not(target_os = "linux"))]
    let id = rustix::time::ClockId::Monotonic;
    Duration::try_from(rustix::time::clock_gettime(id)).unwrap_or_default()
}

/// The first instant of a local day: midnight; where the clocks skip it, the instant at which they do; where it comes twice, the first.
#[must_use]
pub fn day_start(zone: Tz, day: NaiveDate) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    if let Some(start) = zone.from_local_datetime(&midnight).earliest() {
        return start.with_timezone(&Utc);
    }
    // Clocks skip forward over midnight, by a day at most (Samoa left out 30 December 2011): the change is the first instant whose
    // local time is past it.
    let is_past = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local() >= midnight;
    let (mut before, mut after) =
        (midnight.and_utc() - TimeDelta::hours(26), midnight.and_utc() + TimeDelta::hours(26));
    while after - before > TimeDelta::seconds(1) {
        let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if is_past(middle) { after = middle } else { before = middle }
    }
    after
}

/// An instant that a request names: RFC 3339 with its offset from UTC, to the microsecond.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = DateTime, examples("2026-01-31T00:00:00Z"))]
pub struct Moment(pub DateTime<Utc>);

impl TryFrom<String> for Moment {
    type Error = &'static str;

    /// RFC 3339 has four digits for the year, so every instant fits into PostgreSQL's `timestamptz`.
    fn try_from(text: String) -> Result<Self, Self::Error> {
        DateTime::parse_from_rfc3339(&text)
            .map(|at| Self(at.with_timezone(&Utc).trunc_subsecs(6)))
            .map_err(|_| "must be an RFC 3339 time such as 2026-01-31T00:00:00Z")
    }
}
