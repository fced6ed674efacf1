//! Rate cards: versioned prices of a meter. Owns `rate_cards`.

mod define;
pub(super) mod play;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::error::Error;
use crate::quantity::{QuantityAboveZero, QuantityFromZero};
use crate::schema::rate_cards;

pub use self::define::{NewRateCard, create};

/// A rate card: what a unit of its meter costs from a time on.
///
/// Tiers are counted by the quantity of the org's local month, whichever card priced it: a card that begins
/// in the middle of a month goes on where the month stands, and gives no free allowance a second time. Late
/// usage is priced by the card of its time, in the tiers of its month. A void gives back what was charged, an
/// amendment is priced where the usage event stood, even when the month is closed and the difference is
/// posted to the open one.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RateCard {
    /// Row id; the record keeps it.
    #[serde(skip)]
    pub rate_card_id: i32,
    /// Whose prices.
    #[serde(skip)]
    pub meter_id: i32,
    /// Counts up with each card of the meter.
    pub version: i32,
    /// Usage that occurred from then on.
    pub valid_from: DateTime<Utc>,
    /// ISO 4217, lower case; the same on every card of a meter.
    pub currency: String,
    /// The first rate whose `when` fits counts. Rates with more conditions come first.
    pub rates: Vec<Rate>,
    /// When it was made: it prices what came from then on.
    pub created_at: DateTime<Utc>,
}

/// The price of usage with certain dimensions.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Rate {
    /// Dimension to value; usage must have them all. Empty: any usage.
    #[serde(default)]
    pub when: BTreeMap<String, String>,
    /// What a unit costs in the card's currency (major units), a decimal.
    #[serde(default, deserialize_with = "exact")]
    #[schema(value_type = QuantityFromZero)]
    pub unit_cost: Decimal,
    /// Battery units per unit, a decimal.
    #[serde(default, deserialize_with = "exact")]
    #[schema(value_type = QuantityFromZero)]
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
    #[serde(default, deserialize_with = "exact_or_none", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<QuantityAboveZero>)]
    pub up_to: Option<Decimal>,
    /// What a unit (a package) costs.
    #[serde(default, deserialize_with = "exact")]
    #[schema(value_type = QuantityFromZero)]
    pub unit_cost: Decimal,
    /// What reaching the tier costs once.
    #[serde(default, deserialize_with = "exact")]
    #[schema(value_type = QuantityFromZero)]
    pub flat_cost: Decimal,
    /// Units in a package; only for packages.
    #[serde(default, deserialize_with = "exact_or_none", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<QuantityAboveZero>)]
    pub package_size: Option<Decimal>,
}

/// A decimal as a string or a number, to the last digit as it stands.
fn exact<'de, D: Deserializer<'de>>(from: D) -> Result<Decimal, D::Error> {
    exact_or_none(from)?.ok_or_else(|| serde::de::Error::custom("must be a decimal, not null"))
}

fn exact_or_none<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Decimal>, D::Error> {
    let raw = Box::<RawValue>::deserialize(from)?;
    let text = raw.get();
    if text == "null" {
        return Ok(None);
    }
    let digits = text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text);
    let number = if digits.contains(['e', 'E']) {
        Decimal::from_scientific(digits)
    } else {
        Decimal::from_str_exact(digits)
    };
    let number = number
        .map_err(|_| serde::de::Error::custom("must be a decimal of at most 28 digits, such as \"0.25\""))?;
    Ok(Some(number.normalize()))
}

type Row = (i32, i32, i32, DateTime<Utc>, String, serde_json::Value, DateTime<Utc>);

const COLUMNS: (
    rate_cards::rate_card_id,
    rate_cards::meter_id,
    rate_cards::version,
    rate_cards::valid_from,
    rate_cards::currency,
    rate_cards::rates,
    rate_cards::created_at,
) = (
    rate_cards::rate_card_id,
    rate_cards::meter_id,
    rate_cards::version,
    rate_cards::valid_from,
    rate_cards::currency,
    rate_cards::rates,
    rate_cards::created_at,
);

fn card_of(
    (rate_card_id, meter_id, version, valid_from, currency, rates, created_at): Row,
) -> Result<RateCard, Error> {
    let rates = serde_json::from_value(rates)
        .map_err(|error| Error::Internal(format!("rate card {rate_card_id}: {error}")))?;
    Ok(RateCard { rate_card_id, meter_id, version, valid_from, currency, rates, created_at })
}

/// Every rate card, in no order.
///
/// # Errors
/// When the database fails.
pub fn all(conn: &mut PgConnection) -> Result<Vec<RateCard>, Error> {
    rate_cards::table.select(COLUMNS).load::<Row>(conn)?.into_iter().map(card_of).collect()
}

/// The rate cards of a meter, the newest version first.
///
/// # Errors
/// When the database fails.
pub fn of_meter(conn: &mut PgConnection, meter_id: i32) -> Result<Vec<RateCard>, Error> {
    list(conn, meter_id, None, i64::MAX)
}

/// As [`of_meter`], those of a version below `before`, at most `limit`.
///
/// # Errors
/// When the database fails.
pub fn list(
    conn: &mut PgConnection,
    meter_id: i32,
    before: Option<i32>,
    limit: i64,
) -> Result<Vec<RateCard>, Error> {
    let of_meter = rate_cards::table
        .filter(rate_cards::meter_id.eq(meter_id))
        .filter(rate_cards::version.lt(before.unwrap_or(i32::MAX)));
    let rows: Vec<Row> =
        of_meter.order(rate_cards::version.desc()).select(COLUMNS).limit(limit).load(conn)?;
    rows.into_iter().map(card_of).collect()
}
