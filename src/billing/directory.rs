//! A cache of what usage and quotas need to know of an org: its zone, its plan, its billing periods.
//!
//! A transaction that changes any of these announces the change ([`changed`]). Every daemon gets the message
//! after the commit and reads the org again when it needs it. A daemon that cannot listen uses no entry for
//! longer than a second. If a plan will end by itself (a grace, a local subscription), its entry counts only
//! until that instant. The daemon reads entries in use again before they are too old, so no request waits for
//! that.

mod changes;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Timestamptz};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::changes::ChangeLog;
pub use self::changes::{Change, Stale, all_changed, changed, gathered};
use super::history;
use super::org_plan::{AsOf, Contexts};
use super::periods::BillingPeriods;
use super::plan_times::PlanTimes;
use super::standing::Standing;
use crate::db::prepared::Prepared;
use crate::error::Error;
use crate::time::{Clock, day_start};

/// How often a daemon listens. A change of plan, subscription or zone counts on every replica after this time
/// at the latest.
pub const HEARD_WITHIN: Duration = Duration::from_millis(250);
/// If the daemon has not listened for this long, an entry counts no longer than this.
const FRESH_UNLISTENED: Duration = Duration::from_secs(1);
/// How long an entry counts at most.
const FRESH_FOR: Duration = Duration::from_secs(60);
/// The age from which an entry in use is read again. For some orgs it is up to two thirds more, so that
/// entries that were read together are not read again together.
const RENEWED_FROM: Duration = Duration::from_secs(30);
/// Orgs that one statement reads again.
const RENEWED: usize = 500;
/// Names in the cache, at most.
const CAPACITY: usize = 100_000;

/// An org, as usage and quotas see it.
#[derive(Clone, Debug)]
pub struct OrgContext {
    pub org_id: i64,
    /// `org_…`.
    pub public_id: Arc<str>,
    /// The id that the caller's own systems know it by.
    pub external_id: Option<String>,
    /// Its time zone: where its days and months begin.
    pub zone: Tz,
    /// Its usage costs in it, where meters have prices in it; `None`: in the currency of each meter.
    pub currency: Option<String>,
    pub plan: Option<String>,
    /// The version of the plan that its subscription bought.
    pub plan_version: i32,
    /// It has the default plan, because no subscription gives it one.
    pub by_default: bool,
    /// When the plan ends by itself, because a grace or a local subscription is over.
    pub plan_until: Option<DateTime<Utc>>,
    pub periods: BillingPeriods,
    /// Which plan it had at an instant.
    pub plan_times: PlanTimes,
    /// The subscription that counts, whether or not it gives a plan.
    pub subscription: Option<Subscribed>,
    /// All subscriptions that give it a plan, where there are several.
    pub paying: Box<[Paying]>,
    /// Whether it may use anything.
    pub standing: Standing,
    /// Days for which `past_due` keeps a plan, by the settings.
    pub grace_days: u16,
    /// When this entry stops being true by itself.
    fresh_until: Option<DateTime<Utc>>,
    loaded: Instant,
    /// [`ChangeLog::number`] before the entry was read.
    as_of_change: u64,
}

/// The subscription that counts for an org.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Stripe's id, or `lsub_…`.
    pub id: String,
    /// `stripe` or `local`.
    pub source: String,
    /// Stripe's status; for a local subscription: trial, active, past_due (its grace runs), expired or
    /// cancelled.
    pub status: String,
    /// End of its trial, even if that is in the past.
    pub trial_end: Option<DateTime<Utc>>,
    /// Whether it ends with its period.
    pub cancel_at_period_end: bool,
    /// When it will be canceled.
    pub cancel_at: Option<DateTime<Utc>>,
    /// While it is paused, Stripe does not collect its invoices.
    pub pause: Option<Pause>,
    /// `[start, end)` of the present period of the item that buys the plan; `None`: it gives no plan.
    pub period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Invoices of a subscription are not collected for a while. The plan stays.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct Pause {
    /// What becomes of the invoices: `void`, `keep_as_draft` or `mark_uncollectible`.
    pub behavior: String,
    /// When they are collected again; null: when somebody says so.
    pub resumes_at: Option<DateTime<Utc>>,
}

