//! Threads that drain the waiting usage: whatever came during the last commit goes into the next.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::result::Error as DieselError;

use super::Options;
use super::queue::Queue;
use super::store::{self, Rules, Stored};
use crate::answers::{Batch, Ticket};
use crate::db::{self, CommitSession, Db, TransactionError};
use crate::error::Error;
use crate::metering::event::{Outcome, Rejection};
use crate::metering::posting::{self, Key, month_of};
use crate::metering::resolve::Usage;
use crate::metering::series::{self, Series};
use crate::panics;
use crate::quota::Rulebook;
use crate::shares::Share;
use crate::threads::Heartbeat;

/// Of fewer events the way of claiming makes no difference.
const TRUSTED_FROM: usize = 16;
/// How long a batch is tried again while the database is away.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request's usage on its way.
pub(super) struct Job {
    /// What is to be stored.
    pub(super) usage: Vec<Usage>,
    /// The catalogue that resolved it.
    pub(super) version: i64,
    /// What leaves all of it out.
    pub(super) options: Options,
    /// Where the outcomes go.
    pub(super) answer: Ticket<Stored>,
    /// Its place in the queue, given back when it is answered.
    pub(super) _place: Share,
}

/// One writer.
pub(super) struct Writer {
    /// Where it gets its connection.
    pub(super) db: Db,
    /// What events are counted and limited by.
    pub(super) parts: Arc<Rulebook>,
    pub(super) conn: Option<PgConnection>,
    /// How it claims keys.
    pub(super) trust: Trust,
    /// What it stored of the batch under way before that had to be tried again.
    pub(super) kept: HashSet<Key>,
}

/// Whether a batch is expected to be all new, which is cheaper where it is true. After a repeat that is not
/// expected for a while, and for longer the more often it comes.
#[derive(Debug, Default)]
pub(super) struct Trust {
    /// Batches to go with care.
    careful: u32,
    /// How many the next repeat will cost.
    penalty: u32,
}

impl Trust {
    fn next(&mut self, events: usize) -> bool {
        if events < TRUSTED_FROM {
            return false;
        }
        if self.careful == 0 {
            self.penalty = self.penalty.saturating_sub(1);
            return true;
        }
        self.careful -= 1;
        false
    }

    fn disappointed(&mut self) {
        self.penalty = (self.penalty * 2).clamp(4, 256);
        self.careful = self.penalty;
    }
}

impl Writer {
    /// Stores what comes until the queue is closed and empty.
    pub(super) fn drain(&mut self, queue: &Queue<Job>, heartbeat: &Heartbeat) {
        // After a panic it may be within a transaction.
        self.conn = None;
        let away = AtomicBool::new(false);
        while let Some((batch, storing)) = queue.take() {
            let _turn = heartbeat.begin_turn();
            // Requests that an older catalogue resolved go back to be resolved again.
            let version = batch.iter().map(|job| job.version).max().unwrap_or_default();
            let (mut batch, stale): (Vec<Job>, Vec<Job>) =
                batch.into_iter().partition(|job| job.version == version);
            tell(stale, || Stored::Stale);
            let lengths: Vec<usize> = batch.iter().map(|job| job.usage.len()).collect();
            let mut usage: Vec<Usage> = match batch.as_mut_slice() {
                [job] => std::mem::take(&mut job.usage),
                jobs => {
                    let mut all = Vec::with_capacity(lengths.iter().sum());
                    jobs.iter_mut().for_each(|job| all.append(&mut std::mem::take(&mut job.usage)));
                    all
                }
            };
            // What asks for all or nothing comes alone.
            let options = batch[0].options;
            let stored = self.store_patiently(version, &mut usage, options, &away);
            drop(storing);
            match stored {
                Ok(Stored::Stale) => tell(batch, || Stored::Stale),
                Ok(Stored::Unknown) | Err(Error::OutcomeUnknown) => tell(batch, || Stored::Unknown),
                Ok(Stored::Done(outcomes)) => {
                    let (mut outcomes, mut lengths) = (outcomes.into_iter(), lengths.into_iter());
                    tell(batch, || {
                        let length = lengths.next().unwrap_or_default();
                        Stored::Done(outcomes.by_ref().take(length).collect())
                    });
                }
                // Dropping the answers tells the handlers.
                Err(error) => {
                    tracing::error!(%error, events = usage.len(), "usage not stored, its callers are told to \
                        send it again");
                }
            }
        }
    }

