//! Quotas: limits on what a meter counts in a period.
//!
//! Counting is apart from limiting. A *slot* says what is counted (a meter, a filter, a period); its counters
//! are kept by the transaction that writes the usage, whether or not a limit applies. A quota (of an org, or
//! of its plan) puts a limit on a slot. So a change of plan or of a quota changes the limit and never what
//! was counted.
//!
//! Five things are done with limits:
//!
//! - *check* (`check.rs`), a dry run: would this usage fit now? Nothing is written.
//! - *reserve* (`reservation_batch.rs`): set an amount aside at the counters of the periods in which the
//!   reservation is made. Used and reserved stay within a hard limit.
//! - *settle* (`reservation_batch.rs`, `settle.rs`): put usage in a reservation's place. It is recorded
//!   whatever the limits say.
//! - *release* (`reservation_batch.rs`): give a reservation back. One past its deadline expires by itself.
//! - *enforce* (`enforce.rs`): refuse reported usage over a limit that says so, before it is stored.
//!
//! All that lock anything go through the typed steps of `session.rs`, in one order.

pub mod check;
pub mod define;
pub mod enforce;
pub mod entitlements;
pub mod exemptions;
pub mod history;
pub mod limit_status;
pub mod limits;
pub mod new_limit;
pub mod orgs;
pub mod plan_quotas;
pub mod quotas;
pub mod reservation_batch;
pub mod reservations;
pub mod rulebook;
mod session;
mod settle;
pub mod thresholds;

use std::sync::Arc;

use crate::billing::directory::Directory;
use crate::billing::org_name::OrgRef;
use crate::db::Db;
use crate::error::Error;
use crate::group_commit::{BatchBounds, Batcher, NotDone, Retry, Settings, Work};
use crate::metering::partitions::KnownPartitions;
use crate::metering::series::SeriesCache;
use crate::shares::{Holder, Shares};
use crate::threads::Threads;
use crate::time::Clock;
use check::{CheckItems, CheckWork, Verdict};
use entitlements::{EntitlementWork, OrgEntitlements};
use orgs::{FoundOrgs, OrgLookup};
use reservation_batch::{ReservationAnswer, ReservationRequest, ReservationWork};
use rulebook::RulebookCache;

/// What all share who count usage or decide about quotas.
pub struct QuotaContext {
    pub directory: Arc<Directory>,
    pub rules: Arc<RulebookCache>,
    pub clock: Clock,
    pub series: Arc<SeriesCache>,
    /// Partitions of usage records that are known to be there.
    pub partitions: Arc<KnownPartitions>,
    /// Where a partition that is missing is made.
    pub db: Db,
}

/// Requests of one transaction, at most.
const BATCH: BatchBounds = BatchBounds { inputs: 512, weight: 512 };

/// The way to ask about quotas: requests that arrive together share a transaction.
pub struct Quotas {
    reservations: Batcher<ReservationWork>,
    checks: Batcher<CheckWork>,
    entitlements: Batcher<EntitlementWork>,
    orgs: Batcher<OrgLookup>,
    pub context: Arc<QuotaContext>,
}

impl Quotas {
    /// Starts `writers` threads for reservations, and one each for checks, entitlements and orgs, each with a
    /// queue of `capacity`.
    #[must_use]
    pub fn start(db: &Db, context: QuotaContext, threads: &Threads, writers: usize, capacity: usize) -> Self {
        let context = Arc::new(context);
        let shared = || Arc::clone(&context);
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
                ReservationWork(shared())
            }),
            checks: Batcher::start(db, threads, settings("quota-reader", 1), || CheckWork(shared())),
            entitlements: Batcher::start(db, threads, settings("quota-overviews", 1), || {
                EntitlementWork(shared())
            }),
            orgs: Batcher::start(db, threads, settings("org-reader", 1), || OrgLookup(shared())),
            context: Arc::clone(&context),
        }
    }

    /// Reserves, settles or releases; returns when it is durable.
    ///
    /// # Errors
    /// [`Error::TooMany`], [`Error::Busy`], or what is wrong with the request.
    pub async fn reservation(
        &self,
        holder: Holder,
        request: ReservationRequest,
    ) -> Result<ReservationAnswer, Error> {
        submit(&self.reservations, holder, request).await
    }

    /// Checks whether this could be used now; nothing is set aside.
    ///
    /// # Errors
    /// As [`Quotas::reservation`].
    pub async fn check(&self, holder: Holder, items: CheckItems) -> Result<Vec<Verdict>, Error> {
        submit(&self.checks, holder, items).await
    }

    /// Returns all that an org is entitled to. The caller has checked whose org it is.
    ///
    /// # Errors
    /// As [`Quotas::reservation`]; [`Error::UnknownOrg`] when there is no such org.
    pub async fn entitlements(&self, holder: Holder, org: OrgRef) -> Result<OrgEntitlements, Error> {
        submit(&self.entitlements, holder, org).await
    }

    /// Looks orgs up; they are in memory then.
    ///
    /// # Errors
    /// As [`Quotas::reservation`].
    pub async fn orgs(&self, holder: Holder, refs: Vec<OrgRef>) -> Result<FoundOrgs, Error> {
        submit(&self.orgs, holder, refs).await
    }

    /// Takes no more requests, does those that wait, ends the threads.
    pub fn stop(&self) {
        self.reservations.stop();
        self.checks.stop();
        self.entitlements.stop();
        self.orgs.stop();
    }
}

async fn submit<W, T>(batcher: &Batcher<W>, holder: Holder, input: W::Input) -> Result<T, Error>
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
