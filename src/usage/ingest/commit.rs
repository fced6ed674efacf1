//! Committing a batch of usage events: all in one transaction (`commit/transaction.rs`), or, where one of
//! them cannot be stored, in smaller ones without it (`commit/halving.rs`).

mod halving;
mod optimism;
mod refusals;
mod transaction;

use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::result::Error as DieselError;

use self::halving::by_halves;
use self::optimism::Optimism;
use self::transaction::{Rules, store};
use super::request::{IngestOptions, PendingEvent, PendingRequest};
use crate::db::{self, CommitSession, TransactionError};
use crate::error::Error;
use crate::group_commit::Session;
use crate::metering::event::Outcome;
use crate::metering::posting::{self, month_of};
use crate::metering::series::{self, Series};
use crate::quota::QuotaContext;

/// What became of events.
#[derive(Debug)]
pub(super) enum CommitResult {
    /// One outcome for each event, in their order.
    Outcomes(Vec<Outcome>),
    /// The events were resolved by an older catalogue than the one in force. Nothing was stored.
    OldCatalog,
}

/// What one thread commits with.
pub(super) struct Committer {
    context: Arc<QuotaContext>,
    optimism: Optimism,
}

/// What all events of a batch have in common.
#[derive(Clone, Copy)]
struct Terms {
    catalog_version: i64,
    options: IngestOptions,
}

impl Committer {
    pub(super) fn new(context: Arc<QuotaContext>) -> Self {
        Self { context, optimism: Optimism::default() }
    }

    /// Commits the events of those requests that this version of the catalogue resolved.
    pub(super) fn commit(
        &mut self,
        session: &mut Session,
        catalog_version: i64,
        requests: &mut [PendingRequest],
    ) -> Result<CommitResult, Error> {
        let mut options = IngestOptions::default();
        let mut events: Vec<&mut PendingEvent> = Vec::new();
        for request in requests.iter_mut().filter(|request| request.catalog_version == catalog_version) {
            // A request that wants all or nothing comes alone.
            options = request.options;
            events.extend(&mut request.events);
        }
        let terms = Terms { catalog_version, options };
        if options.all_or_nothing {
            self.commit_all_or_nothing(session, terms, &mut events)
        } else {
            self.commit_what_can_be(session, terms, &mut events)
        }
    }

    fn commit_what_can_be(
        &mut self,
        session: &mut Session,
        terms: Terms,
        events: &mut [&mut PendingEvent],
    ) -> Result<CommitResult, Error> {
        let all = events.len();
        let mut committed = by_halves(events, &mut |part| {
            let committed = self.commit_together(session, terms, part)?;
            // What follows may fail, and the whole batch run again.
            if let CommitResult::Outcomes(outcomes) = &committed
                && part.len() < all
            {
                for (event, outcome) in part.iter_mut().zip(outcomes) {
                    event.is_committed |= *outcome == Outcome::Accepted;
                }
            }
            Ok(committed)
        })?;
        if let CommitResult::Outcomes(outcomes) = &mut committed {
            for (event, outcome) in events.iter().zip(outcomes) {
                if event.is_committed && *outcome == Outcome::Duplicate {
                    *outcome = Outcome::Accepted;
                }
            }
        }
        Ok(committed)
    }

    fn commit_all_or_nothing(
        &mut self,
        session: &mut Session,
        terms: Terms,
        events: &mut [&mut PendingEvent],
    ) -> Result<CommitResult, Error> {
        let committed = match self.commit_together(session, terms, events) {
            Err(error) if error.is_about_data() => {
                session.guarded(|session| self.find_faults(session, terms, events))
            }
            committed => committed,
        };
        match committed {
            Err(error) if error.is_panic() => only_rejections(by_halves(events, &mut |part| {
                session.guarded(|session| self.try_out(session, terms, part))
            })),
            committed => committed,
        }
    }

    /// Commits events in one transaction.
    fn commit_together(
        &mut self,
        session: &mut Session,
        terms: Terms,
        events: &mut [&mut PendingEvent],
    ) -> Result<CommitResult, Error> {
        session.guarded(|session| {
            let mut months: Vec<_> = events.iter().map(|event| month_of(event.usage.occurred_at)).collect();
            months.sort_unstable();
            months.dedup();
            self.context.partitions.ensure(&months, || session.db().connect_serving_thread())?;
            let expects_new = self.optimism.expects_new(events.len());
            match self.run_transaction(session, terms, events, expects_new) {
                Err(error) if expects_new && posting::is_repeat(&error) => {
                    self.optimism.disappointed();
                    self.run_transaction(session, terms, events, false)
                }
                result => result,
            }
        })
    }

