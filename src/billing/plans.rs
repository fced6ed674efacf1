//! Plans: what an org can be on, what each version of them offers, and the Stripe prices and products that buy them.
//!
//! Name, description and the prices of a plan are the plan's; its terms belong to a version, which never changes. Whoever bought one
//! keeps it until it is moved ([`super::moves`]).

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::directory;
use crate::error::Error;
use crate::quantity::Quantity;
use crate::schema::{plan_stripe_prices, plan_stripe_products, plan_versions, plans};

/// What a version of a plan offers.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PlanTerms {
    /// Currency of the amounts, three lower-case letters.
    pub currency: Option<String>,
    /// Price of a month in minor units of the currency.
    pub monthly_amount: Option<i64>,
    /// Price of a year in minor units of the currency.
    pub annual_amount: Option<i64>,
    /// Days of a trial; 0: none.
    pub trial_days: i32,
    /// Feature to whatever it means to your services.
    #[schema(value_type = Object)]
    pub features: Map<String, Value>,
    /// Battery units granted with each paid period.
    pub battery_units: Quantity,
    /// In their place with each paid year.
    pub annual_battery_units: Option<Quantity>,
    /// In their place with a trial.
    pub trial_battery_units: Option<Quantity>,
    /// Battery units granted each local day, and gone with it.
    pub daily_battery: Quantity,
    /// How far below zero the battery may be used; null: without limit.
    pub battery_debt_limit: Option<Quantity>,
}

/// A version of a plan.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PlanVersion {
    /// 1, 2, 3, …
    pub version: i32,
    /// Sold from then on; the first version also before.
    pub created_at: DateTime<Utc>,
    /// What it offers.
    #[serde(flatten)]
    pub terms: PlanTerms,
}

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

/// What of a plan is the same in all of its versions.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    /// What people call it.
    pub name: String,
    /// What it is.
    pub description: Option<String>,
    /// Whether it is still offered.
    pub active: bool,
    /// Whatever is kept with it.
    pub metadata: Map<String, Value>,
    /// Stripe prices that buy it.
    pub stripe_prices: Vec<String>,
    /// Stripe products any price of which buys it.
    pub stripe_products: Vec<String>,
}

/// # Errors
/// [`Error::Invalid`] when it cannot be the key of a plan.
pub fn check_id(plan_id: &str) -> Result<(), Error> {
    let key = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    if plan_id.is_empty() || plan_id.len() > 64 || !plan_id.chars().all(key) {
        return Err(Error::invalid("id", "must be 1 to 64 of a-z, 0-9, `-`, `_`, `.`"));
    }
    // A route of its own has that place.
    if plan_id == "import" {
        return Err(Error::invalid("id", "must not be `import`"));
    }
    Ok(())
}

/// PostgreSQL's jsonb cannot hold NUL.
fn has_nul(map: &Map<String, Value>) -> bool {
    Value::Object(map.clone()).to_string().contains("\\u0000")
}

impl Facts {
    /// # Errors
    /// [`Error::Invalid`] naming the field.
    pub fn check(&self) -> Result<(), Error> {
        if self.name.trim().is_empty() || self.name.chars().count() > 200 {
            return Err(Error::invalid("name", "must be 1 to 200 characters, and not blank"));
        }
        let texts = [Some(&self.name), self.description.as_ref()].into_iter().flatten();
        let mut texts = texts.chain(&self.stripe_prices).chain(&self.stripe_products);
        if texts.any(|text| text.contains('\0')) || has_nul(&self.metadata) {
            return Err(Error::invalid("body", "must not contain the NUL character"));
        }
        for (field, ids) in
            [("stripe_prices", &self.stripe_prices), ("stripe_products", &self.stripe_products)]
        {
            if ids.iter().any(|id| id.is_empty() || id.len() > 255) {
                return Err(Error::invalid(field, "must be ids of 1 to 255 characters"));
            }
        }
        Ok(())
    }
}

