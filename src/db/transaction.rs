//! Transactions, and what becomes of them when the answer to their COMMIT is lost.
//!
//! Then nobody knows whether it was done, and it may not simply be run again. [`committed`] tells this case
//! apart; [`decide`] finds out: it ends the old session at the server, if it is still there, and looks for
//! something that the transaction wrote.

use std::time::{Duration, Instant};

use diesel::connection::TransactionManager;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::R2D2Connection;
use diesel::result::{DatabaseErrorKind, Error as DieselError};
use diesel::sql_types::Bool;

use super::watch::{self, Patience, Session};
use super::{Scope, act_for};
use crate::error::Error;

/// How long is looked for the outcome of a commit.
const DECIDED_WITHIN: Duration = Duration::from_secs(3);
/// Between two looks.
const APART: Duration = Duration::from_millis(50);
/// Runs of a transaction that lost a race.
const RUNS: u32 = 3;

/// Why a transaction gave no value.
#[derive(Debug)]
pub enum Ended<T, E = Error> {
    /// Nothing of it was done.
    Failed(E),
    /// The connection was lost while it was being committed. It would have given this.
    Unsure(T, Lost),
}

impl<T> Ended<T> {
    /// What a caller is told who cannot find out.
    pub fn into_error(self) -> Error {
        match self {
            Self::Failed(error) => error,
            Self::Unsure(..) => Error::OutcomeUnknown,
        }
    }
}

/// The session of a transaction whose outcome is not known.
#[derive(Clone, Copy, Debug)]
pub struct Lost(Option<Session>);

impl Lost {
    /// For a statement that is a transaction of its own: asked before it is sent.
    #[must_use]
    pub fn with(conn: &mut PgConnection) -> Self {
        Self(watch::session(conn))
    }
}

/// Looks for what a transaction wrote, on another connection.
pub type Evidence<'a> = dyn Fn(&mut PgConnection) -> Result<bool, Error> + 'a;

/// One transaction, run once, that tells a lost commit from all else.
///
/// # Errors
/// See [`Ended`].
pub fn attempt<T, E: From<DieselError>>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, E>,
) -> Result<T, Ended<T, E>> {
    type Manager = <PgConnection as Connection>::TransactionManager;
    let session = watch::session(conn);
    Manager::begin_transaction(conn).map_err(|error| Ended::Failed(error.into()))?;
    match work(conn) {
        Ok(value) => match Manager::commit_transaction(conn) {
            Ok(()) => Ok(value),
            // The server refused: it is rolled back.
            Err(error) if !conn.is_broken() => Err(Ended::Failed(error.into())),
            Err(error) => {
                tracing::warn!(%error, "the connection was lost while a transaction was being committed");
                Err(Ended::Unsure(value, Lost(session)))
            }
        },
        Err(error) => match Manager::rollback_transaction(conn) {
            Ok(()) | Err(DieselError::BrokenTransactionManager) => Err(Ended::Failed(error)),
            Err(error) => Err(Ended::Failed(error.into())),
        },
    }
}

/// One transaction, run once.
///
/// # Errors
/// What `work` says, after a rollback; [`Error::OutcomeUnknown`] when the connection was lost while it was
/// being committed.
pub fn once<T>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    attempt(conn, work).map_err(|ended| told(conn, ended.into_error()))
}

/// One transaction, run again (at most three times) when it lost a race for locks; never when it is not known
/// whether it was committed.
///
/// # Errors
/// As [`once`].
pub fn retrying<T>(
    conn: &mut PgConnection,
    work: impl Fn(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    attempts(conn, work).map_err(Ended::into_error)
}

/// As [`retrying`], with the value of a transaction whose outcome is not known.
///
/// # Errors
/// See [`Ended`].
pub fn attempts<T>(
    conn: &mut PgConnection,
    work: impl Fn(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Ended<T>> {
    let mut runs = 1;
    loop {
        match attempt(conn, &work) {
            Err(Ended::Failed(error)) if runs < RUNS && error.is_lost_race() => runs += 1,
            Err(Ended::Failed(error)) => return Err(Ended::Failed(told(conn, error))),
            result => return result,
        }
    }
}

/// An error of a connection that is lost is told as one, whatever its words are.
#[must_use]
pub fn told(conn: &mut PgConnection, error: Error) -> Error {
    match error {
        Error::Database(_) if !error.is_disconnected() && conn.is_broken() => {
            let info = Box::new(error.to_string());
            DieselError::DatabaseError(DatabaseErrorKind::ClosedConnection, info).into()
        }
        error => error,
    }
}

/// One transaction in `scope` on a connection that the caller has.
///
/// # Errors
/// As [`retrying`].
pub fn scoped<T>(
    conn: &mut PgConnection,
    scope: Scope,
    roles: bool,
    work: &dyn Fn(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    retrying(conn, |conn| {
        act_for(conn, scope, roles)?;
        work(conn)
    })
}

/// One read-only transaction in `scope` over a single snapshot, for what takes many statements to read. It is
/// not run again.
///
/// # Errors
/// What `work` says.
pub fn snapshot<T>(
    conn: &mut PgConnection,
    scope: Scope,
    roles: bool,
    work: impl FnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        act_for(conn, scope, roles)?;
        work(conn)
    })
}

/// Finds out whether a transaction was committed. The old session is ended first, so that what is not there
/// will not come.
///
/// # Errors
/// [`Error::OutcomeUnknown`] when it cannot be found out in time.
pub(super) fn decide(
    address: &str,
    roles: bool,
    Lost(session): Lost,
    evidence: &Evidence<'_>,
) -> Result<bool, Error> {
    let begun = Instant::now();
    loop {
        match look(address, roles, session, evidence) {
            Ok(Some(committed)) => {
                tracing::info!(committed, "the outcome of a commit was found");
                return Ok(committed);
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "the outcome of a commit cannot be looked for"),
        }
        if begun.elapsed() > DECIDED_WITHIN {
            return Err(Error::OutcomeUnknown);
        }
        std::thread::sleep(APART);
    }
}

#[derive(QueryableByName)]
struct Standby {
    #[diesel(sql_type = Bool)]
    recovery: bool,
}

/// Whether it was committed; `None` while that may still change.
fn look(
    address: &str,
    roles: bool,
    session: Option<Session>,
    evidence: &Evidence<'_>,
) -> Result<Option<bool>, Error> {
    let patience = Patience { silence: DECIDED_WITHIN, asked: false };
    let conn = &mut watch::connect(address, patience)?;
    // A standby may not have been told of it yet.
    let standby: Standby = diesel::sql_query("SELECT pg_is_in_recovery() AS recovery").get_result(conn)?;
    if standby.recovery {
        return Ok(None);
    }
    let ended = match session {
        Some(session) => {
            watch::end(conn, session)?;
            !watch::is_there(conn, session)?
        }
        None => false,
    };
    super::prepare(conn, super::PROBES, roles)?;
    let found = evidence(conn)?;
    Ok((found || ended).then_some(found))
}
