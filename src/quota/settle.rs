//! Usage that settles a reservation, recorded in the transaction that settles it.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz};
use rust_decimal::Decimal;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::counters::{CounterKey, slots_for};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::schema::usage_keys;
use crate::usage::catalog::Catalog;
use crate::usage::event::Rejection;
use crate::usage::meters::Meter;

/// Source of usage events that are made for a settlement; their id is the reservation's.
pub const SOURCE: &str = "coulomb:reservation";

/// Usage that is to take a reservation's place.
pub struct Usage<'a> {
    /// The reservation's org.
    pub org: Arc<OrgContext>,
    /// The reservation's id: that of the usage event where the caller sent none.
    pub reservation: &'a str,
    /// The reserved meter.
    pub meter: Arc<Meter>,
    /// The actual amount; used where the caller sent no event.
    pub amount: Decimal,
    /// The reservation's dimensions, for the same case.
    pub dimensions: &'a [(String, String)],
    /// The reservation's subject, likewise.
    pub subject: Option<&'a str>,
    /// The reservation's member, likewise.
    pub member: Option<&'a str>,
    /// The usage event that the caller sent, in the native form of `POST /v1/usage`.
    pub event: Option<&'a Value>,
}

/// What the claim of a usage event's key came to.
#[derive(Clone, Debug, PartialEq)]
pub enum Claim {
    /// It is ours.
    New {
        /// Quantity on the reserved meter.
        quantity: Decimal,
        /// What it adds to counters, on whatever meter.
        counters: Vec<(CounterKey, Decimal)>,
    },
    /// The event is recorded already.
    Duplicate {
        /// Its quantity on the reserved meter.
        quantity: Decimal,
    },
    /// Another event is recorded under its key.
    Conflict,
    /// It cannot be recorded.
    Rejected(Rejection),
}

/// Usage whose keys are claimed and which is not yet stored. The transaction claims first, then locks counters, then stores:
/// the order that all who write usage keep.
pub struct Recorder {
    rows: Vec<Option<Row>>,
}

struct Row {
    org_id: i64,
    event_key: Uuid,
    occurred_at: DateTime<Utc>,
    content: i64,
}

