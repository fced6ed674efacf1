//! Subscriptions of orgs that do not pay through Stripe: trial, active, expired or cancelled. Owns `local_subscriptions`.
//!
//! `valid_until` decides: what is later counts as over, whether or not a worker has written so yet. At most one of an org is under
//! way; one that is over never comes back, a new one takes its place.
//!
//! Paid periods are counted from `period_start` in whole intervals. A trial runs from `created_at` to `trial_end`; when it is paid
//! for while it runs, the first paid period begins with its end.

use chrono::{DateTime, Months, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz};
use serde::Serialize;
use utoipa::ToSchema;

use super::{directory, plans};
use crate::error::Error;
use crate::ids;
use crate::schema::{local_subscriptions as t, orgs};

/// Whole intervals paid at once, at most.
const MAX_PERIODS: u32 = 120;

/// A subscription of an org that does not pay through Stripe.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LocalSubscription {
    /// `lsub_…`
    pub id: String,
    /// The plan.
    pub plan: String,
    /// Its version.
    pub version: i32,
    /// `trial`, `active`, `expired` or `cancelled`.
    pub status: String,
    /// Months that a paid period lasts.
    pub interval_months: i32,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// End of its trial; null: it had none.
    pub trial_end: Option<DateTime<Utc>>,
    /// Start of the present period; of the last one when it is over.
    pub current_period_start: DateTime<Utc>,
    /// End of that period.
    pub current_period_end: DateTime<Utc>,
    /// Until when it is paid for, or on trial.
    pub valid_until: DateTime<Utc>,
    /// Whether it ends then as cancelled.
    pub cancel_at_period_end: bool,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A period for which a subscription is owed its plan's battery units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Row id of the org.
    pub org_id: i64,
    /// `lsub_…`
    pub subscription_id: String,
    /// The plan that the subscription has now.
    pub plan_id: String,
    /// Its version.
    pub version: i32,
    /// A trial, or a paid period.
    pub trial: bool,
    /// When the period began.
    pub period_start: DateTime<Utc>,
    /// When it ends: short of a whole interval where it was paid for to a day within.
    pub period_end: DateTime<Utc>,
    /// Months that a whole paid period lasts.
    pub interval_months: i32,
}

/// How a subscription begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// With a trial of so many days.
    Trial(i32),
    /// With a paid interval.
    Paid,
}

/// Up to when it is paid for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Paid {
    /// For so many intervals more.
    Periods(u32),
    /// Until then.
    Until(DateTime<Utc>),
}

/// A subscription that a worker found over.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Row id of the org.
    pub org_id: i64,
    /// Public id of the org.
    pub org: String,
    /// What it was.
    pub subscription: LocalSubscription,
}

#[derive(Clone, Debug, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = t)]
struct Row {
    org_id: i64,
    subscription_id: String,
    plan_id: String,
    version: i32,
    status: String,
    interval_months: i32,
    created_at: DateTime<Utc>,
    trial_end: Option<DateTime<Utc>>,
    period_start: DateTime<Utc>,
    valid_until: DateTime<Utc>,
    cancel_at_period_end: bool,
    ended_at: Option<DateTime<Utc>>,
}

impl Row {
    /// Whether it was under way when it was last written.
    fn is_open(&self) -> bool {
        matches!(self.status.as_str(), "trial" | "active")
    }

    /// The status at `now`, whoever has written it.
    fn status_at(&self, now: DateTime<Utc>) -> &str {
        match self.is_open() && self.valid_until <= now {
            true if self.cancel_at_period_end => "cancelled",
            true => "expired",
            false => &self.status,
        }
    }

    fn nth(&self, n: u32) -> Option<DateTime<Utc>> {
        let months = u32::try_from(self.interval_months).ok()?.checked_mul(n)?;
        self.period_start.checked_add_months(Months::new(months))
    }

    /// Its periods in order: of each, whether it is the trial, and `[start, end)`.
    fn periods(&self) -> Vec<(bool, DateTime<Utc>, DateTime<Utc>)> {
        let mut periods = Vec::new();
        let trial_end = self.trial_end.unwrap_or(self.created_at);
        if self.created_at < trial_end {
            periods.push((true, self.created_at, trial_end));
        }
        // A trial that nobody paid for has no other period.
        if self.valid_until > trial_end {
            let starts = (0..).map_while(|n| self.nth(n)).take_while(|start| *start < self.valid_until);
            let paid = starts.zip((1..).map_while(|n| self.nth(n)));
            periods.extend(paid.map(|(start, end)| (false, start, end.min(self.valid_until))));
        }
        periods
    }