/// One of several subscriptions that give an org a plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Paying {
    /// `sub_…` or `lsub_…`.
    pub id: String,
    /// `stripe` or `local`.
    pub source: String,
    /// As Stripe says it; of a local one: trial, active or past_due.
    pub status: String,
    /// The plan that it gives.
    pub plan: String,
}

impl OrgContext {
    /// Whether `name` is its public or external id.
    #[must_use]
    pub fn is_called(&self, name: &str) -> bool {
        *self.public_id == *name || self.external_id.as_deref() == Some(name)
    }

    /// The local day of an instant.
    #[must_use]
    pub fn day(&self, at: DateTime<Utc>) -> NaiveDate {
        at.with_timezone(&self.zone).date_naive()
    }

    /// The local day of an instant, and when it ends.
    #[must_use]
    pub fn today(&self, at: DateTime<Utc>) -> (NaiveDate, DateTime<Utc>) {
        let day = self.day(at);
        (day, day_start(self.zone, day.succ_opt().unwrap_or(day)))
    }

    /// The org's plan at an instant.
    #[must_use]
    pub fn plan_at(&self, at: DateTime<Utc>) -> Option<&str> {
        self.plan_times.at(at, self.plan.as_deref())
    }

    /// The start of the billing period that contains an instant; `None`: the org had no subscription then.
    #[must_use]
    pub fn billing_period(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.billing_bounds(at).map(|(start, _)| start)
    }

    /// The billing period `[start, end)` that contains an instant.
    #[must_use]
    pub fn billing_bounds(&self, at: DateTime<Utc>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        self.periods.at(at)
    }
}

/// Orgs by public id, external id and row id.
pub struct Directory {
    by_ref: Cache<String, Arc<OrgContext>>,
    by_id: Cache<i64, Arc<OrgContext>>,
    change_log: RwLock<ChangeLog>,
    aging: Mutex<Aging>,
    renewed_from: Duration,
    clock: Clock,
    grace_days: u16,
}

/// Entries in use that will soon be too old.
#[derive(Debug, Default)]
struct Aging {
    names: HashSet<String>,
    org_ids: HashSet<i64>,
}

/// With the machine's clock and the usual grace.
impl Default for Directory {
    fn default() -> Self {
        Self::new(Clock::system(), 14)
    }
}

impl Directory {
    /// An empty cache. `past_due` subscriptions keep their plan for `grace_days`.
    #[must_use]
    pub fn new(clock: Clock, grace_days: u16) -> Self {
        Self {
            by_ref: Cache::new(CAPACITY),
            by_id: Cache::new(CAPACITY),
            change_log: RwLock::default(),
            aging: Mutex::default(),
            renewed_from: RENEWED_FROM,
            clock,
            grace_days,
        }
    }

    /// Sets the age from which entries in use are read again.
    #[must_use]
    pub fn renewed_from(self, age: Duration) -> Self {
        Self { renewed_from: age, ..self }
    }
}

impl Directory {
    /// The org with this public or external id, if the cache has a fresh entry.
    #[must_use]
    pub fn by_ref(&self, name: &str) -> Option<Arc<OrgContext>> {
        self.fresh(self.by_ref.get(name)?, |aging| {
            if !aging.names.contains(name) {
                aging.names.insert(name.to_owned());
            }
        })
    }

    /// The org with this row id, if the cache has a fresh entry.
    #[must_use]
    pub fn by_id(&self, org_id: i64) -> Option<Arc<OrgContext>> {
        self.fresh(self.by_id.get(&org_id)?, |aging| {
            aging.org_ids.insert(org_id);
        })
    }

