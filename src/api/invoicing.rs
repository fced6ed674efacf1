//! Invoices of our own: who sells and at which tax, what orgs are charged, what they paid, and what they owe.

use std::sync::Arc;

use diesel::pg::PgConnection;

use crate::audit::AuditEntry;
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::invoicing::invoices as stored;

pub mod account;
pub mod apply;
pub mod credit_notes;
pub mod documents;
pub mod invoices;
pub mod items;
pub mod lists;
pub mod payments;
pub mod profiles;
pub mod settings;

/// The org of an invoice. `own`: the only org that the caller may see.
///
/// # Errors
/// [`Error::NotFound`] when there is no such invoice, or it is another org's.
fn org_of_invoice(
    conn: &mut PgConnection,
    directory: &Directory,
    invoice: &str,
    own: Option<i64>,
) -> Result<Arc<OrgContext>, Error> {
    let (org_id, _) = stored::place(conn, invoice, own)?;
    directory.find(conn, org_id)
}

/// The audit entry of a command on something of an org.
fn audit(org: &OrgContext, action: &'static str, target: &str, detail: serde_json::Value) -> AuditEntry {
    AuditEntry { org_id: org.org_id, action, target: target.to_owned(), detail }
}
