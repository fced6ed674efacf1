//! Time, as the program sees it: one injected clock, so that tests can turn it.

mod watch;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

pub use self::watch::Belief;
use self::watch::ClockWatch;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, SubsecRound, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

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

/// How long to wait after this failed attempt, counted from 0: 1, 4, 16, … seconds, at most an hour.
#[must_use]
pub fn back_off(attempts: i16) -> TimeDelta {
    TimeDelta::seconds(4_i64.saturating_pow(u32::from(attempts.unsigned_abs())).min(3600))
}

/// The first instant of a local day: midnight; where the clocks skip it, the instant at which they do; where
/// it comes twice, the first.
#[must_use]
pub fn day_start(zone: Tz, day: NaiveDate) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    if let Some(start) = zone.from_local_datetime(&midnight).earliest() {
        return start.with_timezone(&Utc);
    }
    // Clocks skip forward over midnight, by a day at most (Samoa left out 30 December 2011): the change is
    // the first instant whose local time is past it.
    let is_past = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local() >= midnight;
    let (mut before, mut after) =
        (midnight.and_utc() - TimeDelta::hours(26), midnight.and_utc() + TimeDelta::hours(26));
    while after - before > TimeDelta::seconds(1) {
        let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if is_past(middle) { after = middle } else { before = middle }
    }
    after
}

/// Instants that people may mean: the years 1 to 9999. Whatever computes with them stays within what
/// PostgreSQL and chrono hold.
const SPAN_S: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;

/// An instant that somebody outside names: RFC 3339 with its offset from UTC, to the microsecond, in the
/// years 1 to 9999 of UTC. Every time in a query, a body, a path or a cursor is read as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = DateTime, examples("2026-01-31T00:00:00Z"))]
pub struct Moment(pub DateTime<Utc>);

impl Moment {
    /// The instant, where it is one that people may mean. A leap second, `23:59:60`, is the second after it,
    /// as POSIX counts (IEEE 1003.1, 4.19): chrono keeps it as a 59th second with too many nanoseconds, which
    /// has the day, month and period of the second before.
    #[must_use]
    pub fn within_span(at: DateTime<Utc>) -> Option<Self> {
        // A leap second (23:59:60) is the next second, as PostgreSQL reads it: chrono would leave it in the
        // day before.
        let at = DateTime::from_timestamp_micros(at.timestamp_micros())?;
        SPAN_S.contains(&at.timestamp()).then_some(Self(at))
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc));
        at.and_then(Self::within_span).ok_or(
            "must be an RFC 3339 time of the years 1 to 9999, such as 2026-01-31T00:00:00Z (in a URL write \
                the + of an offset as %2B)",
        )
    }
}

/// A day of a calendar, `2026-10-01`, in the years 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = Date, examples("2026-10-01"))]
pub struct Day(pub NaiveDate);

impl FromStr for Day {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let day = digits(text, &[4, 2, 2]).and_then(|_| text.parse::<NaiveDate>().ok());
        day.filter(|day| day.year() >= 1)
            .map(Self)
            .ok_or("must be a day of the years 1 to 9999, such as 2026-10-01")
    }
}

/// A month of a calendar, `2026-10`, in the years 1 to 9999; holds its first day, by which it may be named
/// too: `2026-10-01`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Month(NaiveDate);

impl Month {
    /// The month that a day lies in.
    #[must_use]
    pub fn of(day: NaiveDate) -> Self {
        Self(day.with_day(1).unwrap_or(day))
    }

    /// Its first day.
    #[must_use]
    pub fn first_day(self) -> NaiveDate {
        self.0
    }
}

impl FromStr for Month {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_suffix("-01").filter(|month| month.len() == 7).unwrap_or(text);
        let day = digits(text, &[4, 2]).and_then(|_| format!("{text}-01").parse::<NaiveDate>().ok());
        day.filter(|day| day.year() >= 1)
            .map(Self)
            .ok_or("must be a month of the years 1 to 9999, such as 2026-10")
    }
}

impl fmt::Display for Month {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.0.format("%Y-%m"))
    }
}

