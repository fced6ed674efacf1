//! Credit notes: documents that take back all or part of an invoice. Owns `own_credit_notes` and
//! `own_credit_note_lines`.
//!
//! A credit note lowers what its invoice asks for. What the invoice does not ask for any more, because it is
//! paid, becomes credit: the next invoice uses it, or a refund pays it out.

use std::collections::BTreeMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::account::{Account, EntryKind, NewEntry};
use super::amounts::{self, Amounts, CreditableLine, TaxGroup};
use super::finalise::credited_taxes;
use super::invoices::{self, InvoiceRow};
use super::sellers::{self, Seller};
use super::{numbers, paid};
use crate::billing::directory::OrgContext;
use crate::documents::content::{Document, DocumentKind, InvoiceReference, Line};
use crate::error::Error;
use crate::ids;
use crate::money::major_units;
use crate::schema::{own_credit_note_lines as l, own_credit_notes as t};
use crate::text::check_line;

/// A credit note to make.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewCreditNote)]
pub struct CreditNoteBody {
    /// The invoice, `inv_…`.
    pub invoice: String,
    /// Why, for the customer.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
    /// What is taken back of which line. Left out: all that is left.
    #[serde(default)]
    pub lines: Option<Vec<CreditedLine>>,
}

/// What is taken back of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CreditedLine {
    /// Number of the line of the invoice.
    pub line: i32,
    /// In minor units, as the line is priced (with tax if the invoice is tax inclusive), after discounts; all
    /// that is left when left out.
    #[serde(default)]
    pub amount: Option<i64>,
}

/// A credit note.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnCreditNote {
    /// `cn_…`
    pub id: String,
    /// `own`: made here, not mirrored from Stripe.
    pub origin: &'static str,
    /// Its number.
    pub number: String,
    /// The invoice.
    pub invoice: String,
    /// Key of the seller.
    pub seller: String,
    /// Currency of the amounts.
    pub currency: String,
    /// Why it was made.
    pub reason: String,
    /// Without tax.
    pub net_total: i64,
    /// The tax.
    pub tax_total: i64,
    /// With tax.
    pub total: i64,
    /// The day on which it was issued.
    pub issue_date: NaiveDate,
    /// When it was made.
    pub created_at: DateTime<Utc>,
}

/// Makes a credit note.
///
/// # Errors
/// [`Error::Invalid`] when more would be taken back than is left; [`Error::Conflict`] when the invoice is a
/// draft, void or given up.
pub fn make(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    body: &CreditNoteBody,
    now: DateTime<Utc>,
) -> Result<OwnCreditNote, Error> {
    check_line("reason", &body.reason, 200)?;
    let (mut account, row) = invoices::lock_with_account(conn, &body.invoice, now)?;
    row.must_be_finalised()?;
    if !matches!(row.status.as_str(), "open" | "paid") {
        let detail =
            format!("this invoice is {}: only an open or paid one has something to take back", row.status);
        return Err(Error::conflict("invoice_not_creditable", detail));
    }
    let invoice = numbers::issued(conn, org.org_id, &row.invoice_id)?;
    let lines = creditable(conn, org.org_id, &invoice, body)?;
    let computed = amounts::credit(&lines, invoice.tax_inclusive)?;
    let seller = sellers::find(conn, &row.seller_id)?;
    let mut document = document(&invoice, &lines, &computed, body, seller.day(now));
    let place = numbers::take(conn, &seller, DocumentKind::CreditNote, document.issue_date)?;
    document.number = Some(place.text.clone());
    numbers::keep(conn, org.org_id, &seller.id, (&document, &place), now)?;
    insert(conn, &row, &document, now)?;
    book(conn, &mut account, &seller, &row, &document, now)?;
    let row = invoices::refresh(conn, &account, &row.invoice_id)?;
    paid::follow(conn, org, &row, now)?;
    get(conn, org.org_id, &document.id)
}

