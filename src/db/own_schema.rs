//! The schema `coulomb`, which has all of Coulomb's tables, so that other programs can share the database.
//!
//! Every session looks for tables in this schema only, after its temporary tables. Old installations have
//! their tables in `public`: the next [`super::migrate::run`] moves them. A revert to such an old state
//! moves them back.

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Bool;

use super::migrate::MigrateError;

/// SQL that makes a session look for tables in our schema.
pub(super) const SEARCH_PATH: &str = "SET search_path = coulomb;";
/// The newest migration that was released when the tables were still in `public`.
const LAST_IN_PUBLIC: &str = "20261121001500";
const MOVE_IN: &str = include_str!("move_in.sql");
const MOVE_OUT: &str = include_str!("move_out.sql");

/// Where the database has tables of Coulomb.
#[derive(QueryableByName)]
struct TablePlaces {
    #[diesel(sql_type = Bool)]
    own_schema: bool,
    #[diesel(sql_type = Bool)]
    public: bool,
    /// Whether a schema `usage_partitions` exists, ours or another program's.
    #[diesel(sql_type = Bool)]
    partitions: bool,
}

/// Looks for the table `coulomb_migrations`. Other tables in a schema of the same name do not count.
fn table_places(conn: &mut PgConnection) -> QueryResult<TablePlaces> {
    diesel::sql_query(
        "SELECT count(*) FILTER (WHERE nspname = 'coulomb') > 0 AS own_schema,
             count(*) FILTER (WHERE nspname = 'public') > 0 AS public,
             (SELECT count(*) > 0 FROM pg_namespace WHERE nspname = 'usage_partitions') AS partitions
         FROM pg_class JOIN pg_namespace n ON n.oid = relnamespace
         WHERE relname = 'coulomb_migrations' AND relkind = 'r'",
    )
    .get_result(conn)
}

/// Makes the session look where our tables are; returns whether there are any. Changes no schema.
pub(super) fn select(conn: &mut PgConnection) -> QueryResult<bool> {
    let places = table_places(conn)?;
    let in_public = places.public && !places.own_schema;
    conn.batch_execute(if in_public { "SET search_path = public;" } else { SEARCH_PATH })?;
    Ok(places.own_schema || places.public)
}

/// Creates the schema if it is missing, moves our tables from `public` into it, and makes the session look
/// there.
pub(super) fn create_or_move_in(conn: &mut PgConnection) -> Result<(), MigrateError> {
    let places = table_places(conn)?;
    if !places.own_schema && !places.public && places.partitions {
        return Err(MigrateError::Foreign("usage_partitions"));
    }
    if !places.own_schema {
        conn.batch_execute(if places.public { MOVE_IN } else { "CREATE SCHEMA IF NOT EXISTS coulomb" })
            .map_err(|error| MigrateError::Failed(error.to_string()))?;
    }
    Ok(conn.batch_execute(SEARCH_PATH)?)
}

/// Moves our tables back into `public` if all migrations in `applied` are that old: a binary of that time
/// looks for the tables there.
pub(super) fn move_out_if_old(conn: &mut PgConnection, applied: &[String]) -> Result<(), MigrateError> {
    let is_old = applied.last().is_some_and(|newest| newest.as_str() <= LAST_IN_PUBLIC);
    if !is_old || !table_places(conn)?.own_schema {
        return Ok(());
    }
    conn.batch_execute(MOVE_OUT).map_err(|error| MigrateError::Failed(error.to_string()))?;
    Ok(conn.batch_execute("SET search_path = public")?)
}
