//! Reaching the database from a command: the one of the settings, that of a running daemon, or the embedded one.

use diesel::pg::PgConnection;
use secrecy::ExposeSecret;

use super::Failure;
use crate::config::Config;
use crate::db::embedded::{self, Embedded};
use crate::db::{self, migrate};

/// What keeps the server there while a command runs.
pub(super) struct Server {
    /// The embedded server, when it is this process that runs it.
    pub(super) embedded: Option<Embedded>,
    /// Its URL, or that of the settings.
    pub(super) url: String,
    /// URL for migrations.
    pub(super) owner_url: String,
}

/// Finds or starts the server.
pub(super) fn server(config: &Config) -> Result<Server, Failure> {
    if let Some(url) = &config.database_url {
        let url = url.expose_secret().to_owned();
        let owner_url = config
            .database_owner_url
            .as_ref()
            .map_or_else(|| url.clone(), |owner| owner.expose_secret().to_owned());
        return Ok(Server { embedded: None, url, owner_url });
    }
    let options = options(config)?;
    let embedded = Embedded::start(&options)?;
    let url = embedded.url().to_owned();
    Ok(Server { embedded: Some(embedded), owner_url: url.clone(), url })
}

fn options(config: &Config) -> Result<embedded::Options, Failure> {
    let mut options = embedded::Options::new(config.data_dir()?);
    options.bin_dir.clone_from(&config.postgres_bin_dir);
    Ok(options)
}

/// As [`server`], but uses the embedded server of a daemon that runs on the data directory.
fn server_or_running(config: &Config) -> Result<Server, Failure> {
    if config.database_url.is_none()
        && let Some(url) = embedded::running_url(&config.data_dir()?)
    {
        return Ok(Server { embedded: None, owner_url: url.clone(), url });
    }
    server(config)
}

/// A connection that may migrate.
pub(super) fn owner(config: &Config) -> Result<(Server, PgConnection), Failure> {
    let server = server_or_running(config)?;
    let conn = db::establish(&server.owner_url)?;
    Ok((server, conn))
}

/// A migrated database and a connection to it, acting as the platform.
pub(super) struct Database {
    /// The connection; dropped before the server.
    pub(super) conn: PgConnection,
    _server: Server,
}

impl Database {
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        let server = server_or_running(config)?;
        let migrated = migrate::run(&mut db::establish(&server.owner_url)?)?;
        let conn = db::connect(&server.url, migrated.roles)?;
        Ok(Self { conn, _server: server })
    }
}
