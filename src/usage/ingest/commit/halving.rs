//! Finding the event that cannot be stored: by halves, until it is alone and is rejected.

use super::CommitResult;
use crate::error::Error;
use crate::metering::event::{Outcome, Rejection};
use crate::metering::posting;
use crate::usage::ingest::request::PendingEvent;

/// Commits events together by `commit`. Where an event is at fault, the two halves are committed one after
/// the other, and so on. An event that is alone and at fault is rejected.
pub(super) fn by_halves(
    events: &mut [&mut PendingEvent],
    commit: &mut impl FnMut(&mut [&mut PendingEvent]) -> Result<CommitResult, Error>,
) -> Result<CommitResult, Error> {
    match (commit(events), events) {
        (Err(Error::BatteryFull { org_id }), events) => without_burning(events, org_id, commit),
        (Err(error), [event]) if error.is_about_data() => {
            let event_id = &event.usage.event_id;
            tracing::warn!(%error, ?event_id, "a usage event that the database cannot hold is rejected");
            Ok(not_storable("the database cannot hold this event: its numbers or texts are out of range"))
        }
        // Once more, alone: it need not have been the cause.
        (Err(error), [event]) if error.is_panic() => match commit(&mut [&mut **event]) {
            Err(error) if error.is_panic() => {
                let event_id = &event.usage.event_id;
                tracing::error!(%error, ?event_id, "a usage event on which the daemon panics is rejected");
                Ok(not_storable("the server fails on this event: the operator's log says where"))
            }
            result => result,
        },
        (Err(error), events) if error.is_about_data() || error.is_panic() => {
            let (left, right) = events.split_at_mut(events.len() / 2);
            match (by_halves(left, commit)?, by_halves(right, commit)?) {
                (CommitResult::Outcomes(mut left), CommitResult::Outcomes(right)) => {
                    left.extend(right);
                    Ok(CommitResult::Outcomes(left))
                }
                // What the first half stored is then found as stored before.
                _ => Ok(CommitResult::OldCatalog),
            }
        }
        (result, _) => result,
    }
}

fn not_storable(detail: &str) -> CommitResult {
    CommitResult::Outcomes(vec![Outcome::Rejected(Rejection::new("data", "not_storable", detail))])
}

/// Commits events but those that burn the battery of this org, which has no room for them. All of these are
/// rejected at once: halving takes long, and one org's events would block all others.
fn without_burning(
    events: &mut [&mut PendingEvent],
    org_id: i64,
    commit: &mut impl FnMut(&mut [&mut PendingEvent]) -> Result<CommitResult, Error>,
) -> Result<CommitResult, Error> {
    let burns =
        |event: &PendingEvent| event.usage.org.org_id == org_id && !posting::units(&event.usage).is_zero();
    let burning: Vec<bool> = events.iter().map(|event| burns(event)).collect();
    if !burning.contains(&true) {
        return Err(Error::Internal(format!("the battery of org {org_id} is full, and nothing burns it")));
    }
    let others = events.iter_mut().zip(&burning).filter(|(_, burns)| !**burns);
    let mut others: Vec<&mut PendingEvent> = others.map(|(event, _)| &mut **event).collect();
    let mut committed = if others.is_empty() {
        Vec::new()
    } else {
        match by_halves(&mut others, commit)? {
            CommitResult::Outcomes(outcomes) => outcomes,
            CommitResult::OldCatalog => return Ok(CommitResult::OldCatalog),
        }
    }
    .into_iter();
    let detail = Error::BatteryFull { org_id }.to_string();
    let full = Outcome::Rejected(Rejection::new("data", "amount_too_large", detail));
    let outcomes = burning.iter().map(|burns| if *burns { Some(full.clone()) } else { committed.next() });
    let outcomes: Option<Vec<Outcome>> = outcomes.collect();
    outcomes.map(CommitResult::Outcomes).ok_or_else(|| Error::Internal("an event has no outcome".to_owned()))
}
