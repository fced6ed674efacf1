//! Effects: what Stripe's payments do to batteries. Paid sales grant units; returned money claws units back.
//!
//! The projection writes *markers* beside the mirrors ([`crate::billing::markers`]). After its commit, this
//! pipeline works on them. Each step is one file or folder:
//!
//! 0. [`queue`] takes a batch of markers, and retries the markers that fail.
//! 1. [`sources`]: markers → *sources*. A source is what was paid: an invoice, a payment intent or a checkout
//!    session.
//! 2. [`owners`]: sources → the orgs that own them. Then the batteries of these orgs are locked.
//! 3. [`facts`]: sources → *facts*. Reads everything that mirrors, catalogue and earlier effects say about a
//!    source.
//! 4. [`decide`]: facts → *decisions*: which grants, which clawbacks, which lines wait. Pure.
//! 5. [`apply`]: decisions → changed batteries, and rows of *effects*: what each line did.
//! 6. [`waiting`]: stores lines that wait, and requeues lines that the changes may unblock.
//!
//! A step uses the steps before it, and the types that all share in [`model`]; SQL that several steps share
//! is in [`sql`]. Beside the pipeline: [`skipped`] remembers payments while nothing is sold here, [`ignored`]
//! holds what another product of the same Stripe account sells, and `integrity/effects.rs` checks the result.
//!
//! **The order of events does not matter.** Facts are read after the commit of the mirrors, and under the
//! lock of the battery. So the transaction that has the lock last has seen everything.
//!
//! **No waiting line is forgotten.** Payments may wait for a link, an org, a mapping or a subscription. The
//! marker of such an object is handled in a short transaction of its own, which takes the [`lock`] of effects
//! alone; payments take it shared. So this transaction sees every line that waits for the object, and
//! payments after it see the object. The same holds for [`skipped`] payments.
//!
//! A source without an org locks no battery. So two transactions may decide it at once, and the older
//! decision may be stored last. That does no harm: the change between them has a marker, which is handled
//! later.

pub(crate) mod apply;
pub(crate) mod decide;
pub(crate) mod facts;
pub mod ignored;
mod lock;
pub(crate) mod model;
mod owners;
mod queue;
pub mod skipped;
pub(crate) mod sources;
mod sql;
#[cfg(test)]
mod tests;
pub mod waiting;

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

use self::queue::MarkerGroup;
use super::{Accounts, Depth};
use crate::billing::markers::{self, Marker};
use crate::billing::org_plan::AsOf;
use crate::billing::told;
use crate::config::Proration;
use crate::error::Error;
use crate::panics;

#[derive(Clone, Copy, Debug)]
pub struct EffectOptions {
    /// How many markers one transaction takes at most.
    pub batch: u32,
    /// What a change of plan within a period does.
    pub proration: Proration,
    /// Days for which `past_due` keeps the plan.
    pub grace_days: u16,
}

/// Works on the next markers; returns how many it took.
///
/// # Errors
/// Only when the database is away or locks were lost. Then nothing has changed, and the next call tries
/// again.
pub fn run_batch(
    conn: &mut PgConnection,
    options: &EffectOptions,
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    let as_of = AsOf { now, grace_days: options.grace_days };
    let prerequisites =
        queue::run_batch(conn, MarkerGroup::Prerequisites, options.batch, now, &|conn, markers| {
            work_on_prerequisites(conn, markers)?;
            told::write_messages(conn, markers, as_of)
        })?;
    let payments = queue::run_batch(conn, MarkerGroup::Payments, options.batch, now, &|conn, markers| {
        work_on_payments(conn, options, markers, now)?;
        told::write_messages(conn, markers, as_of)
    })?;
    Ok(prerequisites + payments)
}

/// Requeues what waits for a link, an org, a mapping or a subscription that these markers name.
fn work_on_prerequisites(conn: &mut PgConnection, markers: &BTreeSet<Marker>) -> Result<(), Error> {
    lock::hold_alone(conn)?;
    waiting::unpark(conn, markers)?;
    waiting::requeue_unblocked(conn, markers)?;
    if markers.iter().any(|marker| marker.kind == markers::MAPPING) {
        skipped::resume(conn)?;
    }
    Ok(())
}

/// The pipeline.
fn work_on_payments(
    conn: &mut PgConnection,
    options: &EffectOptions,
    markers: &BTreeSet<Marker>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    markers.iter().for_each(|marker| panics::panic_if_test_asks("effects", || &*marker.id));
    lock::share(conn)?;
    waiting::unpark(conn, markers)?;
    skipped::walk(conn, markers)?;

    let sources = sources::find(conn, markers)?;
    if sources.is_empty() {
        return Ok(());
    }
    // A source that cannot do anything yet gets another marker later.
    let sells = skipped::is_anything_sold(conn)?;
    let owners = owners::find(conn, &sources, sells)?;
    skipped::note(conn, &owners.skipped, now)?;
    if owners.sources.is_empty() {
        return Ok(());
    }
    let mut accounts = Accounts::lock(conn, owners.orgs, Depth::All, now)?;
    let facts = facts::load(conn, &owners.sources)?;
    let decisions = decide::decide(&facts, options.proration, now)?;
    let applied = apply::apply(conn, &mut accounts, &decisions, now)?;
    waiting::follow_up(conn, &applied, now)?;
    accounts.write(conn)
}
