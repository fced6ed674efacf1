//! Local subscriptions that another system kept, with their history.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::row::{LocalSubscription, LocalSubscriptionRow};
use super::{in_range, offered, write};
use crate::billing::directory::{self, Change};
use crate::error::Error;
use crate::ids;
use crate::schema::local_subscriptions as t;

/// A subscription of another system.
#[derive(Clone, Debug)]
pub struct ImportedSubscription {
    /// Key of the plan; it gets its newest version.
    pub plan: String,
    /// Months that a paid period lasts.
    pub interval_months: i32,
    /// When it began.
    pub started_at: DateTime<Utc>,
    /// End of its trial, past or to come; `None`: it had none.
    pub trial_end: Option<DateTime<Utc>>,
    /// From when on its paid periods are counted. `None`: from the end of the trial, or the beginning.
    pub paid_from: Option<DateTime<Utc>>,
    /// Until when it is paid for. `None`: it is on its trial, or ended with it.
    pub paid_until: Option<DateTime<Utc>>,
    /// When it ended, if that was before the paid time was over.
    pub cancelled_at: Option<DateTime<Utc>>,
    /// Whether it ends with the paid time.
    pub cancel_at_period_end: bool,
}

/// Imports a subscription. Units of its battery are not granted for periods of the past. A subscription that
/// began at the same instant is there already: it is returned as it is, with the flag false.
///
/// # Errors
/// [`Error::Invalid`] names the field; [`Error::Conflict`] when the org has a subscription under way, and
/// this one would be, too.
pub fn import(
    conn: &mut PgConnection,
    org_id: i64,
    asked: &ImportedSubscription,
    now: DateTime<Utc>,
) -> Result<(LocalSubscription, bool), Error> {
    check(asked, now)?;
    let same = t::table.filter(t::org_id.eq(org_id).and(t::created_at.eq(asked.started_at)));
    let there: Option<LocalSubscriptionRow> =
        same.select(LocalSubscriptionRow::as_select()).first(conn).optional()?;
    if let Some(there) = there {
        return Ok((there.shown(now), false));
    }
    let plan = offered(conn, org_id, &asked.plan)?;
    let valid_until = asked.paid_until.or(asked.trial_end).unwrap_or(asked.started_at);
    let mut row = LocalSubscriptionRow {
        org_id,
        subscription_id: ids::fresh("lsub"),
        plan_id: plan.id.clone(),
        version: plan.version,
        status: if asked.paid_until.is_some() { "active" } else { "trial" }.to_owned(),
        interval_months: asked.interval_months,
        created_at: asked.started_at,
        trial_end: asked.trial_end,
        period_start: asked.paid_from.or(asked.trial_end).unwrap_or(asked.started_at),
        valid_until: in_range(Some(valid_until))?,
        cancel_at_period_end: asked.cancel_at_period_end,
        ended_at: asked.cancelled_at,
        grace_days: plan.terms.grace_days,
        trial_plan_id: asked.trial_end.map(|_| plan.id.clone()),
    };
    row.period_start = row.period_start.min(row.valid_until);
    if asked.cancelled_at.is_some() {
        row.status = "cancelled".to_owned();
    } else if row.over_at() <= now {
        row.status = row.status_at(now).to_owned();
        row.ended_at = Some(row.over_at());
    }
    insert(conn, &row, now)?;
    write(conn, &row, now)?;
    directory::changed(conn, [Change::Org(org_id)])?;
    Ok((row.shown(now), true))
}

fn check(asked: &ImportedSubscription, now: DateTime<Utc>) -> Result<(), Error> {
    if !(1..=36).contains(&asked.interval_months) {
        return Err(Error::invalid("interval_months", "must be from 1 to 36"));
    }
    if asked.started_at > now {
        return Err(Error::invalid("started_at", "must not be in the future: begin the subscription then"));
    }
    if asked.trial_end.is_none() && asked.paid_until.is_none() {
        return Err(Error::invalid("paid_until", "or `trial_end` must be given"));
    }
    let starts = [("trial_end", asked.trial_end), ("paid_from", asked.paid_from)];
    for (field, at) in starts.into_iter().chain([("paid_until", asked.paid_until)]) {
        if at.is_some_and(|at| at < asked.started_at) {
            return Err(Error::invalid(field, "must not be before `started_at`"));
        }
    }
    let paid_from = asked.paid_from.or(asked.trial_end).unwrap_or(asked.started_at);
    if asked.paid_until.is_some_and(|until| until <= paid_from) {
        let rule = "must be after `paid_from`, or after the end of the trial";
        return Err(Error::invalid("paid_until", rule));
    }
    if asked.cancelled_at.is_some_and(|at| at < asked.started_at || at > now) {
        return Err(Error::invalid("cancelled_at", "must be after `started_at`, and not in the future"));
    }
    Ok(())
}

fn insert(conn: &mut PgConnection, row: &LocalSubscriptionRow, now: DateTime<Utc>) -> Result<(), Error> {
    let values = (
        (t::org_id.eq(row.org_id), t::subscription_id.eq(&row.subscription_id)),
        (t::plan_id.eq(&row.plan_id), t::version.eq(row.version), t::status.eq(&row.status)),
        (t::grace_days.eq(row.grace_days), t::trial_plan_id.eq(&row.trial_plan_id)),
        (t::interval_months.eq(row.interval_months), t::created_at.eq(row.created_at), t::updated_at.eq(now)),
        (t::trial_end.eq(row.trial_end), t::period_start.eq(row.period_start)),
        (t::valid_until.eq(row.valid_until), t::cancel_at_period_end.eq(row.cancel_at_period_end)),
    );
    diesel::insert_into(t::table).values(values).execute(conn).map_err(|error| {
        let error = Error::from(error);
        match error.constraint() {
            Some("local_subscriptions_running") => Error::conflict(
                "subscription_running",
                "this org has a subscription under way: import only those that are over, or cancel that one",
            ),
            _ => error,
        }
    })?;
    Ok(())
}
