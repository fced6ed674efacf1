//! Lists usage records: newest first, in the order of their primary key, page by page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Jsonb, Nullable, SmallInt, Text, Timestamptz};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use crate::error::Error;
use crate::metering::digest::event_key;
use crate::metering::meters;
use crate::page;
use crate::time::Moment;

/// The index returns records in the order of the list, but a planner that expects few rows would read and
/// sort all of them. Parallel workers take longer to start than a page takes.
const PLANNER: &str = "SET LOCAL enable_sort = off; SET LOCAL enable_bitmapscan = off;
    SET LOCAL max_parallel_workers_per_gather = 0";

/// Selects records.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct RecordFilter {
    /// Occurred at or after.
    pub from: Option<Moment>,
    /// Occurred before.
    pub to: Option<Moment>,
    /// Only of these meters, by their keys, separated by commas.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub meter: Vec<String>,
    /// Only of this member.
    pub member: Option<String>,
    /// Only with this subject.
    pub subject: Option<String>,
    /// Only with these values of dimensions and labels.
    #[serde(skip)]
    #[param(ignore)]
    pub dimensions: BTreeMap<String, String>,
    /// Only records of the usage event with this id, including voids and amendments.
    pub id: Option<String>,
    /// Who reported the event of that `id`; empty when left out.
    pub source: Option<String>,
    /// Only usage burned by the ledger entries of batteries with this `batch`. `from` and `to` make it quick.
    pub battery_batch: Option<i64>,
}

/// What one meter counted of one usage event, or took back.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Record)]
pub struct UsageRecord {
    /// The caller's id of the usage event.
    pub id: String,
    /// Who reported it.
    pub source: String,
    /// Key of the meter.
    pub meter: String,
    /// When it happened.
    pub occurred_at: DateTime<Utc>,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// The local day that it was counted to: the day of `occurred_at`, or a day of an open month when its
    /// month was closed.
    pub day: NaiveDate,
    /// First day of its subscription's period.
    pub billing_period: Option<NaiveDate>,
    /// Who in the org caused it.
    pub member: Option<String>,
    /// Quotas per subject counted it to this subject.
    pub subject: Option<String>,
    /// The meter's dimensions that it has.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub dimensions: Value,
    /// The meter's labels that it has.
    #[schema(value_type = std::collections::BTreeMap<String, String>)]
    pub labels: Value,
    /// A decimal; negative where usage was taken back.
    pub quantity: String,
    /// The value, for a `unique` meter.
    pub value: Option<String>,
    /// What it costs in `currency` (major units), a decimal.
    pub cost: String,
    /// Currency of the rate card that priced it, or else of the meter's rate cards.
    pub currency: Option<String>,
    /// Battery units, a decimal.
    pub battery_units: String,
    /// `batch` of the entry in the battery's ledger that burned them.
    pub battery_batch: Option<String>,
    /// Version of the meter's rate card that priced it.
    pub rate_card_version: Option<i32>,
    /// It has no price: the meter has rates, and none fits.
    pub unpriced: bool,
    /// 0: as reported; 1, 3, …: takes back the record before; 2, 4, …: replaces it.
    pub correction: i16,
    /// Why it was taken back or replaced.
    pub reason: Option<String>,
    /// Who did so.
    pub actor: Option<String>,
}

/// The position of a record in the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position(Moment, String, i32, i16);

#[derive(QueryableByName)]
struct RecordRow {
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    source: String,
    #[diesel(sql_type = Text)]
    event_key: String,
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Text)]
    meter: String,
    #[diesel(sql_type = Timestamptz)]
    occurred_at: DateTime<Utc>,
    #[diesel(sql_type = Timestamptz)]
    received_at: DateTime<Utc>,
    #[diesel(sql_type = Date)]
    day: NaiveDate,
    #[diesel(sql_type = Nullable<Date>)]
    billing_period: Option<NaiveDate>,
    #[diesel(sql_type = Nullable<Text>)]
    member: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    subject: Option<String>,
    #[diesel(sql_type = Jsonb)]
    dimensions: Value,
    #[diesel(sql_type = Jsonb)]
    labels: Value,
    #[diesel(sql_type = Text)]
    quantity: String,
    #[diesel(sql_type = Nullable<Text>)]
    value: Option<String>,
    #[diesel(sql_type = Text)]
    cost: String,
    #[diesel(sql_type = Nullable<Text>)]
    currency: Option<String>,
    #[diesel(sql_type = Text)]
    battery_units: String,
    #[diesel(sql_type = Nullable<BigInt>)]
    battery_batch: Option<i64>,
    #[diesel(sql_type = Nullable<Integer>)]
    rate_card_version: Option<i32>,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    unpriced: bool,
    #[diesel(sql_type = SmallInt)]
    correction: i16,
    #[diesel(sql_type = Nullable<Text>)]
    reason: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    actor: Option<String>,
}

