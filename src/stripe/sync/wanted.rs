//! Objects that are read one by one, because events do not tell all of them: their snapshots are ambiguous,
//! have only the first entries of a list, or an event only names them. Owns `stripe_wanted`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Bool, Integer, Nullable, SmallInt, Text, Timestamptz};
use serde::Deserialize;

use crate::backoff;
use crate::error::Error;
use crate::realm::Realm;

/// The kind of a wanted thin event. Its id is the event's.
pub(super) const THIN: &str = "v2.core.event";
/// An object whose newest event is younger than this many seconds may still change, and Stripe's copies may
/// still differ.
const SETTLED_S: i64 = 5;
/// Line items of sessions older than this many days are not read: an old account has very many.
const ITEMS_DAYS: i32 = 30;
/// So many days after it was made a session may still be paid: it is open for a day, and some bank debits
/// take two weeks.
const PAID_LATE_DAYS: i32 = 15;

/// An object to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    pub(super) object: &'a str,
    pub(super) object_id: &'a str,
    /// `ambiguous`, `incomplete_lines`, `line_items`, `thin_event` or `close`.
    pub(super) reason: &'static str,
    /// Where Stripe has it, if its id does not tell.
    pub(super) path: Option<&'a str>,
}

/// One that is due.
#[derive(Clone, Debug, QueryableByName)]
pub(super) struct Due {
    #[diesel(sql_type = Text)]
    pub(super) object: String,
    #[diesel(sql_type = Text)]
    pub(super) object_id: String,
    #[diesel(sql_type = Text)]
    pub(super) reason: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(super) path: Option<String>,
    #[diesel(sql_type = SmallInt)]
    attempts: i16,
}

/// Adds an object, or has it read again.
pub(super) fn add(
    conn: &mut PgConnection,
    realm: &Realm,
    wanted: &Wanted<'_>,
    at: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO stripe_wanted AS w (account, livemode, object, object_id, reason, path, wanted_at,
             next_attempt_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $7)
         ON CONFLICT (account, livemode, object, object_id) DO UPDATE SET reason = excluded.reason,
             wanted_at = excluded.wanted_at, next_attempt_at = excluded.next_attempt_at, attempts = 0,
             done_at = NULL",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(wanted.object)
    .bind::<Text, _>(wanted.object_id)
    .bind::<Text, _>(wanted.reason)
    .bind::<Nullable<Text>, _>(wanted.path)
    .bind::<Timestamptz, _>(at)
    .execute(conn)?;
    Ok(())
}

/// Adds what the mirrors lack. An object is added again when its winner is newer than its last fetch.
///
/// Line items are wanted of paid sessions that may still do something: without an invoice, of the last 30
/// days, and perhaps paid since `effects_since` of the account. With manual capture the session stays
/// `unpaid`, and its intent tells.
pub(super) fn find_missing(conn: &mut PgConnection, realm: &Realm, now: DateTime<Utc>) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO stripe_wanted AS w (account, livemode, object, object_id, reason, wanted_at,
             next_attempt_at)
         SELECT $1, $2, m.object, m.object_id, min(m.reason), $3, $3
         FROM (
             SELECT o.object, o.object_id, 'ambiguous' AS reason FROM stripe_objects o
             WHERE (o.account, o.livemode) = ($1, $2) AND o.ambiguous
             UNION ALL
             SELECT 'invoice', i.id, 'incomplete_lines' FROM invoices i
             WHERE (i.account, i.livemode) = ($1, $2) AND NOT i.lines_complete AND NOT i.deleted
             UNION ALL
             SELECT 'credit_note', n.id, 'incomplete_lines' FROM credit_notes n
             WHERE (n.account, n.livemode) = ($1, $2) AND NOT n.lines_complete
             UNION ALL
             SELECT 'subscription', s.id, 'incomplete_lines' FROM subscriptions s
             WHERE (s.account, s.livemode) = ($1, $2) AND NOT s.items_complete
             UNION ALL
             SELECT 'checkout.session', c.id, 'line_items' FROM checkout_sessions c
             WHERE (c.account, c.livemode) = ($1, $2) AND NOT c.line_items_complete
                 AND c.mode = 'payment' AND c.invoice_id IS NULL
                 AND c.created >= (SELECT greatest(a.effects_since - make_interval(days => $6),
                         $3 - make_interval(days => $5))
                     FROM stripe_accounts a WHERE (a.account, a.livemode) = ($1, $2))
                 AND (c.payment_status IN ('paid', 'no_payment_required')
                     OR EXISTS (SELECT FROM payment_intents p
                         WHERE (p.account, p.livemode, p.id) = ($1, $2, c.payment_intent_id)
                             AND p.status = 'succeeded'))) m
         JOIN stripe_objects o ON (o.account, o.livemode, o.object, o.object_id)
             = ($1, $2, m.object, m.object_id)
         LEFT JOIN stripe_wanted d ON (d.account, d.livemode, d.object, d.object_id)
             = ($1, $2, m.object, m.object_id)
         WHERE NOT o.deleted AND o.created <= extract(epoch FROM $3)::bigint - $4
             AND (d.object IS NULL OR d.done_at IS NOT NULL AND coalesce(d.observed, 0) < o.created)
         GROUP BY m.object, m.object_id
         ON CONFLICT (account, livemode, object, object_id) DO UPDATE SET reason = excluded.reason,
             wanted_at = excluded.wanted_at, next_attempt_at = excluded.next_attempt_at, attempts = 0,
             last_error = NULL, done_at = NULL",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(SETTLED_S)
    .bind::<Integer, _>(ITEMS_DAYS)
    .bind::<Integer, _>(PAID_LATE_DAYS)
    .execute(conn)?;
    find_thin(conn, realm, now)
}

