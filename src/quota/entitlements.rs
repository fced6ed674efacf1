//! Entitlements: an org's plan with every limit that holds for it, how much of each is left, and its battery.
//! Questions that arrive together share one query; limits, catalogue and orgs come from memory.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::QuotaContext;
use super::check;
use super::limit_status::resets_at;
use super::limits::{Enforcement, NamedVersion};
use super::orgs::Orgs;
use super::rulebook::Rulebook;
use crate::battery::reads::balance::BalanceFigures;
use crate::battery::terms::AllTerms;
use crate::battery::{Account, Accounts};
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::error::Error;
use crate::group_commit::{Session, Work};
use crate::metering::counters::{CounterKey, Counts};
use crate::metering::periods::UsageTime;
use crate::metering::rolling;
use crate::metering::slots::{PeriodKind, Slot};
use crate::panics;
use crate::quantity::Quantity;

/// A limit that holds for an org.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Entitled)]
pub struct EntitledQuota {
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
    /// When the next period begins. Of a rolling window: when the oldest usage in it leaves it; null: there
    /// is none in it, or each subject has its own. Null where there is no period (`always`): it never resets.
    pub resets_at: Option<DateTime<Utc>>,
}

/// What an org's battery holds.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct EntitledBattery {
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

impl EntitledBattery {
    fn new(terms: &AllTerms, org: &OrgContext, batteries: &Accounts) -> Self {
        let none = Account::empty(org.org_id);
        let account = batteries.get(org.org_id).unwrap_or(&none);
        Self {
            balance: Quantity(account.balance()),
            reserved: Quantity(account.reserved()),
            available: Quantity(account.available()),
            debt_limit: terms.debt_limit(org).map(Quantity),
            daily_allowance: Quantity(terms.daily(org)),
        }
    }

    /// Reads what one org's battery holds, for a caller without a rulebook.
    pub fn read(conn: &mut PgConnection, org: &OrgContext, now: DateTime<Utc>) -> Result<Self, Error> {
        let terms = AllTerms::load_for(conn, org)?;
        let batteries = check::read_batteries(conn, &terms, &BTreeMap::from([(org.org_id, org)]), now)?;
        Ok(Self::new(&terms, org, &batteries))
    }
}

impl From<EntitledBattery> for BalanceFigures {
    fn from(battery: EntitledBattery) -> Self {
        Self {
            balance: battery.balance.0,
            reserved: battery.reserved.0,
            available: battery.available.0,
            debt_limit: battery.debt_limit.map(|limit| limit.0),
            daily: battery.daily_allowance.0,
        }
    }
}

/// What an org is entitled to. What the API answers is made of it (`plans/entitlements.rs`).
#[derive(Clone, Debug)]
pub struct OrgEntitlements {
    pub org: Arc<OrgContext>,
    pub plan: Option<Arc<NamedVersion>>,
    /// Every limit, in the order of meters and slots.
    pub quotas: Vec<EntitledQuota>,
    pub battery: EntitledBattery,
}

pub(super) struct EntitlementWork(pub(super) Arc<QuotaContext>);

impl Work for EntitlementWork {
    type Input = OrgRef;
    type Output = Result<OrgEntitlements, Error>;

    fn run(&mut self, session: &mut Session, refs: &mut [OrgRef]) -> Result<Vec<Self::Output>, Error> {
        let (conn, refs) = (session.connection()?, &*refs);
        refs.iter().for_each(|org| panics::panic_if_test_asks("quota-overviews", || format!("{org:?}")));
        let orgs = Orgs::find(conn, &self.0.directory, refs.iter())?;
        let now = self.0.clock.now();
        let found: BTreeMap<i64, &OrgContext> =
            refs.iter().filter_map(|org| orgs.get(org)).map(|org| (org.org_id, &**org)).collect();
        self.0.rules.while_unchanged(conn, |conn, rules| {
            let keys: BTreeSet<CounterKey> =
                found.values().flat_map(|org| counters(rules, org, now)).collect();
            let batteries = check::read_batteries(conn, &rules.limits.battery, &found, now)?;
            let (version, counts) = check::read_counters(conn, rules, &keys, &orgs, now)?;
            let entitlements = |org: &OrgRef| {
                let org = orgs.get(org).ok_or_else(|| Error::UnknownOrg("id".into()))?;
                let quotas = limited_slots(rules, org)
                    .filter_map(|(meter, slot)| EntitledQuota::new(rules, org, (meter, slot), &counts, now));
                Ok(OrgEntitlements {
                    org: Arc::clone(org),
                    plan: rules.limits.plan(org).cloned(),
                    quotas: quotas.collect(),
                    battery: EntitledBattery::new(&rules.limits.battery, org, &batteries),
                })
            };
            Ok((version == rules.version()).then(|| refs.iter().map(entitlements).collect()))
        })
    }
}

/// The slots that count for an org and have a limit for it, by the key of their meter.
fn limited_slots<'a>(
    rules: &'a Rulebook,
    org: &'a OrgContext,
) -> impl Iterator<Item = (&'a str, &'a Arc<Slot>)> {
    let meters = rules.catalog.meters.values().filter(|meter| meter.archived_at.is_none());
    let meters: BTreeMap<&str, i32> = meters.map(|meter| (meter.key.as_str(), meter.meter_id)).collect();
    meters.into_iter().flat_map(move |(meter, id)| {
        let slots = rules.catalog.slots.get(&id).map(Vec::as_slice).unwrap_or_default();
        let counts = |slot: &&Arc<Slot>| slot.orgs.as_ref().is_none_or(|orgs| orgs.contains(&org.org_id));
        slots
            .iter()
            .filter(counts)
            .filter(|slot| rules.limits.limit(org, slot.slot_id).is_some())
            .map(move |slot| (meter, slot))
    })
}

/// The counters of an org's limits; those of subjects are left out.
fn counters(rules: &Rulebook, org: &OrgContext, now: DateTime<Utc>) -> Vec<CounterKey> {
    let of_org = limited_slots(rules, org).filter(|(_, slot)| !slot.per_subject);
    let keys = |slot: &Slot| {
        let key = counter(slot, org, now);
        slot.period.window().map(|_| rolling::anchor(&key)).into_iter().chain([key])
    };
    of_org.flat_map(|(_, slot)| keys(slot)).collect()
}

fn counter(slot: &Slot, org: &OrgContext, now: DateTime<Utc>) -> CounterKey {
    CounterKey::new(slot, org.org_id, None, UsageTime::of(org, now))
}

impl EntitledQuota {
    fn new(
        rules: &Rulebook,
        org: &OrgContext,
        (meter, slot): (&str, &Slot),
        counts: &Counts,
        now: DateTime<Utc>,
    ) -> Option<Self> {
        let limit = rules.limits.limit(org, slot.slot_id)?;
        let key = counter(slot, org, now);
        let counted = rolling::counted(counts, slot.period.window(), &key);
        let count = (!slot.per_subject).then_some(counted.count);
        let remaining = limit.terms.limit.zip(count).map(|(limit, count)| Quantity(count.remaining(limit.0)));
        Some(Self {
            quota: limit.source.quota().cloned(),
            meter: meter.to_owned(),
            filter: slot.filter.clone(),
            per_subject: slot.per_subject,
            period: slot.period,
            enforcement: limit.terms.enforcement,
            limit: limit.terms.limit,
            used: count.map(|count| Quantity(count.used.shown())),
            reserved: count.map(|count| Quantity(count.reserved.shown())),
            remaining,
            resets_at: resets_at(slot, org, &key, counted),
        })
    }
}
