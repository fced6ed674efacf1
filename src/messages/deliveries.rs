//! Deliveries: which message goes to which endpoint under which number, and every attempt. Owns
//! `message_deliveries` and `message_attempts`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Integer, Nullable, SmallInt, Text, Timestamptz, Untyped};
use serde::Serialize;
use utoipa::ToSchema;

use super::NewMessage;
use super::endpoints::{self, Endpoint};
use super::lanes::{self, LaneKey};
use crate::auth::PLATFORM;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::ids;
use crate::schema::{message_attempts as a, message_deliveries as d, outbox_messages as m};

/// Messages that one replay sends again, at most.
const MOST_REPLAYED: i64 = 100_000;

/// A message on its way to an endpoint.
#[derive(Clone, Debug, Queryable, Serialize, ToSchema)]
pub struct Delivery {
    /// Its number at the endpoint: 1, 2, 3, …
    pub sequence: i64,
    /// Id of the message: the header `webhook-id`.
    pub message: String,
    /// Kind of the message.
    pub r#type: String,
    /// `waiting`, `delivered`, or `given_up` after about three days.
    pub state: String,
    /// Attempts so far.
    pub attempts: i32,
    /// When it was assigned.
    pub created_at: DateTime<Utc>,
    /// When the next attempt is due; of one that does not wait, when its last one was.
    pub next_attempt_at: DateTime<Utc>,
    /// When it was delivered or given up.
    pub ended_at: Option<DateTime<Utc>>,
}

/// One attempt to deliver a message.
#[derive(Clone, Debug, Queryable, Serialize, ToSchema)]
pub struct Attempt {
    /// Its number: 1, 2, 3, …
    pub attempt: i32,
    /// When it began.
    pub at: DateTime<Utc>,
    /// Status of the answer; null: there was none.
    pub status: Option<i16>,
    /// How long it took, in milliseconds.
    pub duration_ms: i32,
    /// Why there is no answer.
    pub error: Option<String>,
    /// The beginning of the answer's body, at most 1 KiB.
    pub excerpt: Option<String>,
}

/// A delivery to store.
pub(super) struct NewDelivery<'a> {
    pub(super) org_id: i64,
    pub(super) endpoint: &'a str,
    pub(super) sequence: i64,
    pub(super) message_org_id: i64,
    pub(super) message: &'a str,
}

statement!(Insert -> Untyped:
    "INSERT INTO message_deliveries (org_id, endpoint_id, sequence, message_org_id, message_id, state,
         attempts, failures, created_at, next_attempt_at)
     SELECT o, e, s, g, m, 'waiting', 0, 0, t.now, t.now
     FROM (SELECT ?::timestamptz AS now) t, unnest(?, ?, ?, ?, ?) AS n (o, e, s, g, m)");

