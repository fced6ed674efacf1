//! A watch over the connections of this process: none waits for ever for a database that does not answer.
//!
//! libpq waits for an answer without a bound, and the system's own bounds do not help where something in
//! between still acknowledges what nobody reads. So each connection tells when a statement begins and ends
//! (diesel's instrumentation), and of one that takes long a fresh connection asks the server: a session that
//! works is left alone, however long; of one that waits for us, or that is gone, the answer was lost, and its
//! socket is shut. Where the server says nothing at all, patience ends after a while. libpq then finds the
//! connection closed, and its caller goes on as with any that is lost.
//!
//! A session that we lost hold of is ended at the server: it may hold locks that its successor waits for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, LazyLock, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use diesel::connection::{Instrumentation, InstrumentationEvent};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::result::DatabaseErrorKind;
use diesel::result::Error::DatabaseError;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text};

use super::address;
use super::socket::{Open, Socket};
use crate::error::{self, Error};

/// How often is looked whether a statement takes long.
const TICK: Duration = Duration::from_millis(200);
/// How long a statement goes on before the server is asked about it; further looks are as far apart as it is
/// old.
const LOOK_AFTER: Duration = Duration::from_secs(2);
const LOOKS_APART: Duration = Duration::from_secs(30);
/// How long connections are suspected after one was silent: a request may need several, and others are
/// silent, too.
const ALARMED: Duration = Duration::from_secs(15);
/// Between two looks that must agree.
const LOOK_AGAIN: Duration = Duration::from_millis(300);
/// How long the look itself may take.
const LOOK_PATIENCE: Duration = Duration::from_secs(2);
/// How long making a connection may take before its socket is shut; libpq's own bound holds until the server
/// has accepted us.
const CONNECT_PATIENCE: Duration = Duration::from_secs(6);
/// How long is waited for others to have connected.
const TURN_PATIENCE: Duration = Duration::from_secs(10);
/// How long nothing is asked after a server could not be.
const REST: Duration = Duration::from_millis(500);
/// How long want of room is told after it was met: what is not tried is not met again.
const NO_ROOM: Duration = Duration::from_secs(15);
/// How long a lost session is remembered that could not be ended.
const REMEMBERED: Duration = Duration::from_secs(120);

/// A connection's session at the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Session {
    pub(super) pid: i32,
    /// When it began, in microseconds since 1970: a process number comes again.
    pub(super) started: i64,
}

/// How long a connection may be silent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Patience {
    /// How long nothing may be known of the server while a statement is under way.
    pub(super) silence: Duration,
    /// Whether the server is asked about statements that take long.
    pub(super) asked: bool,
}

impl Patience {
    /// For whoever is waited for by a person at a terminal: the system's bounds alone.
    pub(super) const ENDLESS: Self = Self { silence: Duration::MAX, asked: false };
}

/// A connection under watch.
struct Line {
    address: Arc<str>,
    session: OnceLock<Session>,
    /// Not there where it could not be found.
    socket: Option<Socket>,
    patience: Patience,
    /// When the statement under way began; 0: none is.
    since: AtomicU64,
    count: AtomicU64,
    /// When the server was last known to work on it.
    life: AtomicU64,
    /// When the server is asked next.
    next_look: AtomicU64,
    lost: AtomicBool,
}

impl Line {
    fn begin(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        let now = now();
        let alarmed = now < WATCH.alarm.load(Ordering::Relaxed);
        let after = if alarmed { TICK } else { LOOK_AFTER };
        self.next_look.store(now + millis(after), Ordering::Relaxed);
        self.since.store(now, Ordering::Release);
    }

    fn end(&self) {
        self.since.store(0, Ordering::Release);
    }

    /// Ends what waits on it, and sees to its session.
    fn cut(&self, why: &str) {
        let Some(socket) = self.socket.as_ref().filter(|_| !self.lost.load(Ordering::Relaxed)) else {
            return;
        };
        tracing::warn!(
            pid = self.session.get().map(|session| session.pid),
            why,
            "a database connection is given up"
        );
        socket.shut();
        self.lose();
    }

    fn lose(&self) {
        if !self.lost.swap(true, Ordering::Relaxed)
            && let Some(session) = self.session.get()
        {
            let lost = Lost { address: Arc::clone(&self.address), session: *session, since: Instant::now() };
            WATCH.work().lost.push(lost);
            WATCH.told.notify_all();
        }
    }

