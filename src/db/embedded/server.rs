//! The server process: starts it, waits until it accepts connections, checks that commits are durable, stops
//! it.

use std::fs;
use std::process::{Child, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use diesel::prelude::*;
use diesel::sql_types::Text;
use rustix::process::{Pid, Signal, kill_process};

use super::cluster::{Cluster, NAME};
use super::log::Log;
use super::stop::Stop;
use super::{EmbeddedError, Result, orphan, print_line, settings};
use crate::db::address::with_timeouts;

/// Pause between two checks whether the server is ready.
const READY_CHECK_PAUSE: Duration = Duration::from_millis(10);
/// How long a fast stop (rollback of open transactions, then a checkpoint) may take before an immediate stop.
const FAST_TIMEOUT: Duration = Duration::from_secs(30);
/// How long an immediate stop (without a checkpoint) may take before the server is killed.
const IMMEDIATE_TIMEOUT: Duration = Duration::from_secs(10);

/// How to stop the server. No mode loses a commit.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum StopMode {
    /// Roll back open transactions and write a checkpoint.
    Fast,
    /// Stop at once; the next start recovers as after a crash.
    Immediate,
}

/// A server that accepts connections.
pub(super) struct Server {
    child: Child,
    log: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the server on the cluster. Returns when it accepts connections and has passed the checks.
    pub(super) fn start(cluster: &Cluster, log: &Log, stop: &Stop) -> Result<Server> {
        orphan::end(&cluster.pgdata, &cluster.account)?;
        cluster.configure()?;
        log.forget_last_lines();
        let mut command = cluster.binaries.command("postgres", &cluster.account);
        command.envs(KEEP_MEMORY);
        command.arg("-D").arg(&cluster.pgdata).args(settings::fixed(&cluster.socket_dir));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| {
            EmbeddedError::new(format!(
                "cannot run {}: {error}",
                cluster.binaries.dir.join("postgres").display()
            ))
        })?;
        let follower = child.stderr.take().map(|stderr| log.follow(stderr));
        let mut server = Server { child, log: follower };
        match server.wait_until_ready(cluster, log, stop).and_then(|()| check(cluster)) {
            Ok(()) => Ok(server),
            Err(error) => {
                let _ = server.stop(StopMode::Fast);
                Err(error)
            }
        }
    }

    /// Waits as long as the server process lives: recovery after a crash may take long.
    fn wait_until_ready(&mut self, cluster: &Cluster, log: &Log, stop: &Stop) -> Result<()> {
        let started = Instant::now();
        let mut is_announced = false;
        loop {
            if let Some(status) = self.exited()? {
                // Its last lines may still be in the pipe.
                self.log.take().map(JoinHandle::join);
                return Err(EmbeddedError::new(format!(
                    "PostgreSQL did not start ({status}); the end of {}:\n{}",
                    log.path().display(),
                    log.last_lines()
                )));
            }
            if stop.requested() {
                return Err(EmbeddedError::new("stopped on request before PostgreSQL was ready"));
            }
            if self.says_ready(cluster) {
                return Ok(());
            }
            if !is_announced && started.elapsed() > Duration::from_secs(10) {
                is_announced = true;
                print_line(format_args!("PostgreSQL is still starting, see {}", log.path().display()));
            }
            stop.sleep(READY_CHECK_PAUSE);
        }
    }

    /// The postmaster writes its state to the eighth line of `postmaster.pid`; `pg_ctl` reads it there too
    /// (`LOCK_FILE_LINE_PM_STATUS` in pidfile.h).
    fn says_ready(&self, cluster: &Cluster) -> bool {
        let file = fs::read_to_string(cluster.pgdata.join("postmaster.pid")).unwrap_or_default();
        let mut lines = file.lines().map(str::trim);
        lines.next() == Some(&self.pid().to_string()) && lines.nth(6) == Some("ready")
    }

    /// The process id of the postmaster.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status of the postmaster, if it has ended.
    pub(super) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| EmbeddedError::new(format!("cannot watch PostgreSQL: {error}")))
    }

    /// Stops the server, by stronger means if it takes too long.
    pub(super) fn stop(mut self, mode: StopMode) -> Result<()> {
        if mode == StopMode::Immediate || !self.end(Signal::INT, FAST_TIMEOUT)? {
            let _ =
                self.end(Signal::QUIT, IMMEDIATE_TIMEOUT)? || self.end(Signal::KILL, IMMEDIATE_TIMEOUT)?;
        }
        match self.exited()? {
            Some(_) => Ok(()),
            None => Err(EmbeddedError::new(format!("PostgreSQL (process {}) does not end", self.pid()))),
        }
    }

    /// Sends a signal and waits for the end; returns whether the server ended in time.
    fn end(&mut self, signal: Signal, at_most: Duration) -> Result<bool> {
        let until = Instant::now() + at_most;
        // We have not waited for the process yet, so its number still belongs to this server.
        if self.exited()?.is_some() {
            return Ok(true);
        }
        if let Some(pid) = Pid::from_raw(self.pid() as i32) {
            let _ = kill_process(pid, signal);
        }
        while self.exited()?.is_none() {
            if Instant::now() > until {
                return Ok(false);
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(true)
    }
}

#[derive(QueryableByName)]
struct Setting {
    #[diesel(sql_type = Text)]
    name: String,
    #[diesel(sql_type = Text)]
    setting: String,
}

/// Asks the server itself whether commits are durable and damaged pages are noticed. Creates the database if
/// it is missing.
fn check(cluster: &Cluster) -> Result<()> {
    let mut connection = match PgConnection::establish(&with_timeouts(&cluster.url(NAME))) {
        Err(error) if error.to_string().contains(&format!("database \"{NAME}\" does not exist")) => {
            let mut first = connect(cluster, "postgres")?;
            diesel::sql_query(format!("CREATE DATABASE {NAME}"))
                .execute(&mut first)
                .map_err(|error| EmbeddedError::new(format!("cannot create the database {NAME}: {error}")))?;
            connect(cluster, NAME)?
        }
        other => other.map_err(refused)?,
    };
    let settings: Vec<Setting> = diesel::sql_query(
        "SELECT name, setting FROM pg_settings \
         WHERE name IN ('fsync', 'full_page_writes', 'synchronous_commit', 'data_checksums')",
    )
    .load(&mut connection)
    .map_err(|error| EmbeddedError::new(format!("cannot read the settings of PostgreSQL: {error}")))?;
    match settings.iter().find(|setting| setting.setting != "on") {
        None if settings.len() == 4 => Ok(()),
        None => Err(EmbeddedError::new("PostgreSQL does not tell whether it keeps what it commits")),
        Some(Setting { name, setting }) => Err(EmbeddedError::new(format!(
            "PostgreSQL runs with {name} = {setting} on {}, which coulomb refuses because acknowledged data \
             could be lost: turn it on (data_checksums with pg_checksums --enable, synchronous_commit also \
             for the role and the database)",
            cluster.pgdata.display()
        ))),
    }
}

/// Lets glibc keep freed memory (mallopt(3)). Batches of usage and webhooks are messages of megabytes; by
/// default glibc returns their memory to the system each time, which then clears every page again for the
/// next batch. Other C libraries ignore these variables.
const KEEP_MEMORY: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TRIM_THRESHOLD_", "67108864"),
    ("MALLOC_TOP_PAD_", "1048576"),
];

fn connect(cluster: &Cluster, database: &str) -> Result<PgConnection> {
    PgConnection::establish(&with_timeouts(&cluster.url(database))).map_err(refused)
}

fn refused(error: ConnectionError) -> EmbeddedError {
    EmbeddedError::new(format!("PostgreSQL runs but refuses the connection: {error}"))
}
