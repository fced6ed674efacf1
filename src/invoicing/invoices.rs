//! Invoices: their rows and their state. Owns `own_invoices` and `own_invoice_lines`.
//!
//! The state of an invoice is a function of its entries and allocations ([`super::account`]): `refresh`
//! computes its columns from them, whenever they changed.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Text, Timestamptz};
use serde_json::Value;

use super::account::Account;
use crate::error::Error;
use crate::schema::{orgs, own_invoices as t};

/// A row of `own_invoices`.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = t)]
pub(super) struct InvoiceRow {
    pub(super) org_id: i64,
    pub(super) invoice_id: String,
    pub(super) seller_id: String,
    pub(super) currency: String,
    pub(super) reason: String,
    pub(super) draft: Value,
    pub(super) number: Option<String>,
    pub(super) due_date: Option<NaiveDate>,
    pub(super) total: i64,
    pub(super) amount_paid: i64,
    pub(super) amount_credited: i64,
    pub(super) amount_written_off: i64,
    pub(super) paid_at: Option<DateTime<Utc>>,
    pub(super) status: String,
}

impl InvoiceRow {
    pub(super) fn is_draft(&self) -> bool {
        self.status == "draft"
    }

    /// What it still asks for.
    pub(super) fn open(&self) -> i64 {
        if self.status == "open" {
            self.total - self.amount_paid - self.amount_credited - self.amount_written_off
        } else {
            0
        }
    }

    /// Refuses what is not for a draft.
    pub(super) fn must_be_draft(&self) -> Result<(), Error> {
        if self.is_draft() {
            return Ok(());
        }
        let detail = "this invoice is finalised, and a finalised document never changes: make a credit note, \
            or void it";
        Err(Error::conflict("invoice_finalized", detail))
    }

    /// Refuses what is not for drafts.
    pub(super) fn must_be_finalised(&self) -> Result<(), Error> {
        if self.is_draft() {
            return Err(Error::conflict("invoice_is_draft", "this invoice is a draft: finalise it first"));
        }
        Ok(())
    }
}

/// The invoice, locked until the caller commits. The caller holds the lock of its account.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such invoice.
pub(super) fn lock(conn: &mut PgConnection, org_id: i64, invoice: &str) -> Result<InvoiceRow, Error> {
    let row = t::table.find((org_id, invoice)).select(InvoiceRow::as_select()).for_update();
    row.first(conn).optional()?.ok_or(Error::NotFound("invoice"))
}

/// # Errors
/// [`Error::NotFound`] when the org has no such invoice.
pub(super) fn find(conn: &mut PgConnection, org_id: i64, invoice: &str) -> Result<InvoiceRow, Error> {
    let row = t::table.find((org_id, invoice)).select(InvoiceRow::as_select());
    row.first(conn).optional()?.ok_or(Error::NotFound("invoice"))
}

/// The org and the currency of an invoice, which tell its account. `own`: the only org that the caller may
/// see.
///
/// # Errors
/// [`Error::NotFound`] when there is no such invoice, or it is another org's.
pub fn place(conn: &mut PgConnection, invoice: &str, own: Option<i64>) -> Result<(i64, String), Error> {
    let mut query = t::table.filter(t::invoice_id.eq(invoice)).select((t::org_id, t::currency)).into_boxed();
    if let Some(org_id) = own {
        query = query.filter(t::org_id.eq(org_id));
    }
    query.first(conn).optional()?.ok_or(Error::NotFound("invoice"))
}

