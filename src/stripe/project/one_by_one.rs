//! A batch that failed as a whole: each of its events is projected alone, so only the faulty one fails.

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;

use super::event::{Event, QueueEntry};
use super::queue::{self, Failure};
use super::{Options, StepCounts, Taken};
use crate::error::Error;
use crate::panics;
use crate::stripe::inbox;

/// Files the arrivals, then projects each event in a transaction of its own.
///
/// # Errors
/// When the database cannot be reached, or another transaction made this one fail. What is done by then stays
/// done.
pub(super) fn project(
    conn: &mut PgConnection,
    options: &Options,
    taken: &Taken,
    now: DateTime<Utc>,
) -> Result<StepCounts, Error> {
    let mut counts = StepCounts::default();
    let mut entries = taken.queued.clone();
    for arrival_id in &taken.arrivals {
        let filed = conn.transaction(|conn| panics::catch_as_error(|| file(conn, *arrival_id)));
        match filed {
            Ok((new, repeated)) => {
                entries.extend(new);
                counts.repeated += u64::try_from(repeated).unwrap_or(u64::MAX);
            }
            Err(error) if Error::is_transient(&error) => return Err(error),
            Err(error) => {
                inbox::set_aside(conn, *arrival_id, &error, now)?;
                counts.failed += 1;
            }
        }
    }
    for entry in entries {
        counts.add(match project_one(conn, options, entry.inbox_id, now) {
            Ok(counts) => counts,
            Err(error) if error.is_transient() => return Err(error),
            Err(error) => {
                let failure = Failure::new(&entry, options.attempts, now, error.to_string());
                queue::record_failures(conn, &[failure])?;
                StepCounts { failed: 1, ..StepCounts::default() }
            }
        });
    }
    Ok(counts)
}

/// Files an arrival into the inbox and puts its new events on the queue. Returns these, and the number of
/// deliveries whose event was in the inbox already.
fn file(conn: &mut PgConnection, arrival_id: i64) -> Result<(Vec<QueueEntry>, usize), Error> {
    let arrival = inbox::take_these(conn, &[arrival_id])?;
    let filing = super::file(conn, &arrival)?;
    let entries: Vec<QueueEntry> = filing.new.iter().map(|filed| QueueEntry::new(filed.inbox_id)).collect();
    queue::enqueue(conn, &entries)?;
    Ok((entries, filing.repeated))
}

fn project_one(
    conn: &mut PgConnection,
    options: &Options,
    inbox_id: i64,
    now: DateTime<Utc>,
) -> Result<StepCounts, Error> {
    conn.transaction(|conn| {
        panics::catch_as_error(|| {
            let rows = queue::claim_one(conn, inbox_id)?;
            let events: Vec<Event<'_>> = rows.iter().map(Event::from).collect();
            super::project(conn, options, &events, now)
        })
    })
}
