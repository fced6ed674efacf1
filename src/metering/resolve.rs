//! From a usage event as it was sent to what will be written: its org, key, day, and a quantity for each
//! meter that counts it. Pure: the same event under the same catalogue gives the same rows.

use std::borrow::Cow;
use std::sync::Arc;

use chrono::{DateTime, Duration, NaiveDate, SubsecRound, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;
use uuid::Uuid;

use super::catalog::Catalog;
use super::data;
use super::event::{Cost, Rejection, UsageEvent};
use super::levels;
use super::meters::{Aggregation, Meter};
use super::rates::Rate;
use super::rating;
use super::series::{self, Series};
use super::unpriced::Pricing;
use crate::billing::directory::OrgContext;
use crate::money;
use crate::quantity::Sum;

/// What a caller may do beyond posting usage.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The key's org; `None`: a key of the platform.
    pub org_id: Option<i64>,
    /// Whether usage may be older than the window.
    pub backfill: bool,
    /// Whether it may set the cost.
    pub price: bool,
}

/// Which times are taken.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    pub back: Duration,
    /// Before this nothing is taken, whoever sends it: its records would not be kept.
    pub horizon: Option<DateTime<Utc>>,
    pub ahead: Duration,
}

/// How sources of usage begin that the daemon makes by itself.
const OURS: &str = "coulomb:";
/// The oldest time that a backfill may name.
const OLDEST: DateTime<Utc> = DateTime::from_timestamp(946_684_800, 0).expect("in range");

/// A usage event, ready to be written.
#[derive(Clone, Debug)]
pub struct Usage {
    pub org: Arc<OrgContext>,
    /// Digest of source and id.
    pub event_key: Uuid,
    /// Digest of what is kept of the event, see [`content`].
    pub content: i64,
    /// Whether the caller said when it happened.
    pub names_time: bool,
    pub occurred_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    /// The local day that its quantity and cost are posted to: its own, or, where that month is closed, an
    /// open one.
    pub day: NaiveDate,
    /// The local day that it belongs to, posted there or not: its month is that of its tiers and quotas.
    pub own_day: NaiveDate,
    /// When the billing period began that it belongs to.
    pub billing_period: Option<DateTime<Utc>>,
    pub event_id: Box<str>,
    pub source: Box<str>,
    /// What a quota per subject counts it to.
    pub subject: Option<Box<str>>,
    /// 0 as reported, see `usage_records.correction`.
    pub correction: i16,
    /// Whether it takes back what was posted to another day, as that month is closed. What does not add up
    /// then changes nowhere.
    pub elsewhere: bool,
    /// A quantity for each meter: nearly always one.
    pub metered: SmallVec<[Metered; 1]>,
}

/// What one meter makes of a usage event.
#[derive(Clone, Debug)]
pub struct Metered {
    /// The series that it is counted to.
    pub series: Arc<Series>,
    /// How much; negative when usage is taken back.
    pub quantity: Decimal,
    /// What it costs, exact; that of tiers is known only when it is written.
    pub cost: Sum,
    /// Battery units, exact.
    pub battery_units: Sum,
    /// The index in the series' `rates` of the card that priced it.
    pub card: Option<usize>,
    /// Whether the price depends on the month's quantity.
    pub tiered: bool,
    /// By what it is priced.
    pub pricing: Pricing,
    /// What a meter of unique values saw; of a level meter, whether it is set or changed.
    pub value: Option<Box<str>>,
    /// What it moves the present level by, see [`levels`]; told when it is written.
    pub moves: Decimal,
}

impl Metered {
    /// Whether it is of a level meter.
    #[must_use]
    pub fn is_level(&self) -> bool {
        self.series.meter.aggregation == Aggregation::Level
    }

    /// What it adds to counters of quotas.
    #[must_use]
    pub fn counts(&self) -> Decimal {
        if self.is_level() { self.moves } else { self.quantity }
    }

    /// Row id of the rate card that priced it.
    #[must_use]
    pub fn rate_card_id(&self) -> Option<i32> {
        self.card.map(|card| self.series.rates[card].0.rate_card_id)
    }

