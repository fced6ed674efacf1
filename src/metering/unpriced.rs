//! Usage without a price: its record is marked, it is counted, a message tells of it once, and meters may
//! refuse it. Owns `unpriced_usage`.
//!
//! Usage of a new model that no rate fits costs nothing and looks like free usage. Others notice it when the
//! margin is gone (LiteLLM, "model not mapped in the cost map": usage is recorded with a cost of 0).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Jsonb, Nullable, Numeric, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::event::Rejection;
use super::meters::Unpriced;
use super::usage::{Metered, Usage};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::quantity::{Quantity, Sum};

/// How a record got its price: `usage_records.pricing`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(i16)]
pub enum Pricing {
    /// A rate card priced it; or its meter does not add up and has no prices.
    Card = 0,
    /// The caller set its cost.
    Caller = 1,
    /// The meter has rates, and none fits.
    NoRate = 2,
    /// The meter has no rate card.
    NoCard = 3,
    /// The card of its time has no rates: usage is free.
    Free = 4,
}

impl Pricing {
    /// From `usage_records.pricing`.
    #[must_use]
    pub fn from_number(number: i16) -> Self {
        [Self::Card, Self::Caller, Self::NoRate, Self::NoCard, Self::Free]
            .into_iter()
            .find(|pricing| *pricing as i16 == number)
            .unwrap_or(Self::Card)
    }
}

/// Rejects usage that no rate fits when its meter refuses such usage.
pub fn refuse(usage: &Usage) -> Result<(), Rejection> {
    let is_refused = |metered: &&Metered| {
        metered.pricing == Pricing::NoRate && metered.series.meter.unpriced == Unpriced::Refuse
    };
    let Some(metered) = usage.metered.iter().find(is_refused) else { return Ok(()) };
    let dimensions: Vec<String> =
        metered.series.dimensions.iter().map(|(name, value)| format!("{name} `{value}`")).collect();
    let detail = format!(
        "no rate of the meter `{}` fits {}, and it refuses usage without a price: give it one, or correct \
            the event",
        metered.series.meter.key,
        if dimensions.is_empty() { "usage without dimensions".to_owned() } else { dimensions.join(", ") }
    );
    Err(Rejection::new("data", "unpriced", detail))
}

#[derive(Default)]
struct SeriesTotals {
    events: i64,
    quantity: Sum,
    first: Option<DateTime<Utc>>,
    last: Option<DateTime<Utc>>,
}

statement!(AddUnpriced -> (BigInt, BigInt, BigInt):
    "INSERT INTO unpriced_usage AS u (org_id, series_id, events, quantity, first_seen, last_seen) \
     SELECT * FROM unnest(?, ?, ?, ?, ?, ?) ON CONFLICT (org_id, series_id) \
     DO UPDATE SET events = u.events + excluded.events, \
     quantity = u.quantity + excluded.quantity, first_seen = least(u.first_seen, excluded.first_seen), \
     last_seen = greatest(u.last_seen, excluded.last_seen) RETURNING org_id, series_id, events");

/// Counts the usage that no rate fits (`sign` -1: it is taken back), and writes a message when it is the
/// first of its kind in its org. Nearly always there is none, and nothing is sent to the database.
pub(super) fn count(conn: &mut PgConnection, usage: &[&Usage], sign: i64) -> Result<(), Error> {
    let mut added: BTreeMap<(i64, i64), SeriesTotals> = BTreeMap::new();
    let mut examples: BTreeMap<(i64, i64), (&Usage, &Metered)> = BTreeMap::new();
    for usage in usage {
        for metered in usage.metered.iter().filter(|metered| metered.pricing == Pricing::NoRate) {
            let key = (metered.series.org_id, metered.series.series_id);
            let sum = added.entry(key).or_default();
            sum.events += sign;
            sum.quantity += metered.quantity;
            sum.first = Some(sum.first.map_or(usage.occurred_at, |at| at.min(usage.occurred_at)));
            sum.last = sum.last.max(Some(usage.occurred_at));
            examples.entry(key).or_insert((usage, metered));
        }
    }
    if added.is_empty() {
        return Ok(());
    }
    let rows: Vec<(i64, i64, i64)> = Prepared::<AddUnpriced>::new()
        .bind::<BigInt, _>(added.keys().map(|key| key.0).collect::<Vec<_>>())
        .bind::<BigInt, _>(added.keys().map(|key| key.1).collect::<Vec<_>>())
        .bind::<BigInt, _>(added.values().map(|sum| sum.events).collect::<Vec<_>>())
        .bind::<Numeric, _>(added.values().map(|sum| sum.quantity).collect::<Vec<_>>())
        .bind::<Nullable<Timestamptz>, _>(added.values().map(|sum| sum.first).collect::<Vec<_>>())
        .bind::<Nullable<Timestamptz>, _>(added.values().map(|sum| sum.last).collect::<Vec<_>>())
        .load(conn)?;
    let first_ones = rows.iter().filter(|(org, series, events)| {
        sign > 0 && added.get(&(*org, *series)).is_some_and(|sum| sum.events == *events)
    });
    let messages: Vec<NewMessage> = first_ones
        .filter_map(|(org, series, _)| examples.get(&(*org, *series)).copied())
        .map(message)
        .collect();
    let now = usage.first().map_or(DateTime::UNIX_EPOCH, |one| one.received_at);
    messages::write(conn, messages, now)
}

