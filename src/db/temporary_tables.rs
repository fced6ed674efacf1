//! A connection that computes in temporary tables, which nobody else sees.
//!
//! Such a connection must not lock names that others lock, nor notify anybody of its changes. SQL that locks
//! or notifies asks [`on_shared_tables`] first.

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;

/// SQL: true unless the connection works in temporary tables.
macro_rules! on_shared_tables {
    () => {
        "current_setting('coulomb.temporary_tables', true) IS DISTINCT FROM 'on'"
    };
}
pub(crate) use on_shared_tables;

/// Marks the connection: it works in temporary tables from now on.
pub fn begin(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute("SET coulomb.temporary_tables = 'on'")
}

/// Takes the mark of [`begin`] away.
pub fn end(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute("RESET coulomb.temporary_tables")
}
