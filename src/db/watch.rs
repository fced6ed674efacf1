//! Watches this process's connections to databases: none waits for ever for a server that does not answer.
//!
//! libpq waits without a limit, and TCP timeouts do not help if something in between acknowledges data that
//! nobody reads. So diesel's instrumentation tells us when each statement begins and ends. When a statement
//! takes long, [`server_check`] asks the server about its session over a fresh connection:
//!
//! - The session works: the connection is left alone, however long the statement takes.
//! - The session is idle or gone: the answer was lost, and the connection's socket is shut.
//! - The server says nothing at all: the socket is shut after [`Silence::limit`].
//!
//! libpq then finds the connection closed, and the caller handles it as any lost connection.
//!
//! A session whose connection is lost is ended at the server: it may hold locks that others wait for.

mod connect_queue;
mod server_check;
mod sessions;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use diesel::connection::{Instrumentation, InstrumentationEvent};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::result::DatabaseErrorKind;
use diesel::result::Error::DatabaseError;

use self::connect_queue::ConnectQueue;
use self::server_check::CheckQueue;
pub(super) use self::sessions::{Session, exists, terminate};
use super::address;
use super::socket::Socket;
use crate::error::{self, Error};

/// How often the watch looks at all connections.
const TICK: Duration = Duration::from_millis(200);
/// How long a statement runs before the server is first asked about it. Each later check comes after the time
/// that the statement has run so far, but at most [`CHECKS_APART`].
const FIRST_CHECK: Duration = Duration::from_secs(2);
const CHECKS_APART: Duration = Duration::from_secs(30);
/// How long connecting may take before the socket is shut. libpq's own timeout ends as soon as the server has
/// accepted us.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a full disk is reported after a statement met it: if nothing is written, nobody meets it again.
const FULL_DISK_MEMORY: Duration = Duration::from_secs(15);

/// How long the server of a connection may be silent while a statement runs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Silence {
    /// The connection is given up when nothing was heard for this long.
    pub(super) limit: Duration,
    /// Whether the server is asked about statements that take long.
    pub(super) ask_server: bool,
}

impl Silence {
    /// For a person at a terminal, who can stop the command: only the system's own timeouts apply.
    pub(super) const UNLIMITED: Self = Self { limit: Duration::MAX, ask_server: false };
}

/// A connection under watch. Times are milliseconds of [`now_ms`].
struct WatchedConnection {
    address: Arc<str>,
    session: OnceLock<Session>,
    /// `None` if it could not be found.
    socket: Option<Socket>,
    silence: Silence,
    /// When the running statement began; 0: no statement runs.
    statement_began_ms: AtomicU64,
    /// Number of statements so far.
    statements: AtomicU64,
    /// When the server was last known to work for this connection.
    last_sign_of_life_ms: AtomicU64,
    next_check_ms: AtomicU64,
    is_lost: AtomicBool,
}

impl WatchedConnection {
    fn new(address: &str, socket: Option<Socket>, silence: Silence) -> Self {
        Self {
            address: address.into(),
            session: OnceLock::new(),
            socket,
            silence,
            statement_began_ms: AtomicU64::new(0),
            statements: AtomicU64::new(0),
            last_sign_of_life_ms: AtomicU64::new(0),
            next_check_ms: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
        }
    }

    fn begin_statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
        let now = now_ms();
        let alarmed = now < WATCH.alarm_until_ms.load(Ordering::Relaxed);
        let first_check = if alarmed { TICK } else { FIRST_CHECK };
        self.next_check_ms.store(now + millis(first_check), Ordering::Relaxed);
        self.statement_began_ms.store(now, Ordering::Release);
    }

    fn end_statement(&self) {
        self.statement_began_ms.store(0, Ordering::Release);
    }

    /// Ends the wait for an answer, and has the session ended at the server.
    fn give_up(&self, why: &str) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.is_lost.load(Ordering::Relaxed)) else {
            return;
        };
        tracing::warn!(
            pid = self.session.get().map(|session| session.pid),
            why,
            "a database connection is given up"
        );
        socket.shut();
        self.mark_lost();
    }

    fn mark_lost(&self) {
        if !self.is_lost.swap(true, Ordering::Relaxed)
            && let Some(session) = self.session.get()
        {
            WATCH.check_queue.push_orphan(Arc::clone(&self.address), *session);
        }
    }

    /// When the running statement began, and its number; `None` if no statement runs.
    fn statement(&self) -> Option<(u64, u64)> {
        let began = self.statement_began_ms.load(Ordering::Acquire);
        (began != 0 && !self.is_lost.load(Ordering::Relaxed))
            .then(|| (began, self.statements.load(Ordering::Relaxed)))
    }

    /// Whether an answer has arrived that nobody has read yet.
    fn has_unread(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::has_unread)
    }
}

/// Receives diesel's events of a connection.
struct StatementEvents(Arc<WatchedConnection>);

