//! Lists the levels of an org, with figures over a time.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Jsonb, Nullable, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::figures::LevelEvent;
use super::{LevelFigures, SET, level_figures, valid_records};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::rates::choose::{self, Buyer};
use crate::metering::rates::{self, PriceBy, RateCard};
use crate::metering::rating;
use crate::quantity::{Quantity, Sum};

/// A level.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = UsageLevel)]
pub struct Level {
    /// Key of the meter.
    pub meter: String,
    /// What it is counted in, for people.
    pub unit: String,
    /// The member of the org.
    pub member: Option<String>,
    /// Dimensions of its usage.
    pub dimensions: BTreeMap<String, String>,
    /// Quotas per subject count it to this subject.
    pub subject: Option<String>,
    /// How much there is now.
    pub level: Quantity,
    /// How much there was at the first instant of the requested time.
    pub start: Quantity,
    /// How much there was at the end of the requested time.
    pub end: Quantity,
    /// The average, each level weighted by how long it lasted, rounded half-even to twelve places.
    pub average: Quantity,
    /// The highest level at any instant of the requested time.
    pub peak: Quantity,
    /// What the average costs (or the peak, if the card or `price_by` says so), by the rate card that is
    /// valid at the end of the requested time: the org's own, its plan's, or the meter's. A unit costs the
    /// card's price for the whole time, and tiers begin at 0. Null: it has no price.
    pub cost: Option<Quantity>,
    /// Currency of the cost, ISO 4217.
    pub currency: Option<String>,
    /// The figure that was priced.
    #[serde(skip)]
    pub priced: Option<Quantity>,
}

/// The position of a level in the list: series and subject.
pub type Position = (i64, String);

/// Selects levels and a time.
#[derive(Clone, Debug)]
pub struct LevelQuery {
    pub org: Arc<OrgContext>,
    /// Only levels of the meter with this key.
    pub meter: Option<String>,
    /// The first instant.
    pub from: DateTime<Utc>,
    /// The instant after the last.
    pub to: DateTime<Utc>,
    /// The figure that is priced; `None`: as the card says.
    pub price_by: Option<PriceBy>,
}

#[derive(QueryableByName)]
struct LevelRow {
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = BigInt)]
    series_id: i64,
    #[diesel(sql_type = Text)]
    subject: String,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    unit: String,
    /// Of the meter.
    #[diesel(sql_type = Nullable<Text>)]
    currency: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    member: Option<String>,
    #[diesel(sql_type = Jsonb)]
    dimensions: serde_json::Value,
    #[diesel(sql_type = Numeric)]
    signed: Sum,
}

