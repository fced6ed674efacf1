//! Finds out whether an event repeats the stored one although their digests differ. They differ when the
//! catalogue has changed since (a meter or a dimension came or went), and for keys of older versions, which
//! have digests of the event's text. The stored records decide. Only repeats with another digest get here.

use std::collections::{HashMap, HashSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{
    BigInt, Bool, Integer, Jsonb, Nullable, Numeric, Text, Timestamptz, Uuid as SqlUuid,
};
use rust_decimal::Decimal;
use serde_json::Value;

use super::keys::{Key, key};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::usage::{Metered, Usage};
use crate::quantity::Sum;

// What was reported, not what corrections made of it.
statement!(ReadReported -> (
        (BigInt, SqlUuid, Timestamptz, Bool), (Integer, Nullable<Text>, Jsonb, Bool),
        (Numeric, Numeric, Bool, Nullable<Text>, Nullable<Text>, Nullable<Jsonb>)
    ):
    "SELECT r.org_id, r.event_key, r.occurred_at, r.occurred_at = r.received_at, \
        r.meter_id, s.member, s.dimensions, EXISTS ( \
            SELECT FROM meter_versions v WHERE v.meter_id = r.meter_id AND v.created_at > r.received_at), \
        r.quantity, r.cost, r.rate_card_id IS NULL, r.subject, r.value, r.labels \
     FROM unnest(?, ?) AS t (o, e) JOIN usage_keys k ON k.org_id = t.o AND k.event_key = t.e \
     JOIN usage_records r ON r.org_id = k.org_id AND r.occurred_at = k.occurred_at \
        AND r.event_key = k.event_key AND r.correction = 0 \
     JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id");

type ReportedRow = (
    (i64, uuid::Uuid, DateTime<Utc>, bool),
    (i32, Option<String>, Value, bool),
    (Decimal, Sum, bool, Option<String>, Option<String>, Option<Value>),
);

/// A record as it was reported.
struct ReportedRecord {
    occurred_at: DateTime<Utc>,
    /// The caller sent no time, so it has the time of its arrival.
    has_arrival_time: bool,
    meter_id: i32,
    member: Option<String>,
    dimensions: Value,
    /// The meter has a newer version than the one that counted it.
    is_outdated: bool,
    quantity: Decimal,
    cost: Sum,
    /// No card priced it: the caller set its cost, or it has none.
    has_no_card: bool,
    subject: Option<String>,
    value: Option<String>,
    labels: Option<Value>,
}

/// The events at these indexes of `usage` that repeat what their records say.
pub(super) fn find_repeats(
    conn: &mut PgConnection,
    usage: &[&Usage],
    indexes: &[usize],
) -> Result<HashSet<usize>, Error> {
    if indexes.is_empty() {
        return Ok(HashSet::new());
    }
    let mut keys: Vec<Key> = indexes.iter().map(|index| key(usage[*index])).collect();
    keys.sort_unstable();
    keys.dedup();
    let rows: Vec<ReportedRow> = Prepared::<ReadReported>::new()
        .bind::<BigInt, _>(keys.iter().map(|key| key.0).collect())
        .bind::<SqlUuid, _>(keys.iter().map(|key| key.1).collect())
        .load(conn)?;
    let mut records: HashMap<Key, Vec<ReportedRecord>> = HashMap::new();
    for (
        (org_id, event_key, occurred_at, has_arrival_time),
        (meter_id, member, dimensions, outdated),
        values,
    ) in rows
    {
        let (quantity, cost, unpriced, subject, value, labels) = values;
        records.entry((org_id, event_key)).or_default().push(ReportedRecord {
            occurred_at,
            has_arrival_time,
            meter_id,
            member,
            dimensions,
            is_outdated: outdated,
            quantity,
            cost,
            has_no_card: unpriced,
            subject,
            value,
            labels,
        });
    }
    let is_repeat = |index: &usize| {
        let event = usage[*index];
        records.get(&key(event)).is_some_and(|records| repeats(event, records))
    };
    Ok(indexes.iter().copied().filter(is_repeat).collect())
}

/// Whether the event has the values of every record whose meter still counts it, and of at least one.
fn repeats(usage: &Usage, records: &[ReportedRecord]) -> bool {
    let is_same_event = |record: &ReportedRecord| {
        record.subject.as_deref() == usage.subject.as_deref()
            && if usage.names_time {
                record.occurred_at == usage.occurred_at
            } else {
                record.has_arrival_time
            }
    };
    let mut compared = usage.metered.iter().filter_map(|metered| {
        let counts = |record: &&ReportedRecord| record.meter_id == metered.series.meter.meter_id;
        records.iter().find(counts).map(|record| is_same(metered, record))
    });
    records.iter().all(is_same_event) && compared.next() == Some(true) && compared.all(|same| same)
}

fn is_same(metered: &Metered, record: &ReportedRecord) -> bool {
    let sets_cost = metered.card.is_none() && !metered.cost.is_zero();
    let had_cost = record.has_no_card && !record.cost.is_zero();
    let same_cost = sets_cost == had_cost && (!sets_cost || metered.cost == record.cost);
    record.quantity == metered.quantity
        && record.value.as_deref() == metered.value.as_deref()
        && record.member == metered.series.member
        && same_cost
        && has_same_dimensions(metered, record)
        && has_same_labels(metered, record)
}

/// When the meter has changed, its labels may have, too: they decide nothing then.
fn has_same_labels(metered: &Metered, record: &ReportedRecord) -> bool {
    let labels: Option<Value> = metered.labels.as_deref().and_then(|text| serde_json::from_str(text).ok());
    record.is_outdated || labels == record.labels
}

/// When the meter has changed, only dimensions that both have can be compared.
fn has_same_dimensions(metered: &Metered, record: &ReportedRecord) -> bool {
    let stored = record.dimensions.as_object();
    let stored = |name: &str| stored.and_then(|stored| stored.get(name)).and_then(Value::as_str);
    let dimensions = &metered.series.dimensions;
    let equal = |(name, value): &(String, String)| match stored(name) {
        Some(stored) => stored == value || is_same_number(stored, value),
        None => record.is_outdated,
    };
    let count = record.dimensions.as_object().map_or(0, serde_json::Map::len);
    dimensions.iter().all(equal) && (record.is_outdated || count == dimensions.len())
}

/// Older versions stored numbers as the caller wrote them.
fn is_same_number(stored: &str, value: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(stored).is_ok_and(|raw| {
        raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
            && crate::metering::data::canonical_number(raw.get()) == value
    })
}
