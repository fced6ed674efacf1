//! The database: where it runs, connections to it, its schema.

pub mod apart;
pub mod embedded;
mod home;
mod losses;
pub mod migrate;
pub mod pass;
pub mod prepared;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::r2d2::{ConnectionManager, CustomizeConnection, Pool};
use tokio::sync::Semaphore;

use crate::error::Error;
use crate::shares::{Holder, Turns};

/// On whose behalf a transaction runs; row-level security holds it to that.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// The platform: every org.
    Platform,
    /// One org only.
    Org(i64),
}

const BUSY: Error = Error::Busy("all database connections are in use: try again in a second");

/// Connections for API requests: a bounded pool behind a bounded wait.
#[derive(Clone)]
pub struct Db {
    pool: Pool<ConnectionManager<PgConnection>>,
    permits: Arc<Semaphore>,
    turns: Arc<Turns>,
    wait: Duration,
    url: Arc<str>,
    roles: bool,
    probe: Arc<Mutex<Option<PgConnection>>>,
}

/// What a [`Db`] is made with.
pub struct DbOptions {
    /// libpq URL.
    pub url: String,
    /// Connections at most.
    pub size: u32,
    /// How long a request may wait for one.
    pub wait: Duration,
    /// Longest statement; zero: no bound.
    pub statement_timeout: Duration,
    /// Whether the roles of `roles.sql` exist and may be taken on.
    pub roles: bool,
}

impl Db {
    /// A pool that connects when it is first needed.
    #[must_use]
    pub fn new(options: DbOptions) -> Self {
        let setup = Setup { statement_timeout: options.statement_timeout, roles: options.roles };
        let pool = Pool::builder()
            .max_size(options.size)
            .min_idle(Some(1))
            .connection_timeout(options.wait.max(Duration::from_millis(500)))
            .connection_customizer(Box::new(setup))
            .build_unchecked(ConnectionManager::new(&options.url));
        Self {
            pool,
            permits: Arc::new(Semaphore::new(options.size as usize)),
            turns: Arc::new(Turns::new(options.size as usize / 2)),
            wait: options.wait,
            url: options.url.into(),
            roles: options.roles,
            probe: Arc::default(),
        }
    }

    /// Runs `work` in one transaction on a blocking thread, again if it lost a race (at most three times).
    ///
    /// # Errors
    /// [`Error::Busy`] when no connection is free in time; otherwise what `work` says. Nothing is kept on an error.
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
        let work = move |conn: &mut PgConnection| {
            let _turn = &turn;
            scoped(conn, scope, roles, &work)
        };
        self.on_connection(work).await
    }

    async fn on_connection<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: FnOnce(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let permits = Arc::clone(&self.permits);
        let permit = match tokio::time::timeout(self.wait, permits.acquire_owned()).await {
            Ok(Ok(permit)) => permit,
            Ok(Err(_)) | Err(_) => return Err(BUSY),
        };
        let pool = self.pool.clone();
        let span = tracing::Span::current();
        let task = tokio::task::spawn_blocking(move || {
            let _entered = span.entered();
            let _permit = permit;
            let mut conn = pool.get().map_err(|error| {
                tracing::warn!(%error, "no database connection");
                Error::Busy("the database is away for the moment: try again in a second")
            })?;
            work(&mut conn)
        });
        task.await.map_err(|error| Error::Internal(format!("a database task failed: {error}")))?
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
        self.on_connection(move |conn| work(conn)).await
    }

    /// Runs `work` over the one connection kept for probes, which no load of requests can take.
    ///
    /// # Errors
    /// When the database is away. A connection that was lost since the last probe is made again.
    pub async fn probe<T, F>(&self, work: F) -> Result<T, Error>
    where
        T: Send + 'static,
        F: Fn(&mut PgConnection) -> Result<T, Error> + Send + 'static,
    {
        let db = self.clone();
        let task = tokio::task::spawn_blocking(move || {
            let mut held = db.probe.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(mut conn) = held.take()
                && let Ok(answer) = work(&mut conn)
            {
                *held = Some(conn);
                return Ok(answer);
            }
            let mut conn = db.dedicated()?;
            let answer = work(&mut conn)?;
            *held = Some(conn);
            Ok(answer)
        });
        task.await.map_err(|error| Error::Internal(format!("a database task failed: {error}")))?
    }

    /// A connection of its own for a worker or a long export, acting as the platform.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn dedicated(&self) -> Result<PgConnection, Error> {
        connect(&self.url, self.roles)
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