pub(super) fn insert(
    conn: &mut PgConnection,
    rows: &[NewDelivery<'_>],
    now: DateTime<Utc>,
) -> QueryResult<()> {
    Prepared::<Insert>::new()
        .bind_one::<Timestamptz, _>(now)
        .bind::<BigInt, _>(rows.iter().map(|row| row.org_id).collect::<Vec<_>>())
        .bind::<Text, _>(rows.iter().map(|row| row.endpoint).collect::<Vec<_>>())
        .bind::<BigInt, _>(rows.iter().map(|row| row.sequence).collect::<Vec<_>>())
        .bind::<BigInt, _>(rows.iter().map(|row| row.message_org_id).collect::<Vec<_>>())
        .bind::<Text, _>(rows.iter().map(|row| row.message).collect::<Vec<_>>())
        .execute(conn)
        .map(drop)
}

/// Selects deliveries of an endpoint.
#[derive(Clone, Debug, Default)]
pub struct DeliveryFilter {
    /// Only in this state.
    pub state: Option<String>,
    /// Only one with this number.
    pub sequence: Option<i64>,
    /// Only those whose number comes after.
    pub after: i64,
}

/// Deliveries of an endpoint by number, at most `limit`.
pub fn list(
    conn: &mut PgConnection,
    (org_id, endpoint): (i64, &str),
    filter: &DeliveryFilter,
    limit: i64,
) -> Result<Vec<Delivery>, Error> {
    let mut query = d::table
        .inner_join(m::table.on(m::org_id.eq(d::message_org_id).and(m::message_id.eq(d::message_id))))
        .filter(d::org_id.eq(org_id).and(d::endpoint_id.eq(endpoint)).and(d::sequence.gt(filter.after)))
        .select((
            d::sequence,
            d::message_id,
            m::type_,
            d::state,
            d::attempts,
            d::created_at,
            d::next_attempt_at,
            d::ended_at,
        ))
        .order(d::sequence)
        .limit(limit)
        .into_boxed();
    if let Some(state) = &filter.state {
        query = query.filter(d::state.eq(state));
    }
    if let Some(sequence) = filter.sequence {
        query = query.filter(d::sequence.eq(sequence));
    }
    Ok(query.load(conn)?)
}

/// Attempts of a delivery, at most `limit`, after the attempt with the number `after`.
pub fn attempts(
    conn: &mut PgConnection,
    (org_id, endpoint): (i64, &str),
    sequence: i64,
    after: i32,
    limit: i64,
) -> Result<Vec<Attempt>, Error> {
    Ok(a::table
        .filter(a::org_id.eq(org_id).and(a::endpoint_id.eq(endpoint)).and(a::sequence.eq(sequence)))
        .filter(a::attempt.gt(after))
        .select((a::attempt, a::at, a::status, a::duration_ms, a::error, a::excerpt))
        .order(a::attempt)
        .limit(limit)
        .load(conn)?)
}

fn must_be_enabled(endpoint: &Endpoint) -> Result<(), Error> {
    if endpoint.enabled {
        return Ok(());
    }
    let why = "this endpoint is disabled: set `enabled` to true first";
    Err(Error::conflict("endpoint_disabled", why).about("id"))
}

/// Makes a delivery wait again, whatever its state is, with all of its attempts before it.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] while the endpoint is disabled.
pub fn resend(
    conn: &mut PgConnection,
    own: Option<i64>,
    id: &str,
    sequence: i64,
    now: DateTime<Utc>,
) -> Result<(i64, Delivery), Error> {
    let (org_id, endpoint) = endpoints::find(conn, own, id)?;
    must_be_enabled(&endpoint)?;
    diesel::update(d::table.find((org_id, id, sequence)))
        .set((
            (d::state.eq("waiting"), d::failures.eq(0), d::next_attempt_at.eq(now)),
            d::ended_at.eq(None::<DateTime<Utc>>),
        ))
        .execute(conn)?;
    lanes::wake(conn, (org_id, id))?;
    let filter = DeliveryFilter { sequence: Some(sequence), ..DeliveryFilter::default() };
    let found = list(conn, (org_id, id), &filter, 1)?.pop();
    Ok((org_id, found.ok_or(Error::NotFound("delivery"))?))
}

/// Sends all messages that the endpoint wants and that were written from `since` and before `until`, again or
/// for the first time, each under a new number. Returns how many.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] while the endpoint is disabled, or when there are too many.
pub fn replay(
    conn: &mut PgConnection,
    own: Option<i64>,
    id: &str,
    (since, until): (DateTime<Utc>, Option<DateTime<Utc>>),
    now: DateTime<Utc>,
) -> Result<(i64, usize), Error> {
    let (org_id, endpoint) = endpoints::find(conn, own, id)?;
    must_be_enabled(&endpoint)?;
    let mut query = m::table
        .filter(m::position.is_not_null().and(m::payload.is_not_null()))
        .filter(m::created_at.ge(since).and(m::type_.ne("endpoint.test")))
        .select((m::org_id, m::message_id, m::type_))
        .order(m::position)
        .limit(MOST_REPLAYED + 1)
        .into_boxed();
    if let Some(until) = until {
        query = query.filter(m::created_at.lt(until));
    }
    if org_id != PLATFORM {
        query = query.filter(m::org_id.eq(org_id));
    }
    let found: Vec<(i64, String, String)> = query.load(conn)?;
    if i64::try_from(found.len()).is_ok_and(|found| found > MOST_REPLAYED) {
        let detail =
            format!("these are more than {MOST_REPLAYED} messages: choose a shorter time by `until`");
        return Err(Error::conflict("too_many_messages", detail).about("until"));
    }
    let is_wanted = |kind: &str| super::kinds::is_wanted(kind, endpoint.kinds.iter());
    let found: Vec<_> = found.into_iter().filter(|(.., kind)| is_wanted(kind)).collect();
    let count = i64::try_from(found.len()).unwrap_or(i64::MAX);
    let Some((lane, last)) = lanes::number(conn, &[((org_id, id.to_owned()), count)], now)?.pop() else {
        return Err(Error::NotFound("endpoint"));
    };
    let first = last - count + 1;
    let rows: Vec<NewDelivery<'_>> = found
        .iter()
        .zip(first..)
        .map(|((message_org_id, message, _), sequence)| NewDelivery {
            org_id,
            endpoint: &lane.1,
            sequence,
            message_org_id: *message_org_id,
            message,
        })
        .collect();
    insert(conn, &rows, now)?;
    Ok((org_id, rows.len()))
}

/// Writes a message that goes to this endpoint alone. Returns the row id of its org.
///
/// # Errors
/// [`Error::NotFound`]; [`Error::Conflict`] while the endpoint is disabled.
pub fn test(conn: &mut PgConnection, own: Option<i64>, id: &str, now: DateTime<Utc>) -> Result<i64, Error> {
    let (org_id, endpoint) = endpoints::find(conn, own, id)?;
    must_be_enabled(&endpoint)?;
    let message = NewMessage {
        org_id,
        kind: "endpoint.test",
        dedupe_key: ids::fresh("test"),
        data: serde_json::json!({ "org": endpoint.org, "endpoint": id }),
        object: None,
    };
    super::write(conn, vec![message], now)?;
    Ok(org_id)
}

/// A delivery that is due, with what is sent.
#[derive(Clone, Debug, QueryableByName)]
pub(super) struct DueDelivery {
    #[diesel(sql_type = BigInt)]
    pub(super) org_id: i64,
    #[diesel(sql_type = Text)]
    pub(super) endpoint_id: String,
    #[diesel(sql_type = BigInt)]
    pub(super) sequence: i64,
    #[diesel(sql_type = Integer)]
    pub(super) failures: i32,
    #[diesel(sql_type = BigInt)]
    pub(super) message_org_id: i64,
    #[diesel(sql_type = Text)]
    pub(super) message_id: String,
    #[diesel(sql_type = Nullable<Text>)]
    pub(super) org: Option<String>,
    #[diesel(sql_type = Text)]
    pub(super) kind: String,
    #[diesel(sql_type = Timestamptz)]
    pub(super) written_at: DateTime<Utc>,
    /// Null: the message is older than the retention.
    #[diesel(sql_type = Nullable<Text>)]
    pub(super) data: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    pub(super) object: Option<String>,
}

/// How many deliveries a lane wants, beside those (`taken`) that it has.
pub(super) struct LaneWish {
    pub(super) lane: LaneKey,
    pub(super) ordered: bool,
    pub(super) with_object: bool,
    pub(super) limit: i64,
}

/// What is sent for a row of `due` (org, endpoint, sequence, failures, message).
const WITH_MESSAGE: &str = "SELECT due.org_id, due.endpoint_id, due.sequence, due.failures,
        due.message_org_id, due.message_id, o.public_id AS org, m.type AS kind,
        m.created_at AS written_at, m.payload::text AS data,
        CASE WHEN w.with_object THEN m.object::text END AS object
    FROM w CROSS JOIN LATERAL (%DUE%) due
    JOIN outbox_messages m ON (m.org_id, m.message_id) = (due.message_org_id, due.message_id)
    LEFT JOIN orgs o ON o.org_id = due.message_org_id
    ORDER BY due.org_id, due.endpoint_id, due.sequence";
const WISHES: &str = "WITH w AS (SELECT * FROM unnest($2, $3, $4, $5)
    AS w (org_id, endpoint_id, wanted, with_object))";