    /// The periods of it that had begun by `now`, before it ended.
    fn owed(&self, now: DateTime<Utc>) -> Vec<Owed> {
        let begun = |start: &DateTime<Utc>| *start <= now && self.ended_at.is_none_or(|ended| *start < ended);
        let owed = |(trial, period_start, period_end)| Owed {
            org_id: self.org_id,
            subscription_id: self.subscription_id.clone(),
            plan_id: self.plan_id.clone(),
            version: self.version,
            trial,
            period_start,
            period_end,
            interval_months: self.interval_months,
        };
        self.periods().into_iter().filter(|(_, start, _)| begun(start)).map(owed).collect()
    }

    fn shown(self, now: DateTime<Utc>) -> LocalSubscription {
        let status = self.status_at(now).to_owned();
        let until = self.ended_at.unwrap_or(self.valid_until).min(now);
        // Of equal ends the later one: a period that begins now is the present one.
        let present = self.periods().into_iter().filter(|(_, start, _)| *start <= until).next_back();
        let (_, start, end) = present.filter(|(_, start, _)| *start < self.valid_until).unwrap_or((
            false,
            self.period_start,
            self.valid_until,
        ));
        let ended_at =
            self.ended_at.or((status == "expired" || status == "cancelled").then_some(self.valid_until));
        LocalSubscription {
            id: self.subscription_id,
            plan: self.plan_id,
            version: self.version,
            status,
            interval_months: self.interval_months,
            created_at: self.created_at,
            trial_end: self.trial_end,
            current_period_start: start,
            current_period_end: end,
            valid_until: self.valid_until,
            cancel_at_period_end: self.cancel_at_period_end,
            ended_at,
        }
    }
}

/// What a command on a subscription came to: how it stands, and the periods that are owed battery units, each under the key
/// `local:{subscription_id}:{period_start}` once.
#[derive(Clone, Debug)]
pub struct Changed {
    /// The subscription as it is now.
    pub subscription: LocalSubscription,
    /// Its periods that have begun.
    pub owed: Vec<Owed>,
    /// The one before it, when the command found it over and wrote so.
    pub ended: Option<LocalSubscription>,
}

fn changed(conn: &mut PgConnection, row: Row, now: DateTime<Utc>) -> Result<Changed, Error> {
    directory::changed(conn)?;
    let owed = row.owed(now);
    Ok(Changed { subscription: row.shown(now), owed, ended: None })
}

/// The newest version of a plan that is offered.
fn offered(conn: &mut PgConnection, plan_id: &str) -> Result<plans::Plan, Error> {
    let plan = plans::find(conn, plan_id)?;
    if !plan.active {
        return Err(Error::conflict("plan_inactive", "this plan is no longer offered: name another one"));
    }
    Ok(plan)
}

/// Begins a subscription. `start`: `None` for a trial of as many days as the plan says.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan, [`Error::Conflict`] when one is under way already or the plan is no longer
/// offered, [`Error::Invalid`] for a bad field.
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
    let plan = offered(conn, plan_id)?;
    let start = start.unwrap_or(Start::Trial(plan.terms.trial_days));
    let trial = match start {
        Start::Trial(days @ 1..=730) => Some(now + TimeDelta::days(i64::from(days))),
        Start::Trial(0) => {
            let rule = "is 0, and so is that of the plan: say `paid`, or give the days of a trial";
            return Err(Error::invalid("trial_days", rule));
        }
        Start::Trial(_) => return Err(Error::invalid("trial_days", "must be from 1 to 730")),
        Start::Paid => None,
    };
    let ended = end_if_over(conn, org_id, now)?;
    let row = insert(conn, org_id, (plan_id, plan.version), interval_months, trial, now)?;
    let mut done = changed(conn, row, now)?;
    done.ended = ended;
    Ok(done)
}

