//! Step 6, lines that wait: effects that cannot happen yet. Owns `battery_effects_waiting`.
//!
//! [`store`] writes what waits, [`requeue`] has lines decided again when something may unblock them,
//! [`operators`] lists, dismisses and assigns them.

mod operators;
mod requeue;
mod store;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

use super::apply::Applied;
use super::model::SaleSource;
use crate::billing::markers::{self, Marker};
use crate::error::Error;

pub(super) use operators::check_reason;
pub use operators::{Assignment, WaitingEffect, assign, count, dismiss, list};
pub use requeue::requeue_all;
pub(super) use requeue::{requeue_overdue, requeue_unblocked};
pub(super) use store::{park, unpark};

/// Stores the lines that wait after these changes, and requeues what the changes may unblock.
pub(super) fn follow_up(
    conn: &mut PgConnection,
    applied: &Applied<'_>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    store::store(conn, &applied.decisions, now)?;
    requeue::requeue_of_subscriptions(conn, &applied.subscriptions)?;
    requeue::requeue_unused_time(conn, &applied.regranted)?;
    let markers: Vec<Marker> = applied.of_other_orgs.iter().copied().map(SaleSource::to_marker).collect();
    Ok(markers::write(conn, &markers)?)
}
