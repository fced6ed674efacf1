//! Packs: units that are sold outside of plans, and the Stripe prices and payment links that buy them. Owns
//! `battery_packs`, `battery_pack_stripe_prices` and `battery_pack_payment_links`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::billing::markers;
use crate::billing::plans::{STRIPE_ID, is_stripe_id};
use crate::error::Error;
use crate::money::round_units;
use crate::quantity::{LIMIT, Quantity, UnitsAboveZero};
use crate::schema::{
    battery_pack_payment_links, battery_pack_stripe_prices, battery_packs, plan_stripe_prices,
};

/// A pack: units that are sold at once.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct Pack {
    /// Its key, such as `credits-5000`.
    pub id: String,
    /// What people call it.
    pub name: String,
    /// Units of one.
    #[schema(value_type = String)]
    pub units: Decimal,
    /// Days after which what remains expires; null: never.
    pub expires_after_days: Option<i32>,
    /// Lower burns first; null: the priority of purchases.
    pub priority: Option<i16>,
    /// Whether it is still offered. A paid pack is granted either way.
    pub active: bool,
    /// When it was made here.
    pub created_at: DateTime<Utc>,
    /// Stripe prices (`price_…`) that buy it.
    pub stripe_prices: Vec<String>,
    /// Stripe payment links (`plink_…`) that buy it.
    pub payment_links: Vec<String>,
}

/// A whole pack, as it replaces the one before. Grants that were made before stay as they are.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PackBody {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    /// Units of one, above zero, with at most nine decimal places.
    #[schema(value_type = UnitsAboveZero)]
    pub units: Quantity,
    /// Days after which what remains expires, from 1 to 36500; left out: never.
    #[serde(default)]
    #[schema(minimum = 1, maximum = 36500)]
    pub expires_after_days: Option<i32>,
    /// Lower burns first; left out: the priority of purchases.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 1000)]
    pub priority: Option<i16>,
    /// Whether it is still offered.
    #[serde(default = "yes")]
    pub active: bool,
    /// Stripe prices that buy it. A price buys one pack.
    #[serde(default)]
    pub stripe_prices: Vec<String>,
    /// Stripe payment links that buy it. A link buys one pack.
    #[serde(default)]
    pub payment_links: Vec<String>,
}

fn yes() -> bool {
    true
}

#[derive(Queryable)]
struct PackRow {
    pack_id: String,
    name: String,
    units: Decimal,
    expires_after_days: Option<i32>,
    priority: Option<i16>,
    active: bool,
    created_at: DateTime<Utc>,
}

/// A century.
const MAX_DAYS: i32 = 36_500;

fn check_pack(pack_id: &str, body: &PackBody) -> Result<(), Error> {
    crate::text::check_key(pack_id)?;
    if body.name.trim().is_empty() || body.name.chars().count() > 200 {
        return Err(Error::invalid("name", "must be 1 to 200 characters, and not blank"));
    }
    let units = body.units.0;
    if units <= Decimal::ZERO || units >= LIMIT || units != round_units(units) {
        return Err(Error::invalid(
            "units",
            "must be above zero and below 10^15, with at most nine decimal places",
        ));
    }
    if body.expires_after_days.is_some_and(|days| !(1..=MAX_DAYS).contains(&days)) {
        return Err(Error::invalid(
            "expires_after_days",
            format!("must be from 1 to {MAX_DAYS}, or left out"),
        ));
    }
    for (field, ids) in [("stripe_prices", &body.stripe_prices), ("payment_links", &body.payment_links)] {
        if !ids.iter().all(|id| is_stripe_id(id)) {
            return Err(Error::invalid(field, STRIPE_ID));
        }
    }
    crate::text::no_nul("name", &body.name)?;
    Ok(())
}

/// Makes the pack or replaces it, and requeues payments that wait for it.
///
/// # Errors
/// [`Error::Invalid`] for a bad field, [`Error::Conflict`] when a price or link buys something else already.
pub fn put(conn: &mut PgConnection, pack_id: &str, body: &PackBody, now: DateTime<Utc>) -> Result<(), Error> {
    check_pack(pack_id, body)?;
    let values = (
        battery_packs::name.eq(&body.name),
        battery_packs::units.eq(body.units.0),
        battery_packs::expires_after_days.eq(body.expires_after_days),
        battery_packs::priority.eq(body.priority),
        battery_packs::active.eq(body.active),
    );
    diesel::insert_into(battery_packs::table)
        .values((battery_packs::pack_id.eq(pack_id), values, battery_packs::created_at.eq(now)))
        .on_conflict(battery_packs::pack_id)
        .do_update()
        .set(values)
        .execute(conn)?;
    let by_plans = plan_stripe_prices::table.filter(plan_stripe_prices::price_id.eq_any(&body.stripe_prices));
    let price_of_plan: Option<String> =
        by_plans.select(plan_stripe_prices::price_id).first(conn).optional()?;
    if let Some(price) = price_of_plan {
        return Err(Error::conflict(
            "price_taken",
            format!("the price {price} buys a plan: give the pack a price of its own"),
        ));
    }
    put_prices(conn, pack_id, &body.stripe_prices)?;
    put_links(conn, pack_id, &body.payment_links)?;
    markers::mapping_changed(conn)?;
    Ok(())
}

