//! Files arrivals into the inbox. Owns `stripe_inbox` and `stripe_inbox_redeliveries`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Binary, Bool, Nullable, Text, Timestamptz, Untyped};

use super::Delivery;
use crate::db::prepared::{Prepared, statement};
use crate::stripe::event::{self, Envelope, Opened};

/// An event that is new in the inbox.
#[derive(Debug)]
pub struct Filed<'a> {
    pub inbox_id: i64,
    /// What was read from its body.
    pub opened: Opened<'a>,
}

/// The result of [`file`].
#[derive(Debug, Default)]
pub struct Filing<'a> {
    /// Events that are new in the inbox.
    pub new: Vec<Filed<'a>>,
    /// Number of deliveries whose event was there already.
    pub repeated: usize,
}

// Rows in key order, so that two transactions with the same events do not deadlock.
statement!(File -> (BigInt, Text, Bool, Text): "INSERT INTO stripe_inbox (account, livemode, event_id, \
    event_type, api_version, created, object, object_id, thin, twin_event_id, signature, user_agent, \
    received_at, body) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (account, livemode, event_id) DO NOTHING \
    RETURNING inbox_id, account, livemode, event_id");
statement!(Repeat -> Untyped: "INSERT INTO stripe_inbox_redeliveries (inbox_id, received_at) \
    SELECT i.inbox_id, d.received_at \
    FROM unnest(?, ?, ?, ?) AS d (account, livemode, event_id, received_at) \
    JOIN stripe_inbox i USING (account, livemode, event_id)");

/// Files deliveries in the caller's transaction. If several have the same event, the first one is filed and
/// the others are repeats. The result borrows from the bodies.
///
/// # Errors
/// When the database fails, or cannot store one of them.
pub fn file<'a>(
    conn: &mut PgConnection,
    deliveries: impl IntoIterator<Item = &'a Delivery>,
) -> QueryResult<Filing<'a>> {
    let mut read: Vec<(Opened<'a>, &Delivery)> =
        deliveries.into_iter().map(|delivery| (event::open(&delivery.body), delivery)).collect();
    if read.is_empty() {
        return Ok(Filing::default());
    }
    read.sort_by(|(a, _), (b, _)| {
        let (a, b) = (&a.envelope, &b.envelope);
        (&a.realm, &a.event_id).cmp(&(&b.realm, &b.event_id))
    });
    let mut new = insert(conn, &read)?.into_iter().peekable();
    let (mut filing, mut repeats) = (Filing::default(), Vec::new());
    for (opened, delivery) in read {
        let envelope = &opened.envelope;
        let is_new = |(_, account, livemode, event_id): &(i64, String, bool, String)| {
            (account, *livemode, event_id)
                == (&envelope.realm.account, envelope.realm.livemode, &envelope.event_id)
        };
        match new.next_if(is_new) {
            Some((inbox_id, ..)) => filing.new.push(Filed { inbox_id, opened }),
            None => repeats.push((opened.envelope, delivery.received_at)),
        }
    }
    assert!(new.next().is_none(), "INSERT returns new events in the order of their keys");
    filing.repeated = repeats.len();
    insert_repeats(conn, &repeats)?;
    filing.new.sort_unstable_by_key(|filed| filed.inbox_id);
    Ok(filing)
}

#[derive(QueryableByName)]
struct IsThere {
    #[diesel(sql_type = Bool)]
    there: bool,
}

/// Whether exactly this delivery was filed, as a new event or as a repeat.
pub(super) fn is_there(conn: &mut PgConnection, delivery: &Delivery) -> QueryResult<bool> {
    let envelope = event::open(&delivery.body).envelope;
    diesel::sql_query(
        "SELECT EXISTS (
             SELECT FROM stripe_inbox i
             WHERE (account, livemode, event_id) = ($1, $2, $3)
                 AND (received_at = $4 AND signature = $5 OR EXISTS (
                     SELECT FROM stripe_inbox_redeliveries r
                     WHERE r.inbox_id = i.inbox_id AND r.received_at = $4))) AS there",
    )
    .bind::<Text, _>(&envelope.realm.account)
    .bind::<Bool, _>(envelope.realm.livemode)
    .bind::<Text, _>(&envelope.event_id)
    .bind::<Timestamptz, _>(delivery.received_at)
    .bind::<Text, _>(&delivery.signature)
    .get_result::<IsThere>(conn)
    .map(|found| found.there)
}

fn insert(
    conn: &mut PgConnection,
    read: &[(Opened<'_>, &Delivery)],
) -> QueryResult<Vec<(i64, String, bool, String)>> {
    let envelopes = || read.iter().map(|(opened, _)| &opened.envelope);
    let deliveries = || read.iter().map(|(_, delivery)| *delivery);
    Prepared::<File>::new()
        .bind::<Text, _>(envelopes().map(|one| &*one.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(envelopes().map(|one| one.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(envelopes().map(|one| &*one.event_id).collect::<Vec<_>>())
        .bind::<Text, _>(envelopes().map(|one| &*one.event_type).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(envelopes().map(|one| one.api_version.as_deref()).collect::<Vec<_>>())
        .bind::<BigInt, _>(envelopes().map(|one| one.created).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(envelopes().map(|one| one.object.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(envelopes().map(|one| one.object_id.as_deref()).collect::<Vec<_>>())
        .bind::<Bool, _>(envelopes().map(|one| one.thin).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(envelopes().map(|one| one.twin_event_id.as_deref()).collect::<Vec<_>>())
        .bind::<Text, _>(deliveries().map(|one| &*one.signature).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(deliveries().map(|one| one.user_agent.as_deref()).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(deliveries().map(|one| one.received_at).collect::<Vec<_>>())
        .bind::<Binary, _>(deliveries().map(|one| &*one.body).collect::<Vec<_>>())
        .load(conn)
}

fn insert_repeats(conn: &mut PgConnection, repeats: &[(Envelope, DateTime<Utc>)]) -> QueryResult<()> {
    if repeats.is_empty() {
        return Ok(());
    }
    Prepared::<Repeat>::new()
        .bind::<Text, _>(repeats.iter().map(|(one, _)| &*one.realm.account).collect::<Vec<_>>())
        .bind::<Bool, _>(repeats.iter().map(|(one, _)| one.realm.livemode).collect::<Vec<_>>())
        .bind::<Text, _>(repeats.iter().map(|(one, _)| &*one.event_id).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(repeats.iter().map(|(_, received_at)| *received_at).collect::<Vec<_>>())
        .execute(conn)
        .map(drop)
}