/// Records of an org, at most `limit` after `after`, newest first.
///
/// # Errors
/// [`Error::Invalid`] for an unknown meter, or a source without an id.
pub fn list(
    conn: &mut PgConnection,
    org_id: i64,
    filter: &RecordFilter,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<(Position, UsageRecord)>, Error> {
    if filter.source.is_some() && filter.id.is_none() {
        return Err(Error::invalid("id", "must be given with `source`: the two name one usage event"));
    }
    if after.is_some_and(|after| Uuid::try_parse(&after.1).is_err()) {
        return Err(page::wrong_cursor());
    }
    let Some(times) = Times::find(conn, org_id, filter)? else { return Ok(Vec::new()) };
    let meters = meters::ids(conn, &filter.meter)?;
    conn.batch_execute(PLANNER)?;
    let rows: Vec<RecordRow> = diesel::sql_query(sql(&conditions(filter, &times, after), limit))
        .bind::<BigInt, _>(org_id)
        .bind::<Nullable<Timestamptz>, _>(times.from)
        .bind::<Nullable<Timestamptz>, _>(times.to)
        .bind::<Array<Integer>, _>(meters)
        .bind::<Nullable<Text>, _>(&filter.member)
        .bind::<Nullable<Text>, _>(&filter.subject)
        .bind::<Nullable<Text>, _>(times.event_key)
        .bind::<Nullable<Timestamptz>, _>(after.map(|after| after.0.0))
        .bind::<Nullable<Text>, _>(after.map(|after| after.1.as_str()))
        .bind::<Nullable<Integer>, _>(after.map(|after| after.2))
        .bind::<Nullable<SmallInt>, _>(after.map(|after| after.3))
        .bind::<Nullable<BigInt>, _>(filter.battery_batch)
        .bind::<Jsonb, _>(serde_json::json!(filter.dimensions))
        .load(conn)?;
    Ok(rows.into_iter().map(record).collect())
}

/// The times of a list, `[from, to)`, and the key of the one event that is asked for.
struct Times {
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    event_key: Option<String>,
}

impl Times {
    /// `None`: the event that is asked for does not exist at these times.
    fn find(conn: &mut PgConnection, org_id: i64, filter: &RecordFilter) -> Result<Option<Self>, Error> {
        let (from, to) = (filter.from.map(|from| from.0), filter.to.map(|to| to.0));
        let Some(id) = &filter.id else { return Ok(Some(Self { from, to, event_key: None })) };
        let event_key = event_key(filter.source.as_deref().unwrap_or_default(), id);
        let Some(at) = occurred_at(conn, org_id, event_key)? else { return Ok(None) };
        if from.is_some_and(|from| at < from) || to.is_some_and(|to| at >= to) {
            return Ok(None);
        }
        // All records of an event have its time, so one partition is read.
        let next = at + chrono::TimeDelta::microseconds(1);
        Ok(Some(Self { from: Some(at), to: Some(next), event_key: Some(event_key.to_string()) }))
    }
}

/// The conditions of a list, as SQL; each begins with `AND`.
fn conditions(filter: &RecordFilter, times: &Times, after: Option<&Position>) -> String {
    let mut conditions = String::new();
    for (is_asked, condition) in [
        (times.from.is_some(), "r.occurred_at >= $2"),
        (times.to.is_some(), "r.occurred_at < $3"),
        (!filter.meter.is_empty(), "r.meter_id = ANY ($4)"),
        (
            filter.member.is_some(),
            "r.series_id = ANY (ARRAY(SELECT s.series_id FROM usage_series s
                 WHERE s.org_id = $1 AND s.member = $5))",
        ),
        (filter.subject.is_some(), "r.subject = $6"),
        (times.event_key.is_some(), "r.event_key = $7::uuid"),
        // By the first comparison PostgreSQL leaves out partitions.
        (
            after.is_some(),
            "r.occurred_at <= $8 AND (r.occurred_at, r.event_key, r.meter_id, r.correction) < ($8, $9::uuid, \
                $10, $11)",
        ),
        (filter.battery_batch.is_some(), "r.battery_batch = $12"),
        (
            !filter.dimensions.is_empty(),
            "EXISTS (SELECT FROM usage_series s WHERE s.org_id = $1 AND s.series_id = r.series_id
                 AND s.dimensions || coalesce(r.labels, '{}') @> $13)",
        ),
    ] {
        if is_asked {
            let _ = write!(conditions, " AND {condition}");
        }
    }
    conditions
}

