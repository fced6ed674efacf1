//! Installs PostgreSQL where there is none.

use std::path::{Path, PathBuf};

use super::stop::Stop;
use super::{EmbeddedError, Result};

pub(super) fn unpacked(_data_dir: &Path) -> Vec<PathBuf> {
    vec![]
}
pub(super) fn install(_data_dir: &Path, _stop: &Stop) -> Result<()> {
    Err(missing())
}
pub(super) fn missing() -> EmbeddedError {
    EmbeddedError::new(
        "no PostgreSQL server programs were found: install PostgreSQL 15 or newer (its packages are usually called `postgresql` or `postgresql-server`), set postgres_bin_dir to their directory, or set DATABASE_URL to a server that runs elsewhere",
    )
}
