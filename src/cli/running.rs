//! The run file: with it a command finds the daemon that runs on this machine, and uses its settings.
//!
//! The daemon writes a file named by its process id, locks it while it lives, and removes it at its end. The
//! file says where the daemon listens and where its database is; it holds no secret. The command reads the
//! settings from where the daemon has them: its settings file and, on Linux, its environment, which only the
//! daemon's user and root may read.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions, TryLockError};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{Failure, Usage};
use crate::config::Config;
use crate::db::embedded;

/// The system's directory. Only root can create it, so root has chosen who may write to it.
const SYSTEM: &str = if cfg!(target_os = "macos") { "/var/run/coulomb" } else { "/run/coulomb" };
const EXTENSION: &str = "json";

/// A running daemon, as its run file describes it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Daemon {
    pub(super) pid: u32,
    pub(super) version: String,
    /// `http` or `https`.
    pub(super) scheme: String,
    pub(super) address: SocketAddr,
    /// Where its database is, for people.
    pub(super) database: String,
    /// The data directory of its embedded PostgreSQL.
    pub(super) data_dir: Option<PathBuf>,
    pub(super) config: Option<PathBuf>,
}

/// The run files of this process; dropping them removes them.
pub(super) struct RunFiles(Vec<(PathBuf, File)>);

impl Drop for RunFiles {
    fn drop(&mut self) {
        for (path, _lock) in &self.0 {
            // If this fails, the missing lock shows that the file is stale.
            drop(fs::remove_file(path));
        }
    }
}

impl Daemon {
    /// Writes run files: one where every user looks, and one beside the embedded database.
    pub(super) fn leave(&self, config: &Config) -> RunFiles {
        let first = runtime_dirs(config).into_iter().next();
        let dirs = first.into_iter().chain(self.data_dir.clone());
        let mut left: Vec<_> = dirs.filter_map(|dir| self.write(&dir).ok()).collect();
        if left.is_empty() && config.run_dir.is_none() {
            left.extend(config.data_dir().ok().and_then(|dir| self.write(&dir).ok()));
        }
        if left.is_empty() {
            tracing::warn!(
                "no run file could be written, so commands need settings of their own; COULOMB_RUN_DIR \
                 names a directory for it"
            );
        }
        RunFiles(left)
    }

    fn write(&self, dir: &Path) -> io::Result<(PathBuf, File)> {
        fs::create_dir_all(dir)?;
        for (path, file) in files(dir) {
            if file.try_lock().is_ok() {
                // A killed daemon left this file.
                drop(fs::remove_file(path));
            }
        }
        let file = tempfile::NamedTempFile::new_in(dir)?;
        file.as_file().lock()?;
        file.as_file().write_all(serde_json::to_string_pretty(self)?.as_bytes())?;
        file.as_file().set_permissions(Permissions::from_mode(0o644))?;
        let path = dir.join(format!("daemon-{}.{EXTENSION}", self.pid));
        Ok((path.clone(), file.persist(&path).map_err(|error| error.error)?))
    }

    /// The daemon's settings; this process's environment overrides them.
    ///
    /// # Errors
    /// When this user cannot read them.
    pub(super) fn settings(&self, own: Config) -> Result<Config, Failure> {
        let mut config = match environment(self.pid) {
            Ok(mut env) => {
                env.extend(std::env::vars().filter(|(name, value)| {
                    !value.is_empty() && (name.starts_with("COULOMB_") || name.starts_with("STRIPE_"))
                }));
                Config::load_with_env(&env, self.config.as_deref())?
            }
            Err(error) => match &self.data_dir {
                // Not every system shows a process's environment.
                Some(data_dir) if embedded::running_url(data_dir).is_some() => {
                    let mut own = own;
                    own.data_dir = Some(data_dir.clone());
                    own
                }
                _ => {
                    return Err(Usage::new(format!(
                        "{}: its settings cannot be read ({error}): {ADVICE}",
                        self.description()
                    )));
                }
            },
        };
        if config.database_url.is_none() {
            config.data_dir.clone_from(&self.data_dir);
            if self.data_dir.as_deref().and_then(embedded::running_url).is_none() {
                return Err(Usage::new(format!(
                    "{}: its database is not open to this user: {ADVICE}",
                    self.description()
                )));
            }
        }
        // Runs no program that another user's settings name.
        config.postgres_bin_dir = None;
        tracing::info!(
            pid = self.pid,
            database = self.database,
            "working with the settings of the running daemon"
        );
        Ok(config)
    }