    fn run_transaction(
        &self,
        session: &mut Session,
        terms: Terms,
        events: &mut [&mut PendingEvent],
        expects_new: bool,
    ) -> Result<CommitResult, Error> {
        let conn = session.connection()?;
        // Series first, in transactions of their own: nobody should wait for them.
        if let Err(error) = series::store(conn, series_of(events)) {
            return Err(db::as_connection_error(conn, error));
        }
        let rules = self.rules(terms, expects_new);
        match db::try_once(conn, |conn| store(conn, &rules, events)) {
            // Another replica dropped or detached a partition that this one believed to be there.
            Err(TransactionError::Failed(error)) if error.to_string().contains("usage_partitions.") => {
                self.context.partitions.forget();
                Err(Error::Busy("a partition went away"))
            }
            Err(TransactionError::Failed(error)) => Err(db::as_connection_error(conn, error)),
            Err(TransactionError::OutcomeUnknown(committed, lost)) => {
                find_outcome(session, committed, lost, events)
            }
            Ok(committed) => Ok(committed),
        }
    }

    fn rules(&self, terms: Terms, expects_new: bool) -> Rules<'_> {
        Rules {
            context: &self.context,
            catalog_version: terms.catalog_version,
            options: terms.options,
            expects_new,
        }
    }

    /// Finds the events that the database cannot store, and what would become of the others. Stores none: the
    /// parts follow each other in a transaction that is rolled back.
    fn find_faults(
        &self,
        session: &mut Session,
        terms: Terms,
        events: &mut [&mut PendingEvent],
    ) -> Result<CommitResult, Error> {
        let rules = self.rules(Terms { options: IngestOptions::default(), ..terms }, false);
        only_rejections(rolled_back(session, |conn| {
            by_halves(events, &mut |part| {
                conn.transaction(|conn| {
                    series::store_within(conn, series_of(part))?;
                    store(conn, &rules, part)
                })
            })
        }))
    }

    /// Finds what would become of events, in a transaction that is rolled back.
    fn try_out(
        &self,
        session: &mut Session,
        terms: Terms,
        events: &mut [&mut PendingEvent],
    ) -> Result<CommitResult, Error> {
        let rules = self.rules(Terms { options: IngestOptions::default(), ..terms }, false);
        rolled_back(session, |conn| {
            series::store_within(conn, series_of(events))?;
            store(conn, &rules, events)
        })
    }
}

/// Does `work` in a transaction that is rolled back.
fn rolled_back(
    session: &mut Session,
    work: impl FnOnce(&mut PgConnection) -> Result<CommitResult, Error>,
) -> Result<CommitResult, Error> {
    let mut result = Err(Error::Busy("the connection went away"));
    let _rolled_back = session.connection()?.transaction::<(), Error, _>(|conn| {
        result = work(conn);
        Err(DieselError::RollbackTransaction.into())
    });
    result
}

/// After a trial that stored nothing: without a rejection there is no reason to store nothing, so the events
/// must be committed after all.
fn only_rejections(result: Result<CommitResult, Error>) -> Result<CommitResult, Error> {
    match result {
        Ok(CommitResult::Outcomes(outcomes))
            if !outcomes.iter().any(|outcome| matches!(outcome, Outcome::Rejected(_))) =>
        {
            Err(Error::Busy("what could not be stored can be now"))
        }
        result => result,
    }
}

/// Finds out whether a transaction was committed when the answer to its COMMIT was lost, by a record that it
/// alone wrote.
fn find_outcome(
    session: &mut Session,
    committed: CommitResult,
    lost: CommitSession,
    events: &[&mut PendingEvent],
) -> Result<CommitResult, Error> {
    session.close();
    let CommitResult::Outcomes(outcomes) = &committed else { return Ok(committed) };
    let mut new = events.iter().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Accepted);
    // Without an event that left a record the transaction wrote nothing new.
    let Some((event, _)) = new.find(|(event, _)| !event.usage.metered.is_empty()) else {
        return Ok(committed);
    };
    let usage = &event.usage;
    let (key, times) = (posting::key(usage), (usage.occurred_at, usage.received_at));
    if session.db().was_committed(lost, &move |conn| posting::record_exists(conn, key, times))? {
        Ok(committed)
    } else {
        Err(Error::Busy("the connection went away before the commit"))
    }
}

fn series_of<'a>(events: &'a [&mut PendingEvent]) -> impl Iterator<Item = &'a Arc<Series>> {
    events.iter().flat_map(|event| event.usage.metered.iter().map(|metered| &metered.series))
}
