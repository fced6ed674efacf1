//! Enforcement at ingest: reported usage that does not fit under a quota with `refuse_usage`, or in the
//! battery, is refused before it is stored.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;

use super::limit_status::{ApplicableLimit, BatteryStatus, LimitStatus};
use super::reservations::{self, ReservationRow};
use super::rulebook::Rulebook;
use super::session::{LockedState, UsageClaimed};
use crate::battery::Accounts;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::counters::CounterKey;

/// A usage event that asks to be counted.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    pub org: &'a OrgContext,
    pub subject: Option<&'a str>,
    /// What it adds to counters, on whatever meter.
    pub counters: &'a [(CounterKey, Decimal)],
    /// Battery units that it burns.
    pub units: Decimal,
}

/// The demands admitted so far, where what a demand adds depends on those before it (as of levels).
pub trait AdmittedSoFar {
    /// What a demand adds to counters now, in place of [`Demand::counters`]; `None`: what it says there.
    fn counters(&self, demand: usize) -> Option<Vec<(CounterKey, Decimal)>>;

    fn admit(&mut self, demand: usize);
}

/// Demands that do not depend on each other.
impl AdmittedSoFar for () {
    fn counters(&self, _: usize) -> Option<Vec<(CounterKey, Decimal)>> {
        None
    }

    fn admit(&mut self, _: usize) {}
}

/// Why a usage event is refused.
#[derive(Clone, Debug)]
pub enum Refusal {
    /// The limit that it does not fit under.
    Quota(Box<LimitStatus>),
    /// The battery does not hold enough.
    Battery(Box<BatteryStatus>),
}

/// Decides on usage events, one after the other: an event is refused when it would bring a counter of a quota
/// with `refuse_usage` over its limit, or the battery under its debt limit, reservations included. Exempt
/// subjects and corrections downwards are always admitted. A refused event adds nothing.
///
/// Runs inside the transaction that claimed the keys of these events and then stores those admitted, by the
/// rulebook that is in force there. It locks the counters and batteries of all `demands`, so give it every
/// new event of the batch, also of orgs that no quota refuses: then the caller adds to counters without a
/// wait, and two batches cannot wait for each other. The caller burns from the batteries that it returns.
/// Overdue reservations are ended.
pub fn enforce(
    conn: &mut PgConnection,
    rules: &Rulebook,
    demands: &[Demand<'_>],
    admitted: &mut impl AdmittedSoFar,
    now: DateTime<Utc>,
) -> Result<(Vec<Option<Refusal>>, Accounts), Error> {
    let mut state = lock(conn, rules, demands, now)?;
    state.write_overdue(conn)?;
    let mut refusals = Vec::with_capacity(demands.len());
    for (n, demand) in demands.iter().enumerate() {
        let counters = admitted.counters(n);
        let counters = counters.as_deref().unwrap_or(demand.counters);
        let refusal = counters
            .iter()
            .find_map(|(key, added)| refused_by_quota(&state, rules, demand, key, *added))
            .map(|status| Refusal::Quota(Box::new(status)))
            .or_else(|| Some(Refusal::Battery(Box::new(state.exhausted(demand.org, demand.units)?))));
        if refusal.is_none() {
            for (key, added) in counters {
                state.add_used(key, *added);
            }
            state.pend_units(demand.org, demand.units);
            admitted.admit(n);
        }
        refusals.push(refusal);
    }
    Ok((refusals, state.into_accounts()))
}

/// Locks what the demands would change, and the overdue reservations of orgs that may be refused.
fn lock<'a>(
    conn: &mut PgConnection,
    rules: &'a Rulebook,
    demands: &[Demand<'_>],
    now: DateTime<Utc>,
) -> Result<LockedState<'a>, Error> {
    let limits = &rules.limits;
    let may_refuse = |org: &&OrgContext| limits.may_refuse(org) || limits.battery_may_refuse(org);
    let refusing = demands.iter().map(|demand| demand.org).filter(may_refuse);
    let overdue = reservations::overdue(conn, &refusing.map(|org| org.org_id).collect(), now)?;
    let mut keys: BTreeSet<CounterKey> =
        overdue.iter().flat_map(|row| row.counters.iter().cloned()).collect();
    keys.extend(demands.iter().flat_map(|demand| demand.counters.iter().map(|(key, _)| key.clone())));
    let burning = demands.iter().filter(|demand| !demand.units.is_zero());
    UsageClaimed::by_caller()
        .lock_counters(conn, rules, &keys)?
        .lock_reservations(conn, &overdue.iter().map(ReservationRow::name).collect())?
        .lock_batteries(conn, rules, burning.map(|demand| demand.org), now)?
        .ok_or_else(|| Error::Internal("a reservation changed its counters".to_owned()))
}

/// The limit at this counter that refuses `added` more.
fn refused_by_quota(
    state: &LockedState<'_>,
    rules: &Rulebook,
    demand: &Demand<'_>,
    key: &CounterKey,
    added: Decimal,
) -> Option<LimitStatus> {
    let limit =
        rules.limits.limit(demand.org, key.slot_id).filter(|limit| limit.refusing_limit().is_some())?;
    let exempt = rules.limits.is_exempt(key.org_id, key.slot_id, demand.subject);
    if exempt || added <= Decimal::ZERO {
        return None;
    }
    let (meter, slot) = rules.slot(key.slot_id)?;
    let limit = ApplicableLimit { key: key.clone(), slot: Arc::clone(slot), limit: Some(limit), exempt };
    let counts = state.counts();
    if limit.fits(counts, added) { None } else { limit.status(meter, demand.org, counts) }
}
