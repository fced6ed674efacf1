//! What usage and quotas need to know of an org, held in memory: its zone, its plan, its billing period.
//!
//! Whoever changes any of it says so ([`changed`]) in the same transaction; every daemon hears of it when
//! that commits, and reads the orgs concerned anew when it needs them. A daemon that cannot hear believes
//! nothing for longer than a second. What ends by itself (a grace, a local subscription) is not believed past
//! that instant. What is in use is read again before it is too old, so that no request waits for it.

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

use self::changes::Heard;
pub use self::changes::{Change, Stale, all_changed, changed, gathered};
use super::lives;
use super::org_plan::{AsOf, Contexts};
use super::periods::BillingPeriods;
use super::plan_times::PlanTimes;
use crate::db::prepared::Prepared;
use crate::error::Error;
use crate::time::{Clock, day_start};

/// How often a daemon listens: a change of plan, subscription or zone acts after this at the latest, on every
/// replica.
pub const HEARD_WITHIN: Duration = Duration::from_millis(250);
/// How long what is held counts when a daemon has not listened for as long.
const HELD_UNHEARD: Duration = Duration::from_secs(1);
/// How long it counts at all, at most.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How old it is when it is read again ahead of that, if it is in use; for some orgs it is up to two thirds
/// more: what was read together is then not read again together.
const RENEWED_FROM: Duration = Duration::from_secs(30);
/// Orgs read again at once.
const RENEWED: usize = 500;
/// Names held at most.
const CAPACITY: usize = 100_000;

/// An org, as usage and quotas see it.
#[derive(Clone, Debug)]
pub struct OrgContext {
    pub org_id: i64,
    /// `org_…`.
    pub public_id: Arc<str>,
    /// The id that the caller's own systems know it by.
    pub external_id: Option<String>,
    /// Where its days and months begin.
    pub zone: Tz,
    pub plan: Option<String>,
    /// The version of it that its subscription bought.
    pub plan_version: i32,
    /// It has the plan because no subscription gives it one.
    pub by_default: bool,
    /// When the plan ends by itself: a grace is over, or a local subscription.
    pub plan_until: Option<DateTime<Utc>>,
    /// The billing periods of its subscriptions.
    pub periods: BillingPeriods,
    /// The plans that it had.
    pub plan_times: PlanTimes,
    /// The subscription that counts, whether or not it gives a plan.
    pub subscription: Option<Subscribed>,
    /// All subscriptions that give it a plan, where there are several.
    pub paying: Box<[Paying]>,
    /// When what is said here stops being true by itself.
    fresh_until: Option<DateTime<Utc>>,
    loaded: Instant,
    /// As of which number of [`Heard`].
    heard: u64,
}

/// The subscription of an org that counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscribed {
    /// Stripe's id, or `lsub_…`.
    pub id: String,
    /// `stripe` or `local`.
    pub source: String,
    /// As Stripe says it; of a local one: trial, active, past_due (its grace runs), expired or cancelled.
    pub status: String,
    /// End of its trial, also of a past one.
    pub trial_end: Option<DateTime<Utc>>,
    /// Whether it ends with its period.
    pub cancel_at_period_end: bool,
    /// When it will be canceled.
    pub cancel_at: Option<DateTime<Utc>>,
    /// Its invoices are not collected meanwhile.
    pub pause: Option<Pause>,
    /// The present period of the item that buys the plan; `None`: it gives nothing.
    pub period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// That invoices of a subscription are not collected for a while: the plan stays.
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
    /// Whether this is its public or external id.
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

    /// The plan that it had at an instant.
    #[must_use]
    pub fn plan_at(&self, at: DateTime<Utc>) -> Option<&str> {
        self.plan_times.at(at, self.plan.as_deref())
    }

    /// When the subscription's period began that an instant lies in; `None`: it had no subscription then.
    #[must_use]
    pub fn billing_period(&self, at: DateTime<Utc>) -> Option<DateTime<Utc>> {
        self.billing_bounds(at).map(|(start, _)| start)
    }

    /// The subscription's period that an instant lies in, `[start, end)`.
    #[must_use]
    pub fn billing_bounds(&self, at: DateTime<Utc>) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        self.periods.at(at)
    }
}

/// Orgs by what callers name them: public id, external id, or row id.
pub struct Directory {
    by_ref: Cache<String, Arc<OrgContext>>,
    by_id: Cache<i64, Arc<OrgContext>>,
    heard: RwLock<Heard>,
    aging: Mutex<Aging>,
    renewed_from: Duration,
    clock: Clock,
    grace_days: u16,
}

/// What is in use and will soon be too old.
#[derive(Debug, Default)]
struct Aging {
    names: HashSet<String>,
    org_ids: HashSet<i64>,
}

/// By the machine's clock, with the grace that is usual.
impl Default for Directory {
    fn default() -> Self {
        Self::new(Clock::system(), 14)
    }
}

impl Directory {
    /// An empty one. `past_due` subscriptions keep their plan for `grace_days` from the start of their
    /// period.
    #[must_use]
    pub fn new(clock: Clock, grace_days: u16) -> Self {
        Self {
            by_ref: Cache::new(CAPACITY),
            by_id: Cache::new(CAPACITY),
            heard: RwLock::default(),
            aging: Mutex::default(),
            renewed_from: RENEWED_FROM,
            clock,
            grace_days,
        }
    }

    /// Has what is in use read again from another age on.
    #[must_use]
    pub fn renewed_from(self, age: Duration) -> Self {
        Self { renewed_from: age, ..self }
    }
}

