//! Plans as a whole: what they offer, what buys them, what they limit; and what an org is entitled to by
//! them.
//!
//! A plan's terms and Stripe prices are `billing`'s, its quotas are `quota`'s; here they are put together, in
//! one transaction that begins with the catalogue's lock. A body sent to the API, the plans file and the
//! import from Stripe all make a [`PlanDefinition`]; [`apply`] writes what differs from the stored plans.

pub mod body;
pub mod definition;
pub mod diff;
pub mod entitlements;
pub mod file;
pub mod import;
pub mod subscriptions;
pub mod unit_grants;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

use crate::battery::packs;
use crate::billing::directory::Directory;
use crate::billing::{local_subscriptions, moves, plans};
use crate::error::Error;
use crate::metering::catalog;
use crate::quota::plan_quotas;
pub use definition::PlanDefinition;
pub use diff::PlanChange;

/// What applying would change, plan by plan; nothing is written.
///
/// # Errors
/// [`Error::Invalid`] for a definition that cannot be, naming plan and field.
pub fn changes(conn: &mut PgConnection, definitions: &[PlanDefinition]) -> Result<Vec<PlanChange>, Error> {
    let mut changes = Vec::new();
    for plan in definitions {
        changes.extend(diff::plan_change(conn, plan).map_err(|error| of_plan(&plan.id, error))?);
    }
    Ok(changes)
}

/// An error about one of several plans: names the plan before the field.
fn of_plan(id: &str, error: Error) -> Error {
    match error {
        Error::Invalid { field, rule } => Error::invalid(format!("plan {id}: {field}"), rule),
        Error::Conflict { code, detail, field } => {
            Error::Conflict { code, detail: format!("plan {id}: {detail}"), field }
        }
        other => other,
    }
}

/// Makes plans as they are defined, and returns what changed. Where terms or quotas differ from those of the
/// newest version, a new version is made. Call it first in the transaction.
///
/// # Errors
/// As [`changes`]; [`Error::Conflict`] when a price or product buys a plan that is not among these.
pub fn apply(
    conn: &mut PgConnection,
    directory: &Directory,
    definitions: &[PlanDefinition],
    now: DateTime<Utc>,
) -> Result<Vec<PlanChange>, Error> {
    catalog::begin_change(conn)?;
    let changes = changes(conn, definitions)?;
    // A price or product, or the default, may go from one of these plans to another.
    let changed: Vec<&str> = changes.iter().map(|change| change.plan.as_str()).collect();
    plans::release(conn, &changed)?;
    for change in &changes {
        if let Some(plan) = definitions.iter().find(|plan| plan.id == change.plan) {
            write(conn, directory, plan, change, now).map_err(|error| of_plan(&plan.id, error))?;
        }
    }
    Ok(changes)
}

/// As [`apply`], for one plan; errors name the field alone.
///
/// # Errors
/// As [`apply`].
pub fn put(
    conn: &mut PgConnection,
    directory: &Directory,
    definition: &PlanDefinition,
    now: DateTime<Utc>,
) -> Result<Option<PlanChange>, Error> {
    catalog::begin_change(conn)?;
    let change = diff::plan_change(conn, definition)?;
    if let Some(change) = &change {
        write(conn, directory, definition, change, now)?;
    }
    Ok(change)
}

fn write(
    conn: &mut PgConnection,
    directory: &Directory,
    plan: &PlanDefinition,
    change: &PlanChange,
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
