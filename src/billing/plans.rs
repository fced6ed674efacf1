//! Plans: what an org can be on, and the Stripe prices that buy it.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use super::{directory, markers};
use crate::error::Error;
use crate::schema::{plan_stripe_prices, plan_versions, plans};

/// A plan.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Plan {
    /// Its key, such as `pro`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Whether it is still offered.
    pub active: bool,
    /// Whatever you keep with it.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
    /// Stripe prices (`price_…`, or legacy plan ids) that buy it.
    pub stripe_prices: Vec<String>,
}

/// A plan as it is put: the whole of it.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanBody {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200)]
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub description: Option<String>,
    /// Whether it is still offered.
    #[serde(default = "yes")]
    pub active: bool,
    /// Whatever you keep with it.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: serde_json::Map<String, Value>,
    /// Stripe prices that buy it. A price buys one plan.
    #[serde(default)]
    pub stripe_prices: Vec<String>,
}

fn yes() -> bool {
    true
}

#[derive(Queryable)]
struct Row {
    plan_id: String,
    name: String,
    description: Option<String>,
    active: bool,
    metadata: Value,
    created_at: DateTime<Utc>,
}

/// Makes the plan or replaces it.
///
/// # Errors
/// [`Error::Invalid`] for a bad field, [`Error::Conflict`] when a price buys another plan already.
pub fn put(conn: &mut PgConnection, plan_id: &str, body: &PlanBody, now: DateTime<Utc>) -> Result<(), Error> {
    let key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if plan_id.is_empty() || plan_id.len() > 64 || !plan_id.chars().all(key) {
        return Err(Error::invalid("id", "must be 1 to 64 of a-z, 0-9, `-`, `_`, `.`"));
    }
    let texts = [Some(&body.name), body.description.as_ref()];
    if body.name.trim().is_empty() || body.name.chars().count() > 200 {
        return Err(Error::invalid("name", "must be 1 to 200 characters, and not blank"));
    }
    let metadata = Value::Object(body.metadata.clone());
    let nul = texts.into_iter().flatten().chain(&body.stripe_prices).any(|text| text.contains('\0'));
    if nul || metadata.to_string().contains("\\u0000") {
        return Err(Error::invalid("body", "must not contain the NUL character"));
    }
    let values = (
        plans::name.eq(&body.name),
        plans::description.eq(&body.description),
        plans::active.eq(body.active),
        plans::metadata.eq(&metadata),
    );
    diesel::insert_into(plans::table)
        .values((plans::plan_id.eq(plan_id), values, plans::created_at.eq(now)))
        .on_conflict(plans::plan_id)
        .do_update()
        .set(values)
        .execute(conn)?;
    diesel::insert_into(plan_versions::table)
        .values((
            plan_versions::plan_id.eq(plan_id),
            plan_versions::version.eq(1),
            plan_versions::created_at.eq(now),
            plan_versions::trial_days.eq(0),
            plan_versions::features.eq(Value::Object(serde_json::Map::new())),
            plan_versions::battery_units.eq(Decimal::ZERO),
            plan_versions::daily_battery.eq(Decimal::ZERO),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    diesel::delete(plan_stripe_prices::table.filter(plan_stripe_prices::plan_id.eq(plan_id)))
        .execute(conn)?;
    let prices: Vec<_> = body
        .stripe_prices
        .iter()
        .map(|price| (plan_stripe_prices::price_id.eq(price), plan_stripe_prices::plan_id.eq(plan_id)))
        .collect();
    diesel::insert_into(plan_stripe_prices::table).values(prices).execute(conn).map_err(|error| {
        let error = Error::from(error);
        match error.constraint() {
            Some("plan_stripe_prices_pkey") => {
                Error::conflict("price_taken", "one of stripe_prices buys another plan, or is named twice")
            }
            _ => error,
        }
    })?;
    directory::changed(conn)?;
    markers::mapping_changed(conn)?;
    Ok(())
}

/// Plans by id, those after `after`, at most `limit`.
///
/// # Errors
/// When the database fails.
pub fn list(
    conn: &mut PgConnection,
    active: Option<bool>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Plan>, Error> {
    let mut query = plans::table.order(plans::plan_id).limit(limit).into_boxed();
    if let Some(active) = active {
        query = query.filter(plans::active.eq(active));
    }
    if let Some(after) = after {
        query = query.filter(plans::plan_id.gt(after));
    }
    let rows: Vec<Row> = query.load(conn)?;
    with_prices(conn, rows)
}

/// One plan.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn find(conn: &mut PgConnection, plan_id: &str) -> Result<Plan, Error> {
    let row: Option<Row> = plans::table.find(plan_id).first(conn).optional()?;
    with_prices(conn, row.into_iter().collect())?.pop().ok_or(Error::NotFound("plan"))
}

/// The newest version of a plan; 1 when there is none.
///
/// # Errors
/// When the database fails.
pub fn newest_version(conn: &mut PgConnection, plan_id: &str) -> QueryResult<i32> {
    let versions = plan_versions::table.filter(plan_versions::plan_id.eq(plan_id));
    let newest: Option<i32> = versions.select(diesel::dsl::max(plan_versions::version)).first(conn)?;
    Ok(newest.unwrap_or(1))
}

/// Ids of the Stripe prices that buy a plan.
///
/// # Errors
/// When the database fails.
pub fn prices(conn: &mut PgConnection, plan_id: &str) -> QueryResult<Vec<String>> {
    let of_plan = plan_stripe_prices::table.filter(plan_stripe_prices::plan_id.eq(plan_id));
    of_plan.select(plan_stripe_prices::price_id).load(conn)
}

fn with_prices(conn: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<Plan>, Error> {
    let ids: Vec<&str> = rows.iter().map(|row| row.plan_id.as_str()).collect();
    let prices: Vec<(String, String)> = plan_stripe_prices::table
        .filter(plan_stripe_prices::plan_id.eq_any(ids))
        .order(plan_stripe_prices::price_id)
        .select((plan_stripe_prices::plan_id, plan_stripe_prices::price_id))
        .load(conn)?;
    let of = |plan_id: &str| {
        prices.iter().filter(|(id, _)| id == plan_id).map(|(_, price)| price.clone()).collect()
    };
    Ok(rows
        .into_iter()
        .map(|row| Plan {
            stripe_prices: of(&row.plan_id),
            id: row.plan_id,
            name: row.name,
            description: row.description,
            active: row.active,
            metadata: row.metadata,
            created_at: row.created_at,
        })
        .collect())
}
