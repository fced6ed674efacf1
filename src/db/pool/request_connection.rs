//! The connection of a request, which is replaced when it is lost.

use std::time::Instant;

use diesel::pg::PgConnection;
use diesel::r2d2::{HandleError, ManageConnection, Pool, PooledConnection, R2D2Connection};

use super::{AWAY, CONNECTION_TIMEOUT};
use crate::db::connect;
use crate::db::session_limits::SessionLimits;
use crate::db::transaction::TransactionError;
use crate::error::Error;

/// A connection of the pool, for one request. The request may lose it and then gets another one.
pub(super) struct RequestConnection {
    pool: Pool<ConnectionManager>,
    conn: Option<PooledConnection<ConnectionManager>>,
    began: Instant,
}

impl RequestConnection {
    pub(super) fn new(pool: Pool<ConnectionManager>) -> Self {
        Self { pool, conn: None, began: Instant::now() }
    }

    /// Takes a connection from the pool.
    pub(super) fn connect(&mut self) -> Result<(), Error> {
        let conn = self.pool.get().map_err(|error| {
            tracing::warn!(%error, "no database connection");
            AWAY
        })?;
        self.conn = Some(conn);
        Ok(())
    }

    pub(super) fn get(&mut self) -> Result<&mut PgConnection, Error> {
        if self.conn.is_none() {
            self.connect()?;
        }
        self.conn.as_deref_mut().ok_or(AWAY)
    }

    /// Whether the request has looked for a working connection long enough.
    pub(super) fn is_out_of_time(&self) -> bool {
        self.began.elapsed() > CONNECTION_TIMEOUT
    }

    /// Runs `work`; again on another connection if it loses its own, until the request is out of time.
    pub(super) fn run_and_reconnect<T>(
        &mut self,
        work: impl Fn(&mut PgConnection) -> Result<T, TransactionError<T>>,
    ) -> Result<T, TransactionError<T>> {
        loop {
            let conn = self.get().map_err(TransactionError::Failed)?;
            let result = work(conn);
            if conn.is_broken() {
                self.conn = None;
            }
            match result {
                Err(TransactionError::Failed(error))
                    if self.conn.is_none()
                        && error.is_disconnected()
                        && self.began.elapsed() < CONNECTION_TIMEOUT => {}
                result => return result,
            }
        }
    }
}

/// Makes and checks the pool's connections.
#[derive(Debug)]
pub(super) struct ConnectionManager {
    pub(super) url: String,
    pub(super) limits: SessionLimits,
    pub(super) roles: bool,
}

impl ManageConnection for ConnectionManager {
    type Connection = PgConnection;
    type Error = Error;

    fn connect(&self) -> Result<PgConnection, Error> {
        connect(&self.url, self.roles, self.limits)
    }

    fn is_valid(&self, conn: &mut PgConnection) -> Result<(), Error> {
        Ok(conn.ping()?)
    }

    fn has_broken(&self, conn: &mut PgConnection) -> bool {
        std::thread::panicking() || conn.is_broken()
    }
}

/// Logs why the pool has no connection.
#[derive(Debug)]
pub(super) struct LogConnectionErrors;

impl HandleError<Error> for LogConnectionErrors {
    fn handle_error(&self, error: Error) {
        tracing::warn!(%error, "the database cannot be reached");
    }
}
