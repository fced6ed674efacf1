//! Sessions at the server: what `pg_stat_activity` says about them, and how to end one.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text};

/// Identifies a connection's session at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::db) struct Session {
    pub(in crate::db) pid: i32,
    /// When it began, in microseconds since 1970: the server uses a process number again.
    pub(in crate::db) started: i64,
}

/// A row of `pg_stat_activity`. For a session of another user PostgreSQL shows the process number only.
#[derive(QueryableByName)]
pub(super) struct SessionRow {
    #[diesel(sql_type = Integer)]
    pid: i32,
    #[diesel(sql_type = Nullable<BigInt>)]
    started: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<String>,
}

impl SessionRow {
    fn is(&self, session: Session) -> bool {
        self.pid == session.pid && self.started.is_none_or(|started| started == session.started)
    }
}

const SESSIONS: &str = "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint AS started, state \
    FROM pg_stat_activity";

/// The session of this connection itself.
pub(super) fn own(conn: &mut PgConnection) -> QueryResult<Session> {
    let row: SessionRow =
        diesel::sql_query(format!("{SESSIONS} WHERE pid = pg_backend_pid()")).get_result(conn)?;
    Ok(Session { pid: row.pid, started: row.started.unwrap_or_default() })
}

/// The rows whose process number is that of one of `wanted`.
pub(super) fn load(
    conn: &mut PgConnection,
    wanted: impl Iterator<Item = Session>,
) -> QueryResult<Vec<SessionRow>> {
    let pids: Vec<i32> = wanted.map(|session| session.pid).collect();
    diesel::sql_query(format!("{SESSIONS} WHERE pid = ANY ($1)")).bind::<Array<Integer>, _>(pids).load(conn)
}

/// Whether the server works on a statement of `session`; also true if the server does not show its state.
pub(super) fn is_working(rows: &[SessionRow], session: Session) -> bool {
    let is_busy = |row: &SessionRow| row.state.as_ref().is_none_or(|state| !state.starts_with("idle"));
    rows.iter().any(|row| row.is(session) && is_busy(row))
}

/// Ends a session at the server, if it still exists.
pub(in crate::db) fn terminate(conn: &mut PgConnection, session: Session) -> QueryResult<()> {
    diesel::sql_query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2",
    )
    .bind::<Integer, _>(session.pid)
    .bind::<BigInt, _>(session.started)
    .execute(conn)
    .map(drop)
}

/// Whether a session still exists.
pub(in crate::db) fn exists(conn: &mut PgConnection, session: Session) -> QueryResult<bool> {
    Ok(load(conn, std::iter::once(session))?.iter().any(|row| row.is(session)))
}
