//! Turns a received usage event into what will be written: its org, key and day, and a quantity for each
//! meter that counts it. Pure: one event under one catalogue always gives the same rows.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Duration, NaiveDate, SubsecRound, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::catalog::Catalog;
use super::data;
use super::digest::{content_digest, event_key};
use super::event::{Cost, Rejection, UsageEvent};
use super::levels;
use super::meters::{Aggregation, Meter};
use super::rates::choose::Buyer;
use super::rating;
use super::series::{Series, SeriesCache};
use super::unpriced::Pricing;
use super::usage::{Metered, Usage};
use crate::billing::directory::OrgContext;
use crate::money;
use crate::quantity::Sum;

/// What a caller may do beyond posting usage.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The org of the API key; `None`: a key of the platform.
    pub org_id: Option<i64>,
    /// Usage may be older than the window.
    pub backfill: bool,
    /// Usage may set its cost, and values may be below zero.
    pub price: bool,
}

/// The times that usage may have.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub back: Duration,
    /// Nobody may report usage from before it: its records would not be kept.
    pub horizon: Option<DateTime<Utc>>,
    pub ahead: Duration,
}

/// Sources of usage that the daemon makes itself begin so.
const OUR_SOURCES: &str = "coulomb:";
/// The oldest time that a backfill may name.
const OLDEST: DateTime<Utc> = DateTime::from_timestamp(946_684_800, 0).expect("in range");

/// What an event is resolved by.
pub struct Resolver<'a> {
    pub catalog: &'a Catalog,
    pub series: &'a SeriesCache,
    pub caller: Caller,
    /// The times that usage may have.
    pub window: Window,
    /// When the event arrived.
    pub now: DateTime<Utc>,
}