/// Levels in the order of their positions, after `after`, at most `limit`.
///
/// # Errors
/// [`Error::Conflict`] when the sums of a level are too large.
pub fn list(
    conn: &mut PgConnection,
    query: &LevelQuery,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<(Position, Level)>, Error> {
    let rows: Vec<LevelRow> = diesel::sql_query(
        "SELECT m.meter_id, l.series_id, l.subject, m.key, m.unit, m.currency, s.member, s.dimensions,
             l.set_value + l.changes AS signed
         FROM usage_levels l JOIN usage_series s USING (org_id, series_id) JOIN meters m USING (meter_id)
         WHERE l.org_id = $1 AND ($2 IS NULL OR m.key = $2) AND (l.series_id, l.subject) > ($3, $4)
         ORDER BY l.series_id, l.subject LIMIT $5",
    )
    .bind::<BigInt, _>(query.org.org_id)
    .bind::<Nullable<Text>, _>(query.meter.as_deref())
    .bind::<BigInt, _>(after.map_or(-1, |after| after.0))
    .bind::<Text, _>(after.map_or("", |after| after.1.as_str()))
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    let (mut levels, mut cards) = (Vec::with_capacity(rows.len()), HashMap::new());
    for row in rows {
        let mut events = events(conn, query, row.series_id, &row.subject)?;
        let too_large =
            || Error::conflict("amount_too_large", "the sums of this level are too large to be exact");
        let LevelFigures { start, end, average, peak } =
            level_figures(&mut events, query.from, query.to).ok_or_else(too_large)?;
        let cards = match cards.entry(row.meter_id) {
            Entry::Occupied(cards) => cards.into_mut(),
            Entry::Vacant(free) => free.insert(cards_of(conn, row.meter_id, query)?),
        };
        let dimensions: BTreeMap<String, String> = serde_json::from_value(row.dimensions)
            .map_err(|error| Error::Internal(format!("usage series {}: {error}", row.series_id)))?;
        let cost = priced((cards, row.currency.as_deref()), query, &dimensions, (average, peak));
        let cost = cost.map_err(|()| too_large())?;
        let level = Level {
            priced: cost.as_ref().map(|priced| Quantity(priced.quantity)),
            currency: cost.as_ref().map(|priced| priced.currency.clone()),
            cost: cost.map(|priced| Quantity(priced.cost)),
            meter: row.key,
            unit: row.unit,
            member: row.member,
            dimensions,
            subject: Some(row.subject.clone()).filter(|subject| !subject.is_empty()),
            level: Quantity(row.signed.max(Sum::ZERO).shown()),
            start: Quantity(start),
            end: Quantity(end),
            average: Quantity(average),
            peak: Quantity(peak),
        };
        levels.push(((row.series_id, row.subject), level));
    }
    Ok(levels)
}

/// What a level costs over a time.
pub(crate) struct LevelCost {
    /// Key of the meter.
    pub(crate) meter: String,
    pub(crate) currency: String,
    /// The figure that was priced: the average or the peak.
    pub(crate) quantity: Decimal,
    /// In major units, not rounded to minor units.
    pub(crate) cost: Decimal,
}

/// What the levels of an org cost over `[from, to)`; levels without a price are left out.
///
/// # Errors
/// [`Error::Conflict`] when the sums of a level are too large to be exact.
pub(crate) fn costs(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<Vec<LevelCost>, Error> {
    const PAGE: i64 = 500;
    let query = LevelQuery { org: Arc::clone(org), meter: None, from, to, price_by: None };
    let (mut costs, mut after) = (Vec::new(), None);
    loop {
        let page = list(conn, &query, after.as_ref(), PAGE)?;
        let is_last = page.len() < usize::try_from(PAGE).unwrap_or(usize::MAX);
        after = page.last().map(|(position, _)| position.clone());
        for (_, level) in page {
            if let (Some(cost), Some(currency), Some(quantity)) = (level.cost, level.currency, level.priced) {
                costs.push(LevelCost { meter: level.meter, currency, quantity: quantity.0, cost: cost.0 });
            }
        }
        if is_last {
            return Ok(costs);
        }
    }
}

/// The cards of a meter that may price usage of the org, in the order of precedence.
fn cards_of(conn: &mut PgConnection, meter_id: i32, query: &LevelQuery) -> Result<Vec<RateCard>, Error> {
    let mut cards = rates::of_meter(conn, meter_id)?;
    cards.retain(|card| card.org_id == 0 || card.org_id == query.org.org_id);
    cards.sort_by(|one, other| one.order().cmp(&other.order()));
    Ok(cards)
}

/// What a level with this average and peak costs by the card that is valid at the end of the time, and in
/// which currency. `currency`: that of the meter. `Err`: it is too large to be exact.
fn priced(
    (cards, currency): (&[RateCard], Option<&str>),
    query: &LevelQuery,
    dimensions: &BTreeMap<String, String>,
    (average, peak): (Decimal, Decimal),
) -> Result<Option<Priced>, ()> {
    let dimensions: Vec<(String, String)> = dimensions.clone().into_iter().collect();
    let last = query.to - TimeDelta::microseconds(1);
    let buyer = Buyer::new(&query.org, last);
    let price = choose::price(cards.iter(), &dimensions, (buyer, currency), last);
    let Some((card, Some(rate))) = price else { return Ok(None) };
    let quantity = match query.price_by.or(card.price_by) {
        Some(PriceBy::Peak) => peak,
        Some(PriceBy::Average) | None => average,
    };
    let cost = rating::cost(&card.rates[rate], Sum::ZERO, quantity).ok_or(())?;
    Ok(Some(Priced { quantity, cost: cost.shown(), currency: card.currency.clone() }))
}

/// A figure with its price.
struct Priced {
    quantity: Decimal,
    cost: Decimal,
    currency: String,
}

/// The events that make the figures: from the last set at or before the beginning of the time on.
fn events(
    conn: &mut PgConnection,
    query: &LevelQuery,
    series_id: i64,
    subject: &str,
) -> Result<Vec<LevelEvent>, Error> {
    #[derive(QueryableByName)]
    struct EventRow {
        #[diesel(sql_type = Timestamptz)]
        occurred_at: DateTime<Utc>,
        #[diesel(sql_type = Text)]
        value: String,
        #[diesel(sql_type = Numeric)]
        quantity: Decimal,
    }
    let valid_records = valid_records(
        "r.org_id = $1 AND r.series_id = $2 AND coalesce(r.subject, '') = $3 AND r.occurred_at < $5",
    );
    let rows: Vec<EventRow> = diesel::sql_query(format!(
        "WITH e AS MATERIALIZED (SELECT occurred_at, value, quantity FROM {valid_records} e)
         SELECT occurred_at, value, quantity FROM e
         WHERE occurred_at >= coalesce(
             (SELECT max(occurred_at) FROM e WHERE value = '{SET}' AND occurred_at <= $4), '-infinity')"
    ))
    .bind::<BigInt, _>(query.org.org_id)
    .bind::<BigInt, _>(series_id)
    .bind::<Text, _>(subject)
    .bind::<Timestamptz, _>(query.from)
    .bind::<Timestamptz, _>(query.to)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.occurred_at, row.value == SET, row.quantity)).collect())
}
