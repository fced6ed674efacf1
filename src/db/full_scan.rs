//! Queries that read all rows, as `coulomb verify` needs them.

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;

use crate::error::Error;

/// Two workers, for both processors of a small machine. Memory that does not grow with the rows. Hash joins
/// only: where many rows have the same key, a nested loop or a merge join takes far too long.
const SETTINGS: &str = "SET LOCAL work_mem = '32MB';
    SET LOCAL hash_mem_multiplier = 2;
    SET LOCAL max_parallel_workers_per_gather = 2;
    SET LOCAL enable_nestloop = off;
    SET LOCAL enable_mergejoin = off;
    SET LOCAL jit = off";

/// Sets PostgreSQL's planner for full scans, until the transaction ends.
pub fn configure(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute(SETTINGS)
}

/// Runs `read` in a read-only transaction over one snapshot, with the planner set for full scans.
///
/// # Errors
/// The error of `read`.
pub fn in_snapshot<T>(
    conn: &mut PgConnection,
    read: impl FnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        configure(conn)?;
        read(conn)
    })
}
