//! Reading local subscriptions, and ending those that are over.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz};

use super::row::{LocalSubscription, LocalSubscriptionRow, Owed};
use crate::billing::org_plan::over_at;
use crate::error::Error;
use crate::schema::{local_subscriptions as t, orgs};
use crate::time::Moment;

/// A subscription that [`end_due`] has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Row id of the org.
    pub org_id: i64,
    /// Public id of the org.
    pub org: String,
    pub subscription: LocalSubscription,
}

/// The org's subscription that began last. Only this one can be open.
pub(super) fn last(conn: &mut PgConnection, org_id: i64) -> QueryResult<Option<LocalSubscriptionRow>> {
    let newest =
        t::table.filter(t::org_id.eq(org_id)).order((t::created_at.desc(), t::subscription_id.desc()));
    newest.select(LocalSubscriptionRow::as_select()).first(conn).optional()
}

/// The error for an org that never had a local subscription.
pub(super) fn none_yet() -> Error {
    Error::Nothing(
        "this org never had a local subscription: begin one with `POST /v1/orgs/{id}/subscription`",
    )
}

/// The org's subscription that began last, over or not.
///
/// # Errors
/// [`Error::Nothing`] when the org never had one.
pub fn current(conn: &mut PgConnection, org_id: i64, now: DateTime<Utc>) -> Result<LocalSubscription, Error> {
    last(conn, org_id)?.map(|row| row.shown(now)).ok_or_else(none_yet)
}

/// The last subscription of a page: when it began, and its id. The next page goes on after it.
pub type Cursor = (Moment, String);

/// Subscriptions of an org, newest first, at most `limit`.
pub fn history(
    conn: &mut PgConnection,
    org_id: i64,
    after: Option<Cursor>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<Vec<LocalSubscription>, Error> {
    let mut query = t::table
        .filter(t::org_id.eq(org_id))
        .order((t::created_at.desc(), t::subscription_id.desc()))
        .select(LocalSubscriptionRow::as_select())
        .limit(limit)
        .into_boxed();
    if let Some((Moment(at), id)) = after {
        query = query.filter(t::created_at.lt(at).or(t::created_at.eq(at).and(t::subscription_id.lt(id))));
    }
    let rows: Vec<LocalSubscriptionRow> = query.load(conn)?;
    Ok(rows.into_iter().map(|row| row.shown(now)).collect())
}

/// Ends subscriptions that are over, at most `limit`, and returns them. Several daemons may do so at once.
pub fn end_due(conn: &mut PgConnection, now: DateTime<Utc>, limit: i64) -> Result<Vec<Ended>, Error> {
    let rows: Vec<LocalSubscriptionRow> = diesel::sql_query(format!(
        "UPDATE local_subscriptions l
         SET status = CASE WHEN cancel_at_period_end THEN 'cancelled' ELSE 'expired' END,
             ended_at = due.over_at,
             updated_at = $1
         FROM (SELECT l.org_id, l.subscription_id, {over_at} AS over_at
               FROM local_subscriptions l
               WHERE l.status IN ('trial', 'active') AND l.valid_until <= $1 AND {over_at} <= $1
               ORDER BY l.valid_until
               LIMIT $2
               FOR UPDATE SKIP LOCKED) due
         WHERE (l.org_id, l.subscription_id) = (due.org_id, due.subscription_id)
         RETURNING l.*",
        over_at = over_at!(),
    ))
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    // Mostly none is over. Then no other table is read or locked.
    if rows.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<i64> = rows.iter().map(|row| row.org_id).collect();
    let names: HashMap<i64, String> = orgs::table
        .filter(orgs::org_id.eq_any(ids))
        .select((orgs::org_id, orgs::public_id))
        .load(conn)?
        .into_iter()
        .collect();
    let ended = rows.into_iter().filter_map(|row| {
        let (org_id, org) = (row.org_id, names.get(&row.org_id)?.clone());
        Some(Ended { org_id, org, subscription: row.shown(now) })
    });
    Ok(ended.collect())
}

/// Names a subscription: the row id of its org, and its own id.
pub type Name = (i64, String);

/// The periods that have begun, of at most `limit` subscriptions that are paid for or on trial, from the one
/// after `after` on. Also returns the last of these subscriptions, to go on from. A period may have got its
/// units already: they are owed once, under `local:{subscription_id}:{period_start}`, and the caller sees to
/// that.
pub fn owed(
    conn: &mut PgConnection,
    after: Option<(i64, &str)>,
    limit: i64,
    now: DateTime<Utc>,
) -> Result<(Vec<Owed>, Option<Name>), Error> {
    let mut query = t::table
        .filter(t::status.eq_any(["trial", "active"]).and(t::valid_until.gt(now)))
        .order((t::org_id, t::subscription_id))
        .select(LocalSubscriptionRow::as_select())
        .limit(limit)
        .into_boxed();
    if let Some((org_id, id)) = after {
        query = query.filter(t::org_id.gt(org_id).or(t::org_id.eq(org_id).and(t::subscription_id.gt(id))));
    }
    let rows: Vec<LocalSubscriptionRow> = query.load(conn)?;
    let last = rows.last().map(|row| (row.org_id, row.subscription_id.clone()));
    Ok((rows.iter().flat_map(|row| row.owed(now)).collect(), last))
}

/// A period of a local subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriptionPeriod {
    /// `lsub_…`
    pub subscription_id: String,
    /// The plan that the subscription has now.
    pub plan_id: String,
    pub version: i32,
    /// Months that a whole period lasts.
    pub months: i32,
    pub start: DateTime<Utc>,
    pub end: DateTime<Utc>,
}

