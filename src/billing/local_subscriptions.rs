//! Subscriptions of orgs that do not pay through Stripe: trial, active, expired or cancelled. Owns
//! `local_subscriptions`.
//!
//! A subscription is over after `valid_until` and the days of grace that its plan gives (none if it was
//! cancelled), even if no worker has recorded that yet. An org has at most one subscription that is not over.
//! One that is over never comes back: a new one takes its place. A payment within the days of grace pays from
//! `valid_until` on.
//!
//! Paid periods are whole intervals from `period_start`. A trial runs from `created_at` to `trial_end`; a
//! payment during the trial pays for periods from its end on.

mod import;
mod read;
mod row;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Text};

use super::directory::{self, Change};
use super::{plans, standing};
use crate::error::Error;
use crate::ids;
use crate::schema::{local_subscriptions as t, orgs};
pub use import::{ImportedSubscription, import};
pub use read::{
    Cursor, Ended, Name, NextPeriod, SubscriptionPeriod, bought_periods, charged_periods, current, end_due,
    history, next_period, owed, present_period,
};
use read::{last, none_yet};
use row::LocalSubscriptionRow;
pub use row::{LocalSubscription, Owed};

/// Most intervals that one payment pays for.
const MAX_PERIODS: u32 = 120;

/// How a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With a trial of so many days. An org gets only one trial of a plan.
    Trial(i32),
    /// With a trial even if the org had one before. `None`: as many days as the plan says.
    ForcedTrial(Option<i32>),
    /// With a paid interval.
    Paid,
}

/// How long a payment pays for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// So many more intervals.
    Periods(u32),
    Until(DateTime<Utc>),
}

/// The result of a command on a subscription.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The subscription as it is now.
    pub subscription: LocalSubscription,
    /// Its periods that have begun. For each of them battery units are owed once, under the key
    /// `local:{subscription_id}:{period_start}`.
    pub owed: Vec<Owed>,
    /// The subscription before it, if this command was the first to find it over.
    pub ended: Option<LocalSubscription>,
}

fn changed(conn: &mut PgConnection, row: LocalSubscriptionRow, now: DateTime<Utc>) -> Result<Changed, Error> {
    directory::changed(conn, [Change::Org(row.org_id)])?;
    let owed = row.owed(now);
    Ok(Changed { subscription: row.shown(now), owed, ended: None })
}

/// The plan with its newest version, if the plan is still offered to the org.
fn offered(conn: &mut PgConnection, org_id: i64, plan_id: &str) -> Result<plans::Plan, Error> {
    let plan = plans::find(conn, plan_id)?;
    if !plan.active {
        return Err(Error::conflict("plan_inactive", "this plan is no longer offered: name another one"));
    }
    if let Some(only) = &plan.org {
        let public_id: String = orgs::table.find(org_id).select(orgs::public_id).first(conn)?;
        if public_id != *only {
            return Err(Error::conflict("plan_of_another_org", "this plan is for another org alone"));
        }
    }
    Ok(plan)
}

