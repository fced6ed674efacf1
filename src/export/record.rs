//! The audit entry that each export leaves: who took which rows out.
//!
//! It is stored before the output ends. When it cannot be stored, the export fails like any other: rows never
//! leave completely and unnoticed.

use diesel::pg::PgConnection;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{ExportRequest, Totals};
use crate::audit::{AuditEntry, Author};
use crate::auth::PLATFORM;
use crate::db::{self, Scope};
use crate::error::Error;

/// How an export ended.
#[derive(Clone, Copy, Debug)]
pub enum Ended<'a> {
    /// With all rows.
    Complete(&'a Totals),
    /// After this many rows, because of this error.
    BrokenOff(u64, &'a Error),
}

/// Stores the entry of an export, in a transaction of the platform: the role of an org may only read. It
/// belongs to the org whose key asked, else to the org that the request names.
///
/// # Errors
/// The database fails, or it is not known whether the entry was stored.
pub fn record(
    conn: &mut PgConnection,
    scope: Scope,
    request: &ExportRequest,
    author: &Author<'_>,
    ended: Ended<'_>,
) -> Result<(), Error> {
    let (action, end) = match ended {
        Ended::Complete(totals) => ("export.write", complete(totals)?),
        Ended::BrokenOff(rows, error) => {
            ("export.break_off", json!({ "rows": rows, "error": error.to_string() }))
        }
    };
    let mut detail = json!({ "format": request.format.name(), "parameters": request.given });
    if let (Value::Object(detail), Value::Object(end)) = (&mut detail, end) {
        detail.extend(end);
    }
    db::run_once(conn, |conn| {
        let org_id = match scope {
            Scope::Org(org_id) => org_id,
            Scope::Platform => match &request.org {
                Some(org) => org.row_id(conn)?,
                None => PLATFORM,
            },
        };
        let entry = AuditEntry { org_id, action, target: request.of.name().to_owned(), detail };
        entry.write(conn, author)?;
        Ok(())
    })
}

/// Rows, control totals and their digest: SHA-256 of the JSON on one line, as the header and the side file
/// have it.
fn complete(totals: &Totals) -> Result<Value, Error> {
    let text = totals.json()?;
    let sha256 = hex::encode(Sha256::digest(&text));
    let totals: Value = serde_json::from_str(&text).map_err(|error| Error::Internal(error.to_string()))?;
    Ok(json!({ "rows": totals["rows"], "totals": totals, "totals_sha256": sha256 }))
}
