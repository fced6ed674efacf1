//! The book of a batch: counters and reservations that are locked, as they become while requests are decided
//! one after the other. In memory; what has changed is written at the end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;
use serde_json::json;

use super::limit_status::{self, Ask, Battery};
use super::limits::Limits;
use super::orgs::Orgs;
use super::quantity::Sum;
use super::reservation_batch::Done;
use super::reservations::{self, Name, Over, ReservationRow, State};
use super::settle::{KeyClaim, Usage};
use crate::battery::{Accounts, Note};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::counters::{self, Count, CounterKey, Moved};
use crate::metering::meters::Aggregation;
use crate::metering::posting;

/// Counters and reservations of a batch, locked, as they become while its requests are decided.
pub(super) struct LockedState<'a> {
    catalog: &'a Catalog,
    limits: &'a Limits,
    now: DateTime<Utc>,
    /// Names the usage that is recorded with it.
    pub(super) batch: i64,
    counts: BTreeMap<CounterKey, Count>,
    /// What is to be added to the counters.
    changes: BTreeMap<CounterKey, Count>,
    rows: BTreeMap<Name, ReservationRow>,
    /// Batteries, locked; written by whoever opened the book.
    pub(super) accounts: Accounts,
    /// Reservations that were not there before.
    fresh: BTreeSet<Name>,
    /// Reservations that were, and have changed.
    touched: BTreeSet<Name>,
}

impl<'a> LockedState<'a> {
    /// Opens the book and ends what is overdue, before anything is decided. `None`: a reservation made since
    /// the caller looked is held by counters or a battery that it has not locked.
    pub(super) fn open(
        catalog: &'a Catalog,
        limits: &'a Limits,
        now: DateTime<Utc>,
        counts: BTreeMap<CounterKey, Count>,
        rows: BTreeMap<Name, ReservationRow>,
        accounts: Accounts,
    ) -> Option<Self> {
        let locked = |row: &ReservationRow| {
            row.held.iter().all(|key| counts.contains_key(key))
                && (row.battery_units.is_zero() || accounts.get(row.org_id).is_some())
        };
        if !rows.values().all(locked) {
            return None;
        }
        let (changes, fresh, touched) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let batch = posting::batch(now);
        let mut book = Self { catalog, limits, now, batch, counts, changes, rows, accounts, fresh, touched };
        let overdue = book.rows.values().filter(|row| row.is_overdue(now)).map(ReservationRow::name);
        for name in overdue.collect::<Vec<_>>() {
            book.end(&name, State::Expired, None);
        }
        Some(book)
    }

    /// How many reservations ended.
    pub(super) fn ended(&self) -> usize {
        self.touched.len()
    }

    pub(super) fn count(&self, key: &CounterKey) -> Count {
        self.counts.get(key).copied().unwrap_or_default()
    }

    pub(super) fn add(&mut self, key: &CounterKey, used: Decimal, reserved: Decimal) {
        for counts in [&mut self.counts, &mut self.changes] {
            let count = counts.entry(key.clone()).or_default();
            count.used += used;
            count.reserved += reserved;
        }
    }

    /// Ends an open reservation: its amount leaves its counters.
    fn end(&mut self, name: &Name, state: State, settled: Option<Decimal>) {
        let Some(row) = self.rows.get_mut(name) else { return };
        let (held, amount, battery_units) = (std::mem::take(&mut row.held), row.amount, row.battery_units);
        let was_open = row.state == State::Open;
        (row.state, row.ended_at, row.settled) = (state, Some(self.now), settled);
        if was_open {
            for key in &held {
                self.add(key, Decimal::ZERO, -amount);
            }
            if let Some(account) = self.accounts.get_mut(name.0) {
                account.release(battery_units);
            }
        }
        if let Some(row) = self.rows.get_mut(name) {
            row.held = held;
        }
        self.touched.insert(name.clone());
    }

