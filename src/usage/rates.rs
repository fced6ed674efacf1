//! Rate cards: versioned prices of a meter. Owns `rate_cards`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;
use crate::schema::rate_cards;

/// A rate card: what a unit of its meter costs from a time on.
#[derive(Clone, Debug, PartialEq)]
pub struct RateCard {
    /// Row id; the record keeps it.
    pub rate_card_id: i32,
    /// Whose prices.
    pub meter_id: i32,
    /// Counts up with each card of the meter.
    pub version: i32,
    /// Usage that occurred from then on.
    pub valid_from: DateTime<Utc>,
    /// ISO 4217, lower case; the same on every card of a meter.
    pub currency: String,
    /// The first rate whose `when` fits counts. Rates with more conditions come first.
    pub rates: Vec<Rate>,
}

/// The price of usage with certain dimensions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Dimension to value; usage must have them all. Empty: any usage.
    #[serde(default)]
    pub when: BTreeMap<String, String>,
    /// What a unit costs in the card's currency (major units), a decimal.
    #[serde(default)]
    #[schema(value_type = String)]
    pub unit_cost: Decimal,
    /// Battery units per unit, a decimal.
    #[serde(default)]
    #[schema(value_type = String)]
    pub battery_units: Decimal,
    /// Prices by the quantity of the org's local month, in place of `unit_cost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tiers: Option<Tiers>,
}

/// Prices by quantity.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tiers {
    /// How the tiers apply.
    pub mode: TierMode,
    /// In rising order of `up_to`; the last has none.
    pub tiers: Vec<Tier>,
}

/// How tiers apply to the quantity of a month.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TierMode {
    /// Each part of the quantity at the price of the tier that it lies in.
    Graduated,
    /// The whole quantity at the price of the tier that it reaches.
    Volume,
    /// `unit_cost` buys a package of `package_size`; a begun package is a whole one. One tier.
    Package,
}

/// One tier.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Its upper end, included; none: no end.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub up_to: Option<Decimal>,
    /// What a unit (a package) costs.
    #[serde(default)]
    #[schema(value_type = String)]
    pub unit_cost: Decimal,
    /// What reaching the tier costs once.
    #[serde(default)]
    #[schema(value_type = String)]
    pub flat_cost: Decimal,
    /// Units in a package; only for packages.
    #[serde(default)]
    #[schema(value_type = Option<String>)]
    pub package_size: Option<Decimal>,
}

/// Every rate card, in no order.
///
/// # Errors
/// When the database fails.
pub fn all(conn: &mut PgConnection) -> Result<Vec<RateCard>, Error> {
    type Row = (i32, i32, i32, DateTime<Utc>, String, serde_json::Value);
    let rows: Vec<Row> = rate_cards::table
        .select((
            rate_cards::rate_card_id,
            rate_cards::meter_id,
            rate_cards::version,
            rate_cards::valid_from,
            rate_cards::currency,
            rate_cards::rates,
        ))
        .load(conn)?;
    rows.into_iter()
        .map(|(rate_card_id, meter_id, version, valid_from, currency, rates)| {
            let rates = serde_json::from_value(rates)
                .map_err(|error| Error::Internal(format!("rate card {rate_card_id}: {error}")))?;
            Ok(RateCard { rate_card_id, meter_id, version, valid_from, currency, rates })
        })
        .collect()
}