    /// The entry, if it is fresh. `note` is called when it is time to read it again.
    fn fresh(&self, context: Arc<OrgContext>, note: impl FnOnce(&mut Aging)) -> Option<Arc<OrgContext>> {
        let log = self.change_log.read().unwrap_or_else(PoisonError::into_inner);
        let listens = log.at.is_some_and(|at| at.elapsed() < FRESH_UNLISTENED);
        let is_current = log.is_current(context.org_id, context.as_of_change);
        drop(log);
        let age = context.loaded.elapsed();
        if !is_current
            || age >= if listens { FRESH_FOR } else { FRESH_UNLISTENED }
            || context.fresh_until.is_some_and(|until| until <= self.clock.now())
        {
            return None;
        }
        let spread = self.renewed_from / 30 * (context.org_id.unsigned_abs() % 20) as u32;
        if age >= self.renewed_from + spread {
            note(&mut self.aging.lock().unwrap_or_else(PoisonError::into_inner));
        }
        Some(context)
    }

    /// Makes the entries of these orgs stale, after a commit that changes the orgs. The daemon that makes a
    /// change calls this before it answers, so it need not wait for its own message.
    pub fn forget(&self, stale: &Stale) {
        self.change_log.write().unwrap_or_else(PoisonError::into_inner).record(stale);
    }

    /// Takes the messages that this connection has received. If the connection did not listen before, it may
    /// have missed some: then every entry becomes stale.
    pub fn listen(&self, conn: &mut PgConnection) -> Result<(), Error> {
        let began = changes::listen(conn)?;
        let messages = conn.notifications_iter().collect::<QueryResult<Vec<_>>>();
        let stale = match &messages {
            Ok(messages) if !began => {
                changes::stale(conn, messages.iter().map(|message| message.payload.as_str()))
            }
            _ => Ok(Stale::All),
        };
        let mut log = self.change_log.write().unwrap_or_else(PoisonError::into_inner);
        // A message that cannot be understood may concern every org.
        log.record(stale.as_ref().unwrap_or(&Stale::All));
        messages?;
        stale?;
        log.at = Some(Instant::now());
        Ok(())
    }

    /// Of the entries in use that will soon be too old, reads some again. Returns whether more are left.
    pub fn renew(&self, conn: &mut PgConnection) -> Result<bool, Error> {
        let mut aging = self.aging.lock().unwrap_or_else(PoisonError::into_inner);
        let names: Vec<String> = aging.names.extract_if(|_| true).take(RENEWED).collect();
        let org_ids: Vec<i64> = aging.org_ids.extract_if(|_| true).take(RENEWED).collect();
        let more = !aging.names.is_empty() || !aging.org_ids.is_empty();
        drop(aging);
        if !names.is_empty() || !org_ids.is_empty() {
            self.load(conn, &names, &org_ids)?;
        }
        Ok(more)
    }

