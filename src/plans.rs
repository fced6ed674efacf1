//! Plans as a whole: what they offer, what buys them, what they limit; and what an org is entitled to by
//! them.
//!
//! A plan's terms and Stripe prices are `billing`'s, its quotas are `quota`'s; here they are put together, in
//! one transaction that begins with the catalogue's lock. A body sent to the API, the plans file and the
//! import from Stripe all come to a [`Wanted`], and [`apply`] makes the difference.

pub mod body;
pub mod charge;
pub mod diff;
pub mod entitlements;
pub mod file;
pub mod import;
pub mod subscriptions;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

use crate::battery::packs;
use crate::billing::directory::Directory;
use crate::billing::{local_subscriptions, moves, plans};
use crate::error::Error;
use crate::metering::catalog;
use crate::quota::plan_quotas;
pub use body::Wanted;
pub use diff::Change;

/// What applying would change, plan by plan; nothing is written.
///
/// # Errors
/// [`Error::Invalid`] for what is wanted and cannot be, naming plan and field.
pub fn changes(conn: &mut PgConnection, wanted: &[Wanted]) -> Result<Vec<Change>, Error> {
    let mut changes = Vec::new();
    for plan in wanted {
        changes.extend(diff::change(conn, plan).map_err(|error| of_plan(&plan.id, error))?);
    }
    Ok(changes)
}

/// The error, saying which of several plans it is about.
fn of_plan(id: &str, error: Error) -> Error {
    match error {
        Error::Invalid { field, rule } => Error::invalid(format!("plan {id}: {field}"), rule),
        Error::Conflict { code, detail } => Error::conflict(code, format!("plan {id}: {detail}")),
        other => other,
    }
}

/// Makes plans what is wanted of them, and tells what that changed. Where the terms or quotas differ from
/// those of the newest version a new one is made. Call it first in the transaction.
///
/// # Errors
/// As [`changes`]; [`Error::Conflict`] when a price or product buys a plan that is not among these.
pub fn apply(
    conn: &mut PgConnection,
    directory: &Directory,
    wanted: &[Wanted],
    now: DateTime<Utc>,
) -> Result<Vec<Change>, Error> {
    catalog::begin_change(conn)?;
    let changes = changes(conn, wanted)?;
    // What goes from one of them to another is no contradiction.
    let changed: Vec<&str> = changes.iter().map(|change| change.plan.as_str()).collect();
    plans::release(conn, &changed)?;
    for change in &changes {
        if let Some(plan) = wanted.iter().find(|plan| plan.id == change.plan) {
            write(conn, directory, plan, change, now).map_err(|error| of_plan(&plan.id, error))?;
        }
    }
    Ok(changes)
}

/// As [`apply`], of one plan; errors name the field alone.
///
/// # Errors
/// As [`apply`].
pub fn put(
    conn: &mut PgConnection,
    directory: &Directory,
    wanted: &Wanted,
    now: DateTime<Utc>,
) -> Result<Option<Change>, Error> {
    catalog::begin_change(conn)?;
    let change = diff::change(conn, wanted)?;
    if let Some(change) = &change {
        write(conn, directory, wanted, change, now)?;
    }
    Ok(change)
}

fn write(
    conn: &mut PgConnection,
    directory: &Directory,
    plan: &Wanted,
    change: &Change,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    plans::put(conn, &plan.id, &plan.facts, now)?;
    if let Some(price) = packs::price_of_pack(conn, &plan.facts.stripe_prices)? {
        return Err(Error::conflict(
            "price_taken",
            format!("the price {price} buys a pack: give the plan a price of its own"),
        ));
    }
    if change.new_version.is_none() {
        return Ok(());
    }
    let version = plans::add_version(conn, &plan.id, &plan.terms, now)?;
    match &plan.quotas {
        Some(quotas) => plan_quotas::put(conn, directory, (&plan.id, version), quotas, now),
        None => Ok(plan_quotas::copy(conn, &plan.id, (version - 1, version))?),
    }
}

/// Moves every subscription, of Stripe or local, that has not ended from one version of a plan to another;
/// returns how many.
///
/// # Errors
/// [`Error::NotFound`] when the plan has no such version.
pub fn move_all(
    conn: &mut PgConnection,
    plan_id: &str,
    versions: (i32, i32),
    now: DateTime<Utc>,
) -> Result<usize, Error> {
    catalog::begin_change(conn)?;
    Ok(moves::all(conn, plan_id, versions, now)?
        + local_subscriptions::move_all(conn, plan_id, versions, now)?)
}