impl PlanTerms {
    /// # Errors
    /// [`Error::Invalid`] naming the field.
    pub fn check(&self) -> Result<(), Error> {
        if !(0..=730).contains(&self.trial_days) {
            return Err(Error::invalid("trial_days", "must be from 0 to 730"));
        }
        for (field, amount) in
            [("monthly.amount", self.monthly_amount), ("annual.amount", self.annual_amount)]
        {
            if amount.is_some_and(|amount| amount < 0) {
                return Err(Error::invalid(field, "must be 0 or more, in minor units"));
            }
        }
        let letters = |code: &String| code.len() == 3 && code.bytes().all(|b| b.is_ascii_lowercase());
        if !self.currency.as_ref().is_none_or(letters) {
            return Err(Error::invalid("currency", "must be three lower-case letters such as usd"));
        }
        for (field, units) in [
            ("battery_units", Some(self.battery_units)),
            ("annual_battery_units", self.annual_battery_units),
            ("trial_battery_units", self.trial_battery_units),
            ("daily_battery", Some(self.daily_battery)),
            ("battery_debt_limit", self.battery_debt_limit),
        ] {
            if units.is_some_and(|units| units.0 < Decimal::ZERO) {
                return Err(Error::invalid(field, "must be 0 or more"));
            }
        }
        if self.features.len() > 200 || has_nul(&self.features) {
            return Err(Error::invalid("features", "must be at most 200, without the NUL character"));
        }
        Ok(())
    }
}

