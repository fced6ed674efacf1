//! Where our tables are: in a schema of their own, so that a database may be shared with other programs.
//!
//! Every session looks there alone, after its temporary tables. Installations that began before the schema
//! existed have their tables in `public` until the next [`super::migrate::run`] moves them; after a revert
//! to such a state they are put back.

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::migrate::MigrateError;

/// Sends a session to our tables.
pub(super) const SEARCH_PATH: &str = "SET search_path = coulomb;";
/// The newest migration that was released for `public`.
const LAST_IN_PUBLIC: &str = "20261121001500";
const MOVE_IN: &str = include_str!("move_in.sql");
const MOVE_OUT: &str = include_str!("move_out.sql");

#[derive(QueryableByName)]
struct There {
    #[diesel(sql_type = Bool)]
    own: bool,
    #[diesel(sql_type = Bool)]
    public: bool,
    #[diesel(sql_type = Bool)]
    partitions: bool,
}

/// What of ours the database has. Tables that others keep in a schema of the same name do not count.
fn look(conn: &mut PgConnection) -> QueryResult<There> {
    diesel::sql_query(
        "SELECT count(*) FILTER (WHERE nspname = 'coulomb') > 0 AS own,
             count(*) FILTER (WHERE nspname = 'public') > 0 AS public,
             (SELECT count(*) > 0 FROM pg_namespace WHERE nspname = 'usage_partitions') AS partitions
         FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
         WHERE relname = 'coulomb_migrations' AND relkind = 'r'",
    )
    .get_result(conn)
}

/// Sends the session to where our tables are; whether there are any. Changes nothing.
pub(super) fn find(conn: &mut PgConnection) -> QueryResult<bool> {
    let there = look(conn)?;
    let in_public = there.public && !there.own;
    conn.batch_execute(if in_public { "SET search_path = public;" } else { SEARCH_PATH })?;
    Ok(there.own || there.public)
}

/// As [`find`], but makes the schema where it is lacking, and moves our tables into it where they are in
/// `public`.
pub(super) fn make(conn: &mut PgConnection) -> Result<(), MigrateError> {
    let there = look(conn)?;
    if !there.own && !there.public && there.partitions {
        return Err(MigrateError::Foreign("usage_partitions"));
    }
    if !there.own {
        conn.batch_execute(if there.public { MOVE_IN } else { "CREATE SCHEMA IF NOT EXISTS coulomb" })
            .map_err(|error| MigrateError::Failed(error.to_string()))?;
    }
    Ok(conn.batch_execute(SEARCH_PATH)?)
}

/// Puts our tables back into `public` if only migrations from then are left: a binary from then looks for
/// them there.
pub(super) fn leave(conn: &mut PgConnection, left: &[String]) -> Result<(), MigrateError> {
    let from_then = left.last().is_some_and(|newest| newest.as_str() <= LAST_IN_PUBLIC);
    if !from_then || !look(conn)?.own {
        return Ok(());
    }
    conn.batch_execute(MOVE_OUT).map_err(|error| MigrateError::Failed(error.to_string()))?;
    Ok(conn.batch_execute("SET search_path = public")?)
}
