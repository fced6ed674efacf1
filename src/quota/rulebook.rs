//! The rulebook: how usage is counted (the catalogue) and what limits it, held in memory under one version.
//!
//! Every change of either takes the catalogue's lock alone and raises the version
//! ([`catalog::begin_change`]). Whoever decides by a rulebook compares its version with the database's: under
//! the shared lock, or in the statement that reads the counters. So no decision follows older rules than
//! those committed, on any replica.

use std::sync::{Arc, PoisonError, RwLock};

use diesel::pg::PgConnection;

use super::limits::Limits;
use crate::error::Error;
use crate::metering::catalog::{self, Catalog};
use crate::metering::meters::Meter;
use crate::metering::slots::Slot;

/// How often work is begun again because the rulebook changed meanwhile.
const TRIES: usize = 20;
/// The answer after so many tries.
pub(super) const CHANGING: Error = Error::Busy("the catalogue changes all the time: try again in a second");

/// Catalogue and limits at one version.
#[derive(Debug, Default)]
pub struct Rulebook {
    pub catalog: Catalog,
    pub limits: Limits,
}

impl Rulebook {
    /// The catalogue's version; every change of catalogue or limits raises it. 0: nothing was read yet.
    #[must_use]
    pub fn version(&self) -> i64 {
        self.catalog.version
    }

    /// A slot and the meter that it counts.
    pub(super) fn slot(&self, slot_id: i32) -> Option<(&Arc<Meter>, &Arc<Slot>)> {
        let slot = self.catalog.slots.values().flatten().find(|slot| slot.slot_id == slot_id)?;
        Some((self.catalog.meters.get(&slot.meter_id)?, slot))
    }

    /// Reads all of it; the caller has one snapshot, or the catalogue's lock.
    fn read(conn: &mut PgConnection) -> Result<Self, Error> {
        Ok(Self { catalog: catalog::read(conn)?, limits: Limits::read(conn)? })
    }
}

/// The rulebook as this process last saw it.
#[derive(Default)]
pub struct RulebookCache(RwLock<Arc<Rulebook>>);

impl RulebookCache {
    /// The rulebook as last read, which may be an old one.
    #[must_use]
    pub fn get(&self) -> Arc<Rulebook> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The rulebook, if the cache has it at this version.
    pub(crate) fn at(&self, version: i64) -> Option<Arc<Rulebook>> {
        Some(self.get()).filter(|rules| rules.version() == version && version != 0)
    }

    /// Locks the catalogue as [`catalog::lock_shared`] does, and returns the rulebook that is in force until
    /// the transaction ends.
    pub(crate) fn lock_shared(&self, conn: &mut PgConnection) -> Result<Arc<Rulebook>, Error> {
        let version = catalog::lock_shared(conn)?;
        match self.at(version) {
            Some(rules) => Ok(rules),
            // Nobody changes it under the lock, so all statements that read it see one version.
            None => Ok(self.keep(Rulebook::read(conn)?)),
        }
    }

    /// Reads the rulebook from the database, unless the cache has a newer one. Not inside a transaction.
    pub fn refresh(&self, conn: &mut PgConnection) -> Result<Arc<Rulebook>, Error> {
        let read = conn.build_transaction().repeatable_read().read_only().run(Rulebook::read)?;
        Ok(self.keep(read))
    }

    /// Does work by the rulebook, until it did not change meanwhile: `work` returns `None` when the database
    /// has another version.
    pub(super) fn while_unchanged<T>(
        &self,
        conn: &mut PgConnection,
        mut work: impl FnMut(&mut PgConnection, &Rulebook) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut rules = self.get();
        for _ in 0..TRIES {
            if rules.version() != 0
                && let Some(done) = work(conn, &rules)?
            {
                return Ok(done);
            }
            rules = self.refresh(conn)?;
        }
        Err(CHANGING)
    }

    fn keep(&self, read: Rulebook) -> Arc<Rulebook> {
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if held.version() < read.version() {
            *held = Arc::new(read);
        }
        Arc::clone(&held)
    }
}
