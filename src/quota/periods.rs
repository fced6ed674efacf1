//! Periods: which one an instant or a record belongs to, and when it begins and ends.
//!
//! A counter is named by its period's first local day (the *label*), so nothing has to be turned: a new period is another counter,
//! and an idle daemon is never behind. Labels of days and months are local dates: after a change of zone the same date goes on
//! being counted. Only the instants at which a period begins and ends move with the zone.

use chrono::{DateTime, Datelike, Days, Months, NaiveDate, NaiveTime, TimeDelta, Utc};

use super::slots::PeriodKind;
use crate::billing::directory::OrgContext;
use crate::time::day_start;

/// Label of the one counter of a level, which has no period: usage is never older.
pub const ALWAYS: NaiveDate = NaiveDate::from_ymd_opt(2000, 1, 1).expect("a date");
/// A level never begins anew: the last second of the year 9999.
const NEVER: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0).expect("in range");

/// Label of the period that usage counted to this local day belongs to; `billing`: first day of the subscription's period, as
/// [`OrgContext::billing_period`] tells it. While there is none a billing period is a calendar month.
#[must_use]
pub fn label(kind: PeriodKind, day: NaiveDate, billing: Option<NaiveDate>) -> NaiveDate {
    let month = || day.with_day(1).unwrap_or(day);
    match kind {
        PeriodKind::Day => day,
        PeriodKind::Month => month(),
        PeriodKind::Billing => billing.unwrap_or_else(month),
        PeriodKind::Always => ALWAYS,
    }
}

/// Label of the period that an instant lies in.
#[must_use]
pub fn label_at(kind: PeriodKind, org: &OrgContext, at: DateTime<Utc>) -> NaiveDate {
    let billing = if kind == PeriodKind::Billing { org.billing_period(at) } else { None };
    label(kind, org.day(at), billing)
}

/// When the period of that label begins and ends, `[start, end)`.
#[must_use]
pub fn bounds(kind: PeriodKind, label: NaiveDate, org: &OrgContext) -> (DateTime<Utc>, DateTime<Utc>) {
    let month = || {
        let next = label.checked_add_months(Months::new(1)).unwrap_or(label);
        (day_start(org.zone, label), day_start(org.zone, next.with_day(1).unwrap_or(next)))
    };
    match kind {
        PeriodKind::Day => (
            day_start(org.zone, label),
            day_start(org.zone, label.checked_add_days(Days::new(1)).unwrap_or(label)),
        ),
        PeriodKind::Month => month(),
        PeriodKind::Always => (day_start(org.zone, ALWAYS), NEVER),
        PeriodKind::Billing => {
            // The label is the UTC date of the start, so the last moment of that date lies inside.
            let inside =
                (label.and_time(NaiveTime::MIN) + TimeDelta::days(1)).and_utc() - TimeDelta::microseconds(1);
            org.billing_bounds(inside).filter(|(start, _)| start.date_naive() == label).unwrap_or_else(month)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn day(text: &str) -> NaiveDate {
        text.parse().expect("a date")
    }

    #[test]
    fn days_begin_when_the_zone_says() {
        for (zone, label, start, hours) in [
            ("UTC", "2026-03-29", "2026-03-29T00:00:00Z", 24),
            ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00Z", 23),
            ("Europe/Berlin", "2026-10-25", "2026-10-24T22:00:00Z", 25),
            ("America/New_York", "2026-03-08", "2026-03-08T05:00:00Z", 23),
            // Midnight is skipped: the day begins at one o'clock.
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
        // A day that was left out begins and ends with the change.
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
        let (late, billing) = (day("2026-02-28"), Some(day("2026-02-11")));
        assert_eq!(label(PeriodKind::Day, late, billing), late);
        assert_eq!(label(PeriodKind::Month, late, billing), day("2026-02-01"));
        assert_eq!(label(PeriodKind::Billing, late, billing), day("2026-02-11"));
        assert_eq!(label(PeriodKind::Billing, late, None), day("2026-02-01"));
    }
}
