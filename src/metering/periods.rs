//! Periods: which one usage belongs to, and when it begins and ends.
//!
//! A period is part of a counter's name. A new period is another counter, so nothing has to happen when a
//! period ends. The name of a day, week or month is its first local day, the *label*: after a change of zone
//! the counter of that date goes on, and only its first and last instant move. The name of a billing period
//! is the instant at which it began, because two may begin on one date; its label is that date in UTC. So is
//! the name of an hour, and of a segment of a rolling window (`windows.rs`).

use chrono::{DateTime, Datelike, Days, DurationRound, Months, NaiveDate, TimeDelta, Utc};

use super::slots::PeriodKind;
use crate::billing::directory::OrgContext;
use crate::time::day_start;

/// Label of the one counter of what has no period. No usage is older.
pub const ALWAYS: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date");

/// Names a period.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    /// Its first day: local for a day, week or month, in UTC for a billing period, an hour or a segment,
    /// [`ALWAYS`] for what has no period.
    pub label: NaiveDate,
    /// When a billing period, an hour or a segment began; `None`: a local day, week or month, whose beginning
    /// depends on the org's zone, or no period.
    pub began: Option<DateTime<Utc>>,
}

/// When usage occurred, as periods need to know it.
#[derive(Clone, Copy, Debug)]
pub struct UsageTime {
    pub at: DateTime<Utc>,
    /// The local day of `at`.
    pub day: NaiveDate,
    /// When the billing period of `at` began; `None`: there is none.
    pub billing: Option<DateTime<Utc>>,
}

impl UsageTime {
    /// An instant, for an org.
    #[must_use]
    pub fn of(org: &OrgContext, at: DateTime<Utc>) -> Self {
        Self { at, day: org.day(at), billing: org.billing_period(at) }
    }
}

/// How many days of the past have counters.
#[derive(Clone, Copy, Debug)]
pub struct CountedDays {
    /// Of orgs, and of all billing periods.
    pub org: u16,
    /// Of subjects, of all hours, and of the segments of windows, whose length comes on top.
    pub subject: u16,
}

impl CountedDays {
    /// Counted from the records when an org's first quota on a slot is made.
    pub const BY_FIRST_QUOTA: Self = Self { org: 400, subject: 7 };

    /// Label of the oldest period that reaches into these days before `at`.
    #[must_use]
    pub fn first_label(
        self,
        kind: PeriodKind,
        per_subject: bool,
        org: &OrgContext,
        at: DateTime<Utc>,
    ) -> NaiveDate {
        let days = match kind {
            PeriodKind::Rolling(window) => self.subject + window.days(),
            PeriodKind::Hour => self.subject,
            _ if per_subject && kind != PeriodKind::Billing => self.subject,
            _ => self.org,
        };
        Period::at(kind, org, at.checked_sub_days(Days::new(days.into())).unwrap_or(at)).label
    }
}

/// `quota_counters.began` of a local day, week or month.
const NO_INSTANT: DateTime<Utc> = DateTime::UNIX_EPOCH;

impl Period {
    /// The one counter of what has no period, and the anchor of a rolling window.
    pub const ALWAYS: Self = Self { label: ALWAYS, began: None };

    /// The period that begins at an instant: a billing period, an hour or a segment.
    #[must_use]
    pub fn instant(began: DateTime<Utc>) -> Self {
        Self { label: began.date_naive(), began: Some(began) }
    }

    /// The period of usage of this time. Without a billing period the month takes its place.
    #[must_use]
    pub fn containing(kind: PeriodKind, time: UsageTime) -> Self {
        let local = |label: NaiveDate| Self { label, began: None };
        let day = time.day;
        match (kind, time.billing) {
            (PeriodKind::Always, _) => Self::ALWAYS,
            (PeriodKind::Rolling(window), _) => Self::instant(window.segment_start(time.at)),
            (PeriodKind::Hour, _) => {
                Self::instant(time.at.duration_trunc(TimeDelta::hours(1)).unwrap_or(time.at))
            }
            (PeriodKind::Day, _) => local(day),
            (PeriodKind::Week, _) => {
                let days = u64::from(day.weekday().num_days_from_monday());
                local(day.checked_sub_days(Days::new(days)).unwrap_or(day))
            }
            (PeriodKind::Billing, began) => Self::billing(began, day),
            (PeriodKind::Month, _) => Self::month(day),
        }
    }

    /// The local month of a day.
    #[must_use]
    pub fn month(day: NaiveDate) -> Self {
        Self { label: day.with_day(1).unwrap_or(day), began: None }
    }

    /// The billing period that began then; without one the local month of the day.
    #[must_use]
    pub fn billing(began: Option<DateTime<Utc>>, day: NaiveDate) -> Self {
        began.map_or_else(|| Self::month(day), Self::instant)
    }

    /// The period of an instant.
    #[must_use]
    pub fn at(kind: PeriodKind, org: &OrgContext, at: DateTime<Utc>) -> Self {
        Self::containing(kind, UsageTime::of(org, at))
    }

    /// The label of the first period that counts at an instant: of a rolling window the oldest segment in it.
    #[must_use]
    pub fn first_seen(kind: PeriodKind, org: &OrgContext, at: DateTime<Utc>) -> NaiveDate {
        let began = Self::at(kind, org, at);
        let first =
            kind.window().zip(began.began).map(|(window, began)| Self::instant(began - window.length()));
        first.unwrap_or(began).label
    }