/// The lines of the invoice with what was and is to be taken back.
fn creditable(
    conn: &mut PgConnection,
    org_id: i64,
    invoice: &Document,
    body: &CreditNoteBody,
) -> Result<Vec<CreditableLine>, Error> {
    let credited: BTreeMap<i32, i64> = credited_lines(conn, org_id, &invoice.id)?;
    let mut lines: Vec<CreditableLine> = invoice
        .lines
        .iter()
        .map(|line| CreditableLine {
            number: line.number,
            tax: TaxGroup { category: line.tax_category, percent: line.tax_percent },
            charged: line.amount - line.discount,
            credited: credited.get(&line.number).copied().unwrap_or(0),
            credit: 0,
        })
        .collect();
    let Some(wanted) = &body.lines else {
        for line in &mut lines {
            line.credit = line.charged - line.credited;
        }
        return Ok(lines);
    };
    for wanted in wanted {
        let line = lines.iter_mut().find(|line| line.number == wanted.line);
        let line = line.ok_or_else(|| {
            Error::invalid("lines", format!("names line {}, which the invoice does not have", wanted.line))
        })?;
        if line.credit != 0 {
            return Err(Error::invalid("lines", format!("names line {} twice", wanted.line)));
        }
        line.credit = wanted.amount.unwrap_or(line.charged - line.credited);
    }
    Ok(lines)
}

fn credited_lines(conn: &mut PgConnection, org_id: i64, invoice: &str) -> QueryResult<BTreeMap<i32, i64>> {
    let rows: Vec<(i32, i64)> = l::table
        .filter(l::org_id.eq(org_id).and(l::invoice_id.eq(invoice)))
        .select((l::line_number, l::amount))
        .load(conn)?;
    let mut sums = BTreeMap::new();
    for (line, amount) in rows {
        *sums.entry(line).or_default() += amount;
    }
    Ok(sums)
}

fn document(
    invoice: &Document,
    lines: &[CreditableLine],
    computed: &Amounts,
    body: &CreditNoteBody,
    today: NaiveDate,
) -> Document {
    let shown =
        invoice.lines.iter().zip(lines).zip(&computed.lines).filter(|((_, line), _)| line.credit != 0);
    let lines = shown.map(|((on_invoice, line), amounts)| credited_line(on_invoice, line, *amounts, invoice));
    Document {
        id: ids::fresh("cn"),
        kind: DocumentKind::CreditNote,
        number: None,
        issue_date: today,
        due_date: None,
        invoice: Some(InvoiceReference {
            id: invoice.id.clone(),
            number: invoice.number.clone().unwrap_or_default(),
            issue_date: invoice.issue_date,
        }),
        reason: Some(body.reason.clone()),
        lines: lines.collect(),
        allowances: Vec::new(),
        taxes: credited_taxes(invoice, &computed.taxes),
        totals: computed.totals,
        credits: Vec::new(),
        payment_accounts: Vec::new(),
        terms: None,
        note: None,
        ..invoice.clone()
    }
}

fn credited_line(
    on_invoice: &Line,
    line: &CreditableLine,
    amounts: amounts::LineAmounts,
    invoice: &Document,
) -> Line {
    let is_whole = on_invoice.discount == 0 && line.credit == on_invoice.amount;
    let one = rust_decimal::Decimal::ONE;
    let (quantity, unit, unit_price, base_quantity) = if is_whole {
        (on_invoice.quantity, on_invoice.unit.clone(), on_invoice.unit_price, on_invoice.base_quantity)
    } else {
        let sign = if line.credit < 0 { -one } else { one };
        (sign, None, major_units(line.credit.abs(), &invoice.currency).normalize(), one)
    };
    Line {
        quantity,
        unit,
        unit_price,
        base_quantity,
        amount: line.credit,
        discount: 0,
        net: amounts.net,
        tax: amounts.tax,
        ..on_invoice.clone()
    }
}