const DUE: &str = "SELECT d.* FROM message_deliveries d
    WHERE (d.org_id, d.endpoint_id) = (w.org_id, w.endpoint_id) AND d.state = 'waiting'
        AND d.next_attempt_at <= $1
    ORDER BY d.next_attempt_at, d.sequence LIMIT w.wanted";
/// Of each org only the first that waits, and only if that is due: the others wait behind it.
const FIRST_OF_ORGS: &str = "WITH RECURSIVE f AS (
        (SELECT d.* FROM message_deliveries d
         WHERE (d.org_id, d.endpoint_id) = (w.org_id, w.endpoint_id) AND d.state = 'waiting'
         ORDER BY d.message_org_id, d.sequence LIMIT 1)
        UNION ALL
        SELECT n.* FROM f CROSS JOIN LATERAL (
            SELECT d.* FROM message_deliveries d
            WHERE (d.org_id, d.endpoint_id) = (w.org_id, w.endpoint_id) AND d.state = 'waiting'
                AND d.message_org_id > f.message_org_id
            ORDER BY d.message_org_id, d.sequence LIMIT 1) n)
    SELECT f.* FROM f WHERE f.next_attempt_at <= $1 LIMIT w.wanted";

/// Deliveries that are due, by lane and number. They may include those that the lane has already.
pub(super) fn due(
    conn: &mut PgConnection,
    wishes: &[LaneWish],
    now: DateTime<Utc>,
) -> QueryResult<Vec<DueDelivery>> {
    let mut found = Vec::new();
    for (ordered, of_lane) in [(false, DUE), (true, FIRST_OF_ORGS)] {
        let wishes: Vec<&LaneWish> = wishes.iter().filter(|wish| wish.ordered == ordered).collect();
        if wishes.is_empty() {
            continue;
        }
        let sql = format!("{WISHES} {}", WITH_MESSAGE.replace("%DUE%", of_lane));
        let rows: Vec<DueDelivery> = diesel::sql_query(sql)
            .bind::<Timestamptz, _>(now)
            .bind::<Array<BigInt>, _>(wishes.iter().map(|wish| wish.lane.0).collect::<Vec<_>>())
            .bind::<Array<Text>, _>(wishes.iter().map(|wish| wish.lane.1.as_str()).collect::<Vec<_>>())
            .bind::<Array<BigInt>, _>(wishes.iter().map(|wish| wish.limit).collect::<Vec<_>>())
            .bind::<Array<Bool>, _>(wishes.iter().map(|wish| wish.with_object).collect::<Vec<_>>())
            .load(conn)?;
        found.extend(rows);
    }
    Ok(found)
}

