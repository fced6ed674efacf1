//! The database: where it runs, connections to it, its schema.

mod address;
pub mod apart;
pub mod embedded;
mod home;
mod losses;
pub mod migrate;
pub mod pass;
pub mod prepared;
mod socket;
mod transaction;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::{ManageConnection, Pool, R2D2Connection};
use tokio::sync::Semaphore;

pub use self::transaction::{
    Ended, Evidence, Lost, attempt, attempts, once, retrying, scoped, snapshot, told,
};
use self::watch::Patience;
pub use self::watch::{close, has_no_room};
use crate::error::Error;
use crate::shares::{Holder, Turns};

/// On whose behalf a transaction runs; row-level security holds it to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The platform: every org.
    Platform,
    Org(i64),
}

const BUSY: Error = Error::Busy(
    "no database connection is free in time, or the database does not answer: try again in a second",
);

/// Connections for API requests: a bounded pool behind a bounded wait.
#[derive(Clone)]
pub struct Db {
    pool: Pool<Manager>,
    permits: Arc<Semaphore>,
    turns: Arc<Turns>,
    wait: Duration,
    url: Arc<str>,
    roles: bool,
    lock_timeout: Duration,
    silence: Duration,
    probe: Arc<Mutex<Option<PgConnection>>>,
}

/// What a [`Db`] is made with.
pub struct DbOptions {
    pub url: String,
    /// Connections at most.
    pub size: u32,
    /// How long a request may wait for one.
    pub wait: Duration,
    /// Longest statement; zero: no bound.
    pub statement_timeout: Duration,
    /// Longest wait for a lock, of whatever a caller waits for; zero: no bound.
    pub lock_timeout: Duration,
    /// How long a statement that a caller waits for goes on while the server gives no sign of life.
    pub silence: Duration,
    /// Whether the roles of `roles.sql` exist and may be taken on.
    pub roles: bool,
}

const AWAY: Error = Error::Busy("the database is away for the moment: try again in a second");
/// How long a request looks for a connection that works.
const FOUND_WITHIN: Duration = Duration::from_secs(3);

impl Db {
    /// A pool that connects when it is first needed.
    #[must_use]
    pub fn new(options: DbOptions) -> Self {
        let bounds = Bounds {
            statement: options.statement_timeout,
            lock: options.lock_timeout,
            patience: Patience { silence: options.silence, asked: true },
        };
        let pool = Pool::builder()
            .max_size(options.size)
            .min_idle(Some(1))
            .connection_timeout(FOUND_WITHIN)
            .error_handler(Box::new(Unreachable))
            .build_unchecked(Manager { url: options.url.clone(), bounds, roles: options.roles });
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

    /// Runs `work`, which reads or may be done twice, in one transaction on a blocking thread; again if it
    /// lost a race or its connection.
    ///
    /// # Errors
    /// [`Error::Busy`] when no connection is free in time; otherwise what `work` says. Nothing is kept on an
    /// error.
    pub async fn run<T, F>(&self, scope: Scope, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let holder = match scope {
            Scope::Platform => Holder::Platform,
            Scope::Org(org_id) => Holder::Org(org_id),
        };
        self.run_for(holder, scope, work).await
    }

    /// As [`Db::run`], where not whose rows they are says whose turn it is.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn run_for<T, F>(&self, holder: Holder, scope: Scope, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let turn = self.turns.wait(holder, self.wait).await.ok_or(BUSY)?;
        let roles = self.roles;
        self.on_connection(move |conns| {
            let _turn = &turn;
            let run = |conn: &mut PgConnection| {
                attempts(conn, |conn| {
                    act_for(conn, scope, roles)?;
                    work(conn)
                })
            };
            match conns.while_lost(run) {
                Ok(value) | Err(Ended::Unsure(value, _)) => Ok(value),
                Err(Ended::Failed(error)) => Err(error),
            }
        })
        .await
    }

