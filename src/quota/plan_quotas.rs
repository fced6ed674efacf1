//! Quotas that a plan brings. Owns `plan_quotas`.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use super::define::{self, Counted, For};
use super::limits::Terms;
use super::quotas::{counted_of, terms_of};
use crate::billing::directory::Directory;
use crate::billing::plans;
use crate::error::Error;
use crate::schema::{meters, plan_quotas, quota_slots};
use crate::usage::catalog;

/// A limit that every org on the plan has, unless it has a quota of its own on the same.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PlanQuota {
    /// What is counted.
    #[serde(flatten)]
    pub counted: Counted,
    /// How much, and what then.
    #[serde(flatten)]
    pub terms: Terms,
}

/// Puts a plan's whole list of quotas in place of the one before. What is counted for them is counted for every org, so that a
/// change of plan changes the limit alone.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan; [`Error::Invalid`] naming the place in the list.
pub fn put(
    conn: &mut PgConnection,
    directory: &Directory,
    plan_id: &str,
    list: &[(Counted, Terms)],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    catalog::change(conn)?;
    plans::find(conn, plan_id)?;
    let version = plans::newest_version(conn, plan_id)?;
    let old =
        plan_quotas::table.filter(plan_quotas::plan_id.eq(plan_id)).filter(plan_quotas::version.eq(version));
    diesel::delete(old).execute(conn)?;
    let mut taken = BTreeSet::new();
    for (n, (counted, terms)) in list.iter().enumerate() {
        let here = |error| match error {
            Error::Invalid { field, rule } => Error::invalid(format!("quotas.{n}.{field}"), rule),
            other => other,
        };
        let slot_id = define::define(conn, directory, counted, For::Everybody, now).map_err(here)?;
        if !taken.insert(slot_id) {
            return Err(Error::invalid(
                format!("quotas.{n}"),
                "counts the same as an earlier one: leave one of them out",
            ));
        }
        diesel::insert_into(plan_quotas::table)
            .values((
                plan_quotas::plan_id.eq(plan_id),
                plan_quotas::version.eq(version),
                plan_quotas::slot_id.eq(slot_id),
                plan_quotas::limit_quantity.eq(terms.limit.map(|limit| limit.0)),
                plan_quotas::enforcement.eq(terms.enforcement.name()),
                plan_quotas::refuse_usage.eq(terms.refuse_usage),
                plan_quotas::thresholds.eq(terms
                    .thresholds
                    .iter()
                    .map(|percent| percent.0)
                    .collect::<Vec<_>>()),
            ))
            .execute(conn)?;
    }
    Ok(())
}

/// A plan's quotas, in the order in which what they count was defined.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan.
pub fn list(conn: &mut PgConnection, plan_id: &str) -> Result<Vec<PlanQuota>, Error> {
    type Row = ((String, Value, bool, String), (Option<Decimal>, String, bool, Vec<Option<Decimal>>));
    plans::find(conn, plan_id)?;
    let version = plans::newest_version(conn, plan_id)?;
    let rows: Vec<Row> = plan_quotas::table
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
    rows.into_iter()
        .map(|(counted, terms)| Ok(PlanQuota { counted: counted_of(counted)?, terms: terms_of(terms)? }))
        .collect()
}
