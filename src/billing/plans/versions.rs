//! Versions of plans: what each offers. Owns `plan_versions`.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{
    AdditionalProperties, ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type,
};
use utoipa::{PartialSchema, ToSchema};

use crate::billing::directory;
use crate::error::Error;
use crate::money;
use crate::quantity::Quantity;
use crate::schema::{plan_versions, plans};

/// What a version of a plan offers.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct PlanTerms {
    /// Currency of the amounts, three lower-case letters.
    pub currency: Option<String>,
    /// Price of a month in minor units of the currency.
    pub monthly_amount: Option<i64>,
    /// Price of a year in minor units of the currency.
    pub annual_amount: Option<i64>,
    /// Prices in further currencies, and the least that usage costs, by currency.
    #[serde(skip_serializing_if = "PlanPrices::is_empty")]
    pub prices: PlanPrices,
    /// Days of a trial; 0: none.
    pub trial_days: i32,
    /// For so many days a local subscription keeps the plan after what was paid for.
    pub grace_days: i32,
    /// Feature to whatever it means to your services; or a list of names.
    #[schema(value_type = Features)]
    pub features: Value,
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

/// Prices of a plan, by currency (three lower-case letters).
pub type PlanPrices = BTreeMap<String, PlanPrice>;

/// What a plan costs in one currency, in its minor units.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PlanPrice {
    /// Price of a month.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub monthly: Option<i64>,
    /// Price of a year.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub annual: Option<i64>,
    /// What usage of a period costs at least; what lacks is a line of the invoice.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub usage_minimum: Option<i64>,
}

/// The schema of features: an object from feature to whatever it means, or a list of names.
pub struct Features;

impl PartialSchema for Features {
    fn schema() -> RefOr<Schema> {
        let named = ObjectBuilder::new().additional_properties(Some(AdditionalProperties::FreeForm(true)));
        let listed = ArrayBuilder::new().items(ObjectBuilder::new().schema_type(Type::String));
        OneOfBuilder::new().item(named).item(listed).into()
    }
}

impl ToSchema for Features {}

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

impl PlanTerms {
    /// What a period of so many months costs in a currency; `None`: the plan has no price for it. A year is
    /// twelve months at the annual price, where there is one; other periods are sums of months.
    #[must_use]
    pub fn fee(&self, currency: &str, months: i32) -> Option<i64> {
        let price = self.price(currency);
        let times = |amount: i64, count: i32| amount.checked_mul(i64::from(count));
        match price.annual {
            Some(annual) if months % 12 == 0 => times(annual, months / 12),
            _ => times(price.monthly?, months),
        }
    }

    /// Its prices in a currency.
    #[must_use]
    pub fn price(&self, currency: &str) -> PlanPrice {
        let further = self.prices.get(currency).copied().unwrap_or_default();
        let is_main = self.currency.as_deref() == Some(currency);
        let main = |amount: Option<i64>| amount.filter(|_| is_main);
        PlanPrice {
            monthly: further.monthly.or(main(self.monthly_amount)),
            annual: further.annual.or(main(self.annual_amount)),
            usage_minimum: further.usage_minimum,
        }
    }

    /// # Errors
    /// [`Error::Invalid`] names the field that is wrong.
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
        for (currency, price) in &self.prices {
            let amounts = [price.monthly, price.annual, price.usage_minimum];
            if amounts.into_iter().flatten().any(|amount| amount < 0) {
                let rule = format!("of `{currency}` must be 0 or more, in minor units");
                return Err(Error::invalid("prices", rule));
            }
        }
        if let Some(currency) = &self.currency {
            money::check_currency("currency", currency)?;
        }
        if !self.prices.keys().all(|currency| money::is_currency(currency)) {
            return Err(Error::invalid(
                "prices",
                "must be by active currency (ISO 4217), in lower case, such as usd",
            ));
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
        if !(0..=365).contains(&self.grace_days) {
            return Err(Error::invalid("grace_days", "must be from 0 to 365"));
        }
        let feature_count = match &self.features {
            Value::Object(named) => Some(named.len()),
            Value::Array(listed) => listed.iter().all(Value::is_string).then_some(listed.len()),
            _ => None,
        };
        match feature_count {
            Some(..=200) => Ok(()),
            Some(_) => Err(Error::invalid("features", "must be at most 200")),
            None => Err(Error::invalid("features", "must be an object, or a list of names")),
        }
    }
}

/// Adds the next version of a plan and returns its number. The caller's lock keeps others from adding one at
/// the same time.
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
    let prices = crate::json::to_tree(&terms.prices)?;
    diesel::insert_into(plan_versions::table)
        .values((
            (plan_versions::plan_id.eq(plan_id), plan_versions::version.eq(version)),
            plan_versions::created_at.eq(now),
            plan_versions::currency.eq(&terms.currency),
            plan_versions::monthly_amount.eq(terms.monthly_amount),
            plan_versions::annual_amount.eq(terms.annual_amount),
            plan_versions::prices.eq(prices),
            plan_versions::trial_days.eq(terms.trial_days),
            plan_versions::grace_days.eq(terms.grace_days),
            plan_versions::features.eq(&terms.features),
            plan_versions::battery_units.eq(terms.battery_units.0),
            plan_versions::annual_battery_units.eq(terms.annual_battery_units.map(|units| units.0)),
            plan_versions::trial_battery_units.eq(terms.trial_battery_units.map(|units| units.0)),
            plan_versions::daily_battery.eq(terms.daily_battery.0),
            plan_versions::battery_debt_limit.eq(terms.battery_debt_limit.map(|units| units.0)),
        ))
        .execute(conn)?;
    directory::all_changed(conn)?;
    Ok(version)
}

