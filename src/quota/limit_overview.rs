//! Overviews: an org's plan with every limit that holds for it, and how it stands under each. Those asked for
//! together share one query; limits, catalogue and orgs come from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::Rulebook;
use super::check;
use super::group_commit::Work;
use super::limits::{Enforcement, HeldPlan, LimitSource, Limits};
use super::orgs::Orgs;
use super::quantity::Quantity;
use crate::battery::reads::balance::Figures;
use crate::battery::terms::AllTerms;
use crate::battery::{Account, Accounts};
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::counters::{Count, CounterKey};
use crate::metering::slots::{PeriodKind, Slot};
use crate::panics;

/// A limit that holds for an org.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Entitled {
    /// The org's own quota; null: the limit is its plan's.
    pub quota: Option<String>,
    /// Key of the meter.
    pub meter: String,
    /// Dimension to value: only usage that has them all counts.
    pub filter: BTreeMap<String, String>,
    /// Each subject has a counter of its own: `used`, `reserved` and `remaining` are null then.
    pub per_subject: bool,
    /// How long the counter runs.
    pub period: PeriodKind,
    /// What the limit does.
    pub enforcement: Enforcement,
    /// The limit; null: none.
    pub limit: Option<Quantity>,
    /// Used in this period.
    pub used: Option<Quantity>,
    /// Set aside by open reservations.
    pub reserved: Option<Quantity>,
    /// What is left, 0 when nothing is; null: no limit.
    pub remaining: Option<Quantity>,
    /// When the next period begins.
    pub resets_at: DateTime<Utc>,
}

/// What an org's battery holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = EntitledBattery)]
pub struct BatterySummary {
    /// The sum of its ledger, today's allowance included; below zero it is debt.
    pub balance: Quantity,
    /// Set aside by open reservations.
    pub reserved: Quantity,
    /// What may be used: the balance less what is set aside.
    pub available: Quantity,
    /// How far below zero it may be used; null: without limit.
    pub debt_limit: Option<Quantity>,
    /// Units that the plan grants each local day.
    pub daily_allowance: Quantity,
}

impl From<BatterySummary> for Figures {
    fn from(charge: BatterySummary) -> Self {
        Self {
            balance: charge.balance.0,
            reserved: charge.reserved.0,
            available: charge.available.0,
            debt_limit: charge.debt_limit.map(|limit| limit.0),
            daily: charge.daily_allowance.0,
        }
    }
}

/// What an org has.
#[derive(Clone, Debug)]
pub struct Overview {
    pub org: Arc<OrgContext>,
    pub plan: Option<Arc<HeldPlan>>,
    /// Every limit, in the order of meters and slots.
    pub quotas: Vec<Entitled>,
    pub battery: BatterySummary,
}

pub(super) struct Overviews(pub(super) Arc<Rulebook>);

impl Work<OrgRef, Overview> for Overviews {
    fn run(&self, conn: &mut PgConnection, jobs: &[OrgRef]) -> Result<Vec<Result<Overview, Error>>, Error> {
        jobs.iter().for_each(|job| panics::panic_if_test_asks("quota-overviews", || format!("{job:?}")));
        let orgs = Orgs::find(conn, &self.0.directory, jobs.iter())?;
        let now = self.0.clock.now();
        self.0.while_unchanged(conn, |conn, (catalog, limits)| {
            let keys: BTreeSet<CounterKey> = jobs
                .iter()
                .filter_map(|job| orgs.get(job))
                .flat_map(|org| {
                    let of_org = limited(catalog, limits, org).filter(|(_, slot)| !slot.per_subject);
                    of_org.map(|(_, slot)| key(slot, org, now))
                })
                .collect();
            let batteries = batteries(conn, limits, jobs.iter().filter_map(|job| orgs.get(job)), now)?;
            let (version, counts) = check::look(conn, &keys, &orgs, now)?;
            let overview = |job: &OrgRef| {
                let org = orgs.get(job).ok_or_else(|| Error::UnknownOrg("id".into()))?;
                let quotas = limited(catalog, limits, org)
                    .filter_map(|(meter, slot)| entitled(limits, org, meter, slot, &counts, now));
                Ok(Overview {
                    org: Arc::clone(org),
                    plan: limits.plan(org).cloned(),
                    quotas: quotas.collect(),
                    battery: charge(&limits.battery, org, &batteries),
                })
            };
            Ok((version == catalog.version).then(|| jobs.iter().map(overview).collect()))
        })
    }
}

