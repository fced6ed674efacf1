//! Plans: what orgs can buy, the versions of each plan, and the Stripe prices and products that buy it.
//!
//! A plan has a name, a description and prices; these may change. Its terms belong to a version, and a
//! version never changes. A subscription keeps the version that it bought until somebody moves it
//! ([`super::moves`]).

mod versions;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::{directory, markers};
use crate::error::Error;
use crate::schema::{orgs, plan_stripe_prices, plan_stripe_products, plans};
pub use versions::{
    Features, PlanPrice, PlanPrices, PlanTerms, PlanVersion, add_version, all_versions, check_version,
    grace_days, newest_version, terms_of, versions,
};

/// A plan, with its newest version.
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
    /// Whether orgs without a plan have it, in its newest version: new ones, cancelled, expired, never paid.
    /// One plan at most.
    #[serde(rename = "default")]
    pub is_default: bool,
    /// Of several plans that an org pays for the one of the highest rank counts.
    pub rank: i32,
    /// The only org that may have it, by public id; null: every org may.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// Whatever you keep with it.
    #[schema(value_type = Object)]
    pub metadata: Value,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
    /// Stripe prices (`price_…`, or legacy plan ids) that buy it.
    pub stripe_prices: Vec<String>,
    /// Stripe products (`prod_…`) any price of which buys it.
    pub stripe_products: Vec<String>,
    /// Number of the newest version.
    pub version: i32,
    /// What the newest version offers.
    #[serde(flatten)]
    pub terms: PlanTerms,
}

/// What all versions of a plan have in common.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub name: String,
    pub description: Option<String>,
    /// Whether it is still offered.
    pub active: bool,
    /// Whether orgs without a plan have it.
    pub is_default: bool,
    /// If an org pays for several plans, the one with the highest rank counts.
    pub rank: i32,
    /// The only org that may have it, by public id.
    pub org: Option<String>,
    pub metadata: Map<String, Value>,
    /// Stripe prices that buy it.
    pub stripe_prices: Vec<String>,
    /// Stripe products; any price of such a product buys the plan.
    pub stripe_products: Vec<String>,
}

/// Checks that a text can be the id of a plan.
///
/// # Errors
/// [`Error::Invalid`] when it cannot.
pub fn check_id(plan_id: &str) -> Result<(), Error> {
    crate::text::check_key(plan_id)?;
    // `/v1/plans/import` is a route of its own.
    if plan_id == "import" {
        return Err(Error::invalid("id", "must not be `import`"));
    }
    Ok(())
}

impl Facts {
    /// # Errors
    /// [`Error::Invalid`] names the field that is wrong.
    pub fn check(&self) -> Result<(), Error> {
        if self.name.trim().is_empty() || self.name.chars().count() > 200 {
            return Err(Error::invalid("name", "must be 1 to 200 characters, and not blank"));
        }
        for (field, ids) in
            [("stripe_prices", &self.stripe_prices), ("stripe_products", &self.stripe_products)]
        {
            if !ids.iter().all(|id| is_stripe_id(id)) {
                return Err(Error::invalid(field, STRIPE_ID));
            }
        }
        Ok(())
    }
}

/// The rule of [`is_stripe_id`], as an error text.
pub const STRIPE_ID: &str =
    "must be ids as Stripe writes them: 1 to 255 ASCII letters, digits and signs, without spaces";

