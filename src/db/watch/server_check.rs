//! Asks servers about statements that take long, over a fresh connection, and ends orphaned sessions.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use diesel::pg::PgConnection;

use super::sessions::{self, Session};
use super::{Silence, TICK, WATCH, WatchedConnection, connect, lock, millis, now_ms};
use crate::error::Error;

/// Pause between the two checks that must agree before a connection is given up.
const BETWEEN_CHECKS: Duration = Duration::from_millis(300);
/// How long a check itself may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(2);
/// Pause after a server could not be asked.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(500);
/// After a lost answer, how long all connections are checked early: a request may need several connections,
/// and others may be silent too.
const ALARM: Duration = Duration::from_secs(15);
/// How long an orphaned session is remembered if it could not be ended.
const ORPHAN_MEMORY: Duration = Duration::from_secs(120);

/// What the thread has to do.
#[derive(Default)]
pub(super) struct CheckQueue {
    work: Mutex<Work>,
    filled: Condvar,
}

#[derive(Default)]
struct Work {
    checks: Vec<Arc<WatchedConnection>>,
    orphans: Vec<Orphan>,
}

/// A session that still runs at the server though its connection is lost.
struct Orphan {
    address: Arc<str>,
    session: Session,
    since: Instant,
}

impl CheckQueue {
    pub(super) fn push_checks(&self, checks: Vec<Arc<WatchedConnection>>) {
        if !checks.is_empty() {
            lock(&self.work).checks.extend(checks);
            self.filled.notify_all();
        }
    }

    pub(super) fn push_orphan(&self, address: Arc<str>, session: Session) {
        lock(&self.work).orphans.push(Orphan { address, session, since: Instant::now() });
        self.filled.notify_all();
    }

    /// Waits for work and takes all of it.
    fn take(&self) -> Work {
        let is_empty = |work: &mut Work| work.checks.is_empty() && work.orphans.is_empty();
        let work = self.filled.wait_while(lock(&self.work), is_empty);
        std::mem::take(&mut *work.unwrap_or_else(PoisonError::into_inner))
    }

    /// Tries again later to end these sessions.
    fn put_back(&self, orphans: &[&Orphan]) {
        let recent = orphans.iter().filter(|orphan| orphan.since.elapsed() < ORPHAN_MEMORY);
        let again = recent.map(|orphan| Orphan { address: Arc::clone(&orphan.address), ..**orphan });
        lock(&self.work).orphans.extend(again);
    }
}

/// The thread: takes work, and asks each server once for all of it.
pub(super) fn run() {
    loop {
        let work = WATCH.check_queue.take();
        let mut addresses: Vec<Arc<str>> = work.checks.iter().map(|conn| Arc::clone(&conn.address)).collect();
        addresses.extend(work.orphans.iter().map(|orphan| Arc::clone(&orphan.address)));
        addresses.sort_unstable();
        addresses.dedup();
        let mut pause = TICK;
        for address in addresses {
            let checks: Vec<_> = work.checks.iter().filter(|conn| conn.address == address).collect();
            let orphans: Vec<_> = work.orphans.iter().filter(|orphan| orphan.address == address).collect();
            if let Err(error) = ask_server(&address, &checks, &orphans) {
                tracing::debug!(%error, "the database cannot be asked about its sessions");
                pause = PAUSE_AFTER_FAILURE;
            }
        }
        std::thread::sleep(pause);
    }
}

/// A connection whose statement is checked: the session, and the statement's start and number.
struct Suspect {
    conn: Arc<WatchedConnection>,
    session: Session,
    statement: (u64, u64),
}

/// Ends the orphans. Gives up each connection for whose statement the server does not work, twice in a row,
/// and has no unread answer: the answer was lost on its way.
fn ask_server(address: &str, checks: &[&Arc<WatchedConnection>], orphans: &[&Orphan]) -> Result<(), Error> {
    let silence = Silence { limit: CHECK_TIMEOUT, ask_server: false };
    let mut conn = match connect(address, silence) {
        Ok(conn) => conn,
        Err(error) => {
            WATCH.check_queue.put_back(orphans);
            return Err(error);
        }
    };
    for orphan in orphans {
        sessions::terminate(&mut conn, orphan.session)?;
    }
    let suspects = checks.iter().filter_map(|conn| {
        let (session, statement) = (conn.session.get().copied()?, conn.statement()?);
        Some(Suspect { conn: Arc::clone(conn), session, statement })
    });
    let idle = without_work(&mut conn, suspects.collect())?;
    if idle.is_empty() {
        return Ok(());
    }
    std::thread::sleep(BETWEEN_CHECKS);
    for suspect in without_work(&mut conn, idle)? {
        if suspect.conn.statement() == Some(suspect.statement) && !suspect.conn.has_unread() {
            suspect.conn.give_up("its answer was lost on the way");
            WATCH.alarm_until_ms.store(now_ms() + millis(ALARM), Ordering::Relaxed);
            sessions::terminate(&mut conn, suspect.session)?;
        }
    }
    Ok(())
}

/// Those of the suspects for which the server does not work; notes a sign of life for the others.
fn without_work(conn: &mut PgConnection, suspects: Vec<Suspect>) -> Result<Vec<Suspect>, Error> {
    let rows = sessions::load(conn, suspects.iter().map(|suspect| suspect.session))?;
    let (working, idle): (Vec<_>, Vec<_>) =
        suspects.into_iter().partition(|suspect| sessions::is_working(&rows, suspect.session));
    for suspect in working {
        suspect.conn.last_sign_of_life_ms.store(now_ms(), Ordering::Relaxed);
    }
    Ok(idle)
}
