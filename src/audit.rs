//! The audit log: one row per command, in the command's own transaction. Rows are never changed.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde_json::Value;

use crate::schema::audit_log;

/// Who did what to what.
#[derive(Debug, Insertable)]
#[diesel(table_name = audit_log)]
pub struct Entry<'a> {
    /// The org that it concerns; 0: the platform.
    pub org_id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// `key:<id>` for an API key, `cli:<user>` for the command line, `stripe` for a Stripe event.
    pub actor: &'a str,
    /// `noun.verb`, such as `org.create`.
    pub action: &'a str,
    /// Public id of what was changed.
    pub target: &'a str,
    /// What was asked.
    pub detail: Value,
    /// The request's id, as in the access log.
    pub request_id: Option<&'a str>,
}

/// Writes the entry.
///
/// # Errors
/// When the database fails; the command then fails with it.
pub fn record(conn: &mut PgConnection, entry: &Entry<'_>) -> QueryResult<()> {
    diesel::insert_into(audit_log::table).values(entry).execute(conn).map(drop)
}
