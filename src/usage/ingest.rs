//! Ingest: usage from many requests into few commits. Nobody is answered before the commit.

mod queue;
mod store;
mod writer;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use chrono::{DateTime, Utc};

use self::queue::Queue;
use self::store::Stored;
use self::writer::{Job, Trust, Writer};
use crate::answers;
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::config::Config;
use crate::db::{Db, Scope};
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::event::{Outcome, Rejection, UsageEvent};
use crate::metering::partitions;
use crate::metering::resolve::{Caller, Resolver, Usage, Window};
use crate::metering::series;
use crate::metering::unpriced;
use crate::quota::{Quotas, Rulebook};
use crate::shares::{Holder, Shares};
use crate::threads::Threads;

/// Longest turn of a writer that is believed to be work.
const PATIENCE: Duration = Duration::from_secs(120);
/// How often a request is resolved again because the catalogue changed under it.
const TRIES: usize = 10;

/// How a request wants to be taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Store nothing when one event is rejected or in conflict.
    pub all_or_nothing: bool,
    /// With it: nor when one was stored before.
    pub new_only: bool,
}

/// Which times are taken, by the settings.
#[derive(Clone, Copy, Debug)]
struct Times {
    back_days: u16,
    ahead_s: u32,
    retention_months: u16,
}

impl Times {
    fn window(self, now: DateTime<Utc>) -> Window {
        Window {
            horizon: partitions::horizon(self.retention_months, now),
            back: chrono::Duration::days(i64::from(self.back_days)),
            ahead: chrono::Duration::seconds(i64::from(self.ahead_s)),
        }
    }
}

/// The way in. Dropping it lets the writers finish what waits.
pub struct Ingest {
    queue: Arc<Queue<Job>>,
    /// Events that may wait; a request takes as many places as it has events.
    places: Arc<Shares>,
    capacity: usize,
    threads: Mutex<Vec<JoinHandle<()>>>,
    refreshing: tokio::sync::Mutex<()>,
    times: Times,
    pub series: Arc<series::SeriesCache>,
}

const FULL: Error = Error::TooMany("more usage waits than this daemon may hold: send it again in a second");

impl Ingest {
    /// Starts the writers' threads over a bounded queue of usage events.
    #[must_use]
    pub fn start(db: &Db, parts: &Arc<Rulebook>, threads: &Threads, config: &Config) -> Self {
        let writers = usize::from(config.usage_writers);
        let capacity = config.usage_queue as usize;
        let queue = Arc::new(Queue::new(config.usage_batch as usize));
        let threads = (0..writers).map(|n| {
            let (db, parts, queue) = (db.clone(), Arc::clone(parts), Arc::clone(&queue));
            threads.spawn("usage-writer", n, PATIENCE, move |heartbeat| {
                let _end = queue.writer();
                let (trust, kept) = (Trust::default(), HashSet::new());
                let mut writer = Writer { db, parts, conn: None, trust, kept };
                heartbeat.run_again_after_panic(|| writer.drain(&queue, heartbeat));
            })
        });
        let threads = Mutex::new(threads.collect());
        Self {
            queue,
            places: Shares::new(capacity),
            capacity,
            threads,
            refreshing: tokio::sync::Mutex::default(),
            series: Arc::clone(&parts.series),
            times: Times {
                back_days: config.usage_window_back_days,
                ahead_s: config.usage_window_ahead_s,
                retention_months: config.usage_retention_months,
            },
        }
    }

