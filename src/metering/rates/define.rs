//! Creates rate cards. A card never changes; another one takes its place.

use std::cmp::Reverse;
use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::Deserialize;
use utoipa::ToSchema;

use super::{PriceBy, Rate, RateCard, TierMode, TierPeriod, Tiers, check_plan, of_meter};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::metering::catalog;
use crate::metering::meters::{self, Aggregation, Meter};
use crate::money;
use crate::quantity::{LIMIT, PLACES};
use crate::schema::{orgs, rate_cards};
use crate::time::Moment;

/// Rates of a card at most.
const MAX_RATES: usize = 1000;
/// Tiers of a rate at most.
const MAX_TIERS: usize = 100;
/// How far back a backdated card may start, in days.
const BACK_DAYS: i64 = 366;

/// A new rate card.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRateCard {
    /// It prices usage that occurred from then on; now when left out.
    #[serde(default)]
    pub valid_from: Option<Moment>,
    /// Whether `valid_from` may be before now, at most a year. Usage is priced when it arrives: stored usage
    /// keeps its price, and this card prices only usage of that time that arrives from now on.
    #[serde(default)]
    pub backdate: bool,
    /// It prices the usage of orgs with this plan.
    #[serde(default)]
    pub plan: Option<String>,
    /// It prices the usage of this org alone, by public or external id.
    #[serde(default)]
    pub org: Option<String>,
    /// The period whose quantity its tiers count: the org's local month, or its billing period.
    #[serde(default)]
    pub period: TierPeriod,
    /// The figure of a `level` meter that it prices: the average (when left out) or the peak.
    #[serde(default)]
    pub price_by: Option<PriceBy>,
    /// ISO 4217, lower case. The first card of a meter gives the meter its currency. Cards in another
    /// currency price the usage of orgs with that currency.
    #[schema(pattern = "^[a-z]{3}$")]
    pub currency: String,
    /// The first rate that fits counts; rates with more conditions are put first. Empty: usage has no price
    /// from then on. Empty on a card of a plan or an org: it has no price of its own, and the next card
    /// counts.
    pub rates: Vec<Rate>,
}

/// Creates a rate card for a meter.
///
/// # Errors
/// [`Error::NotFound`] when there is no such meter; [`Error::Invalid`] for a bad field, an unknown plan or an
/// unknown org; [`Error::Conflict`] when the meter is archived or has no prices.
pub fn create(
    conn: &mut PgConnection,
    key: &str,
    new: &NewRateCard,
    now: DateTime<Utc>,
) -> Result<RateCard, Error> {
    catalog::begin_change(conn)?;
    let meter = meters::find(conn, key)?;
    check_meter(&meter, new)?;
    let price_by = price_by(&meter, new.price_by)?;
    let valid_from = valid_from(new, now)?;
    let (org_id, org) = owner(conn, new)?;
    let cards = of_meter(conn, meter.meter_id)?;
    money::check_currency("currency", &new.currency)?;
    let rates = check_and_sort(&meter, &new.rates)?;
    let last: Option<i32> =
        rate_cards::table.select(diesel::dsl::max(rate_cards::rate_card_id)).first(conn)?;
    let card = RateCard {
        rate_card_id: last.unwrap_or(0) + 1,
        meter_id: meter.meter_id,
        version: cards.first().map_or(0, |card| card.version) + 1,
        plan: new.plan.clone(),
        org_id,
        org,
        period: new.period,
        price_by,
        valid_from,
        currency: new.currency.clone(),
        rates,
        created_at: now,
    };
    insert(conn, &card)?;
    meters::set_currency(conn, meter.meter_id, &card.currency)?;
    Ok(card)
}

fn check_meter(meter: &Meter, new: &NewRateCard) -> Result<(), Error> {
    if meter.archived_at.is_some() {
        return Err(Error::conflict(
            "meter_archived",
            "this meter is archived: it counts nothing to be priced",
        ));
    }
    if !meter.aggregation.is_limited() {
        return Err(Error::conflict(
            "meter_not_additive",
            format!(
                "a meter of `{}` has no price, as its quantities do not add up: price a meter of `sum`, \
                    `count` or `level`",
                meter.aggregation.name()
            ),
        ));
    }
    let burns_battery = |rate: &Rate| !rate.battery_units.is_zero();
    if meter.aggregation == Aggregation::Level
        && let Some(n) = new.rates.iter().position(burns_battery)
    {
        let rule = "must be left out: a level burns no battery, as it is not used up";
        return Err(Error::invalid(format!("rates.{n}.battery_units"), rule));
    }
    Ok(())
}

fn insert(conn: &mut PgConnection, card: &RateCard) -> Result<(), Error> {
    let rates = crate::json::to_tree(&card.rates)?;
    diesel::insert_into(rate_cards::table)
        .values((
            rate_cards::rate_card_id.eq(card.rate_card_id),
            rate_cards::meter_id.eq(card.meter_id),
            rate_cards::version.eq(card.version),
            rate_cards::plan_id.eq(&card.plan),
            rate_cards::org_id.eq(card.org_id),
            rate_cards::period.eq(card.period.name()),
            rate_cards::price_by.eq(card.price_by.map(PriceBy::name)),
            rate_cards::valid_from.eq(card.valid_from),
            rate_cards::currency.eq(&card.currency),
            rate_cards::rates.eq(rates),
            rate_cards::created_at.eq(card.created_at),
        ))
        .execute(conn)?;
    Ok(())
}

/// The figure of a level that is priced; `None` for other meters.
fn price_by(meter: &Meter, asked: Option<PriceBy>) -> Result<Option<PriceBy>, Error> {
    match (meter.aggregation, asked) {
        (Aggregation::Level, asked) => Ok(Some(asked.unwrap_or(PriceBy::Average))),
        (_, None) => Ok(None),
        (_, Some(_)) => Err(Error::invalid("price_by", "must be left out: it is for meters of `level`")),
    }
}