    pub(super) fn reserve(
        &mut self,
        org: &OrgContext,
        ask: &Ask,
        member: Option<&String>,
        id: &str,
        expires_at: DateTime<Utc>,
    ) -> Result<Done, Error> {
        let meter = limit_status::meter(self.catalog, &ask.meter).ok_or_else(|| no_such_meter(&ask.meter))?;
        if meter.aggregation == Aggregation::Count && !ask.amount.is_integer() {
            return Err(Error::invalid(
                "amount",
                "must be a whole number, for the meter counts usage events",
            ));
        }
        let units = limit_status::battery_units(self.catalog, org, meter.meter_id, ask, self.now)?;
        let debt_limit = self.limits.battery.debt_limit(org);
        let at = (ask.dimensions.as_slice(), ask.subject.as_deref());
        let applying = limit_status::applying(self.catalog, self.limits, org, meter.meter_id, at, self.now);
        let name = (org.org_id, id.to_owned());
        if let Some(row) = self.rows.get(&name) {
            let same = (row.meter_id, row.amount, &row.dimensions, &row.subject, row.member.as_ref())
                == (meter.meter_id, ask.amount, &ask.dimensions, &ask.subject, member);
            if !same {
                return Err(Error::conflict(
                    "reservation_id_reused",
                    "this id was used for another reservation: use a fresh one",
                ));
            }
        } else {
            if let Some(over) = applying.iter().find(|at| !at.fits(self.count(&at.key), ask.amount)) {
                let standing = over.standing(meter, org, self.count(&over.key));
                return standing.map(|standing| Done::Exceeded(Box::new(standing))).ok_or_else(no_standing);
            }
            if let Some(battery) = self.exhausted(org, units) {
                return Ok(Done::Exhausted(Box::new(battery)));
            }
            let row = ReservationRow {
                org_id: org.org_id,
                id: id.to_owned(),
                meter_id: meter.meter_id,
                meter: meter.key.clone(),
                amount: ask.amount,
                dimensions: ask.dimensions.clone(),
                subject: ask.subject.clone(),
                member: member.cloned(),
                held: applying.iter().map(|at| at.key.clone()).collect(),
                state: State::Open,
                made_at: self.now,
                expires_at,
                ended_at: None,
                settled: None,
                battery_units: units,
                over: None,
            };
            if let Some(account) = self.accounts.get_mut(org.org_id) {
                account.reserve(units);
            }
            for at in &applying {
                self.add(&at.key, Decimal::ZERO, ask.amount);
            }
            self.rows.insert(name.clone(), row);
            self.fresh.insert(name.clone());
        }
        let standings = applying.iter().filter_map(|at| at.standing(meter, org, self.count(&at.key)));
        let row = self.rows.get(&name).ok_or(Error::NotFound("reservation"))?;
        let battery = self.accounts.get(org.org_id).filter(|_| !units.is_zero());
        let battery = battery.map(|account| Battery::of(account, debt_limit, units));
        Ok(Done::Reservation(Box::new(row.shown(&org.public_id, standings.collect(), battery))))
    }

    /// How the battery stands, if `units` more do not fit.
    fn exhausted(&self, org: &OrgContext, units: Decimal) -> Option<Battery> {
        let account = self.accounts.get(org.org_id).filter(|_| units > Decimal::ZERO)?;
        let debt_limit = self.limits.battery.debt_limit(org);
        (!account.fits(units, debt_limit)).then(|| Battery::of(account, debt_limit, units))
    }

    pub(super) fn release(&mut self, name: &Name, orgs: &Orgs) -> Result<Done, Error> {
        if self.rows.get(name).ok_or(Error::NotFound("reservation"))?.state == State::Open {
            self.end(name, State::Released, None);
        }
        self.shown(name, orgs)
    }

    /// Settles, and says whether the claimed usage is to be stored.
    pub(super) fn settle(
        &mut self,
        name: &Name,
        orgs: &Orgs,
        usage: &Usage<'_>,
        claim: &KeyClaim,
    ) -> Result<(Done, bool), Error> {
        let row = self.rows.get(name).ok_or(Error::NotFound("reservation"))?;
        let settled_otherwise = || {
            Error::conflict(
                "already_settled",
                "this reservation was settled with other usage, which stays as it is",
            )
        };
        match claim {
            KeyClaim::Rejected(why) => Err(Error::invalid(why.field.clone(), why.detail.clone())),
            KeyClaim::Conflict if row.state == State::Settled => Err(settled_otherwise()),
            KeyClaim::Conflict => Err(Error::conflict(
                "usage_event_conflict",
                "another usage event is recorded under this source and id: the reservation stays",
            )),
            KeyClaim::Duplicate { quantity } => {
                if row.state == State::Settled && row.settled != Some(*quantity) {
                    return Err(settled_otherwise());
                }
                if row.state != State::Settled {
                    // The usage is counted already.
                    self.end(name, State::Settled, Some(*quantity));
                    if let Some(row) = self.rows.get_mut(name) {
                        row.over = Some(Over::default());
                    }
                }
                Ok((self.shown(name, orgs)?, false))
            }
            KeyClaim::New { .. } if row.state == State::Settled => Err(settled_otherwise()),
            KeyClaim::New { quantity, counters, units } => {
                let over = Over {
                    overage: self.overage(usage, counters),
                    debt: self.debt(name.0, units.rounded_up().unwrap_or(Decimal::MAX)),
                };
                self.end(name, State::Settled, Some(*quantity));
                if let Some(account) = self.accounts.get_mut(name.0) {
                    let link = Some(json!({ "object": "reservation", "id": name.1 }));
                    let note = Note { batch: Some(self.batch), link, ..Note::new("reservation") };
                    account.burn_usage(*units, note, self.now);
                }
                for (key, added) in counters {
                    self.add(key, *added, Decimal::ZERO);
                }
                if let Some(row) = self.rows.get_mut(name) {
                    row.over = Some(over);
                }
                Ok((self.shown(name, orgs)?, true))
            }
        }
    }

