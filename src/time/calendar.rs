//! Instants, days and months as people send them. Every such value from outside is parsed here.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Datelike, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize, Serializer};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

/// The first instant of a local day: midnight. If the clocks skip midnight: the instant at which they do. If
/// midnight comes twice: the first one.
#[must_use]
pub fn day_start(zone: Tz, day: NaiveDate) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    if let Some(start) = zone.from_local_datetime(&midnight).earliest() {
        return start.with_timezone(&Utc);
    }
    // The clocks skip midnight, and at most a day (Samoa skipped 30 December 2011). Search the first instant
    // whose local time is after midnight.
    let is_after_midnight = |at: DateTime<Utc>| at.with_timezone(&zone).naive_local() >= midnight;
    let (mut before, mut after) =
        (midnight.and_utc() - TimeDelta::hours(26), midnight.and_utc() + TimeDelta::hours(26));
    while after - before > TimeDelta::seconds(1) {
        let middle = before + TimeDelta::seconds((after - before).num_seconds() / 2);
        if is_after_midnight(middle) { after = middle } else { before = middle }
    }
    after
}

/// Accepted instants, in seconds since 1970: the years 1 to 9999. Calculations with them stay inside the
/// range of PostgreSQL and chrono.
const ACCEPTED_S: std::ops::Range<i64> = -62_135_596_800..253_402_300_800;

/// The rule for a text that is no [`Moment`].
pub(crate) const NO_MOMENT: &str = "must be an RFC 3339 time of the years 1 to 9999, such as \
    2026-01-31T00:00:00Z (in a URL write the + of an offset as %2B)";

/// An instant in RFC 3339 with its offset from UTC, to the microsecond, in the years 1 to 9999 of UTC. Every
/// time in a query, a body, a path or a cursor is read as one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = DateTime, examples("2026-01-31T00:00:00Z"))]
pub struct Moment(pub DateTime<Utc>);

impl Moment {
    /// The instant; `None` outside of the years 1 to 9999. A leap second, `23:59:60`, becomes the next
    /// second, as in POSIX (IEEE 1003.1, 4.19) and PostgreSQL. chrono would keep it as second 59 with too
    /// many nanoseconds, in the day, month and period before.
    #[must_use]
    pub fn from_instant(at: DateTime<Utc>) -> Option<Self> {
        let at = DateTime::from_timestamp_micros(at.timestamp_micros())?;
        ACCEPTED_S.contains(&at.timestamp()).then_some(Self(at))
    }
}

impl FromStr for Moment {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let at = DateTime::parse_from_rfc3339(text).ok().map(|at| at.with_timezone(&Utc));
        at.and_then(Self::from_instant).ok_or(NO_MOMENT)
    }
}

/// A day of a calendar, `2026-10-01`, in the years 1 to 9999.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(try_from = "String")]
#[schema(value_type = String, format = Date, examples("2026-10-01"))]
pub struct Day(pub NaiveDate);

impl Day {
    /// 1 January of the year 1.
    pub const FIRST: NaiveDate = NaiveDate::from_ymd_opt(1, 1, 1).unwrap();
    /// 31 December of the year 9999.
    pub const LAST: NaiveDate = NaiveDate::from_ymd_opt(9999, 12, 31).unwrap();
}

impl FromStr for Day {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let day = is_digit_groups(text, &[4, 2, 2]).then(|| text.parse::<NaiveDate>().ok()).flatten();
        day.filter(|day| day.year() >= 1)
            .map(Self)
            .ok_or("must be a day of the years 1 to 9999, such as 2026-10-01")
    }
}

/// A month of a calendar, `2026-10`, in the years 1 to 9999. Its first day, `2026-10-01`, is accepted too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(try_from = "String")]
pub struct Month(NaiveDate);

impl Month {
    /// The month of this day.
    #[must_use]
    pub fn containing(day: NaiveDate) -> Self {
        Self(day.with_day(1).unwrap_or(day))
    }

    #[must_use]
    pub fn first_day(self) -> NaiveDate {
        self.0
    }
}

impl FromStr for Month {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let text = text.strip_suffix("-01").filter(|month| month.len() == 7).unwrap_or(text);
        let first_day = || format!("{text}-01").parse::<NaiveDate>().ok();
        let day = is_digit_groups(text, &[4, 2]).then(first_day).flatten();
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

/// Whether the text consists of digit groups of these lengths with hyphens between them. chrono alone would
/// also accept signs, blanks and single digits.
fn is_digit_groups(text: &str, lengths: &[usize]) -> bool {
    let found =
        text.split('-').map(|group| group.bytes().all(|byte| byte.is_ascii_digit()).then_some(group.len()));
    found.eq(lengths.iter().map(|length| Some(*length)))
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
            // Counted in seconds or as a day, it is the same instant.
            let day = read.map(|at| at.date_naive());
            let counted =
                read.and_then(|at| DateTime::from_timestamp(at.timestamp(), 0)).map(|at| at.date_naive());
            assert_eq!(day, counted, "{text}");
        }
    }

    #[test]
    fn texts_have_one_form_and_lie_in_the_years_1_to_9999() {
        for (text, accepted) in [
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
            assert_eq!(text.parse::<Moment>().is_ok(), accepted, "{text}");
        }
        for (text, accepted) in [
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
            assert_eq!(text.parse::<Day>().is_ok(), accepted, "{text}");
        }
        for (text, accepted) in [
            ("2026-10", true),
            ("2026-13", false),
            ("2026-1", false),
            ("2026-10-01", true),
            ("0000-10", false),
            ("262142-01", false),
        ] {
            assert_eq!(text.parse::<Month>().is_ok(), accepted, "{text}");
        }
        assert_eq!("2026-10".parse::<Month>().expect("a month").to_string(), "2026-10");
    }
}
