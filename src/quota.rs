//! Quotas: limits on what a meter counts in a period.
//!
//! Counting is apart from limiting. A *slot* says what is counted (a meter, a filter, a period); its counters
//! are kept by the transaction that writes the usage, whether or not a limit applies. A quota (of an org, or
//! of its plan) puts a limit on a slot. So a change of plan or of a quota changes the limit and never what
//! was counted.
//!
//! Who changes a counter has locked it, and counters are locked in the order of their keys. A reservation
//! sets an amount aside at the counters of the periods in which it is made; what is admitted under a hard
//! limit (used and reserved) is at most the limit.

pub mod check;
pub mod define;
pub mod enforce;
pub mod exemptions;
pub mod limit_overview;
pub mod limit_status;
pub mod limits;
mod locked_state;
pub mod orgs;
pub mod plan_quotas;
pub mod quotas;
pub mod reservation_batch;
pub mod reservations;
pub mod settle;
pub mod thresholds;
pub mod wanted;

use std::sync::Arc;

pub use crate::quantity;

use diesel::pg::PgConnection;

use crate::billing::directory::Directory;
use crate::billing::org_name::OrgRef;
use crate::db::Db;
use crate::error::Error;
use crate::group_commit::{BatchBounds, Batcher, NotDone, Retry, Settings, Work};
use crate::metering::catalog::{self, Catalog};
use crate::metering::partitions::KnownPartitions;
use crate::metering::series;
use crate::shares::{Holder, Shares};
use crate::threads::Threads;
use crate::time::Clock;
use limits::Limits;

/// What is held in memory to decide about quotas.
pub struct Rulebook {
    pub directory: Arc<Directory>,
    pub catalog: Arc<catalog::CatalogCache>,
    pub limits: Arc<limits::LimitsCache>,
    pub clock: Clock,
    pub series: Arc<series::SeriesCache>,
    /// Partitions of usage records that are known to be there.
    pub partitions: Arc<KnownPartitions>,
    /// Where a partition that is missing is made.
    pub db: Db,
}

pub(crate) type Versioned = (Arc<Catalog>, Arc<Limits>);

/// How often something is begun again because the catalogue has changed meanwhile.
const TRIES: usize = 20;
const CHANGING: &str = "the catalogue changes all the time: try again in a second";

impl Rulebook {
    /// Catalogue and limits, when both are held at the same version.
    pub(crate) fn held(&self) -> Option<Versioned> {
        let (catalog, limits) = (self.catalog.get(), self.limits.get());
        (catalog.version == limits.version && catalog.version != 0).then_some((catalog, limits))
    }

    /// Catalogue and limits, when both are held at this version.
    pub(crate) fn at(&self, version: i64) -> Option<Versioned> {
        self.held().filter(|(catalog, _)| catalog.version == version)
    }

    fn refresh(&self, conn: &mut PgConnection) -> Result<(), Error> {
        self.catalog.refresh(conn)?;
        self.limits.refresh(conn).map(drop)
    }

    /// Does work by the catalogue and the limits; where they have changed meanwhile it gives `None`, and is
    /// done again by the new ones.
    pub(crate) fn while_unchanged<T>(
        &self,
        conn: &mut PgConnection,
        mut work: impl FnMut(&mut PgConnection, &Versioned) -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let mut versioned = match self.held() {
            Some(held) => held,
            None => self.refreshed(conn)?,
        };
        for _ in 0..TRIES {
            if let Some(done) = work(conn, &versioned)? {
                return Ok(done);
            }
            versioned = self.refreshed(conn)?;
        }
        Err(Error::Busy(CHANGING))
    }

    /// Catalogue and limits as the database has them.
    pub(crate) fn refreshed(&self, conn: &mut PgConnection) -> Result<Versioned, Error> {
        // The two are read one after the other: a change in between is met by reading again.
        for _ in 0..TRIES {
            self.refresh(conn)?;
            if let Some(held) = self.held() {
                return Ok(held);
            }
        }
        Err(Error::Busy(CHANGING))
    }
}

