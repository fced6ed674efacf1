//! Migrations of the schema. The binary contains them and runs them under an advisory lock.
//!
//! A database that a newer binary has migrated, or that has a migration with another text, is left alone.

mod data_loss;
mod error;
mod roles;
mod versions;

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Text};
use diesel_migrations::MigrationHarness;

pub use self::error::MigrateError;
pub use self::roles::are_usable as roles_are_usable;
use super::own_schema;

/// The number of the advisory lock; nobody else must use it. It is "coulomb" on the keys of a phone.
const LOCK: i64 = 2_685_662;
/// PostgreSQL 15, as `server_version_num` writes it.
const OLDEST_SERVER: i32 = 150_000;

/// What [`run`] did.
#[derive(Debug)]
pub struct Migrated {
    /// Versions that this run applied, oldest first.
    pub applied: Vec<String>,
    /// Whether the daemon's own roles exist, so that row-level security is in force. `false`: the server does
    /// not allow us to create them.
    pub roles: bool,
}

/// The database's schema, compared with this binary's.
#[derive(Debug, PartialEq, Eq)]
pub enum State {
    /// The database has no tables of Coulomb.
    Absent,
    /// These migrations are missing, oldest first.
    Behind(Vec<String>),
    Current,
}

/// Brings the schema to the state that this binary needs. Daemons that start at the same time wait for each
/// other.
///
/// # Errors
/// See [`MigrateError`]; the database is then as it was before.
pub fn run(conn: &mut PgConnection) -> Result<Migrated, MigrateError> {
    check_server(conn)?;
    locked(conn, |conn| {
        let applied = conn.transaction(|conn| {
            own_schema::create_or_move_in(conn)?;
            create_migration_tables(conn)?;
            let missing = versions::missing(&versions::applied(conn)?)?;
            let mut done = Vec::new();
            for migration in versions::embedded()? {
                let version = migration.name().version().to_string();
                if !missing.contains(&version) {
                    continue;
                }
                conn.run_migration(&migration).map_err(|error| MigrateError::Failed(error.to_string()))?;
                versions::record_applied(conn, &version)?;
                done.push(version);
            }
            Ok::<_, MigrateError>(done)
        })?;
        let roles = roles::create(conn, !applied.is_empty())?;
        Ok(Migrated { applied, roles })
    })
}

/// Compares the schema with this binary's. Changes nothing.
///
/// # Errors
/// As [`run`].
pub fn state(conn: &mut PgConnection) -> Result<State, MigrateError> {
    check_server(conn)?;
    let applied = versions::applied(conn)?;
    let missing = versions::missing(&applied)?;
    Ok(if applied.is_empty() {
        State::Absent
    } else if missing.is_empty() {
        State::Current
    } else {
        State::Behind(missing)
    })
}

/// The versions that [`run`] would apply. Changes nothing.
///
/// # Errors
/// As [`run`].
pub fn plan(conn: &mut PgConnection) -> Result<Vec<String>, MigrateError> {
    check_server(conn)?;
    versions::missing(&versions::applied(conn)?)
}

/// Reverts the newest `steps` migrations. If that destroys data, `destroy` must be the database's name.
///
/// # Errors
/// As [`run`].
pub fn revert(
    conn: &mut PgConnection,
    steps: usize,
    destroy: Option<&str>,
) -> Result<Vec<String>, MigrateError> {
    check_server(conn)?;
    let database = data_loss::database_name(conn)?;
    if let Some(given) = destroy.filter(|given| *given != database) {
        return Err(MigrateError::OtherDatabase { given: given.to_owned(), database });
    }
    let others = other_connections(conn)?;
    if others > 0 {
        return Err(MigrateError::InUse(others));
    }
    locked(conn, |conn| {
        let applied = versions::applied(conn)?;
        if steps > applied.len() {
            return Err(MigrateError::TooMany(applied.len()));
        }
        versions::missing(&applied)?;
        conn.transaction(|conn| {
            let lost = data_loss::preview(conn, |conn| revert_steps(conn, steps).map(drop))?;
            if !lost.is_empty() && destroy.is_none() {
                let lost = lost.join(", ");
                return Err(MigrateError::WouldDestroy { migrations: steps, lost, database });
            }
            revert_steps(conn, steps)
        })
    })
}