    /// Statement and its number, when one is under way.
    fn under_way(&self) -> Option<(u64, u64)> {
        let since = self.since.load(Ordering::Acquire);
        (since != 0 && !self.lost.load(Ordering::Relaxed))
            .then(|| (since, self.count.load(Ordering::Relaxed)))
    }

    /// What was answered lies there to be read.
    fn has_unread(&self) -> bool {
        self.socket.as_ref().is_some_and(Socket::has_unread)
    }
}

/// What diesel tells of a connection.
struct Probe(Arc<Line>);

impl Instrumentation for Probe {
    fn on_connection_event(&mut self, event: InstrumentationEvent<'_>) {
        match event {
            InstrumentationEvent::StartQuery { .. } => self.0.begin(),
            InstrumentationEvent::FinishQuery { error, .. } => {
                self.0.end();
                let Some(error) = error else { return };
                if error::is_disconnected(error) {
                    self.0.lose();
                }
                if error::is_want_of_room(error) {
                    WATCH.no_room.store(now(), Ordering::Relaxed);
                }
            }
            _ => {}
        }
    }
}

/// A session that we lost hold of.
struct Lost {
    address: Arc<str>,
    session: Session,
    since: Instant,
}

/// What the thread that asks servers has to do.
#[derive(Default)]
struct Work {
    looks: Vec<Arc<Line>>,
    lost: Vec<Lost>,
}

struct Watch {
    begun: Instant,
    lines: Mutex<Vec<Weak<Line>>>,
    work: Mutex<Work>,
    told: Condvar,
    /// One connects at a time, as the socket is found by what is new.
    turns: Mutex<Turns>,
    turned: Condvar,
    closed: AtomicBool,
    /// Until when connections are suspected, because one was silent.
    alarm: AtomicU64,
    /// When a statement last failed for want of room on the server's disk; 0: never.
    no_room: AtomicU64,
}

static WATCH: LazyLock<Watch> = LazyLock::new(|| {
    for (name, run) in [("database-watch", watch as fn()), ("database-look", look)] {
        std::thread::Builder::new().name(name.to_owned()).spawn(run).expect("the system starts a thread");
    }
    Watch {
        // A time of 0 means none.
        begun: Instant::now() - Duration::from_millis(1),
        lines: Mutex::default(),
        work: Mutex::default(),
        told: Condvar::new(),
        turns: Mutex::default(),
        turned: Condvar::new(),
        closed: AtomicBool::new(false),
        alarm: AtomicU64::new(0),
        no_room: AtomicU64::new(0),
    }
});

fn now() -> u64 {
    millis(WATCH.begun.elapsed())
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Watch {
    fn work(&self) -> MutexGuard<'_, Work> {
        lock(&self.work)
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        let mut lines = lock(&self.lines);
        lines.retain(|line| line.strong_count() > 0);
        lines.iter().filter_map(Weak::upgrade).collect()
    }
}

/// Who connects, and who comes next: in the order in which they came, as a busy machine would else let some
/// wait for ever.
#[derive(Default)]
struct Turns {
    /// Since when somebody connects, and what was open before.
    taken: Option<(Instant, Arc<Open>)>,
    waiting: VecDeque<u64>,
    next: u64,
}

/// A turn at connecting.
struct Turn;

