//! Messages to the outside, each written in the transaction of the event that it reports. Owns
//! `outbox_messages`.
//!
//! The API lists them; nothing sends them yet.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Jsonb, Text, Timestamptz, Untyped};
use serde::Serialize;
use serde_json::Value;
use utoipa::ToSchema;

use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::ids;
use crate::schema::{orgs, outbox_messages};

/// A message.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Message {
    /// `msg_…`
    pub id: String,
    /// Public id of the org that it concerns.
    pub org: String,
    /// What it reports: `quota.threshold_reached`, `usage.unpriced`, `subscription.expired`,
    /// `subscription.cancelled`, `invoice.finalized`, `invoice.paid`, `invoice.reminder`.
    pub r#type: String,
    /// When it was written.
    pub created_at: DateTime<Utc>,
    /// What happened.
    #[schema(value_type = Object)]
    pub data: Value,
}

/// A message to write.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    /// The org that it concerns.
    pub org_id: i64,
    /// What it reports, such as `usage.unpriced`.
    pub kind: &'static str,
    /// An org gets only one message with this key.
    pub dedupe_key: String,
    pub data: Value,
}

statement!(Insert -> Untyped:
    "INSERT INTO outbox_messages (org_id, message_id, type, dedupe_key, payload, created_at)
     SELECT o, m, t, k, p, ? FROM unnest(?, ?, ?, ?, ?) AS t (o, m, t, k, p) ON CONFLICT DO NOTHING");

/// Writes messages, except those whose org already has one with their key.
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

/// Messages of `org_id` (`None`: of every org), newest first, at most `limit`, older than the message with
/// the id `before`.
pub fn list(
    conn: &mut PgConnection,
    org_id: Option<i64>,
    before: Option<&str>,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    type MessageRow = (String, String, String, DateTime<Utc>, Value);
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
    let rows: Vec<MessageRow> = query.load(conn)?;
    let shown = rows.into_iter().map(|(id, org, kind, created_at, data)| Message {
        id,
        org,
        r#type: kind,
        created_at,
        data,
    });
    Ok(shown.collect())
}