    /// Takes no more usage, writes what waits, ends the threads.
    pub fn stop(&self) {
        self.queue.close();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic in a writer was reported when it happened; its callers have been told.
            let _ = thread.join();
        }
    }

    /// Usage events that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.places.in_use()
    }

    /// Stores the usage events that `read` gives and says what became of each, in their order; those that
    /// were rejected before stay so. Returns when all that is accepted is durable. `read` is asked again when
    /// the catalogue has changed meanwhile: what waits is smaller than what was read, and nothing else is
    /// kept.
    ///
    /// # Errors
    /// [`Error::TooMany`] when too much waits, [`Error::Busy`] when the database is away and nothing was
    /// stored,
    /// [`Error::OutcomeUnknown`] when that is not known. It must be sent again then. And what `read` says.
    pub async fn take<'a>(
        &self,
        quotas: &Quotas,
        (holder, caller): (Holder, &Caller),
        options: Options,
        mut read: impl FnMut() -> Result<Vec<Result<UsageEvent<'a>, Rejection>>, Error>,
    ) -> Result<Vec<Outcome>, Error> {
        let mut catalog = quotas.parts.catalog.get();
        if quotas.parts.at(catalog.version).is_none() {
            catalog = self.refresh(quotas, catalog.version).await?;
        }
        for _ in 0..TRIES {
            let events = read()?;
            let orgs = Orgs::of(quotas, (holder, caller), &events).await?;
            let resolved = self.resolve(quotas, &catalog, caller, &events, &orgs);
            // Another replica may have changed what this one judges by.
            let judged = events.iter().zip(&resolved).any(|(event, one)| event.is_ok() && one.is_err());
            if judged && current_version(quotas).await? != catalog.version {
                catalog = self.refresh(quotas, catalog.version).await?;
                continue;
            }
            drop((events, orgs));
            match self.store(&catalog, holder, resolved, options).await? {
                Some(outcomes) => return Ok(outcomes),
                None => catalog = self.refresh(quotas, catalog.version).await?,
            }
        }
        Err(Error::Busy("the meters change faster than usage can be counted: send it again in a second"))
    }

    /// A newer catalogue than `old`. Of requests that ask together one reads it for all.
    async fn refresh(&self, quotas: &Quotas, old: i64) -> Result<Arc<Catalog>, Error> {
        let _alone = self.refreshing.lock().await;
        if let Some((catalog, _)) = quotas.parts.held().filter(|(catalog, _)| catalog.version > old) {
            return Ok(catalog);
        }
        let parts = Arc::clone(&quotas.parts);
        quotas.parts.db.with_connection(move |conn| parts.refreshed(conn).map(|(catalog, _)| catalog)).await
    }

    fn resolve(
        &self,
        quotas: &Quotas,
        catalog: &Catalog,
        caller: &Caller,
        events: &[Result<UsageEvent<'_>, Rejection>],
        orgs: &Orgs,
    ) -> Vec<Result<Usage, Rejection>> {
        let now = quotas.parts.clock.now();
        let window = self.times.window(now);
        let resolver = Resolver { catalog, series: &self.series, caller: *caller, window, now };
        let one = |(place, event): (usize, &Result<UsageEvent<'_>, Rejection>)| {
            let event = event.as_ref().map_err(Clone::clone)?;
            let usage = resolver.resolve(event, orgs.find(place, event)?)?;
            unpriced::refuse(&usage)?;
            Ok(usage)
        };
        events.iter().enumerate().map(one).collect()
    }

    /// `None`: the catalogue is out of date.
    async fn store(
        &self,
        catalog: &Catalog,
        holder: Holder,
        resolved: Vec<Result<Usage, Rejection>>,
        options: Options,
    ) -> Result<Option<Vec<Outcome>>, Error> {
        let good = resolved.iter().filter(|one| one.is_ok()).count();
        let refused = options.all_or_nothing && good < resolved.len();
        let mut rejections: Vec<Option<Rejection>> = Vec::with_capacity(resolved.len());
        let mut usage = Vec::with_capacity(good);
        for one in resolved {
            match one {
                Ok(one) => {
                    rejections.push(None);
                    usage.push(one);
                }
                Err(rejection) => rejections.push(Some(rejection)),
            }
        }
        let mut stored = if usage.is_empty() || refused {
            vec![Outcome::Accepted; usage.len()]
        } else {
            match self.send(catalog.version, holder, usage, options).await? {
                Stored::Done(outcomes) => outcomes,
                Stored::Stale => return Ok(None),
                Stored::Unknown => return Err(Error::OutcomeUnknown),
            }
        }
        .into_iter();
        let mut next = || stored.next().expect("one outcome for each stored event");
        Ok(Some(rejections.into_iter().map(|one| one.map_or_else(&mut next, Outcome::Rejected)).collect()))
    }

    async fn send(
        &self,
        version: i64,
        holder: Holder,
        usage: Vec<Usage>,
        options: Options,
    ) -> Result<Stored, Error> {
        let events = usage.len();
        let place = self.places.take(holder, events.min(self.capacity)).ok_or(FULL)?;
        let (answer, stored) = answers::ticket();
        let job = Job { usage, version, options, answer, _place: place };
        self.queue
            .push(job, holder, events, options.all_or_nothing)
            .map_err(|_| Error::Busy("this daemon is stopping: send it again in a second"))?;
        answers::soon(stored)
            .await?
            .map_err(|_| Error::Busy("the database is away: send it again in a second"))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        self.queue.close();
    }
}