fn insert(
    conn: &mut PgConnection,
    org_id: i64,
    (plan_id, version): (&str, i32),
    interval_months: i32,
    trial_end: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<Row, Error> {
    let mut row = Row {
        org_id,
        subscription_id: ids::fresh("lsub"),
        plan_id: plan_id.to_owned(),
        version,
        status: if trial_end.is_some() { "trial" } else { "active" }.to_owned(),
        interval_months,
        created_at: now,
        trial_end,
        period_start: now,
        valid_until: now,
        cancel_at_period_end: false,
        ended_at: None,
    };
    row.valid_until = trial_end.map_or_else(|| in_range(row.nth(1)), Ok)?;
    let values = (
        (t::org_id.eq(org_id), t::subscription_id.eq(&row.subscription_id)),
        (t::plan_id.eq(plan_id), t::version.eq(version), t::status.eq(&row.status)),
        (t::interval_months.eq(interval_months), t::created_at.eq(now), t::updated_at.eq(now)),
        (t::trial_end.eq(trial_end), t::period_start.eq(now), t::valid_until.eq(row.valid_until)),
        t::cancel_at_period_end.eq(false),
    );
    diesel::insert_into(t::table).values(values).execute(conn).map_err(|error| {
        let error = Error::from(error);
        match error.constraint() {
            Some("local_subscriptions_running") => Error::conflict(
                "subscription_running",
                "this org has a subscription under way: change, extend or cancel that one",
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

/// The one that was under way when it was last written, held until the transaction ends.
fn lock_open(conn: &mut PgConnection, org_id: i64) -> QueryResult<Option<Row>> {
    let open = t::table.filter(t::org_id.eq(org_id)).filter(t::status.eq_any(["trial", "active"]));
    open.select(Row::as_select()).for_update().first(conn).optional()
}

/// The one that is under way now, held until the transaction ends.
fn lock_running(conn: &mut PgConnection, org_id: i64, now: DateTime<Utc>) -> Result<Row, Error> {
    let running = lock_open(conn, org_id)?.filter(|row| row.valid_until > now);
    running.ok_or_else(|| {
        Error::conflict(
            "no_subscription_running",
            "this org has no subscription under way: activate or begin one",
        )
    })
}

/// Writes that the one under way is over, when it is.
fn end_if_over(
    conn: &mut PgConnection,
    org_id: i64,
    now: DateTime<Utc>,
) -> Result<Option<LocalSubscription>, Error> {
    let Some(mut row) = lock_open(conn, org_id)?.filter(|row| row.valid_until <= now) else {
        return Ok(None);
    };
    row.status = row.status_at(now).to_owned();
    row.ended_at = Some(row.valid_until);
    write(conn, &row, now)?;
    Ok(Some(row.shown(now)))
}

fn write(conn: &mut PgConnection, row: &Row, now: DateTime<Utc>) -> QueryResult<()> {
    diesel::update(t::table.find((row.org_id, &row.subscription_id)))
        .set((
            (t::plan_id.eq(&row.plan_id), t::version.eq(row.version), t::status.eq(&row.status)),
            (t::period_start.eq(row.period_start), t::valid_until.eq(row.valid_until)),
            (t::cancel_at_period_end.eq(row.cancel_at_period_end), t::ended_at.eq(row.ended_at)),
            t::updated_at.eq(now),
        ))
        .execute(conn)
        .map(drop)
}

/// It was paid for. The one under way goes on from the end of what was paid for, a trial from its end, and a cancellation that was
/// to come is taken back. Where the last one is over a new one begins now, with the newest version of its plan.
///
/// # Errors
/// [`Error::NotFound`] when the org never had one, [`Error::Conflict`] when the plan of one that is over is no longer offered,
/// [`Error::Invalid`] for a bad field.
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
            let last = last(conn, org_id)?.ok_or(Error::NotFound("subscription"))?;
            let version = offered(conn, &last.plan_id)?.version;
            let mut row = insert(conn, org_id, (&last.plan_id, version), last.interval_months, None, now)?;
            // Nothing is paid for yet.
            row.valid_until = now;
            row
        }
    };
    if row.status == "trial" {
        row.period_start = row.valid_until;
    }
    row.valid_until = in_range(match paid {
        Paid::Periods(periods) => extended(&row, periods),
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

/// So many intervals on. Counted from the start where what was paid for ends with an interval: 31 January, 28 February, 31 March.
fn extended(row: &Row, periods: u32) -> Option<DateTime<Utc>> {
    let whole = (0..).map_while(|n| Some((n, row.nth(n)?))).find(|(_, end)| *end >= row.valid_until);
    match whole {
        Some((n, end)) if end == row.valid_until => row.nth(n + periods),
        _ => {
            let months = u32::try_from(row.interval_months).ok()?.checked_mul(periods)?;
            row.valid_until.checked_add_months(Months::new(months))
        }
    }
}

/// Cancels the one under way: at once, or with the end of what was paid for.
///
/// # Errors
/// [`Error::Conflict`] when none is under way.
pub fn cancel(
    conn: &mut PgConnection,
    org_id: i64,
    at_period_end: bool,
    now: DateTime<Utc>,
) -> Result<Changed, Error> {
    let mut row = lock_running(conn, org_id, now)?;
    if at_period_end {
        row.cancel_at_period_end = true;
    } else {
        row.status = "cancelled".to_owned();
        row.ended_at = Some(now);
    }
    write(conn, &row, now)?;
    changed(conn, row, now)
}

/// Puts the one under way on another plan, in its newest version; its periods stay.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan, [`Error::Conflict`] when none is under way or the plan is no longer offered.
pub fn change(
    conn: &mut PgConnection,
    org_id: i64,
    plan_id: &str,
    now: DateTime<Utc>,
) -> Result<Changed, Error> {
    let plan = offered(conn, plan_id)?;
    let mut row = lock_running(conn, org_id, now)?;
    row.plan_id = plan.id;
    row.version = plan.version;
    write(conn, &row, now)?;
    changed(conn, row, now)
}

/// Puts a subscription on a version of its plan (`plan`: which that must be); gives the row id of its org.
///
/// # Errors
/// [`Error::NotFound`] when there is no such subscription or version; [`Error::Invalid`] when its plan is another one.
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
    plans::check_version(conn, &plan_id, version)?;
    diesel::update(t::table.find((org_id, subscription_id)))
        .set((t::version.eq(version), t::updated_at.eq(now)))
        .execute(conn)?;
    directory::changed(conn)?;
    Ok(org_id)
}

/// Puts every subscription under way that has version `from` of a plan on version `to`; returns how many.
///
/// # Errors
/// When the database fails.
pub fn move_all(
    conn: &mut PgConnection,
    plan_id: &str,
    (from, to): (i32, i32),
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    let on = t::table.filter(t::plan_id.eq(plan_id)).filter(t::version.eq(from));
    let moved = diesel::update(on.filter(t::status.eq_any(["trial", "active"])))
        .set((t::version.eq(to), t::updated_at.eq(now)))
        .execute(conn)?;
    directory::changed(conn)?;
    Ok(moved)
}

fn last(conn: &mut PgConnection, org_id: i64) -> QueryResult<Option<Row>> {
    let newest =
        t::table.filter(t::org_id.eq(org_id)).order((t::created_at.desc(), t::subscription_id.desc()));
    newest.select(Row::as_select()).first(conn).optional()
}

/// The one under way, else the last one.
///
/// # Errors
/// [`Error::NotFound`] when the org never had one.
pub fn current(conn: &mut PgConnection, org_id: i64, now: DateTime<Utc>) -> Result<LocalSubscription, Error> {
    last(conn, org_id)?.map(|row| row.shown(now)).ok_or(Error::NotFound("subscription"))
}

/// Where a page of the history goes on: when the last one given began, and its id.
pub type Cursor = (DateTime<Utc>, String);

/// All of an org, newest first, at most `limit`.
///
/// # Errors
/// When the database fails.
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
        .select(Row::as_select())
        .limit(limit)
        .into_boxed();
    if let Some((at, id)) = after {
        query = query.filter(t::created_at.lt(at).or(t::created_at.eq(at).and(t::subscription_id.lt(id))));
    }
    let rows: Vec<Row> = query.load(conn)?;
    Ok(rows.into_iter().map(|row| row.shown(now)).collect())
}

/// Writes which subscriptions are over, at most `limit` of them, and tells them. Any number of daemons may do so at once.
///
/// # Errors
/// When the database fails.
pub fn end_due(conn: &mut PgConnection, now: DateTime<Utc>, limit: i64) -> Result<Vec<Ended>, Error> {
    let rows: Vec<Row> = diesel::sql_query(
        "UPDATE local_subscriptions l
         SET status = CASE WHEN cancel_at_period_end THEN 'cancelled' ELSE 'expired' END, ended_at = l.valid_until, updated_at = $1
         FROM (SELECT org_id, subscription_id FROM local_subscriptions WHERE status IN ('trial', 'active') AND valid_until <= $1
               ORDER BY valid_until LIMIT $2 FOR UPDATE SKIP LOCKED) due
         WHERE (l.org_id, l.subscription_id) = (due.org_id, due.subscription_id) RETURNING l.*",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    let ids: Vec<i64> = rows.iter().map(|row| row.org_id).collect();
    let names: std::collections::HashMap<i64, String> = orgs::table
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

/// Periods that are owed their plan's battery units: those that began in `[from, now]` and not after their subscription ended, of
/// the subscriptions after `after` (org, id), at most `limit` subscriptions. Which of them were granted already is for the caller to
/// know: a period is owed once, under `local:{subscription_id}:{period_start}`.
///
/// # Errors
/// When the database fails.
pub fn owed(
    conn: &mut PgConnection,
    (from, now): (DateTime<Utc>, DateTime<Utc>),
    after: Option<(i64, &str)>,
    limit: i64,
) -> Result<Vec<Owed>, Error> {
    let mut query = t::table
        .filter(t::valid_until.gt(from).and(t::ended_at.is_null().or(t::ended_at.gt(from))))
        .order((t::org_id, t::subscription_id))
        .select(Row::as_select())
        .limit(limit)
        .into_boxed();
    if let Some((org_id, id)) = after {
        query = query.filter(t::org_id.gt(org_id).or(t::org_id.eq(org_id).and(t::subscription_id.gt(id))));
    }
    let rows: Vec<Row> = query.load(conn)?;
    let owed = rows.iter().flat_map(|row| row.owed(now)).filter(|owed| owed.period_start >= from);
    Ok(owed.collect())
}
