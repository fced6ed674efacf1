//! Plans made of Stripe's products and prices, by what the products' metadata says:
//!
//! - `coulomb_plan`: key of the plan that the product sells; a product without it is left out.
//! - `battery_units`, `annual_battery_units`, `trial_battery_units`: granted with a paid period, a paid year,
//!   a trial.
//! - `daily_battery`: granted each local day.
//! - `battery_debt_limit`: how far below zero the battery may be used; `unlimited`: without limit.
//! - `trial_days`: days of a trial.
//! - `feature_<name>`: a feature: `true`, `false` or a number are read as such, anything else is text.
//!
//! Name, description and `active` are the product's. The monthly and annual amounts are those of its active
//! recurring prices; of several, of the product's default price, else of the newest. The product and those
//! prices buy the plan. What the product does not say stays as it is, and no price or feature is removed.

use std::collections::BTreeMap;

use diesel::pg::PgConnection;
use rust_decimal::Decimal;
use serde_json::{Map, Value};

use super::PlanDefinition;
use crate::billing::catalog::sold::{self, PLAN_KEY, Sold, SoldPrice};
use crate::billing::plans;
use crate::error::Error;
use crate::quantity::Quantity;
use crate::realm::Realm;

/// Metadata that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MetadataProblem {
    /// `prod_…`
    pub product: String,
    /// Key of its metadata.
    pub key: String,
    pub rule: String,
}

impl std::fmt::Display for MetadataProblem {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "product {}: metadata {}: {}", self.product, self.key, self.rule)
    }
}

impl From<MetadataProblem> for Error {
    fn from(problem: MetadataProblem) -> Self {
        Self::invalid(format!("{}.metadata.{}", problem.product, problem.key), problem.rule)
    }
}

/// The plans that the products of a realm sell, and what is wrong with their metadata.
pub fn read(
    conn: &mut PgConnection,
    realm: &Realm,
) -> Result<(Vec<PlanDefinition>, Vec<MetadataProblem>), Error> {
    let (mut definitions, mut problems) = (Vec::new(), Vec::new());
    let mut seen: BTreeMap<String, String> = BTreeMap::new();
    for product in sold::plans(conn, realm)? {
        let plan_id = text(&product.metadata, PLAN_KEY).unwrap_or_default();
        let mut wrong = |key: &str, rule: String| {
            let (product, key) = (product.product_id.clone(), key.to_owned());
            problems.push(MetadataProblem { product, key, rule });
        };
        if let Err(error) = plans::check_id(plan_id) {
            wrong(PLAN_KEY, rule_of(error));
            continue;
        }
        if let Some(other) = seen.insert(plan_id.to_owned(), product.product_id.clone()) {
            wrong(PLAN_KEY, format!("is `{plan_id}`, as that of {other}: one product sells a plan"));
            continue;
        }
        let stored = match plans::find(conn, plan_id) {
            Err(Error::NotFound(_)) => PlanDefinition::new(plan_id),
            found => PlanDefinition::from_plan(found?),
        };
        let plan = plan_of_product(&product, stored, &mut wrong);
        if let Err(error) = plan.check() {
            let field =
                if let Error::Invalid { field, .. } = &error { field.to_string() } else { String::new() };
            wrong(&field, rule_of(error));
        }
        definitions.push(plan);
    }
    Ok((definitions, problems))
}

fn rule_of(error: Error) -> String {
    match error {
        Error::Invalid { rule, .. } => rule,
        other => other.to_string(),
    }
}

fn text<'a>(metadata: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    metadata.get(key).and_then(Value::as_str).map(str::trim)
}

/// The stored plan, changed by what the product says.
fn plan_of_product(
    product: &Sold,
    stored: PlanDefinition,
    wrong: &mut impl FnMut(&str, String),
) -> PlanDefinition {
    let metadata = &product.metadata;
    let PlanDefinition { id, mut facts, mut terms, .. } = stored;
    facts.name = product.name.clone().filter(|name| !name.trim().is_empty()).unwrap_or(facts.name);
    facts.description = product.description.clone().or(facts.description);
    facts.active = product.active;
    add(&mut facts.stripe_products, &product.product_id);
    // A year is priced in the currency of the month.
    let monthly = of_months(&product.prices, 1, None);
    let annual = of_months(&product.prices, 12, monthly.and_then(|price| price.currency.as_deref()));
    for price in [monthly, annual].into_iter().flatten() {
        add(&mut facts.stripe_prices, &price.price_id);
    }
    if let Some(currency) = monthly.or(annual).and_then(|price| price.currency.clone()) {
        terms.currency = Some(currency);
        terms.monthly_amount = monthly.and_then(|price| price.unit_amount);
        terms.annual_amount = annual.and_then(|price| price.unit_amount);
    }
    let mut units = |key: &str| {
        let said = text(metadata, key)?;
        let read = serde_json::from_value::<Quantity>(Value::String(said.to_owned()));
        let read = read.ok().filter(|units| units.0 >= Decimal::ZERO);
        if read.is_none() {
            wrong(key, format!("is `{said}`, but must be a decimal of 0 or more such as 12.5"));
        }
        read
    };
    terms.battery_units = units("battery_units").unwrap_or(terms.battery_units);
    terms.annual_battery_units = units("annual_battery_units").or(terms.annual_battery_units);
    terms.trial_battery_units = units("trial_battery_units").or(terms.trial_battery_units);
    terms.daily_battery = units("daily_battery").unwrap_or(terms.daily_battery);
    if text(metadata, "battery_debt_limit") == Some("unlimited") {
        terms.battery_debt_limit = None;
    } else {
        terms.battery_debt_limit = units("battery_debt_limit").or(terms.battery_debt_limit);
    }
    if let Some(said) = text(metadata, "trial_days") {
        match said.parse() {
            Ok(days @ 0..=730) => terms.trial_days = days,
            _ => wrong("trial_days", format!("is `{said}`, but must be a whole number from 0 to 730")),
        }
    }
    let features = metadata.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix("feature_").filter(|name| !name.is_empty())?;
        Some((name.to_owned(), feature(value.as_str()?)))
    });
    extend(&mut terms.features, features);
    PlanDefinition { id, facts, terms, quotas: None }
}

fn add(ids: &mut Vec<String>, id: &str) {
    if !ids.iter().any(|one| one == id) {
        ids.push(id.to_owned());
    }
}

/// The first price of so many months, in this currency where one is named.
fn of_months<'a>(prices: &'a [SoldPrice], months: i32, currency: Option<&str>) -> Option<&'a SoldPrice> {
    let fits = |price: &&SoldPrice| {
        price.months() == Some(months)
            && price.unit_amount.is_some()
            && (currency.is_none() || price.currency.as_deref() == currency)
    };
    prices.iter().find(fits)
}

/// Adds features. A list of names stays one where all that is added is on.
fn extend(features: &mut Value, more: impl Iterator<Item = (String, Value)>) {
    let more: Vec<_> = more.collect();
    if let Value::Array(listed) = features {
        if more.iter().all(|(_, value)| *value == Value::Bool(true)) {
            for (name, _) in more {
                let name = Value::String(name);
                if !listed.contains(&name) {
                    listed.push(name);
                }
            }
            return;
        }
        let named = listed.iter().filter_map(|name| Some((name.as_str()?.to_owned(), Value::Bool(true))));
        *features = Value::Object(named.collect());
    }
    if let Value::Object(named) = features {
        named.extend(more);
    }
}

fn feature(said: &str) -> Value {
    match serde_json::from_str(said) {
        Ok(value @ (Value::Bool(_) | Value::Number(_))) => value,
        _ => said.into(),
    }
}