async fn current_version(quotas: &Quotas) -> Result<i64, Error> {
    quotas.parts.db.run(Scope::Platform, crate::metering::catalog::version).await
}

/// The orgs that a request's events are about.
enum Orgs {
    /// An org's key: its own. What an event calls its org is compared with that org's names alone, so that
    /// nothing, and no time that it takes, tells whether another name exists.
    Own(Arc<OrgContext>),
    /// A key of the platform: what each event names, in their order; `None` also where there is no such org.
    Named(Vec<Option<Arc<OrgContext>>>),
}

impl Orgs {
    async fn of(
        quotas: &Quotas,
        (holder, caller): (Holder, &Caller),
        events: &[Result<UsageEvent<'_>, Rejection>],
    ) -> Result<Self, Error> {
        if let Some(org_id) = caller.org_id {
            if let Some(own) = quotas.parts.directory.by_id(org_id) {
                return Ok(Self::Own(own));
            }
            let own = OrgRef::Own(org_id);
            let found = quotas.orgs(holder, vec![own.clone()]).await?.remove(&own);
            return found.map(Self::Own).ok_or(Error::NotFound("org"));
        }
        let mut named_orgs = Vec::with_capacity(events.len());
        let mut missing: HashSet<OrgRef> = HashSet::new();
        for event in events {
            named_orgs.push(named(event).and_then(|name| {
                let held = quotas.parts.directory.by_ref(name);
                if held.is_none() {
                    missing.insert(OrgRef::Named(name.to_owned()));
                }
                held
            }));
        }
        if !missing.is_empty() {
            let found = quotas.orgs(holder, missing.into_iter().collect()).await?;
            for (event, org) in events.iter().zip(&mut named_orgs).filter(|(_, org)| org.is_none()) {
                *org = named(event).and_then(|name| found.get(&OrgRef::Named(name.to_owned())).cloned());
            }
        }
        Ok(Self::Named(named_orgs))
    }

    /// The org of the event at that place.
    fn find(&self, place: usize, event: &UsageEvent<'_>) -> Result<&Arc<OrgContext>, Rejection> {
        let unknown = |name: &str| {
            Rejection::new(
                "org",
                "unknown_org",
                format!("there is no org `{name}`: create it, or correct the name"),
            )
        };
        match (self, &event.org) {
            (Self::Own(own), None) => Ok(own),
            (Self::Own(own), Some(name)) if own.is_called(name) => Ok(own),
            (Self::Named(named), Some(name)) => named[place].as_ref().ok_or_else(|| unknown(name)),
            (Self::Own(_), Some(name)) => Err(unknown(name)),
            (Self::Named(_), None) => Err(Rejection::new(
                "org",
                "no_org",
                "a platform key must name the org, by its id or external id",
            )),
        }
    }
}

/// What an event names as its org.
fn named<'a>(event: &'a Result<UsageEvent<'_>, Rejection>) -> Option<&'a str> {
    event.as_ref().ok()?.org.as_deref()
}
