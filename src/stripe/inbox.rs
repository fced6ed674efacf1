//! The inbox: Stripe events as received. One insert, then 2xx; nothing else happens before the answer.
//!
//! Deliveries that arrive while a commit is under way share the next one. A repeat of a stored event adds a row to
//! `stripe_inbox_redeliveries` and is answered like the first.

mod operator;
mod writer;

use chrono::{DateTime, Utc};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, Text, Timestamptz};

pub use operator::{Entry, State, TypeCount, count_by_type, find, list, retry, retry_all};
pub use writer::{InboxWriter, Refused};

use super::event::Envelope;

/// A delivery whose signature held, ready to be stored.
#[derive(Debug)]
pub struct Delivery {
    /// What was read from the body.
    pub envelope: Envelope,
    /// The `Stripe-Signature` header, for audit.
    pub signature: String,
    /// The `User-Agent` header, for audit.
    pub user_agent: Option<String>,
    /// When it arrived.
    pub received_at: DateTime<Utc>,
    /// The bytes that were signed.
    pub body: bytes::Bytes,
}

/// What became of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stored {
    /// It is in the inbox now.
    New,
    /// Its event was there already; the delivery is counted.
    Duplicate,
}

type Key = (String, bool, String);

/// Stores `deliveries` in one transaction and says for each whether it was new. Durable when it returns.
///
/// # Errors
/// When the database fails: then nothing is known to be stored, and the same call may be made again.
pub fn store(conn: &mut PgConnection, deliveries: &[Delivery]) -> QueryResult<Vec<Stored>> {
    let new: Vec<Key> = Insert::of(deliveries).load(conn)?;
    let mut new: std::collections::HashSet<Key> = new.into_iter().collect();
    // Of two deliveries of one new event in this batch, the first is the new one.
    let stored: Vec<Stored> = deliveries
        .iter()
        .map(|delivery| if new.remove(&key(delivery)) { Stored::New } else { Stored::Duplicate })
        .collect();
    let repeats: Vec<&Delivery> = deliveries
        .iter()
        .zip(&stored)
        .filter(|(_, stored)| **stored == Stored::Duplicate)
        .map(|(delivery, _)| delivery)
        .collect();
    if !repeats.is_empty() {
        count_redeliveries(conn, &repeats)?;
    }
    Ok(stored)
}

fn key(delivery: &Delivery) -> Key {
    let Envelope { realm, event_id, .. } = &delivery.envelope;
    (realm.account.clone(), realm.livemode, event_id.clone())
}

fn count_redeliveries(conn: &mut PgConnection, repeats: &[&Delivery]) -> QueryResult<usize> {
    diesel::sql_query(
        "INSERT INTO stripe_inbox_redeliveries (inbox_id, received_at)
         SELECT i.inbox_id, d.received_at
         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::timestamptz[]) AS d (account, livemode, event_id, received_at)
         JOIN stripe_inbox i USING (account, livemode, event_id)",
    )
    .bind::<Array<Text>, _>(repeats.iter().map(|d| d.envelope.realm.account.as_str()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(repeats.iter().map(|d| d.envelope.realm.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(repeats.iter().map(|d| d.envelope.event_id.as_str()).collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(repeats.iter().map(|d| d.received_at).collect::<Vec<_>>())
    .execute(conn)
}

/// The insert as one prepared statement (`sql_query` would be planned anew each time): a column an array.
#[derive(Default)]
struct Insert<'a> {
    account: Vec<&'a str>,
    livemode: Vec<bool>,
    event_id: Vec<&'a str>,
    event_type: Vec<&'a str>,
    api_version: Vec<Option<&'a str>>,
    created: Vec<i64>,
    object: Vec<Option<&'a str>>,
    object_id: Vec<Option<&'a str>>,
    thin: Vec<bool>,
    twin_event_id: Vec<Option<&'a str>>,
    signature: Vec<&'a str>,
    user_agent: Vec<Option<&'a str>>,
    received_at: Vec<DateTime<Utc>>,
    body: Vec<&'a [u8]>,
}

impl<'a> Insert<'a> {
    /// Rows in key order: two writers with the same events then wait for, and never deadlock, each other.
    fn of(deliveries: &'a [Delivery]) -> Self {
        let mut order: Vec<&Delivery> = deliveries.iter().collect();
        order.sort_by(|a, b| {
            let (a, b) = (&a.envelope, &b.envelope);
            (&a.realm, &a.event_id).cmp(&(&b.realm, &b.event_id))
        });
        let mut rows = Self::default();
        for Delivery { envelope, signature, user_agent, received_at, body } in order {
            rows.account.push(&envelope.realm.account);
            rows.livemode.push(envelope.realm.livemode);
            rows.event_id.push(&envelope.event_id);
            rows.event_type.push(&envelope.event_type);
            rows.api_version.push(envelope.api_version.as_deref());
            rows.created.push(envelope.created);
            rows.object.push(envelope.object.as_deref());
            rows.object_id.push(envelope.object_id.as_deref());
            rows.thin.push(envelope.thin);
            rows.twin_event_id.push(envelope.twin_event_id.as_deref());
            rows.signature.push(signature);
            rows.user_agent.push(user_agent.as_deref());
            rows.received_at.push(*received_at);
            rows.body.push(body);
        }
        rows
    }
}

impl QueryFragment<Pg> for Insert<'_> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "WITH stored AS (INSERT INTO stripe_inbox (account, livemode, event_id, event_type, api_version, created, object, \
             object_id, thin, twin_event_id, signature, user_agent, received_at, body) SELECT * FROM unnest(",
        );
        out.push_bind_param::<Array<Text>, _>(&self.account)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.livemode)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.event_id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.event_type)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.api_version)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<BigInt>, _>(&self.created)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.object)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.object_id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.thin)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.twin_event_id)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.signature)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Nullable<Text>>, _>(&self.user_agent)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Timestamptz>, _>(&self.received_at)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Binary>, _>(&self.body)?;
        out.push_sql(
            ") ON CONFLICT (account, livemode, event_id) DO NOTHING RETURNING inbox_id, account, livemode, event_id), \
             queued AS (INSERT INTO stripe_inbox_queue (inbox_id) SELECT inbox_id FROM stored) \
             SELECT account, livemode, event_id FROM stored",
        );
        Ok(())
    }
}

impl QueryId for Insert<'_> {
    type QueryId = Insert<'static>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Insert<'_> {
    type SqlType = (Text, Bool, Text);
}

impl RunQueryDsl<PgConnection> for Insert<'_> {}
