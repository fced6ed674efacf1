//! The guard: a separate process that runs the server as long as its parent, the daemon, lives.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::parent_id;
use std::path::{Path, PathBuf};
use std::process::{self, ExitCode};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::account::Account;
use super::cluster::{self, Cluster, NAME};
use super::find::{self, Binaries};
use super::log::Log;
use super::server::{Server, StopMode};
use super::stop::Stop;
use super::{EmbeddedError, Result, cannot, install, orphan, print_line};

/// How long to wait for another guard to give up the lock: while its daemon lives, and after its daemon died.
const WAIT_DAEMON_ALIVE: Duration = Duration::from_secs(2);
const WAIT_DAEMON_DEAD: Duration = Duration::from_secs(60);

/// The options of the hidden command `coulomb postgres`.
#[derive(Debug, Clone, clap::Args)]
pub struct GuardArgs {
    /// Directory of the embedded cluster; created if missing
    #[arg(long, value_name = "DIR")]
    pub data_dir: PathBuf,
    /// Delete the data directory after the stop
    #[arg(long)]
    pub temporary: bool,
    /// Directory of `postgres` and `initdb`; searched for if left out
    #[arg(long, value_name = "DIR")]
    pub bin_dir: Option<PathBuf>,
    /// Fail where PostgreSQL is not installed, rather than install it
    #[arg(long)]
    pub no_install: bool,
}

/// The one line that the guard writes to standard output: the server is ready, or why not.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
pub(super) enum Report {
    Ready { url: String, data_dir: PathBuf, version: String, pid: u32 },
    Failed { error: String },
}

/// Runs the server until standard input ends or SIGTERM, SIGINT or SIGHUP arrives, then stops it.
///
/// Writes one line of JSON to standard output: `url`, `data_dir`, `version` and the `pid` of the postmaster
/// once the server accepts connections, or `error`. A server that dies is started again, under the same URL.
pub fn run_guard(args: &GuardArgs) -> ExitCode {
    let result = Stop::listen().and_then(|stop| guard(args, &stop));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&Report::Failed { error: error.to_string() });
            ExitCode::FAILURE
        }
    }
}

fn guard(args: &GuardArgs, stop: &Stop) -> Result<()> {
    let data_dir = cluster::make_data_dir(&args.data_dir)?;
    let (lock, parent_before) = lock(&data_dir)?;
    if args.temporary {
        // If the same daemon's earlier guard was killed, the daemon still uses its data.
        claim_temporary(&data_dir, parent_before == Some(parent_id()))?;
    }
    let result = serve(args, &data_dir, stop);
    if args.temporary {
        fs::remove_dir_all(&data_dir).map_err(cannot("remove", &data_dir))?;
    }
    drop(lock);
    result
}

/// Starts the server, keeps it running until the stop, and stops it.
fn serve(args: &GuardArgs, data_dir: &Path, stop: &Stop) -> Result<()> {
    let programs = match programs(args, data_dir)? {
        (account, Some(binaries)) => (account, binaries),
        _ if args.no_install => return Err(install::missing()),
        _ => {
            install::install(data_dir, stop)?;
            let (account, binaries) = programs(args, data_dir)?;
            (account, binaries.ok_or_else(install::missing)?)
        }
    };
    let cluster = Cluster::open(data_dir, programs, args.temporary, stop)?;
    let log = Log::new(data_dir.join("postgres.log"));
    let server = Server::start(&cluster, &log, stop)?;
    report(&Report::Ready {
        url: cluster.url(NAME),
        data_dir: data_dir.to_owned(),
        version: cluster.binaries.version.text.clone(),
        pid: server.pid(),
    });
    // The data is deleted next, so it needs no checkpoint.
    let mode = if args.temporary { StopMode::Immediate } else { StopMode::Fast };
    let stopped = match keep_running(server, &cluster, &log, stop)? {
        Some(server) => server.stop(mode),
        None => Ok(()),
    };
    if !cluster.socket_dir.starts_with(data_dir) {
        let _ = fs::remove_dir(&cluster.socket_dir);
    }
    stopped
}

/// The account and the programs of the server; an installation may add both.
fn programs(args: &GuardArgs, data_dir: &Path) -> Result<(Account, Option<Binaries>)> {
    let account = Account::for_data(data_dir)?;
    let unpacked = install::unpacked(data_dir);
    let found = find::find(args.bin_dir.as_deref(), cluster::major(data_dir), &account, &unpacked)?;
    Ok((account, found))
}

/// Starts the server again whenever it dies, until a stop is requested. Returns the server that runs then.
fn keep_running(mut server: Server, cluster: &Cluster, log: &Log, stop: &Stop) -> Result<Option<Server>> {
    let (shortest, longest) = (Duration::from_millis(100), Duration::from_secs(5));
    let mut delay = shortest;
    let mut since = Instant::now();
    while !stop.requested() {
        let Some(status) = server.exited()? else {
            stop.sleep(Duration::from_secs(1));
            continue;
        };
        print_line(format_args!(
            "PostgreSQL (process {}) ended ({status}), starting it again; its log is {}",
            server.pid(),
            log.path().display()
        ));
        if since.elapsed() > Duration::from_secs(60) {
            delay = shortest;
        }
        server = loop {
            if stop.requested() {
                return Ok(None);
            }
            match Server::start(cluster, log, stop) {
                Ok(server) => break server,
                Err(error) => print_line(error),
            }
            stop.pause(delay);
            delay = (delay * 2).min(longest);
        };
        since = Instant::now();
        print_line(format_args!("PostgreSQL runs again (process {})", server.pid()));
    }
    Ok(Some(server))
}

