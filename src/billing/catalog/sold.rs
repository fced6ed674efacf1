//! Products that say in their metadata which plan they sell.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde_json::{Map, Value};

use crate::realm::Realm;
use crate::schema::{prices, products};

/// The metadata key of a product whose value is the id of the plan.
pub const PLAN_KEY: &str = "coulomb_plan";

/// A product with the recurring prices at which it can be bought.
#[derive(Clone, Debug)]
pub struct Sold {
    /// `prod_…`
    pub product_id: String,
    /// Name shown to customers.
    pub name: Option<String>,
    /// Description shown to customers.
    pub description: Option<String>,
    /// Whether it can be bought.
    pub active: bool,
    pub metadata: Map<String, Value>,
    /// Active recurring prices, without metered ones: the default price first, then the newest.
    pub prices: Vec<SoldPrice>,
}

/// A recurring price.
#[derive(Clone, Debug, Queryable)]
pub struct SoldPrice {
    /// `price_…`
    pub price_id: String,
    product_id: Option<String>,
    /// Lower case.
    pub currency: Option<String>,
    /// Price of one in minor units; `None` if it is not whole.
    pub unit_amount: Option<i64>,
    /// `day`, `week`, `month` or `year`.
    pub interval: Option<String>,
    /// How many intervals between two bills.
    pub interval_count: Option<i32>,
}

impl SoldPrice {
    /// Months between two bills; `None` if they are not whole.
    #[must_use]
    pub fn months(&self) -> Option<i32> {
        let each = match self.interval.as_deref()? {
            "month" => 1,
            "year" => 12,
            _ => return None,
        };
        self.interval_count.unwrap_or(1).checked_mul(each)
    }
}

/// Products of a realm whose metadata names a plan, in the order of ids, without those deleted at Stripe.
pub fn plans(conn: &mut PgConnection, realm: &Realm) -> QueryResult<Vec<Sold>> {
    type ProductRow = (String, Option<String>, Option<String>, Option<bool>, Option<String>, Value);
    let rows: Vec<ProductRow> = products::table
        .filter(products::account.eq(&realm.account).and(products::livemode.eq(realm.livemode)))
        .filter(products::deleted.eq(false))
        .filter(products::metadata.retrieve_as_text(PLAN_KEY).is_not_null())
        .order(products::id)
        .select((
            products::id,
            products::name,
            products::description,
            products::active,
            products::default_price_id,
            products::metadata,
        ))
        .load(conn)?;
    let ids: Vec<&str> = rows.iter().map(|row| row.0.as_str()).collect();
    let all: Vec<(Option<DateTime<Utc>>, SoldPrice)> = prices::table
        .filter(prices::account.eq(&realm.account).and(prices::livemode.eq(realm.livemode)))
        .filter(prices::deleted.eq(false).and(prices::active.eq(true)))
        .filter(prices::product_id.eq_any(&ids).and(prices::recurring_interval.is_not_null()))
        .filter(prices::recurring_usage_type.is_distinct_from("metered"))
        .order((prices::created.desc(), prices::id.desc()))
        .select((
            prices::created,
            (
                prices::id,
                prices::product_id,
                prices::currency,
                prices::unit_amount,
                prices::recurring_interval,
                prices::recurring_interval_count,
            ),
        ))
        .load(conn)?;
    let sold = rows.into_iter().map(|(product_id, name, description, active, default, metadata)| {
        let own = all.iter().map(|(_, price)| price);
        let mut prices: Vec<SoldPrice> =
            own.filter(|price| price.product_id.as_ref() == Some(&product_id)).cloned().collect();
        // The sort is stable: the other prices stay newest first.
        prices.sort_by_key(|price| Some(&price.price_id) != default.as_ref());
        Sold {
            product_id,
            name,
            description,
            active: active.unwrap_or(true),
            metadata: if let Value::Object(metadata) = metadata { metadata } else { Map::new() },
            prices,
        }
    });
    Ok(sold.collect())
}
