//! The database for API requests: a bounded pool of connections and a bounded wait for one.

mod request_connection;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use diesel::pg::PgConnection;
use diesel::r2d2::Pool;
use tokio::sync::Semaphore;

use self::request_connection::{ConnectionManager, LogConnectionErrors, RequestConnection};
use super::session_limits::{EXPORTS, PROBES, SERVING_STATEMENT, SessionLimits, WORKERS};
use super::transaction::{self, CommitSession, Evidence, TransactionError, try_with_retries};
use super::watch::Silence;
use super::{Scope, connect, restrict_to_scope};
use crate::error::Error;
use crate::shares::{Holder, Turns};

const BUSY: Error = Error::Busy(
    "no database connection is free in time, or the database does not answer: try again in a second",
);
const AWAY: Error = Error::Busy("the database is away for the moment: try again in a second");
const UNANSWERED: Error = Error::Busy("the database does not answer");

/// How long a request looks for a connection that works.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(3);

/// Gives connections to API requests and to the daemon's threads. Cloning shares the pool.
#[derive(Clone)]
pub struct Db {
    pool: Pool<ConnectionManager>,
    permits: Arc<Semaphore>,
    turns: Arc<Turns>,
    wait: Duration,
    url: Arc<str>,
    roles: bool,
    lock_timeout: Duration,
    silence: Duration,
    probe: Arc<Mutex<Option<PgConnection>>>,
}

/// What [`Db::new`] needs.
pub struct DbOptions {
    pub url: String,
    /// The largest number of connections in the pool.
    pub size: u32,
    /// How long a request may wait for a connection.
    pub wait: Duration,
    /// The longest statement of a request; zero: no limit.
    pub statement_timeout: Duration,
    /// The longest wait for a lock while a caller waits; zero: no limit.
    pub lock_timeout: Duration,
    /// How long the server may be silent during a statement that a caller waits for.
    pub silence: Duration,
    /// Whether the roles of `roles.sql` exist and this user may act as them.
    pub roles: bool,
}

/// What a transaction returns, and a way to prove on another connection that it was committed.
pub struct WithEvidence<T> {
    pub value: T,
    /// Looks for something that only this transaction wrote; `None`: it wrote nothing.
    pub evidence: Option<Box<Evidence<'static>>>,
}

impl Db {
    /// Makes the pool. It connects when a connection is first needed.
    #[must_use]
    pub fn new(options: DbOptions) -> Self {
        let limits = SessionLimits {
            statement: options.statement_timeout,
            lock: options.lock_timeout,
            silence: Silence { limit: options.silence, ask_server: true },
        };
        let pool = Pool::builder()
            .max_size(options.size)
            .min_idle(Some(1))
            .connection_timeout(CONNECTION_TIMEOUT)
            .error_handler(Box::new(LogConnectionErrors))
            .build_unchecked(ConnectionManager { url: options.url.clone(), limits, roles: options.roles });
        Self {
            pool,
            permits: Arc::new(Semaphore::new(options.size as usize)),
            turns: Arc::new(Turns::new(options.size as usize / 2)),
            wait: options.wait,
            url: options.url.into(),
            roles: options.roles,
            lock_timeout: options.lock_timeout,
            silence: options.silence,
            probe: Arc::default(),
        }
    }

    /// Runs `work` in one transaction on a blocking thread; again if it lost a race or its connection. `work`
    /// must only read, or write what may be written twice.
    ///
    /// # Errors
    /// [`Error::Busy`] if no connection is free in time; otherwise the error of `work`. After an error the
    /// transaction is rolled back.
    pub async fn run<T, F>(&self, scope: Scope, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let holder = match scope {
            Scope::Platform => Holder::Platform,
            Scope::Org(org_id) => Holder::Org(org_id),
        };
        self.run_for_holder(holder, scope, work).await
    }

