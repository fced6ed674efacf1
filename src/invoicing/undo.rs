//! Taking an invoice back, or giving it up: void and write-off.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;

use super::account::{Account, EntryKind, NewEntry, OpenEntry, Side, StandingAllocation};
use super::invoices::{self, InvoiceRow};
use super::sellers;
use super::{coupons, numbers, settle};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::schema::{own_credit_notes, own_invoices as t};

/// Declares an invoice void: it asks for nothing, and keeps its number. Money that was paid for it becomes
/// credit. Its coupons get their uses back.
///
/// # Errors
/// [`Error::Conflict`] when it is a draft, or paid, or given up.
pub(super) fn void(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<InvoiceRow, Error> {
    let (mut account, row) = invoices::lock_with_account(conn, invoice, now)?;
    row.must_be_finalised()?;
    match row.status.as_str() {
        "void" => return Ok(row),
        "open" => {}
        status => {
            let detail =
                format!("this invoice is {status}, and only an open one can be void: make a credit note");
            return Err(Error::conflict("invoice_not_open", detail));
        }
    }
    let noted = credited_by_notes(conn, org.org_id, invoice)?;
    let amount = row.total - noted;
    let debit = account.entry_of(conn, EntryKind::Invoice, invoice)?;
    let missing = amount - row.open();
    if missing > 0 {
        // Its own credit notes took a part of it back, and that stays.
        let notes = notes_on(conn, org.org_id, invoice)?;
        let is_money = |credit: &StandingAllocation| !notes.contains(&credit.document_id);
        settle::take_back(conn, &mut account, Side::ToDebt(debit), missing, is_money)?;
    }
    let credit = enter(conn, &mut account, &row, EntryKind::Void, -amount, now)?;
    if amount > 0 {
        account.allocate(conn, (credit, debit), amount)?;
    }
    diesel::update(t::table.find((org.org_id, invoice))).set(t::voided_at.eq(now)).execute(conn)?;
    let document = numbers::issued(conn, org.org_id, invoice)?;
    let codes: Vec<String> = document.allowances.iter().map(|off| off.coupon.clone()).collect();
    coupons::count_uses(conn, org.org_id, &codes, -1)?;
    invoices::refresh(conn, &account, invoice)
}

/// What credit notes took back of an invoice.
pub(super) fn credited_by_notes(conn: &mut PgConnection, org_id: i64, invoice: &str) -> QueryResult<i64> {
    use diesel::sql_types::BigInt;
    let notes = own_credit_notes::table
        .filter(own_credit_notes::org_id.eq(org_id).and(own_credit_notes::invoice_id.eq(invoice)));
    notes.select(diesel::dsl::sql::<BigInt>("coalesce(sum(total), 0)::bigint")).first(conn)
}

/// Ids of the credit notes on an invoice.
fn notes_on(conn: &mut PgConnection, org_id: i64, invoice: &str) -> QueryResult<Vec<String>> {
    own_credit_notes::table
        .filter(own_credit_notes::org_id.eq(org_id).and(own_credit_notes::invoice_id.eq(invoice)))
        .select(own_credit_notes::credit_note_id)
        .load(conn)
}

/// Gives up what an open invoice still asks for. It may still be paid: then that is taken back.
///
/// # Errors
/// [`Error::Conflict`] when it is not open.
pub(super) fn write_off(
    conn: &mut PgConnection,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<InvoiceRow, Error> {
    let (mut account, row) = invoices::lock_with_account(conn, invoice, now)?;
    row.must_be_finalised()?;
    if row.status == "uncollectible" {
        return Ok(row);
    }
    if row.open() == 0 {
        let detail = format!("this invoice is {}: only an open one can be written off", row.status);
        return Err(Error::conflict("invoice_not_open", detail));
    }
    let debit = account.entry_of(conn, EntryKind::Invoice, invoice)?;
    let credit = enter(conn, &mut account, &row, EntryKind::WriteOff, -row.open(), now)?;
    account.allocate(conn, (credit, debit), row.open())?;
    invoices::refresh(conn, &account, invoice)
}

/// Takes up to `amount` of a write-off back, because the invoice is paid after all. Returns how much.
pub(super) fn recover(
    conn: &mut PgConnection,
    account: &mut Account,
    row: &InvoiceRow,
    amount: i64,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    let debit = account.entry_of(conn, EntryKind::Invoice, &row.invoice_id)?;
    let is_given_up = |credit: &StandingAllocation| credit.kind == EntryKind::WriteOff.name();
    let (_, part) = settle::take_back(conn, account, Side::ToDebt(debit), amount, is_given_up)?;
    if part > 0 {
        let recovery = enter(conn, account, row, EntryKind::Recovery, part, now)?;
        let is_given_up = |credit: &OpenEntry| {
            credit.kind == EntryKind::WriteOff.name() && credit.document_id == row.invoice_id
        };
        settle::pay_from(conn, account, recovery, part, is_given_up)?;
    }
    Ok(part)
}

fn enter(
    conn: &mut PgConnection,
    account: &mut Account,
    row: &InvoiceRow,
    kind: EntryKind,
    amount: i64,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    let seller = sellers::find(conn, &row.seller_id)?;
    let description = row.number.clone().unwrap_or_default();
    let entry = NewEntry {
        kind,
        document: &row.invoice_id,
        amount,
        occurred_at: now,
        corrects: Some(&row.invoice_id),
        description: &description,
    };
    account.enter(conn, &seller, &entry)
}
