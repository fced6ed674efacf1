//! A connection that works apart: what it writes is in temporary tables, which nobody else sees. So it locks
//! no names that others lock, and tells nobody of what has changed. Statements that do either ask whether it
//! is so ([`together`]).

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;

/// SQL: whether the connection works on what others see.
macro_rules! together {
    () => {
        "current_setting('coulomb.apart', true) IS DISTINCT FROM 'on'"
    };
}
pub(crate) use together;

/// From now on the connection works apart.
pub fn begin(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute("SET coulomb.apart = 'on'")
}

/// From now on it does not.
pub fn end(conn: &mut PgConnection) -> QueryResult<()> {
    conn.batch_execute("RESET coulomb.apart")
}