    /// Runs `work` as the platform in one transaction whose outcome is told truly: when the answer to its
    /// COMMIT is lost, the evidence that it gives is looked for. It is run again if it lost a race or its
    /// connection, and nothing of it was done.
    ///
    /// # Errors
    /// As [`Db::run`]; [`Error::OutcomeUnknown`] when the outcome could not be found out.
    pub async fn run_decided<T, F>(&self, holder: Holder, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<Decided<T>, Error> + Send + 'static,
    {
        let turn = self.turns.wait(holder, self.wait).await.ok_or(BUSY)?;
        let db = self.clone();
        self.on_connection(move |conns| {
            let _turn = &turn;
            loop {
                match conns.while_lost(|conn| attempts(conn, &work)) {
                    Ok(decided) => return Ok(decided.value),
                    Err(Ended::Failed(error)) => return Err(error),
                    Err(Ended::Unsure(Decided { value, evidence: None }, _)) => return Ok(value),
                    Err(Ended::Unsure(Decided { value, evidence: Some(evidence) }, lost)) => {
                        if db.decide(lost, &evidence)? {
                            return Ok(value);
                        }
                        if conns.begun.elapsed() > FOUND_WITHIN {
                            return Err(AWAY);
                        }
                    }
                }
            }
        })
        .await
    }

    /// Runs `work` on a blocking thread once it has a connection.
    async fn on_connection<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut Conns) -> Result<T, Error> + Send + 'static,
    {
        let permits = Arc::clone(&self.permits);
        let permit = match tokio::time::timeout(self.wait, permits.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(BUSY),
        };
        let mut conns = Conns { pool: self.pool.clone(), held: None, begun: Instant::now() };
        let span = tracing::Span::current();
        // Either the thread begins the work, or the caller has gone.
        let begun = Arc::new(AtomicBool::new(false));
        let thread = Arc::clone(&begun);
        let mut task = tokio::task::spawn_blocking(move || {
            let _entered = span.entered();
            let _permit = permit;
            conns.fill()?;
            if thread.swap(true, Ordering::SeqCst) {
                return Err(AWAY);
            }
            work(&mut conns)
        });
        let done = match tokio::time::timeout(FOUND_WITHIN, &mut task).await {
            Ok(done) => done,
            Err(_) if !begun.swap(true, Ordering::SeqCst) => return Err(AWAY),
            Err(_) => task.await,
        };
        done.map_err(|error| Error::Internal(format!("a database task failed: {error}")))?
    }

    /// Runs `work`, which opens its own transactions, on a blocking thread as the platform.
    ///
    /// # Errors
    /// As [`Db::run`].
    pub async fn run_plain<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        self.on_connection(move |conns| work(conns.get()?)).await
    }

    /// Runs `work` over the one connection kept for probes, which no load of requests can take.
    ///
    /// # Errors
    /// When the database is away, or another probe still waits for it. A connection that was lost since the
    /// last probe is made again.
    pub async fn probe<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let db = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Probes come again and again: they must not queue up behind one that hangs.
            let Ok(mut held) = db.probe.try_lock() else { return Err(UNANSWERED) };
            if let Some(mut conn) = held.take()
                && let Ok(answer) = work(&mut conn)
            {
                *held = Some(conn);
                return Ok(answer);
            }
            let mut conn = db.connected(PROBES)?;
            let answer = work(&mut conn)?;
            *held = Some(conn);
            Ok(answer)
        });
        task.await.map_err(|error| Error::Internal(format!("a database task failed: {error}")))?
    }

    /// A connection of its own for a worker, acting as the platform.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn dedicated(&self) -> Result<PgConnection, Error> {
        self.connected(WORKERS)
    }

    /// A connection of its own for a thread that callers wait for, acting as the platform.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn serving(&self) -> Result<PgConnection, Error> {
        let patience = Patience { silence: self.silence, asked: true };
        self.connected(Bounds { statement: SERVED_WITHIN, lock: self.lock_timeout, patience })
    }

    /// A connection of its own for a long read that a caller follows, acting as the platform.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn exporting(&self) -> Result<PgConnection, Error> {
        self.connected(Bounds { lock: self.lock_timeout, ..EXPORTS })
    }

    fn connected(&self, bounds: Bounds) -> Result<PgConnection, Error> {
        connect_within(&self.url, self.roles, bounds)
    }

    /// Finds out whether a transaction was committed whose answer was lost. Waits some seconds at most.
    ///
    /// # Errors
    /// [`Error::OutcomeUnknown`] when it cannot be found out.
    pub fn decide(&self, lost: Lost, evidence: &Evidence<'_>) -> Result<bool, Error> {
        transaction::decide(&self.url, self.roles, lost, evidence)
    }

    /// Whether row-level security is in force.
    #[must_use]
    pub fn has_roles(&self) -> bool {
        self.roles
    }

    /// Connections in use and their limit.
    #[must_use]
    pub fn load(&self) -> (u32, u32) {
        let limit = self.pool.max_size();
        (limit.saturating_sub(u32::try_from(self.permits.available_permits()).unwrap_or(limit)), limit)
    }
}

/// What a transaction comes to, and how to see on another connection that it was committed.
pub struct Decided<T> {
    /// What it comes to.
    pub value: T,
    /// Something that it wrote, and nobody else; `None`: it wrote nothing.
    pub evidence: Option<Box<Evidence<'static>>>,
}

/// The connections of a request, one after the other.
struct Conns {
    pool: Pool<Manager>,
    held: Option<diesel::r2d2::PooledConnection<Manager>>,
    begun: Instant,
}

impl Conns {
    fn fill(&mut self) -> Result<(), Error> {
        let conn = self.pool.get().map_err(|error| {
            tracing::warn!(%error, "no database connection");
            AWAY
        })?;
        self.held = Some(conn);
        Ok(())
    }

    fn get(&mut self) -> Result<&mut PgConnection, Error> {
        if self.held.is_none() {
            self.fill()?;
        }
        self.held.as_deref_mut().ok_or(AWAY)
    }