    /// Stores a batch, over again on a fresh connection when the old one broke. What was committed before is
    /// told as new all the same.
    fn store_patiently(
        &mut self,
        version: i64,
        usage: &mut [Usage],
        options: Options,
        away: &AtomicBool,
    ) -> Result<Stored, Error> {
        let started = Instant::now();
        self.kept.clear();
        loop {
            match self.store(version, usage, options) {
                Err(error) if error.is_transient() => {
                    if error.is_disconnected() {
                        self.conn = None;
                    }
                    // While the database is known to be away, later batches fail at once instead of queueing
                    // up.
                    if away.load(Ordering::Relaxed) || started.elapsed() > PATIENCE {
                        away.store(true, Ordering::Relaxed);
                        return Err(error);
                    }
                    std::thread::sleep(Duration::from_millis(20));
                }
                Ok(Stored::Done(mut outcomes)) => {
                    away.store(false, Ordering::Relaxed);
                    self.own(usage, &mut outcomes);
                    return Ok(Stored::Done(outcomes));
                }
                result => {
                    away.store(false, Ordering::Relaxed);
                    return result;
                }
            }
        }
    }

    /// Stores usage in one transaction; where the database cannot hold one of the events, in smaller ones
    /// without it.
    fn store(&mut self, version: i64, usage: &mut [Usage], options: Options) -> Result<Stored, Error> {
        if !options.all_or_nothing {
            let all = usage.len();
            return piecewise(usage, &mut |piece| {
                let stored = self.store_whole(version, piece, options)?;
                if let Stored::Done(outcomes) = &stored
                    && piece.len() < all
                {
                    let new = piece.iter().zip(outcomes).filter(|(_, one)| **one == Outcome::Accepted);
                    self.kept.extend(new.map(|(one, _)| posting::key(one)));
                }
                Ok(stored)
            });
        }
        let stored = match self.store_whole(version, usage, options) {
            Err(error) if error.is_about_data() => self.guarded(|writer| writer.find_faults(version, usage)),
            stored => stored,
        };
        match stored {
            Err(error) if error.is_panic() => only_refusals(piecewise(usage, &mut |usage| {
                self.guarded(|writer| writer.try_only(version, usage))
            })),
            stored => stored,
        }
    }

