//! The audit log: one row per command, in the command's own transaction. Rows never change.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::Value;

use crate::schema::audit_log;

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

/// Who did it, and when.
#[derive(Clone, Copy, Debug)]
pub struct Author<'a> {
    /// `key:<id>` for an API key, `cli:<user>` for the command line.
    pub actor: &'a str,
    pub at: DateTime<Utc>,
    /// The request's id, as in the access log; `None` on the command line.
    pub request_id: Option<&'a str>,
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
        let (org_id, audit_id, at) = diesel::insert_into(audit_log::table)
            .values((
                audit_log::org_id.eq(self.org_id),
                audit_log::at.eq(author.at),
                audit_log::actor.eq(author.actor),
                audit_log::action.eq(self.action),
                audit_log::target.eq(&self.target),
                audit_log::detail.eq(&self.detail),
                audit_log::request_id.eq(author.request_id),
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
        let entry = audit_log::table.find((self.org_id, self.audit_id)).filter(audit_log::at.eq(self.at));
        diesel::select(diesel::dsl::exists(entry)).get_result(conn)
    }
}