    /// Describes the daemon, for people.
    pub(super) fn description(&self) -> String {
        format!(
            "a daemon runs here (process {}, {}://{}, {})",
            self.pid, self.scheme, self.address, self.database
        )
    }
}

const ADVICE: &str =
    "run this as the daemon's user or as root, or set DATABASE_URL or --config to what it has";

/// The daemon whose settings a command should use; `None` when the command's own settings say where the
/// database is.
///
/// # Errors
/// When several daemons run.
pub(super) fn find(config: &Config) -> Result<Option<Daemon>, Failure> {
    if config.names_a_database() {
        return Ok(None);
    }
    let mut found = all(config);
    if found.len() > 1 {
        let daemons: Vec<String> = found.iter().map(Daemon::description).collect();
        return Err(Usage::new(format!(
            "several daemons run: choose one by DATABASE_URL, COULOMB_DATA_DIR or --config: {}",
            daemons.join("; ")
        )));
    }
    Ok(found.pop())
}

/// Every running daemon that left a run file where this process looks.
pub(super) fn all(config: &Config) -> Vec<Daemon> {
    let dirs = runtime_dirs(config).into_iter().chain(config.data_dir().ok());
    let mut found = BTreeMap::new();
    for dir in dirs {
        for (_, file) in files(&dir).into_iter().filter(|(_, file)| is_trusted(&dir, file)) {
            // The daemon holds its lock as long as it lives.
            if matches!(file.try_lock_shared(), Err(TryLockError::WouldBlock))
                && let Ok(daemon) = serde_json::from_reader::<_, Daemon>(&file)
            {
                found.insert(daemon.pid, daemon);
            }
        }
    }
    found.into_values().collect()
}

/// True when the file may decide what a command of this user does.
fn is_trusted(dir: &Path, file: &File) -> bool {
    let own = rustix::process::geteuid().as_raw();
    dir == Path::new(SYSTEM) || file.metadata().is_ok_and(|meta| meta.uid() == own || meta.uid() == 0)
}

/// Where run files are, the best place first. A daemon leaves its own in the first.
fn runtime_dirs(config: &Config) -> Vec<PathBuf> {
    if let Some(dir) = &config.run_dir {
        return vec![dir.clone()];
    }
    let system = PathBuf::from(SYSTEM);
    let own = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|dir| dir.is_absolute());
    let own = own.map(|dir| dir.join("coulomb"));
    if crate::config::is_root() || rustix::fs::access(&system, rustix::fs::Access::WRITE_OK).is_ok() {
        return [Some(system), own].into_iter().flatten().collect();
    }
    [own, Some(system)].into_iter().flatten().collect()
}

fn files(dir: &Path) -> Vec<(PathBuf, File)> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let ours = entries.filter(|path| {
        path.extension().is_some_and(|extension| extension == EXTENSION)
            && path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("daemon-"))
    });
    ours.filter_map(|path| File::open(&path).ok().map(|file| (path, file))).collect()
}

/// The environment of another process.
fn environment(pid: u32) -> io::Result<BTreeMap<String, String>> {
    let bytes = fs::read(format!("/proc/{pid}/environ"))?;
    let pairs =
        bytes.split(|byte| *byte == 0).filter_map(|pair| std::str::from_utf8(pair).ok()?.split_once('='));
    Ok(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
}
