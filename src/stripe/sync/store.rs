//! Puts what was read at Stripe into the inbox, compared with what the mirrors show.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use serde_json::value::RawValue;

use super::compare::{self, Comparison, Difference};
use super::drift::{self, DriftKind, NewDrift};
use super::runs::Tally;
use super::wanted::{self, Wanted};
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::inbox::{self, Fetch};

/// A fetch so close to the newest event may show the state before it, as Stripe's copies differ for moments:
/// it is repeated.
const CLOSE_S: i64 = 5;
/// An event that no webhook told for so long was missed. Stripe delivers within seconds.
const LATE_S: i64 = 60;

/// Why an object was read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cause<'a> {
    pub(super) run_id: Option<i64>,
    /// What we did not have is no difference: the account is brought in.
    pub(super) brings_in: bool,
    /// Why it was read alone, such as `thin_event`.
    pub(super) reason: Option<&'a str>,
}

/// Stores fetches of a realm, in the caller's transaction. Differences become drift rows. Returns the figures
/// of each kind of object.
pub(super) fn fetches(
    conn: &mut PgConnection,
    realm: &Realm,
    fetches: Vec<Fetch>,
    cause: Cause<'_>,
    now: DateTime<Utc>,
) -> Result<BTreeMap<String, Tally>, Error> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    if fetches.is_empty() {
        return Ok(tallies);
    }
    let compared = compare::compare(conn, realm, &fetches)?;
    let (mut kept, mut differences) = (Vec::new(), Vec::new());
    for (mut fetch, compared) in fetches.into_iter().zip(compared) {
        let tally = tallies.entry(fetch.object.clone()).or_default();
        tally.found += 1;
        match compared {
            Comparison::StillDeleted | Comparison::Erased => {
                tally.same += 1;
                continue;
            }
            Comparison::Same { inbox_id } => {
                tally.same += 1;
                fetch.same_as = Some(inbox_id);
                differences.push(None);
            }
            Comparison::Completed => {
                tally.same += 1;
                differences.push(None);
            }
            Comparison::New => {
                tally.new += 1;
                differences.push((!cause.brings_in).then(|| new_object(&fetch, cause)));
            }
            Comparison::Differs(difference) => {
                tally.changed += 1;
                repeat_if_close(conn, &fetch, &difference, now)?;
                differences.push(Some(differs(&fetch, difference)));
            }
        }
        kept.push(fetch);
    }
    let ids = inbox::add_fetches(conn, &kept, now)?;
    let drift = differences.into_iter().zip(ids).filter_map(|(difference, inbox_id)| {
        Some(NewDrift { inbox_id, run_id: cause.run_id, ..difference? })
    });
    drift::write(conn, realm, &drift.collect::<Vec<_>>(), now)?;
    Ok(tallies)
}

fn repeat_if_close(
    conn: &mut PgConnection,
    fetch: &Fetch,
    difference: &Difference,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if difference.ours_made <= fetch.observed - CLOSE_S {
        return Ok(());
    }
    let again = Wanted { object: &fetch.object, object_id: &fetch.id, reason: "close", path: None };
    wanted::add(conn, &fetch.realm, &again, now + TimeDelta::seconds(CLOSE_S))
}

fn new_object(fetch: &Fetch, cause: Cause<'_>) -> NewDrift {
    let (kind, why) = match cause.reason {
        Some("thin_event") => (DriftKind::ThinEvent, "an event only named it"),
        _ => (DriftKind::MissedEvent, "no event told that it exists"),
    };
    NewDrift {
        kind,
        object: fetch.object.clone(),
        object_id: fetch.id.clone(),
        fields: Vec::new(),
        ours: None,
        theirs: None,
        detail: format!("{} {}: {why}", fetch.object, fetch.id),
        inbox_id: None,
        run_id: None,
    }
}

fn differs(fetch: &Fetch, difference: Difference) -> NewDrift {
    let why = match difference.kind {
        DriftKind::MissedEvent => "Stripe shows another state, and no event told the change",
        DriftKind::AmbiguousResolved => "events did not tell which of its states is the last; this one is",
        DriftKind::IncompleteLines => "its events had only the first entries of a list",
        DriftKind::ThinEvent => "an event only named it",
        DriftKind::Deleted => "Stripe does not have it any more",
        DriftKind::UnknownVersion => "it was read in another version of Stripe's shapes",
        DriftKind::Impossible => "Stripe shows a state that cannot follow ours",
        DriftKind::TheirsOlder => "what Stripe showed is older than the newest event; it is read again",
        DriftKind::Usage => "the figures differ",
    };
    NewDrift {
        kind: difference.kind,
        object: fetch.object.clone(),
        object_id: fetch.id.clone(),
        fields: difference.fields,
        ours: Some(difference.ours),
        theirs: Some(difference.theirs),
        detail: format!("{} {}: {why}", fetch.object, fetch.id),
        inbox_id: None,
        run_id: None,
    }
}

/// How events reached us otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Expected {
    /// They were from before the daemon listened.
    No,
    /// A webhook should have told them.
    ByWebhook,
}

/// Stores events of Stripe's list, in the caller's transaction. Those that no webhook told become drift rows.
/// `observed`: Stripe's clock.
pub(super) fn events(
    conn: &mut PgConnection,
    realm: &Realm,
    events: &[Box<RawValue>],
    expected: Expected,
    observed: i64,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let raw: Vec<&RawValue> = events.iter().map(|event| &**event).collect();
    let added = inbox::add_events(conn, realm, &raw, now)?;
    let missed = added
        .iter()
        .filter(|event| expected == Expected::ByWebhook && event.envelope.created < observed - LATE_S)
        .map(|event| {
            let (id, kind) = (&event.envelope.event_id, &event.envelope.event_type);
            NewDrift {
                kind: DriftKind::MissedEvent,
                object: event.envelope.object.clone().unwrap_or_else(|| "event".to_owned()),
                object_id: event.envelope.object_id.clone().unwrap_or_else(|| id.clone()),
                fields: Vec::new(),
                ours: None,
                theirs: None,
                detail: format!("no webhook brought the event {id} ({kind}) within {LATE_S} s"),
                inbox_id: Some(event.inbox_id),
                run_id: None,
            }
        });
    drift::write(conn, realm, &missed.collect::<Vec<_>>(), now)?;
    let (found, new) = (events.len() as i64, added.len() as i64);
    Ok(Tally { found, new, same: found - new, changed: 0, requests: 0 })
}