    /// The instant and the grace by which plans are decided.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        AsOf { now: self.clock.now(), grace_days: self.grace_days }
    }

    /// Reads orgs by names and row ids into the cache. Names that no org has are left out.
    pub fn load(
        &self,
        conn: &mut PgConnection,
        names: &[String],
        org_ids: &[i64],
    ) -> Result<Vec<(String, Arc<OrgContext>)>, Error> {
        // Take the number before the read, so that a change during the read makes the entry stale.
        let as_of_change = self.change_log.read().unwrap_or_else(PoisonError::into_inner).number;
        let as_of = self.as_of();
        let rows: Vec<OrgRow> = Prepared::<Contexts>::new()
            .bind_one::<Timestamptz, _>(as_of.now)
            .bind_one::<Integer, _>(i32::from(as_of.grace_days))
            // PostgreSQL refuses a text with NUL, and no org can have such a name.
            .bind::<Text, _>(names.iter().filter(|name| !crate::text::has_nul(name)).cloned().collect())
            .bind::<BigInt, _>(org_ids.to_vec())
            .load(conn)?;
        rows.into_iter()
            .map(|row| {
                let name = row.org.0.clone();
                let context = Arc::new(context_of(row, as_of.grace_days, as_of_change)?);
                self.by_id.insert(context.org_id, Arc::clone(&context));
                if !name.is_empty() {
                    self.by_ref.insert(name.clone(), Arc::clone(&context));
                }
                Ok((name, context))
            })
            .collect()
    }

    /// Reads those of these orgs that the cache lacks, by one statement: so [`Directory::find`] need not read
    /// each by its own.
    ///
    /// # Errors
    /// Those of the database.
    pub fn read_ahead(
        &self,
        conn: &mut PgConnection,
        org_ids: impl IntoIterator<Item = i64>,
    ) -> Result<(), Error> {
        let mut missing: Vec<i64> =
            org_ids.into_iter().filter(|org_id| self.by_id(*org_id).is_none()).collect();
        missing.sort_unstable();
        missing.dedup();
        if !missing.is_empty() {
            self.load(conn, &[], &missing)?;
        }
        Ok(())
    }

    /// The org with this row id, from the cache or the database.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub fn find(&self, conn: &mut PgConnection, org_id: i64) -> Result<Arc<OrgContext>, Error> {
        if let Some(context) = self.by_id(org_id) {
            return Ok(context);
        }
        self.load(conn, &[], &[org_id])?.pop().map(|(_, context)| context).ok_or(Error::NotFound("org"))
    }

    /// The org with this public or external id, from the cache or the database; `None`: no org has it.
    pub(super) fn find_ref(
        &self,
        conn: &mut PgConnection,
        name: &str,
    ) -> Result<Option<Arc<OrgContext>>, Error> {
        if let Some(context) = self.by_ref(name) {
            return Ok(Some(context));
        }
        Ok(self.load(conn, &[name.to_owned()], &[])?.pop().map(|(_, context)| context))
    }
}

type When = Option<DateTime<Utc>>;

#[derive(Queryable)]
struct OrgRow {
    org: (String, i64, String, Option<String>, String, Option<String>),
    plan: (Option<String>, Option<i32>, When, When),
    period: (When, When),
    subscription: (Option<String>, Option<String>, Option<String>, When, Option<bool>, When),
    further: (Option<String>, When, Option<String>, bool),
    /// The subscriptions as JSON, and the default plan.
    histories: (Option<String>, Option<String>),
    /// How it stands, and why it is suspended.
    standing: (Option<String>, Option<String>),
}

fn context_of(row: OrgRow, grace_days: u16, as_of_change: u64) -> Result<OrgContext, Error> {
    let (_, org_id, public_id, external_id, zone, currency) = row.org;
    let zone =
        zone.parse().map_err(|_| Error::Internal(format!("org {public_id} has the unknown zone {zone}")))?;
    let (plan, version, plan_until, changes_at) = row.plan;
    let (source, id, status, trial_end, cancel_at_period_end, cancel_at) = row.subscription;
    let (pause, pause_until, paying, by_default) = row.further;
    let (histories, default_plan) = row.histories;
    let (periods, plan_times) = history::read(histories.as_deref(), default_plan.map(Into::into))?;
    let paying: Vec<Paying> = serde_json::from_str(paying.as_deref().unwrap_or("[]"))
        .map_err(|error| Error::Internal(format!("subscriptions of org {public_id}: {error}")))?;
    let subscription = id.zip(source).map(|(id, source)| Subscribed {
        id,
        source,
        status: status.unwrap_or_default(),
        trial_end,
        cancel_at_period_end: cancel_at_period_end.unwrap_or(false),
        cancel_at,
        pause: pause.map(|behavior| Pause { behavior, resumes_at: pause_until }),
        period: row.period.0.zip(row.period.1),
    });
    Ok(OrgContext {
        org_id,
        public_id: public_id.into(),
        external_id,
        zone,
        currency,
        plan,
        plan_version: version.unwrap_or(1),
        by_default,
        paying: paying.into(),
        plan_until,
        periods,
        plan_times,
        subscription,
        standing: Standing::read(row.standing.0.as_deref(), row.standing.1),
        grace_days,
        fresh_until: [plan_until, changes_at].into_iter().flatten().min(),
        loaded: Instant::now(),
        as_of_change,
    })
}
