//! Rate cards: the versioned prices of a meter. Owns `rate_cards`.

pub(crate) mod choose;
mod define;
pub(crate) mod play;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::billing::org_name::OrgName;
use crate::billing::plans;
use crate::error::Error;
use crate::quantity::{QuantityAboveZero, QuantityFromZero};
use crate::schema::{orgs, rate_cards};

pub use self::define::{NewRateCard, create};

/// A rate card: what a unit of its meter costs from a time on.
///
/// A card is for the usage of every org, of orgs with a plan, or of one org. Of the cards that were valid at
/// the time of usage, the org's own comes first, then the card of the plan that the org had then, then the
/// meter's. The first of them with a rate for the usage prices it. An org's card without rates ends its own
/// prices. Where a meter has cards in several currencies, those in the org's currency count, else those in
/// the meter's.
///
/// Tiers count the quantity of the org's local month, or of its billing period where the card says so,
/// whichever card priced it: a card that begins in the middle of a month goes on where the month is, and
/// gives no free allowance a second time. Late usage is priced by the card of its time, in the tiers of its
/// month. A void gives back what was charged. An amendment is priced at the position of the usage event that
/// it replaces, even when the month is closed and the difference is posted to the open one.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct RateCard {
    /// Row id; usage records refer to it.
    #[serde(skip)]
    pub rate_card_id: i32,
    #[serde(skip)]
    pub meter_id: i32,
    /// Counts the cards of the meter, of whatever org or plan.
    pub version: i32,
    /// It prices the usage of orgs with this plan; null: with any plan.
    pub plan: Option<String>,
    /// It prices the usage of the org with this row id; 0: of every org.
    #[serde(skip)]
    pub org_id: i64,
    /// It prices the usage of this org, by public id; null: of every org.
    pub org: Option<String>,
    /// The period whose quantity its tiers count.
    pub period: TierPeriod,
    /// The figure of a `level` meter that it prices; null for other meters.
    pub price_by: Option<PriceBy>,
    /// It prices usage that occurred from then on.
    pub valid_from: DateTime<Utc>,
    /// ISO 4217, lower case.
    pub currency: String,
    /// The first rate whose `when` fits counts. Rates with more conditions come first.
    pub rates: Vec<Rate>,
    /// It prices usage that arrived from then on.
    pub created_at: DateTime<Utc>,
}

/// The period whose quantity tiers count.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TierPeriod {
    /// The org's local month.
    #[default]
    Month,
    /// The billing period of the org's subscription; the local month while it has none.
    Billing,
}

impl TierPeriod {
    /// The name in the database and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Month => "month",
            Self::Billing => "billing",
        }
    }
}

/// The figure by which a level is priced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = LevelPriceBy)]
pub enum PriceBy {
    /// The average, each level weighted by how long it lasted.
    Average,
    /// The highest at any instant.
    Peak,
}

impl PriceBy {
    /// The name in the database and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Average => "average",
            Self::Peak => "peak",
        }
    }
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
    /// Prices by the quantity of the card's `period`, in place of `unit_cost`.
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

/// How tiers apply to the quantity of a period.
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
    /// Its upper end, included; null: it has no end.
    #[serde(default, deserialize_with = "exact_or_none", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<QuantityAboveZero>)]
    pub up_to: Option<Decimal>,
    /// What a unit (a package) costs.
    #[serde(default, deserialize_with = "exact")]
    #[schema(value_type = QuantityFromZero)]
    pub unit_cost: Decimal,
    /// What it costs once to reach the tier.
    #[serde(default, deserialize_with = "exact")]
    #[schema(value_type = QuantityFromZero)]
    pub flat_cost: Decimal,
    /// Units in a package; only for packages.
    #[serde(default, deserialize_with = "exact_or_none", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<QuantityAboveZero>)]
    pub package_size: Option<Decimal>,
}

/// Reads a decimal from a string or a number, without losing a digit.
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

#[derive(Queryable)]
struct CardRow {
    rate_card_id: i32,
    meter_id: i32,
    version: i32,
    plan: Option<String>,
    org_id: i64,
    org: Option<String>,
    period: String,
    price_by: Option<String>,
    valid_from: DateTime<Utc>,
    currency: String,
    rates: serde_json::Value,
    created_at: DateTime<Utc>,
}