    /// Does `work`. After a panic, nothing is known of the connection, and another one takes its place.
    fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let done = panics::catch_as_error(|| work(self));
        if done.as_ref().is_err_and(Error::is_panic) {
            self.conn = None;
        }
        done
    }

    fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        match &mut self.conn {
            Some(conn) => Ok(conn),
            none => Ok(none.insert(self.db.connect_serving_thread()?)),
        }
    }

    /// Stores usage in one transaction.
    fn store_whole(&mut self, version: i64, usage: &mut [Usage], options: Options) -> Result<Stored, Error> {
        self.guarded(|writer| writer.try_store(version, usage, options))
    }

    fn try_store(&mut self, version: i64, usage: &mut [Usage], options: Options) -> Result<Stored, Error> {
        let conn = match &mut self.conn {
            Some(conn) => conn,
            none => none.insert(self.db.connect_serving_thread()?),
        };
        let mut months: Vec<_> = usage.iter().map(|one| month_of(one.occurred_at)).collect();
        months.sort_unstable();
        months.dedup();
        self.parts.partitions.ensure(&months, || self.db.connect_serving_thread())?;
        let all_new = self.trust.next(usage.len());
        let rules = Rules { parts: &self.parts, version, options, all_new };
        match prepare_and_store(conn, &rules, usage) {
            Err(TransactionError::Failed(error)) if all_new && posting::is_repeat(&error) => {
                self.trust.disappointed();
                self.try_store(version, usage, options)
            }
            // Another replica dropped or detached what this one believed to be there.
            Err(TransactionError::Failed(error)) if error.to_string().contains("usage_partitions.") => {
                self.parts.partitions.forget();
                Err(Error::Busy("a partition went away"))
            }
            Err(TransactionError::Failed(error)) => Err(db::as_connection_error(conn, error)),
            Err(TransactionError::OutcomeUnknown(stored, lost)) => self.decided(stored, lost, usage),
            Ok(stored) => Ok(stored),
        }
    }

    /// What storing came to whose commit was not answered.
    fn decided(&mut self, stored: Stored, lost: CommitSession, usage: &[Usage]) -> Result<Stored, Error> {
        self.conn = None;
        let Stored::Done(outcomes) = stored else { return Ok(stored) };
        let mut new = usage.iter().zip(&outcomes).filter(|(_, outcome)| **outcome == Outcome::Accepted);
        // Without one that left a record nothing new was written.
        let Some((one, _)) = new.find(|(one, _)| !one.metered.is_empty()) else {
            return Ok(Stored::Done(outcomes));
        };
        let (key, times) = (posting::key(one), (one.occurred_at, one.received_at));
        if self.db.was_committed(lost, &move |conn| posting::is_there(conn, key, times))? {
            Ok(Stored::Done(outcomes))
        } else {
            Err(Error::Busy("the connection went away before the commit"))
        }
    }

    /// What an earlier attempt at this batch stored is new, not a repeat.
    fn own(&mut self, usage: &[Usage], outcomes: &mut [Outcome]) {
        if self.kept.is_empty() {
            return;
        }
        for (one, outcome) in usage.iter().zip(outcomes) {
            match outcome {
                Outcome::Accepted => drop(self.kept.remove(&posting::key(one))),
                Outcome::Duplicate if self.kept.remove(&posting::key(one)) => *outcome = Outcome::Accepted,
                _ => {}
            }
        }
    }

    /// Tells which events the database cannot hold, and what would become of the others, of which none is
    /// stored: pieces follow each other in a transaction that is rolled back.
    fn find_faults(&mut self, version: i64, usage: &mut [Usage]) -> Result<Stored, Error> {
        let conn = self.conn.as_mut().ok_or(Error::Busy("the connection went away"))?;
        let rules = Rules { parts: &self.parts, version, options: Options::default(), all_new: false };
        let mut found = Err(Error::Busy("the connection went away"));
        let _rolled_back = conn.transaction::<(), Error, _>(|conn| {
            found = piecewise(usage, &mut |usage| {
                conn.transaction(|conn| {
                    series::store_within(conn, usage.iter().flat_map(series_of))?;
                    store::store(conn, &rules, usage)
                })
            });
            Err(DieselError::RollbackTransaction.into())
        });
        only_refusals(found)
    }

    /// Tells what would become of usage, and stores none of it: a transaction that is rolled back.
    fn try_only(&mut self, version: i64, usage: &mut [Usage]) -> Result<Stored, Error> {
        let parts = Arc::clone(&self.parts);
        let rules = Rules { parts: &parts, version, options: Options::default(), all_new: false };
        let mut found = Err(Error::Busy("the connection went away"));
        let _rolled_back = self.connection()?.transaction::<(), Error, _>(|conn| {
            series::store_within(conn, usage.iter().flat_map(series_of))?;
            found = store::store(conn, &rules, usage);
            Err(DieselError::RollbackTransaction.into())
        });
        found
    }
}

/// What was found while nothing was stored. It must refuse something: else all of it has to be stored after
/// all.
fn only_refusals(found: Result<Stored, Error>) -> Result<Stored, Error> {
    match found {
        Ok(Stored::Done(outcomes)) if !outcomes.iter().any(|one| matches!(one, Outcome::Rejected(_))) => {
            Err(Error::Busy("what could not be stored can be now"))
        }
        found => found,
    }
}

