//! Assigns committed messages to the endpoints that want them. Owns `message_counter`.
//!
//! One dispatcher at a time, of any number of daemons: it holds the lock of the counter. So positions of
//! messages and numbers of deliveries become visible in their order, and none is left out.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Untyped};

use super::deliveries::{self, NewDelivery};
use super::endpoints::{self, Wanting};
use super::kinds;
use super::lanes::{self, LaneKey};
use crate::auth::PLATFORM;
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::schema::{message_counter, outbox_messages};

/// Messages that are assigned in one transaction.
const BATCH: i64 = 2000;

statement!(TakeNew -> (BigInt, Text, Text, Nullable<Text>):
    "SELECT org_id, message_id, type,
            CASE WHEN type = 'endpoint.test' THEN payload ->> 'endpoint' END
     FROM outbox_messages WHERE position IS NULL ORDER BY message_id LIMIT ?");

statement!(Mark -> Untyped:
    "UPDATE outbox_messages m SET position = n.position
     FROM unnest(?, ?, ?) AS n (org_id, message_id, position)
     WHERE (m.org_id, m.message_id) = (n.org_id, n.message_id)");

/// A message that is not yet assigned.
struct NewOne {
    org_id: i64,
    id: String,
    kind: String,
    /// The only endpoint that gets it.
    only: Option<String>,
}

impl NewOne {
    fn is_wanted_by(&self, (org_id, endpoint, wanted): &Wanting) -> bool {
        let of_org = *org_id == PLATFORM || *org_id == self.org_id;
        match &self.only {
            Some(only) => only == endpoint,
            None => of_org && kinds::is_wanted(&self.kind, wanted.iter().flatten()),
        }
    }
}

/// Assigns a batch of messages, in the caller's transaction. Returns how many; 0 also while another daemon
/// does it.
pub fn assign(conn: &mut PgConnection, now: DateTime<Utc>) -> Result<usize, Error> {
    // Mostly nothing is new. Then no row is locked, for that would be written.
    let is_new = outbox_messages::table.filter(outbox_messages::position.is_null());
    if !diesel::select(diesel::dsl::exists(is_new)).get_result::<bool>(conn)? {
        return Ok(0);
    }
    // The first dispatcher makes the row.
    diesel::insert_into(message_counter::table)
        .values((message_counter::only_row.eq(true), message_counter::last_position.eq(0)))
        .on_conflict_do_nothing()
        .execute(conn)?;
    let counter = message_counter::table.select(message_counter::last_position);
    let last: Option<i64> = counter.for_update().skip_locked().first(conn).optional()?;
    let Some(last) = last else { return Ok(0) };
    let new: Vec<(i64, String, String, Option<String>)> =
        Prepared::<TakeNew>::new().bind_one::<BigInt, _>(BATCH).load(conn)?;
    let new: Vec<NewOne> =
        new.into_iter().map(|(org_id, id, kind, only)| NewOne { org_id, id, kind, only }).collect();
    if new.is_empty() {
        return Ok(0);
    }
    let mut orgs: Vec<i64> = new.iter().map(|message| message.org_id).chain([PLATFORM]).collect();
    orgs.sort_unstable();
    orgs.dedup();
    let wanting = endpoints::wanting(conn, &orgs)?;
    deliver(conn, &new, &wanting, now)?;
    let positions = (last + 1..).take(new.len());
    Prepared::<Mark>::new()
        .bind::<BigInt, _>(new.iter().map(|message| message.org_id).collect::<Vec<_>>())
        .bind::<Text, _>(new.iter().map(|message| message.id.as_str()).collect::<Vec<_>>())
        .bind::<BigInt, _>(positions.collect::<Vec<_>>())
        .execute(conn)?;
    let reached = last + i64::try_from(new.len()).unwrap_or(i64::MAX);
    diesel::update(message_counter::table).set(message_counter::last_position.eq(reached)).execute(conn)?;
    Ok(new.len())
}

/// Gives each endpoint a delivery for each message that it wants, numbered in the order of the messages.
fn deliver(
    conn: &mut PgConnection,
    new: &[NewOne],
    wanting: &[Wanting],
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let mut wanted: BTreeMap<LaneKey, Vec<&NewOne>> = BTreeMap::new();
    for endpoint in wanting {
        let of_endpoint: Vec<_> = new.iter().filter(|message| message.is_wanted_by(endpoint)).collect();
        if !of_endpoint.is_empty() {
            wanted.insert((endpoint.0, endpoint.1.clone()), of_endpoint);
        }
    }
    let counts: Vec<(LaneKey, i64)> =
        wanted.iter().map(|(lane, messages)| (lane.clone(), len(messages))).collect();
    let numbered = lanes::number(conn, &counts, now)?;
    let mut rows = Vec::new();
    for (lane, last) in &numbered {
        let messages = &wanted[lane];
        let first = last - len(messages) + 1;
        rows.extend(messages.iter().zip(first..).map(|(message, sequence)| NewDelivery {
            org_id: lane.0,
            endpoint: &lane.1,
            sequence,
            message_org_id: message.org_id,
            message: &message.id,
        }));
    }
    deliveries::insert(conn, &rows, now)?;
    Ok(())
}

fn len<T>(list: &[T]) -> i64 {
    i64::try_from(list.len()).unwrap_or(i64::MAX)
}
