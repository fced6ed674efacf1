//! Whether an event says what is stored under its key though the digests differ. They do where the catalogue
//! has changed since (a meter or a dimension came or went), and under keys of older versions, whose digests
//! are of the event's text. The records know what was kept, and decide. Asked only about repeats whose
//! digests differ.

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
use crate::metering::resolve::{Metered, Usage};
use crate::quantity::Sum;

// What was reported, whatever took its place since.
statement!(Reported -> (
        (BigInt, SqlUuid, Timestamptz, Bool), (Integer, Nullable<Text>, Jsonb, Bool),
        (Numeric, Numeric, Bool, Nullable<Text>, Nullable<Text>)
    ):
    "SELECT r.org_id, r.event_key, r.occurred_at, r.occurred_at = r.received_at, \
        r.meter_id, s.member, s.dimensions, EXISTS ( \
            SELECT FROM meter_versions v WHERE v.meter_id = r.meter_id AND v.created_at > r.received_at), \
        r.quantity, r.cost, r.rate_card_id IS NULL, r.subject, r.value \
     FROM unnest(?, ?) AS t (o, e) JOIN usage_keys k ON k.org_id = t.o AND k.event_key = t.e \
     JOIN usage_records r ON r.org_id = k.org_id AND r.occurred_at = k.occurred_at \
        AND r.event_key = k.event_key AND r.correction = 0 \
     JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id");

type Loaded = (
    (i64, uuid::Uuid, DateTime<Utc>, bool),
    (i32, Option<String>, Value, bool),
    (Decimal, Sum, bool, Option<String>, Option<String>),
);

/// A record as it was reported.
struct Record {
    occurred_at: DateTime<Utc>,
    /// Its time is that of its arrival: the caller named none.
    stamped: bool,
    meter_id: i32,
    member: Option<String>,
    dimensions: Value,
    /// The meter has a newer version than the one that counted it.
    outdated: bool,
    quantity: Decimal,
    cost: Sum,
    /// No card has priced it: the caller set its cost, or it has none.
    unpriced: bool,
    subject: Option<String>,
    value: Option<String>,
}

/// Of these repeats, those that say what their records say, by their places in `usage`.
pub(super) fn retold(
    conn: &mut PgConnection,
    usage: &[&Usage],
    places: &[usize],
) -> Result<HashSet<usize>, Error> {
    if places.is_empty() {
        return Ok(HashSet::new());
    }
    let mut keys: Vec<Key> = places.iter().map(|place| key(usage[*place])).collect();
    keys.sort_unstable();
    keys.dedup();
    let rows: Vec<Loaded> = Prepared::<Reported>::new()
        .bind::<BigInt, _>(keys.iter().map(|key| key.0).collect())
        .bind::<SqlUuid, _>(keys.iter().map(|key| key.1).collect())
        .load(conn)?;
    let mut records: HashMap<Key, Vec<Record>> = HashMap::new();
    for ((org_id, event_key, occurred_at, stamped), (meter_id, member, dimensions, outdated), values) in rows
    {
        let (quantity, cost, unpriced, subject, value) = values;
        records.entry((org_id, event_key)).or_default().push(Record {
            occurred_at,
            stamped,
            meter_id,
            member,
            dimensions,
            outdated,
            quantity,
            cost,
            unpriced,
            subject,
            value,
        });
    }
    let says = |place: &usize| {
        let one = usage[*place];
        records.get(&key(one)).is_some_and(|records| is_told(one, records))
    };
    Ok(places.iter().copied().filter(says).collect())
}

/// Whether the event has the values of every record whose meter counts it still, of one at least.
fn is_told(usage: &Usage, records: &[Record]) -> bool {
    let event = |record: &Record| {
        record.subject.as_deref() == usage.subject.as_deref()
            && if usage.names_time { record.occurred_at == usage.occurred_at } else { record.stamped }
    };
    let mut both = usage.metered.iter().filter_map(|metered| {
        let counts = |record: &&Record| record.meter_id == metered.series.meter.meter_id;
        records.iter().find(counts).map(|record| says(metered, record))
    });
    records.iter().all(event) && both.next() == Some(true) && both.all(|same| same)
}

fn says(metered: &Metered, record: &Record) -> bool {
    let sets_cost = metered.card.is_none() && !metered.cost.is_zero();
    let had_cost = record.unpriced && !record.cost.is_zero();
    let same_cost = sets_cost == had_cost && (!sets_cost || metered.cost == record.cost);
    record.quantity == metered.quantity
        && record.value.as_deref() == metered.value.as_deref()
        && record.member == metered.series.member
        && same_cost
        && same_dimensions(metered, record)
}

/// Where the meter has changed, only dimensions that both have can be compared.
fn same_dimensions(metered: &Metered, record: &Record) -> bool {
    let stored = record.dimensions.as_object();
    let stored = |name: &str| stored.and_then(|stored| stored.get(name)).and_then(Value::as_str);
    let dimensions = &metered.series.dimensions;
    let equal = |(name, value): &(String, String)| match stored(name) {
        Some(stored) => stored == value || is_same_number(stored, value),
        None => record.outdated,
    };
    let count = record.dimensions.as_object().map_or(0, serde_json::Map::len);
    dimensions.iter().all(equal) && (record.outdated || count == dimensions.len())
}

/// Numbers were kept as they were written by older versions.
fn is_same_number(stored: &str, value: &str) -> bool {
    serde_json::from_str::<&serde_json::value::RawValue>(stored).is_ok_and(|raw| {
        raw.get().starts_with(|first: char| first == '-' || first.is_ascii_digit())
            && crate::metering::data::plain(raw.get()) == value
    })
}
