//! Finds the programs of a PostgreSQL server on this machine.

use std::cmp::Reverse;
use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::Account;
use super::{EmbeddedError, Result, tool};

/// The oldest supported major version.
pub(super) const OLDEST: u32 = 15;

/// A directory with the programs `postgres` and `initdb` of one version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Binaries {
    pub(super) dir: PathBuf,
    pub(super) version: Version,
    /// Directories of shared libraries that the system does not have.
    pub(super) libraries: Vec<PathBuf>,
}

/// A version as `postgres --version` prints it, such as "15.18".
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Version {
    pub(super) major: u32,
    pub(super) minor: u32,
    pub(super) text: String,
}

impl Binaries {
    /// A command of this installation. It runs as `account`, without our own environment variables.
    pub(super) fn command(&self, program: &str, account: &Account) -> Command {
        let mut command = Command::new(self.dir.join(program));
        command.env_clear().env("PATH", "/usr/local/bin:/usr/bin:/bin").env("LC_ALL", "C").current_dir("/");
        if let Ok(paths) = env::join_paths(&self.libraries)
            && !paths.is_empty()
        {
            command.env("LD_LIBRARY_PATH", paths);
        }
        account.apply(&mut command);
        command
    }
}

/// Finds the newest usable version, or version `cluster` if it is given. `None` if this machine has no
/// PostgreSQL server. `unpacked`: roots of packages that [`super::install`] has unpacked before.
pub(super) fn find(
    bin_dir: Option<&Path>,
    cluster: Option<u32>,
    account: &Account,
    unpacked: &[PathBuf],
) -> Result<Option<Binaries>> {
    let found = match bin_dir {
        Some(dir) => {
            let only = probe(dir, account, vec![]).ok_or_else(|| {
                EmbeddedError::new(format!(
                    "postgres_bin_dir is {}, but `postgres` and `initdb` cannot be run from there: correct \
                     it, or leave it out to have them searched for",
                    dir.display()
                ))
            })?;
            vec![only]
        }
        None => {
            let mut dirs: Vec<(PathBuf, Vec<PathBuf>)> = vec![];
            for dir in places().into_iter().filter_map(|dir| resolve_links(&dir)) {
                if !dirs.iter().any(|(known, _)| *known == dir) {
                    dirs.push((dir, vec![]));
                }
            }
            dirs.extend(unpacked.iter().flat_map(|root| unpacked_dirs(root)));
            dirs.into_iter().filter_map(|(dir, libraries)| probe(&dir, account, libraries)).collect()
        }
    };
    choose(found, cluster)
}

/// Chooses the cluster's major version, else the newest; of equal versions the first.
fn choose(mut found: Vec<Binaries>, cluster: Option<u32>) -> Result<Option<Binaries>> {
    if found.is_empty() {
        return Ok(None);
    }
    found.sort_by_key(|binaries| Reverse((binaries.version.major, binaries.version.minor)));
    let versions =
        found.iter().map(|binaries| format!("{} in {}", binaries.version.text, binaries.dir.display()));
    let versions = versions.collect::<Vec<_>>().join(", ");
    if let Some(major) = cluster {
        return match found.into_iter().find(|binaries| binaries.version.major == major) {
            Some(binaries) => Ok(Some(binaries)),
            None => Err(EmbeddedError::new(format!(
                "the cluster was made by PostgreSQL {major}, which is not here (found: {versions}): install \
                 PostgreSQL {major} and start again, or move the data to the other version with pg_upgrade \
                 or pg_dump"
            ))),
        };
    }
    match found.swap_remove(0) {
        newest if newest.version.major >= OLDEST => Ok(Some(newest)),
        _ => Err(EmbeddedError::new(format!(
            "PostgreSQL {OLDEST} or newer is needed (found: {versions}): install it, or set DATABASE_URL to \
             a server that runs elsewhere"
        ))),
    }
}

/// Directories where programs are usually installed, best first.
fn places() -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> =
        env::var_os("PATH").map(|path| env::split_paths(&path).collect()).unwrap_or_default();
    if let Ok(output) = Command::new("pg_config").arg("--bindir").output() {
        places.push(String::from_utf8_lossy(&output.stdout).trim().into());
    }
    for (parent, prefix, below) in [
        ("/usr/lib/postgresql", "", "bin"),
        ("/usr", "pgsql-", "bin"),
        ("/usr/libexec", "postgresql", ""),
        ("/opt/homebrew/opt", "postgresql", "bin"),
        ("/usr/local/opt", "postgresql", "bin"),
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"),
    ] {
        places.extend(children(Path::new(parent), prefix).into_iter().map(|dir| dir.join(below)));
    }
    places.retain(|dir| dir.is_absolute());
    places
}