fn message((usage, metered): (&Usage, &Metered)) -> NewMessage {
    let series = &metered.series;
    let dimensions: Value =
        series.dimensions.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect();
    NewMessage {
        org_id: series.org_id,
        kind: "usage.unpriced",
        dedupe_key: format!("unpriced:{}:{dimensions}", series.meter.meter_id),
        data: json!({
            "org": &*usage.org.public_id, "meter": series.meter.key, "dimensions": dimensions,
            "event": { "id": &*usage.event_id, "source": &*usage.source, "occurred_at": usage.occurred_at },
            "quantity": Quantity(metered.quantity),
        }),
        object: None,
    }
}

/// Selects unpriced usage.
#[derive(Clone, Debug, Default)]
pub struct UnpricedFilter {
    /// Only of this org.
    pub org_id: Option<i64>,
    /// Only of the meter with this key.
    pub meter: Option<String>,
}

/// Usage of an org and a meter with dimensions that no rate fits.
#[derive(Clone, Debug, QueryableByName, Serialize, ToSchema)]
pub struct UnpricedUsage {
    #[serde(skip)]
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[serde(skip)]
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    /// Public id of the org.
    #[diesel(sql_type = Text)]
    org: String,
    /// Key of the meter.
    #[diesel(sql_type = Text)]
    meter: String,
    /// The dimensions of the usage. No rate fits some of their values.
    #[diesel(sql_type = Jsonb)]
    #[schema(value_type = BTreeMap<String, String>)]
    dimensions: Value,
    /// Usage events, without those that were taken back or priced since.
    #[diesel(sql_type = BigInt)]
    events: i64,
    /// Their quantity, a decimal.
    #[diesel(sql_type = Text)]
    quantity: String,
    /// When the first of them happened, even if it was taken back.
    #[diesel(sql_type = Timestamptz)]
    first_seen: DateTime<Utc>,
    /// When the last of them happened.
    #[diesel(sql_type = Timestamptz)]
    last_seen: DateTime<Utc>,
}

/// The position of a row in the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position(i64, i32, String);

impl UnpricedUsage {
    #[must_use]
    pub fn position(&self) -> Position {
        Position(self.org_id, self.meter_id, self.dimensions.to_string())
    }
}

/// Usage that no rate fits, in the order of org, meter, dimensions: at most `limit` rows after `after`.
///
/// # Errors
/// [`Error::Invalid`] for an unknown meter.
pub fn list(
    conn: &mut PgConnection,
    filter: &UnpricedFilter,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<UnpricedUsage>, Error> {
    let meter_id = super::meters::ids(conn, filter.meter.as_slice())?.pop();
    let after_dimensions = after.map(|after| serde_json::from_str::<Value>(&after.2));
    let after_dimensions =
        after_dimensions.transpose().map_err(|_| crate::page::wrong_cursor())?.unwrap_or_default();
    Ok(diesel::sql_query(
        "SELECT * FROM (
             SELECT u.org_id, m.meter_id, o.public_id AS org, m.key AS meter, s.dimensions,
                 sum(u.events)::bigint AS events,
                 trim_scale(sum(u.quantity))::text AS quantity, min(u.first_seen) AS first_seen,
                     max(u.last_seen) AS last_seen
             FROM unpriced_usage u JOIN orgs o ON o.org_id = u.org_id
             JOIN usage_series s ON s.org_id = u.org_id AND s.series_id = u.series_id
             JOIN meters m ON m.meter_id = s.meter_id
             WHERE u.events > 0 AND ($1::bigint IS NULL OR u.org_id = $1)
                 AND ($2::integer IS NULL OR m.meter_id = $2)
             GROUP BY u.org_id, m.meter_id, o.public_id, m.key, s.dimensions) u
         WHERE $3::bigint IS NULL OR (org_id, meter_id, dimensions) > ($3, $4, $5)
         ORDER BY org_id, meter_id, dimensions LIMIT $6",
    )
    .bind::<Nullable<BigInt>, _>(filter.org_id)
    .bind::<Nullable<Integer>, _>(meter_id)
    .bind::<Nullable<BigInt>, _>(after.map(|after| after.0))
    .bind::<Nullable<Integer>, _>(after.map(|after| after.1))
    .bind::<Jsonb, _>(after_dimensions)
    .bind::<BigInt, _>(limit)
    .load(conn)?)
}

/// The number of usage events without a price, and the keys of their meters.
pub fn totals(conn: &mut PgConnection) -> Result<(i64, Vec<String>), Error> {
    #[derive(QueryableByName)]
    struct UnpricedTotals {
        #[diesel(sql_type = BigInt)]
        events: i64,
        #[diesel(sql_type = Array<Text>)]
        meters: Vec<String>,
    }
    let totals: UnpricedTotals = diesel::sql_query(
        "SELECT coalesce(sum(u.events), 0)::bigint AS events,
             coalesce(array_agg(DISTINCT m.key) FILTER (WHERE m.key IS NOT NULL), '{}') AS meters
         FROM unpriced_usage u JOIN usage_series s ON s.org_id = u.org_id AND s.series_id = u.series_id
         JOIN meters m ON m.meter_id = s.meter_id WHERE u.events > 0",
    )
    .get_result(conn)?;
    Ok((totals.events, totals.meters))
}
