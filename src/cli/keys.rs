//! `coulomb key …`

use chrono::{DateTime, Utc};
use clap::Subcommand;
use serde_json::json;

use super::{Failure, open, out};
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
        /// billing:read, billing:write, admin
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
        KeyCommand::Create { name, scopes, org, expires_at } => {
            let directory = Directory::default();
            let expires_at = expires_at.map(|at| at.0);
            let (id, key) = db::run_once(conn, |conn| {
                let org = org.map(|org| OrgName::of_any(org, "--org").find(&directory, conn)).transpose()?;
                let org_id = org.as_ref().map_or(PLATFORM, |org| org.org_id);
                let new = NewKey { org_id, name, scopes, expires_at };
                let (id, key) = auth::create(conn, &new, now)?;
                let scopes: Vec<_> = new.scopes.iter().map(|scope| scope.name()).collect();
                let org = org.as_ref().map(|org| &*org.public_id);
                let detail = json!({ "name": new.name, "org": org, "scopes": scopes });
                record(conn, "api_key.create", &id, detail, now)?;
                Ok((id, key))
            })?;
            let lost =
                format!("the key {id} was made and nobody has seen it (`coulomb key revoke {id}` ends it)");
            out::line_of(&lost, key)?;
        }
        KeyCommand::List => {
            for key in auth::list(conn, None)? {
                out::line(serde_json::to_string(&crate::api::keys::KeyView::from(key))?)?;
            }
        }
        KeyCommand::Revoke { id } => db::run_once(conn, |conn| {
            auth::revoke(conn, &id, now)?;
            record(conn, "api_key.revoke", &id, json!({}), now)
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
    let entry = AuditEntry { org_id: PLATFORM, action, target: target.to_owned(), detail };
    entry.write(conn, &Author { actor: &actor(), at: now, origin: None })?;
    Ok(())
}
