//! The database: connections, transactions, migrations, and the embedded server.

mod address;
pub mod embedded;
pub mod full_scan;
pub mod migrate;
mod own_schema;
mod pool;
pub mod prepared;
mod session_limits;
mod socket;
pub mod temporary_tables;
mod transaction;
mod watch;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;

pub use self::pool::{Db, DbOptions, WithEvidence};
use self::session_limits::SessionLimits;
pub use self::transaction::{
    CommitSession, Evidence, TransactionError, as_connection_error, read_snapshot, run_in_scope, run_once,
    run_with_retries, try_once, try_with_retries,
};
use self::watch::Silence;
pub use self::watch::{close_connections, disk_was_full_lately};
use crate::error::Error;

/// On whose behalf a transaction runs. Row-level security enforces it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The platform, which sees every org.
    Platform,
    /// One org, by its number.
    Org(i64),
}

/// Restricts the rest of the transaction to `scope`. Without `roles` it does nothing.
fn restrict_to_scope(conn: &mut PgConnection, scope: Scope, roles: bool) -> QueryResult<()> {
    match (scope, roles) {
        (Scope::Org(org_id), true) => {
            conn.batch_execute(&format!("SET LOCAL ROLE coulomb_org; SET LOCAL coulomb.org_id = '{org_id}'"))
        }
        _ => Ok(()),
    }
}

/// Connects for a command: without a statement timeout, as the platform's role where roles are in force.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub fn connect_as_command(url: &str, roles: bool) -> Result<PgConnection, Error> {
    connect(url, roles, session_limits::COMMANDS)
}

/// Connects as the user in the URL, and looks for tables in our schema.
///
/// # Errors
/// The server cannot be reached, or refuses.
pub fn connect_as_login(url: &str) -> Result<PgConnection, Error> {
    let mut conn = watch::connect(url, Silence::UNLIMITED)?;
    conn.batch_execute(own_schema::SEARCH_PATH)?;
    Ok(conn)
}

fn connect(url: &str, roles: bool, limits: SessionLimits) -> Result<PgConnection, Error> {
    let mut conn = watch::connect(url, limits.silence)?;
    prepare(&mut conn, limits, roles)?;
    Ok(conn)
}

/// The time of the server's clock.
pub fn server_time(conn: &mut PgConnection) -> QueryResult<DateTime<Utc>> {
    diesel::select(diesel::dsl::sql::<diesel::sql_types::Timestamptz>("clock_timestamp()")).get_result(conn)
}

/// Makes the session independent of the server's settings. `jit` is off because row-level security makes
/// PostgreSQL's cost estimates so high that it would compile a statement of 1 ms for half a second.
fn prepare(conn: &mut PgConnection, limits: SessionLimits, roles: bool) -> QueryResult<()> {
    let role = if roles { "SET ROLE coulomb_platform;" } else { "" };
    conn.batch_execute(&format!(
        "{} SET TIME ZONE 'UTC'; SET synchronous_commit = on; SET jit = off;
         SET statement_timeout = {}; SET lock_timeout = {};
         {SERVER_KEEPALIVE} {role}",
        own_schema::SEARCH_PATH,
        limits.statement.as_millis(),
        limits.lock.as_millis()
    ))
}

/// Lets the server notice when the daemon's host is gone: the session may hold locks.
const SERVER_KEEPALIVE: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;
    SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000;";

/// Process number and start (microseconds since 1970) of the server's session behind this connection, as
/// `pg_stat_activity` shows them.
#[must_use]
pub fn session_numbers(conn: &mut PgConnection) -> Option<(i32, i64)> {
    watch::session(conn).map(|session| (session.pid, session.started))
}
