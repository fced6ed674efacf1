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
    pub at: DateTime<Utc>,
    /// `key:<id>` for an API key, `cli:<user>` for the command line, `stripe` for a Stripe event.
    pub actor: &'a str,
    /// `noun.verb`, such as `org.create`.
    pub action: &'a str,
    /// Public id of what was changed.
    pub target: &'a str,
    pub detail: Value,
    /// The request's id, as in the access log.
    pub request_id: Option<&'a str>,
}

/// An entry that was written, as long as its transaction is not rolled back.
#[derive(Clone, Copy, Debug)]
pub struct Written {
    org_id: i64,
    audit_id: i64,
    at: DateTime<Utc>,
}

impl Written {
    /// Whether it is there: then its command was done.
    pub fn is_there(self, conn: &mut PgConnection) -> QueryResult<bool> {
        let entry = audit_log::table.find((self.org_id, self.audit_id)).filter(audit_log::at.eq(self.at));
        diesel::select(diesel::dsl::exists(entry)).get_result(conn)
    }
}

/// Writes the entry.
///
/// # Errors
/// When the database fails; the command then fails with it.
pub fn record(conn: &mut PgConnection, entry: &Entry<'_>) -> QueryResult<Written> {
    // As the database keeps it: microseconds.
    let columns = (audit_log::org_id, audit_log::audit_id, audit_log::at);
    let (org_id, audit_id, at) =
        diesel::insert_into(audit_log::table).values(entry).returning(columns).get_result(conn)?;
    Ok(Written { org_id, audit_id, at })
}
