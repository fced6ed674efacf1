//! Finding a server that another process runs on a data directory, so that commands can reach it.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use super::cluster;

/// The URL of the server that runs on `data_dir`, when one does: its guard holds the lock.
#[must_use]
pub fn running_url(data_dir: &Path) -> Option<String> {
    let data_dir = data_dir.canonicalize().ok()?;
    let lock = File::open(data_dir.join("coulomb.lock")).ok()?;
    match lock.try_lock_shared() {
        Err(TryLockError::WouldBlock) => {}
        Ok(()) | Err(TryLockError::Error(_)) => return None,
    }
    let password = fs::read_to_string(data_dir.join("password")).ok()?;
    Some(cluster::url(&cluster::socket_dir(&data_dir, &std::env::temp_dir()), &password, cluster::NAME))
}

/// Whether a cluster lies in `data_dir`.
///
/// # Errors
/// When this user may not look into the directory.
pub fn has_cluster(data_dir: &Path) -> std::io::Result<bool> {
    data_dir.join("pgdata/PG_VERSION").try_exists()
}
