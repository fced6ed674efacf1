//! The order of locks, as types. Each step consumes the one before, so a transaction that takes a lock out of
//! turn does not compile:
//!
//! ```text
//! CatalogLocked         the catalogue, shared: the rulebook stays as it is
//!   │ claim_usage       keys, tiers and levels of usage that settles reservations
//! UsageClaimed
//!   │ lock_counters
//! CountersLocked
//!   │ lock_reservations
//! ReservationsLocked
//!   │ lock_batteries
//! LockedState           decides in memory, one request after the other
//!   │ write             counters, reservations, batteries
//! Written
//!   │ store_usage       records and daily summaries
//! ```
//!
//! Within a step, rows are locked in the order of their keys. Every transaction of the program keeps this
//! order, so no two of them wait for each other.

mod decide;
mod locked_state;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

pub(super) use self::locked_state::LockedState;
use super::limit_status::reach;
use super::reservations::{self, ReservationName, ReservationRow};
use super::rulebook::{Rulebook, RulebookCache};
use super::settle::{ClaimedUsage, SettlingUsage};
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog;
use crate::metering::counters::{self, CounterKey, Counts, MovedCounter};
use crate::metering::series::SeriesCache;

/// The catalogue is locked shared.
#[must_use]
pub(super) struct CatalogLocked(());

/// The usage that this transaction stores has locked its keys, tiers and levels.
#[must_use]
pub(super) struct UsageClaimed(());

#[must_use]
pub(super) struct CountersLocked {
    counts: Counts,
}

#[must_use]
pub(super) struct ReservationsLocked {
    counts: Counts,
    reservations: BTreeMap<ReservationName, ReservationRow>,
}

/// Counters, reservations and batteries are written.
#[must_use]
pub(super) struct Written {
    /// Counters that usage was added to.
    moved: Vec<MovedCounter>,
    /// Names the usage that is recorded with it.
    batch: i64,
}

impl CatalogLocked {
    /// The rulebook in force until the transaction ends; `None`: the cache has another version.
    pub(super) fn lock(
        conn: &mut PgConnection,
        rules: &RulebookCache,
    ) -> Result<Option<(Self, Arc<Rulebook>)>, Error> {
        let version = catalog::lock_shared(conn)?;
        Ok(rules.at(version).map(|rules| (Self(()), rules)))
    }

    pub(super) fn claim_usage(
        self,
        conn: &mut PgConnection,
        (rules, series): (&Rulebook, &SeriesCache),
        usage: &[SettlingUsage<'_>],
        now: DateTime<Utc>,
    ) -> Result<(UsageClaimed, ClaimedUsage), Error> {
        let claimed = ClaimedUsage::claim(conn, series, &rules.catalog, usage, now)?;
        Ok((UsageClaimed(()), claimed))
    }
}

impl UsageClaimed {
    /// For a transaction that has claimed its usage before it comes here, or that stores none.
    pub(super) fn by_caller() -> Self {
        Self(())
    }

    pub(super) fn lock_counters(
        self,
        conn: &mut PgConnection,
        rules: &Rulebook,
        keys: &BTreeSet<CounterKey>,
    ) -> Result<CountersLocked, Error> {
        counters::lock(conn, keys)?;
        let mut counts = counters::read(conn, keys)?;
        // Nobody changes the rest of a window while its anchor is locked.
        counts.extend(counters::read_ranges(conn, &reach(&rules.catalog, keys))?);
        Ok(CountersLocked { counts })
    }
}

impl CountersLocked {
    pub(super) fn lock_reservations(
        self,
        conn: &mut PgConnection,
        names: &BTreeSet<ReservationName>,
    ) -> Result<ReservationsLocked, Error> {
        let reservations = reservations::lock(conn, names)?;
        Ok(ReservationsLocked { counts: self.counts, reservations })
    }
}

impl ReservationsLocked {
    /// The org of each locked reservation that has battery units set aside.
    pub(super) fn orgs_with_units(&self) -> impl Iterator<Item = i64> {
        self.reservations.values().filter(|row| !row.battery_units.is_zero()).map(|row| row.org_id)
    }

    /// Locks the batteries of `orgs`, grants them today's allowance, and locks the batteries of the locked
    /// reservations. `None`: after the caller chose what to lock, a new reservation was made on a counter or
    /// battery that is not locked.
    pub(super) fn lock_batteries<'a, 'o>(
        self,
        conn: &mut PgConnection,
        rules: &'a Rulebook,
        orgs: impl Iterator<Item = &'o OrgContext>,
        now: DateTime<Utc>,
    ) -> Result<Option<LockedState<'a>>, Error> {
        let orgs: BTreeMap<i64, &OrgContext> = orgs.map(|org| (org.org_id, org)).collect();
        let org_ids: BTreeSet<i64> = orgs.keys().copied().chain(self.orgs_with_units()).collect();
        let mut accounts = Accounts::lock(conn, org_ids, Depth::Live, now)?;
        accounts.grant_allowances(orgs.into_values(), &rules.limits.battery, now);
        Ok(LockedState::open(rules, now, self.counts, self.reservations, accounts))
    }
}

impl Written {
    /// Stores the usage that is marked in `stored` (by its place in the claim), and returns the counters that
    /// usage was added to.
    pub(super) fn store_usage(
        self,
        conn: &mut PgConnection,
        usage: ClaimedUsage,
        stored: &[bool],
    ) -> Result<Vec<MovedCounter>, Error> {
        usage.store(conn, stored, self.batch)?;
        Ok(self.moved)
    }
}
