//! Quotas that a version of a plan brings. Owns `plan_quotas`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Integer, Text};
use serde::Serialize;
use utoipa::ToSchema;

use super::define::{self, SlotDefinition, SlotDefinitionRow, SlotOrgs};
use super::limits::{LimitTerms, LimitTermsRow};
use crate::billing::directory::Directory;
use crate::error::Error;
use crate::metering::catalog;
use crate::schema::{meters, plan_quotas, quota_slots};

/// A limit that every org on the plan has, unless it has a quota of its own on the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct PlanQuota {
    /// What is counted.
    #[serde(flatten)]
    pub counted: SlotDefinition,
    /// How much, and what then.
    #[serde(flatten)]
    pub terms: LimitTerms,
}

/// Replaces the whole list of quotas of a version of a plan, for every org that has the version. What they
/// limit is counted for every org, so that a change of plan changes the limit alone.
///
/// # Errors
/// [`Error::Invalid`] naming the place in the list.
pub fn put(
    conn: &mut PgConnection,
    directory: &Directory,
    (plan_id, version): (&str, i32),
    list: &[(SlotDefinition, LimitTerms)],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    catalog::begin_change(conn)?;
    let old =
        plan_quotas::table.filter(plan_quotas::plan_id.eq(plan_id)).filter(plan_quotas::version.eq(version));
    diesel::delete(old).execute(conn)?;
    let mut taken = BTreeSet::new();
    for (n, (definition, terms)) in list.iter().enumerate() {
        let slot_id = define::define(conn, directory, definition, SlotOrgs::All, now)
            .map_err(|error| at_place(n, error))?;
        if !taken.insert(slot_id) {
            return Err(counted_twice(n));
        }
        diesel::insert_into(plan_quotas::table)
            .values((
                plan_quotas::plan_id.eq(plan_id),
                plan_quotas::version.eq(version),
                plan_quotas::slot_id.eq(slot_id),
                plan_quotas::limit_quantity.eq(terms.limit.map(|limit| limit.0)),
                plan_quotas::enforcement.eq(terms.enforcement.name()),
                plan_quotas::refuse_usage.eq(terms.refuse_usage),
                plan_quotas::thresholds.eq(terms.threshold_percents()),
            ))
            .execute(conn)?;
    }
    Ok(())
}

/// An error about the quota at this place in the list of a plan: names the place before the field.
pub fn at_place(n: usize, error: Error) -> Error {
    match error {
        Error::Invalid { field, rule } => Error::invalid(format!("quotas.{n}.{field}"), rule),
        other => other,
    }
}

/// A plan has one quota on a slot.
#[must_use]
pub fn counted_twice(n: usize) -> Error {
    Error::invalid(format!("quotas.{n}"), "counts the same as an earlier one: leave one of them out")
}

/// Gives a version of a plan the quotas of another one, as they are now.
pub fn copy(conn: &mut PgConnection, plan_id: &str, (from, to): (i32, i32)) -> QueryResult<()> {
    diesel::sql_query(
        "INSERT INTO plan_quotas (plan_id, version, slot_id, limit_quantity, enforcement, refuse_usage,
             thresholds)
         SELECT plan_id, $3, slot_id, limit_quantity, enforcement, refuse_usage, thresholds
         FROM plan_quotas
         WHERE plan_id = $1 AND version = $2",
    )
    .bind::<Text, _>(plan_id)
    .bind::<Integer, _>(from)
    .bind::<Integer, _>(to)
    .execute(conn)
    .map(drop)
}

/// Quotas of a version of a plan, in the order in which what they count was defined.
pub fn list(conn: &mut PgConnection, plan_id: &str, version: i32) -> Result<Vec<PlanQuota>, Error> {
    let rows: Vec<(SlotDefinitionRow, LimitTermsRow)> = plan_quotas::table
        .inner_join(quota_slots::table.on(quota_slots::slot_id.eq(plan_quotas::slot_id)))
        .inner_join(meters::table.on(meters::meter_id.eq(quota_slots::meter_id)))
        .filter(plan_quotas::plan_id.eq(plan_id))
        .filter(plan_quotas::version.eq(version))
        .order(plan_quotas::slot_id)
        .select((
            (meters::key, quota_slots::filter, quota_slots::per_subject, quota_slots::period),
            (
                plan_quotas::limit_quantity,
                plan_quotas::enforcement,
                plan_quotas::refuse_usage,
                plan_quotas::thresholds,
            ),
        ))
        .load(conn)?;
    let quota = |(counted, terms)| {
        Ok(PlanQuota { counted: SlotDefinition::from_row(counted)?, terms: LimitTerms::from_row(terms)? })
    };
    rows.into_iter().map(quota).collect()
}
