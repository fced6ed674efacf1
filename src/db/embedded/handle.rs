//! The daemon's side: starts the guard, reads its report, and starts another guard when it dies.

use std::fmt;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::guard::Report;
use super::{EmbeddedError, Options, Result, print_line};
use crate::panics;

/// How long to wait for the guard to stop; the guard's own time limits add up to less.
const STOP_TIMEOUT: Duration = Duration::from_secs(60);

/// A running embedded server; dropping it stops the server.
pub struct Embedded {
    url: String,
    data_dir: PathBuf,
    shared: Arc<Shared>,
    ended: Mutex<Receiver<Result<()>>>,
}

/// State that the handle and the thread that watches the guard share.
#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    stopping: bool,
    /// The write end of the pipe that keeps the guard alive.
    pipe: Option<ChildStdin>,
    guard: Option<Pid>,
    /// Closed when the stop is requested, which wakes the watching thread.
    wake: Option<Sender<()>>,
}

impl Embedded {
    /// Starts the embedded server and returns when it accepts connections.
    ///
    /// It searches the programs of PostgreSQL 15 or newer, installs them if there are none and
    /// [`Options::install`] allows it, creates the cluster if the directory is empty, and recovers it after a
    /// crash. If we are root, the server runs as the owner of the data, else `postgres`, else `nobody`.
    ///
    /// # Errors
    /// A sentence that says what to do: the directory is in use or not accessible, the programs are missing
    /// or have another major version than the cluster, a tool of PostgreSQL failed, or the server's settings
    /// could lose commits.
    pub fn start(options: &Options) -> Result<Embedded> {
        let program = match &options.program {
            Some(program) => program.clone(),
            None => std::env::current_exe().map_err(|error| {
                EmbeddedError::new(format!(
                    "cannot tell which program this is, to start it as a guard: {error}"
                ))
            })?,
        };
        let options = Options { program: Some(program), ..options.clone() };
        let shared = Arc::new(Shared::default());
        let (mut guard, ready) = shared.start_guard(&options)?;
        let (url, data_dir) = match ready {
            Report::Ready { url, data_dir, .. } => (url, data_dir),
            Report::Failed { error } => {
                let _ = guard.wait();
                return Err(EmbeddedError::new(error));
            }
        };
        let (end_sender, ended) = mpsc::channel();
        let (wake, woken) = mpsc::channel();
        shared.lock().wake = Some(wake);
        let watched = shared.clone();
        let same_url = url.clone();
        let watch = move || {
            loop {
                // After a panic, watch the same guard again; it may have ended meanwhile.
                match panics::catch_as_none(|| watched.watch(&mut guard, &options, &same_url, &woken)) {
                    Some(ended) => break drop(end_sender.send(ended)),
                    None => thread::sleep(Duration::from_secs(1)),
                }
            }
        };
        thread::Builder::new().name("postgres-watch".to_owned()).spawn(watch).map_err(|error| {
            EmbeddedError::new(format!("cannot start the thread that watches the database: {error}"))
        })?;
        Ok(Embedded { url, data_dir, shared, ended: Mutex::new(ended) })
    }

    /// The URL for libpq: the database `coulomb` as the role `coulomb`, a superuser of this cluster. It
    /// contains the password, and stays the same after restarts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The absolute path of the data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Stops the server: it rolls back open transactions and disconnects clients. Returns when it has ended.
    ///
    /// # Errors
    /// The server or its guard did not end properly; it is then stopped by force.
    pub fn stop(self) -> Result<()> {
        self.end()
    }

    fn end(&self) -> Result<()> {
        {
            let mut state = self.shared.lock();
            if state.stopping {
                return Ok(());
            }
            state.stopping = true;
            state.pipe = None;
            state.wake = None;
        }
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        match ended.recv_timeout(STOP_TIMEOUT) {
            Ok(result) => result,
            Err(RecvTimeoutError::Disconnected) => Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                if let Some(guard) = self.shared.lock().guard.take() {
                    let _ = kill_process(guard, Signal::KILL);
                }
                Err(EmbeddedError::new("the database guard did not end in time and was killed"))
            }
        }
    }
}

impl fmt::Debug for Embedded {
    /// Without the URL, because it contains the password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Embedded").field("data_dir", &self.data_dir).finish_non_exhaustive()
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            print_line(error);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Starts a guard and waits for its report. The pipe is stored at once, so that a stop works even while
    /// the server still starts.
    fn start_guard(&self, options: &Options) -> Result<(Child, Report)> {
        let mut command = Command::new(options.program.as_deref().unwrap_or(Path::new("coulomb")));
        command.arg("postgres").arg("--data-dir").arg(&options.data_dir);
        if let Some(dir) = &options.bin_dir {
            command.arg("--bin-dir").arg(dir);
        }
        if options.temporary {
            command.arg("--temporary");
        }
        if !options.install {
            command.arg("--no-install");
        }
        // A process group of its own: Ctrl-C on a terminal must reach only the daemon, which finishes its
        // requests first and then stops the guard.
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).process_group(0);
        let mut guard = command.spawn().map_err(|error| {
            EmbeddedError::new(format!(
                "cannot start the database guard {:?}: {error}",
                command.get_program()
            ))
        })?;
        {
            let mut state = self.lock();
            state.guard = Pid::from_raw(guard.id() as i32);
            state.pipe = guard.stdin.take().filter(|_| !state.stopping);
        }
        let mut line = String::new();
        if let Some(stdout) = guard.stdout.take() {
            let _ = BufReader::new(stdout).read_line(&mut line);
        }
        match serde_json::from_str(&line) {
            Ok(report) => Ok((guard, report)),
            Err(_) => {
                self.lock().pipe = None;
                let how = guard.wait().map_or_else(|error| error.to_string(), |status| status.to_string());
                Err(EmbeddedError::new(format!(
                    "the database guard ended before the database was ready ({how})"
                )))
            }
        }
    }

    /// Waits until the guard ends. Unless a stop was requested, starts another guard, which stops the server
    /// that the first guard has left, and starts it again.
    fn watch(&self, guard: &mut Child, options: &Options, url: &str, woken: &Receiver<()>) -> Result<()> {
        let mut delay = Duration::from_millis(50);
        loop {
            let status = guard.wait();
            {
                let mut state = self.lock();
                state.guard = None;
                if state.stopping {
                    return match status {
                        Ok(status) if status.success() => Ok(()),
                        Ok(status) => {
                            Err(EmbeddedError::new(format!("the database guard ended with {status}")))
                        }
                        Err(error) => Err(EmbeddedError::new(format!("the database guard is lost: {error}"))),
                    };
                }
                state.pipe = None;
            }
            tracing::error!(?status, "the database guard ended, starting another one");
            *guard = loop {
                match self.start_guard(options) {
                    Ok((guard, Report::Ready { url: now, .. })) => {
                        if now != url {
                            tracing::error!("the database came back under another address: restart coulomb");
                        }
                        break guard;
                    }
                    Ok((mut guard, Report::Failed { error })) => {
                        let _ = guard.wait();
                        tracing::error!(error, "the database does not start");
                    }
                    Err(error) => tracing::error!(%error, "the database does not start"),
                }
                let waited = woken.recv_timeout(delay);
                if waited != Err(RecvTimeoutError::Timeout) || self.lock().stopping {
                    return Ok(());
                }
                delay = (delay * 2).min(Duration::from_secs(5));
            };
            delay = Duration::from_millis(50);
        }
    }
}