/// Makes the plan, or replaces what is the same in all of its versions. A new plan needs a version with it.
///
/// # Errors
/// [`Error::Invalid`] for a bad field, [`Error::Conflict`] when a price or product buys another plan already.
pub fn put(conn: &mut PgConnection, plan_id: &str, facts: &Facts, now: DateTime<Utc>) -> Result<(), Error> {
    check_id(plan_id)?;
    facts.check()?;
    let values = (
        plans::name.eq(&facts.name),
        plans::description.eq(&facts.description),
        plans::active.eq(facts.active),
        plans::metadata.eq(Value::Object(facts.metadata.clone())),
    );
    diesel::insert_into(plans::table)
        .values((plans::plan_id.eq(plan_id), values.clone(), plans::created_at.eq(now)))
        .on_conflict(plans::plan_id)
        .do_update()
        .set(values)
        .execute(conn)?;
    release(conn, &[plan_id])?;
    let taken = |error: diesel::result::Error| {
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
    diesel::insert_into(plan_stripe_prices::table).values(prices).execute(conn).map_err(taken)?;
    let products: Vec<_> = facts
        .stripe_products
        .iter()
        .map(|id| (plan_stripe_products::product_id.eq(id), plan_stripe_products::plan_id.eq(plan_id)))
        .collect();
    diesel::insert_into(plan_stripe_products::table).values(products).execute(conn).map_err(taken)?;
    directory::changed(conn)?;
    Ok(())
}

/// Takes the prices and products from these plans, so that they may be given to others of them.
///
/// # Errors
/// When the database fails.
pub fn release(conn: &mut PgConnection, plan_ids: &[&str]) -> QueryResult<()> {
    diesel::delete(plan_stripe_prices::table.filter(plan_stripe_prices::plan_id.eq_any(plan_ids)))
        .execute(conn)?;
    diesel::delete(plan_stripe_products::table.filter(plan_stripe_products::plan_id.eq_any(plan_ids)))
        .execute(conn)?;
    Ok(())
}

/// Ids of all plans.
///
/// # Errors
/// When the database fails.
pub fn ids(conn: &mut PgConnection) -> QueryResult<Vec<String>> {
    plans::table.order(plans::plan_id).select(plans::plan_id).load(conn)
}

/// Makes the next version of a plan, and gives its number. The caller keeps others from doing so at the same time.
///
/// # Errors
/// [`Error::Invalid`] for a bad field.
pub fn add_version(
    conn: &mut PgConnection,
    plan_id: &str,
    terms: &PlanTerms,
    now: DateTime<Utc>,
) -> Result<i32, Error> {
    terms.check()?;
    let versions = plan_versions::table.filter(plan_versions::plan_id.eq(plan_id));
    let newest: Option<i32> = versions.select(diesel::dsl::max(plan_versions::version)).first(conn)?;
    let version = newest.unwrap_or(0) + 1;
    diesel::insert_into(plan_versions::table)
        .values((
            (plan_versions::plan_id.eq(plan_id), plan_versions::version.eq(version)),
            plan_versions::created_at.eq(now),
            plan_versions::currency.eq(&terms.currency),
            plan_versions::monthly_amount.eq(terms.monthly_amount),
            plan_versions::annual_amount.eq(terms.annual_amount),
            plan_versions::trial_days.eq(terms.trial_days),
            plan_versions::features.eq(Value::Object(terms.features.clone())),
            plan_versions::battery_units.eq(terms.battery_units.0),
            plan_versions::annual_battery_units.eq(terms.annual_battery_units.map(|units| units.0)),
            plan_versions::trial_battery_units.eq(terms.trial_battery_units.map(|units| units.0)),
            plan_versions::daily_battery.eq(terms.daily_battery.0),
            plan_versions::battery_debt_limit.eq(terms.battery_debt_limit.map(|units| units.0)),
        ))
        .execute(conn)?;
    directory::changed(conn)?;
    Ok(version)
}

type VersionRow = (
    (String, i32, DateTime<Utc>),
    (Option<String>, Option<i64>, Option<i64>, i32, Value),
    (Decimal, Option<Decimal>, Option<Decimal>, Decimal, Option<Decimal>),
);

const VERSION: (
    (plan_versions::plan_id, plan_versions::version, plan_versions::created_at),
    (
        plan_versions::currency,
        plan_versions::monthly_amount,
        plan_versions::annual_amount,
        plan_versions::trial_days,
        plan_versions::features,
    ),
    (
        plan_versions::battery_units,
        plan_versions::annual_battery_units,
        plan_versions::trial_battery_units,
        plan_versions::daily_battery,
        plan_versions::battery_debt_limit,
    ),
) = (
    (plan_versions::plan_id, plan_versions::version, plan_versions::created_at),
    (
        plan_versions::currency,
        plan_versions::monthly_amount,
        plan_versions::annual_amount,
        plan_versions::trial_days,
        plan_versions::features,
    ),
    (
        plan_versions::battery_units,
        plan_versions::annual_battery_units,
        plan_versions::trial_battery_units,
        plan_versions::daily_battery,
        plan_versions::battery_debt_limit,
    ),
);

fn version_of(((plan_id, version, created_at), price, battery): VersionRow) -> (String, PlanVersion) {
    let (currency, monthly_amount, annual_amount, trial_days, features) = price;
    let (units, annual, trial, daily, debt_limit) = battery;
    let terms = PlanTerms {
        currency,
        monthly_amount,
        annual_amount,
        trial_days,
        features: if let Value::Object(features) = features { features } else { Map::new() },
        battery_units: Quantity(units),
        annual_battery_units: annual.map(Quantity),
        trial_battery_units: trial.map(Quantity),
        daily_battery: Quantity(daily),
        battery_debt_limit: debt_limit.map(Quantity),
    };
    (plan_id, PlanVersion { version, created_at, terms })
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
    complete(conn, rows)
}

/// One plan.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn find(conn: &mut PgConnection, plan_id: &str) -> Result<Plan, Error> {
    let row: Option<Row> = plans::table.find(plan_id).first(conn).optional()?;
    complete(conn, row.into_iter().collect())?.pop().ok_or(Error::NotFound("plan"))
}