impl Resolver<'_> {
    /// What will be written for an event of `org`.
    ///
    /// # Errors
    /// The rule that the event breaks.
    pub fn resolve(&self, event: &UsageEvent<'_>, org: &Arc<OrgContext>) -> Result<Usage, Rejection> {
        let occurred_at = self.occurred_at(event)?;
        if event.source.starts_with(OUR_SOURCES) {
            let detail = format!("sources that begin with `{OUR_SOURCES}` are made by the daemon itself");
            return Err(Rejection::new("source", "reserved_source", detail));
        }
        let meters = self.catalog.by_event_name.get(event.event_name.as_ref()).ok_or_else(|| {
            Rejection::new(
                "event_name",
                "unknown_event_name",
                format!("no meter counts `{}`: create one, or correct the name", event.event_name),
            )
        })?;
        let fields = data::fields(event.data)?;
        let mut metered = SmallVec::new();
        for meter in meters {
            if let Some(counted) = self.meter(meter, event, org, &fields, occurred_at)? {
                metered.push(counted);
            }
        }
        if metered.is_empty() {
            let fields = |meter: &Arc<Meter>| [meter.value_field.clone(), meter.change_field.clone()];
            let value_fields: Vec<String> = meters.iter().flat_map(fields).flatten().collect();
            return Err(Rejection::new(
                format!("data.{}", value_fields.first().map_or("", String::as_str)),
                "no_value",
                format!("`data` has no value that a meter reads ({})", value_fields.join(", ")),
            ));
        }
        if let Some(cost) = event.cost {
            self.set_cost(cost, &mut metered)?;
        }
        let content = content_digest(event, &metered);
        Ok(Usage {
            org: Arc::clone(org),
            event_key: event_key(&event.source, &event.id),
            content,
            names_time: event.occurred_at.is_some(),
            occurred_at,
            received_at: self.now,
            day: self.posting_day(org, occurred_at),
            own_day: org.day(occurred_at),
            billing_period: org.billing_period(occurred_at),
            event_id: event.id.as_ref().into(),
            source: event.source.as_ref().into(),
            subject: event.subject.as_deref().map(Into::into),
            correction: 0,
            elsewhere: false,
            metered,
        })
    }

    fn occurred_at(&self, event: &UsageEvent<'_>) -> Result<DateTime<Utc>, Rejection> {
        let Some(at) = event.occurred_at else { return Ok(self.now) };
        let at = at.trunc_subsecs(6);
        if at > self.now + self.window.ahead {
            return Err(Rejection::new(
                "occurred_at",
                "in_the_future",
                format!("is more than {} seconds ahead of now", self.window.ahead.num_seconds()),
            ));
        }
        if at < self.now - self.window.back && !self.caller.backfill {
            return Err(Rejection::new(
                "occurred_at",
                "too_old",
                format!(
                    "is more than {} days ago: a key with the scope usage:backfill may post it",
                    self.window.back.num_days()
                ),
            ));
        }
        if let Some(horizon) = self.window.horizon.filter(|horizon| at < *horizon) {
            let detail = format!("is before {horizon}, and records of that time are no longer kept");
            return Err(Rejection::new("occurred_at", "not_kept", detail));
        }
        if at < OLDEST {
            let oldest = OLDEST.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
            return Err(Rejection::new("occurred_at", "too_old", format!("must not be before {oldest}")));
        }
        Ok(at)
    }

    /// The local day that usage of `at` is posted to.
    #[must_use]
    pub fn posting_day(&self, org: &OrgContext, at: DateTime<Utc>) -> NaiveDate {
        posting_day(self.catalog, org, org.day(at), self.now)
    }

    /// What one meter counts of the event; `None`: the event has no value for it.
    fn meter(
        &self,
        meter: &Arc<Meter>,
        event: &UsageEvent<'_>,
        org: &OrgContext,
        fields: &[(Cow<'_, str>, &RawValue)],
        occurred_at: DateTime<Utc>,
    ) -> Result<Option<Metered>, Rejection> {
        let field = |name: &str| fields.iter().find(|(n, _)| n == name).map(|(_, value)| *value);
        let mut value = None;
        let quantity = match (meter.aggregation, &meter.value_field) {
            (Aggregation::Level, _) => {
                let Some((kind, quantity)) = self.level(meter, field)? else { return Ok(None) };
                value = Some(kind.into());
                quantity
            }
            (Aggregation::Count, _) | (_, None) => Decimal::ONE,
            (Aggregation::Unique, Some(name)) => {
                let Some(text) = field(name).map(|raw| data::text(name, raw)).transpose()?.flatten() else {
                    return Ok(None);
                };
                value = Some(text.as_ref().into());
                Decimal::ONE
            }
            (_, Some(name)) => match field(name).map(|raw| data::decimal(name, raw)).transpose()?.flatten() {
                Some(quantity) if quantity < Decimal::ZERO => self.below_zero(meter, name, quantity)?,
                Some(quantity) => quantity,
                None => return Ok(None),
            },
        };
        let mut dimensions: Vec<(&str, Cow<'_, str>)> = Vec::with_capacity(meter.dimensions.len());
        for name in &meter.dimensions {
            if let Some(text) = field(name).map(|raw| data::text(name, raw)).transpose()?.flatten() {
                dimensions.push((name, text));
            }
        }
        let dimensions: Vec<(&str, &str)> =
            dimensions.iter().map(|(name, value)| (*name, value.as_ref())).collect();
        let series = self.series.get(self.catalog, org.org_id, meter, event.member.as_deref(), &dimensions);
        let labels = labels(meter, field)?;
        let metered = priced((self.catalog, self.series), series, quantity, (org, occurred_at), value)?;
        Ok(Some(Metered { labels, ..metered }))
    }

    /// Whether an event sets a level or changes it, and the value.
    fn level<'a>(
        &self,
        meter: &Meter,
        field: impl Fn(&str) -> Option<&'a RawValue>,
    ) -> Result<Option<(&'static str, Decimal)>, Rejection> {
        let read = |name: &Option<String>| match name.as_deref().and_then(|name| Some((name, field(name)?))) {
            Some((name, raw)) => {
                data::decimal(name, raw).map(|value| value.map(|value| (name.to_owned(), value)))
            }
            None => Ok(None),
        };
        match (read(&meter.value_field)?, read(&meter.change_field)?) {
            (Some(_), Some((name, _))) => {
                let detail = "stands beside the level itself: an event sets it or changes it";
                Err(Rejection::new(format!("data.{name}"), "set_and_change", detail))
            }
            (Some((name, value)), None) if value < Decimal::ZERO => {
                self.below_zero(meter, &name, value).map(|value| Some((levels::SET, value)))
            }
            (Some((_, value)), None) => Ok(Some((levels::SET, value))),
            (None, Some((_, value))) => Ok(Some((levels::CHANGE, value))),
            (None, None) => Ok(None),
        }
    }

    /// Rejects a value below zero, unless meter and key allow it: it would give back quota and cost. Whoever
    /// reported wrongly sends a correction.
    fn below_zero(&self, meter: &Meter, name: &str, quantity: Decimal) -> Result<Decimal, Rejection> {
        if meter.allows_negative && self.caller.price {
            return Ok(quantity);
        }
        let what = if meter.allows_negative {
            "only a key with the scope usage:price may report it"
        } else {
            "the meter does not take it: void or amend what was reported wrongly"
        };
        let detail = format!("is below zero, and {what}");
        Err(Rejection::new(format!("data.{name}"), "negative_usage", detail))
    }

    fn set_cost(&self, cost: Cost, metered: &mut [Metered]) -> Result<(), Rejection> {
        if !self.caller.price {
            return Err(Rejection::new(
                "cost",
                "missing_scope",
                "only a key with the scope usage:price may set a cost",
            ));
        }
        match metered {
            [metered] if metered.series.meter.aggregation.is_additive() => {
                let cost = major_units(cost, metered).map(Sum::from).filter(|cost| cost.is_bounded());
                metered.cost = cost.ok_or_else(too_large)?;
                (metered.tiered, metered.card, metered.pricing) = (false, None, Pricing::Caller);
                Ok(())
            }
            _ => Err(Rejection::new(
                "cost",
                "ambiguous_cost",
                "a cost can be set only where one meter, of sum or count, counts the event",
            )),
        }
    }
}

/// The labels of a meter that an event has, as the JSON text of an object; `None`: it has none.
fn labels<'a>(
    meter: &Meter,
    field: impl Fn(&str) -> Option<&'a RawValue>,
) -> Result<Option<Box<str>>, Rejection> {
    let mut labels = Map::new();
    for name in &meter.labels {
        if let Some(text) = field(name).map(|raw| data::text(name, raw)).transpose()?.flatten() {
            labels.insert(name.clone(), text.into_owned().into());
        }
    }
    Ok(if labels.is_empty() { None } else { Some(Value::Object(labels).to_string().into()) })
}