    /// The rate that prices it.
    #[must_use]
    pub fn rate(&self) -> Option<&Rate> {
        let (card, rate) = self.series.rates.get(self.card?)?;
        card.rates.get((*rate)?)
    }
}

/// What resolving needs beside the event.
pub struct Resolver<'a> {
    pub catalog: &'a Catalog,
    pub series: &'a series::SeriesCache,
    pub caller: Caller,
    /// Which times are taken.
    pub window: Window,
    /// The time of arrival.
    pub now: DateTime<Utc>,
}

impl Resolver<'_> {
    /// What is to be written for an event of `org`.
    ///
    /// # Errors
    /// The field and rule that the event breaks.
    pub fn resolve(&self, event: &UsageEvent<'_>, org: &Arc<OrgContext>) -> Result<Usage, Rejection> {
        let occurred_at = self.occurred_at(event)?;
        if event.source.starts_with(OURS) {
            let detail = format!("sources that begin with `{OURS}` are made by the daemon itself");
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
            if let Some(one) = self.meter(meter, event, org, &fields, occurred_at)? {
                metered.push(one);
            }
        }
        if metered.is_empty() {
            let fields = |meter: &Arc<Meter>| [meter.value_field.clone(), meter.change_field.clone()];
            let wanted: Vec<String> = meters.iter().flat_map(fields).flatten().collect();
            return Err(Rejection::new(
                format!("data.{}", wanted.first().map_or("", String::as_str)),
                "no_value",
                format!("`data` has no value that a meter reads ({})", wanted.join(", ")),
            ));
        }
        if let Some(cost) = event.cost {
            self.set_cost(cost, &mut metered)?;
        }
        let content = content(event, &metered);
        Ok(Usage {
            org: Arc::clone(org),
            event_key: event_key(&event.source, &event.id),
            content,
            names_time: event.occurred_at.is_some(),
            occurred_at,
            received_at: self.now,
            day: self.open(org, occurred_at),
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
    pub fn open(&self, org: &OrgContext, at: DateTime<Utc>) -> NaiveDate {
        posted(self.catalog, org, org.day(at), self.now)
    }

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
                let Some((said, quantity)) = self.level(meter, field)? else { return Ok(None) };
                value = Some(said.into());
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
        let series = self.series.of(self.catalog, org.org_id, meter, event.member.as_deref(), &dimensions);
        priced(series, quantity, org, occurred_at, value).map(Some)
    }

    /// What an event says of a level: that it is set, or changed, and the value.
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

    /// Whoever may only report usage could otherwise give itself back quota and cost. What was reported
    /// wrongly is taken back by a correction.
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
            [one] if one.series.meter.aggregation.is_additive() => {
                let cost = major(cost, one).map(Sum::from).filter(|cost| cost.is_bounded());
                one.cost = cost.ok_or_else(too_large)?;
                (one.tiered, one.card, one.pricing) = (false, None, Pricing::Caller);
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

/// The local day that what belongs to `day` is posted to: that day, or, in a closed month, today; where the
/// present month is closed too, the first day after it.
#[must_use]
pub fn posted(catalog: &Catalog, org: &OrgContext, day: NaiveDate, now: DateTime<Utc>) -> NaiveDate {
    let Some(closed) = catalog.closed_month(org.org_id) else { return day };
    let first_open = closed.checked_add_months(chrono::Months::new(1)).unwrap_or(NaiveDate::MAX);
    if day >= first_open { day } else { org.day(now).max(first_open) }
}

/// `quantity` more of a series, priced as of `occurred_at`, by the plan that the org had then. Whatever its
/// sign, usage gives nothing to a battery.
///
/// # Errors
/// When the cost or the battery units are too large.
pub fn priced(
    series: Arc<Series>,
    quantity: Decimal,
    org: &OrgContext,
    occurred_at: DateTime<Utc>,
    value: Option<Box<str>>,
) -> Result<Metered, Rejection> {
    let card = series.priced_by(org.plan_at(occurred_at), occurred_at);
    priced_by(series, quantity, card, value)
}

/// `quantity` more of a series, priced by the card at that place of its `rates`; tiers are asked when it is
/// written.
///
/// # Errors
/// As [`priced`].
pub fn priced_by(
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
        series,
        moves: Decimal::ZERO,
    };
    if !metered.series.meter.aggregation.is_additive() {
        return Ok(metered);
    }
    metered.pricing = match card.and_then(|place| metered.series.rates.get(place)) {
        Some((_, Some(_))) => Pricing::Card,
        // A card without any rate says that there is no price.
        Some((card, None)) if card.rates.is_empty() => Pricing::Free,
        None if metered.series.rates.is_empty() => Pricing::NoCard,
        _ => Pricing::NoRate,
    };
    if let Some(place) = card
        && let (card, Some(rate)) = &metered.series.rates[place]
    {
        let rate = &card.rates[*rate];
        metered.tiered = rate.tiers.is_some();
        if !metered.tiered {
            metered.cost = rating::cost(rate, Sum::ZERO, quantity).ok_or_else(too_large)?;
        }
        let burning = quantity.max(Decimal::ZERO);
        metered.battery_units = rating::battery_units(rate, burning).ok_or_else(too_large)?;
        metered.card = Some(place);
    }
    Ok(metered)
}

/// A cost in whole units of the currency that the meter's cards are in; of a meter without cards, in
/// hundredths.
fn major(cost: Cost, metered: &Metered) -> Option<Decimal> {
    match cost {
        Cost::Major(cost) => Some(cost),
        Cost::Minor(cost) => {
            let currency = metered.series.rates.first().map_or("", |(card, _)| &card.currency);
            cost.checked_mul(Decimal::new(1, u32::from(money::decimal_places(currency))))
        }
    }
}

pub(crate) fn too_large() -> Rejection {
    let detail =
        "its cost, or what it burns of the battery, would be 10^15 or more: no single amount may be so large";
    Rejection::new("data", "too_large", detail)
}

/// 16 bytes of a digest over source and id. A UUID of version 7 begins with its time, which is kept in front:
/// keys that come together then lie together in the index (RFC 9562, section 5.7).
#[must_use]
pub fn event_key(source: &str, id: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(u32::try_from(source.len()).unwrap_or(u32::MAX).to_be_bytes());
    hash.update(source);
    hash.update(id);
    let digest = hash.finalize();
    let mut key: [u8; 16] = digest[..16].try_into().expect("a digest has 32 bytes");
    if let Ok(uuid) = Uuid::try_parse(id)
        && uuid.get_version_num() == 7
    {
        key[..6].copy_from_slice(&uuid.as_bytes()[..6]);
    }
    Uuid::from_bytes(key)
}

/// 64 bits of a digest over what is kept of an event: the series that count it (meter, member, dimensions),
/// the quantity or value of each, its subject, the cost that it sets, and its time, if the caller named one.
/// So the same values are the same content, however they are written, and what no meter reads is no part of
/// it.
///
/// The catalogue may change between an event and its repeat, and keys of older versions hold a digest of the
/// event's text. So a digest that differs proves nothing yet: the claim of keys then asks the stored records
/// (`posting::keys`).
fn content(event: &UsageEvent<'_>, metered: &[Metered]) -> i64 {
    let mut bytes = Vec::with_capacity(128);
    let mut text = |text: Option<&str>| {
        let length = text.map_or(u32::MAX, |text| u32::try_from(text.len()).unwrap_or(u32::MAX - 1));
        bytes.extend_from_slice(&length.to_be_bytes());
        bytes.extend_from_slice(text.unwrap_or_default().as_bytes());
    };
    text(event.subject.as_deref());
    let cost = event.cost.map(|cost| match cost {
        Cost::Major(cost) => cost.normalize().to_string(),
        Cost::Minor(cost) => format!("{} minor", cost.normalize()),
    });
    text(cost.as_deref());
    for one in metered {
        text(one.value.as_deref());
    }
    for one in metered {
        bytes.extend_from_slice(&one.series.series_id.to_be_bytes());
        bytes.extend_from_slice(&one.quantity.normalize().serialize());
    }
    if let Some(at) = event.occurred_at {
        bytes.extend_from_slice(&at.timestamp_micros().to_be_bytes());
    }
    let digest = Sha256::digest(&bytes);
    i64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes"))
}
