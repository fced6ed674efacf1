//! The body of `PUT /v1/plans/{id}`, which a table of the plans file has, too.

use serde::Deserialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::PlanDefinition;
use crate::billing::plans::{Facts, Features, PlanPrice, PlanPrices, PlanTerms};
use crate::error::Error;
use crate::quantity::{Quantity, QuantityFromZero};
use crate::quota::new_limit::{NewLimit, plan_limits};

/// A price of a plan.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceBody {
    /// In minor units of the currency.
    #[schema(minimum = 0)]
    pub amount: i64,
    /// Three lower-case letters.
    #[schema(pattern = "^[a-z]{3}$")]
    pub currency: String,
    /// The Stripe price at which it is sold; it buys the plan.
    #[serde(default)]
    pub stripe_price: Option<String>,
}

/// A plan as it is put: the whole of it. Where anything but `name`, `description`, `active`, `default`,
/// `rank`, `org`, `metadata`, `stripe_prices` and `stripe_products` differs from the newest version, a new
/// version is made, and whoever bought an earlier one keeps that.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanBody {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    pub name: String,
    /// What it is.
    #[serde(default)]
    pub description: Option<String>,
    /// Whether it is still offered.
    #[serde(default = "yes")]
    pub active: bool,
    /// Orgs without a plan have it, in its newest version: new ones, cancelled, expired, never paid. One plan
    /// at most.
    #[serde(default, rename = "default")]
    pub is_default: bool,
    /// Of several plans that an org pays for the one of the highest rank counts; 0 when left out.
    #[serde(default)]
    pub rank: i32,
    /// The only org that may have it, by public id (`org_…`).
    #[serde(default)]
    pub org: Option<String>,
    /// Whatever you keep with it.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Stripe prices that buy it. A price buys one plan.
    #[serde(default)]
    pub stripe_prices: Vec<String>,
    /// Stripe products any price of which buys it, unless that price buys another plan.
    #[serde(default)]
    pub stripe_products: Vec<String>,
    /// Price of a month.
    #[serde(default)]
    pub monthly: Option<PriceBody>,
    /// Price of a year.
    #[serde(default)]
    pub annual: Option<PriceBody>,
    /// Prices in further currencies, and the least that usage costs: by currency.
    #[serde(default)]
    #[schema(value_type = HashMap<String, PlanPrice>)]
    pub prices: PlanPrices,
    /// Days of a trial; 0: none.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 730)]
    pub trial_days: i32,
    /// For so many days a local subscription keeps the plan after what was paid for, or after a trial; 0:
    /// none. One that was cancelled ends without.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 365)]
    pub grace_days: i32,
    /// Feature to whatever it means to your services; or a list of names.
    #[serde(default = "no_features")]
    #[schema(value_type = Features)]
    pub features: Value,
    /// Battery units granted with each paid period; none when left out.
    #[serde(default)]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub battery_units: Option<Quantity>,
    /// In their place with each paid year.
    #[serde(default)]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub annual_battery_units: Option<Quantity>,
    /// In their place with a trial.
    #[serde(default)]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub trial_battery_units: Option<Quantity>,
    /// Battery units granted each local day, and gone with it; none when left out.
    #[serde(default)]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub daily_battery: Option<Quantity>,
    /// How far below zero the battery may be used; without limit when left out.
    #[serde(default)]
    #[schema(value_type = Option<QuantityFromZero>)]
    pub battery_debt_limit: Option<Quantity>,
    /// The whole list of its quotas, at most 100; left out: those of the newest version stay.
    #[serde(default)]
    pub quotas: Option<Vec<NewLimit>>,
}

fn yes() -> bool {
    true
}

fn no_features() -> Value {
    Value::Object(Map::new())
}

impl PlanBody {
    /// # Errors
    /// [`Error::Invalid`] naming the field.
    pub fn into_definition(self, id: &str) -> Result<PlanDefinition, Error> {
        let (monthly, annual) = (self.monthly, self.annual);
        let mut stripe_prices = self.stripe_prices;
        for price in [&monthly, &annual].into_iter().flatten().filter_map(|price| price.stripe_price.as_ref())
        {
            if !stripe_prices.contains(price) {
                stripe_prices.push(price.clone());
            }
        }
        let sold_at = |price: &Option<PriceBody>| price.as_ref().and_then(|price| price.stripe_price.clone());
        if sold_at(&monthly).is_some() && sold_at(&monthly) == sold_at(&annual) {
            return Err(Error::invalid(
                "annual.stripe_price",
                "must not be that of the monthly price: Stripe has a price for each interval",
            ));
        }
        let [monthly_currency, annual_currency] =
            [&monthly, &annual].map(|price| price.as_ref().map(|price| price.currency.clone()));
        if monthly_currency.is_some() && annual_currency.is_some() && monthly_currency != annual_currency {
            return Err(Error::invalid("annual.currency", "must be that of the monthly price"));
        }
        let none = Quantity(rust_decimal::Decimal::ZERO);
        let definition = PlanDefinition {
            id: id.to_owned(),
            facts: Facts {
                name: self.name,
                description: self.description,
                active: self.active,
                is_default: self.is_default,
                rank: self.rank,
                org: self.org,
                metadata: self.metadata,
                stripe_prices,
                stripe_products: self.stripe_products,
            },
            terms: PlanTerms {
                currency: monthly_currency.or(annual_currency),
                monthly_amount: monthly.map(|price| price.amount),
                annual_amount: annual.map(|price| price.amount),
                prices: self.prices,
                trial_days: self.trial_days,
                grace_days: self.grace_days,
                features: self.features,
                battery_units: self.battery_units.unwrap_or(none),
                annual_battery_units: self.annual_battery_units,
                trial_battery_units: self.trial_battery_units,
                daily_battery: self.daily_battery.unwrap_or(none),
                battery_debt_limit: self.battery_debt_limit,
            },
            quotas: self.quotas.map(plan_limits).transpose()?,
        };
        definition.check()?;
        Ok(definition)
    }
}