/// The local day that usage of `day` is posted to: that day, or today when its month is closed; when the
/// present month is closed too, the first day after it.
#[must_use]
pub fn posting_day(catalog: &Catalog, org: &OrgContext, day: NaiveDate, now: DateTime<Utc>) -> NaiveDate {
    let Some(closed) = catalog.closed_month(org.org_id) else { return day };
    let first_open = closed.checked_add_months(chrono::Months::new(1)).unwrap_or(NaiveDate::MAX);
    if day >= first_open { day } else { org.day(now).max(first_open) }
}

/// `quantity` of a series, priced as of `occurred_at`, by the plan that the org had then. A negative quantity
/// gives nothing to a battery.
///
/// # Errors
/// When the cost or the battery units are too large.
pub fn priced(
    cache: (&Catalog, &SeriesCache),
    series: Arc<Series>,
    quantity: Decimal,
    (org, occurred_at): (&OrgContext, DateTime<Utc>),
    value: Option<Box<str>>,
) -> Result<Metered, Rejection> {
    let card = series.priced_by(Buyer::new(org, occurred_at), occurred_at);
    priced_by(cache, series, quantity, card, value)
}

/// `quantity` of a series, priced by the card at that index of its `rates`. It is counted to the series with
/// the card's currency. The cost by tiers follows when it is written.
///
/// # Errors
/// As [`priced`].
pub fn priced_by(
    (catalog, cache): (&Catalog, &SeriesCache),
    series: Arc<Series>,
    quantity: Decimal,
    card: Option<usize>,
    value: Option<Box<str>>,
) -> Result<Metered, Rejection> {
    let mut metered = Metered {
        quantity,
        cost: Sum::ZERO,
        battery_units: Sum::ZERO,
        card: None,
        tiered: false,
        pricing: Pricing::Card,
        value,
        labels: None,
        series,
        moves: Decimal::ZERO,
    };
    if !metered.series.meter.aggregation.is_additive() {
        return Ok(metered);
    }
    metered.pricing = match card.and_then(|index| metered.series.rates.get(index)) {
        Some((_, Some(_))) => Pricing::Card,
        // A card without rates makes usage free.
        Some((card, None)) if card.rates.is_empty() => Pricing::Free,
        None if metered.series.rates.is_empty() => Pricing::NoCard,
        _ => Pricing::NoRate,
    };
    if let Some(index) = card
        && let (card, Some(rate)) = &metered.series.rates[index]
    {
        let rate = &card.rates[*rate];
        metered.tiered = rate.tiers.is_some();
        if !metered.tiered {
            metered.cost = rating::cost(rate, Sum::ZERO, quantity).ok_or_else(too_large)?;
        }
        let burning = quantity.max(Decimal::ZERO);
        metered.battery_units = rating::battery_units(rate, burning).ok_or_else(too_large)?;
        metered.card = Some(index);
        metered.series = cache.in_currency(catalog, &metered.series, Some(&card.currency));
    }
    Ok(metered)
}

/// A cost in major units. The currency is that of the meter; a meter without cards has two decimal places.
fn major_units(cost: Cost, metered: &Metered) -> Option<Decimal> {
    match cost {
        Cost::Major(cost) => Some(cost),
        Cost::Minor(cost) => {
            let currency = metered.series.meter.currency.as_deref().unwrap_or_default();
            cost.checked_mul(Decimal::new(1, u32::from(money::decimal_places(currency))))
        }
    }
}

pub(crate) fn too_large() -> Rejection {
    let detail =
        "its cost, or what it burns of the battery, would be 10^15 or more: no single amount may be so large";
    Rejection::new("data", "too_large", detail)
}