/// Whether a text may be the id of a Stripe object. It need not begin with `price_`: for a price that was
/// created as a plan the seller chose the id. But `…`, as in the placeholder `price_…`, is in no id.
#[must_use]
pub fn is_stripe_id(id: &str) -> bool {
    (1..=255).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

/// Creates the plan, or replaces what all of its versions have in common. The caller adds a version to a new
/// plan in the same transaction.
///
/// # Errors
/// [`Error::Invalid`] for a bad field, [`Error::Conflict`] when a price or product buys another plan already.
pub fn put(conn: &mut PgConnection, plan_id: &str, facts: &Facts, now: DateTime<Utc>) -> Result<(), Error> {
    check_id(plan_id)?;
    facts.check()?;
    release(conn, &[plan_id])?;
    facts.org.as_deref().map(|org| check_org(conn, org)).transpose()?;
    let values = (
        plans::name.eq(&facts.name),
        plans::description.eq(&facts.description),
        plans::active.eq(facts.active),
        plans::is_default.eq(facts.is_default),
        plans::rank.eq(facts.rank),
        plans::for_org.eq(&facts.org),
        plans::metadata.eq(Value::Object(facts.metadata.clone())),
    );
    diesel::insert_into(plans::table)
        .values((plans::plan_id.eq(plan_id), values.clone(), plans::created_at.eq(now)))
        .on_conflict(plans::plan_id)
        .do_update()
        .set(values)
        .execute(conn)
        .map_err(|error| {
            let error = Error::from(error);
            match error.constraint() {
                Some("plans_default") => Error::conflict(
                    "default_taken",
                    "another plan is the default one: take `default` from that first, or in the same file",
                ),
                _ => error,
            }
        })?;
    let conflict = |error: diesel::result::Error| {
        let error = Error::from(error);
        match error.constraint() {
            Some("plan_stripe_prices_pkey") => {
                Error::conflict("price_taken", "one of stripe_prices buys another plan, or is named twice")
            }
            Some("plan_stripe_products_pkey") => Error::conflict(
                "product_taken",
                "one of stripe_products buys another plan, or is named twice",
            ),
            _ => error,
        }
    };
    let prices: Vec<_> = facts
        .stripe_prices
        .iter()
        .map(|price| (plan_stripe_prices::price_id.eq(price), plan_stripe_prices::plan_id.eq(plan_id)))
        .collect();
    diesel::insert_into(plan_stripe_prices::table).values(prices).execute(conn).map_err(conflict)?;
    let products: Vec<_> = facts
        .stripe_products
        .iter()
        .map(|id| (plan_stripe_products::product_id.eq(id), plan_stripe_products::plan_id.eq(plan_id)))
        .collect();
    diesel::insert_into(plan_stripe_products::table).values(products).execute(conn).map_err(conflict)?;
    directory::all_changed(conn)?;
    markers::mapping_changed(conn)?;
    Ok(())
}

/// Checks that the org exists that a plan is for.
fn check_org(conn: &mut PgConnection, org: &str) -> Result<(), Error> {
    let exists = diesel::dsl::exists(orgs::table.filter(orgs::public_id.eq(org)));
    let is_there: bool = diesel::select(exists).get_result(conn)?;
    if is_there { Ok(()) } else { Err(Error::invalid("org", "must be the id (`org_…`) of an org here")) }
}

/// Takes prices, products and the mark `default` away from these plans, so that another plan may get them.
pub fn release(conn: &mut PgConnection, plan_ids: &[&str]) -> QueryResult<()> {
    diesel::delete(plan_stripe_prices::table.filter(plan_stripe_prices::plan_id.eq_any(plan_ids)))
        .execute(conn)?;
    diesel::delete(plan_stripe_products::table.filter(plan_stripe_products::plan_id.eq_any(plan_ids)))
        .execute(conn)?;
    diesel::update(plans::table.filter(plans::plan_id.eq_any(plan_ids)))
        .set(plans::is_default.eq(false))
        .execute(conn)?;
    Ok(())
}

/// The plan of orgs that no subscription gives a plan; `None`: no plan is the default one.
pub fn default_plan(conn: &mut PgConnection) -> QueryResult<Option<String>> {
    plans::table.filter(plans::is_default).select(plans::plan_id).first(conn).optional()
}

/// Ids of all plans, in order.
pub fn ids(conn: &mut PgConnection) -> QueryResult<Vec<String>> {
    plans::table.order(plans::plan_id).select(plans::plan_id).load(conn)
}

/// Plans in the order of ids, from the one after `after` on, at most `limit`.
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
    let rows: Vec<PlanRow> = query.load(conn)?;
    complete(conn, rows)
}

/// # Errors
/// [`Error::NotFound`] when there is no such plan.
pub fn find(conn: &mut PgConnection, plan_id: &str) -> Result<Plan, Error> {
    let row: Option<PlanRow> = plans::table.find(plan_id).first(conn).optional()?;
    complete(conn, row.into_iter().collect())?.pop().ok_or(Error::NotFound("plan"))
}

/// Ids of the Stripe prices and of the Stripe products that buy a plan.
pub fn bought_by(conn: &mut PgConnection, plan_id: &str) -> QueryResult<(Vec<String>, Vec<String>)> {
    let prices = plan_stripe_prices::table.filter(plan_stripe_prices::plan_id.eq(plan_id));
    let products = plan_stripe_products::table.filter(plan_stripe_products::plan_id.eq(plan_id));
    Ok((
        prices.select(plan_stripe_prices::price_id).load(conn)?,
        products.select(plan_stripe_products::product_id).load(conn)?,
    ))
}

#[derive(Queryable)]
struct PlanRow {
    plan_id: String,
    name: String,
    description: Option<String>,
    active: bool,
    metadata: Value,
    created_at: DateTime<Utc>,
    rank: i32,
    is_default: bool,
    for_org: Option<String>,
}

/// Adds to each row its prices, its products and its newest version.
fn complete(conn: &mut PgConnection, rows: Vec<PlanRow>) -> Result<Vec<Plan>, Error> {
    let ids: Vec<&str> = rows.iter().map(|row| row.plan_id.as_str()).collect();
    let prices: Vec<(String, String)> = plan_stripe_prices::table
        .filter(plan_stripe_prices::plan_id.eq_any(&ids))
        .order(plan_stripe_prices::price_id)
        .select((plan_stripe_prices::plan_id, plan_stripe_prices::price_id))
        .load(conn)?;
    let products: Vec<(String, String)> = plan_stripe_products::table
        .filter(plan_stripe_products::plan_id.eq_any(&ids))
        .order(plan_stripe_products::product_id)
        .select((plan_stripe_products::plan_id, plan_stripe_products::product_id))
        .load(conn)?;
    let mut versions = versions::newest(conn, &ids)?;
    let bought_by = |all: &[(String, String)], plan_id: &str| {
        all.iter().filter(|(id, _)| id == plan_id).map(|(_, stripe_id)| stripe_id.clone()).collect()
    };
    let plan_of = |row: PlanRow| {
        let newest = versions
            .remove(&row.plan_id)
            .ok_or_else(|| Error::Internal(format!("plan {} has no version", row.plan_id)))?;
        Ok(Plan {
            stripe_prices: bought_by(&prices, &row.plan_id),
            stripe_products: bought_by(&products, &row.plan_id),
            id: row.plan_id,
            name: row.name,
            description: row.description,
            active: row.active,
            is_default: row.is_default,
            rank: row.rank,
            org: row.for_org,
            metadata: row.metadata,
            created_at: row.created_at,
            version: newest.version,
            terms: newest.terms,
        })
    };
    rows.into_iter().map(plan_of).collect()
}