/// The first of these prices that buys a pack.
pub fn price_of_pack(conn: &mut PgConnection, prices: &[String]) -> QueryResult<Option<String>> {
    use battery_pack_stripe_prices as t;
    t::table.filter(t::price_id.eq_any(prices)).select(t::price_id).order(t::price_id).first(conn).optional()
}

fn put_prices(conn: &mut PgConnection, pack_id: &str, prices: &[String]) -> Result<(), Error> {
    use battery_pack_stripe_prices as t;
    diesel::delete(t::table.filter(t::pack_id.eq(pack_id))).execute(conn)?;
    let rows: Vec<_> = prices.iter().map(|price| (t::price_id.eq(price), t::pack_id.eq(pack_id))).collect();
    diesel::insert_into(t::table)
        .values(rows)
        .execute(conn)
        .map_err(|error| to_conflict(error, "price_taken", "stripe_prices"))?;
    Ok(())
}

fn put_links(conn: &mut PgConnection, pack_id: &str, links: &[String]) -> Result<(), Error> {
    use battery_pack_payment_links as t;
    diesel::delete(t::table.filter(t::pack_id.eq(pack_id))).execute(conn)?;
    let rows: Vec<_> =
        links.iter().map(|link| (t::payment_link_id.eq(link), t::pack_id.eq(pack_id))).collect();
    diesel::insert_into(t::table)
        .values(rows)
        .execute(conn)
        .map_err(|error| to_conflict(error, "payment_link_taken", "payment_links"))?;
    Ok(())
}

fn to_conflict(error: diesel::result::Error, code: &'static str, field: &str) -> Error {
    let error = Error::from(error);
    match error.constraint() {
        Some("battery_pack_stripe_prices_pkey" | "battery_pack_payment_links_pkey") => {
            Error::conflict(code, format!("one of {field} buys another pack, or is named twice"))
        }
        _ => error,
    }
}

/// At most `limit` packs in the order of their ids, after the id `after`.
pub fn list(
    conn: &mut PgConnection,
    active: Option<bool>,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Pack>, Error> {
    let mut query = battery_packs::table.order(battery_packs::pack_id).limit(limit).into_boxed();
    if let Some(active) = active {
        query = query.filter(battery_packs::active.eq(active));
    }
    if let Some(after) = after {
        query = query.filter(battery_packs::pack_id.gt(after));
    }
    let rows: Vec<PackRow> = query.load(conn)?;
    with_stripe_ids(conn, rows)
}

/// One pack.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn find(conn: &mut PgConnection, pack_id: &str) -> Result<Pack, Error> {
    let row: Option<PackRow> = battery_packs::table.find(pack_id).first(conn).optional()?;
    with_stripe_ids(conn, row.into_iter().collect())?.pop().ok_or(Error::NotFound("pack"))
}

/// The packs of these rows, with the prices and links that buy them.
fn with_stripe_ids(conn: &mut PgConnection, rows: Vec<PackRow>) -> Result<Vec<Pack>, Error> {
    let ids: Vec<&str> = rows.iter().map(|row| row.pack_id.as_str()).collect();
    let prices: Vec<(String, String)> = battery_pack_stripe_prices::table
        .filter(battery_pack_stripe_prices::pack_id.eq_any(&ids))
        .order(battery_pack_stripe_prices::price_id)
        .select((battery_pack_stripe_prices::pack_id, battery_pack_stripe_prices::price_id))
        .load(conn)?;
    let links: Vec<(String, String)> = battery_pack_payment_links::table
        .filter(battery_pack_payment_links::pack_id.eq_any(&ids))
        .order(battery_pack_payment_links::payment_link_id)
        .select((battery_pack_payment_links::pack_id, battery_pack_payment_links::payment_link_id))
        .load(conn)?;
    let (mut prices, mut links) = (by_pack(prices), by_pack(links));
    Ok(rows
        .into_iter()
        .map(|row| Pack {
            stripe_prices: prices.remove(&row.pack_id).unwrap_or_default(),
            payment_links: links.remove(&row.pack_id).unwrap_or_default(),
            id: row.pack_id,
            name: row.name,
            units: row.units.normalize(),
            expires_after_days: row.expires_after_days,
            priority: row.priority,
            active: row.active,
            created_at: row.created_at,
        })
        .collect())
}

fn by_pack(rows: Vec<(String, String)>) -> BTreeMap<String, Vec<String>> {
    let mut by_pack: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (pack, id) in rows {
        by_pack.entry(pack).or_default().push(id);
    }
    by_pack
}