/// Begins a subscription. `start`: `None` for a trial of as many days as the plan says.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan; [`Error::Conflict`] when the plan is no longer offered, or
/// the org has a subscription already or had a trial of the plan; [`Error::Invalid`] for a bad field.
pub fn start(
    conn: &mut PgConnection,
    org_id: i64,
    plan_id: &str,
    interval_months: i32,
    start: Option<Start>,
    now: DateTime<Utc>,
) -> Result<Changed, Error> {
    if !(1..=36).contains(&interval_months) {
        return Err(Error::invalid("interval_months", "must be from 1 to 36"));
    }
    standing::must_not_be_erased(conn, org_id)?;
    let plan = offered(conn, org_id, plan_id)?;
    let (start, forced) = match start {
        None => (Start::Trial(plan.terms.trial_days), false),
        Some(Start::ForcedTrial(days)) => (Start::Trial(days.unwrap_or(plan.terms.trial_days)), true),
        Some(start) => (start, false),
    };
    let trial = match start {
        Start::Trial(1..=730) if !forced && had_trial(conn, org_id, plan_id)? => {
            return Err(Error::conflict(
                "trial_used",
                "this org had a trial of this plan: say `paid`, or `force` another one",
            ));
        }
        Start::Trial(days @ 1..=730) => Some(now + TimeDelta::days(i64::from(days))),
        Start::Trial(0) => {
            let rule = "is 0, and so is that of the plan: say `paid`, or give the days of a trial";
            return Err(Error::invalid("trial_days", rule));
        }
        Start::Trial(_) | Start::ForcedTrial(_) => {
            return Err(Error::invalid("trial_days", "must be from 1 to 730"));
        }
        Start::Paid => None,
    };
    let ended = end_if_over(conn, org_id, now)?;
    let row = insert(conn, org_id, &plan, interval_months, trial, now)?;
    let mut done = changed(conn, row, now)?;
    done.ended = ended;
    Ok(done)
}

/// Whether the org had a trial of the plan before, local or at Stripe.
fn had_trial(conn: &mut PgConnection, org_id: i64, plan_id: &str) -> QueryResult<bool> {
    #[derive(QueryableByName)]
    struct Had {
        #[diesel(sql_type = Bool)]
        had: bool,
    }
    let had: Had = diesel::sql_query(
        "SELECT EXISTS (SELECT FROM local_subscriptions
             WHERE org_id = $1 AND trial_end IS NOT NULL AND $2 IN (trial_plan_id, plan_id))
         OR EXISTS (SELECT FROM org_refs r
             JOIN stripe_customer_links l USING (ref)
             JOIN subscriptions s
                 ON (s.account, s.livemode, s.customer_id) = (l.account, l.livemode, l.customer_id)
             JOIN subscription_periods p
                 ON (p.account, p.livemode, p.subscription_id) = (s.account, s.livemode, s.id)
             LEFT JOIN plan_stripe_prices by_price ON by_price.price_id = p.price_id
             LEFT JOIN plan_stripe_products by_product ON by_product.product_id = p.product_id
             WHERE r.org_id = $1
                 AND s.trial_start IS NOT NULL
                 AND coalesce(by_price.plan_id, by_product.plan_id) = $2) AS had",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(plan_id)
    .get_result(conn)?;
    Ok(had.had)
}

