//! What waits to be committed, and what shares a batch.

use std::sync::Arc;
use std::time::Duration;

use super::commit::{CommitResult, Committer};
use super::reply;
use super::request::PendingRequest;
use crate::config::Config;
use crate::error::Error;
use crate::group_commit::{BatchBounds, Gathering, Retry, Session, Settings, Work};
use crate::shares::Shares;

/// The more events a batch has the less each costs, so threads wait for more while others run large batches.
const GATHERING: Gathering =
    Gathering { from: 500, per_batch: Duration::from_millis(2), per_weight: Duration::from_micros(10) };

/// How usage is batched, by the daemon's settings. Each event takes one of `places`.
pub(super) fn settings(config: &Config, places: Arc<Shares>) -> Settings {
    Settings {
        name: "usage-writer",
        threads: usize::from(config.usage_writers),
        capacity: config.usage_queue as usize,
        places: Some(places),
        batch: BatchBounds { inputs: usize::MAX, weight: config.usage_batch as usize },
        gathering: Some(GATHERING),
        retry: Retry::Store,
    }
}

impl Work for Committer {
    type Input = PendingRequest;
    type Output = CommitResult;

    fn run(
        &mut self,
        session: &mut Session,
        requests: &mut [PendingRequest],
    ) -> Result<Vec<CommitResult>, Error> {
        let version = requests.iter().map(|request| request.catalog_version).max().unwrap_or_default();
        let committed = self.commit(session, version, requests)?;
        Ok(reply::split(committed, version, requests))
    }

    fn weight(request: &PendingRequest) -> usize {
        request.events.len()
    }

    fn goes_alone(request: &PendingRequest) -> bool {
        request.options.all_or_nothing
    }
}
