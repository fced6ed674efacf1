//! The connection of a batcher's thread.

use diesel::pg::PgConnection;

use crate::db::Db;
use crate::error::Error;
use crate::panics;

/// A connection that is opened when it is first needed, and again after it was lost.
pub struct Session {
    db: Db,
    conn: Option<PgConnection>,
}

impl Session {
    pub(super) fn new(db: Db) -> Self {
        Self { db, conn: None }
    }

    /// The database, for whoever needs a second connection.
    #[must_use]
    pub fn db(&self) -> &Db {
        &self.db
    }

    /// The connection; opens one when there is none.
    ///
    /// # Errors
    /// When the database cannot be reached.
    pub fn connection(&mut self) -> Result<&mut PgConnection, Error> {
        match &mut self.conn {
            Some(conn) => Ok(conn),
            none => Ok(none.insert(self.db.connect_serving_thread()?)),
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.conn.is_some()
    }

    /// Drops the connection: it was lost, or it may be inside a transaction.
    pub fn close(&mut self) {
        self.conn = None;
    }

    /// Runs `work`. A panic becomes an error and closes the connection: its state is unknown then.
    ///
    /// # Errors
    /// Those of `work`, or [`Error::Panicked`].
    pub fn guarded<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T, Error>) -> Result<T, Error> {
        let result = panics::catch_as_error(|| work(self));
        if result.as_ref().is_err_and(Error::is_panic) {
            self.close();
        }
        result
    }
}