fn insert(
    conn: &mut PgConnection,
    row: &InvoiceRow,
    document: &Document,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::insert_into(t::table)
        .values((
            (t::org_id.eq(row.org_id), t::credit_note_id.eq(&document.id), t::invoice_id.eq(&row.invoice_id)),
            (t::seller_id.eq(&row.seller_id), t::currency.eq(&row.currency)),
            (t::number.eq(document.number.as_deref().unwrap_or_default()), t::created_at.eq(now)),
            (t::reason.eq(document.reason.as_deref().unwrap_or_default())),
            (t::issue_date.eq(document.issue_date), t::net_total.eq(document.totals.net)),
            (t::tax_total.eq(document.totals.tax), t::total.eq(document.totals.total)),
        ))
        .execute(conn)?;
    let lines: Vec<_> = document
        .lines
        .iter()
        .map(|line| {
            (
                (
                    l::org_id.eq(row.org_id),
                    l::credit_note_id.eq(&document.id),
                    l::line_number.eq(line.number),
                ),
                (l::invoice_id.eq(&row.invoice_id), l::amount.eq(line.amount)),
                (l::net.eq(line.net), l::tax.eq(line.tax)),
            )
        })
        .collect();
    diesel::insert_into(l::table).values(lines).execute(conn)?;
    Ok(())
}

/// Books the credit note. It pays what its invoice still asks for; the rest is credit.
fn book(
    conn: &mut PgConnection,
    account: &mut Account,
    seller: &Seller,
    row: &InvoiceRow,
    document: &Document,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let entry = NewEntry {
        kind: EntryKind::CreditNote,
        document: &document.id,
        amount: -document.totals.total,
        occurred_at: now,
        corrects: Some(&row.invoice_id),
        description: document.number.as_deref().unwrap_or_default(),
    };
    let credit = account.enter(conn, seller, &entry)?;
    let pays = row.open().min(document.totals.total);
    if pays > 0 {
        let debit = account.entry_of(conn, EntryKind::Invoice, &row.invoice_id)?;
        account.allocate(conn, (credit, debit), pays)?;
    }
    Ok(())
}

type NoteRow = (String, String, String, String, String, String, i64, i64, i64, NaiveDate, DateTime<Utc>);

fn read(row: NoteRow) -> OwnCreditNote {
    let (id, number, invoice, seller, currency, reason, net_total, tax_total, total, issue_date, created_at) =
        row;
    OwnCreditNote {
        id,
        origin: "own",
        number,
        invoice,
        seller,
        currency,
        reason,
        net_total,
        tax_total,
        total,
        issue_date,
        created_at,
    }
}

/// The columns of a credit note as it is shown.
macro_rules! shown {
    () => {
        (
            t::credit_note_id,
            t::number,
            t::invoice_id,
            t::seller_id,
            t::currency,
            t::reason,
            t::net_total,
            t::tax_total,
            t::total,
            t::issue_date,
            t::created_at,
        )
    };
}

/// # Errors
/// [`Error::NotFound`] when the org has no such credit note.
pub fn get(conn: &mut PgConnection, org_id: i64, id: &str) -> Result<OwnCreditNote, Error> {
    let row: Option<NoteRow> = t::table.find((org_id, id)).select(shown!()).first(conn).optional()?;
    row.map(read).ok_or(Error::NotFound("credit note"))
}

/// The org of a credit note. `own`: the only org that the caller may see.
///
/// # Errors
/// [`Error::NotFound`] when there is no such note, or it is another org's.
pub fn org_of(conn: &mut PgConnection, id: &str, own: Option<i64>) -> Result<i64, Error> {
    let mut query = t::table.filter(t::credit_note_id.eq(id)).select(t::org_id).into_boxed();
    if let Some(org_id) = own {
        query = query.filter(t::org_id.eq(org_id));
    }
    query.first(conn).optional()?.ok_or(Error::NotFound("credit note"))
}
