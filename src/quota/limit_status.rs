//! How an org stands under the limits that hold for it, and to its battery.

use std::borrow::Cow;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::limits::{Enforcement, Limit};
use super::rulebook::Rulebook;
use crate::battery::Account;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::counters::{CounterKey, Counts, KeyRange, slots_for};
use crate::metering::meters::{Meter, Unpriced};
use crate::metering::periods::UsageTime;
use crate::metering::rating;
use crate::metering::rolling::{self, Counted};
use crate::metering::slots::{PeriodKind, Slot};
use crate::quantity::{Quantity, Sum};

/// What somebody would like to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestedUsage {
    /// Key of the meter.
    pub meter: String,
    pub amount: Decimal,
    /// Dimensions of the usage, sorted by name.
    pub dimensions: Vec<(String, String)>,
    /// Whom quotas per subject count it to.
    pub subject: Option<String>,
}

/// How an org stands under one limit.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Standing)]
pub struct LimitStatus {
    /// The org's own quota; null: the limit is its plan's.
    pub quota: Option<String>,
    /// The plan whose limit it is; null: the org's own quota.
    pub plan: Option<String>,
    /// The meter.
    pub meter: String,
    /// Dimension to value: only usage that has them all counts.
    pub filter: BTreeMap<String, String>,
    /// The subject counted, where the limit is one per subject.
    pub subject: Option<String>,
    /// How long the counter runs.
    pub period: PeriodKind,
    /// What the limit does.
    pub enforcement: Enforcement,
    /// The limit; null: none.
    pub limit: Option<Quantity>,
    /// Used in this period.
    pub used: Quantity,
    /// Set aside by open reservations.
    pub reserved: Quantity,
    /// What is left, 0 when nothing is; null: no limit.
    pub remaining: Option<Quantity>,
    /// The limit does not hold this subject.
    pub exempt: bool,
    /// When the next period begins. Of a rolling window: when the oldest usage in it leaves it; null: there
    /// is none in it. Null where there is no period (`always`): it never resets.
    pub resets_at: Option<DateTime<Utc>>,
}

/// How an org's battery stands to what is asked for.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Battery)]
pub struct BatteryStatus {
    /// Units that are asked for.
    pub units: Quantity,
    /// The sum of its ledger; below zero it is debt.
    pub balance: Quantity,
    /// Set aside by open reservations.
    pub reserved: Quantity,
    /// What may be used: the balance less what is set aside.
    pub available: Quantity,
    /// How far below zero it may be used; null: without limit.
    pub debt_limit: Option<Quantity>,
}

impl BatteryStatus {
    pub(super) fn new(account: &Account, debt_limit: Option<Decimal>, units: Decimal) -> Self {
        Self {
            units: Quantity(units),
            balance: Quantity(account.balance()),
            reserved: Quantity(account.reserved()),
            available: Quantity(account.available()),
            debt_limit: debt_limit.map(Quantity),
        }
    }
}

impl std::fmt::Display for BatteryStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let limit =
            self.debt_limit.map_or_else(|| "none".to_owned(), |limit| limit.0.normalize().to_string());
        let (units, available) = (self.units.0.normalize(), self.available.0.normalize());
        let reserved = self.reserved.0.normalize();
        write!(
            f,
            "the battery does not hold enough: needed {units}, available {available}, reserved {reserved}, \
                debt limit {limit}"
        )
    }
}

/// A counter that usage would go to, with the limit on it.
pub(super) struct ApplicableLimit<'a> {
    pub key: CounterKey,
    pub slot: Arc<Slot>,
    pub limit: Option<&'a Limit>,
    pub exempt: bool,
}

impl ApplicableLimit<'_> {
    /// The counters that must be locked or read to decide on this limit, in their order. Of a rolling window
    /// also its neighbours, which [`reach`] gives.
    pub(super) fn keys(&self) -> impl Iterator<Item = CounterKey> {
        let anchor = self.slot.period.window().map(|_| rolling::anchor(&self.key));
        anchor.into_iter().chain([self.key.clone()])
    }

    /// The counter where a reservation sets its amount aside.
    pub(super) fn reserving_key(&self) -> CounterKey {
        self.keys().next().unwrap_or_else(|| self.key.clone())
    }

    fn counted(&self, counts: &Counts) -> Counted {
        rolling::counted(counts, self.slot.period.window(), &self.key)
    }

    /// The quantity that this usage must not exceed.
    fn hard_limit(&self) -> Option<Decimal> {
        self.limit.filter(|_| !self.exempt).and_then(Limit::hard_limit)
    }

    /// Whether `more` beside what is counted fits.
    pub(super) fn fits(&self, counts: &Counts, more: Decimal) -> bool {
        let count = self.counted(counts).count;
        self.hard_limit().is_none_or(|limit| count.used + count.reserved + more <= Sum::from(limit))
    }

    /// `None` where neither the org nor its plan has a quota on this slot.
    pub(super) fn status(&self, meter: &Meter, org: &OrgContext, counts: &Counts) -> Option<LimitStatus> {
        let limit = self.limit?;
        let counted = self.counted(counts);
        let count = counted.count;
        let quantity = limit.terms.limit.map(|limit| limit.0);
        let remaining = quantity.map(|limit| Quantity(count.remaining(limit)));
        Some(LimitStatus {
            quota: limit.source.quota().cloned(),
            plan: limit.source.plan().cloned(),
            meter: meter.key.clone(),
            filter: self.slot.filter.clone(),
            subject: self.slot.per_subject.then(|| self.key.subject.clone()),
            period: self.slot.period,
            enforcement: limit.terms.enforcement,
            limit: limit.terms.limit,
            used: Quantity(count.used.shown()),
            reserved: Quantity(count.reserved.shown()),
            remaining,
            exempt: self.exempt,
            resets_at: resets_at(&self.slot, org, &self.key, counted),
        })
    }
}

