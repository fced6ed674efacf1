//! A database that makes callers wait: it is stopped, its tables are locked, or all its connections are
//! taken.

use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rustix::process::{Pid, Signal, kill_process};

use super::{ANSWERED_WITHIN, Place, eventually};
use crate::support::{Daemon, Database, Server};

/// A server with stopped processes; dropping this continues them.
struct Stopped(Vec<i32>);

impl Stopped {
    fn all(server: &Server) -> Self {
        let processes = server.processes();
        signal(&processes, Signal::STOP);
        Self(processes)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        signal(&self.0, Signal::CONT);
    }
}

fn signal(processes: &[i32], signal: Signal) {
    for pid in processes.iter().filter_map(|pid| Pid::from_raw(*pid)) {
        let _ = kill_process(pid, signal);
    }
}

/// Sends every kind of request while none can succeed; returns the time of the slowest answer.
async fn refused(place: &Place, n: u32) {
    let begun = Instant::now();
    let answers = place.each(n).await;
    assert!(answers.iter().all(|status| *status == 503), "{answers:?}");
    assert!(begun.elapsed() < ANSWERED_WITHIN, "answered after {:?}", begun.elapsed());
}

async fn stops_for(time: Duration) {
    let server = Server::start(&format!("-stopped-{}", time.as_secs()));
    let mut place = Place::on(Database::at(&server.url), &[("COULOMB_DRAIN_S", "3")]).await;
    place.until_each_done(0).await;
    let stopped = Stopped::all(&server);
    let begun = Instant::now();
    let mut n = 1;
    while n == 1 || begun.elapsed() < time {
        refused(&place, n).await;
        n += 1;
    }
    drop(stopped);
    for n in 0..n {
        place.until_each_done(n).await;
    }
    place.daemon.projected().await;
    let times = i64::from(n);
    let database = &place.database;
    assert_eq!(database.number("SELECT count(*) FROM usage_records"), times);
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox"), times);
    assert_eq!(database.number("SELECT count(*) FROM quota_reservations"), times);
    assert_eq!(database.unbalanced(), [] as [String; 0]);

    // All connections are taken, after the daemon's own broke.
    let mut taken = Vec::new();
    database.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE pid <> pg_backend_pid() AND datname IS NOT NULL",
    );
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(2) {
        match PgConnection::establish(&server.url) {
            Ok(conn) => taken.push(conn),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
    let begun = Instant::now();
    place.each(n).await;
    assert!(begun.elapsed() < ANSWERED_WITHIN, "answered after {:?}", begun.elapsed());
    drop(taken);
    place.until_each_done(n).await;
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);

    // SIGTERM ends the daemon meanwhile.
    let stopped = Stopped::all(&server);
    let begun = Instant::now();
    place.daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(30), "ended after {:?}", begun.elapsed());
    drop(stopped);
    place.daemon = Daemon::start(&place.database);
    place.until_each_done(n + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_database_is_told_within_seconds() {
    stops_for(Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the longer stop takes longer"]
async fn a_database_may_be_stopped_for_twenty_seconds() {
    stops_for(Duration::from_secs(20)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn locked_tables_are_told_within_seconds() {
    let place = Place::new(&[("COULOMB_LOCK_TIMEOUT_MS", "1000")]).await;
    place.until_each_done(0).await;
    let mut other = place.database.owner();
    other
        .batch_execute(
            "BEGIN; LOCK TABLE orgs, catalog, usage_keys, stripe_arrivals,
            quota_reservations IN ACCESS EXCLUSIVE MODE",
        )
        .expect("locked");
    refused(&place, 1).await;
    other.batch_execute("ROLLBACK").expect("unlocked");
    place.until_each_done(1).await;
    assert_eq!(place.database.number("SELECT count(*) FROM usage_records"), 2);
    eventually("the orgs", || {
        place.database.number("SELECT count(*) FROM orgs WHERE name LIKE 'fault %'") >= 2
    })
    .await;
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);
}