    /// As [`Db::run`], but the connection counts towards `holder`, not towards the org of `scope`.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn run_for_holder<T, F>(&self, holder: Holder, scope: Scope, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let turn = self.turns.wait(holder, self.wait).await.ok_or(BUSY)?;
        let roles = self.roles;
        self.on_blocking_thread(move |conn| {
            let _turn = &turn;
            let run = |conn: &mut PgConnection| {
                try_with_retries(conn, |conn| {
                    restrict_to_scope(conn, scope, roles)?;
                    work(conn)
                })
            };
            match conn.run_and_reconnect(run) {
                Ok(value) | Err(TransactionError::OutcomeUnknown(value, _)) => Ok(value),
                Err(TransactionError::Failed(error)) => Err(error),
            }
        })
        .await
    }

    /// Runs `work` in one transaction as the platform, and tells truly whether it was committed. If the
    /// answer to COMMIT is lost, this looks for the evidence that `work` returned. It runs `work` again after
    /// a lost race, or if the transaction was not committed.
    ///
    /// # Errors
    /// As [`Db::run`]; [`Error::OutcomeUnknown`] if the outcome could not be found.
    pub async fn run_with_evidence<T, F>(&self, holder: Holder, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<WithEvidence<T>, Error> + Send + 'static,
    {
        let turn = self.turns.wait(holder, self.wait).await.ok_or(BUSY)?;
        let db = self.clone();
        self.on_blocking_thread(move |conn| {
            let _turn = &turn;
            loop {
                match conn.run_and_reconnect(|conn| try_with_retries(conn, &work)) {
                    Ok(done) => return Ok(done.value),
                    Err(TransactionError::Failed(error)) => return Err(error),
                    Err(TransactionError::OutcomeUnknown(done, session)) => {
                        let Some(evidence) = done.evidence else { return Ok(done.value) };
                        if db.was_committed(session, &evidence)? {
                            return Ok(done.value);
                        }
                        if conn.is_out_of_time() {
                            return Err(AWAY);
                        }
                    }
                }
            }
        })
        .await
    }

    /// Runs `work` on a blocking thread as soon as it has a connection.
    async fn on_blocking_thread<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut RequestConnection) -> Result<T, Error> + Send + 'static,
    {
        let permits = Arc::clone(&self.permits);
        let permit = match tokio::time::timeout(self.wait, permits.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(BUSY),
        };
        let mut conn = RequestConnection::new(self.pool.clone());
        let span = tracing::Span::current();
        // Whoever sets it first decides: the thread that begins the work, or the caller that gives up.
        let decided = Arc::new(AtomicBool::new(false));
        let decided_by_thread = Arc::clone(&decided);
        let mut task = tokio::task::spawn_blocking(move || {
            let _entered = span.entered();
            let _permit = permit;
            conn.connect()?;
            if decided_by_thread.swap(true, Ordering::SeqCst) {
                return Err(AWAY);
            }
            work(&mut conn)
        });
        let done = match tokio::time::timeout(CONNECTION_TIMEOUT, &mut task).await {
            Ok(done) => done,
            Err(_) if !decided.swap(true, Ordering::SeqCst) => return Err(AWAY),
            Err(_) => task.await,
        };
        done.map_err(|error| Error::Internal(format!("a database task failed: {error}")))?
    }

    /// Runs `work` with a connection of the platform on a blocking thread. `work` opens its own transactions.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn with_connection<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        self.on_blocking_thread(move |conn| work(conn.get()?)).await
    }

    /// Runs `work` on the one connection that is reserved for probes: requests cannot use it up. If it was
    /// lost since the last probe, this connects again.
    ///
    /// # Errors
    /// The database is away, or another probe still waits for it.
    pub async fn probe<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let db = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Probes come again and again: they must not queue behind one that hangs.
            let Ok(mut kept) = db.probe.try_lock() else { return Err(UNANSWERED) };
            if let Some(mut conn) = kept.take()
                && let Ok(answer) = work(&mut conn)
            {
                *kept = Some(conn);
                return Ok(answer);
            }
            let mut conn = db.connect(PROBES)?;
            let answer = work(&mut conn)?;
            *kept = Some(conn);
            Ok(answer)
        });
        task.await.map_err(|error| Error::Internal(format!("a database task failed: {error}")))?
    }

    /// A new connection, outside of the pool, for a background worker. It acts as the platform.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn connect_worker(&self) -> Result<PgConnection, Error> {
        self.connect(WORKERS)
    }

    /// A new connection, outside of the pool, for a thread that callers wait for. It acts as the platform.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn connect_serving_thread(&self) -> Result<PgConnection, Error> {
        let silence = Silence { limit: self.silence, ask_server: true };
        self.connect(SessionLimits { statement: SERVING_STATEMENT, lock: self.lock_timeout, silence })
    }

    /// A new connection, outside of the pool, for a long read such as an export. It acts as the platform.
    ///
    /// # Errors
    /// The server cannot be reached.
    pub fn connect_export(&self) -> Result<PgConnection, Error> {
        self.connect(SessionLimits { lock: self.lock_timeout, ..EXPORTS })
    }

    fn connect(&self, limits: SessionLimits) -> Result<PgConnection, Error> {
        connect(&self.url, self.roles, limits)
    }

    /// Whether a transaction was committed whose answer to COMMIT was lost. Takes some seconds at most.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] if that cannot be found out in time.
    pub fn was_committed(&self, session: CommitSession, evidence: &Evidence<'_>) -> Result<bool, Error> {
        transaction::was_committed(&self.url, self.roles, session, evidence)
    }

    /// Whether row-level security is in force.
    #[must_use]
    pub fn has_roles(&self) -> bool {
        self.roles
    }

    /// Connections in use, and the largest number of connections.
    #[must_use]
    pub fn load(&self) -> (u32, u32) {
        let limit = self.pool.max_size();
        (limit.saturating_sub(u32::try_from(self.permits.available_permits()).unwrap_or(limit)), limit)
    }
}
