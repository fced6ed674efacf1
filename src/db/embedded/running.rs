//! Finds the embedded server that another process runs, so that commands can use it.

use std::fs::{self, File, TryLockError};
use std::path::Path;

use super::cluster;

/// The URL of the server that runs on `data_dir`; `None` if none runs, that is, if no guard has the lock.
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

/// Whether `data_dir` contains a cluster.
///
/// # Errors
/// This user may not read the directory.
pub fn has_cluster(data_dir: &Path) -> std::io::Result<bool> {
    data_dir.join("pgdata/PG_VERSION").try_exists()
}
