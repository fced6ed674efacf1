//! The inbox for operators: lists events with their state and last error, and has them projected again.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, SmallInt, Text, Timestamptz};
use serde::Serialize;
use utoipa::ToSchema;

use crate::error::Error;
use crate::schema::{stripe_inbox, stripe_inbox_queue, stripe_inbox_redeliveries};

/// Where a Stripe event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, serde::Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = InboxState)]
pub enum State {
    /// Stored, waiting to be projected or for its next attempt.
    Pending,
    /// Given up after repeated failures; waits for a retry by hand.
    Quarantined,
    /// Projected.
    Done,
    /// A thin event whose object must be fetched from Stripe, as its full twin has not come.
    NeedsFetch,
}

impl std::str::FromStr for State {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "pending" => Ok(Self::Pending),
            "quarantined" => Ok(Self::Quarantined),
            "done" => Ok(Self::Done),
            "needs_fetch" => Ok(Self::NeedsFetch),
            _ => Err(format!("`{text}` is no state: pending, quarantined, done or needs_fetch")),
        }
    }
}

/// A Stripe event as the operator sees it; the body is asked for apart.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Entry {
    /// Number in the inbox, in order of arrival.
    pub inbox_id: i64,
    /// Connected account, empty for our own.
    pub account: String,
    /// Live or test mode.
    pub livemode: bool,
    /// Stripe's id of the event.
    pub event_id: String,
    /// Such as `invoice.paid`.
    pub event_type: String,
    /// The version that its shapes follow.
    pub api_version: Option<String>,
    /// When it happened, by Stripe's clock.
    pub created: Option<DateTime<Utc>>,
    /// Kind of the object it is about.
    pub object: Option<String>,
    /// Id of the object it is about.
    pub object_id: Option<String>,
    /// When it first arrived.
    pub received_at: DateTime<Utc>,
    /// `webhook`: Stripe delivered it; `api`: read from Stripe's list of events; `fetch`: an object that was
    /// read, whose `created` is the time of the read.
    pub origin: String,
    /// Where it stands.
    pub state: State,
    /// Failed attempts so far.
    pub attempts: i16,
    /// When it is tried again.
    pub next_attempt_at: Option<DateTime<Utc>>,
    /// Why the last attempt failed.
    pub last_error: Option<String>,
}

/// Number of stored events of one type.
#[derive(Clone, Debug, Serialize, ToSchema, QueryableByName)]
pub struct TypeCount {
    /// The type.
    #[diesel(sql_type = Text)]
    pub event_type: String,
    /// Stored events.
    #[diesel(sql_type = BigInt)]
    pub stored: i64,
    /// Quarantined ones among them.
    #[diesel(sql_type = BigInt)]
    pub quarantined: i64,
}

#[derive(QueryableByName)]
struct InboxRow {
    #[diesel(embed)]
    event: Event,
    #[diesel(sql_type = Nullable<SmallInt>)]
    attempts: Option<i16>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    next_attempt_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = Nullable<Text>)]
    last_error: Option<String>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    quarantined_at: Option<DateTime<Utc>>,
    #[diesel(sql_type = diesel::sql_types::Bool)]
    needs_fetch: bool,
}

#[derive(QueryableByName)]
#[diesel(table_name = stripe_inbox)]
struct Event {
    inbox_id: i64,
    account: String,
    livemode: bool,
    event_id: String,
    event_type: String,
    api_version: Option<String>,
    created: i64,
    object: Option<String>,
    object_id: Option<String>,
    received_at: DateTime<Utc>,
    origin: String,
}

impl From<InboxRow> for Entry {
    fn from(row: InboxRow) -> Self {
        let state = match (row.attempts, row.quarantined_at) {
            (_, Some(_)) => State::Quarantined,
            (Some(_), None) => State::Pending,
            (None, None) if row.needs_fetch => State::NeedsFetch,
            (None, None) => State::Done,
        };
        let event = row.event;
        Self {
            inbox_id: event.inbox_id,
            account: event.account,
            livemode: event.livemode,
            event_id: event.event_id,
            event_type: event.event_type,
            api_version: event.api_version,
            created: DateTime::from_timestamp(event.created, 0).filter(|_| event.created != 0),
            object: event.object,
            object_id: event.object_id,
            received_at: event.received_at,
            origin: event.origin,
            state,
            attempts: row.attempts.unwrap_or(0),
            next_attempt_at: row.next_attempt_at,
            last_error: row.last_error,
        }
    }
}

const SELECT: &str = "SELECT i.inbox_id, i.account, i.livemode, i.event_id, i.event_type, i.api_version,
        i.created, i.object, i.object_id, i.received_at, i.origin,
        q.attempts, q.next_attempt_at, q.last_error, q.quarantined_at,
        i.thin AND NOT EXISTS (SELECT FROM stripe_inbox t
            WHERE (t.account, t.livemode, t.event_id) = (i.account, i.livemode, i.twin_event_id))
            AND NOT EXISTS (SELECT FROM stripe_wanted w
                WHERE (w.account, w.livemode, w.object, w.object_id)
                    = (i.account, i.livemode, 'v2.core.event', i.event_id) AND w.done_at IS NOT NULL)
            AS needs_fetch
    FROM stripe_inbox i
    LEFT JOIN stripe_inbox_queue q USING (inbox_id)";

