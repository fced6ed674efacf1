//! `coulomb key …`

use chrono::{DateTime, TimeDelta, Utc};
use clap::Subcommand;
use serde_json::json;

use super::{Failure, Usage, open, out};
use crate::audit::{AuditEntry, Author};
use crate::auth::{self, NewKey, PLATFORM, Scope};
use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::config::Config;
use crate::db;
use crate::error::Error;
use crate::time::Moment;

/// What to do with keys.
#[derive(Subcommand)]
pub(super) enum KeyCommand {
    /// Make a key and print it; it is shown only this once
    Create {
        /// A name for people
        #[arg(long, default_value = "unnamed")]
        name: String,
        /// What it may do, separated by commas: usage:write, usage:backfill, usage:price, usage:read,
        /// billing:read, billing:write, keys:write, keys:verify, admin
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// The org that it is for, by its id (`org_…`) or your own id of it; the platform when left out
        #[arg(long)]
        org: Option<String>,
        /// When it stops working, such as 2030-01-01T00:00:00Z; never when left out
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Moment>,
        /// Requests a minute that it may send to each daemon; as the settings say when left out
        #[arg(long, value_name = "NUMBER")]
        requests_per_minute: Option<i32>,
    },
    /// Make a key with the rights of another one and print it; both work for a while
    Rotate {
        /// Public id of the old key
        id: String,
        /// How long the old key works too, in seconds: at most 90 days
        #[arg(long, default_value_t = 86_400, value_name = "SECONDS")]
        overlap_s: u32,
    },
    /// Take over a key that another program made, by its SHA-256, and print its id
    Import {
        /// SHA-256 of the whole key, in hexadecimal
        #[arg(long)]
        sha256: String,
        /// How the key begins, for people: 1 to 16 characters
        #[arg(long)]
        hint: String,
        /// A name for people
        #[arg(long, default_value = "unnamed")]
        name: String,
        /// What it may do, separated by commas, as of a new key
        #[arg(long, value_delimiter = ',', required = true)]
        scopes: Vec<Scope>,
        /// The org that it is for, by its id (`org_…`) or your own id of it; the platform when left out
        #[arg(long)]
        org: Option<String>,
        /// When it stops working, such as 2030-01-01T00:00:00Z; never when left out
        #[arg(long, value_name = "TIME")]
        expires_at: Option<Moment>,
    },
    /// List all keys, newest first, as JSON lines
    List,
    /// Revoke a key, at once and for good
    Revoke {
        /// Its public id: the part of the key between `clb_live_` and the next `_`
        id: String,
    },
}

pub(super) fn run(config: &Config, command: KeyCommand) -> Result<(), Failure> {
    let mut database = open::Database::open(config)?;
    let conn = &mut database.conn;
    let now = Utc::now();
    match command {
        KeyCommand::Create { name, scopes, org, expires_at, requests_per_minute } => {
            let directory = Directory::default();
            let expires_at = expires_at.map(|at| at.0);
            let (id, key) = db::run_once(conn, |conn| {
                let org = org.map(|org| OrgName::of_any(org, "--org").find(&directory, conn)).transpose()?;
                let org_id = org.as_ref().map_or(PLATFORM, |org| org.org_id);
                let new = NewKey { org_id, name, scopes, expires_at, requests_per_minute };
                let (id, key) = auth::create(conn, &new, now)?;
                let scopes: Vec<_> = new.scopes.iter().map(|scope| scope.name()).collect();
                let org = org.as_ref().map(|org| &*org.public_id);
                let detail = json!({ "name": new.name, "org": org, "scopes": scopes });
                record_of(conn, org_id, ("api_key.create", &id, detail), now)?;
                Ok((id, key))
            })?;
            let lost =
                format!("the key {id} was made and nobody has seen it (`coulomb key revoke {id}` ends it)");
            out::line_of(&lost, key)?;
        }
        KeyCommand::Rotate { id, overlap_s } => {
            let rotated = db::run_once(conn, |conn| {
                let org_id = auth::org_of(conn, &id, None)?;
                let overlap = TimeDelta::seconds(overlap_s.into());
                let rotated = auth::rotate(conn, &id, (None, &[Scope::Admin]), overlap, now)?;
                record_of(conn, org_id, ("api_key.rotate", &id, json!({ "new": rotated.id })), now)?;
                Ok(rotated)
            })?;
            let id = rotated.id;
            let lost =
                format!("the key {id} was made and nobody has seen it (`coulomb key revoke {id}` ends it)");
            out::line_of(&lost, rotated.text)?;
        }
        KeyCommand::Import { sha256, hint, name, scopes, org, expires_at } => {
            let mut digest = [0; 32];
            hex::decode_to_slice(&sha256, &mut digest)
                .map_err(|_| Usage::new("--sha256 must be 64 hexadecimal digits"))?;
            let directory = Directory::default();
            let id = db::run_once(conn, |conn| {
                let org = org.map(|org| OrgName::of_any(org, "--org").find(&directory, conn)).transpose()?;
                let org_id = org.as_ref().map_or(PLATFORM, |org| org.org_id);
                let expires_at = expires_at.map(|at| at.0);
                let new = NewKey { org_id, name, scopes, expires_at, requests_per_minute: None };
                let id = auth::import(conn, &new, (&digest, &hint), now)?;
                record_of(conn, org_id, ("api_key.import", &id, json!({ "keys": [id] })), now)?;
                Ok(id)
            })?;
            out::line(id)?;
        }
        KeyCommand::List => {
            for key in auth::list(conn, None)? {
                out::line(serde_json::to_string(&crate::api::keys::KeyView::from(key))?)?;
            }
        }
        KeyCommand::Revoke { id } => db::run_once(conn, |conn| {
            let org_id = auth::org_of(conn, &id, None)?;
            auth::revoke(conn, &id, now)?;
            record_of(conn, org_id, ("api_key.revoke", &id, json!({})), now)
        })?,
    }
    Ok(())
}

/// The user who runs this process, as the audit log and ledgers name them.
pub(super) fn actor() -> String {
    let named = std::env::var("USER").ok().filter(|name| !name.is_empty());
    let user = || format!("uid {}", rustix::process::getuid().as_raw());
    format!("cli:{}", named.unwrap_or_else(user))
}

/// Writes a command's line in the audit log of the platform, in the name of the user who runs it.
pub(super) fn record(
    conn: &mut diesel::PgConnection,
    action: &'static str,
    target: &str,
    detail: serde_json::Value,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    record_of(conn, PLATFORM, (action, target, detail), now)
}

/// As [`record`], in the log of an org.
pub(super) fn record_of(
    conn: &mut diesel::PgConnection,
    org_id: i64,
    (action, target, detail): (&'static str, &str, serde_json::Value),
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let entry = AuditEntry { org_id, action, target: target.to_owned(), detail };
    entry.write(conn, &Author { actor: &actor(), at: now, origin: None })?;
    Ok(())
}
