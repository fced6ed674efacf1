//! Admission of reported usage where a quota refuses what is over its limit.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;

use super::book::Book;
use super::counters::{self, CounterKey};
use super::limits::{Limit, Limits};
use super::reservations::{self, Row};
use super::standing::{Applying, Standing};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::usage::catalog::Catalog;

/// A usage event that asks to be counted.
#[derive(Clone, Debug)]
pub struct Demand<'a> {
    /// Its org.
    pub org: &'a OrgContext,
    /// Its subject.
    pub subject: Option<&'a str>,
    /// What it adds to counters, on whatever meter.
    pub counters: &'a [(CounterKey, Decimal)],
}

/// Why a usage event is refused: the limit that it does not fit under.
#[derive(Clone, Debug)]
pub struct Refusal(pub Box<Standing>);

/// Decides, in order, which usage events are admitted: an event is refused when it would bring a counter of a quota with
/// `refuse_usage` over its limit, reservations included. Exempt subjects and corrections downwards are always admitted. What is
/// refused adds nothing.
///
/// Runs inside the transaction that then adds the admitted usage with [`counters::add`], after it claimed its keys. All counters of
/// all `demands` are locked here, so give it every new event of the batch, also those of orgs that no quota refuses: then
/// [`counters::add`] waits for nobody, and two batches cannot wait for each other. Reservations past their deadline are ended.
/// `catalog` and `limits` are of the version that the transaction holds.
///
/// # Errors
/// When the database fails.
pub fn admit(
    conn: &mut PgConnection,
    catalog: &Catalog,
    limits: &Limits,
    demands: &[Demand<'_>],
    now: DateTime<Utc>,
) -> Result<Vec<Option<Refusal>>, Error> {
    let refusing = demands.iter().map(|demand| demand.org).filter(|org| limits.may_refuse(org));
    let org_ids: BTreeSet<i64> = refusing.map(|org| org.org_id).collect();
    let overdue = reservations::overdue(conn, &org_ids, now)?;
    let mut keys: BTreeSet<CounterKey> = overdue.iter().flat_map(|row| row.held.iter().cloned()).collect();
    keys.extend(demands.iter().flat_map(|demand| demand.counters.iter().map(|(key, _)| key.clone())));
    let counts = counters::lock(conn, &keys)?;
    let rows = reservations::lock(conn, &overdue.iter().map(Row::name).collect())?;
    let raced = || Error::Internal("a reservation changed its counters".to_owned());
    let mut book = Book::open(catalog, limits, now, counts, rows).ok_or_else(raced)?;
    book.write(conn)?;
    let mut verdicts = Vec::with_capacity(demands.len());
    for demand in demands {
        let over = demand
            .counters
            .iter()
            .find_map(|(key, added)| refusal(&book, limits, catalog, demand, key, *added));
        if over.is_none() {
            for (key, added) in demand.counters {
                book.add(key, *added, Decimal::ZERO);
            }
        }
        verdicts.push(over);
    }
    Ok(verdicts)
}

/// Why `added` is refused at this counter; `None`: it is not.
fn refusal(
    book: &Book<'_>,
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
    let at = Applying { key: key.clone(), slot: Arc::clone(slot), limit: Some(limit), exempt };
    let count = book.count(key);
    if at.fits(count, added) {
        return None;
    }
    let meter = catalog.meters.get(&slot.meter_id)?;
    at.standing(meter, demand.org, count).map(|standing| Refusal(Box::new(standing)))
}
