//! Deliveries that Stripe has an answer for, but that are not in the inbox yet. Owns `stripe_arrivals`.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{
    Array, BigInt, Binary, Bool, Integer, Nullable, SmallInt, Text, Timestamptz, Untyped,
};

use super::Delivery;
use crate::backoff;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::panics;

/// The deliveries of one commit.
#[derive(Debug)]
pub struct Arrival {
    pub arrival_id: i64,
    /// Failed attempts to file it.
    pub attempts: i16,
    /// In the order in which they arrived.
    pub deliveries: Vec<Delivery>,
}

type ArrivalRow = (i64, i16, Vec<DateTime<Utc>>, Vec<String>, Vec<Option<String>>, Vec<Vec<u8>>);
type RowTypes = (BigInt, SmallInt, Array<Timestamptz>, Array<Text>, Array<Nullable<Text>>, Array<Binary>);

statement!(Land -> Untyped: "INSERT INTO stripe_arrivals (deliveries, received_at, signatures, user_agents, \
    bodies, attempts, next_attempt_at, last_error) \
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)");
// How many arrivals make up the wanted number of deliveries? The statement assumes that each arrival has as
// many as the largest of the next 64.
statement!(Take -> RowTypes: "DELETE FROM stripe_arrivals WHERE arrival_id = ANY (ARRAY (
    SELECT arrival_id FROM stripe_arrivals
    WHERE next_attempt_at IS NULL OR next_attempt_at <= ?
    ORDER BY arrival_id
    LIMIT (SELECT greatest(1, ? / greatest(1, max(deliveries)))
        FROM (SELECT deliveries FROM stripe_arrivals ORDER BY arrival_id LIMIT 64) AS next)
    FOR UPDATE SKIP LOCKED))
    RETURNING arrival_id, attempts, received_at, signatures, user_agents, bodies");
statement!(TakeThese -> RowTypes: "DELETE FROM stripe_arrivals WHERE arrival_id = ANY (ARRAY (
    SELECT arrival_id FROM stripe_arrivals
    WHERE arrival_id = ANY (?)
    ORDER BY arrival_id
    FOR UPDATE SKIP LOCKED))
    RETURNING arrival_id, attempts, received_at, signatures, user_agents, bodies");

/// Stores deliveries in one row. They are durable when it returns, unless the caller has a transaction open.
///
/// # Errors
/// When the database fails: they may or may not be stored, and the caller may try again.
pub fn land(conn: &mut PgConnection, deliveries: &[Delivery]) -> QueryResult<()> {
    land_after(conn, deliveries, FilingFailure::default())
}

#[derive(QueryableByName)]
struct IsThere {
    #[diesel(sql_type = Bool)]
    there: bool,
}

/// Whether an arrival begins with exactly this delivery.
pub(super) fn is_there(conn: &mut PgConnection, delivery: &Delivery) -> QueryResult<bool> {
    diesel::sql_query(
        "SELECT EXISTS (SELECT FROM stripe_arrivals
             WHERE received_at[1] = $1 AND signatures[1] = $2) AS there",
    )
    .bind::<Timestamptz, _>(delivery.received_at)
    .bind::<Text, _>(&delivery.signature)
    .get_result::<IsThere>(conn)
    .map(|found| found.there)
}

/// What we know of failed attempts to file a delivery.
#[derive(Default)]
struct FilingFailure {
    attempts: i16,
    next_attempt_at: Option<DateTime<Utc>>,
    last_error: Option<String>,
}

fn land_after(conn: &mut PgConnection, deliveries: &[Delivery], failure: FilingFailure) -> QueryResult<()> {
    deliveries.iter().for_each(|one| panics::panic_if_test_asks("inbox-writer", || &*one.body));
    let count = i32::try_from(deliveries.len()).expect("a batch is small");
    Prepared::<Land>::new()
        .bind_one::<Integer, _>(count)
        .bind::<Timestamptz, _>(deliveries.iter().map(|one| one.received_at).collect())
        .bind::<Text, _>(deliveries.iter().map(|one| &*one.signature).collect())
        .bind::<Nullable<Text>, _>(deliveries.iter().map(|one| one.user_agent.as_deref()).collect())
        .bind::<Binary, _>(deliveries.iter().map(|one| &*one.body).collect())
        .bind_one::<SmallInt, _>(failure.attempts)
        .bind_one::<Nullable<Timestamptz>, _>(failure.next_attempt_at)
        .bind_one::<Nullable<Text>, _>(failure.last_error)
        .execute(conn)
        .map(drop)
}

/// Takes the oldest arrivals that no other transaction has locked, with about `deliveries` deliveries. It
/// takes one arrival at least, if there is any. The caller's commit deletes them.
pub fn take(conn: &mut PgConnection, deliveries: u32, now: DateTime<Utc>) -> QueryResult<Vec<Arrival>> {
    let rows = Prepared::<Take>::new()
        .bind_one::<Timestamptz, _>(now)
        .bind_one::<BigInt, _>(i64::from(deliveries))
        .load::<ArrivalRow>(conn)?;
    Ok(arrivals(rows))
}

/// Takes these arrivals, without those that another transaction has locked.
pub fn take_these(conn: &mut PgConnection, ids: &[i64]) -> QueryResult<Vec<Arrival>> {
    Ok(arrivals(Prepared::<TakeThese>::new().bind::<BigInt, _>(ids.to_vec()).load::<ArrivalRow>(conn)?))
}

fn arrivals(mut rows: Vec<ArrivalRow>) -> Vec<Arrival> {
    rows.sort_unstable_by_key(|row| row.0);
    rows.into_iter()
        .map(|(arrival_id, attempts, received_at, signatures, user_agents, bodies)| {
            let each = received_at.into_iter().zip(signatures).zip(user_agents).zip(bodies);
            let deliveries = each.map(|(((received_at, signature), user_agent), body)| Delivery {
                signature,
                user_agent,
                received_at,
                body: body.into(),
            });
            Arrival { arrival_id, attempts, deliveries: deliveries.collect() }
        })
        .collect()
}

/// Puts back an arrival that could not be filed. If it has several deliveries, each becomes an arrival of its
/// own, so that only the faulty one waits. A single delivery waits as long as [`backoff::wait`] says.
pub fn set_aside(
    conn: &mut PgConnection,
    arrival_id: i64,
    error: &Error,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    conn.transaction(|conn| {
        for Arrival { attempts, deliveries, .. } in take_these(conn, &[arrival_id])? {
            if let [_] = deliveries.as_slice() {
                tracing::error!(arrival_id, attempts, %error, "a delivery of Stripe could not be put into \
                    the inbox");
                let failure = FilingFailure {
                    attempts: attempts.saturating_add(1),
                    next_attempt_at: Some(now + backoff::wait(attempts)),
                    last_error: Some(crate::text::replace_nul(&error.to_string())),
                };
                land_after(conn, &deliveries, failure)?;
                continue;
            }
            for one in deliveries {
                land(conn, &[one])?;
            }
        }
        Ok(())
    })
}
