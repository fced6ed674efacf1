//! Accepts a request: reads its events, resolves them by the catalogue, and submits them. When the catalogue
//! changes meanwhile, it does so again.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::batch;
use super::commit::{CommitResult, Committer};
use super::event_orgs::EventOrgs;
use super::reply;
use super::request::{IngestOptions, PendingEvent, PendingRequest};
use crate::config::Config;
use crate::db::{Db, Scope};
use crate::error::Error;
use crate::group_commit::Batcher;
use crate::metering::catalog::{self, Catalog};
use crate::metering::event::{Outcome, Rejection, UsageEvent};
use crate::metering::partitions;
use crate::metering::resolve::{Caller, Resolver, Window};
use crate::metering::series::SeriesCache;
use crate::metering::unpriced;
use crate::metering::usage::Usage;
use crate::quota::rulebook::Rulebook;
use crate::quota::{QuotaContext, Quotas};
use crate::shares::{Holder, Shares};
use crate::threads::Threads;

/// How often a request is resolved again because the catalogue changed meanwhile.
const TRIES: usize = 10;

/// The times that events may have, by the settings.
#[derive(Clone, Copy, Debug)]
struct TimeBounds {
    back_days: u16,
    ahead_s: u32,
    retention_months: u16,
}

impl TimeBounds {
    fn window(self, now: DateTime<Utc>) -> Window {
        Window {
            horizon: partitions::horizon(self.retention_months, now),
            back: chrono::Duration::days(i64::from(self.back_days)),
            ahead: chrono::Duration::seconds(i64::from(self.ahead_s)),
        }
    }
}

/// The way in for usage. Dropping it lets the threads finish what waits.
pub struct Ingest {
    batcher: Batcher<Committer>,
    /// Places for events. A request keeps the places of its events until it has its reply.
    places: Arc<Shares>,
    /// Lets one request at a time read a newer catalogue.
    refreshing: tokio::sync::Mutex<()>,
    time_bounds: TimeBounds,
    pub series: Arc<SeriesCache>,
}

impl Ingest {
    /// Starts the threads that commit usage.
    #[must_use]
    pub fn start(db: &Db, context: &Arc<QuotaContext>, threads: &Threads, config: &Config) -> Self {
        let places = Shares::new(config.usage_queue as usize);
        let settings = batch::settings(config, Arc::clone(&places));
        Self {
            batcher: Batcher::start(db, threads, settings, || Committer::new(Arc::clone(context))),
            places,
            refreshing: tokio::sync::Mutex::default(),
            time_bounds: TimeBounds {
                back_days: config.usage_window_back_days,
                ahead_s: config.usage_window_ahead_s,
                retention_months: config.usage_retention_months,
            },
            series: Arc::clone(&context.series),
        }
    }

    /// Accepts no more usage, commits what waits, ends the threads.
    pub fn stop(&self) {
        self.batcher.stop();
    }

    /// Usage events that wait.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.places.in_use()
    }

    /// Accepts the events that `read` returns, and returns what became of each, in their order; those that
    /// `read` rejected stay rejected. When this returns, every accepted event is durable. If the catalogue
    /// changes meanwhile, `read` is called again: a request that waits keeps only its body, which is smaller
    /// than its events.
    ///
    /// # Errors
    /// [`Error::TooMany`] when too much waits, [`Error::Busy`] when the database is away and nothing was
    /// stored, [`Error::OutcomeUnknown`] when nobody knows whether something was stored: send the request
    /// again. Also every error of `read`.
    pub async fn accept<'a>(
        &self,
        quotas: &Quotas,
        (holder, caller): (Holder, &Caller),
        options: IngestOptions,
        mut read: impl FnMut() -> Result<Vec<Result<UsageEvent<'a>, Rejection>>, Error>,
    ) -> Result<Vec<Outcome>, Error> {
        let mut rules = quotas.context.rules.get();
        if rules.version() == 0 {
            rules = self.refresh(quotas, rules.version()).await?;
        }
        for _ in 0..TRIES {
            let events = read()?;
            let orgs = EventOrgs::find(quotas, (holder, caller), &events).await?;
            let resolved = self.resolve(quotas, &rules.catalog, caller, &events, &orgs);
            // Our catalogue rejects an event. It may be old: another replica may have changed the catalogue.
            let rejects = events.iter().zip(&resolved).any(|(event, usage)| event.is_ok() && usage.is_err());
            if rejects && current_version(quotas).await? != rules.version() {
                rules = self.refresh(quotas, rules.version()).await?;
                continue;
            }
            drop((events, orgs));
            match self.commit(rules.version(), holder, resolved, options).await? {
                CommitResult::Outcomes(outcomes) => return Ok(outcomes),
                CommitResult::OldCatalog => rules = self.refresh(quotas, rules.version()).await?,
            }
        }
        Err(Error::Busy("the meters change faster than usage can be counted: send it again in a second"))
    }

    /// A newer rulebook than `old`. When several requests ask together, one reads it for all.
    async fn refresh(&self, quotas: &Quotas, old: i64) -> Result<Arc<Rulebook>, Error> {
        let _turn = self.refreshing.lock().await;
        let rules = quotas.context.rules.get();
        if rules.version() > old {
            return Ok(rules);
        }
        let context = Arc::clone(&quotas.context);
        quotas.context.db.with_connection(move |conn| context.rules.refresh(conn)).await
    }

    fn resolve(
        &self,
        quotas: &Quotas,
        catalog: &Catalog,
        caller: &Caller,
        events: &[Result<UsageEvent<'_>, Rejection>],
        orgs: &EventOrgs,
    ) -> Vec<Result<Usage, Rejection>> {
        let now = quotas.context.clock.now();
        let window = self.time_bounds.window(now);
        let resolver = Resolver { catalog, series: &self.series, caller: *caller, window, now };
        let resolve = |(position, event): (usize, &Result<UsageEvent<'_>, Rejection>)| {
            let event = event.as_ref().map_err(Clone::clone)?;
            let org = orgs.get(position, event)?;
            if let Some((rule, detail)) = org.standing.refusal_of_usage() {
                return Err(Rejection::new("org", rule, detail));
            }
            let usage = resolver.resolve(event, org)?;
            unpriced::refuse(&usage)?;
            Ok(usage)
        };
        events.iter().enumerate().map(resolve).collect()
    }

    /// Commits the events that were not rejected. If the request wants all or nothing and one was rejected,
    /// commits none.
    async fn commit(
        &self,
        catalog_version: i64,
        holder: Holder,
        resolved: Vec<Result<Usage, Rejection>>,
        options: IngestOptions,
    ) -> Result<CommitResult, Error> {
        let mut events = Vec::with_capacity(resolved.len());
        let mut rejections: Vec<Option<Rejection>> = Vec::with_capacity(resolved.len());
        for usage in resolved {
            rejections
                .push(usage.map(|usage| events.push(PendingEvent { usage, is_committed: false })).err());
        }
        let is_refused = options.all_or_nothing && events.len() < rejections.len();
        let committed = if events.is_empty() || is_refused {
            CommitResult::Outcomes(vec![Outcome::Accepted; events.len()])
        } else {
            let request = PendingRequest { events, catalog_version, options };
            self.batcher.submit(holder, request).await.map_err(reply::error)?
        };
        Ok(match committed {
            CommitResult::Outcomes(outcomes) => CommitResult::Outcomes(reply::merge(rejections, outcomes)),
            CommitResult::OldCatalog => CommitResult::OldCatalog,
        })
    }
}

async fn current_version(quotas: &Quotas) -> Result<i64, Error> {
    quotas.context.db.run(Scope::Platform, catalog::version).await
}