fn insert(
    conn: &mut PgConnection,
    org_id: i64,
    plan: &plans::Plan,
    interval_months: i32,
    trial_end: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<LocalSubscriptionRow, Error> {
    let mut row = LocalSubscriptionRow {
        org_id,
        subscription_id: ids::fresh("lsub"),
        plan_id: plan.id.clone(),
        version: plan.version,
        status: if trial_end.is_some() { "trial" } else { "active" }.to_owned(),
        interval_months,
        created_at: now,
        trial_end,
        period_start: now,
        valid_until: now,
        cancel_at_period_end: false,
        ended_at: None,
        grace_days: plan.terms.grace_days,
        trial_plan_id: trial_end.map(|_| plan.id.clone()),
    };
    row.valid_until = trial_end.map_or_else(|| in_range(row.nth(1)), Ok)?;
    let values = (
        (t::org_id.eq(org_id), t::subscription_id.eq(&row.subscription_id)),
        (t::plan_id.eq(&plan.id), t::version.eq(plan.version), t::status.eq(&row.status)),
        (t::grace_days.eq(row.grace_days), t::trial_plan_id.eq(&row.trial_plan_id)),
        (t::interval_months.eq(interval_months), t::created_at.eq(now), t::updated_at.eq(now)),
        (t::trial_end.eq(trial_end), t::period_start.eq(now), t::valid_until.eq(row.valid_until)),
        t::cancel_at_period_end.eq(false),
    );
    diesel::insert_into(t::table).values(values).execute(conn).map_err(|error| {
        let error = Error::from(error);
        match error.constraint() {
            Some("local_subscriptions_running") => Error::conflict(
                "subscription_running",
                "this org has a subscription under way: activate that one for its next period, change or \
                    cancel it",
            ),
            _ => error,
        }
    })?;
    Ok(row)
}

fn in_range(at: Option<DateTime<Utc>>) -> Result<DateTime<Utc>, Error> {
    at.filter(|at| at.timestamp() < 253_402_300_800)
        .ok_or_else(|| Error::invalid("until", "must be before the year 10000"))
}

/// Locks the subscription whose stored status says that it is not over. It may be over by now.
fn lock_open(conn: &mut PgConnection, org_id: i64) -> QueryResult<Option<LocalSubscriptionRow>> {
    let open = t::table.filter(t::org_id.eq(org_id)).filter(t::status.eq_any(["trial", "active"]));
    open.select(LocalSubscriptionRow::as_select()).for_update().first(conn).optional()
}

/// Locks the subscription that is not over at `now`.
fn lock_running(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<LocalSubscriptionRow, Error> {
    let running = lock_open(conn, org_id)?.filter(|row| row.over_at() > now);
    running.ok_or_else(|| {
        Error::conflict(
            "no_subscription_running",
            "this org has no subscription under way: activate or begin one",
        )
    })
}

/// If the stored subscription is over at `now`, records that and returns it.
fn end_if_over(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<Option<LocalSubscription>, Error> {
    let Some(mut row) = lock_open(conn, org_id)?.filter(|row| row.over_at() <= now) else {
        return Ok(None);
    };
    row.status = row.status_at(now).to_owned();
    row.ended_at = Some(row.over_at());
    write(conn, &row, now)?;
    Ok(Some(row.shown(now)))
}

fn write(conn: &mut PgConnection, row: &LocalSubscriptionRow, now: DateTime<Utc>) -> QueryResult<()> {
    diesel::update(t::table.find((row.org_id, &row.subscription_id)))
        .set((
            (t::plan_id.eq(&row.plan_id), t::version.eq(row.version), t::status.eq(&row.status)),
            (t::period_start.eq(row.period_start), t::valid_until.eq(row.valid_until)),
            (t::cancel_at_period_end.eq(row.cancel_at_period_end), t::ended_at.eq(row.ended_at)),
            t::grace_days.eq(row.grace_days),
            t::updated_at.eq(now),
        ))
        .execute(conn)
        .map(drop)
}

/// Records a payment. It pays from the end of the time that is paid for already, or from the end of the
/// trial. A planned cancellation is undone. If the last subscription is over, a new one begins now, with the
/// newest version of its plan.
///
/// # Errors
/// [`Error::NotFound`] when the org never had a subscription; [`Error::Conflict`] when the last one is over
/// and its plan is no longer offered; [`Error::Invalid`] for a bad field.
pub fn activate(
    conn: &mut PgConnection,
    org_id: i64,
    paid: Paid,
    now: DateTime<Utc>,
) -> Result<Changed, Error> {
    if let Paid::Periods(periods) = paid
        && !(1..=MAX_PERIODS).contains(&periods)
    {
        return Err(Error::invalid("periods", format!("must be from 1 to {MAX_PERIODS}")));
    }
    let ended = end_if_over(conn, org_id, now)?;
    let mut row = match lock_open(conn, org_id)? {
        Some(row) => row,
        None => {
            let last = last(conn, org_id)?.ok_or_else(none_yet)?;
            let plan = offered(conn, org_id, &last.plan_id)?;
            let mut row = insert(conn, org_id, &plan, last.interval_months, None, now)?;
            // Nothing is paid for yet.
            row.valid_until = now;
            row
        }
    };
    if row.status == "trial" {
        row.period_start = row.valid_until;
    }
    row.valid_until = in_range(match paid {
        Paid::Periods(periods) => row.extended(periods),
        Paid::Until(until) if until > row.valid_until => Some(until),
        Paid::Until(_) => {
            let rule = format!("must be after {}, until when it is paid for", row.valid_until.to_rfc3339());
            return Err(Error::invalid("until", rule));
        }
    })?;
    row.status = "active".to_owned();
    row.cancel_at_period_end = false;
    write(conn, &row, now)?;
    let mut done = changed(conn, row, now)?;
    done.ended = ended;
    Ok(done)
}

/// Cancels the org's subscription: at once, or at the end of the time that is paid for.
///
/// # Errors
/// [`Error::Conflict`] when the org has no subscription that is not over.
pub fn cancel(
    conn: &mut PgConnection,
    org_id: i64,
    at_period_end: bool,
    now: DateTime<Utc>,
) -> Result<Changed, Error> {
    let mut row = lock_running(conn, org_id, now)?;
    // In the days of grace the paid time has ended already: then it is cancelled at once.
    if at_period_end && row.valid_until > now {
        row.cancel_at_period_end = true;
    } else {
        row.status = "cancelled".to_owned();
        row.ended_at = Some(now);
    }
    write(conn, &row, now)?;
    changed(conn, row, now)
}

/// Puts the org's subscription on another plan, in its newest version. The periods stay.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan; [`Error::Conflict`] when the org has no subscription that
/// is not over, or the plan is no longer offered.
pub fn change(
    conn: &mut PgConnection,
    org_id: i64,
    plan_id: &str,
    now: DateTime<Utc>,
) -> Result<Changed, Error> {
    let plan = offered(conn, org_id, plan_id)?;
    let mut row = lock_running(conn, org_id, now)?;
    if row.plan_id != plan.id {
        let had = serde_json::json!([{ "plan": row.plan_id, "until": now.timestamp_micros() }]);
        diesel::update(t::table.find((org_id, &row.subscription_id)))
            .set(t::earlier_plans.eq(t::earlier_plans.concat(had)))
            .execute(conn)?;
    }
    row.plan_id = plan.id;
    row.version = plan.version;
    row.grace_days = plan.terms.grace_days;
    write(conn, &row, now)?;
    changed(conn, row, now)
}

/// Puts a subscription on another version of its plan, and returns the row id of its org. `plan`: the plan
/// that the caller expects.
///
/// # Errors
/// [`Error::NotFound`] when there is no such subscription or version; [`Error::Invalid`] when its plan is not
/// the expected one.
pub fn move_one(
    conn: &mut PgConnection,
    subscription_id: &str,
    plan: Option<&str>,
    version: i32,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    let (org_id, plan_id): (i64, String) = t::table
        .filter(t::subscription_id.eq(subscription_id))
        .select((t::org_id, t::plan_id))
        .first(conn)
        .optional()?
        .ok_or(Error::NotFound("subscription"))?;
    if plan.is_some_and(|plan| plan != plan_id) {
        return Err(Error::invalid("plan", format!("is not that of the subscription, which is `{plan_id}`")));
    }
    let grace_days = plans::grace_days(conn, &plan_id, version)?;
    diesel::update(t::table.find((org_id, subscription_id)))
        .set((t::version.eq(version), t::grace_days.eq(grace_days), t::updated_at.eq(now)))
        .execute(conn)?;
    directory::changed(conn, [Change::Org(org_id)])?;
    Ok(org_id)
}

/// Puts every open subscription on version `from` of a plan on version `to`; returns how many.
///
/// # Errors
/// [`Error::NotFound`] when the plan has no such version.
pub fn move_all(
    conn: &mut PgConnection,
    plan_id: &str,
    (from, to): (i32, i32),
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    let grace_days = plans::grace_days(conn, plan_id, to)?;
    let on = t::table.filter(t::plan_id.eq(plan_id)).filter(t::version.eq(from));
    let moved = diesel::update(on.filter(t::status.eq_any(["trial", "active"])))
        .set((t::version.eq(to), t::grace_days.eq(grace_days), t::updated_at.eq(now)))
        .execute(conn)?;
    directory::all_changed(conn)?;
    Ok(moved)
}