/// Counts the other connections to this database whose user may be a daemon or a command of Coulomb.
fn other_connections(conn: &mut PgConnection) -> QueryResult<i64> {
    diesel::select(diesel::dsl::sql::<BigInt>(
        "(SELECT count(*) FROM pg_stat_activity a
          WHERE a.datname = current_database() AND a.pid <> pg_backend_pid()
            AND (a.usename = session_user OR EXISTS (
                SELECT FROM pg_roles r
                WHERE r.rolname = 'coulomb_platform' AND pg_has_role(a.usesysid, r.oid, 'MEMBER'))))",
    ))
    .get_result(conn)
}

fn revert_steps(conn: &mut PgConnection, steps: usize) -> Result<Vec<String>, MigrateError> {
    // Policies connect tables of different migrations; the next migration creates them again.
    conn.batch_execute(roles::DROP_POLICIES)?;
    conn.batch_execute("COMMENT ON TABLE coulomb_migrations IS NULL")?;
    let mut reverted = Vec::new();
    for _ in 0..steps {
        let version = conn
            .revert_last_migration(versions::MIGRATIONS)
            .map_err(|error| MigrateError::Failed(error.to_string()))?
            .to_string();
        diesel::sql_query("DELETE FROM coulomb_migrations WHERE version = $1")
            .bind::<Text, _>(&version)
            .execute(conn)?;
        reverted.push(version);
    }
    let left: Vec<String> = versions::applied(conn)?.into_iter().map(|row| row.version).collect();
    own_schema::move_out_if_old(conn, &left)?;
    Ok(reverted)
}

fn locked<T>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, MigrateError>,
) -> Result<T, MigrateError> {
    diesel::sql_query(format!("SELECT pg_advisory_lock({LOCK})")).execute(conn)?;
    let result = work(conn);
    diesel::sql_query(format!("SELECT pg_advisory_unlock({LOCK})")).execute(conn)?;
    result
}

#[derive(QueryableByName)]
struct ServerRow {
    #[diesel(sql_type = Integer)]
    number: i32,
    #[diesel(sql_type = Text)]
    version: String,
    #[diesel(sql_type = Bool)]
    standby: bool,
    #[diesel(sql_type = Bool)]
    read_only: bool,
}

/// Checks that the server is new enough and accepts writes.
fn check_server(conn: &mut PgConnection) -> Result<(), MigrateError> {
    let server: ServerRow = diesel::sql_query(
        "SELECT current_setting('server_version_num')::int AS number,
             current_setting('server_version') AS version,
             pg_is_in_recovery() AS standby,
             current_setting('transaction_read_only')::bool AS read_only",
    )
    .get_result(conn)?;
    if server.number < OLDEST_SERVER {
        return Err(MigrateError::OldServer(server.version));
    }
    match (server.standby, server.read_only) {
        (true, _) => Err(MigrateError::ReadOnly("a standby server")),
        (_, true) => Err(MigrateError::ReadOnly("a database that is read-only")),
        _ => Ok(()),
    }
}

/// Creates the two tables that list migrations, ours and diesel's, where they are missing.
fn create_migration_tables(conn: &mut PgConnection) -> Result<(), MigrateError> {
    conn.batch_execute("SET LOCAL client_min_messages = warning")?;
    conn.batch_execute(
        "CREATE TABLE IF NOT EXISTS coulomb_migrations (version text PRIMARY KEY, sha256 text NOT NULL)",
    )?;
    // This query makes diesel create its own table.
    conn.applied_migrations().map_err(|error| MigrateError::Failed(error.to_string()))?;
    Ok(())
}