/// The period that the next payment pays for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NextPeriod {
    pub period: SubscriptionPeriod,
    /// Whether the subscription goes on by itself: it is neither over nor cancelled.
    pub goes_on: bool,
}

/// The period that the next payment pays for: from the end of the paid time or of the trial on; from `now` on
/// if the last subscription is over. `None`: the org never had a subscription.
///
/// # Errors
/// [`Error::Internal`] when its end is beyond all calendars.
pub fn next_period(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<Option<NextPeriod>, Error> {
    let Some(mut row) = last(conn, org_id)? else { return Ok(None) };
    let is_over = !row.is_open() || row.over_at() <= now;
    if is_over {
        (row.period_start, row.valid_until) = (now, now);
    } else if row.status == "trial" {
        row.period_start = row.valid_until;
    }
    let end = row.extended(1).ok_or_else(|| Error::Internal("a period without an end".to_owned()))?;
    let goes_on = !is_over && !row.cancel_at_period_end;
    Ok(Some(NextPeriod { period: row.period(row.valid_until, end), goes_on }))
}

impl LocalSubscriptionRow {
    fn period(&self, start: DateTime<Utc>, end: DateTime<Utc>) -> SubscriptionPeriod {
        SubscriptionPeriod {
            subscription_id: self.subscription_id.clone(),
            plan_id: self.plan_id.clone(),
            version: self.version,
            months: self.interval_months,
            start,
            end,
        }
    }
}

/// The paid period of the org's subscription that contains `now`. `None`: there is none.
pub fn present_period(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<Option<SubscriptionPeriod>, Error> {
    let all = charged_periods(conn, org_id, now)?;
    Ok(all.into_iter().rev().find(|period| period.start <= now && now < period.end))
}

/// The paid periods of the org's running subscription that end after `now`, oldest first: the present one and
/// those that were bought ahead. A trial is none of them.
///
/// # Errors
/// When the database fails.
pub fn bought_periods(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<Vec<SubscriptionPeriod>, Error> {
    let running = last(conn, org_id)?.filter(|row| row.is_open() && row.over_at() > now);
    let Some(row) = running else { return Ok(Vec::new()) };
    let bought = row.periods().into_iter().filter(|(trial, _, end)| !trial && *end > now);
    Ok(bought.map(|(_, start, end)| row.period(start, end)).collect())
}

/// The periods of all subscriptions of an org that usage is charged for and that had begun by `now`, oldest
/// first: the paid ones, and the days of grace after the last one if nobody paid for them. A trial is free.
pub fn charged_periods(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<Vec<SubscriptionPeriod>, Error> {
    let rows: Vec<LocalSubscriptionRow> = t::table
        .filter(t::org_id.eq(org_id))
        .order((t::created_at, t::subscription_id))
        .select(LocalSubscriptionRow::as_select())
        .load(conn)?;
    let mut periods = Vec::new();
    for row in rows {
        let over_at = row.ended_at.unwrap_or_else(|| row.over_at());
        let mut own: Vec<_> = row
            .periods()
            .into_iter()
            .filter(|(trial, start, _)| !trial && *start <= now && *start < over_at)
            .map(|(_, start, end)| (start, end.min(over_at)))
            .collect();
        let is_over = !row.is_open() || over_at <= now;
        if is_over && row.valid_until < over_at && !own.is_empty() {
            own.push((row.valid_until, over_at));
        }
        periods.extend(own.into_iter().map(|(start, end)| row.period(start, end)));
    }
    Ok(periods)
}
