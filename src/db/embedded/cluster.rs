//! The cluster in the data directory: creates it, and knows where its files are.

use std::fs::{self, DirBuilder, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use super::account::Account;
use super::find::Binaries;
use super::stop::Stop;
use super::{EmbeddedError, Result, cannot, orphan, print_line, settings, tool};

/// The name of the role (a superuser) and of the database.
pub(super) const NAME: &str = "coulomb";
/// Longest socket directory, in bytes. A socket's path has 104 bytes on macOS and 108 on Linux (`sun_path`,
/// with the final NUL), and "/.s.PGSQL.5432" takes 14.
const LONGEST_SOCKET_DIR: usize = 104 - 1 - 14;

/// A cluster that exists; its server may be stopped.
pub(super) struct Cluster {
    pub(super) account: Account,
    pub(super) binaries: Binaries,
    pub(super) pgdata: PathBuf,
    pub(super) socket_dir: PathBuf,
    password: String,
}

impl Cluster {
    /// Opens the cluster of a data directory; creates it if there is none. The caller has the directory's
    /// lock.
    pub(super) fn open(
        data_dir: &Path,
        (account, binaries): (Account, Binaries),
        temporary: bool,
        stop: &Stop,
    ) -> Result<Cluster> {
        account.check_access(data_dir)?;
        let pgdata = data_dir.join("pgdata");
        let exists = pgdata.join("PG_VERSION").exists();
        let password = password(&data_dir.join("password"), exists)?;
        let socket_dir = socket_dir(data_dir, &std::env::temp_dir());
        let cluster = Cluster { account, binaries, pgdata, socket_dir, password };
        if !exists {
            cluster.create(data_dir, temporary, stop)?;
        }
        cluster.make_socket_dir()?;
        Ok(cluster)
    }

    /// A URL for libpq: one of the cluster's databases, as the role `coulomb`.
    pub(super) fn url(&self, database: &str) -> String {
        url(&self.socket_dir, &self.password, database)
    }

    /// Writes `coulomb.conf`, the default settings for this machine.
    pub(super) fn configure(&self) -> Result<()> {
        let mut try_lz4 = self.binaries.command("postgres", &self.account);
        try_lz4.arg("-D").arg(&self.pgdata).args(["-c", "wal_compression=lz4", "-C", "wal_compression"]);
        let lz4 = tool::run(&mut try_lz4, None).is_ok_and(|output| output.success);
        let path = self.pgdata.join("coulomb.conf");
        let text = settings::defaults(settings::memory(), lz4);
        if fs::read_to_string(&path).is_ok_and(|old| old == text) {
            return Ok(());
        }
        fs::write(&path, text).map_err(cannot("write", &path))?;
        self.account.make_owner_of(&path)
    }

    /// Creates the cluster in `pgdata.partial`, and renames it when it is complete. So a crash in between
    /// leaves nothing that looks like a cluster.
    fn create(&self, data_dir: &Path, temporary: bool, stop: &Stop) -> Result<()> {
        match fs::remove_dir(&self.pgdata) {
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {
                return Err(EmbeddedError::new(format!(
                    "{} holds files but no cluster (PG_VERSION is missing): move them away, or set \
                     COULOMB_DATA_DIR to another directory",
                    self.pgdata.display()
                )));
            }
            _ => {}
        }
        print_line(format_args!(
            "making a PostgreSQL {} cluster in {}",
            self.binaries.version.text,
            self.pgdata.display()
        ));
        let partial = data_dir.join("pgdata.partial");
        orphan::end_initdb(&partial, &self.account)?;
        remove_all(&partial)?;
        make_private(&partial)?;
        self.account.make_owner_of(&partial)?;
        // A copy, because initdb may run as another user, who cannot read the original.
        let pwfile = data_dir.join("pgdata.pwfile");
        write_private(&pwfile, &self.password)?;
        self.account.make_owner_of(&pwfile)?;
        let mut initdb = self.binaries.command("initdb", &self.account);
        // The next guard finds initdb by this working directory, and ends it, if this guard is killed now.
        initdb
            .current_dir(&partial)
            .arg("-D")
            .arg(&partial)
            .arg("--pwfile")
            .arg(&pwfile)
            .args(["--username", NAME]);
        initdb.args(["--encoding=UTF8", "--locale=C", "--data-checksums", "--auth=scram-sha-256"]);
        initdb.arg("--no-instructions");
        if temporary {
            // A temporary cluster need not survive a crash of the machine. The server itself syncs as always.
            initdb.arg("--no-sync");
        }
        let made = tool::must("making the PostgreSQL cluster", &mut initdb, Some(stop));
        fs::remove_file(&pwfile).map_err(cannot("remove", &pwfile))?;
        made?;
        let conf = partial.join("postgresql.conf");
        let initial = fs::read_to_string(&conf).map_err(cannot("read", &conf))?;
        let mut own = settings::postgresql_conf(&initial);
        if temporary {
            // All tests share it, and daemons inside the test process run until its end.
            own.push_str("max_connections = 400\n");
        }
        fs::write(&conf, own).map_err(cannot("write", &conf))?;
        File::open(&conf).and_then(|file| file.sync_all()).map_err(cannot("write", &conf))?;
        fs::rename(&partial, &self.pgdata).map_err(cannot("move the new cluster to", &self.pgdata))?;
        File::open(data_dir).and_then(|dir| dir.sync_all()).map_err(cannot("write", data_dir))
    }

    /// Creates the directory of the socket. An existing one must be ours: in the temporary directory anybody
    /// could have created it.
    fn make_socket_dir(&self) -> Result<()> {
        let dir = &self.socket_dir;
        match fs::symlink_metadata(dir) {
            Ok(at) if at.is_dir() && at.uid() == self.account.uid() => {
                fs::set_permissions(dir, Permissions::from_mode(0o700)).map_err(cannot("close", dir))
            }
            Ok(_) => Err(EmbeddedError::new(format!(
                "{} is needed for the database's socket but belongs to someone else: remove it, or set \
                 COULOMB_DATA_DIR to another directory",
                dir.display()
            ))),
            Err(_) => {
                make_private(dir)?;
                self.account.make_owner_of(dir)
            }
        }
    }
}

/// Creates the data directory if it is missing; returns its canonical path.
pub(super) fn make_data_dir(dir: &Path) -> Result<PathBuf> {
    if !dir.exists() {
        if let Some(parent) = dir.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(cannot("create", parent))?;
        }
        make_private(dir)?;
        if rustix::process::geteuid().is_root() {
            // The server's user must be able to reach its own directories inside.
            fs::set_permissions(dir, Permissions::from_mode(0o711)).map_err(cannot("open", dir))?;
        }
    }
    let dir = dir.canonicalize().map_err(cannot("find", dir))?;
    match dir.to_str() {
        Some(_) => Ok(dir),
        None => Err(EmbeddedError::new(format!(
            "the data directory {} is not valid UTF-8: set COULOMB_DATA_DIR to one that is",
            dir.display()
        ))),
    }
}

