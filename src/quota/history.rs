//! What was used under a quota, period by period.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::quotas;
use crate::billing::directory::Directory;
use crate::error::Error;
use crate::metering::periods::{CountedDays, Period};
use crate::quantity::Quantity;
use crate::schema::quota_counters;
use crate::time::{Day, Moment};

/// What was used in one period.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PeriodUsage {
    #[serde(skip)]
    pub cursor: HistoryCursor,
    /// First day of the period: local; by UTC of a subscription's period, an hour, or a segment of a rolling
    /// window; 1 January 2000 where there is no period (`always`).
    pub period: NaiveDate,
    /// When it began: a local day or month by the zone that the org has now.
    pub start: DateTime<Utc>,
    /// When it ended or will end; null where there is no period.
    pub end: Option<DateTime<Utc>>,
    /// The subject, where each has a counter; empty: usage that named none.
    pub subject: Option<String>,
    /// Usage counted.
    pub used: Quantity,
    /// Set aside by reservations that are open, or whose end was not seen yet. Of a rolling window they count
    /// in no single segment: 0.
    pub reserved: Quantity,
}

/// Where a page of the history goes on: period (first day, and when a subscription's began) and subject of
/// the last row given.
pub type HistoryCursor = (Day, Option<Moment>, String);

/// Periods of a quota's counters, newest first, at most `limit`; the running one included. Counters older
/// than `kept`, or than those filled in when the quota was made, are left out: late usage and corrections may
/// have made such a counter anew, and it would show their part alone.
///
/// # Errors
/// [`Error::NotFound`] when there is no such quota, or it is not yours.
pub fn history(
    conn: &mut PgConnection,
    directory: &Directory,
    (id, org_id): (&str, Option<i64>),
    subject: Option<&str>,
    (after, limit): (Option<HistoryCursor>, i64),
    (kept, now): (CountedDays, DateTime<Utc>),
) -> Result<Vec<PeriodUsage>, Error> {
    let ((org_id, slot_id), quota) = quotas::find(conn, id, org_id)?;
    let org = directory.find(conn, org_id)?;
    let first =
        |back: CountedDays, at| back.first_label(quota.counted.period, quota.counted.per_subject, &org, at);
    let first = first(kept, now).max(first(CountedDays::BY_FIRST_QUOTA, quota.created_at));
    let mut query = quota_counters::table
        .filter(quota_counters::org_id.eq(org_id).and(quota_counters::slot_id.eq(slot_id)))
        .filter(quota_counters::period.ge(first))
        .order((quota_counters::period.desc(), quota_counters::began.desc(), quota_counters::subject))
        .select((
            (quota_counters::period, quota_counters::began),
            quota_counters::subject,
            quota_counters::used,
            quota_counters::reserved,
        ))
        .limit(limit)
        .into_boxed();
    if let Some(subject) = subject {
        query = query.filter(quota_counters::subject.eq(subject));
    }
    if let Some((Day(label), began, subject)) = after {
        let (label, began) = Period { label, began: began.map(|Moment(began)| began) }.to_row();
        let same = quota_counters::began.eq(began).and(quota_counters::subject.gt(subject));
        let on_that_day = quota_counters::period.eq(label).and(quota_counters::began.lt(began).or(same));
        query = query.filter(quota_counters::period.lt(label).or(on_that_day));
    }
    type CounterRow = ((NaiveDate, DateTime<Utc>), String, Decimal, Decimal);
    let rows: Vec<CounterRow> = query.load(conn)?;
    let per_subject = quota.counted.per_subject;
    let shown = rows.into_iter().map(|(period, subject, used, reserved)| {
        let period = Period::from_row(period);
        let (start, end) = period.bounds(quota.counted.period, &org);
        let subject = per_subject.then_some(subject);
        let cursor = (Day(period.label), period.began.map(Moment), subject.clone().unwrap_or_default());
        let period = period.label;
        PeriodUsage {
            cursor,
            period,
            start,
            end,
            subject,
            used: Quantity(used),
            reserved: Quantity(reserved),
        }
    });
    Ok(shown.collect())
}