impl Instrumentation for StatementEvents {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => self.0.begin_statement(),
            InstrumentationEvent::FinishQuery { error, .. } => {
                self.0.end_statement();
                let Some(error) = error else { return };
                if error::is_disconnected(error) {
                    self.0.mark_lost();
                }
                if error::is_want_of_room(error) {
                    WATCH.disk_full_ms.store(now_ms(), Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }
}

/// The watch of this process.
struct Watch {
    began: Instant,
    connections: Mutex<Vec<Weak<WatchedConnection>>>,
    connect_queue: ConnectQueue,
    check_queue: CheckQueue,
    is_closed: AtomicBool,
    /// Until then statements are checked early, because an answer was lost.
    alarm_until_ms: AtomicU64,
    /// When a statement last failed because the server's disk was full; 0: never.
    disk_full_ms: AtomicU64,
}

static WATCH: LazyLock<Watch> = LazyLock::new(|| {
    for (name, run) in [("database-watch", run as fn()), ("database-look", server_check::run)] {
        std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("the system starts a thread");
    }
    Watch {
        // 1 ms ago, because a time of 0 means "none".
        began: Instant::now() - Duration::from_millis(1),
        connections: Mutex::default(),
        connect_queue: ConnectQueue::default(),
        check_queue: CheckQueue::default(),
        is_closed: AtomicBool::new(false),
        alarm_until_ms: AtomicU64::new(0),
        disk_full_ms: AtomicU64::new(0),
    }
});

/// Milliseconds since the watch began.
fn now_ms() -> u64 {
    millis(WATCH.began.elapsed())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    fn connections(&self) -> Vec<Arc<WatchedConnection>> {
        let mut connections = lock(&self.connections);
        connections.retain(|conn| conn.strong_count() > 0);
        connections.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Connects, and watches the connection from then on.
///
/// # Errors
/// The server cannot be reached, refuses or does not answer; or [`close_connections`] was called.
pub(super) fn connect(address: &str, silence: Silence) -> Result<PgConnection, Error> {
    if WATCH.is_closed.load(Ordering::SeqCst) {
        return Err(Error::Stopping);
    }
    let place = WATCH.connect_queue.enter()?;
    let result = PgConnection::establish(&address::with_timeouts(address));
    let socket = if result.is_ok() { place.new_socket() } else { None };
    drop(place);
    let mut conn = result.map_err(|error| connection_error(address, &error))?;
    let watched = Arc::new(WatchedConnection::new(address, socket, silence));
    lock(&WATCH.connections).push(Arc::downgrade(&watched));
    conn.set_instrumentation(StatementEvents(Arc::clone(&watched)));
    // Nothing else sets it, so this cannot fail.
    let _ = watched.session.set(sessions::own(&mut conn)?);
    Ok(conn)
}

fn connection_error(address: &str, error: &ConnectionError) -> Error {
    let text = crate::config::redact_password(address, &error.to_string());
    let info: Box<String> = Box::new(format!("connection to server: {text}"));
    DatabaseError(DatabaseErrorKind::UnableToSendCommand, info).into()
}

/// The session of a connection that [`connect`] made.
pub(super) fn session(conn: &mut PgConnection) -> Option<Session> {
    conn.instrumentation().downcast_ref::<StatementEvents>()?.0.session.get().copied()
}

/// Whether a statement of this process failed in the last 15 seconds because the server's disk was full.
#[must_use]
pub fn disk_was_full_lately() -> bool {
    let last = WATCH.disk_full_ms.load(Ordering::Relaxed);
    last != 0 && now_ms().saturating_sub(last) < millis(FULL_DISK_MEMORY)
}

/// Gives up every connection on which a statement runs, now and later, and makes no new connections. For the
/// end of the daemon.
pub fn close_connections() {
    WATCH.is_closed.store(true, Ordering::SeqCst);
}

/// The thread: every [`TICK`] gives up silent connections, and queues checks of long statements.
fn run() {
    let mut before = now_ms();
    loop {
        std::thread::sleep(TICK);
        let now = now_ms();
        // This process itself was stopped or did not run. So its silence says nothing about the server.
        let was_suspended = now.saturating_sub(before) > 10 * millis(TICK);
        before = now;
        let closed = WATCH.is_closed.load(Ordering::SeqCst);
        let mut checks = Vec::new();
        for conn in WATCH.connections() {
            let Some((began, _)) = conn.statement() else { continue };
            if was_suspended {
                conn.last_sign_of_life_ms.store(now, Ordering::Relaxed);
            }
            let last_sign = began.max(conn.last_sign_of_life_ms.load(Ordering::Relaxed));
            if closed {
                conn.give_up("the daemon stops");
            } else if now.saturating_sub(last_sign) > millis(conn.silence.limit) {
                conn.give_up("the database does not answer");
            } else if conn.silence.ask_server && now >= conn.next_check_ms.load(Ordering::Relaxed) {
                let pause = now.saturating_sub(began).min(millis(CHECKS_APART));
                conn.next_check_ms.store(now + pause, Ordering::Relaxed);
                checks.push(conn);
            }
        }
        WATCH.connect_queue.shut_if_longer_than(if closed { Duration::ZERO } else { CONNECT_TIMEOUT });
        WATCH.check_queue.push_checks(checks);
    }
}