/// Entries, the newest first, with an `inbox_id` below `before`, at most `limit`. `needle`: only those with
/// this event id, object id or event type.
pub fn list(
    conn: &mut PgConnection,
    state: Option<State>,
    needle: Option<&str>,
    before: Option<i64>,
    limit: i64,
) -> Result<Vec<Entry>, Error> {
    let wanted = match state {
        None => "true",
        Some(State::Pending) => "q.inbox_id IS NOT NULL AND q.quarantined_at IS NULL",
        Some(State::Quarantined) => "q.quarantined_at IS NOT NULL",
        Some(State::Done) => "q.inbox_id IS NULL",
        Some(State::NeedsFetch) => {
            "i.thin AND q.inbox_id IS NULL AND NOT EXISTS (SELECT FROM stripe_inbox t
            WHERE (t.account, t.livemode, t.event_id) = (i.account, i.livemode, i.twin_event_id))
            AND NOT EXISTS (SELECT FROM stripe_wanted w
                WHERE (w.account, w.livemode, w.object, w.object_id)
                    = (i.account, i.livemode, 'v2.core.event', i.event_id) AND w.done_at IS NOT NULL)"
        }
    };
    let sql = format!(
        "{SELECT} WHERE {wanted} AND i.inbox_id < $1
             AND ($2::text IS NULL OR $2 IN (i.event_id, i.object_id, i.event_type))
         ORDER BY i.inbox_id DESC LIMIT $3"
    );
    let rows: Vec<InboxRow> = diesel::sql_query(sql)
        .bind::<BigInt, _>(before.unwrap_or(i64::MAX))
        .bind::<Nullable<Text>, _>(needle)
        .bind::<BigInt, _>(limit)
        .load(conn)?;
    Ok(rows.into_iter().map(Entry::from).collect())
}

/// The entry, its body as received, and the number of repeated deliveries.
///
/// # Errors
/// [`Error::NotFound`] when there is no such entry.
pub fn find(conn: &mut PgConnection, inbox_id: i64) -> Result<(Entry, Vec<u8>, i64), Error> {
    let sql = format!("{SELECT} WHERE i.inbox_id = $1");
    let row: InboxRow = diesel::sql_query(sql)
        .bind::<BigInt, _>(inbox_id)
        .get_result(conn)
        .optional()?
        .ok_or(Error::NotFound("Stripe event"))?;
    let stored = stripe_inbox::table.find(inbox_id).select((stripe_inbox::body, stripe_inbox::body_of));
    let (own, body_of): (Vec<u8>, Option<i64>) = stored.first(conn)?;
    // A fetch that confirms another row has that row's body.
    let body = match body_of {
        Some(other) => stripe_inbox::table.find(other).select(stripe_inbox::body).first(conn)?,
        None => own,
    };
    let redeliveries = stripe_inbox_redeliveries::table
        .filter(stripe_inbox_redeliveries::inbox_id.eq(inbox_id))
        .count()
        .get_result(conn)?;
    Ok((row.into(), body, redeliveries))
}

/// Puts the event on the queue to be projected again, whatever its state is.
///
/// # Errors
/// [`Error::NotFound`] when there is no such entry.
pub fn retry(conn: &mut PgConnection, inbox_id: i64) -> Result<(), Error> {
    let is_there: bool =
        diesel::select(diesel::dsl::exists(stripe_inbox::table.find(inbox_id))).get_result(conn)?;
    if !is_there {
        return Err(Error::NotFound("Stripe event"));
    }
    diesel::sql_query(
        "INSERT INTO stripe_inbox_queue (inbox_id) VALUES ($1)
         ON CONFLICT (inbox_id) DO UPDATE SET attempts = 0, next_attempt_at = NULL, quarantined_at = NULL",
    )
    .bind::<BigInt, _>(inbox_id)
    .execute(conn)?;
    Ok(())
}

/// Lets every quarantined event be tried again, from the first attempt on; returns how many there were.
pub fn retry_all(conn: &mut PgConnection) -> Result<usize, Error> {
    Ok(diesel::update(stripe_inbox_queue::table.filter(stripe_inbox_queue::quarantined_at.is_not_null()))
        .set((
            stripe_inbox_queue::attempts.eq(0),
            stripe_inbox_queue::next_attempt_at.eq(None::<DateTime<Utc>>),
            stripe_inbox_queue::quarantined_at.eq(None::<DateTime<Utc>>),
        ))
        .execute(conn)?)
}

/// The number of stored events of each type, the greatest first.
pub fn count_by_type(conn: &mut PgConnection) -> Result<Vec<TypeCount>, Error> {
    Ok(diesel::sql_query(
        "SELECT i.event_type, count(*) AS stored, count(q.quarantined_at) AS quarantined
         FROM stripe_inbox i
         LEFT JOIN stripe_inbox_queue q USING (inbox_id)
         GROUP BY 1
         ORDER BY 2 DESC, 1",
    )
    .load(conn)?)
}
