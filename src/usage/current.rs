//! The running periods of an org, from its daily summaries.

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;
use diesel::pg::PgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::summaries::{self, Grouping, Query, Usage};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::partitions::month_of;

/// What was used in the running periods.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Current {
    /// The org (`org_…`).
    pub org: String,
    /// IANA zone in which its days begin.
    pub time_zone: String,
    /// The running local day.
    pub day: Running,
    /// The running local month.
    pub month: Running,
    /// The running period of its subscription, in whole local days: from the day on which it began up to the
    /// day on which the next begins. Each day belongs to one period; a quota with the period `billing` counts
    /// to the instant instead. Null without a subscription.
    pub billing: Option<Running>,
}

/// A running period.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Running {
    /// Its first local day.
    pub first_day: NaiveDate,
    /// When that begins.
    pub start: DateTime<Utc>,
    /// When the period ends: the first instant that is not in it.
    pub end: DateTime<Utc>,
    /// What was used, a row a meter; meters without usage are left out.
    pub usage: Vec<Usage>,
}

/// The running periods of `org`.
pub fn of(conn: &mut PgConnection, org: &OrgContext, now: DateTime<Utc>) -> Result<Current, Error> {
    let today = org.day(now);
    let month = month_of(today);
    let next_month = month.checked_add_months(Months::new(1)).unwrap_or(today);
    let mut running = |first: NaiveDate, before: NaiveDate| -> Result<Running, Error> {
        let query = Query {
            org_id: org.org_id,
            from: first,
            before,
            meters: Vec::new(),
            member: None,
            dimensions: std::collections::BTreeMap::new(),
            grouping: Grouping::default(),
        };
        let usage =
            summaries::list(conn, &query, None, i64::MAX)?.into_iter().map(|(_, usage)| usage).collect();
        Ok(Running { first_day: first, start: begins(org.zone, first), end: begins(org.zone, before), usage })
    };
    let billing = match org.billing_bounds(now) {
        None => None,
        Some((start, end)) => {
            let first = org.day(start);
            // A period within one day still has that day.
            Some(running(first, org.day(end).max(first.checked_add_days(Days::new(1)).unwrap_or(first)))?)
        }
    };
    Ok(Current {
        org: org.public_id.to_string(),
        time_zone: org.zone.name().to_owned(),
        day: running(today, today.checked_add_days(Days::new(1)).unwrap_or(today))?,
        month: running(month, next_month)?,
        billing,
    })
}

/// The first instant of a local day. Where the clock is put forward over midnight, the day begins with the
/// first time that there is; where midnight comes twice, with the first.
#[must_use]
pub fn begins(zone: Tz, day: NaiveDate) -> DateTime<Utc> {
    let midnight = day.and_time(NaiveTime::MIN);
    // No zone ever skipped more than a day (Samoa, 2011).
    (0..=24 * 4)
        .find_map(|quarters| {
            (midnight + TimeDelta::minutes(15 * quarters)).and_local_timezone(zone).earliest()
        })
        .map_or_else(|| midnight.and_utc(), |at| at.with_timezone(&Utc))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_begin_where_the_clock_says() {
        for (zone, day, start) in [
            ("Europe/Berlin", "2026-03-29", "2026-03-28T23:00:00Z"),
            ("Europe/Berlin", "2026-03-30", "2026-03-29T22:00:00Z"),
            // Midnight is skipped.
            ("America/Santiago", "2026-09-06", "2026-09-06T04:00:00Z"),
            // Midnight comes twice.
            ("America/Havana", "2026-11-01", "2026-11-01T04:00:00Z"),
        ] {
            let zone: Tz = zone.parse().expect("a zone");
            let told = begins(zone, day.parse().expect("a day"));
            assert_eq!(told, start.parse::<DateTime<Utc>>().expect("a time"), "{zone} {day}");
        }
    }
}
