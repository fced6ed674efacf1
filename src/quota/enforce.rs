//! Admission of reported usage where a quota refuses what is over its limit.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;

use super::limit_status::{ApplicableLimit, Battery, LimitStatus};
use super::limits::{Limit, Limits};
use super::locked_state::LockedState;
use super::reservations::{self, ReservationRow};
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::counters::{self, CounterKey};

/// A usage event that asks to be counted.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    pub org: &'a OrgContext,
    pub subject: Option<&'a str>,
    /// What it adds to counters, on whatever meter.
    pub counters: &'a [(CounterKey, Decimal)],
    /// What it burns of the battery.
    pub units: Decimal,
}

/// What demands hang on that are made in a row: each on those before it that were admitted.
pub trait Course {
    /// What a demand adds to counters as things stand, in place of [`Demand::counters`]; `None`: what it says
    /// there.
    fn counters(&self, demand: usize) -> Option<Vec<(CounterKey, Decimal)>>;

    /// It is admitted.
    fn admitted(&mut self, demand: usize);
}

/// Demands that stand alone.
impl Course for () {
    fn counters(&self, _: usize) -> Option<Vec<(CounterKey, Decimal)>> {
        None
    }

    fn admitted(&mut self, _: usize) {}
}

/// Why a usage event is refused.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The limit that it does not fit under.
    Quota(Box<LimitStatus>),
    /// The battery does not hold enough.
    Battery(Box<Battery>),
}

/// Decides, in order, which usage events are admitted: an event is refused when it would bring a counter of a
/// quota with `refuse_usage` over its limit, or the battery under its debt limit, reservations included.
/// Exempt subjects and corrections downwards are always admitted. What is refused adds nothing.
///
/// Runs inside the transaction that then adds the admitted usage with [`counters::add`], after it claimed its
/// keys. All counters of all `demands` are locked here, so give it every new event of the batch, also those
/// of orgs that no quota refuses: then [`counters::add`] waits for nobody, and two batches cannot wait for
/// each other. The batteries of all demands are locked too, and given back for the caller to burn what was
/// admitted. Reservations past their deadline are ended. `catalog` and `limits` are of the version that the
/// transaction holds.
pub fn admit(
    conn: &mut PgConnection,
    (catalog, limits): (&Catalog, &Limits),
    demands: &[Demand<'_>],
    course: &mut impl Course,
    now: DateTime<Utc>,
) -> Result<(Vec<Option<Refusal>>, Accounts), Error> {
    let may_refuse = |org: &&OrgContext| limits.may_refuse(org) || limits.battery_may_refuse(org);
    let refusing = demands.iter().map(|demand| demand.org).filter(may_refuse);
    let org_ids: BTreeSet<i64> = refusing.map(|org| org.org_id).collect();
    let overdue = reservations::overdue(conn, &org_ids, now)?;
    let mut keys: BTreeSet<CounterKey> = overdue.iter().flat_map(|row| row.held.iter().cloned()).collect();
    keys.extend(demands.iter().flat_map(|demand| demand.counters.iter().map(|(key, _)| key.clone())));
    let counts = counters::lock(conn, &keys)?;
    let rows = reservations::lock(conn, &overdue.iter().map(ReservationRow::name).collect())?;
    let burning = demands.iter().filter(|demand| !demand.units.is_zero());
    let holding = overdue.iter().filter(|row| !row.battery_units.is_zero()).map(|row| row.org_id);
    let org_ids: BTreeSet<i64> = burning.clone().map(|demand| demand.org.org_id).chain(holding).collect();
    let mut accounts = Accounts::lock(conn, org_ids, Depth::Live, now)?;
    accounts.grant_allowances(burning.map(|demand| demand.org), &limits.battery, now);
    let raced = || Error::Internal("a reservation changed its counters".to_owned());
    let mut book = LockedState::open(catalog, limits, now, counts, rows, accounts).ok_or_else(raced)?;
    book.write(conn)?;
    let mut verdicts = Vec::with_capacity(demands.len());
    for (n, demand) in demands.iter().enumerate() {
        let counters = course.counters(n);
        let counters = counters.as_deref().unwrap_or(demand.counters);
        let over = counters
            .iter()
            .find_map(|(key, added)| refusal(&book, limits, catalog, demand, key, *added))
            .or_else(|| exhausted(&book, limits, demand));
        if over.is_none() {
            for (key, added) in counters {
                book.add(key, *added, Decimal::ZERO);
            }
            course.admitted(n);
            if let Some(account) = book.accounts.get_mut(demand.org.org_id) {
                account.admit(demand.units);
            }
        }
        verdicts.push(over);
    }
    Ok((verdicts, book.accounts))
}

/// Why the battery refuses it; `None`: it does not.
fn exhausted(book: &LockedState<'_>, limits: &Limits, demand: &Demand<'_>) -> Option<Refusal> {
    let account = book.accounts.get(demand.org.org_id).filter(|_| demand.units > Decimal::ZERO)?;
    let debt_limit = limits.battery.debt_limit(demand.org);
    let refuses = !account.fits(demand.units, debt_limit);
    refuses.then(|| Refusal::Battery(Box::new(Battery::of(account, debt_limit, demand.units))))
}

/// Why `added` is refused at this counter; `None`: it is not.
fn refusal(
    book: &LockedState<'_>,
    limits: &Limits,
    catalog: &Catalog,
    demand: &Demand<'_>,
    key: &CounterKey,
    added: Decimal,
) -> Option<Refusal> {
    let limit = limits.of(demand.org, key.slot_id).filter(|limit| Limit::refusing(limit).is_some())?;
    let exempt = limits.is_exempt(key.org_id, key.slot_id, demand.subject);
    if exempt || added <= Decimal::ZERO {
        return None;
    }
    let slot = catalog.slots.values().flatten().find(|slot| slot.slot_id == key.slot_id)?;
    let at = ApplicableLimit { key: key.clone(), slot: Arc::clone(slot), limit: Some(limit), exempt };
    let count = book.count(key);
    if at.fits(count, added) {
        return None;
    }
    let meter = catalog.meters.get(&slot.meter_id)?;
    at.standing(meter, demand.org, count).map(|standing| Refusal::Quota(Box::new(standing)))
}