/// Every version of a plan, newest first.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan.
pub fn versions(conn: &mut PgConnection, plan_id: &str) -> Result<Vec<PlanVersion>, Error> {
    let of_plan = plan_versions::table.filter(plan_versions::plan_id.eq(plan_id));
    let rows: Vec<VersionRow> = of_plan.order(plan_versions::version.desc()).select(VERSION).load(conn)?;
    if rows.is_empty() {
        return Err(Error::NotFound("plan"));
    }
    Ok(rows.into_iter().map(|row| version_of(row).1).collect())
}

/// Every version of every plan, with the plan's id and name.
///
/// # Errors
/// When the database fails.
pub fn all_versions(conn: &mut PgConnection) -> QueryResult<Vec<(String, String, PlanVersion)>> {
    let rows: Vec<(String, VersionRow)> = plan_versions::table
        .inner_join(plans::table.on(plans::plan_id.eq(plan_versions::plan_id)))
        .select((plans::name, VERSION))
        .load(conn)?;
    let named = rows.into_iter().map(|(name, row)| {
        let (id, version) = version_of(row);
        (id, name, version)
    });
    Ok(named.collect())
}

/// The newest version of a plan.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan.
pub fn newest_version(conn: &mut PgConnection, plan_id: &str) -> Result<i32, Error> {
    let versions = plan_versions::table.filter(plan_versions::plan_id.eq(plan_id));
    let newest: Option<i32> = versions.select(diesel::dsl::max(plan_versions::version)).first(conn)?;
    newest.ok_or(Error::NotFound("plan"))
}

/// # Errors
/// [`Error::NotFound`] when the plan has no such version.
pub fn check_version(conn: &mut PgConnection, plan_id: &str, version: i32) -> Result<(), Error> {
    let there = diesel::dsl::exists(plan_versions::table.find((plan_id, version)));
    let there: bool = diesel::select(there).get_result(conn)?;
    if there { Ok(()) } else { Err(Error::NotFound("version of a plan")) }
}

/// Ids of the Stripe prices and of the Stripe products that buy a plan.
///
/// # Errors
/// When the database fails.
pub fn bought_by(conn: &mut PgConnection, plan_id: &str) -> QueryResult<(Vec<String>, Vec<String>)> {
    let prices = plan_stripe_prices::table.filter(plan_stripe_prices::plan_id.eq(plan_id));
    let products = plan_stripe_products::table.filter(plan_stripe_products::plan_id.eq(plan_id));
    Ok((
        prices.select(plan_stripe_prices::price_id).load(conn)?,
        products.select(plan_stripe_products::product_id).load(conn)?,
    ))
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

/// Adds prices, products and the newest version.
fn complete(conn: &mut PgConnection, rows: Vec<Row>) -> Result<Vec<Plan>, Error> {
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
    let versions: Vec<VersionRow> = plan_versions::table
        .filter(plan_versions::plan_id.eq_any(&ids))
        .distinct_on(plan_versions::plan_id)
        .order((plan_versions::plan_id, plan_versions::version.desc()))
        .select(VERSION)
        .load(conn)?;
    let mut versions: std::collections::BTreeMap<String, PlanVersion> =
        versions.into_iter().map(version_of).collect();
    let of = |all: &[(String, String)], plan_id: &str| {
        all.iter().filter(|(id, _)| id == plan_id).map(|(_, bought)| bought.clone()).collect()
    };
    let whole = |row: Row| {
        let newest = versions
            .remove(&row.plan_id)
            .ok_or_else(|| Error::Internal(format!("plan {} has no version", row.plan_id)))?;
        Ok(Plan {
            stripe_prices: of(&prices, &row.plan_id),
            stripe_products: of(&products, &row.plan_id),
            id: row.plan_id,
            name: row.name,
            description: row.description,
            active: row.active,
            metadata: row.metadata,
            created_at: row.created_at,
            version: newest.version,
            terms: newest.terms,
        })
    };
    rows.into_iter().map(whole).collect()
}