/// When room comes back at a counter.
pub(super) fn resets_at(
    slot: &Slot,
    org: &OrgContext,
    key: &CounterKey,
    counted: Counted,
) -> Option<DateTime<Utc>> {
    match slot.period {
        PeriodKind::Rolling(_) => counted.leaves_at,
        kind => key.period.bounds(kind, org).1,
    }
}

/// The counters that are in one window with one of `keys`.
pub(super) fn reach(catalog: &Catalog, keys: &BTreeSet<CounterKey>) -> Vec<KeyRange> {
    let mut ranges: BTreeMap<CounterKey, KeyRange> = BTreeMap::new();
    for key in keys {
        let window = catalog.windows.get(&key.slot_id);
        let Some((first, last)) = window.and_then(|window| rolling::neighbours(*window, key)) else {
            continue;
        };
        // Keys are in the order of time: the first range begins first.
        match ranges.entry(rolling::anchor(key)) {
            Entry::Vacant(place) => drop(place.insert((first, last))),
            Entry::Occupied(mut range) => range.get_mut().1 = last,
        }
    }
    ranges.into_values().collect()
}

/// The meter of that key, if it counts and its kind can be limited.
pub(super) fn limited_meter<'a>(catalog: &'a Catalog, key: &str) -> Option<&'a Arc<Meter>> {
    catalog
        .meters
        .values()
        .find(|meter| meter.key == key && meter.archived_at.is_none() && meter.aggregation.is_limited())
}

/// The answer where [`limited_meter`] finds none; `field` names the key.
pub(super) fn no_such_meter(field: impl Into<Cow<'static, str>>, key: &str) -> Error {
    let rule = format!("`{key}` is no meter of kind sum, count or level that counts: /v1/meters lists them");
    Error::invalid(field, rule)
}

/// The battery units that this usage burns at `now`, rounded up to the places that the ledger has.
pub(super) fn battery_units(
    catalog: &Catalog,
    org: &OrgContext,
    meter_id: i32,
    usage: &RequestedUsage,
    now: DateTime<Utc>,
) -> Result<Decimal, Error> {
    let Some((card, rate)) = catalog.price(meter_id, org, &usage.dimensions, now) else {
        return Ok(Decimal::ZERO);
    };
    let rate = rate.map(|rate| &card.rates[rate]);
    // A level has its price over a time, not when it is reported.
    let refuses = |meter: &Arc<Meter>| meter.aggregation.is_additive() && meter.unpriced == Unpriced::Refuse;
    let refuses = catalog.meters.get(&meter_id).is_some_and(refuses);
    if rate.is_none() && refuses && !card.rates.is_empty() {
        let rule =
            "fit no rate of this meter, which refuses usage without a price: give it one, or correct them";
        return Err(Error::invalid("dimensions", rule));
    }
    let units = rate.map_or(Some(Sum::ZERO), |rate| rating::battery_units(rate, usage.amount));
    let units = units.and_then(Sum::rounded_up);
    units.ok_or_else(|| Error::invalid("amount", "burns more battery units than there can be"))
}

/// Every counter that this usage would be added to at `now`, limited or not.
pub(super) fn applicable_limits<'a>(
    rules: &'a Rulebook,
    org: &OrgContext,
    meter_id: i32,
    usage: &RequestedUsage,
    now: DateTime<Utc>,
) -> Vec<ApplicableLimit<'a>> {
    let subject = usage.subject.as_deref();
    let time = UsageTime::of(org, now);
    slots_for(&rules.catalog, org.org_id, meter_id, &usage.dimensions)
        .map(|slot| ApplicableLimit {
            key: CounterKey::new(slot, org.org_id, subject, time),
            slot: Arc::clone(slot),
            limit: rules.limits.limit(org, slot.slot_id),
            exempt: rules.limits.is_exempt(org.org_id, slot.slot_id, subject),
        })
        .collect()
}
