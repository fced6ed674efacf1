//! The embedded PostgreSQL server, for installations without a database URL.
//!
//! The daemon does not start the server itself. It starts a *guard* (`coulomb postgres …`, see
//! [`run_guard`]), which reads from a pipe. When the daemon ends, even by `kill -9`, the pipe ends, and the
//! guard stops the server. When the server dies, the guard starts it again. When the guard dies, [`Embedded`]
//! starts another one.
//!
//! The data directory contains:
//!
//! | Path | What |
//! |---|---|
//! | `coulomb.lock` | locked by the guard; has the process ids of guard and daemon |
//! | `password` | of the role `coulomb`, mode 0600 |
//! | `pgdata/` | the cluster; named `pgdata.partial/` until `initdb` has finished |
//! | `cache/` | PostgreSQL itself, if it was downloaded and the user has no home directory |
//! | `run/` | the Unix socket, if the path is short enough for a socket |
//! | `daemon-*.json` | tells commands where the daemon runs (`cli/running.rs`) |
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

use crate::logging::print_line;

pub use guard::{GuardArgs, run_guard};
pub use handle::Embedded;
pub use running::{has_cluster, running_url};

/// How to run the embedded server.
#[derive(Debug, Clone)]
pub struct Options {
    /// The directory for everything the server stores. Created if missing.
    pub data_dir: PathBuf,
    /// The directory of `postgres` and `initdb`. `None`: search the usual places.
    pub bin_dir: Option<PathBuf>,
    /// Whether to delete the data directory after the stop. It must be missing or empty at the start.
    pub temporary: bool,
    /// Whether PostgreSQL may be installed if it is not found.
    pub install: bool,
    /// The `coulomb` executable to run as the guard. `None`: the running one.
    pub program: Option<PathBuf>,
}

impl Options {
    /// The defaults: search for binaries, install them if there are none, keep the data.
    pub fn new(data_dir: impl Into<PathBuf>) -> Options {
        Options { data_dir: data_dir.into(), bin_dir: None, temporary: false, install: true, program: None }
    }
}

/// Why the embedded server does not run: a sentence for people that says what to do. If a tool of PostgreSQL
/// failed, its last lines follow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct EmbeddedError(String);

type Result<T> = std::result::Result<T, EmbeddedError>;

impl EmbeddedError {
    fn new(message: impl Into<String>) -> EmbeddedError {
        EmbeddedError(message.into())
    }
}

/// Makes the error of a file operation, such as "cannot create /srv/x: No space left on device".
fn cannot(what: impl fmt::Display, path: &Path) -> impl FnOnce(io::Error) -> EmbeddedError {
    move |error| EmbeddedError(format!("cannot {what} {}: {error}", path.display()))
}