/// Locks the data directory for this guard. The kernel releases the lock when the guard ends, in whatever
/// way. Also returns the parent of the previous guard.
fn lock(data_dir: &Path) -> Result<(File, Option<u32>)> {
    let path = data_dir.join("coulomb.lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(cannot("open", &path))?;
    let (locked, holder) = lock_with_patience(&mut file);
    let (guard, daemon) = holder.trim().split_once(' ').unwrap_or(("unknown", "unknown"));
    match locked {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            return Err(EmbeddedError::new(format!(
                "the data directory {} is in use by another coulomb (process {daemon}, with the database \
                 guard {guard}): stop it, or set COULOMB_DATA_DIR to another directory",
                data_dir.display()
            )));
        }
        Err(TryLockError::Error(error)) => return Err(cannot("lock", &path)(error)),
    }
    let this = format!("{} {}\n", process::id(), parent_id());
    // Write first, then truncate: a concurrent reader always finds a holder.
    file.rewind()
        .and_then(|()| file.write_all(this.as_bytes()))
        .and_then(|()| file.set_len(this.len() as u64))
        .map_err(cannot("write", &path))?;
    Ok((file, daemon.parse().ok()))
}

/// Tries to lock, and waits for a guard whose daemon was killed, because it stops soon: so a new daemon can
/// be started at once. Also returns the file's text, which names the holder.
fn lock_with_patience(file: &mut File) -> (std::result::Result<(), TryLockError>, String) {
    let started = Instant::now();
    loop {
        let locked = file.try_lock();
        let mut holder = String::new();
        let _ = file.rewind().and_then(|()| file.read_to_string(&mut holder));
        let daemon = holder.trim().split_once(' ').and_then(|(_, daemon)| daemon.parse().ok());
        // A daemon that was just killed may still exist as a zombie, so wait a little even then.
        let patience =
            if daemon.is_some_and(orphan::process_exists) { WAIT_DAEMON_ALIVE } else { WAIT_DAEMON_DEAD };
        if !matches!(locked, Err(TryLockError::WouldBlock)) || started.elapsed() > patience {
            return (locked, holder);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Marks a directory for deletion; refuses one that contains other files. Removes what an earlier temporary
/// cluster has left, unless `resume`.
fn claim_temporary(data_dir: &Path, resume: bool) -> Result<()> {
    let marker = data_dir.join("temporary");
    if marker.exists() && resume {
        return Ok(());
    }
    let mut entries = fs::read_dir(data_dir).map_err(cannot("read", data_dir))?.flatten();
    if !marker.exists() && entries.any(|entry| entry.file_name() != "coulomb.lock") {
        return Err(EmbeddedError::new(format!(
            "{} is not empty, and a temporary cluster would be deleted with everything in it: name another \
             directory",
            data_dir.display()
        )));
    }
    fs::write(&marker, "This directory is deleted when its coulomb stops.\n")
        .map_err(cannot("write", &marker))?;
    orphan::end(&data_dir.join("pgdata"), &Account::for_data(data_dir)?)?;
    cluster::remove_all(&data_dir.join("pgdata"))?;
    cluster::remove_all(&data_dir.join("password"))
}

/// Writes the report. If the parent has ended, nobody reads it, and that is no error.
fn report(report: &Report) {
    if let Ok(line) = serde_json::to_string(report) {
        let mut out = io::stdout().lock();
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_names_its_holder() {
        let dir = tempfile::tempdir().unwrap();
        let (held, before) = lock(dir.path()).unwrap();
        assert_eq!(before, None);
        let message = lock(dir.path()).unwrap_err().to_string();
        assert!(message.contains(&format!("guard {}", process::id())), "{message}");
        assert!(message.contains(&format!("(process {},", parent_id())), "{message}");
        drop(held);
        assert_eq!(lock(dir.path()).unwrap().1, Some(parent_id()));
    }

    #[test]
    fn only_an_empty_directory_becomes_temporary() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("letters"), "kept").unwrap();
        assert!(claim_temporary(dir.path(), true).unwrap_err().to_string().contains("not empty"));
        fs::remove_file(dir.path().join("letters")).unwrap();
        claim_temporary(dir.path(), false).unwrap();
        fs::write(dir.path().join("password"), "of a crashed one").unwrap();
        claim_temporary(dir.path(), true).unwrap();
        assert!(dir.path().join("password").exists());
        claim_temporary(dir.path(), false).unwrap();
        assert!(!dir.path().join("password").exists());
    }

    #[test]
    fn reports_are_one_line_each() {
        let ready = Report::Ready {
            url: "postgresql://".into(),
            data_dir: "/d".into(),
            version: "17.2".into(),
            pid: 7,
        };
        let line = serde_json::to_string(&ready).unwrap();
        assert_eq!(line, r#"{"url":"postgresql://","data_dir":"/d","version":"17.2","pid":7}"#);
        let failed = serde_json::to_string(&Report::Failed { error: "a\nb".into() }).unwrap();
        assert_eq!(failed, r#"{"error":"a\nb"}"#);
    }
}