/// Locks the account of an invoice, and the invoice.
pub(super) fn lock_with_account(
    conn: &mut PgConnection,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<(Account, InvoiceRow), Error> {
    let (org_id, currency) = place(conn, invoice, None)?;
    let account = Account::lock(conn, org_id, &currency, now)?;
    let row = lock(conn, org_id, invoice)?;
    Ok((account, row))
}

/// SQL: what pays each invoice of `$1` (org) and `$2` (currency), by kind of credit.
const PAID_BY_KIND: &str = "
    SELECT d.document_id AS invoice_id,
        coalesce(sum(a.amount) FILTER (WHERE c.kind IN ('payment', 'adjustment', 'opening_balance')
            OR c.kind = 'credit_note' AND n.invoice_id <> d.document_id), 0)::bigint AS paid,
        coalesce(sum(a.amount) FILTER (WHERE c.kind = 'credit_note' AND n.invoice_id = d.document_id),
            0)::bigint AS credited,
        coalesce(sum(a.amount) FILTER (WHERE c.kind = 'write_off'), 0)::bigint AS written_off,
        max(c.occurred_at) FILTER (WHERE c.kind <> 'void') AS last_at
    FROM account_entries d
    LEFT JOIN account_allocations a
        ON (a.org_id, a.currency, a.debit_sequence) = (d.org_id, d.currency, d.sequence)
    LEFT JOIN account_entries c
        ON (c.org_id, c.currency, c.sequence) = (a.org_id, a.currency, a.credit_sequence)
    LEFT JOIN own_credit_notes n ON c.kind = 'credit_note'
        AND (n.org_id, n.credit_note_id) = (c.org_id, c.document_id)";

/// Computes the state of an invoice from the entries and allocations of its account, and returns it.
pub(super) fn refresh(
    conn: &mut PgConnection,
    account: &Account,
    invoice: &str,
) -> Result<InvoiceRow, Error> {
    diesel::sql_query(format!(
        "UPDATE own_invoices i
         SET amount_paid = p.paid, amount_credited = p.credited, amount_written_off = p.written_off,
             paid_at = CASE WHEN p.paid + p.credited + p.written_off >= i.total AND i.voided_at IS NULL
                 THEN coalesce(p.last_at, i.finalized_at) END
         FROM ({PAID_BY_KIND}
             WHERE d.org_id = $1 AND d.currency = $2 AND d.kind = 'invoice' AND d.document_id = $3
             GROUP BY 1) p
         WHERE i.org_id = $1 AND i.invoice_id = $3"
    ))
    .bind::<BigInt, _>(account.org_id)
    .bind::<Text, _>(&account.currency)
    .bind::<Text, _>(invoice)
    .execute(conn)?;
    lock(conn, account.org_id, invoice)
}

/// A difference between an invoice's columns and its entries, for the check.
#[derive(QueryableByName)]
pub(crate) struct WrongState {
    #[diesel(sql_type = Text)]
    pub(crate) invoice_id: String,
    #[diesel(sql_type = Text)]
    pub(crate) stored: String,
    #[diesel(sql_type = Text)]
    pub(crate) computed: String,
}

/// Finalised invoices whose columns differ from what their entries say, at most `limit`.
pub(crate) fn wrong_states(conn: &mut PgConnection, limit: i64) -> QueryResult<Vec<WrongState>> {
    let every = PAID_BY_KIND;
    diesel::sql_query(format!(
        "SELECT i.invoice_id, s.stored, s.computed
         FROM own_invoices i
         LEFT JOIN ({every} WHERE d.kind = 'invoice' GROUP BY 1) p USING (invoice_id)
         CROSS JOIN LATERAL (SELECT
             format('paid %s, credited %s, written off %s',
                 i.amount_paid, i.amount_credited, i.amount_written_off) AS stored,
             coalesce(format('paid %s, credited %s, written off %s', p.paid, p.credited, p.written_off),
                 'no entry') AS computed) s
         WHERE i.finalized_at IS NOT NULL AND s.stored <> s.computed
         ORDER BY 1 LIMIT $1"
    ))
    .bind::<BigInt, _>(limit)
    .load(conn)
}

/// Drafts that the clock has to finalise, at most `limit`: org and invoice.
pub(super) fn due_drafts(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> QueryResult<Vec<(i64, String)>> {
    t::table
        .filter(t::finalized_at.is_null().and(t::finalize_at.le(now)))
        // Nothing is billed to an org that is archived.
        .filter(
            t::org_id.ne_all(
                orgs::table
                    .filter(orgs::archived_at.is_not_null().or(orgs::erased_at.is_not_null()))
                    .select(orgs::org_id),
            ),
        )
        .order(t::finalize_at)
        .limit(limit)
        .select((t::org_id, t::invoice_id))
        .load(conn)
}

/// Whether a reason why a draft waits takes the place of one that is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    Always,
    UnlessKnown,
}

/// Says when the clock tries a draft again, and why it waits.
pub(super) fn postpone(
    conn: &mut PgConnection,
    (org_id, invoice): (i64, &str),
    (waits, why): (Waits, &str),
    until: DateTime<Utc>,
) -> QueryResult<usize> {
    diesel::sql_query(
        "UPDATE own_invoices
         SET waits = CASE WHEN $5 THEN coalesce(waits, $3) ELSE $3 END,
             finalize_at = CASE WHEN finalize_at IS NOT NULL THEN $4 END
         WHERE org_id = $1 AND invoice_id = $2 AND finalized_at IS NULL",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Text, _>(invoice)
    .bind::<Text, _>(why)
    .bind::<Nullable<Timestamptz>, _>(until)
    .bind::<Bool, _>(waits == Waits::UnlessKnown)
    .execute(conn)
}