/// The major version of PostgreSQL that created the cluster; `None` if there is no cluster.
pub(super) fn major(data_dir: &Path) -> Option<u32> {
    fs::read_to_string(data_dir.join("pgdata/PG_VERSION")).ok()?.trim().parse().ok()
}

/// Removes a directory tree or a file, if it exists.
pub(super) fn remove_all(path: &Path) -> Result<()> {
    let removed = match fs::symlink_metadata(path) {
        Ok(at) if at.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(_) => return Ok(()),
    };
    removed.map_err(cannot("remove", path))
}

fn make_private(dir: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(dir).map_err(cannot("create", dir))
}

/// Replaces a file as a whole. Only its owner may read it.
fn write_private(path: &Path, text: &str) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(cannot("write to", dir))?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.as_file().sync_all())
        .map_err(cannot("write", path))?;
    file.persist(path).map(drop).map_err(|error| cannot("write", path)(error.error))
}

/// Reads the password; makes a new one if the cluster does not exist yet.
fn password(path: &Path, cluster_exists: bool) -> Result<String> {
    match fs::read_to_string(path) {
        Ok(text) if !text.is_empty() => return Ok(text),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(cannot("read", path)(error)),
    }
    if cluster_exists {
        return Err(EmbeddedError::new(format!(
            "{} is missing: put the password of the cluster's role `{NAME}` back there from a backup",
            path.display()
        )));
    }
    let mut random = [0; 24];
    getrandom::fill(&mut random)
        .map_err(|error| EmbeddedError::new(format!("cannot make a password: {error}")))?;
    let password = hex::encode(random);
    write_private(path, &password)?;
    Ok(password)
}

/// The directory of the socket: `run` in the data directory, or a directory in the temporary directory if the
/// path would be too long. Always the same for one data directory, because URLs are used longer than a guard
/// lives.
pub(super) fn socket_dir(data_dir: &Path, temp: &Path) -> PathBuf {
    let fits = |dir: &Path| {
        // PostgreSQL's setting is a list, in which commas, quotes and blanks would need quotes.
        let needs_no_quotes = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-+".contains(byte);
        dir.as_os_str().len() <= LONGEST_SOCKET_DIR
            && dir.as_os_str().as_encoded_bytes().iter().all(needs_no_quotes)
    };
    let own = data_dir.join("run");
    if fits(&own) {
        return own;
    }
    let digest = hex::encode(Sha256::digest(data_dir.as_os_str().as_encoded_bytes()));
    let name = format!("coulomb-{}", &digest[..16]);
    Some(temp.join(&name)).filter(|dir| fits(dir)).unwrap_or_else(|| Path::new("/tmp").join(name))
}

/// A libpq URL of the role `coulomb`.
pub(super) fn url(socket_dir: &Path, password: &str, database: &str) -> String {
    let host = percent_encode(&socket_dir.to_string_lossy());
    format!("postgresql://{NAME}:{password}@{host}:5432/{database}")
}

fn percent_encode(text: &str) -> String {
    let is_unreserved = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes()
        .map(|byte| if is_unreserved(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_socket_path_is_short_and_stable() {
        let temp = Path::new("/tmp");
        assert_eq!(socket_dir(Path::new("/srv/c"), temp), Path::new("/srv/c/run"));
        let long = format!("/srv/{}", "x".repeat(100));
        let dir = socket_dir(Path::new(&long), temp);
        assert!(dir.starts_with("/tmp") && dir.as_os_str().len() <= LONGEST_SOCKET_DIR, "{dir:?}");
        assert_eq!(dir, socket_dir(Path::new(&long), temp));
        assert_ne!(dir, socket_dir(Path::new("/srv/my data"), temp));
        assert!(socket_dir(Path::new("/srv/a,b"), Path::new(&long)).starts_with("/tmp"));
    }

    #[test]
    fn the_host_is_encoded() {
        assert_eq!(percent_encode("/srv/my-data/ü"), "%2Fsrv%2Fmy-data%2F%C3%BC");
    }

    #[test]
    fn a_password_is_made_once_and_kept_private() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("password");
        assert!(password(&path, true).unwrap_err().to_string().contains("is missing"));
        let first = password(&path, false).unwrap();
        assert_eq!(first.len(), 48);
        assert_eq!(password(&path, true).unwrap(), first);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }
}