/// Stores events together, or where one of them cannot be held, by halves, until it is alone and is refused.
fn piecewise(
    usage: &mut [Usage],
    store: &mut impl FnMut(&mut [Usage]) -> Result<Stored, Error>,
) -> Result<Stored, Error> {
    match (store(usage), usage) {
        (Err(Error::BatteryFull { org_id }), usage) => without_burning(usage, org_id, store),
        (Err(error), [one]) if error.is_about_data() => {
            tracing::warn!(%error, event_id = ?one.event_id, "a usage event that the database cannot hold is \
                refused");
            let detail = "the database cannot hold this event: its numbers or texts are out of range";
            let rejection = Rejection::new("data", "not_storable", detail);
            Ok(Stored::Done(vec![Outcome::Rejected(rejection)]))
        }
        // Alone, and once more: it need not have been the cause.
        (Err(error), [one]) if error.is_panic() => match store(std::slice::from_mut(one)) {
            Err(error) if error.is_panic() => {
                tracing::error!(%error, event_id = ?one.event_id, "a usage event that we fail on is refused");
                let detail =
                    "we fail on this event, and on no other one sent with it: the operator's log says where";
                Ok(Stored::Done(vec![Outcome::Rejected(Rejection::new("data", "not_storable", detail))]))
            }
            result => result,
        },
        (Err(error), usage) if error.is_about_data() || error.is_panic() => {
            let (left, right) = usage.split_at_mut(usage.len() / 2);
            match (piecewise(left, store)?, piecewise(right, store)?) {
                (Stored::Done(mut left), Stored::Done(right)) => {
                    left.extend(right);
                    Ok(Stored::Done(left))
                }
                // What the first half stored is found again as what it is.
                _ => Ok(Stored::Stale),
            }
        }
        (result, _) => result,
    }
}

/// Stores events but for those that burn the battery of this org, which has no room for them. All of them at
/// once: by halves one org's events would keep the writer from everybody else's.
fn without_burning(
    usage: &mut [Usage],
    org_id: i64,
    store: &mut impl FnMut(&mut [Usage]) -> Result<Stored, Error>,
) -> Result<Stored, Error> {
    let burns = |one: &Usage| one.org.org_id == org_id && !posting::units(one).is_zero();
    let mut rest: Vec<Usage> = usage.iter().filter(|one| !burns(one)).cloned().collect();
    if rest.len() == usage.len() {
        return Err(Error::Internal(format!("the battery of org {org_id} is full, and nothing burns it")));
    }
    let mut stored = match rest.as_mut_slice() {
        [] => Vec::new(),
        rest => match piecewise(rest, store)? {
            Stored::Done(outcomes) => outcomes,
            undecided => return Ok(undecided),
        },
    }
    .into_iter();
    let detail = Error::BatteryFull { org_id }.to_string();
    let full = Rejection::new("data", "amount_too_large", detail);
    let outcome =
        |one: &Usage| if burns(one) { Some(Outcome::Rejected(full.clone())) } else { stored.next() };
    let outcomes: Option<Vec<Outcome>> = usage.iter().map(outcome).collect();
    outcomes.map(Stored::Done).ok_or_else(|| Error::Internal("an event has no outcome".to_owned()))
}

/// Answers all of them together, one by one with what comes next. A client that went away is told nothing.
fn tell(jobs: Vec<Job>, mut next: impl FnMut() -> Stored) {
    let mut answers = Batch::new();
    for job in jobs {
        answers.push(job.answer, next());
    }
    answers.send();
}

/// Series first, then the transaction.
fn prepare_and_store(
    conn: &mut PgConnection,
    rules: &Rules<'_>,
    usage: &mut [Usage],
) -> Result<Stored, TransactionError<Stored>> {
    series::store(conn, usage.iter().flat_map(series_of)).map_err(TransactionError::Failed)?;
    db::try_once(conn, |conn| store::store(conn, rules, usage))
}

fn series_of(usage: &Usage) -> impl Iterator<Item = &Arc<Series>> {
    usage.metered.iter().map(|metered| &metered.series)
}
