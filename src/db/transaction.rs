//! Transactions, also those whose answer to COMMIT is lost.
//!
//! In that case nobody knows whether the transaction was committed, and it must not simply run again.
//! [`try_once`] returns [`TransactionError::OutcomeUnknown`] for it. [`was_committed`] finds the outcome: it
//! ends the old session at the server, if that still exists, and looks for something that the transaction
//! wrote.

use std::time::{Duration, Instant};

use diesel::connection::TransactionManager;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::R2D2Connection;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::Bool;

use super::watch::{self, Session, Silence};
use super::{Scope, prepare, restrict_to_scope, session_limits};
use crate::error::Error;

/// How long [`was_committed`] looks for the outcome.
const OUTCOME_TIMEOUT: Duration = Duration::from_secs(3);
/// Pause between two attempts to find it.
const OUTCOME_PAUSE: Duration = Duration::from_millis(50);
/// How often a transaction runs at most when it loses a race.
const MAX_RUNS: u32 = 3;

/// Why a transaction did not succeed for certain.
#[derive(Debug)]
pub enum TransactionError<T, E = Error> {
    /// It was not committed.
    Failed(E),
    /// The connection was lost during COMMIT. Has the value that the transaction returned.
    OutcomeUnknown(T, CommitSession),
}

impl<T> TransactionError<T> {
    /// The error for a caller that has no evidence to look for.
    pub fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::OutcomeUnknown(..) => Error::OutcomeUnknown,
        }
    }
}

/// The server's session of a transaction whose outcome is unknown.
#[derive(Clone, Copy, Debug)]
pub struct CommitSession(Option<Session>);

impl CommitSession {
    /// The session of this connection. For a single statement that commits itself: call it before that
    /// statement, because afterwards the connection may be lost.
    #[must_use]
    pub fn of_connection(conn: &mut PgConnection) -> Self {
        Self(watch::session(conn))
    }
}

/// Looks on another connection for something that the transaction wrote; `true` if it is there.
pub type Evidence<'a> = dyn Fn(&mut PgConnection) -> Result<bool, Error> + 'a;

/// Runs one transaction once, and distinguishes a lost commit from every other error.
///
/// # Errors
/// See [`TransactionError`].
pub fn try_once<T, E: From<DieselError>>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, TransactionError<T, E>> {
    type Manager = <PgConnection as Connection>::TransactionManager;
    let session = watch::session(conn);
    Manager::begin_transaction(conn).map_err(|error| TransactionError::Failed(error.into()))?;
    match work(conn) {
        Ok(value) => match Manager::commit_transaction(conn) {
            Ok(()) => Ok(value),
            // The server refused to commit: the transaction is rolled back.
            Err(error) if !conn.is_broken() => Err(TransactionError::Failed(error.into())),
            Err(error) => {
                tracing::warn!(%error, "the connection was lost while a transaction was being committed");
                Err(TransactionError::OutcomeUnknown(value, CommitSession(session)))
            }
        },
        Err(error) => match Manager::rollback_transaction(conn) {
            Ok(()) | Err(DieselError::BrokenTransactionManager) => Err(TransactionError::Failed(error)),
            Err(error) => Err(TransactionError::Failed(error.into())),
        },
    }
}

/// Runs one transaction once.
///
/// # Errors
/// The error of `work`, after a rollback; [`Error::OutcomeUnknown`] if the connection was lost during COMMIT.
pub fn run_once<T>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    try_once(conn, work).map_err(|error| as_connection_error(conn, error.into_error()))
}

/// Runs one transaction, up to three times if it loses a race for locks; never again if its outcome is
/// unknown.
///
/// # Errors
/// As [`run_once`].
pub fn run_with_retries<T>(
    conn: &mut PgConnection,
    work: impl Fn(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    try_with_retries(conn, work).map_err(TransactionError::into_error)
}

/// As [`run_with_retries`], but returns the value of a transaction whose outcome is unknown.
///
/// # Errors
/// See [`TransactionError`].
pub fn try_with_retries<T>(
    conn: &mut PgConnection,
    work: impl Fn(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, TransactionError<T>> {
    let mut runs = 1;
    loop {
        match try_once(conn, &work) {
            Err(TransactionError::Failed(error)) if runs < MAX_RUNS && error.is_lost_race() => runs += 1,
            Err(TransactionError::Failed(error)) => {
                return Err(TransactionError::Failed(as_connection_error(conn, error)));
            }
            result => return result,
        }
    }
}

/// Turns an error of a broken connection into a "connection closed" error, whatever the error's text is.
#[must_use]
pub fn as_connection_error(conn: &mut PgConnection, error: Error) -> Error {
    match error {
        Error::Database(_) if !error.is_disconnected() && conn.is_broken() => {
            let info = Box::new(error.to_string());
            DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, info).into()
        }
        error => error,
    }
}

/// Runs one transaction in `scope` on the caller's connection.
///
/// # Errors
/// As [`run_with_retries`].
pub fn run_in_scope<T>(
    conn: &mut PgConnection,
    scope: Scope,
    roles: bool,
    work: &dyn Fn(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    run_with_retries(conn, |conn| {
        restrict_to_scope(conn, scope, roles)?;
        work(conn)
    })
}

/// Runs one read-only transaction in `scope` over a single snapshot: several statements read the same state.
/// It is not retried.
///
/// # Errors
/// The error of `work`.
pub fn read_snapshot<T>(
    conn: &mut PgConnection,
    scope: Scope,
    roles: bool,
    work: impl FnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        restrict_to_scope(conn, scope, roles)?;
        work(conn)
    })
}

/// Finds out whether a transaction was committed. It first ends the old session: evidence that is missing
/// then cannot appear later.
///
/// # Errors
/// [`Error::OutcomeUnknown`] if the outcome cannot be found in time.
pub(super) fn was_committed(
    address: &str,
    roles: bool,
    CommitSession(session): CommitSession,
    evidence: &Evidence<'_>,
) -> Result<bool, Error> {
    let began = Instant::now();
    loop {
        match find_outcome(address, roles, session, evidence) {
            Ok(Some(committed)) => {
                tracing::info!(committed, "the outcome of a commit was found");
                return Ok(committed);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the outcome of a commit cannot be looked for"),
        }
        if began.elapsed() > OUTCOME_TIMEOUT {
            return Err(Error::OutcomeUnknown);
        }
        std::thread::sleep(OUTCOME_PAUSE);
    }
}

#[derive(QueryableByName)]
struct RecoveryRow {
    #[diesel(sql_type = Bool)]
    in_recovery: bool,
}

/// Whether the transaction was committed; `None` while that may still change.
fn find_outcome(
    address: &str,
    roles: bool,
    session: Option<Session>,
    evidence: &Evidence<'_>,
) -> Result<Option<bool>, Error> {
    let silence = Silence { limit: OUTCOME_TIMEOUT, ask_server: false };
    let conn = &mut watch::connect(address, silence)?;
    // A standby may not have received the commit yet.
    let row: RecoveryRow = diesel::sql_query("SELECT pg_is_in_recovery() AS in_recovery").get_result(conn)?;
    if row.in_recovery {
        return Ok(None);
    }
    let ended = match session {
        Some(session) => {
            watch::terminate(conn, session)?;
            !watch::exists(conn, session)?
        }
        None => false,
    };
    prepare(conn, session_limits::PROBES, roles)?;
    let found = evidence(conn)?;
    Ok((found || ended).then_some(found))
}