#[derive(Queryable, Selectable)]
#[diesel(table_name = plan_versions)]
struct VersionRow {
    plan_id: String,
    version: i32,
    created_at: DateTime<Utc>,
    currency: Option<String>,
    monthly_amount: Option<i64>,
    annual_amount: Option<i64>,
    trial_days: i32,
    features: Value,
    battery_units: Decimal,
    annual_battery_units: Option<Decimal>,
    trial_battery_units: Option<Decimal>,
    daily_battery: Decimal,
    battery_debt_limit: Option<Decimal>,
    grace_days: i32,
    prices: Value,
}

impl VersionRow {
    fn version(self) -> PlanVersion {
        let terms = PlanTerms {
            currency: self.currency,
            monthly_amount: self.monthly_amount,
            annual_amount: self.annual_amount,
            // Only checked prices are stored.
            prices: serde_json::from_value(self.prices).unwrap_or_default(),
            trial_days: self.trial_days,
            grace_days: self.grace_days,
            features: self.features,
            battery_units: Quantity(self.battery_units),
            annual_battery_units: self.annual_battery_units.map(Quantity),
            trial_battery_units: self.trial_battery_units.map(Quantity),
            daily_battery: Quantity(self.daily_battery),
            battery_debt_limit: self.battery_debt_limit.map(Quantity),
        };
        PlanVersion { version: self.version, created_at: self.created_at, terms }
    }
}

/// The newest version of each of these plans, by plan id.
pub(super) fn newest(
    conn: &mut PgConnection,
    plan_ids: &[&str],
) -> QueryResult<BTreeMap<String, PlanVersion>> {
    let rows: Vec<VersionRow> = plan_versions::table
        .filter(plan_versions::plan_id.eq_any(plan_ids))
        .distinct_on(plan_versions::plan_id)
        .order((plan_versions::plan_id, plan_versions::version.desc()))
        .select(VersionRow::as_select())
        .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.plan_id.clone(), row.version())).collect())
}

/// Every version of a plan, newest first.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan.
pub fn versions(conn: &mut PgConnection, plan_id: &str) -> Result<Vec<PlanVersion>, Error> {
    let of_plan = plan_versions::table.filter(plan_versions::plan_id.eq(plan_id));
    let rows: Vec<VersionRow> =
        of_plan.order(plan_versions::version.desc()).select(VersionRow::as_select()).load(conn)?;
    if rows.is_empty() {
        return Err(Error::NotFound("plan"));
    }
    Ok(rows.into_iter().map(VersionRow::version).collect())
}

/// Every version of every plan, with the plan's id and name.
pub fn all_versions(conn: &mut PgConnection) -> QueryResult<Vec<(String, String, PlanVersion)>> {
    let rows: Vec<(String, VersionRow)> = plan_versions::table
        .inner_join(plans::table.on(plans::plan_id.eq(plan_versions::plan_id)))
        .select((plans::name, VersionRow::as_select()))
        .load(conn)?;
    let named = rows.into_iter().map(|(name, row)| (row.plan_id.clone(), name, row.version()));
    Ok(named.collect())
}

/// The name of a plan, and what one of its versions offers.
///
/// # Errors
/// [`Error::NotFound`] when there is no such version.
pub fn terms_of(conn: &mut PgConnection, plan_id: &str, version: i32) -> Result<(String, PlanTerms), Error> {
    let found: Option<(String, VersionRow)> = plan_versions::table
        .find((plan_id, version))
        .inner_join(plans::table.on(plans::plan_id.eq(plan_versions::plan_id)))
        .select((plans::name, VersionRow::as_select()))
        .first(conn)
        .optional()?;
    let (name, row) = found.ok_or(Error::NotFound("version of a plan"))?;
    Ok((name, row.version().terms))
}

/// The number of a plan's newest version.
///
/// # Errors
/// [`Error::NotFound`] when there is no such plan.
pub fn newest_version(conn: &mut PgConnection, plan_id: &str) -> Result<i32, Error> {
    let versions = plan_versions::table.filter(plan_versions::plan_id.eq(plan_id));
    let newest: Option<i32> = versions.select(diesel::dsl::max(plan_versions::version)).first(conn)?;
    newest.ok_or(Error::NotFound("plan"))
}

/// Checks that the plan has this version.
///
/// # Errors
/// [`Error::NotFound`] when it has not.
pub fn check_version(conn: &mut PgConnection, plan_id: &str, version: i32) -> Result<(), Error> {
    let exists = diesel::dsl::exists(plan_versions::table.find((plan_id, version)));
    let is_there: bool = diesel::select(exists).get_result(conn)?;
    if is_there { Ok(()) } else { Err(Error::NotFound("version of a plan")) }
}

/// For how many days a local subscription keeps this version of a plan after its paid time has ended.
///
/// # Errors
/// [`Error::NotFound`] when the plan has no such version.
pub fn grace_days(conn: &mut PgConnection, plan_id: &str, version: i32) -> Result<i32, Error> {
    let found = plan_versions::table.find((plan_id, version)).select(plan_versions::grace_days);
    found.first(conn).optional()?.ok_or(Error::NotFound("version of a plan"))
}
