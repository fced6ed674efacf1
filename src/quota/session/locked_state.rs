//! Counters, reservations and batteries of a transaction, all locked, as they become while requests are
//! decided in memory. What changed is written at the end.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;

use super::Written;
use crate::battery::Accounts;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::counters::{self, Count, CounterKey, Counts, MovedCounter};
use crate::metering::posting;
use crate::metering::rolling;
use crate::quota::limit_status::BatteryStatus;
use crate::quota::reservations::{self, ReservationName, ReservationRow, ReservationState};
use crate::quota::rulebook::Rulebook;

pub(in crate::quota) struct LockedState<'a> {
    pub(super) rules: &'a Rulebook,
    pub(super) now: DateTime<Utc>,
    /// Names the usage that is recorded with it.
    pub(super) batch: i64,
    counts: Counts,
    /// What is to be added to the counters.
    changes: Counts,
    pub(super) reservations: BTreeMap<ReservationName, ReservationRow>,
    pub(super) accounts: Accounts,
    /// Reservations that this transaction makes.
    new: BTreeSet<ReservationName>,
    /// Reservations from before that it ends.
    ended: BTreeSet<ReservationName>,
}

impl<'a> LockedState<'a> {
    /// Ends overdue reservations before anything is decided. `None`: a reservation has set something aside at
    /// a counter or battery that is not locked.
    pub(super) fn open(
        rules: &'a Rulebook,
        now: DateTime<Utc>,
        counts: Counts,
        reservations: BTreeMap<ReservationName, ReservationRow>,
        accounts: Accounts,
    ) -> Option<Self> {
        let is_locked = |row: &ReservationRow| {
            row.counters.iter().all(|key| counts.contains_key(key))
                && (row.battery_units.is_zero() || accounts.get(row.org_id).is_some())
        };
        if !reservations.values().all(is_locked) {
            return None;
        }
        let (changes, new, ended) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
        let batch = posting::new_batch(now);
        let mut state = Self { rules, now, batch, counts, changes, reservations, accounts, new, ended };
        let overdue = state.reservations.values().filter(|row| row.is_overdue(now));
        for name in overdue.map(ReservationRow::name).collect::<Vec<_>>() {
            state.end(&name, ReservationState::Expired, None);
        }
        Some(state)
    }

    /// How many reservations from before have ended.
    pub(in crate::quota) fn ended(&self) -> usize {
        self.ended.len()
    }

    /// Counters as they are now, with the neighbours of rolling windows.
    pub(in crate::quota) fn counts(&self) -> &Counts {
        &self.counts
    }

    /// What is counted where usage is added.
    pub(super) fn count(&self, key: &CounterKey) -> Count {
        let window = self.rules.catalog.windows.get(&key.slot_id).copied();
        rolling::counted(&self.counts, window, key).count
    }

    pub(in crate::quota) fn add_used(&mut self, key: &CounterKey, used: Decimal) {
        self.add(key, used, Decimal::ZERO);
    }

    fn add(&mut self, key: &CounterKey, used: Decimal, reserved: Decimal) {
        for counts in [&mut self.counts, &mut self.changes] {
            let count = counts.entry(key.clone()).or_default();
            count.used += used;
            count.reserved += reserved;
        }
    }

    /// Has these units leave the battery, for decisions that follow; the caller burns them.
    pub(in crate::quota) fn pend_units(&mut self, org: &OrgContext, units: Decimal) {
        if let Some(account) = self.accounts.get_mut(org.org_id) {
            account.admit(units);
        }
    }

    /// The battery's status, if `units` more do not fit.
    pub(in crate::quota) fn exhausted(&self, org: &OrgContext, units: Decimal) -> Option<BatteryStatus> {
        let account = self.accounts.get(org.org_id).filter(|_| units > Decimal::ZERO)?;
        let debt_limit = self.rules.limits.battery.debt_limit(org);
        (!account.fits(units, debt_limit)).then(|| BatteryStatus::new(account, debt_limit, units))
    }

    /// Makes a reservation: sets its amount and battery units aside.
    pub(super) fn insert(&mut self, row: ReservationRow) {
        if let Some(account) = self.accounts.get_mut(row.org_id) {
            account.reserve(row.battery_units);
        }
        for key in &row.counters {
            self.add(key, Decimal::ZERO, row.amount);
        }
        self.new.insert(row.name());
        self.reservations.insert(row.name(), row);
    }

    /// Ends a reservation. If it was open, what it set aside leaves its counters and its battery.
    pub(super) fn end(&mut self, name: &ReservationName, state: ReservationState, settled: Option<Decimal>) {
        let Some(row) = self.reservations.get_mut(name) else { return };
        let was_open = row.state == ReservationState::Open;
        (row.state, row.ended_at, row.settled) = (state, Some(self.now), settled);
        let (counters, amount, battery_units) = (row.counters.clone(), row.amount, row.battery_units);
        if was_open {
            for key in &counters {
                self.add(key, Decimal::ZERO, -amount);
            }
            if let Some(account) = self.accounts.get_mut(name.0) {
                account.release(battery_units);
            }
        }
        self.ended.insert(name.clone());
    }

    /// Writes the overdue reservations that were ended at the beginning, before anything else is decided.
    pub(in crate::quota) fn write_overdue(&self, conn: &mut PgConnection) -> Result<(), Error> {
        self.write_counters_and_reservations(conn).map(drop)
    }

    /// The batteries, for a caller who writes them.
    pub(in crate::quota) fn into_accounts(self) -> Accounts {
        self.accounts
    }

    /// Writes what changed. `None`: another transaction made one of the reservations meanwhile; roll back.
    pub(in crate::quota) fn write(self, conn: &mut PgConnection) -> Result<Option<Written>, Error> {
        let Some(moved) = self.write_counters_and_reservations(conn)? else { return Ok(None) };
        self.accounts.write(conn)?;
        Ok(Some(Written { moved, batch: self.batch }))
    }

    fn write_counters_and_reservations(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Option<Vec<MovedCounter>>, Error> {
        let changed = self.changes.iter().filter(|(_, by)| **by != Count::default());
        let changes: BTreeMap<_, _> = changed.map(|(key, by)| (key.clone(), *by)).collect();
        counters::change(conn, &changes)?;
        let rows = |names: &BTreeSet<ReservationName>| -> Vec<&ReservationRow> {
            names.iter().filter_map(|name| self.reservations.get(name)).collect()
        };
        if !reservations::insert(conn, &rows(&self.new))? {
            return Ok(None);
        }
        reservations::update(conn, &rows(&self.ended))?;
        let moved = changes.into_iter().filter(|(_, by)| !by.used.is_zero());
        let used = |key: &CounterKey| self.counts.get(key).copied().unwrap_or_default().used;
        let moved = moved.map(|(key, by)| MovedCounter { added: by.used, used: used(&key), key });
        Ok(Some(moved.collect()))
    }
}