fn sql(conditions: &str, limit: i64) -> String {
    format!(
        "SELECT r.event_id, r.source, r.event_key::text AS event_key, r.meter_id, m.key AS meter,
             r.occurred_at, r.received_at, r.day, r.billing_period,
             s.member, r.subject, coalesce(s.dimensions, '{{}}') AS dimensions,
             coalesce(r.labels, '{{}}') AS labels,
             trim_scale(r.quantity)::text AS quantity, r.value,
             trim_scale(r.cost)::text AS cost,
             trim_scale(r.battery_units)::text AS battery_units, r.battery_batch,
             k.version AS rate_card_version, r.pricing = 2 AS unpriced,
             r.correction, c.reason, c.actor,
             coalesce(k.currency, m.currency) AS currency
         FROM (SELECT r.* FROM usage_records r WHERE r.org_id = $1{conditions}
               ORDER BY r.org_id DESC, r.occurred_at DESC, r.event_key DESC, r.meter_id DESC,
                   r.correction DESC
               LIMIT {limit}) r
         JOIN meters m ON m.meter_id = r.meter_id
         LEFT JOIN usage_series s ON s.org_id = $1 AND s.series_id = r.series_id
         LEFT JOIN rate_cards k ON k.rate_card_id = r.rate_card_id
         LEFT JOIN usage_corrections c ON c.org_id = $1 AND c.event_key = r.event_key
             AND c.correction = r.correction
         ORDER BY r.occurred_at DESC, r.event_key DESC, r.meter_id DESC, r.correction DESC"
    )
}

/// When the event with this key happened; `None`: there is no such event.
fn occurred_at(conn: &mut PgConnection, org_id: i64, key: Uuid) -> Result<Option<DateTime<Utc>>, Error> {
    #[derive(QueryableByName)]
    struct KeyRow {
        #[diesel(sql_type = Timestamptz)]
        occurred_at: DateTime<Utc>,
    }
    let key: Option<KeyRow> = diesel::sql_query(
        "SELECT occurred_at FROM usage_key_times WHERE org_id = $1 AND event_key = $2::uuid",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(key.to_string())
    .get_result(conn)
    .optional()?;
    Ok(key.map(|key| key.occurred_at))
}

fn record(row: RecordRow) -> (Position, UsageRecord) {
    let position = Position(Moment(row.occurred_at), row.event_key, row.meter_id, row.correction);
    let record = UsageRecord {
        id: row.event_id,
        source: row.source,
        meter: row.meter,
        occurred_at: row.occurred_at,
        received_at: row.received_at,
        day: row.day,
        billing_period: row.billing_period,
        member: row.member,
        subject: row.subject,
        dimensions: row.dimensions,
        labels: row.labels,
        quantity: row.quantity,
        value: row.value,
        cost: row.cost,
        currency: row.currency,
        battery_units: row.battery_units,
        battery_batch: row.battery_batch.map(|batch| batch.to_string()),
        rate_card_version: row.rate_card_version,
        unpriced: row.unpriced,
        correction: row.correction,
        reason: row.reason,
        actor: row.actor,
    };
    (position, record)
}