impl Directory {
    /// The org of that public or external id, when it is held and fresh.
    #[must_use]
    pub fn by_ref(&self, name: &str) -> Option<Arc<OrgContext>> {
        self.believed(self.by_ref.get(name)?, |aging| {
            if !aging.names.contains(name) {
                aging.names.insert(name.to_owned());
            }
        })
    }

    /// The org of that row id, when it is held and fresh.
    #[must_use]
    pub fn by_id(&self, org_id: i64) -> Option<Arc<OrgContext>> {
        self.believed(self.by_id.get(&org_id)?, |aging| {
            aging.org_ids.insert(org_id);
        })
    }

    /// What is held, if it is fresh; when it is time to read it again, `note` says so.
    fn believed(&self, context: Arc<OrgContext>, note: impl FnOnce(&mut Aging)) -> Option<Arc<OrgContext>> {
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner);
        let hears = heard.at.is_some_and(|at| at.elapsed() < HELD_UNHEARD);
        let holds = heard.holds(context.org_id, context.heard);
        drop(heard);
        let age = context.loaded.elapsed();
        if !holds
            || age >= if hears { HELD_FOR } else { HELD_UNHEARD }
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

    /// Believes nothing any more that was read of these orgs before now: what changes them has been
    /// committed. The daemon that makes a change knows so before it answers, and need not wait until it hears
    /// of it.
    pub fn forget(&self, stale: &Stale) {
        self.heard.write().unwrap_or_else(PoisonError::into_inner).note(stale);
    }

    /// Hears what was told on this connection since the last time; a connection that did not listen yet may
    /// have missed some.
    pub fn listen(&self, conn: &mut PgConnection) -> Result<(), Error> {
        let began = changes::listen(conn)?;
        let told = conn.notifications_iter().collect::<QueryResult<Vec<_>>>();
        let stale = match &told {
            Ok(told) if !began => changes::stale(conn, told.iter().map(|told| told.payload.as_str())),
            _ => Ok(Stale::All),
        };
        let mut heard = self.heard.write().unwrap_or_else(PoisonError::into_inner);
        // What cannot be made out may concern anybody.
        heard.note(stale.as_ref().unwrap_or(&Stale::All));
        told?;
        stale?;
        heard.at = Some(Instant::now());
        Ok(())
    }

    /// Reads again what is in use and will soon be too old, a bounded number; tells whether more is left.
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

    /// By what time and rule plans are told here.
    #[must_use]
    pub fn as_of(&self) -> AsOf {
        AsOf { now: self.clock.now(), grace_days: self.grace_days }
    }

    /// Reads orgs by their names and row ids and holds them; names that nobody has are left out.
    pub fn load(
        &self,
        conn: &mut PgConnection,
        names: &[String],
        org_ids: &[i64],
    ) -> Result<Vec<(String, Arc<OrgContext>)>, Error> {
        // Of before the look: what changes meanwhile makes it stale.
        let heard = self.heard.read().unwrap_or_else(PoisonError::into_inner).number;
        let as_of = self.as_of();
        let rows: Vec<OrgRow> = Prepared::<Contexts>::new()
            .bind_one::<Timestamptz, _>(as_of.now)
            .bind_one::<Integer, _>(i32::from(as_of.grace_days))
            // PostgreSQL cannot even be asked for NUL.
            .bind::<Text, _>(names.iter().filter(|name| !crate::text::has_nul(name)).cloned().collect())
            .bind::<BigInt, _>(org_ids.to_vec())
            .load(conn)?;
        rows.into_iter()
            .map(|row| {
                let name = row.org.0.clone();
                let context = Arc::new(context_of(row, heard)?);
                self.by_id.insert(context.org_id, Arc::clone(&context));
                if !name.is_empty() {
                    self.by_ref.insert(name.clone(), Arc::clone(&context));
                }
                Ok((name, context))
            })
            .collect()
    }

    /// The org of that row id, held or read.
    ///
    /// # Errors
    /// [`Error::NotFound`] when there is none.
    pub fn find(&self, conn: &mut PgConnection, org_id: i64) -> Result<Arc<OrgContext>, Error> {
        if let Some(context) = self.by_id(org_id) {
            return Ok(context);
        }
        self.load(conn, &[], &[org_id])?.pop().map(|(_, context)| context).ok_or(Error::NotFound("org"))
    }

    /// The org of that public or external id, held or read; `None`: nobody is called so.
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
    org: (String, i64, String, Option<String>, String),
    plan: (Option<String>, Option<i32>, When, When),
    period: (When, When),
    subscription: (Option<String>, Option<String>, Option<String>, When, Option<bool>, When),
    further: (Option<String>, When, Option<String>, bool),
    /// Subscriptions as JSON; the default plan.
    lives: (Option<String>, Option<String>),
}

fn context_of(row: OrgRow, heard: u64) -> Result<OrgContext, Error> {
    let (_, org_id, public_id, external_id, zone) = row.org;
    let zone =
        zone.parse().map_err(|_| Error::Internal(format!("org {public_id} has the unknown zone {zone}")))?;
    let (plan, version, plan_until, changes_at) = row.plan;
    let (source, id, status, trial_end, cancel_at_period_end, cancel_at) = row.subscription;
    let (pause, pause_until, paying, by_default) = row.further;
    let (lives, default_plan) = row.lives;
    let (periods, plan_times) = lives::of_org(lives.as_deref(), default_plan.map(Into::into))?;
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
        plan,
        plan_version: version.unwrap_or(1),
        by_default,
        paying: paying.into(),
        plan_until,
        periods,
        plan_times,
        subscription,
        fresh_until: [plan_until, changes_at].into_iter().flatten().min(),
        loaded: Instant::now(),
        heard,
    })
}