    /// Of usage that is about to be counted, how much goes over the limit that it exceeds the most. What was
    /// used is counted whatever the limits say: to refuse it would make it free, as nobody can use it back.
    /// Limits decide on what is admitted beforehand.
    fn overage(&self, usage: &Usage<'_>, counters: &[(CounterKey, Decimal)]) -> Decimal {
        let over = counters.iter().filter_map(|(key, added)| {
            let limit = self.limits.of(&usage.org, key.slot_id)?.terms.limit?;
            let subject = Some(key.subject.as_str()).filter(|subject| !subject.is_empty()).or(usage.subject);
            let exempt = self.limits.is_exempt(key.org_id, key.slot_id, subject);
            let beyond = (self.count(key).used + *added - limit.0).max(Sum::ZERO).min(Sum::from(*added));
            (!exempt).then(|| beyond.shown())
        });
        over.max().unwrap_or_default().max(Decimal::ZERO)
    }

    /// Of units that are about to be burned, how many the battery does not hold.
    fn debt(&self, org_id: i64, units: Decimal) -> Decimal {
        let held = self.accounts.get(org_id).map_or(units, |account| account.balance().max(Decimal::ZERO));
        (units - held).max(Decimal::ZERO)
    }

    /// A settlement whose meter no longer counts.
    pub(super) fn unrecordable(&self, name: &Name, orgs: &Orgs) -> Result<Done, Error> {
        let row = self.rows.get(name).ok_or(Error::NotFound("reservation"))?;
        if row.state == State::Settled {
            return self.shown(name, orgs);
        }
        Err(no_such_meter(&row.meter))
    }

    fn shown(&self, name: &Name, orgs: &Orgs) -> Result<Done, Error> {
        let row = self.rows.get(name).ok_or(Error::NotFound("reservation"))?;
        let org = orgs.by_id(row.org_id).ok_or(Error::NotFound("org"))?;
        Ok(Done::Reservation(Box::new(row.shown(&org.public_id, Vec::new(), None))))
    }

    /// Writes what has changed; tells the counters that usage was added to. `None`: another transaction has
    /// made one of the reservations meanwhile, roll back.
    pub(super) fn write(&self, conn: &mut PgConnection) -> Result<Option<Vec<Moved>>, Error> {
        let zero = Count::default();
        let changes: BTreeMap<_, _> =
            self.changes.iter().filter(|(_, by)| **by != zero).map(|(key, by)| (key.clone(), *by)).collect();
        counters::change(conn, &changes)?;
        let fresh: Vec<&ReservationRow> = self.fresh.iter().filter_map(|name| self.rows.get(name)).collect();
        if !reservations::insert(conn, &fresh)? {
            return Ok(None);
        }
        let touched: Vec<&ReservationRow> =
            self.touched.iter().filter_map(|name| self.rows.get(name)).collect();
        reservations::update(conn, &touched)?;
        let moved = changes.into_iter().filter(|(_, by)| !by.used.is_zero());
        let moved = moved.map(|(key, by)| Moved { added: by.used, used: self.count(&key).used, key });
        Ok(Some(moved.collect()))
    }
}

fn no_such_meter(key: &str) -> Error {
    Error::invalid(
        "meter",
        format!("`{key}` is no meter of kind sum, count or level that counts: /v1/meters lists them"),
    )
}

fn no_standing() -> Error {
    Error::Internal("a limit refused that is not there".to_owned())
}