/// The directory that contains the programs themselves: `/usr/local/bin/postgres` is often a link.
fn resolve_links(dir: &Path) -> Option<PathBuf> {
    let postgres = dir.join("postgres").canonicalize().ok()?;
    let target = postgres.parent()?;
    [target, dir].into_iter().find(|dir| dir.join("initdb").exists()).map(Path::to_path_buf)
}

/// The program directories below the root of unpacked Debian packages, with the directories of libraries.
pub(super) fn unpacked_dirs(root: &Path) -> Vec<(PathBuf, Vec<PathBuf>)> {
    let mut libraries = vec![];
    for parent in [root.join("usr/lib"), root.join("lib")] {
        libraries.extend(
            children(&parent, "").into_iter().filter(|dir| dir.to_string_lossy().contains("-linux-")),
        );
    }
    let versions = children(&root.join("usr/lib/postgresql"), "");
    versions.into_iter().map(|dir| (dir.join("bin"), libraries.clone())).collect()
}

fn children(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_name().to_string_lossy().starts_with(prefix))
        .map(|entry| entry.path())
        .collect()
}

/// The programs in `dir`, if they run.
fn probe(dir: &Path, account: &Account, libraries: Vec<PathBuf>) -> Option<Binaries> {
    let version = Version { major: 0, minor: 0, text: String::new() };
    let mut binaries = Binaries { dir: std::path::absolute(dir).ok()?, version, libraries };
    if !binaries.dir.join("initdb").exists() {
        return None;
    }
    let output = tool::run(binaries.command("postgres", account).arg("--version"), None).ok()?;
    binaries.version = parse(&output.text).filter(|_| output.success)?;
    Some(binaries)
}

/// Parses "postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)", also "… 19beta2".
fn parse(line: &str) -> Option<Version> {
    let text = line.trim().strip_prefix("postgres (PostgreSQL) ")?.split_whitespace().next()?;
    let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
    let major = digits(text);
    let minor = text.strip_prefix(&major)?.strip_prefix('.').map(digits).unwrap_or_default();
    Some(Version { major: major.parse().ok()?, minor: minor.parse().unwrap_or(0), text: text.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn binaries(dir: &str, text: &str) -> Binaries {
        let version = parse(&format!("postgres (PostgreSQL) {text}")).unwrap();
        Binaries { dir: dir.into(), version, libraries: vec![] }
    }

    #[test]
    fn reads_versions() {
        let version = parse("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)\n").unwrap();
        assert_eq!((version.major, version.minor, version.text.as_str()), (15, 18, "15.18"));
        let beta = parse("postgres (PostgreSQL) 19beta2").unwrap();
        assert_eq!((beta.major, beta.minor, beta.text.as_str()), (19, 0, "19beta2"));
        assert_eq!(parse("bash: postgres: command not found"), None);
    }

    #[test]
    fn takes_the_newest_or_the_clusters_own() {
        let all = || vec![binaries("/a", "15.3"), binaries("/b", "17.2"), binaries("/c", "17.10")];
        assert_eq!(choose(all(), None).unwrap().unwrap().dir, Path::new("/c"));
        assert_eq!(choose(all(), Some(15)).unwrap().unwrap().dir, Path::new("/a"));
        assert_eq!(choose(vec![], Some(15)).unwrap(), None);
    }

    #[test]
    fn says_which_version_is_missing() {
        let error = choose(vec![binaries("/b", "17.2")], Some(15)).unwrap_err().to_string();
        assert!(error.contains("made by PostgreSQL 15") && error.contains("17.2 in /b"), "{error}");
        let error = choose(vec![binaries("/b", "14.9")], None).unwrap_err().to_string();
        assert!(error.contains("PostgreSQL 15 or newer") && error.contains("DATABASE_URL"), "{error}");
    }

    #[test]
    fn follows_links_to_the_installation() {
        let temp = tempfile::tempdir().unwrap();
        let root = temp.path().canonicalize().unwrap();
        for dir in ["lib/bin", "bin"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        for program in ["postgres", "initdb"] {
            fs::write(root.join("lib/bin").join(program), "").unwrap();
        }
        std::os::unix::fs::symlink(root.join("lib/bin/postgres"), root.join("bin/postgres")).unwrap();
        assert_eq!(resolve_links(&root.join("bin")), Some(root.join("lib/bin")));
        assert_eq!(resolve_links(&root), None);
    }
}
