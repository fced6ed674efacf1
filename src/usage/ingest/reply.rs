//! From the outcomes of a batch to the reply of each request.

use super::commit::CommitResult;
use super::request::PendingRequest;
use crate::error::Error;
use crate::group_commit::NotDone;
use crate::metering::event::{Outcome, Rejection};

/// What became of each request of a batch, by what became of all their events. Requests that an older
/// catalogue than `version` resolved had no part in it.
pub(super) fn split(committed: CommitResult, version: i64, requests: &[PendingRequest]) -> Vec<CommitResult> {
    let mut outcomes = match committed {
        CommitResult::Outcomes(outcomes) => Some(outcomes.into_iter()),
        CommitResult::OldCatalog => None,
    };
    let reply = |request: &PendingRequest| match &mut outcomes {
        Some(outcomes) if request.catalog_version == version => {
            CommitResult::Outcomes(outcomes.by_ref().take(request.events.len()).collect())
        }
        _ => CommitResult::OldCatalog,
    };
    requests.iter().map(reply).collect()
}

/// Outcomes in the order of the request's events: rejected ones, and in between those that were committed.
pub(super) fn merge(rejections: Vec<Option<Rejection>>, committed: Vec<Outcome>) -> Vec<Outcome> {
    let mut committed = committed.into_iter();
    let mut next = || committed.next().expect("one outcome for each event that was not rejected");
    rejections.into_iter().map(|rejection| rejection.map_or_else(&mut next, Outcome::Rejected)).collect()
}

/// What a caller learns when its events were not committed.
pub(super) fn error(not_done: NotDone) -> Error {
    match not_done {
        NotDone::Full => {
            Error::TooMany("more usage waits than this daemon may hold: send it again in a second")
        }
        NotDone::Stopping => Error::Busy("this daemon is stopping: send it again in a second"),
        NotDone::Away => Error::Busy("the database is away: send it again in a second"),
        NotDone::Unknown => Error::OutcomeUnknown,
        NotDone::Failed(error) => {
            tracing::error!(%error, "usage was not stored, its caller must send it again");
            Error::Busy("the database is away: send it again in a second")
        }
    }
}