impl Turn {
    fn take() -> Result<(Self, Arc<Open>), Error> {
        let mut turns = lock(&WATCH.turns);
        turns.next += 1;
        let mine = turns.next;
        turns.waiting.push_back(mine);
        let not_yet = |turns: &mut Turns| turns.taken.is_some() || turns.waiting.front() != Some(&mine);
        let waited = WATCH.turned.wait_timeout_while(turns, TURN_PATIENCE, not_yet);
        let (mut turns, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        turns.waiting.retain(|other| *other != mine);
        if waited.timed_out() {
            drop(turns);
            WATCH.turned.notify_all();
            return Err(Error::Busy("the database does not take connections: try again in a second"));
        }
        let open = Arc::new(Open::now());
        turns.taken = Some((Instant::now(), Arc::clone(&open)));
        Ok((Self, open))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        lock(&WATCH.turns).taken = None;
        WATCH.turned.notify_all();
    }
}

/// Connects, under watch.
///
/// # Errors
/// When the server cannot be reached or refuses, does not answer, or [`close`] was called.
pub(super) fn connect(address: &str, patience: Patience) -> Result<PgConnection, Error> {
    if WATCH.closed.load(Ordering::SeqCst) {
        return Err(Error::Stopping);
    }
    let (turn, open) = Turn::take()?;
    let made = PgConnection::establish(&address::bounded(address));
    let mut sockets = if made.is_ok() { open.since() } else { Vec::new() };
    drop(turn);
    let mut conn = made.map_err(|error| unreachable(address, &error))?;
    // Of several none is known to be the right one.
    let socket = sockets.pop().filter(|_| sockets.is_empty());
    let line = Arc::new(Line {
        address: address.into(),
        session: OnceLock::new(),
        socket,
        patience,
        since: AtomicU64::new(0),
        count: AtomicU64::new(0),
        life: AtomicU64::new(0),
        next_look: AtomicU64::new(0),
        lost: AtomicBool::new(false),
    });
    lock(&WATCH.lines).push(Arc::downgrade(&line));
    conn.set_instrumentation(Probe(Arc::clone(&line)));
    let session: SessionRow =
        diesel::sql_query(format!("{SESSIONS} WHERE pid = pg_backend_pid()")).get_result(&mut conn)?;
    // It is set here alone.
    let _ = line.session.set(Session { pid: session.pid, started: session.started.unwrap_or_default() });
    Ok(conn)
}

fn unreachable(address: &str, error: &ConnectionError) -> Error {
    let told = crate::config::redact(address, &error.to_string());
    let info: Box<String> = Box::new(format!("connection to server: {told}"));
    DatabaseError(DatabaseErrorKind::UnableToSendCommand, info).into()
}

/// The session of a connection that [`connect`] made.
pub(super) fn session(conn: &mut PgConnection) -> Option<Session> {
    conn.instrumentation().downcast_ref::<Probe>()?.0.session.get().copied()
}

/// Whether a statement of this process failed lately for want of room on the server's disk.
#[must_use]
pub fn has_no_room() -> bool {
    let last = WATCH.no_room.load(Ordering::Relaxed);
    last != 0 && now().saturating_sub(last) < millis(NO_ROOM)
}

/// Gives up every connection that a statement is under way on, now and later, and makes no more.
pub fn close() {
    WATCH.closed.store(true, Ordering::SeqCst);
}

/// Every [`TICK`]: gives up what nothing is heard of, and finds what to ask the server about.
fn watch() {
    let mut before = now();
    loop {
        std::thread::sleep(TICK);
        let now = now();
        // This process was stopped itself, or had no turn: what it has not heard says nothing.
        let asleep = now.saturating_sub(before) > 10 * millis(TICK);
        before = now;
        let closed = WATCH.closed.load(Ordering::SeqCst);
        let mut looks = Vec::new();
        for line in WATCH.lines() {
            let Some((since, _)) = line.under_way() else { continue };
            if asleep {
                line.life.store(now, Ordering::Relaxed);
            }
            let heard = since.max(line.life.load(Ordering::Relaxed));
            if closed {
                line.cut("the daemon stops");
            } else if now.saturating_sub(heard) > millis(line.patience.silence) {
                line.cut("the database does not answer");
            } else if line.patience.asked && now >= line.next_look.load(Ordering::Relaxed) {
                let apart = now.saturating_sub(since).min(millis(LOOKS_APART));
                line.next_look.store(now + apart, Ordering::Relaxed);
                looks.push(line);
            }
        }
        let connecting = lock(&WATCH.turns).taken.clone();
        if let Some((_, open)) = connecting.filter(|(since, _)| closed || since.elapsed() > CONNECT_PATIENCE)
        {
            open.since().iter().for_each(Socket::shut);
        }
        if !looks.is_empty() {
            WATCH.work().looks.append(&mut looks);
            WATCH.told.notify_all();
        }
    }
}

/// Asks servers about what takes long, and ends the sessions that were lost.
fn look() {
    loop {
        let nothing = |work: &mut Work| work.looks.is_empty() && work.lost.is_empty();
        let waited = WATCH.told.wait_while(WATCH.work(), nothing).unwrap_or_else(PoisonError::into_inner);
        let work = std::mem::take(&mut *{ waited });
        let mut addresses: Vec<Arc<str>> = work.looks.iter().map(|line| Arc::clone(&line.address)).collect();
        addresses.extend(work.lost.iter().map(|lost| Arc::clone(&lost.address)));
        addresses.sort_unstable();
        addresses.dedup();
        let mut rest = TICK;
        for address in addresses {
            let looks: Vec<_> = work.looks.iter().filter(|line| line.address == address).collect();
            let lost: Vec<_> = work.lost.iter().filter(|lost| lost.address == address).collect();
            if let Err(error) = ask(&address, &looks, &lost) {
                tracing::debug!(%error, "the database cannot be asked about its sessions");
                rest = REST;
            }
        }
        std::thread::sleep(rest);
    }
}

#[derive(QueryableByName)]
struct SessionRow {
    #[diesel(sql_type = Integer)]
    pid: i32,
    #[diesel(sql_type = Nullable<BigInt>)]
    started: Option<i64>,
    #[diesel(sql_type = Nullable<Text>)]
    state: Option<String>,
}

/// Of other users' sessions only the process is told.
const SESSIONS: &str = "SELECT pid, (extract(epoch FROM backend_start) * 1000000)::bigint AS started, state \
    FROM pg_stat_activity";

fn sessions(conn: &mut PgConnection, of: impl Iterator<Item = Session>) -> QueryResult<Vec<SessionRow>> {
    let pids: Vec<i32> = of.map(|session| session.pid).collect();
    diesel::sql_query(format!("{SESSIONS} WHERE pid = ANY ($1)")).bind::<Array<Integer>, _>(pids).load(conn)
}

/// Whether the server works for it, or may for all that is known.
fn works(sessions: &[SessionRow], session: Session) -> bool {
    sessions.iter().any(|row| {
        row.pid == session.pid
            && row.started.is_none_or(|started| started == session.started)
            && row.state.as_ref().is_none_or(|state| !state.starts_with("idle"))
    })
}

fn ask(address: &str, looks: &[&Arc<Line>], lost: &[&Lost]) -> Result<(), Error> {
    let asked = Patience { silence: LOOK_PATIENCE, asked: false };
    let mut conn = match connect(address, asked) {
        Ok(conn) => conn,
        Err(error) => {
            remember(lost);
            return Err(error);
        }
    };
    for lost in lost {
        end(&mut conn, lost.session)?;
    }
    let suspects = |conn: &mut PgConnection, lines: Vec<(Arc<Line>, Session, (u64, u64))>| {
        let found = sessions(conn, lines.iter().map(|(_, session, _)| *session))?;
        let (alive, silent): (Vec<_>, Vec<_>) =
            lines.into_iter().partition(|(_, session, _)| works(&found, *session));
        for (line, ..) in alive {
            line.life.store(now(), Ordering::Relaxed);
        }
        Ok::<_, Error>(silent)
    };
    let lines = looks
        .iter()
        .filter_map(|line| Some((Arc::clone(line), line.session.get().copied()?, line.under_way()?)));
    let silent = suspects(&mut conn, lines.collect())?;
    if silent.is_empty() {
        return Ok(());
    }
    std::thread::sleep(LOOK_AGAIN);
    for (line, session, statement) in suspects(&mut conn, silent)? {
        if line.under_way() == Some(statement) && !line.has_unread() {
            line.cut("its answer was lost on the way");
            WATCH.alarm.store(now() + millis(ALARMED), Ordering::Relaxed);
            end(&mut conn, session)?;
        }
    }
    Ok(())
}

/// Keeps for another time what could not be ended.
fn remember(lost: &[&Lost]) {
    let fresh = lost.iter().filter(|lost| lost.since.elapsed() < REMEMBERED);
    let again = fresh.map(|lost| Lost { address: Arc::clone(&lost.address), ..**lost });
    WATCH.work().lost.extend(again);
}

/// Ends a session at the server, if it is still there.
pub(super) fn end(conn: &mut PgConnection, session: Session) -> QueryResult<()> {
    diesel::sql_query(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE pid = $1 AND (extract(epoch FROM backend_start) * 1000000)::bigint = $2",
    )
    .bind::<Integer, _>(session.pid)
    .bind::<BigInt, _>(session.started)
    .execute(conn)
    .map(drop)
}

/// Whether a session is still there.
pub(super) fn is_there(conn: &mut PgConnection, session: Session) -> QueryResult<bool> {
    let found = sessions(conn, std::iter::once(session))?;
    Ok(found.iter().any(|row| row.started.is_none_or(|started| started == session.started)))
}
