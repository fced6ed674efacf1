//! The queue of the projection: taking events, finishing them, putting failures off.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Nullable, SmallInt, Text, Timestamptz};

use super::objects::ObjectKey;
use crate::error::Error;
use crate::stripe::Realm;
use crate::stripe::event::{self, Contents, Envelope};
use crate::stripe::inbox::Filed;
use crate::stripe::json::Json;
use crate::stripe::order::{self, Candidate, Rank};

/// An event in a transaction's hands.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimedEvent {
    pub(super) inbox_id: i64,
    pub(super) attempts: i16,
    /// It has a row on the queue.
    queued: bool,
}

impl ClaimedEvent {
    /// Of an event that was filed just now.
    pub(super) fn fresh(inbox_id: i64) -> Self {
        Self { inbox_id, attempts: 0, queued: false }
    }
}

/// A stored event, read for projection.
pub(super) struct Event<'a> {
    pub(super) claim: ClaimedEvent,
    /// The object that it is about; `None` when there is none that we can name.
    pub(super) key: Option<ObjectKey>,
    /// Its place among the events of that object.
    pub(super) rank: Rank,
    /// Why its body cannot be read.
    pub(super) unreadable: Option<String>,
    event_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    pub(super) snapshot: Json<'a>,
    previous: Option<Json<'a>>,
}

impl<'a> Event<'a> {
    fn new(claim: ClaimedEvent, named: Named<'a>, contents: Contents<'a>) -> Self {
        let Contents { snapshot, previous, unreadable } = contents;
        let Named { event_id, event_type, created, key } = named;
        let key = key.filter(|_| snapshot.is_object());
        let kind = key.as_ref().map_or("", |key| &key.object);
        Self {
            claim,
            rank: order::rank(kind, &event_type, created, &snapshot),
            key,
            unreadable,
            event_id,
            event_type,
            snapshot,
            previous: previous.filter(Json::is_object),
        }
    }

    /// Standing and second: what is compared before anything else.
    pub(super) fn level(&self) -> (i16, i64) {
        self.rank.group()
    }

    pub(super) fn candidate(&self) -> Candidate<'_> {
        Candidate {
            event_id: &self.event_id,
            event_type: &self.event_type,
            rank: self.rank,
            snapshot: &self.snapshot,
            previous: self.previous.as_ref(),
        }
    }
}

/// What is known of an event without its object.
struct Named<'a> {
    event_id: Cow<'a, str>,
    event_type: Cow<'a, str>,
    created: i64,
    /// The object that it names.
    key: Option<ObjectKey>,
}

/// An event as it is stored. The [`Event`] that is made of it borrows its body.
#[derive(QueryableByName)]
pub(super) struct StoredEvent {
    #[diesel(sql_type = BigInt)]
    inbox_id: i64,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    event_type: String,
    #[diesel(sql_type = BigInt)]
    created: i64,
    #[diesel(sql_type = Nullable<Text>)]
    object: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    object_id: Option<String>,
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

impl StoredEvent {
    pub(super) fn claim(&self) -> ClaimedEvent {
        ClaimedEvent { inbox_id: self.inbox_id, attempts: self.attempts, queued: true }
    }
}

impl<'a> From<&'a StoredEvent> for Event<'a> {
    fn from(row: &'a StoredEvent) -> Self {
        let realm = Realm { account: row.account.clone(), livemode: row.livemode };
        let key = key(realm, row.object.clone().zip(row.object_id.clone()));
        let contents = event::contents(&row.body, key.is_some());
        let (event_id, event_type) = (row.event_id.as_str().into(), row.event_type.as_str().into());
        Self::new(row.claim(), Named { event_id, event_type, created: row.created, key }, contents)
    }
}

impl<'a> From<Filed<'a>> for Event<'a> {
    fn from(filed: Filed<'a>) -> Self {
        let Envelope { realm, event_id, event_type, created, object, object_id, .. } = filed.opened.envelope;
        let key = key(realm, object.zip(object_id));
        let named = Named { event_id: event_id.into(), event_type: event_type.into(), created, key };
        Self::new(ClaimedEvent::fresh(filed.inbox_id), named, filed.opened.contents)
    }
}

/// A preview of an invoice (`upcoming_…`, since 2025-03-31) is none: it is made for the moment, and nobody
/// can ask for it again (<https://docs.stripe.com/api/invoices/create_preview>).
fn key(realm: Realm, named: Option<(String, String)>) -> Option<ObjectKey> {
    let real = |(object, id): &(String, String)| object != "invoice" || !id.starts_with("upcoming_");
    named.filter(real).map(|(object, id)| ObjectKey { realm, object, id })
}

/// The oldest waiting events, locked until the transaction ends; those that others hold are passed over.
pub(super) fn next(conn: &mut PgConnection, limit: u32, now: DateTime<Utc>) -> QueryResult<Vec<StoredEvent>> {
    diesel::sql_query(
        "WITH claimed AS MATERIALIZED (
             SELECT inbox_id, attempts FROM stripe_inbox_queue
             WHERE quarantined_at IS NULL AND (next_attempt_at IS NULL OR next_attempt_at <= $1)
             ORDER BY inbox_id LIMIT $2 FOR UPDATE SKIP LOCKED)
         SELECT inbox_id, attempts, account, livemode, event_id, event_type, created, object, object_id, body
         FROM claimed JOIN stripe_inbox USING (inbox_id) ORDER BY inbox_id",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(i64::from(limit))
    .load(conn)
}