/// How an attempt ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Delivered,
    /// It is tried again at this time.
    Waits(DateTime<Utc>),
    GivenUp,
    /// The daemon ended it before the answer. The delivery stays as it is.
    Unknown,
}

/// An attempt with its result.
#[derive(Clone, Debug)]
pub(super) struct Outcome {
    pub(super) lane: LaneKey,
    /// Which of the daemon's holds on the lane it belongs to.
    pub(super) hold: u64,
    pub(super) sequence: i64,
    /// Failures in a row before this attempt.
    pub(super) failures_before: i32,
    pub(super) at: DateTime<Utc>,
    pub(super) status: Option<i16>,
    pub(super) duration_ms: i32,
    pub(super) error: Option<String>,
    pub(super) excerpt: Option<String>,
    pub(super) verdict: Verdict,
}

statement!(LockEndpoints -> Untyped:
    "SELECT FROM message_endpoints e JOIN (SELECT DISTINCT * FROM unnest(?, ?) AS n (org_id, endpoint_id)) n
         USING (org_id, endpoint_id)
     ORDER BY e.org_id, e.endpoint_id FOR KEY SHARE OF e");

statement!(Lock -> Untyped:
    "SELECT FROM message_deliveries d JOIN (SELECT DISTINCT * FROM unnest(?, ?, ?)
         AS n (org_id, endpoint_id, sequence)) n USING (org_id, endpoint_id, sequence)
     ORDER BY d.org_id, d.endpoint_id, d.sequence FOR UPDATE OF d");

statement!(Log -> Untyped:
    "INSERT INTO message_attempts (org_id, endpoint_id, sequence, attempt, at, status, duration_ms, error,
         excerpt)
     SELECT n.org_id, n.endpoint_id, n.sequence,
         d.attempts + row_number() OVER (PARTITION BY n.org_id, n.endpoint_id, n.sequence ORDER BY n.at),
         n.at, n.status, n.duration_ms, n.error, n.excerpt
     FROM unnest(?, ?, ?, ?, ?, ?, ?, ?)
         AS n (org_id, endpoint_id, sequence, at, status, duration_ms, error, excerpt)
     JOIN message_deliveries d USING (org_id, endpoint_id, sequence)");

statement!(Settle -> Untyped:
    "UPDATE message_deliveries d
     SET attempts = d.attempts + n.made,
         state = CASE WHEN n.applies THEN n.state ELSE d.state END,
         failures = CASE WHEN n.applies AND n.state <> 'delivered' THEN d.failures + 1 ELSE d.failures END,
         next_attempt_at = CASE WHEN n.applies THEN n.next_at ELSE d.next_attempt_at END,
         ended_at = CASE WHEN NOT n.applies THEN d.ended_at
                         WHEN n.state = 'waiting' THEN NULL ELSE n.next_at END
     FROM (SELECT DISTINCT ON (o.org_id, o.endpoint_id, o.sequence) o.*, a.applies,
               count(*) OVER (PARTITION BY o.org_id, o.endpoint_id, o.sequence) AS made
           FROM unnest(?, ?, ?, ?, ?, ?) AS o (org_id, endpoint_id, sequence, before, state, next_at)
           JOIN message_deliveries d USING (org_id, endpoint_id, sequence)
           CROSS JOIN LATERAL (SELECT CASE WHEN o.state = 'delivered' THEN d.state <> 'delivered'
               WHEN o.state IS NULL THEN false
               ELSE d.state = 'waiting' AND d.failures = o.before END AS applies) a
           ORDER BY o.org_id, o.endpoint_id, o.sequence, o.state = 'delivered' DESC NULLS LAST,
               a.applies DESC, o.next_at DESC) n
     WHERE (d.org_id, d.endpoint_id, d.sequence) = (n.org_id, n.endpoint_id, n.sequence)");

/// Stores results, in the caller's transaction. Every attempt gets its row, also when another holder has
/// tried the delivery meanwhile. A 2xx ends the delivery, however late it comes. A failure counts only if no
/// other one has been counted since the attempt began.
pub(super) fn record(conn: &mut PgConnection, outcomes: &[Outcome]) -> QueryResult<()> {
    let orgs = || outcomes.iter().map(|one| one.lane.0).collect::<Vec<_>>();
    let endpoints = || outcomes.iter().map(|one| one.lane.1.as_str()).collect::<Vec<_>>();
    let sequences = || outcomes.iter().map(|one| one.sequence).collect::<Vec<_>>();
    let end = |one: &Outcome| match one.verdict {
        Verdict::Delivered => (Some("delivered"), one.at),
        Verdict::Waits(at) => (Some("waiting"), at),
        Verdict::GivenUp => (Some("given_up"), one.at),
        Verdict::Unknown => (None, one.at),
    };
    // Whoever deletes an endpoint locks in this order, too.
    Prepared::<LockEndpoints>::new().bind::<BigInt, _>(orgs()).bind::<Text, _>(endpoints()).execute(conn)?;
    Prepared::<Lock>::new()
        .bind::<BigInt, _>(orgs())
        .bind::<Text, _>(endpoints())
        .bind::<BigInt, _>(sequences())
        .execute(conn)?;
    Prepared::<Log>::new()
        .bind::<BigInt, _>(orgs())
        .bind::<Text, _>(endpoints())
        .bind::<BigInt, _>(sequences())
        .bind::<Timestamptz, _>(outcomes.iter().map(|one| one.at).collect::<Vec<_>>())
        .bind::<Nullable<SmallInt>, _>(outcomes.iter().map(|one| one.status).collect::<Vec<_>>())
        .bind::<Integer, _>(outcomes.iter().map(|one| one.duration_ms).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(outcomes.iter().map(|one| one.error.as_deref()).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(outcomes.iter().map(|one| one.excerpt.as_deref()).collect::<Vec<_>>())
        .execute(conn)?;
    Prepared::<Settle>::new()
        .bind::<BigInt, _>(orgs())
        .bind::<Text, _>(endpoints())
        .bind::<BigInt, _>(sequences())
        .bind::<Integer, _>(outcomes.iter().map(|one| one.failures_before).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(outcomes.iter().map(|one| end(one).0).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(outcomes.iter().map(|one| end(one).1).collect::<Vec<_>>())
        .execute(conn)?;
    Ok(())
}