/// Requests of one transaction, at most.
const BATCH: BatchBounds = BatchBounds { inputs: 512, weight: 512 };

/// The way to ask about quotas: requests that come together share a transaction.
pub struct Quotas {
    reservations: Batcher<reservation_batch::ReservationWork>,
    checks: Batcher<check::CheckWork>,
    overviews: Batcher<limit_overview::OverviewWork>,
    lookups: Batcher<orgs::LookupWork>,
    /// What is held in memory.
    pub parts: Arc<Rulebook>,
}

impl Quotas {
    /// Starts `writers` threads for reservations, one each for checks, overviews and orgs, each with a queue
    /// of `capacity`.
    #[must_use]
    pub fn start(db: &Db, parts: Rulebook, threads: &Threads, writers: usize, capacity: usize) -> Self {
        let parts = &Arc::new(parts);
        let settings = |name, threads| Settings {
            name,
            threads,
            capacity,
            places: Some(Shares::new(capacity)),
            batch: BATCH,
            gathering: None,
            retry: Retry::Repeat,
        };
        Self {
            reservations: Batcher::start(db, threads, settings("quota-writer", writers), || {
                reservation_batch::ReservationWork(Arc::clone(parts))
            }),
            checks: Batcher::start(db, threads, settings("quota-reader", 1), || {
                check::CheckWork(Arc::clone(parts))
            }),
            overviews: Batcher::start(db, threads, settings("quota-overviews", 1), || {
                limit_overview::OverviewWork(Arc::clone(parts))
            }),
            lookups: Batcher::start(db, threads, settings("org-reader", 1), || {
                orgs::LookupWork(Arc::clone(parts))
            }),
            parts: Arc::clone(parts),
        }
    }

    /// Makes, settles or releases a reservation; returns when that is durable.
    ///
    /// # Errors
    /// [`Error::TooMany`] when too many requests wait, or too many of `holder`; [`Error::Busy`] when the
    /// database is away; [`Error::OutcomeUnknown`]; or what is wrong with the request.
    pub async fn ask(
        &self,
        holder: Holder,
        job: reservation_batch::Job,
    ) -> Result<reservation_batch::Done, Error> {
        ask(&self.reservations, holder, job).await
    }

    /// Asks whether this may be used.
    ///
    /// # Errors
    /// As [`Quotas::ask`].
    pub async fn check(&self, holder: Holder, items: check::Items) -> Result<Vec<check::Verdict>, Error> {
        ask(&self.checks, holder, items).await
    }

    /// Tells all that an org is entitled to. The caller has checked whose org it is.
    ///
    /// # Errors
    /// As [`Quotas::ask`]; [`Error::NotFound`] when there is no such org.
    pub async fn overview(&self, holder: Holder, org: OrgRef) -> Result<limit_overview::Overview, Error> {
        ask(&self.overviews, holder, org).await
    }

    /// Looks orgs up, which are held then.
    ///
    /// # Errors
    /// As [`Quotas::ask`].
    pub async fn orgs(&self, holder: Holder, wanted: Vec<OrgRef>) -> Result<orgs::Found, Error> {
        ask(&self.lookups, holder, wanted).await
    }

    /// Takes no more requests, does those that wait, ends the threads.
    pub fn stop(&self) {
        self.reservations.stop();
        self.checks.stop();
        self.overviews.stop();
        self.lookups.stop();
    }
}

async fn ask<W, T>(batcher: &Batcher<W>, holder: Holder, input: W::Input) -> Result<T, Error>
where
    W: Work<Output = Result<T, Error>>,
{
    batcher.submit(holder, input).await.unwrap_or_else(|not_done| {
        Err(match not_done {
            NotDone::Full => Error::TooMany("too many such requests wait: try again in a second"),
            NotDone::Stopping | NotDone::Away => {
                Error::Busy("the database is away for the moment: try again in a second")
            }
            NotDone::Unknown => Error::OutcomeUnknown,
            NotDone::Failed(error) => error,
        })
    })
}