impl Serialize for Month {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl PartialSchema for Month {
    fn schema() -> RefOr<Schema> {
        let text = ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some("^([1-9][0-9]{3}|0[1-9][0-9]{2}|00[1-9][0-9]|000[1-9])-(0[1-9]|1[0-2])(-01)?$"));
        text.examples(["2026-10"]).into()
    }
}

impl ToSchema for Month {}

macro_rules! from_text {
    ($($type:ident),+) => {
        $(impl TryFrom<String> for $type {
            type Error = &'static str;

            fn try_from(text: String) -> Result<Self, Self::Error> {
                text.parse()
            }
        })+
    };
}
from_text!(Moment, Day, Month);

/// Whether a text is groups of so many digits with hyphens between: chrono also takes signs, blanks and
/// single digits.
fn digits(text: &str, groups: &[usize]) -> Option<()> {
    let found =
        text.split('-').map(|group| group.bytes().all(|byte| byte.is_ascii_digit()).then_some(group.len()));
    found.eq(groups.iter().map(|length| Some(*length))).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_leap_second_is_the_next_one() {
        for (text, instant) in [
            ("2016-12-31T23:59:60Z", Some("2017-01-01T00:00:00+00:00")),
            ("2016-12-31T23:59:60.5Z", Some("2017-01-01T00:00:00.500+00:00")),
            ("2016-12-31T23:59:60.9999999Z", Some("2017-01-01T00:00:00.999999+00:00")),
            ("2017-01-01T00:59:60+01:00", Some("2017-01-01T00:00:00+00:00")),
            ("2016-12-31T18:59:60-05:00", Some("2017-01-01T00:00:00+00:00")),
            ("2015-06-30T23:59:60Z", Some("2015-07-01T00:00:00+00:00")),
            ("2016-12-31T23:59:59.999999Z", Some("2016-12-31T23:59:59.999999+00:00")),
            ("2016-12-31T23:59:61Z", None),
            ("9999-12-31T23:59:60Z", None),
        ] {
            let read = text.parse::<Moment>().ok().map(|at| at.0);
            assert_eq!(read.map(|at| at.to_rfc3339()).as_deref(), instant, "{text}");
            // As one instant, to whoever counts seconds and to whoever asks for the day.
            let day = read.map(|at| at.date_naive());
            let counted =
                read.and_then(|at| DateTime::from_timestamp(at.timestamp(), 0)).map(|at| at.date_naive());
            assert_eq!(day, counted, "{text}");
        }
    }

    #[test]
    fn times_are_written_in_one_way_and_lie_within_a_span() {
        for (text, taken) in [
            ("2026-10-01T00:00:00Z", true),
            ("0001-01-01T00:00:00Z", true),
            ("9999-12-31T23:59:59.999999Z", true),
            ("0001-01-01T00:00:00+00:01", false),
            ("9999-12-31T23:59:59-00:01", false),
            ("0000-06-01T00:00:00Z", false),
            ("-0001-06-01T00:00:00Z", false),
            ("+262142-01-01T00:00:00Z", false),
            ("-200000-01-01T00:00:00Z", false),
            ("2026-10-01", false),
            ("", false),
        ] {
            assert_eq!(text.parse::<Moment>().is_ok(), taken, "{text}");
        }
        for (text, taken) in [
            ("2026-10-01", true),
            ("2024-02-29", true),
            ("2026-02-29", false),
            ("2026-10-1", false),
            ("0000-10-01", false),
            ("+2026-10-01", false),
            (" 2026-10-01", false),
            ("2026-10", false),
            ("262142-01-01", false),
            ("-200000-01-01", false),
        ] {
            assert_eq!(text.parse::<Day>().is_ok(), taken, "{text}");
        }
        for (text, taken) in [
            ("2026-10", true),
            ("2026-13", false),
            ("2026-1", false),
            ("2026-10-01", true),
            ("0000-10", false),
            ("262142-01", false),
        ] {
            assert_eq!(text.parse::<Month>().is_ok(), taken, "{text}");
        }
        assert_eq!("2026-10".parse::<Month>().expect("a month").to_string(), "2026-10");
    }
}
