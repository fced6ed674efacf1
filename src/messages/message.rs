//! The messages themselves. Owns `outbox_messages`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Jsonb, Nullable, Text, Timestamptz, Untyped};
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
    /// Public id of the org that it concerns; null: the platform.
    pub org: Option<String>,
    /// What it reports: a kind of `/v1/message_kinds`.
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
    /// The org that it concerns; [`crate::auth::PLATFORM`]: none.
    pub org_id: i64,
    /// What it reports: the name of a kind in [`super::kinds::KINDS`].
    pub kind: &'static str,
    /// An org gets only one message with this key, ever.
    pub dedupe_key: String,
    /// Ids and a few facts.
    pub data: Value,
    /// What the message is about, as the API shows it; for endpoints that ask for it.
    pub object: Option<Value>,
}

statement!(Insert -> Untyped:
    "INSERT INTO outbox_messages (org_id, message_id, type, dedupe_key, payload, object, created_at)
     SELECT g, m, t, k, p, o, ? FROM unnest(?, ?, ?, ?, ?, ?) AS t (g, m, t, k, p, o)
     ON CONFLICT DO NOTHING");

/// Writes messages, except those whose org already has one with their key. Belongs in the transaction of
/// their cause.
pub fn write(conn: &mut PgConnection, messages: Vec<NewMessage>, now: DateTime<Utc>) -> Result<(), Error> {
    if messages.is_empty() {
        return Ok(());
    }
    // Ids in the order of the causes, rows in the order of the keys, which keeps deadlocks out.
    let mut messages: Vec<_> = messages.into_iter().map(|message| (ids::fresh("msg"), message)).collect();
    messages.sort_by(|(_, a), (_, b)| (a.org_id, &a.dedupe_key).cmp(&(b.org_id, &b.dedupe_key)));
    Prepared::<Insert>::new()
        .bind_one::<Timestamptz, _>(now)
        .bind::<BigInt, _>(messages.iter().map(|(_, m)| m.org_id).collect::<Vec<_>>())
        .bind::<Text, _>(messages.iter().map(|(id, _)| id.as_str()).collect::<Vec<_>>())
        .bind::<Text, _>(messages.iter().map(|(_, m)| m.kind).collect::<Vec<_>>())
        .bind::<Text, _>(messages.iter().map(|(_, m)| m.dedupe_key.as_str()).collect::<Vec<_>>())
        .bind::<Jsonb, _>(messages.iter().map(|(_, m)| m.data.clone()).collect::<Vec<_>>())
        .bind::<Nullable<Jsonb>, _>(messages.iter().map(|(_, m)| m.object.clone()).collect::<Vec<_>>())
        .execute(conn)?;
    Ok(())
}

/// Selects messages.
#[derive(Clone, Debug, Default)]
pub struct MessageFilter {
    /// Only of this org.
    pub org_id: Option<i64>,
    /// Only of this kind.
    pub kind: Option<String>,
    /// Oldest first, of those that have been assigned: what comes later comes after them.
    pub oldest_first: bool,
}

type MessageRow = (String, Option<String>, String, DateTime<Utc>, Option<Value>, Option<i64>);

fn shown((id, org, kind, created_at, data, position): MessageRow) -> (Option<i64>, Message) {
    let message = Message { id, org, r#type: kind, created_at, data: data.unwrap_or_default() };
    (position, message)
}

/// Messages that still have their content, with what a [`MessageRow`] has of them.
macro_rules! kept_messages {
    () => {
        outbox_messages::table
            .left_join(orgs::table.on(orgs::org_id.eq(outbox_messages::org_id)))
            .filter(outbox_messages::payload.is_not_null())
            .select((
                outbox_messages::message_id,
                orgs::public_id.nullable(),
                outbox_messages::type_,
                outbox_messages::created_at,
                outbox_messages::payload,
                outbox_messages::position,
            ))
    };
}

/// At most `limit` messages that come after `after` in the order of the filter, each with its position.
///
/// # Errors
/// [`Error::Invalid`] when `after` names no message that the caller may see and that has been assigned.
pub fn list(
    conn: &mut PgConnection,
    filter: &MessageFilter,
    after: Option<&str>,
    limit: i64,
) -> Result<Vec<Message>, Error> {
    let mut query = kept_messages!().limit(limit).into_boxed();
    if let Some(org_id) = filter.org_id {
        query = query.filter(outbox_messages::org_id.eq(org_id));
    }
    if let Some(kind) = &filter.kind {
        query = query.filter(outbox_messages::type_.eq(kind));
    }
    query = match (filter.oldest_first, after) {
        (true, after) => {
            let position = after.map(|id| position(conn, filter.org_id, id)).transpose()?.unwrap_or(0);
            query.filter(outbox_messages::position.gt(position)).order(outbox_messages::position)
        }
        (false, None) => query.order(outbox_messages::message_id.desc()),
        (false, Some(before)) => query
            .filter(outbox_messages::message_id.lt(before.to_owned()))
            .order(outbox_messages::message_id.desc()),
    };
    let rows: Vec<MessageRow> = query.load(conn)?;
    Ok(rows.into_iter().map(|row| shown(row).1).collect())
}

/// The position of an assigned message.
fn position(conn: &mut PgConnection, org_id: Option<i64>, id: &str) -> Result<i64, Error> {
    let mut query = outbox_messages::table
        .filter(outbox_messages::message_id.eq(id))
        .select(outbox_messages::position)
        .into_boxed();
    if let Some(org_id) = org_id {
        query = query.filter(outbox_messages::org_id.eq(org_id));
    }
    let found: Option<Option<i64>> = query.first(conn).optional()?;
    found.flatten().ok_or_else(|| {
        Error::invalid("after", "must be the id of a message that this list has shown, or `start`")
    })
}

/// A message by its id, of `org_id` only if that is given.
///
/// # Errors
/// [`Error::NotFound`] when there is none, or it is older than the retention.
pub fn find(conn: &mut PgConnection, org_id: Option<i64>, id: &str) -> Result<Message, Error> {
    let mut query = kept_messages!().filter(outbox_messages::message_id.eq(id)).into_boxed();
    if let Some(org_id) = org_id {
        query = query.filter(outbox_messages::org_id.eq(org_id));
    }
    let row: Option<MessageRow> = query.first(conn).optional()?;
    row.map(|row| shown(row).1).ok_or(Error::NotFound("message"))
}
