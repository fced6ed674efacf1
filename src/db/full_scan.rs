//! A pass over many rows, as whoever checks everything makes it.

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;

use crate::error::Error;

/// On both of a small machine's processors, with memory that does not grow with the rows, and by hashing
/// alone. To look for the counterpart of each row, or to merge by a part of the key, takes for ever where
/// many rows are alike in it.
const SETTINGS: &str = "SET LOCAL work_mem = '32MB';
    SET LOCAL hash_mem_multiplier = 2;
    SET LOCAL max_parallel_workers_per_gather = 2;
    SET LOCAL enable_nestloop = off;
    SET LOCAL enable_mergejoin = off;
    SET LOCAL jit = off";

/// Has the rest of the transaction work so.
pub fn begin(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute(SETTINGS)
}

/// Looks, in a transaction that sees one state of the database and changes nothing.
///
/// # Errors
/// When the database or the look fails.
pub fn over<T>(
    conn: &mut PgConnection,
    look: impl FnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        begin(conn)?;
        look(conn)
    })
}
