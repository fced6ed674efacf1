//! Upkeep of batteries that nobody uses: grants become effective and expire, and days bring allowances.
//!
//! Who uses a battery does the same under its lock. Here workers do it for the other batteries, on any number
//! of replicas at once: the locked account tells what is done already, so nothing is done twice.

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
/// How long the list of the orgs' time zones is used.
const ZONES_FOR: Duration = Duration::from_secs(60);

#[derive(QueryableByName)]
struct OrgIdRow {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
}

/// Posts what has become due: grants that are effective now, and grants that have expired. Works on a bounded
/// number of orgs; returns how many accounts changed. Skips accounts that somebody else has locked: he does
/// it.
pub fn post_due(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    let due: Vec<OrgIdRow> = diesel::sql_query(format!(
        "SELECT a.org_id
         FROM battery_accounts a
         WHERE a.org_id = ANY (ARRAY(
             (SELECT org_id
                 FROM battery_grants
                 WHERE state <> 'closed'
                     AND expires_at <= $1
                     AND effective_at <= $1
                 ORDER BY expires_at
                 LIMIT {BATCH})
             UNION ALL
             (SELECT org_id
                 FROM battery_grants
                 WHERE state = 'scheduled'
                     AND effective_at <= $1
                 ORDER BY effective_at
                 LIMIT {BATCH})))
         ORDER BY a.org_id
         LIMIT {BATCH}
         FOR UPDATE SKIP LOCKED"
    ))
    .bind::<Timestamptz, _>(now)
    .load(conn)?;
    post(conn, due.into_iter().map(|org| org.org_id), now)
}

/// Posts what has become due in the batteries of these orgs; returns how many accounts changed.
pub fn post(
    conn: &mut PgConnection,
    org_ids: impl IntoIterator<Item = i64>,
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    let mut accounts = Accounts::lock(conn, org_ids, Depth::Live, now)?;
    accounts.drop_over_limit();
    accounts.write(conn)?;
    Ok(accounts.iter_mut().filter(|account| account.is_changed).count())
}

/// Whether something is due in the org's battery that is not posted yet.
pub fn is_due(conn: &mut PgConnection, org_id: i64, now: DateTime<Utc>) -> Result<bool, Error> {
    let due = battery_grants::table
        .filter(battery_grants::org_id.eq(org_id).and(battery_grants::state.ne("closed")))
        .filter(battery_grants::effective_at.le(now))
        .filter(
            battery_grants::state.eq("scheduled").or(battery_grants::expires_at.le(now).assume_not_null()),
        );
    Ok(select(exists(due)).get_result(conn)?)
}

/// How far the orgs of a zone have their allowance of a day.
#[derive(Clone, Copy, Debug)]
struct Progress {
    day: NaiveDate,
    /// Row id of the last org that was checked; `None`: all are.
    after: Option<i64>,
}

/// Plans the daily allowances. When a local day begins, each process checks the orgs of that zone once, some
/// at a time. A process that was away grants the running day only.
///
/// An org that gets a plan with an allowance, or another zone, within a day has the allowance of that day
/// when it first uses something.
#[derive(Default)]
pub struct Allowances {
    zones: Mutex<(Option<Instant>, Vec<Tz>)>,
    progress: Mutex<HashMap<Tz, Progress>>,
}

/// The next orgs of a zone to check.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    zone: Tz,
    day: NaiveDate,
    after: i64,
}

impl Allowances {
    /// The next step; `None`: nothing to do now.
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
                // The clock went back: this day is done.
                Some(Progress { day: last, .. }) if *last > day => None,
                _ => Some(Step { zone: *zone, day, after: 0 }),
            }
        });
        Ok(step)
    }

    /// Records that a step is committed. `reached`: what [`grant`] returned.
    pub fn done(&self, step: Step, reached: Option<i64>) {
        let mut progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        progress.insert(step.zone, Progress { day: step.day, after: reached });
    }
}

/// Grants the allowance to the orgs of a step whose plan has one and that do not have it yet. Returns the row
/// id of the last org that was checked, or `None` if the zone has no more orgs. `terms` must be in force.
pub fn grant(
    conn: &mut PgConnection,
    directory: &Directory,
    terms: &AllTerms,
    step: Step,
    now: DateTime<Utc>,
) -> Result<Option<i64>, Error> {
    let found: Vec<OrgIdRow> = diesel::sql_query(format!(
        "SELECT o.org_id
         FROM orgs o
         LEFT JOIN battery_accounts a USING (org_id)
         WHERE o.time_zone = $1
             AND o.org_id > $2
             AND (a.daily IS NULL OR a.daily < $3)
         ORDER BY o.org_id
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
    accounts.grant_allowances(entitled.into_iter(), terms, now);
    accounts.drop_over_limit();
    accounts.write(conn)?;
    Ok(org_ids.last().copied().filter(|_| org_ids.len() == BATCH))
}
