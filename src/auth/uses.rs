//! When keys were used, written in batches.

use std::collections::HashSet;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Text, Timestamptz};

use crate::error::Error;

/// A key's row is written once in this time at most, by all daemons together.
const WRITTEN_EVERY: TimeDelta = TimeDelta::minutes(1);

/// Writes when keys were used last: org, id and time of each. A row that was written less than a minute ago
/// waits, unless `all`. Returns the ids of the keys that were written.
///
/// # Errors
/// The database fails.
pub fn write(
    conn: &mut PgConnection,
    uses: &[(i64, String, DateTime<Utc>)],
    now: DateTime<Utc>,
    all: bool,
) -> Result<HashSet<String>, Error> {
    #[derive(QueryableByName)]
    struct Written {
        #[diesel(sql_type = Text)]
        key_id: String,
    }
    if uses.is_empty() {
        return Ok(HashSet::new());
    }
    let before = if all { now + TimeDelta::days(1) } else { now - WRITTEN_EVERY };
    // Rows are locked in the order of their key, so that daemons do not wait for each other in a circle. One
    // that another daemon writes now is left to it.
    let sql = "WITH due AS (
            SELECT k.org_id, k.key_id, u.at FROM api_keys k
            JOIN unnest($1, $2, $3) AS u (org_id, key_id, at) USING (org_id, key_id)
            WHERE k.last_used_at IS NULL OR (k.last_used_at < u.at AND k.last_used_at < $4)
            ORDER BY k.org_id, k.key_id FOR UPDATE OF k SKIP LOCKED
        )
        UPDATE api_keys k SET last_used_at = due.at FROM due
        WHERE (k.org_id, k.key_id) = (due.org_id, due.key_id) RETURNING k.key_id";
    let written: Vec<Written> = diesel::sql_query(sql)
        .bind::<Array<BigInt>, _>(uses.iter().map(|(org_id, ..)| *org_id).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(uses.iter().map(|(_, id, _)| id).collect::<Vec<_>>())
        .bind::<Array<Timestamptz>, _>(uses.iter().map(|(.., at)| *at).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(before)
        .load(conn)?;
    Ok(written.into_iter().map(|row| row.key_id).collect())
}