#[derive(QueryableByName)]
struct ThinRow {
    #[diesel(sql_type = Binary)]
    body: Vec<u8>,
}

#[derive(Deserialize)]
struct ThinEvent {
    related_object: Option<Related>,
}

/// The object that a thin event names.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Related {
    pub(super) id: String,
    pub(super) r#type: String,
    pub(super) url: String,
}

/// The object that this thin event names; `None` if it names none.
pub(super) fn related(
    conn: &mut PgConnection,
    realm: &Realm,
    event_id: &str,
) -> QueryResult<Option<Related>> {
    let row: Option<ThinRow> =
        diesel::sql_query("SELECT body FROM stripe_inbox WHERE (account, livemode, event_id) = ($1, $2, $3)")
            .bind::<Text, _>(&realm.account)
            .bind::<Bool, _>(realm.livemode)
            .bind::<Text, _>(event_id)
            .get_result(conn)
            .optional()?;
    let read = |row: ThinRow| serde_json::from_slice::<ThinEvent>(&row.body).ok()?.related_object;
    Ok(row.and_then(read))
}

/// Thin events of which no full event came: each is wanted once.
fn find_thin(conn: &mut PgConnection, realm: &Realm, now: DateTime<Utc>) -> Result<(), Error> {
    diesel::sql_query(
        "INSERT INTO stripe_wanted (account, livemode, object, object_id, reason, wanted_at, next_attempt_at)
         SELECT $1, $2, $4, i.event_id, 'thin_event', $3, $3
         FROM stripe_inbox i
         WHERE i.thin AND (i.account, i.livemode) = ($1, $2)
             AND NOT EXISTS (SELECT FROM stripe_inbox t
                 WHERE (t.account, t.livemode, t.event_id) = (i.account, i.livemode, i.twin_event_id))
         ON CONFLICT DO NOTHING",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now)
    .bind::<Text, _>(THIN)
    .execute(conn)?;
    Ok(())
}

/// Those whose time has come, at most `limit`.
pub(super) fn due(
    conn: &mut PgConnection,
    realm: &Realm,
    limit: i64,
    now: DateTime<Utc>,
) -> QueryResult<Vec<Due>> {
    diesel::sql_query(
        "SELECT object, object_id, reason, path, attempts FROM stripe_wanted
         WHERE (account, livemode) = ($1, $2) AND done_at IS NULL AND next_attempt_at <= $3
         ORDER BY next_attempt_at, object, object_id LIMIT $4",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Timestamptz, _>(now)
    .bind::<BigInt, _>(limit)
    .load(conn)
}

/// Notes that one was read at this second of Stripe's clock, in the transaction that stores what was read.
pub(super) fn done(
    conn: &mut PgConnection,
    realm: &Realm,
    due: &Due,
    observed: Option<i64>,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_wanted SET done_at = $5, observed = coalesce($6, observed), last_error = NULL
         WHERE (account, livemode, object, object_id) = ($1, $2, $3, $4)",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(&due.object)
    .bind::<Text, _>(&due.object_id)
    .bind::<Timestamptz, _>(now)
    .bind::<Nullable<BigInt>, _>(observed)
    .execute(conn)
    .map(drop)
}

/// Notes that one could not be read. It is tried again later and later, at most every hour.
pub(super) fn failed(
    conn: &mut PgConnection,
    realm: &Realm,
    due: &Due,
    error: &str,
    now: DateTime<Utc>,
) -> QueryResult<()> {
    diesel::sql_query(
        "UPDATE stripe_wanted SET attempts = $5, last_error = $6, next_attempt_at = $7
         WHERE (account, livemode, object, object_id) = ($1, $2, $3, $4)",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Text, _>(&due.object)
    .bind::<Text, _>(&due.object_id)
    .bind::<SmallInt, _>(due.attempts.saturating_add(1))
    .bind::<Text, _>(crate::text::replace_nul(error))
    .bind::<Timestamptz, _>(now + backoff::wait(due.attempts))
    .execute(conn)
    .map(drop)
}

#[derive(QueryableByName)]
struct KeyRow {
    #[diesel(sql_type = Text)]
    object: String,
    #[diesel(sql_type = Text)]
    object_id: String,
}

/// Objects of these kinds that we hold as alive and whose newest input is older than `before`, behind
/// `after`, at most `limit`. `after`: the last key read.
pub(super) fn unseen(
    conn: &mut PgConnection,
    realm: &Realm,
    kinds: &[&str],
    before: i64,
    after: Option<&(String, String)>,
    limit: i64,
) -> QueryResult<Vec<(String, String)>> {
    let (object, id) = after.map_or(("", ""), |(object, id)| (object, id));
    let rows: Vec<KeyRow> = diesel::sql_query(
        "SELECT object, object_id FROM stripe_objects
         WHERE (account, livemode) = ($1, $2) AND object = ANY ($3) AND NOT deleted AND inbox_id IS NOT NULL
             AND created < $4 AND (object, object_id) > ($5, $6)
         ORDER BY object, object_id LIMIT $7",
    )
    .bind::<Text, _>(&realm.account)
    .bind::<Bool, _>(realm.livemode)
    .bind::<Array<Text>, _>(kinds)
    .bind::<BigInt, _>(before)
    .bind::<Text, _>(object)
    .bind::<Text, _>(id)
    .bind::<BigInt, _>(limit)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.object, row.object_id)).collect())
}
