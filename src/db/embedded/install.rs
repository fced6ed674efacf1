//! Installs PostgreSQL with the system's package manager if there is none.
//!
//! Root installs the system's package. For an ordinary user on Debian and similar systems, the same packages
//! are unpacked into a cache directory: nothing outside of it changes, and `sudo` is never used.

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::stop::Stop;
use super::{EmbeddedError, Result, debian, print_line, tool};

/// The roots of unpacked packages, newest name first.
pub(super) fn unpacked(data_dir: &Path) -> Vec<PathBuf> {
    caches(data_dir).iter().flat_map(|cache| debian::roots(cache)).collect()
}

/// Installs a server.
///
/// # Errors
/// Says why that is not possible, and what to do instead.
pub(super) fn install(data_dir: &Path, stop: &Stop) -> Result<()> {
    let root = rustix::process::geteuid().is_root();
    let has = |program: &str| Path::new(program).exists();
    if has("/usr/bin/apt-get") && has("/usr/bin/dpkg") {
        return match root {
            true => debian::install(stop),
            false => debian::unpack(&cache(data_dir)?, stop),
        };
    }
    let command = match root {
        true if has("/sbin/apk") => vec!["/sbin/apk", "add", "postgresql", "tzdata"],
        true if has("/usr/bin/dnf") => vec!["/usr/bin/dnf", "install", "-y", "postgresql-server"],
        false if has("/opt/homebrew/bin/brew") => vec!["/opt/homebrew/bin/brew", "install", "postgresql@17"],
        false if has("/usr/local/bin/brew") => vec!["/usr/local/bin/brew", "install", "postgresql@17"],
        _ => return Err(missing()),
    };
    announce(format_args!("installing it with `{}`", command.join(" ")));
    // Without `stop`: a killed package manager may leave half a package.
    tool::must("installing PostgreSQL", system(command[0]).args(&command[1..]), None).map(drop)
}

/// The error if no server was found and none can be installed.
pub(super) fn missing() -> EmbeddedError {
    EmbeddedError::new(
        "no PostgreSQL server was found on this machine: install PostgreSQL 15 or newer (the package is \
         usually called `postgresql` or `postgresql-server`), set postgres_bin_dir to where its \
         `postgres` and `initdb` are, or set DATABASE_URL to a server that runs elsewhere",
    )
}

/// Tells the user what the installation does.
pub(super) fn announce(what: impl std::fmt::Display) {
    print_line(format_args!(
        "PostgreSQL is not installed: {what} (to avoid this, install PostgreSQL 15 or newer yourself or set \
         DATABASE_URL)"
    ));
}

/// A command of the system. It gets the environment variables for proxies and certificates, and no secret of
/// the daemon.
pub(super) fn system(program: &str) -> Command {
    let mut command = Command::new(program);
    command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("LC_ALL", "C").env("DEBIAN_FRONTEND", "noninteractive");
    let kept = ["http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY"];
    let kept = kept.into_iter().chain(["HOME", "TMPDIR", "APT_CONFIG", "SSL_CERT_FILE", "SSL_CERT_DIR"]);
    command.envs(kept.filter_map(|name| Some((name, env::var_os(name)?))));
    command
}

/// Possible directories for unpacked packages: the user's cache directory, and the data directory, because
/// service accounts often have no home directory.
fn caches(data_dir: &Path) -> Vec<PathBuf> {
    let absolute = |name| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let user = absolute("XDG_CACHE_HOME").or_else(|| Some(absolute("HOME")?.join(".cache")));
    user.map(|user| user.join("coulomb")).into_iter().chain([data_dir.join("cache")]).collect()
}

/// The first of [`caches`] that is writable.
fn cache(data_dir: &Path) -> Result<PathBuf> {
    let writable =
        |dir: &PathBuf| std::fs::create_dir_all(dir).and_then(|()| tempfile::tempfile_in(dir)).is_ok();
    caches(data_dir).into_iter().find(writable).ok_or_else(|| {
        EmbeddedError::new(format!(
            "no directory to unpack PostgreSQL into: make {} writable, or set XDG_CACHE_HOME",
            data_dir.display()
        ))
    })
}