/// One transaction in `scope` on a connection that the caller has.
///
/// # Errors
/// What `work` says, after a rollback.
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

/// One read-only transaction in `scope` over a single snapshot, for what takes many statements to read. It is not run again.
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

/// Holds the rest of the transaction to `scope`.
fn act_for(conn: &mut PgConnection, scope: Scope, roles: bool) -> QueryResult<()> {
    match (scope, roles) {
        (Scope::Org(org_id), true) => {
            conn.batch_execute(&format!("SET LOCAL ROLE coulomb_org; SET LOCAL coulomb.org_id = '{org_id}'"))
        }
        _ => Ok(()),
    }
}

/// One transaction, run once.
///
/// # Errors
/// What `work` says, after a rollback.
pub fn once<T>(
    conn: &mut PgConnection,
    work: impl FnOnce(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    conn.transaction(work)
}

/// One transaction, run again (at most three times) when it lost a race for locks.
///
/// # Errors
/// What `work` says, after a rollback.
pub fn retrying<T>(
    conn: &mut PgConnection,
    work: impl Fn(&mut PgConnection) -> Result<T, Error>,
) -> Result<T, Error> {
    let mut tries = 1;
    loop {
        match conn.transaction(|conn| work(conn)) {
            Err(error) if tries < 3 && error.is_transient() && !error.is_disconnected() => tries += 1,
            result => return result,
        }
    }
}

/// Connects as a worker or a command does: no statement timeout, acting as the platform where roles are in force.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub fn connect(url: &str, roles: bool) -> Result<PgConnection, Error> {
    let mut conn = establish(url)?;
    prepare(&mut conn, Duration::ZERO, roles)?;
    Ok(conn)
}

/// Connects as the URL's own user, and looks at our tables.
///
/// # Errors
/// When the server cannot be reached or refuses.
pub fn establish(url: &str) -> Result<PgConnection, Error> {
    let mut conn = PgConnection::establish(url).map_err(|error| {
        let told = crate::config::redact(url, &error.to_string());
        let info: Box<String> = Box::new(format!("connection to server: {told}"));
        Error::Database(diesel::result::Error::DatabaseError(
            diesel::result::DatabaseErrorKind::UnableToSendCommand,
            info,
        ))
    })?;
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

#[derive(Debug)]
struct Setup {
    statement_timeout: Duration,
    roles: bool,
}

impl CustomizeConnection<PgConnection, diesel::r2d2::Error> for Setup {
    fn on_acquire(&self, conn: &mut PgConnection) -> Result<(), diesel::r2d2::Error> {
        prepare(conn, self.statement_timeout, self.roles).map_err(diesel::r2d2::Error::QueryError)
    }
}

/// Session settings that results must not depend on the server for. Row-level security makes estimates so high that PostgreSQL
/// would compile statements of a millisecond for half a second: not here.
fn prepare(conn: &mut PgConnection, statement_timeout: Duration, roles: bool) -> QueryResult<()> {
    let role = if roles { "SET ROLE coulomb_platform;" } else { "" };
    conn.batch_execute(&format!(
        "{} SET TIME ZONE 'UTC'; SET synchronous_commit = on; SET jit = off; SET statement_timeout = {}; {role}",
        home::SEARCH_PATH,
        statement_timeout.as_millis()
    ))
}