/// The batteries of these orgs, with today's allowance, but for overdue reservations.
fn batteries<'a>(
    conn: &mut PgConnection,
    limits: &Limits,
    orgs: impl Iterator<Item = &'a Arc<OrgContext>>,
    now: DateTime<Utc>,
) -> Result<Accounts, Error> {
    let orgs: BTreeMap<i64, &OrgContext> = orgs.map(|org| (org.org_id, &**org)).collect();
    check::batteries(conn, &limits.battery, &orgs, now)
}

/// What an org's battery holds now, for who has no overview at hand.
pub fn charge_of(
    conn: &mut PgConnection,
    org: &OrgContext,
    now: DateTime<Utc>,
) -> Result<BatterySummary, Error> {
    let terms = AllTerms::load_for(conn, org)?;
    let batteries = check::batteries(conn, &terms, &BTreeMap::from([(org.org_id, org)]), now)?;
    Ok(charge(&terms, org, &batteries))
}

fn charge(terms: &AllTerms, org: &OrgContext, batteries: &Accounts) -> BatterySummary {
    let none = Account::empty(org.org_id);
    let account = batteries.get(org.org_id).unwrap_or(&none);
    BatterySummary {
        balance: Quantity(account.balance()),
        reserved: Quantity(account.reserved()),
        available: Quantity(account.available()),
        debt_limit: terms.debt_limit(org).map(Quantity),
        daily_allowance: Quantity(terms.daily(org)),
    }
}

/// The slots that count for an org and have a limit for it, by the key of their meter.
fn limited<'a>(
    catalog: &'a Catalog,
    limits: &'a Limits,
    org: &'a OrgContext,
) -> impl Iterator<Item = (&'a str, &'a Arc<Slot>)> {
    let meters: BTreeMap<&str, i32> = catalog
        .meters
        .values()
        .filter(|meter| meter.archived_at.is_none())
        .map(|meter| (meter.key.as_str(), meter.meter_id))
        .collect();
    meters.into_iter().flat_map(move |(meter, id)| {
        let slots = catalog.slots.get(&id).map(Vec::as_slice).unwrap_or_default();
        let counts = |slot: &&Arc<Slot>| slot.orgs.as_ref().is_none_or(|orgs| orgs.contains(&org.org_id));
        slots
            .iter()
            .filter(counts)
            .filter(|slot| limits.of(org, slot.slot_id).is_some())
            .map(move |slot| (meter, slot))
    })
}

fn key(slot: &Slot, org: &OrgContext, now: DateTime<Utc>) -> CounterKey {
    CounterKey::of(slot, org.org_id, None, org.day(now), org.billing_period(now))
}

fn entitled(
    limits: &Limits,
    org: &OrgContext,
    meter: &str,
    slot: &Slot,
    counts: &BTreeMap<CounterKey, Count>,
    now: DateTime<Utc>,
) -> Option<Entitled> {
    let limit = limits.of(org, slot.slot_id)?;
    let key = key(slot, org, now);
    let count = (!slot.per_subject).then(|| counts.get(&key).copied().unwrap_or_default());
    let remaining = limit.terms.limit.zip(count).map(|(limit, count)| Quantity(count.remaining(limit.0)));
    Some(Entitled {
        quota: match &limit.source {
            LimitSource::Quota(id) => Some(id.clone()),
            LimitSource::Plan(_) => None,
        },
        meter: meter.to_owned(),
        filter: slot.filter.clone(),
        per_subject: slot.per_subject,
        period: slot.period,
        enforcement: limit.terms.enforcement,
        limit: limit.terms.limit,
        used: count.map(|count| Quantity(count.used.shown())),
        reserved: count.map(|count| Quantity(count.reserved.shown())),
        remaining,
        resets_at: key.period.bounds(slot.period, org).1,
    })
}
