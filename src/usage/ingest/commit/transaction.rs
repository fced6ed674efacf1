//! The transaction that stores events: their keys, records, counters, batteries and daily summaries.
//!
//! It takes its locks in the order of all transactions: the catalogue, keys, tiers, levels, counters of
//! quotas, batteries, daily summaries; within each by key.

use std::collections::HashMap;

use diesel::pg::PgConnection;

use super::CommitResult;
use super::refusals::Refusals;
use crate::battery::Depth;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog;
use crate::metering::event::Outcome;
use crate::metering::levels::Levels;
use crate::metering::posting::{self, Burn, Tiers, claim, claim_new, unclaim, write};
use crate::metering::usage::Usage;
use crate::panics;
use crate::quota::{QuotaContext, thresholds};
use crate::usage::ingest::request::{IngestOptions, PendingEvent};

/// How events are stored.
pub(super) struct Rules<'a> {
    pub(super) context: &'a QuotaContext,
    /// Version of the catalogue that resolved them.
    pub(super) catalog_version: i64,
    pub(super) options: IngestOptions,
    /// Expect that none was stored before. One that was fails the transaction: [`posting::is_repeat`].
    pub(super) expects_new: bool,
}

/// Stores events inside the caller's transaction.
pub(super) fn store(
    conn: &mut PgConnection,
    rules: &Rules<'_>,
    events: &mut [&mut PendingEvent],
) -> Result<CommitResult, Error> {
    let version = catalog::lock_shared(conn)?;
    let is_same = version == rules.catalog_version;
    let Some(rulebook) = rules.context.rules.at(version).filter(|_| is_same) else {
        return Ok(CommitResult::OldCatalog);
    };
    let now = rules.context.clock.now();
    let mut outcomes = claim_keys(conn, events, rules.expects_new)?;
    let claimed = accepted(&outcomes);
    let mut tiers = Tiers::raise(conn, chosen(events, &claimed))?;
    let mut levels = Levels::lock(conn, chosen(events, &claimed))?;
    let (mut refusals, locked) = Refusals::decide(conn, &rulebook, events, &claimed, &mut levels, now)?;
    refusals.price(&mut tiers, events, &claimed);
    refusals.count_levels(&mut levels, events, &claimed);
    unclaim(conn, refusals.reject(events, &mut outcomes))?;
    if rules.options.all_or_nothing && outcomes.iter().any(|outcome| fails_all(outcome, rules.options)) {
        unclaim(conn, chosen(events, &accepted(&outcomes)).map(posting::key).collect())?;
        Tiers::lower(conn, chosen(events, &claimed))?;
        return Ok(CommitResult::Outcomes(outcomes));
    }
    let stored = accepted(&outcomes);
    let refused: Vec<bool> = claimed.iter().zip(&stored).map(|(claimed, stored)| claimed & !stored).collect();
    Tiers::lower(conn, chosen(events, &refused))?;
    let new: Vec<&Usage> = chosen(events, &stored).collect();
    let burn = Burn { terms: Some(&rulebook.limits.battery), locked, depth: Depth::Live, now };
    let moved = write(conn, &new, 1, burn)?;
    levels.write(conn)?;
    let orgs: HashMap<i64, &OrgContext> = new.iter().map(|usage| (usage.org.org_id, &*usage.org)).collect();
    thresholds::write_messages(conn, &rulebook, |org_id| orgs.get(&org_id).copied(), &moved, now)?;
    Ok(CommitResult::Outcomes(outcomes))
}

fn claim_keys(
    conn: &mut PgConnection,
    events: &[&mut PendingEvent],
    expects_new: bool,
) -> Result<Vec<Outcome>, Error> {
    let usage: Vec<&Usage> = events.iter().map(|event| &event.usage).collect();
    let outcomes = if expects_new { claim_new(conn, &usage)? } else { claim(conn, &usage)? };
    usage.iter().for_each(|usage| panics::panic_if_test_asks("usage-writer", || &*usage.event_id));
    Ok(outcomes)
}

/// Whether an event with this outcome keeps the whole request from being stored.
fn fails_all(outcome: &Outcome, options: IngestOptions) -> bool {
    match outcome {
        Outcome::Accepted => false,
        Outcome::Duplicate => options.new_only,
        Outcome::Conflict | Outcome::Rejected(_) => true,
    }
}

/// Which events are accepted so far.
fn accepted(outcomes: &[Outcome]) -> Vec<bool> {
    outcomes.iter().map(|outcome| *outcome == Outcome::Accepted).collect()
}

/// The events that are marked.
fn chosen<'a>(events: &'a [&mut PendingEvent], marked: &[bool]) -> impl Iterator<Item = &'a Usage> {
    events.iter().zip(marked).filter_map(|(event, marked)| marked.then_some(&event.usage))
}