    /// The columns `period` and `began`.
    #[must_use]
    pub fn to_row(self) -> (NaiveDate, DateTime<Utc>) {
        (self.label, self.began.unwrap_or(NO_INSTANT))
    }

    /// From the columns `period` and `began`.
    #[must_use]
    pub fn from_row((label, began): (NaiveDate, DateTime<Utc>)) -> Self {
        Self { label, began: Some(began).filter(|began| *began != NO_INSTANT) }
    }

    /// When it begins and ends, `[start, end)`; without an end: what has no period. A billing period that the
    /// org has no longer ends a month after its beginning.
    #[must_use]
    pub fn bounds(self, kind: PeriodKind, org: &OrgContext) -> (DateTime<Utc>, Option<DateTime<Utc>>) {
        if let Some(began) = self.began {
            let end = match kind {
                PeriodKind::Hour => Some(began + TimeDelta::hours(1)),
                PeriodKind::Rolling(window) => Some(began + window.segment()),
                _ => org.billing_bounds(began).map(|(_, end)| end),
            };
            return (began, Some(end.or_else(|| began.checked_add_months(Months::new(1))).unwrap_or(began)));
        }
        let next = match kind {
            PeriodKind::Always | PeriodKind::Rolling(_) => return (day_start(org.zone, self.label), None),
            PeriodKind::Day | PeriodKind::Hour => self.label.checked_add_days(Days::new(1)),
            PeriodKind::Week => self.label.checked_add_days(Days::new(7)),
            PeriodKind::Month | PeriodKind::Billing => {
                self.label.checked_add_months(Months::new(1)).and_then(|next| next.with_day(1))
            }
        };
        (day_start(org.zone, self.label), Some(day_start(org.zone, next.unwrap_or(self.label))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chrono::TimeDelta;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn days_begin_by_their_zone() {
        for (zone, label, start, hours) in [
            ("UTC", "2026-03-29", "2026-03-29T00:00:00Z", 24),
            ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00Z", 23),
            ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00Z", 25),
            ("America/New_York", "2026-03-08", "2026-03-08T05:00:00Z", 23),
            // There is no midnight: the day begins at one o'clock.
            ("Africa/Cairo", "2026-04-24", "2026-04-23T22:00:00Z", 23),
            ("America/Santiago", "2026-09-06", "2026-09-06T04:00:00Z", 23),
            // Midnight comes twice: the day before is the long one.
            ("America/Havana", "2026-11-01", "2026-11-01T04:00:00Z", 25),
            ("Australia/Lord_Howe", "2026-04-05", "2026-04-04T13:00:00Z", 24),
        ] {
            let start_of = |day| day_start(zone.parse().expect("a zone"), day);
            let (from, to) = (start_of(day(label)), start_of(day(label) + Days::new(1)));
            assert_eq!(from.to_rfc3339(), start.replace('Z', "+00:00"), "{zone} {label}");
            assert_eq!(
                (to - from).num_minutes(),
                hours * 60 + if zone == "Australia/Lord_Howe" { 30 } else { 0 },
                "{zone} {label}"
            );
        }
        // A day that the zone skipped begins and ends at the change.
        let apia = "Pacific/Apia".parse().expect("a zone");
        assert_eq!(day_start(apia, day("2011-12-30")), day_start(apia, day("2011-12-31")));
    }

    #[test]
    fn every_instant_lies_within_the_day_of_its_label() {
        for zone in ["Europe/Berlin", "Africa/Cairo", "America/Havana", "Pacific/Apia", "Asia/Kathmandu"] {
            let zone: chrono_tz::Tz = zone.parse().expect("a zone");
            for hour in 0..24 * 400 {
                let at =
                    "2011-06-01T00:30:00Z".parse::<DateTime<Utc>>().expect("a time") + TimeDelta::hours(hour);
                let label = at.with_timezone(&zone).date_naive();
                let next = label + Days::new(1);
                assert!(day_start(zone, label) <= at && at < day_start(zone, next), "{zone} {at}");
            }
        }
    }

    #[test]
    fn labels_are_first_days() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        let (late, billing) = (day("2026-02-28"), Some(at("2026-02-11T22:00:00Z")));
        let hour = Some(at("2026-03-01T01:00:00Z"));
        for (kind, billing, label, began) in [
            // Of an org west of UTC, where it still is Saturday, the last of February.
            (PeriodKind::Hour, billing, "2026-03-01", hour),
            (PeriodKind::Day, billing, "2026-02-28", None),
            (PeriodKind::Week, billing, "2026-02-23", None),
            (PeriodKind::Month, billing, "2026-02-01", None),
            (PeriodKind::Billing, billing, "2026-02-11", billing),
            (PeriodKind::Billing, None, "2026-02-01", None),
            (PeriodKind::Always, billing, "2000-01-01", None),
            (PeriodKind::parse("rolling_24h").expect("a window"), billing, "2026-03-01", hour),
        ] {
            let time = UsageTime { at: at("2026-03-01T01:59:59.999999Z"), day: late, billing };
            let period = Period::containing(kind, time);
            assert_eq!(period, Period { label: day(label), began }, "{kind:?}");
            assert_eq!(Period::from_row(period.to_row()), period);
        }
    }
}
