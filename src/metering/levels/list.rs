//! The levels of an org, each with its course over a time.

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

use super::course::Said;
use super::{Course, SET, course, standing};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::rates::{self, PriceBy, RateCard, choose};
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
    /// Who in the org it is of.
    pub member: Option<String>,
    /// Dimensions of its usage.
    pub dimensions: BTreeMap<String, String>,
    /// Whom quotas per subject count it to.
    pub subject: Option<String>,
    /// How much there is now.
    pub level: Quantity,
    /// How much there was at the first instant of the time that was asked for.
    pub start: Quantity,
    /// How much there was at its end.
    pub end: Quantity,
    /// The average over it, each level weighed by how long it held, half-even to twelve places.
    pub average: Quantity,
    /// The highest at any instant of it.
    pub peak: Quantity,
    /// What the average (or the peak, as the card or `price_by` says) costs by the rate card that holds at
    /// the end of the time (the org's own, its plan's, or the meter's): its unit costs, and its tiers from
    /// none on, are for a unit over the whole time. Null: it has no price.
    pub cost: Option<Quantity>,
    /// Currency of the cost, ISO 4217.
    pub currency: Option<String>,
}

/// Where a page ends: series and subject.
pub type Position = (i64, String);

/// What is asked for.
#[derive(Clone, Debug)]
pub struct Query {
    pub org: Arc<OrgContext>,
    /// Only of the meter with this key.
    pub meter: Option<String>,
    /// The first instant.
    pub from: DateTime<Utc>,
    /// The instant after the last.
    pub to: DateTime<Utc>,
    /// By which figure it is priced; `None`: by that which its card says.
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
    #[diesel(sql_type = Nullable<Text>)]
    member: Option<String>,
    #[diesel(sql_type = Jsonb)]
    dimensions: serde_json::Value,
    #[diesel(sql_type = Numeric)]
    signed: Sum,
}

/// Levels in the order of their positions, from the one after `after` on.
///
/// # Errors
/// When the database fails; [`Error::Conflict`] for one whose sums are too large.
pub fn list(
    conn: &mut PgConnection,
    query: &Query,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<(Position, Level)>, Error> {
    let rows: Vec<LevelRow> = diesel::sql_query(
        "SELECT m.meter_id, l.series_id, l.subject, m.key, m.unit, s.member, s.dimensions,
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
        let Course { start, end, average, peak } =
            course(&mut events, query.from, query.to).ok_or_else(too_large)?;
        let cards = match cards.entry(row.meter_id) {
            Entry::Occupied(cards) => cards.into_mut(),
            Entry::Vacant(free) => free.insert(cards_of(conn, row.meter_id, query)?),
        };
        let dimensions: BTreeMap<String, String> = serde_json::from_value(row.dimensions)
            .map_err(|error| Error::Internal(format!("usage series {}: {error}", row.series_id)))?;
        let cost = priced(cards, query, &dimensions, (average, peak)).map_err(|()| too_large())?;
        let level = Level {
            currency: cost.as_ref().map(|(_, currency)| currency.clone()),
            cost: cost.map(|(cost, _)| Quantity(cost)),
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

/// The cards of a meter that concern the org, in the order in which they are asked.
fn cards_of(conn: &mut PgConnection, meter_id: i32, query: &Query) -> Result<Vec<RateCard>, Error> {
    let mut cards = rates::of_meter(conn, meter_id)?;
    cards.retain(|card| card.org_id == 0 || card.org_id == query.org.org_id);
    cards.sort_by(|one, other| one.order().cmp(&other.order()));
    Ok(cards)
}

/// What a level of that average and peak costs by the card that holds at the end of the time, and the
/// currency; `Err`: too much to be exact.
fn priced(
    cards: &[RateCard],
    query: &Query,
    dimensions: &BTreeMap<String, String>,
    (average, peak): (Decimal, Decimal),
) -> Result<Option<(Decimal, String)>, ()> {
    let dimensions: Vec<(String, String)> = dimensions.clone().into_iter().collect();
    let last = query.to - TimeDelta::microseconds(1);
    let price = choose::price(cards.iter(), &dimensions, query.org.plan_at(last), last);
    let Some((card, Some(rate))) = price else { return Ok(None) };
    let quantity = match query.price_by.or(card.price_by) {
        Some(PriceBy::Peak) => peak,
        Some(PriceBy::Average) | None => average,
    };
    let cost = rating::cost(&card.rates[rate], Sum::ZERO, quantity).ok_or(())?;
    Ok(Some((cost.shown(), card.currency.clone())))
}

/// The events that the course hangs on: from the last set at or before its beginning on.
fn events(conn: &mut PgConnection, query: &Query, series_id: i64, subject: &str) -> Result<Vec<Said>, Error> {
    #[derive(QueryableByName)]
    struct Event {
        #[diesel(sql_type = Timestamptz)]
        occurred_at: DateTime<Utc>,
        #[diesel(sql_type = Text)]
        value: String,
        #[diesel(sql_type = Numeric)]
        quantity: Decimal,
    }
    let standing = standing(
        "r.org_id = $1 AND r.series_id = $2 AND coalesce(r.subject, '') = $3 AND r.occurred_at < $5",
    );
    let rows: Vec<Event> = diesel::sql_query(format!(
        "WITH e AS MATERIALIZED (SELECT occurred_at, value, quantity FROM {standing} e)
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
