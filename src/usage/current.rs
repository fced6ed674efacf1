//! The usage of an org in its current periods, from the daily summaries.

use chrono::{DateTime, Days, Months, NaiveDate, Utc};
use diesel::pg::PgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::summaries::{self, Grouping, SummaryQuery, UsageSummary};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::partitions::month_of;
use crate::time::day_start;

/// Usage in the current periods.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Current)]
pub struct CurrentUsage {
    /// The org (`org_…`).
    pub org: String,
    /// IANA zone in which its days begin.
    pub time_zone: String,
    /// The current local day.
    pub day: CurrentPeriod,
    /// The current local month.
    pub month: CurrentPeriod,
    /// The current period of its subscription, in whole local days: from the day on which it began up to the
    /// day before the next one begins. Each day belongs to one period, while a quota with the period
    /// `billing` counts to the instant. Null without a subscription.
    pub billing: Option<CurrentPeriod>,
}

/// A current period.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Running)]
pub struct CurrentPeriod {
    /// Its first local day.
    pub first_day: NaiveDate,
    /// When that day begins.
    pub start: DateTime<Utc>,
    /// When the period ends: the first instant after it.
    pub end: DateTime<Utc>,
    /// One row for each meter with usage.
    pub usage: Vec<UsageSummary>,
}

/// Reads the usage of `org` in its current periods.
pub fn read(conn: &mut PgConnection, org: &OrgContext, now: DateTime<Utc>) -> Result<CurrentUsage, Error> {
    let today = org.day(now);
    let month = month_of(today);
    let next_month = month.checked_add_months(Months::new(1)).unwrap_or(today);
    let mut period = |first: NaiveDate, before: NaiveDate| -> Result<CurrentPeriod, Error> {
        let query = SummaryQuery {
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
        let (start, end) = (day_start(org.zone, first), day_start(org.zone, before));
        Ok(CurrentPeriod { first_day: first, start, end, usage })
    };
    let billing = match org.billing_bounds(now) {
        None => None,
        Some((start, end)) => {
            let first = org.day(start);
            // A period within one day has that day.
            Some(period(first, org.day(end).max(first.checked_add_days(Days::new(1)).unwrap_or(first)))?)
        }
    };
    Ok(CurrentUsage {
        org: org.public_id.to_string(),
        time_zone: org.zone.name().to_owned(),
        day: period(today, today.checked_add_days(Days::new(1)).unwrap_or(today))?,
        month: period(month, next_month)?,
        billing,
    })
}