    /// Runs `work`, on another connection when one was lost under it, for a while.
    fn while_lost<T>(
        &mut self,
        work: impl Fn(&mut PgConnection) -> Result<T, Ended<T>>,
    ) -> Result<T, Ended<T>> {
        loop {
            let conn = self.get().map_err(Ended::Failed)?;
            let result = work(conn);
            if conn.is_broken() {
                self.held = None;
            }
            match result {
                Err(Ended::Failed(error))
                    if self.held.is_none()
                        && error.is_disconnected()
                        && self.begun.elapsed() < FOUND_WITHIN => {}
                result => return result,
            }
        }
    }
}

/// Makes the pool's connections.
#[derive(Debug)]
struct Manager {
    url: String,
    bounds: Bounds,
    roles: bool,
}

impl ManageConnection for Manager {
    type Connection = PgConnection;
    type Error = Error;

    fn connect(&self) -> Result<PgConnection, Error> {
        connect_within(&self.url, self.roles, self.bounds)
    }

    fn is_valid(&self, conn: &mut PgConnection) -> Result<(), Error> {
        Ok(conn.ping()?)
    }

    fn has_broken(&self, conn: &mut PgConnection) -> bool {
        std::thread::panicking() || conn.is_broken()
    }
}

/// Says why the pool has no connection.
#[derive(Debug)]
struct Unreachable;

impl diesel::r2d2::HandleError<Error> for Unreachable {
    fn handle_error(&self, error: Error) {
        tracing::warn!(%error, "the database cannot be reached");
    }
}

/// Holds the rest of the transaction to `scope`.
fn act_for(conn: &mut PgConnection, scope: Scope, roles: bool) -> QueryResult<()> {
    match (scope, roles) {
        (Scope::Org(org_id), true) => {
            conn.batch_execute(&format!("SET LOCAL ROLE coulomb_org; SET LOCAL coulomb.org_id = '{org_id}'"))
        }
        _ => Ok(()),
    }
}

/// How long the statements of a connection may take; zero: no bound.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    statement: Duration,
    /// The longest wait for a lock.
    lock: Duration,
    /// How long the server may be silent.
    patience: Patience,
}

const UNANSWERED: Error = Error::Busy("the database does not answer");
/// The longest statement of a batch that callers wait for.
const SERVED_WITHIN: Duration = Duration::from_secs(30);
/// What nobody waits for may take its time, but not for ever.
const WORKERS: Bounds = Bounds {
    statement: Duration::from_secs(1800),
    lock: Duration::from_secs(60),
    patience: Patience { silence: Duration::from_secs(60), asked: true },
};
const EXPORTS: Bounds = Bounds { statement: Duration::ZERO, ..WORKERS };
const PROBES: Bounds = Bounds {
    statement: Duration::from_secs(2),
    lock: Duration::from_secs(1),
    patience: Patience { silence: Duration::from_secs(2), asked: false },
};
/// People at a terminal end what takes too long for them.
const COMMANDS: Bounds =
    Bounds { statement: Duration::ZERO, lock: Duration::ZERO, patience: Patience::ENDLESS };

/// Connects as a command does: no statement timeout, acting as the platform where roles are in force.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub fn connect(url: &str, roles: bool) -> Result<PgConnection, Error> {
    connect_within(url, roles, COMMANDS)
}

fn connect_within(url: &str, roles: bool, bounds: Bounds) -> Result<PgConnection, Error> {
    let mut conn = watch::connect(url, bounds.patience)?;
    prepare(&mut conn, bounds, roles)?;
    Ok(conn)
}

/// Connects as the URL's own user, and looks at our tables.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub fn establish(url: &str) -> Result<PgConnection, Error> {
    let mut conn = watch::connect(url, Patience::ENDLESS)?;
    conn.batch_execute(home::SEARCH_PATH)?;
    Ok(conn)
}

/// The time by the server's clock.
///
/// # Errors
/// When the server does not answer.
pub fn server_time(conn: &mut PgConnection) -> QueryResult<DateTime<Utc>> {
    diesel::select(diesel::dsl::sql::<diesel::sql_types::Timestamptz>("clock_timestamp()")).get_result(conn)
}

/// Session settings that results must not depend on the server for. Row-level security makes estimates so
/// high that PostgreSQL would compile statements of a millisecond for half a second: not here.
fn prepare(conn: &mut PgConnection, bounds: Bounds, roles: bool) -> QueryResult<()> {
    let role = if roles { "SET ROLE coulomb_platform;" } else { "" };
    conn.batch_execute(&format!(
        "{} SET TIME ZONE 'UTC'; SET synchronous_commit = on; SET jit = off;
         SET statement_timeout = {}; SET lock_timeout = {};
         {SERVER_NOTICES} {role}",
        home::SEARCH_PATH,
        bounds.statement.as_millis(),
        bounds.lock.as_millis()
    ))
}

/// The server notices a daemon whose host is gone, too: its session may hold locks.
const SERVER_NOTICES: &str = "SET tcp_keepalives_idle = 5; SET tcp_keepalives_interval = 2;
    SET tcp_keepalives_count = 3; SET tcp_user_timeout = 10000;";