/// Row id and public id of the org that the card is for; 0: every org. Checks the plan, too.
fn owner(conn: &mut PgConnection, new: &NewRateCard) -> Result<(i64, Option<String>), Error> {
    if let Some(plan) = &new.plan {
        if new.org.is_some() {
            let rule = "must not stand beside `org`: a card prices the usage of one org or of a plan's orgs";
            return Err(Error::invalid("plan", rule));
        }
        check_plan(conn, plan)?;
    }
    let Some(name) = &new.org else { return Ok((0, None)) };
    let org_id = OrgName::of_any(name.clone(), "org").row_id(conn)?;
    let public_id = orgs::table.find(org_id).select(orgs::public_id).first(conn)?;
    Ok((org_id, Some(public_id)))
}

fn valid_from(new: &NewRateCard, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
    let Some(Moment(at)) = new.valid_from else { return Ok(now) };
    if at < now && !new.backdate {
        return Err(Error::invalid(
            "valid_from",
            "must not be before now, as stored usage keeps its price: leave it out, or say \"backdate\": \
                true to price what comes from now on for that time",
        ));
    }
    if at < now - TimeDelta::days(BACK_DAYS) {
        return Err(Error::invalid("valid_from", "must be at most a year back"));
    }
    Ok(at)
}

/// Checks rates and returns them as they are stored: rates with more conditions first.
fn check_and_sort(meter: &Meter, rates: &[Rate]) -> Result<Vec<Rate>, Error> {
    if rates.len() > MAX_RATES {
        return Err(Error::invalid("rates", format!("must be at most {MAX_RATES}")));
    }
    for (n, rate) in rates.iter().enumerate() {
        check(meter, rate, &format!("rates.{n}"))?;
    }
    let mut seen = HashSet::new();
    if let Some(n) = rates.iter().position(|rate| !seen.insert(&rate.when)) {
        return Err(Error::invalid(
            format!("rates.{n}.when"),
            "is that of an earlier rate, so this one would never count",
        ));
    }
    let mut sorted = rates.to_vec();
    // Stable: rates with equally many conditions keep their order.
    sorted.sort_by_key(|rate| Reverse(rate.when.len()));
    Ok(sorted)
}

fn check(meter: &Meter, rate: &Rate, at: &str) -> Result<(), Error> {
    for (name, value) in &rate.when {
        if !meter.dimensions.contains(name) {
            let known =
                if meter.dimensions.is_empty() { "none".to_owned() } else { meter.dimensions.join(", ") };
            return Err(Error::invalid(
                format!("{at}.when.{}", name.replace(char::is_control, "")),
                format!("is no dimension of this meter, which has {known}"),
            ));
        }
        if value.chars().count() > 200 {
            return Err(Error::invalid(format!("{at}.when.{name}"), "must be at most 200 characters"));
        }
    }
    check_price(&format!("{at}.unit_cost"), rate.unit_cost)?;
    check_price(&format!("{at}.battery_units"), rate.battery_units)?;
    let Some(tiers) = &rate.tiers else { return Ok(()) };
    if !rate.unit_cost.is_zero() {
        return Err(Error::invalid(format!("{at}.unit_cost"), "must be left out where there are tiers"));
    }
    check_tiers(tiers, &format!("{at}.tiers.tiers"))
}

fn check_tiers(tiers: &Tiers, at: &str) -> Result<(), Error> {
    let package = tiers.mode == TierMode::Package;
    let wrong = |n: usize, field: &str, rule: &str| Err(Error::invalid(format!("{at}.{n}.{field}"), rule));
    let count = tiers.tiers.len();
    if count == 0 || count > if package { 1 } else { MAX_TIERS } {
        let rule = if package {
            "must be one tier for packages".to_owned()
        } else {
            format!("must be 1 to {MAX_TIERS} tiers")
        };
        return Err(Error::invalid(at.to_owned(), rule));
    }
    let mut from = Decimal::ZERO;
    for (n, tier) in tiers.tiers.iter().enumerate() {
        check_price(&format!("{at}.{n}.unit_cost"), tier.unit_cost)?;
        check_price(&format!("{at}.{n}.flat_cost"), tier.flat_cost)?;
        match tier.up_to {
            None if n + 1 < count => {
                return wrong(n, "up_to", "must be there: only the last tier has no end");
            }
            Some(_) if n + 1 == count => {
                return wrong(n, "up_to", "must be left out: the last tier has no end");
            }
            Some(end) if end <= from => {
                return wrong(n, "up_to", "must be above zero and the end of the tier before");
            }
            Some(end) => {
                check_price(&format!("{at}.{n}.up_to"), end)?;
                from = end;
            }
            None => {}
        }
        match tier.package_size {
            Some(_) if !package => return wrong(n, "package_size", "is only for packages"),
            None if package => return wrong(n, "package_size", "must say how many units a package has"),
            Some(size) if size <= Decimal::ZERO => return wrong(n, "package_size", "must be above zero"),
            Some(size) => check_price(&format!("{at}.{n}.package_size"), size)?,
            None => {}
        }
    }
    Ok(())
}

/// Refuses an amount that is negative, too precise or too large.
fn check_price(field: &str, amount: Decimal) -> Result<(), Error> {
    let rule = if amount.is_sign_negative() && !amount.is_zero() {
        "must not be negative"
    } else if amount.normalize().scale() > PLACES {
        "must have at most 12 decimal places"
    } else if amount >= LIMIT {
        "must be less than 10^15"
    } else {
        return Ok(());
    };
    Err(Error::invalid(field.to_owned(), rule))
}