/// One event by its number, if nobody else has it.
pub(super) fn one(conn: &mut PgConnection, inbox_id: i64) -> QueryResult<Vec<StoredEvent>> {
    diesel::sql_query(
        "WITH claimed AS MATERIALIZED (SELECT inbox_id, attempts FROM stripe_inbox_queue WHERE inbox_id = $1
             FOR UPDATE SKIP LOCKED)
         SELECT inbox_id, attempts, account, livemode, event_id, event_type, created, object, object_id, body
         FROM claimed JOIN stripe_inbox USING (inbox_id)",
    )
    .bind::<BigInt, _>(inbox_id)
    .load(conn)
}

/// The events of these objects in these seconds that were projected before, without our `own`.
pub(super) fn rivals(
    conn: &mut PgConnection,
    level: &[(&ObjectKey, i64)],
    own: &[Event<'_>],
) -> QueryResult<Vec<StoredEvent>> {
    if level.is_empty() {
        return Ok(Vec::new());
    }
    diesel::sql_query(
        "SELECT inbox_id, 0::smallint AS attempts, account, livemode, event_id, event_type, created, object,
             object_id, body
         FROM unnest($1::text[], $2::boolean[], $3::text[], $4::text[], $5::bigint[]) AS k (account,
             livemode, object, object_id, created)
         JOIN stripe_inbox i USING (account, livemode, object, object_id, created)
         WHERE inbox_id <> ALL ($6)
             AND NOT EXISTS (SELECT FROM stripe_inbox_queue q WHERE q.inbox_id = i.inbox_id)",
    )
    .bind::<Array<Text>, _>(level.iter().map(|(key, _)| key.realm.account.as_str()).collect::<Vec<_>>())
    .bind::<Array<Bool>, _>(level.iter().map(|(key, _)| key.realm.livemode).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(level.iter().map(|(key, _)| key.object.as_str()).collect::<Vec<_>>())
    .bind::<Array<Text>, _>(level.iter().map(|(key, _)| key.id.as_str()).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(level.iter().map(|(_, created)| *created).collect::<Vec<_>>())
    .bind::<Array<BigInt>, _>(own.iter().map(|event| event.claim.inbox_id).collect::<Vec<_>>())
    .load(conn)
}

/// Puts events on the queue that have no place on it.
pub(super) fn queue(conn: &mut PgConnection, claims: &[ClaimedEvent]) -> QueryResult<()> {
    diesel::sql_query("INSERT INTO stripe_inbox_queue (inbox_id) SELECT * FROM unnest($1)")
        .bind::<Array<BigInt>, _>(claims.iter().map(|claim| claim.inbox_id).collect::<Vec<_>>())
        .execute(conn)
        .map(drop)
}

/// Takes the events off the queue, but for the failures, which are put off.
pub(super) fn finish(conn: &mut PgConnection, events: &[Event<'_>], failures: &[Failure]) -> QueryResult<()> {
    let failed = |event: &&Event<'_>| failures.iter().any(|failure| failure.is_of(&event.claim));
    let done: Vec<i64> = events
        .iter()
        .filter(|event| event.claim.queued && !failed(event))
        .map(|event| event.claim.inbox_id)
        .collect();
    if !done.is_empty() {
        diesel::sql_query("DELETE FROM stripe_inbox_queue WHERE inbox_id = ANY ($1)")
            .bind::<Array<BigInt>, _>(done)
            .execute(conn)?;
    }
    record_failures(conn, failures)
}

/// A failed attempt.
#[derive(Debug)]
pub struct Failure {
    inbox_id: i64,
    attempts: i16,
    error: String,
    next_attempt_at: DateTime<Utc>,
    quarantined_at: Option<DateTime<Utc>>,
}

impl Failure {
    /// Whether it is that of this event.
    pub(super) fn is_of(&self, claim: &ClaimedEvent) -> bool {
        self.inbox_id == claim.inbox_id
    }

    /// The next attempt comes after 1, 4, 16, … seconds, at most an hour; after `limit` attempts there is
    /// none.
    pub(super) fn of(claim: &ClaimedEvent, limit: u16, now: DateTime<Utc>, error: String) -> Self {
        let attempts = claim.attempts.saturating_add(1);
        let given_up = i32::from(attempts) >= i32::from(limit);
        tracing::warn!(
            inbox_id = claim.inbox_id,
            attempts,
            given_up,
            error,
            "a Stripe event could not be projected"
        );
        Self {
            inbox_id: claim.inbox_id,
            attempts,
            error,
            next_attempt_at: now + crate::time::back_off(claim.attempts),
            quarantined_at: given_up.then_some(now),
        }
    }
}

/// Writes down what failed.
pub(super) fn record_failures(conn: &mut PgConnection, failures: &[Failure]) -> QueryResult<()> {
    for failure in failures {
        diesel::sql_query(
            "INSERT INTO stripe_inbox_queue (inbox_id, attempts, last_error, next_attempt_at, quarantined_at)
             VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (inbox_id)
             DO UPDATE SET attempts = excluded.attempts, last_error = excluded.last_error,
                 next_attempt_at = excluded.next_attempt_at, quarantined_at = excluded.quarantined_at",
        )
        .bind::<BigInt, _>(failure.inbox_id)
        .bind::<SmallInt, _>(failure.attempts)
        .bind::<Text, _>(failure.error.replace('\0', "\u{fffd}"))
        .bind::<Timestamptz, _>(failure.next_attempt_at)
        .bind::<Nullable<Timestamptz>, _>(failure.quarantined_at)
        .execute(conn)?;
    }
    Ok(())
}

/// Puts every stored event back on the queue; returns how many.
pub fn requeue_everything(conn: &mut PgConnection) -> Result<usize, Error> {
    Ok(diesel::sql_query(
        "INSERT INTO stripe_inbox_queue (inbox_id) SELECT inbox_id FROM stripe_inbox ON CONFLICT DO NOTHING",
    )
    .execute(conn)?)
}
