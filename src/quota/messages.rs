//! Messages to the outside, written in the transaction of what they tell of. Owns `outbox_messages`.
//!
//! They are listed here; delivering them is another matter.

use chrono::{DateTime, SecondsFormat, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Jsonb, Text, Timestamptz, Untyped};
use rust_decimal::Decimal;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::counters::Moved;
use super::limits::Limits;
use super::quantity::{Quantity, Sum};
use crate::billing::directory::OrgContext;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::ids;
use crate::schema::{orgs, outbox_messages};
use crate::usage::catalog::Catalog;

/// A message.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Message {
    /// `msg_…`
    pub id: String,
    /// Public id of the org that it concerns.
    pub org: String,
    /// What it tells of: `quota.threshold_reached`, `usage.unpriced`, `subscription.expired`,
    /// `subscription.cancelled`.
    pub r#type: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// What happened.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// A message that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    /// The org that it concerns.
    pub org_id: i64,
    /// What it tells of.
    pub kind: &'static str,
    /// Told once per org and this.
    pub dedupe_key: String,
    /// What happened.
    pub data: Value,
}

statement!(Insert -> Untyped:
    "INSERT INTO outbox_messages (org_id, message_id, type, dedupe_key, payload, created_at)
     SELECT o, m, t, k, p, ? FROM unnest(?, ?, ?, ?, ?) AS t (o, m, t, k, p) ON CONFLICT DO NOTHING");

/// Writes messages; those that were told before are left out.
///
/// # Errors
/// When the database fails.
pub fn write(
    conn: &mut PgConnection,
    mut messages: Vec<NewMessage>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    messages.sort_by(|a, b| (a.org_id, &a.dedupe_key).cmp(&(b.org_id, &b.dedupe_key)));
    Prepared::<Insert>::new()
        .bind_one::<Timestamptz, _>(now)
        .bind::<BigInt, _>(messages.iter().map(|m| m.org_id).collect::<Vec<_>>())
        .bind::<Text, _>(messages.iter().map(|_| ids::fresh("msg")).collect::<Vec<_>>())
        .bind::<Text, _>(messages.iter().map(|m| m.kind).collect::<Vec<_>>())
        .bind::<Text, _>(messages.iter().map(|m| m.dedupe_key.as_str()).collect::<Vec<_>>())
        .bind::<Jsonb, _>(messages.iter().map(|m| m.data.clone()).collect::<Vec<_>>())
        .execute(conn)?;
    Ok(())
}

/// Writes a message for every threshold that a counter has reached now that usage was added: one per
/// threshold and period. `org` gives the contexts of the orgs concerned. It belongs into the transaction that
/// moved the counters.
///
/// # Errors
/// When the database fails.
pub fn thresholds<'a>(
    conn: &mut PgConnection,
    catalog: &Catalog,
    limits: &Limits,
    org: impl Fn(i64) -> Option<&'a OrgContext>,
    moved: &[Moved],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut messages = Vec::new();
    for Moved { key, used, .. } in moved.iter().filter(|moved| moved.added > Sum::ZERO) {
        let Some(org) = org(key.org_id) else { continue };
        let Some((limit, quantity)) =
            limits.of(org, key.slot_id).and_then(|limit| Some((limit, limit.terms.limit?.0)))
        else {
            continue;
        };
        for percent in &limit.terms.thresholds {
            // A limit of nothing is reached by anything.
            let reached = quantity.checked_mul(percent.0).zip(used.shown().checked_mul(Decimal::ONE_HUNDRED));
            if reached.is_none_or(|(threshold, used)| used < threshold) {
                continue;
            }
            let Some((meter, slot)) = slot_of(catalog, key.slot_id) else { continue };
            let (start, end) = key.period.bounds(slot.period, org);
            let data = json!({
                "org": &*org.public_id, "meter": meter, "filter": slot.filter,
                    "subject": slot.per_subject.then_some(&key.subject),
                "period": slot.period, "period_start": start, "period_end": end, "threshold": percent,
                "limit": Quantity(quantity), "used": Quantity(used.shown()),
                    "enforcement": limit.terms.enforcement,
            });
            let period = match key.period.began {
                Some(began) => began.to_rfc3339_opts(SecondsFormat::AutoSi, true),
                None => key.period.label.to_string(),
            };
            let dedupe_key = format!("quota:{}:{period}:{}:{}", key.slot_id, percent.0, key.subject);
            messages.push(NewMessage {
                org_id: key.org_id,
                kind: "quota.threshold_reached",
                dedupe_key,
                data,
            });
        }
    }
    write(conn, messages, now)
}

fn slot_of(catalog: &Catalog, slot_id: i32) -> Option<(&str, &super::slots::Slot)> {
    let slot = catalog.slots.values().flatten().find(|slot| slot.slot_id == slot_id)?;
    Some((catalog.meters.get(&slot.meter_id)?.key.as_str(), slot))
}

/// Messages, newest first, at most `limit`: those of `org_id` (`None`: of every org), before the one of that
/// id.
///
/// # Errors
/// When the database fails.
pub fn list(
    conn: &mut PgConnection,
    org_id: Option<i64>,
    before: Option<&str>,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    type Row = (String, String, String, DateTime<Utc>, Value);
    let mut query = outbox_messages::table
        .inner_join(orgs::table.on(orgs::org_id.eq(outbox_messages::org_id)))
        .select((
            outbox_messages::message_id,
            orgs::public_id,
            outbox_messages::type_,
            outbox_messages::created_at,
            outbox_messages::payload,
        ))
        .order(outbox_messages::message_id.desc())
        .limit(limit)
        .into_boxed();
    if let Some(org_id) = org_id {
        query = query.filter(outbox_messages::org_id.eq(org_id));
    }
    if let Some(before) = before {
        query = query.filter(outbox_messages::message_id.lt(before));
    }
    let rows: Vec<Row> = query.load(conn)?;
    let shown = rows.into_iter().map(|(id, org, kind, created_at, data)| Message {
        id,
        org,
        r#type: kind,
        created_at,
        data,
    });
    Ok(shown.collect())
}
