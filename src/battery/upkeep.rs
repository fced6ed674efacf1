//! What time does to batteries that nobody uses: grants become effective, lapse, and days begin.
//!
//! Whoever uses a battery finds all of this done under its lock. For the others it is done here, by any
//! number of replicas at once: what is done is read off the locked account, so nothing is done twice.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use diesel::dsl::{exists, select};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Text, Timestamptz};
use rust_decimal::Decimal;

use super::accounts::{Accounts, Depth};
use super::terms::AllTerms;
use crate::billing::directory::Directory;
use crate::error::Error;
use crate::schema::{battery_grants, orgs};

/// Accounts that are locked at once.
const BATCH: usize = 200;
/// How long the list of zones that orgs live in counts.
const ZONES_FOR: Duration = Duration::from_secs(60);

#[derive(QueryableByName)]
struct Org {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
}

/// Writes what has become due: grants that are effective now, and those that have lapsed. A bounded number of
/// orgs; tells of how many. An account that somebody else has locked is left to him.
pub fn post_due(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    let due: Vec<Org> = diesel::sql_query(format!(
        "SELECT a.org_id FROM battery_accounts a WHERE a.org_id = ANY (ARRAY(
             (SELECT org_id FROM battery_grants
                 WHERE state <> 'closed' AND expires_at <= $1 AND effective_at <= $1 ORDER BY expires_at
                 LIMIT {BATCH})
             UNION ALL
             (SELECT org_id FROM battery_grants WHERE state = 'scheduled' AND effective_at <= $1
                 ORDER BY effective_at LIMIT {BATCH})))
         ORDER BY a.org_id LIMIT {BATCH} FOR UPDATE SKIP LOCKED"
    ))
    .bind::<Timestamptz, _>(now)
    .load(conn)?;
    post(conn, due.into_iter().map(|org| org.org_id), now)
}

/// Writes what has become due in the batteries of these orgs; tells of how many there was something.
pub fn post(
    conn: &mut PgConnection,
    org_ids: impl IntoIterator<Item = i64>,
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    let mut accounts = Accounts::lock(conn, org_ids, Depth::Live, now)?;
    accounts.leave_out_full();
    accounts.write(conn)?;
    Ok(accounts.iter_mut().filter(|account| account.changed).count())
}

/// Whether something is due in the org's battery that is not written yet.
pub fn is_due(conn: &mut PgConnection, org_id: i64, now: DateTime<Utc>) -> Result<bool, Error> {
    let due = battery_grants::table
        .filter(battery_grants::org_id.eq(org_id).and(battery_grants::state.ne("closed")))
        .filter(battery_grants::effective_at.le(now))
        .filter(
            battery_grants::state.eq("scheduled").or(battery_grants::expires_at.le(now).assume_not_null()),
        );
    Ok(select(exists(due)).get_result(conn)?)
}

/// How far a zone's orgs have been granted a day's allowance.
#[derive(Clone, Copy, Debug)]
struct Progress {
    day: NaiveDate,
    /// Row id of the last org looked at; `None`: all have been.
    after: Option<i64>,
}

/// Grants the daily allowances at the turn of the orgs' local days: a zone's orgs are looked at once a day
/// and process, some at a time, those first whose day has begun. A process that was away grants the running
/// day alone.
///
/// An org that gets such a plan, or another zone, within a day has that day's allowance when it first uses
/// something.
#[derive(Default)]
pub struct Allowances {
    zones: Mutex<(Option<Instant>, Vec<Tz>)>,
    progress: Mutex<HashMap<Tz, Progress>>,
}

/// Orgs of a zone to be looked at.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    zone: Tz,
    day: NaiveDate,
    after: i64,
}

impl Allowances {
    /// The orgs that are next; `None`: there are none for now.
    pub fn next(&self, conn: &mut PgConnection, now: DateTime<Utc>) -> Result<Option<Step>, Error> {
        let mut zones = self.zones.lock().unwrap_or_else(PoisonError::into_inner);
        if zones.0.is_none_or(|read| read.elapsed() > ZONES_FOR) {
            let names: Vec<String> =
                orgs::table.select(orgs::time_zone).distinct().order(orgs::time_zone).load(conn)?;
            *zones = (Some(Instant::now()), names.iter().filter_map(|name| name.parse().ok()).collect());
        }
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let step = zones.1.iter().find_map(|zone| {
            let day = now.with_timezone(zone).date_naive();
            match progress.get(zone) {
                Some(Progress { day: last, after }) if *last == day => {
                    after.map(|after| Step { zone: *zone, day, after })
                }
                // A clock that goes back finds days that have had theirs.
                Some(Progress { day: last, .. }) if *last > day => None,
                _ => Some(Step { zone: *zone, day, after: 0 }),
            }
        });
        Ok(step)
    }

    /// Takes note that a step is committed; `reached` is what [`grant`] gave.
    pub fn done(&self, step: Step, reached: Option<i64>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.insert(step.zone, Progress { day: step.day, after: reached });
    }
}

/// Grants a step's orgs their allowance, as far as their plans have one and they did not have it yet. Gives
/// the row id of the last org looked at, or `None` when there are no more in the zone. `terms` must be those
/// in force.
pub fn grant(
    conn: &mut PgConnection,
    directory: &Directory,
    terms: &AllTerms,
    step: Step,
    now: DateTime<Utc>,
) -> Result<Option<i64>, Error> {
    let found: Vec<Org> = diesel::sql_query(format!(
        "SELECT o.org_id FROM orgs o LEFT JOIN battery_accounts a USING (org_id)
         WHERE o.time_zone = $1 AND o.org_id > $2 AND (a.daily IS NULL OR a.daily < $3) ORDER BY o.org_id
         LIMIT {BATCH}"
    ))
    .bind::<Text, _>(step.zone.name())
    .bind::<BigInt, _>(step.after)
    .bind::<Date, _>(step.day)
    .load(conn)?;
    let org_ids: Vec<i64> = found.iter().map(|org| org.org_id).collect();
    let contexts = directory.load(conn, &[], &org_ids)?;
    let entitled: Vec<_> =
        contexts.iter().map(|(_, org)| &**org).filter(|org| terms.daily(org) > Decimal::ZERO).collect();
    let mut accounts = Accounts::lock(conn, entitled.iter().map(|org| org.org_id), Depth::Live, now)?;
    accounts.allow(entitled.into_iter(), terms, now);
    accounts.leave_out_full();
    accounts.write(conn)?;
    Ok(org_ids.last().copied().filter(|_| org_ids.len() == BATCH))
}