/// Every column of cards, with the public id of the org.
macro_rules! card_rows {
    () => {
        rate_cards::table.left_join(orgs::table.on(orgs::org_id.eq(rate_cards::org_id))).select((
            rate_cards::rate_card_id,
            rate_cards::meter_id,
            rate_cards::version,
            rate_cards::plan_id,
            rate_cards::org_id,
            orgs::public_id.nullable(),
            rate_cards::period,
            rate_cards::price_by,
            rate_cards::valid_from,
            rate_cards::currency,
            rate_cards::rates,
            rate_cards::created_at,
        ))
    };
}

impl CardRow {
    fn into_card(self) -> Result<RateCard, Error> {
        let broken = |what: String| Error::Internal(format!("rate card {}: {what}", self.rate_card_id));
        let period = match self.period.as_str() {
            "month" => TierPeriod::Month,
            "billing" => TierPeriod::Billing,
            other => return Err(broken(format!("its tiers count by the unknown period {other}"))),
        };
        Ok(RateCard {
            rates: serde_json::from_value(self.rates).map_err(|error| broken(error.to_string()))?,
            rate_card_id: self.rate_card_id,
            meter_id: self.meter_id,
            version: self.version,
            plan: self.plan,
            org_id: self.org_id,
            org: self.org,
            period,
            price_by: match self.price_by.as_deref() {
                Some("peak") => Some(PriceBy::Peak),
                price_by => price_by.map(|_| PriceBy::Average),
            },
            valid_from: self.valid_from,
            currency: self.currency,
            created_at: self.created_at,
        })
    }
}

/// Every rate card, in no order.
pub fn all(conn: &mut PgConnection) -> Result<Vec<RateCard>, Error> {
    card_rows!().load::<CardRow>(conn)?.into_iter().map(CardRow::into_card).collect()
}

/// Selects rate cards of a meter.
#[derive(Clone, Debug, Default)]
pub struct CardFilter {
    /// Only cards of this plan.
    pub plan: Option<String>,
    /// Only cards of the org with this row id.
    pub org_id: Option<i64>,
    /// Only versions below this one.
    pub before_version: Option<i32>,
}

impl CardFilter {
    /// Cards of a plan, of an org, or of both.
    ///
    /// # Errors
    /// [`Error::Invalid`] for an unknown plan, [`Error::UnknownOrg`] for an unknown org.
    pub fn new(conn: &mut PgConnection, plan: Option<&str>, org: Option<&OrgName>) -> Result<Self, Error> {
        if let Some(plan) = plan {
            check_plan(conn, plan)?;
        }
        let org_id = org.map(|org| org.row_id(conn)).transpose()?;
        Ok(Self { plan: plan.map(str::to_owned), org_id, before_version: None })
    }
}

/// Refuses an unknown plan: an empty list would look like a plan without prices.
fn check_plan(conn: &mut PgConnection, plan: &str) -> Result<(), Error> {
    if plans::ids(conn)?.iter().any(|known| known == plan) {
        return Ok(());
    }
    Err(Error::invalid("plan", format!("`{plan}` is no plan: /v1/plans lists them")))
}

/// The rate cards of a meter, the newest version first.
pub fn of_meter(conn: &mut PgConnection, meter_id: i32) -> Result<Vec<RateCard>, Error> {
    list(conn, meter_id, &CardFilter::default(), i64::MAX)
}

/// The selected rate cards of a meter, the newest version first, at most `limit`.
pub fn list(
    conn: &mut PgConnection,
    meter_id: i32,
    filter: &CardFilter,
    limit: i64,
) -> Result<Vec<RateCard>, Error> {
    let mut query = card_rows!()
        .filter(rate_cards::meter_id.eq(meter_id))
        .filter(rate_cards::version.lt(filter.before_version.unwrap_or(i32::MAX)))
        .order(rate_cards::version.desc())
        .limit(limit)
        .into_boxed();
    if let Some(plan) = &filter.plan {
        query = query.filter(rate_cards::plan_id.eq(plan));
    }
    if let Some(org_id) = filter.org_id {
        query = query.filter(rate_cards::org_id.eq(org_id));
    }
    query.load::<CardRow>(conn)?.into_iter().map(CardRow::into_card).collect()
}
