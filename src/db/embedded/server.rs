//! The running server: starts it, waits until it accepts, checks that it keeps what it commits, stops it.

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
use super::{EmbeddedError, Result, orphan, say, settings};
use crate::db::address::bounded;

/// How long a server that is not ready yet is looked at again.
const POLL: Duration = Duration::from_millis(10);
/// How long open transactions are rolled back and a checkpoint is written before the server is stopped
/// without.
const FAST: Duration = Duration::from_secs(30);
/// How long the server has for the stop without a checkpoint before it is killed.
const IMMEDIATE: Duration = Duration::from_secs(10);

/// How to stop: a commit is safe in each case.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Roll back what is open and write a checkpoint.
    Fast,
    /// Leave everything to crash recovery at the next start.
    Immediate,
}

/// A server that accepts connections.
pub(super) struct Server {
    child: Child,
    log: Option<JoinHandle<()>>,
}

impl Server {
    /// Starts the server on the cluster and returns once it accepts and has been checked.
    pub(super) fn start(cluster: &Cluster, log: &Log, stop: &Stop) -> Result<Server> {
        orphan::end(&cluster.pgdata, &cluster.account)?;
        cluster.configure()?;
        log.forget();
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
                let _ = server.stop(Mode::Fast);
                Err(error)
            }
        }
    }

    /// Waits as long as the server lives: recovery after a crash takes its time.
    fn wait_until_ready(&mut self, cluster: &Cluster, log: &Log, stop: &Stop) -> Result<()> {
        let started = Instant::now();
        let mut told = false;
        loop {
            if let Some(status) = self.exited()? {
                // Its last words may still be in the pipe.
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
            if !told && started.elapsed() > Duration::from_secs(10) {
                told = true;
                say(format_args!("PostgreSQL is still starting, see {}", log.path().display()));
            }
            stop.sleep(POLL);
        }
    }

    /// The postmaster writes its state into the eighth line of its file, as `pg_ctl` relies on, too
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

    /// How the postmaster ended, if it did.
    pub(super) fn exited(&mut self) -> Result<Option<ExitStatus>> {
        self.child.try_wait().map_err(|error| EmbeddedError::new(format!("cannot watch PostgreSQL: {error}")))
    }

    /// Stops the server, harder if it takes too long.
    pub(super) fn stop(mut self, mode: Mode) -> Result<()> {
        if mode == Mode::Immediate || !self.end(Signal::INT, FAST)? {
            let _ = self.end(Signal::QUIT, IMMEDIATE)? || self.end(Signal::KILL, IMMEDIATE)?;
        }
        match self.exited()? {
            Some(_) => Ok(()),
            None => Err(EmbeddedError::new(format!("PostgreSQL (process {}) does not end", self.pid()))),
        }
    }

    /// Sends a signal and waits for the end: whether it came in time.
    fn end(&mut self, signal: Signal, at_most: Duration) -> Result<bool> {
        let until = Instant::now() + at_most;
        // Not reaped yet, so the number is still this server's.
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

/// Asks the server itself whether a commit is durable and damage is noticed, and makes the database if it is
/// not there yet.
fn check(cluster: &Cluster) -> Result<()> {
    let mut connection = match PgConnection::establish(&bounded(&cluster.url(NAME))) {
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
                could \
             be lost: turn it on (data_checksums with pg_checksums --enable, synchronous_commit also for the \
             role and the database)",
            cluster.pgdata.display()
        ))),
    }
}

/// Batches of usage and webhooks are messages of megabytes. glibc gives what they took back to the system
/// after each, and has every page cleared again for the next, unless told otherwise (mallopt(3)); other C
/// libraries know none of these.
const KEEP_MEMORY: [(&str, &str); 3] = [
    ("MALLOC_MMAP_THRESHOLD_", "33554432"),
    ("MALLOC_TRIM_THRESHOLD_", "67108864"),
    ("MALLOC_TOP_PAD_", "1048576"),
];

fn connect(cluster: &Cluster, database: &str) -> Result<PgConnection> {
    PgConnection::establish(&bounded(&cluster.url(database))).map_err(refused)
}

fn refused(error: ConnectionError) -> EmbeddedError {
    EmbeddedError::new(format!("PostgreSQL runs but refuses the connection: {error}"))
}
