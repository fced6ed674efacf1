//! A usage event that is ready to be written.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use rust_decimal::Decimal;
use smallvec::SmallVec;
use uuid::Uuid;

use super::meters::Aggregation;
use super::rates::Rate;
use super::series::Series;
use super::unpriced::Pricing;
use crate::billing::directory::OrgContext;
use crate::quantity::Sum;

/// A usage event, ready to be written.
#[derive(Clone, Debug)]
pub struct Usage {
    pub org: Arc<OrgContext>,
    /// Digest of source and id.
    pub event_key: Uuid,
    /// Digest of what is stored of the event: [`content_digest`].
    pub content: i64,
    /// The caller said when it happened.
    pub names_time: bool,
    pub occurred_at: DateTime<Utc>,
    pub received_at: DateTime<Utc>,
    /// The local day that its quantity and cost are posted to: its own day, or a day of an open month when
    /// its own month is closed.
    pub day: NaiveDate,
    /// The local day on which it occurred. Tiers and quotas count it there, even when `day` is another.
    pub own_day: NaiveDate,
    /// When its billing period began.
    pub billing_period: Option<DateTime<Utc>>,
    pub event_id: Box<str>,
    pub source: Box<str>,
    /// Quotas per subject count it to this subject.
    pub subject: Option<Box<str>>,
    /// 0: as reported. Odd: takes back the record before. Even: replaces it.
    pub correction: i16,
    /// It takes back usage that was posted to another day, because that month is closed now. Summaries that
    /// do not add up then change nowhere.
    pub elsewhere: bool,
    /// One for each meter that counts it, nearly always one.
    pub metered: SmallVec<[Metered; 1]>,
}

/// What one meter makes of a usage event.
#[derive(Clone, Debug)]
pub struct Metered {
    pub series: Arc<Series>,
    /// Negative when usage is taken back.
    pub quantity: Decimal,
    /// Exact. The cost by tiers is known only when it is written.
    pub cost: Sum,
    /// Exact.
    pub battery_units: Sum,
    /// Index in the series' `rates` of the card that prices it.
    pub card: Option<usize>,
    /// The price depends on the quantity of the period.
    pub tiered: bool,
    pub pricing: Pricing,
    /// The value, for a meter of unique values; for a level meter `set` or `change`.
    pub value: Option<Box<str>>,
    /// The meter's labels that the event has, as the JSON text of an object, sorted by name.
    pub labels: Option<Box<str>>,
    /// How much it moves the present level ([`levels`]). Known only when it is written.
    pub moves: Decimal,
}

impl Metered {
    #[must_use]
    pub fn is_level(&self) -> bool {
        self.series.meter.aggregation == Aggregation::Level
    }

    /// How much it adds to counters of quotas.
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
