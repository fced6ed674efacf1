//! Connects a command to the database: that of the settings, that of a running daemon, or the embedded one.
//!
//! Only `serve` creates a cluster, and only `serve` and `migrate` change the schema. A command that finds no
//! database, or no tables of ours in it, fails: an empty answer would look like a true one.

use diesel::pg::PgConnection;
use secrecy::ExposeSecret;

use super::{Failure, Usage};
use crate::config::{Config, describe_database};
use crate::db::embedded::{self, Embedded};
use crate::db::migrate::State;
use crate::db::{self, migrate};

/// The database server that a command uses.
pub(super) struct Server {
    /// The embedded server, when this process runs it; dropping it stops the server.
    pub(super) embedded: Option<Embedded>,
    /// Its URL, or that of the settings.
    pub(super) url: String,
    pub(super) owner_url: String,
}

/// Finds or starts the server, and creates the embedded cluster if there is none.
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

/// As [`server`], but creates no cluster, and uses the embedded server of a daemon that already runs on the
/// data directory.
fn existing_server(config: &Config) -> Result<Server, Failure> {
    if config.database_url.is_none() {
        let data_dir = config.data_dir()?;
        if let Some(url) = embedded::running_url(&data_dir) {
            return Ok(Server { embedded: None, owner_url: url.clone(), url });
        }
        let shown = data_dir.display();
        match embedded::has_cluster(&data_dir) {
            Ok(true) => {}
            Ok(false) => {
                return Err(Usage::new(format!(
                    "no daemon runs here, and {shown} holds no database: set DATABASE_URL, COULOMB_DATA_DIR \
                     or --config to what the daemon has, or start one with `coulomb serve`"
                )));
            }
            Err(error) => {
                return Err(Usage::new(format!(
                    "{shown} cannot be read ({error}): run this as the daemon's user, or set DATABASE_URL"
                )));
            }
        }
    }
    server(config)
}

/// Describes where the database is, for people.
fn place(config: &Config, server: &Server) -> String {
    match &config.database_url {
        Some(_) => format!("the database {}", describe_database(&server.url)),
        None => "the embedded database".to_owned(),
    }
}

/// A connection that may migrate.
pub(super) fn owner(config: &Config) -> Result<(Server, PgConnection), Failure> {
    let server = existing_server(config)?;
    let conn = db::connect_as_login(&server.owner_url)?;
    Ok((server, conn))
}

/// A connection to a database with this binary's schema, as the platform.
pub(super) struct Database {
    /// The connection; dropped before the server.
    pub(super) conn: PgConnection,
    _server: Server,
}

impl Database {
    pub(super) fn open(config: &Config) -> Result<Self, Failure> {
        let (server, mut owner) = owner(config)?;
        match migrate::state(&mut owner)? {
            State::Current => {}
            State::Absent => {
                return Err(Usage::new(format!(
                    "{} has no tables of Coulomb: check DATABASE_URL, COULOMB_DATA_DIR or --config, or \
                     create them with `coulomb serve` or `coulomb migrate`",
                    place(config, &server)
                )));
            }
            State::Behind(lacking) => {
                return Err(format!(
                    "{} lacks {} migration(s) of this binary: run `coulomb migrate`, or start this \
                     binary's daemon",
                    place(config, &server),
                    lacking.len()
                )
                .into());
            }
        }
        let roles = migrate::roles_are_usable(&mut owner)?;
        let conn = db::connect_as_command(&server.url, roles)?;
        Ok(Self { conn, _server: server })
    }
}
