//! A private PostgreSQL server, for whoever gives no database URL.
//!
//! The daemon does not start the server itself but a *guard* (`coulomb postgres …`, see [`run_guard`]), which
//! holds the read end of a pipe. When the daemon is gone, even by `kill -9`, the pipe ends and the guard
//! stops the server. The guard also starts the server again when it dies, and [`Embedded`] does so for the
//! guard.
//!
//! What lies in the data directory:
//!
//! | Path | What |
//! |---|---|
//! | `coulomb.lock` | held by the guard; the process ids of guard and daemon |
//! | `password` | of the role `coulomb`, mode 0600 |
//! | `pgdata/` | the cluster; `pgdata.partial/` while it is being made |
//! | `cache/` | PostgreSQL itself, where it was downloaded and the user has no home |
//! | `run/` | the Unix socket, if the path is short enough for one |
//! | `daemon-*.json` | tells commands of the running daemon (`cli/running.rs`) |
//! | `temporary` | marks a directory that is deleted after the stop |
//! | `postgres.log`, `postgres.log.1` | the server's log, at most 10 MiB each |

mod account;
mod cluster;
mod debian;
mod find;
mod guard;
mod handle;
mod install;
mod log;
mod orphan;
mod running;
mod server;
mod settings;
mod stop;
mod tool;

use std::path::{Path, PathBuf};
use std::{fmt, io};

use crate::logging::say;

pub use guard::{GuardArgs, run_guard};
pub use handle::Embedded;
pub use running::{has_cluster, running_url};

/// How to run the private server.
#[derive(Debug, Clone)]
pub struct Options {
    /// Everything the server keeps lies here. Created if absent.
    pub data_dir: PathBuf,
    /// The directory of `postgres` and `initdb`. `None` searches the usual places.
    pub bin_dir: Option<PathBuf>,
    /// Delete the data directory after the stop. It must be absent or empty at first.
    pub temporary: bool,
    /// Whether PostgreSQL may be installed where none is found.
    pub install: bool,
    /// The `coulomb` executable that serves as the guard. `None` is the running one.
    pub program: Option<PathBuf>,
}

impl Options {
    /// The defaults: search for binaries, install them where there are none, keep the data.
    pub fn new(data_dir: impl Into<PathBuf>) -> Options {
        Options { data_dir: data_dir.into(), bin_dir: None, temporary: false, install: true, program: None }
    }
}

/// Why the private server does not run: a sentence for people, naming what to do, and where a tool
/// of PostgreSQL failed its last lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EmbeddedError(String);

type Result<T> = std::result::Result<T, EmbeddedError>;

impl EmbeddedError {
    fn new(message: impl Into<String>) -> EmbeddedError {
        EmbeddedError(message.into())
    }
}

/// Builds the error of a file operation: "cannot create /srv/x: No space left on device".
fn cannot(what: impl fmt::Display, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    move |error| EmbeddedError(format!("cannot {what} {}: {error}", path.display()))
}
