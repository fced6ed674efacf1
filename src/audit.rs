//! The audit log: one row per command, in the command's own transaction, and one for each read of money.
//! Rows never change. Owns `audit_log`; `audit/partitions.rs` makes and drops its months.

pub mod changes;
pub mod partitions;
pub mod read;
pub mod reads;
pub mod tally;

use std::net::IpAddr;

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::Value;

use self::changes::Change;
use crate::schema::audit_log;

/// Longest user agent that is kept, in characters.
const AGENT_LIMIT: usize = 300;

/// What was done, and to what.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// The org that it concerns; [`crate::auth::PLATFORM`]: none.
    pub org_id: i64,
    /// `noun.verb`, such as `org.create`.
    pub action: &'static str,
    /// Public id of what was changed.
    pub target: String,
    /// What else is worth keeping. Never a secret.
    pub detail: Value,
}

/// Where a request came from.
#[derive(Clone, Debug, Default)]
pub struct Origin {
    /// The request's id, as in the access log.
    pub request_id: String,
    /// The client's address.
    pub address: Option<IpAddr>,
    /// What the client calls itself.
    pub user_agent: Option<String>,
}

/// Who did it, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// `key:<id>` for an API key, `cli:<user>` for the command line.
    pub actor: &'a str,
    pub at: DateTime<Utc>,
    /// `None`: the command line.
    pub origin: Option<&'a Origin>,
}

/// An entry that was written, unless its transaction is rolled back.
#[derive(Clone, Copy, Debug)]
pub struct WrittenEntry {
    org_id: i64,
    audit_id: i64,
    at: DateTime<Utc>,
}

impl AuditEntry {
    /// Writes the entry. When that fails, the command has to fail with it.
    pub fn write(&self, conn: &mut PgConnection, author: &Author<'_>) -> QueryResult<WrittenEntry> {
        self.write_with_change(conn, author, &Change::default())
    }

    /// As [`Self::write`], with what the command changed.
    pub fn write_with_change(
        &self,
        conn: &mut PgConnection,
        author: &Author<'_>,
        change: &Change,
    ) -> QueryResult<WrittenEntry> {
        let origin = author.origin;
        let agent = origin.and_then(|origin| origin.user_agent.as_deref());
        let (org_id, audit_id, at) = diesel::insert_into(audit_log::table)
            .values((
                audit_log::org_id.eq(self.org_id),
                audit_log::at.eq(author.at),
                audit_log::actor.eq(author.actor),
                audit_log::action.eq(self.action),
                audit_log::target.eq(&self.target),
                audit_log::detail.eq(&self.detail),
                audit_log::request_id.eq(origin.map(|origin| &*origin.request_id)),
                audit_log::address.eq(origin.and_then(|origin| origin.address).map(|ip| ip.to_string())),
                audit_log::user_agent
                    .eq(agent.map(|name| name.chars().take(AGENT_LIMIT).collect::<String>())),
                audit_log::before.eq(&change.before),
                audit_log::after.eq(&change.after),
            ))
            // The database keeps microseconds only, so its `at` is the one to look for later.
            .returning((audit_log::org_id, audit_log::audit_id, audit_log::at))
            .get_result(conn)?;
        Ok(WrittenEntry { org_id, audit_id, at })
    }
}

impl WrittenEntry {
    /// Whether the entry is in the log. If so, its command was done.
    pub fn is_there(self, conn: &mut PgConnection) -> QueryResult<bool> {
        let entry = audit_log::table.find((self.org_id, self.at, self.audit_id));
        diesel::select(diesel::dsl::exists(entry)).get_result(conn)
    }
}