impl Recorder {
    /// Claims the keys of usage, one answer for each. The caller holds the catalogue.
    ///
    /// # Errors
    /// When the database fails.
    pub fn claim(
        conn: &mut PgConnection,
        catalog: &Catalog,
        usages: &[Usage<'_>],
        now: DateTime<Utc>,
    ) -> Result<(Self, Vec<Claim>), Error> {
        let mut claims = Vec::with_capacity(usages.len());
        let mut rows: Vec<Option<Row>> = Vec::with_capacity(usages.len());
        for usage in usages {
            match resolve(catalog, usage, now) {
                Ok((row, quantity, counters)) => {
                    claims.push(Claim::New { quantity, counters });
                    rows.push(Some(row));
                }
                Err(rejection) => {
                    claims.push(Claim::Rejected(rejection));
                    rows.push(None);
                }
            }
        }
        // In the order of their keys, so that two claims never wait for each other.
        let mut order: Vec<usize> = (0..rows.len()).filter(|&n| rows[n].is_some()).collect();
        order.sort_by_key(|&n| rows[n].as_ref().map(|row| (row.org_id, row.event_key)));
        for n in order {
            let Some(row) = &rows[n] else { continue };
            let claimed = diesel::sql_query(
                "INSERT INTO usage_keys (org_id, event_key, occurred_at, content) VALUES ($1, $2::uuid, $3, $4) ON CONFLICT DO NOTHING",
            )
            .bind::<BigInt, _>(row.org_id)
            .bind::<Text, _>(row.event_key.to_string())
            .bind::<Timestamptz, _>(row.occurred_at)
            .bind::<BigInt, _>(row.content)
            .execute(conn)?;
            if claimed == 1 {
                continue;
            }
            let content: i64 = usage_keys::table
                .filter(usage_keys::org_id.eq(row.org_id))
                .filter(sql::<Bool>("event_key = ").bind::<Text, _>(row.event_key.to_string()).sql("::uuid"))
                .select(usage_keys::content)
                .first(conn)?;
            claims[n] = match &claims[n] {
                Claim::New { quantity, .. } if content == row.content => {
                    Claim::Duplicate { quantity: *quantity }
                }
                _ => Claim::Conflict,
            };
            rows[n] = None;
        }
        Ok((Self { rows }, claims))
    }

    /// Stores the usage that is `kept` and gives back the keys of the rest. Counters are the caller's.
    ///
    /// # Errors
    /// When the database fails.
    pub fn store(self, conn: &mut PgConnection, kept: &[bool]) -> Result<(), Error> {
        let back: Vec<&Row> =
            self.rows.iter().zip(kept).filter_map(|(row, kept)| row.as_ref().filter(|_| !kept)).collect();
        if back.is_empty() {
            return Ok(());
        }
        diesel::sql_query("DELETE FROM usage_keys WHERE (org_id, event_key) IN (SELECT o, k::uuid FROM unnest($1, $2) AS t (o, k))")
            .bind::<Array<BigInt>, _>(back.iter().map(|row| row.org_id).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(back.iter().map(|row| row.event_key.to_string()).collect::<Vec<_>>())
            .execute(conn)?;
        Ok(())
    }
}

type Resolved = (Row, Decimal, Vec<(CounterKey, Decimal)>);

/// Reads what is to be recorded: its key, its quantity, the counters that it moves.
fn resolve(catalog: &Catalog, usage: &Usage<'_>, now: DateTime<Utc>) -> Result<Resolved, Rejection> {
    let org = &usage.org;
    let mut dimensions = usage.dimensions.to_vec();
    let (mut quantity, mut subject) = (usage.amount, usage.subject);
    let (mut id, mut source) = (usage.reservation, SOURCE);
    if let Some(event) = usage.event {
        let text = |name: &str| event.get(name).and_then(Value::as_str);
        id = text("id").ok_or_else(|| Rejection::new("event.id", "missing", "the event needs an id"))?;
        source = text("source").unwrap_or_default();
        subject = text("subject");
        let data: BTreeMap<String, Value> =
            event.get("data").cloned().and_then(|data| serde_json::from_value(data).ok()).unwrap_or_default();
        let plain = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        dimensions = usage
            .meter
            .dimensions
            .iter()
            .filter_map(|name| Some((name.clone(), plain(data.get(name)?))))
            .collect();
        quantity = match &usage.meter.value_field {
            None => Decimal::ONE,
            Some(field) => {
                let value = data.get(field).map(plain).and_then(|value| Decimal::from_str_exact(&value).ok());
                value.ok_or_else(|| {
                    Rejection::new("event.data", "no_value", format!("data.{field} must be a decimal"))
                })?
            }
        };
    }
    let digest = |parts: &[&str]| {
        let mut digest = Sha256::new();
        for part in parts {
            digest.update(part.as_bytes());
            digest.update([0]);
        }
        <[u8; 32]>::from(digest.finalize())
    };
    let mut key = [0; 16];
    key.copy_from_slice(&digest(&[source, id])[..16]);
    let mut content = [0; 8];
    let said = [quantity.normalize().to_string(), format!("{dimensions:?}"), format!("{subject:?}")];
    content.copy_from_slice(&digest(&said.each_ref().map(String::as_str))[..8]);
    let (day, billing) = (org.day(now), org.billing_period(now));
    let counters = slots_for(catalog, org.org_id, usage.meter.meter_id, &dimensions)
        .map(|slot| (CounterKey::of(slot, org.org_id, subject, day, billing), quantity))
        .collect();
    let row = Row {
        org_id: org.org_id,
        event_key: Uuid::from_bytes(key),
        occurred_at: now,
        content: i64::from_be_bytes(content),
    };
    Ok((row, quantity, counters))
}
