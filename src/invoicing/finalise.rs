//! Finalising: a draft becomes an invoice with a number, which never changes.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, Days, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde_json::json;

use super::account::{Account, EntryKind, NewEntry, OpenEntry};
use super::amounts::TaxGroup;
use super::drafts::{self, Basis, Computed, CouponUse, DraftTexts};
use super::invoices::{self, InvoiceRow};
use super::lines::{self, DraftLine};
use super::numbers;
use super::profiles::Terms;
use super::{coupons, paid, payment_accounts, settle, shown};
use crate::billing::directory::OrgContext;
use crate::documents::content::{Allowance, AppliedCredit, Document, DocumentKind, Line, TaxSubtotal};
use crate::error::Error;
use crate::messages::{self, NewMessage};
use crate::schema::own_invoices as t;

/// Finalises a draft: computes it a last time, gives it a number, books it, and lets earlier credit pay it.
/// A finalised invoice stays as it is.
///
/// # Errors
/// [`Error::Conflict`] when the draft waits for something, or has no line.
pub(super) fn finalise(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    invoice: &str,
    now: DateTime<Utc>,
) -> Result<InvoiceRow, Error> {
    let (mut account, row) = invoices::lock_with_account(conn, invoice, now)?;
    if !row.is_draft() {
        return Ok(row);
    }
    let basis = drafts::load(conn, org, &row)?;
    let computed = drafts::compute(conn, &basis, now, CouponUse::Final)?;
    check(&computed)?;
    drafts::store(conn, (org.org_id, invoice), &computed, now)?;
    for rest in &computed.carried {
        lines::carry_item(conn, org.org_id, &basis.currency, rest, now)?;
    }
    let texts: DraftTexts = serde_json::from_value(row.draft.clone())
        .map_err(|error| Error::Internal(format!("draft {invoice}: {error}")))?;
    let mut document = document(conn, &basis, &computed, &texts, now)?;
    let credits = account.open_credits(conn)?;
    document.credits = applied(&credits, document.totals.total);
    document.totals.credited = document.credits.iter().map(|credit| credit.amount).sum();
    document.totals.due = document.totals.total - document.totals.credited;
    count_uses(conn, org.org_id, &computed)?;
    let place = numbers::take(conn, &basis.terms.seller, DocumentKind::Invoice, document.issue_date)?;
    document.number = Some(place.text.clone());
    numbers::keep(conn, org.org_id, &basis.terms.seller.id, (&document, &place), now)?;
    diesel::update(t::table.find((org.org_id, invoice)))
        .set((
            (t::number.eq(&place.text), t::finalized_at.eq(now), t::issue_date.eq(document.issue_date)),
            (t::due_date.eq(document.due_date), t::finalize_at.eq(None::<DateTime<Utc>>)),
        ))
        .execute(conn)?;
    book(conn, &mut account, &basis.terms, &document, now)?;
    settle::pay_with_credits(conn, &mut account, invoice, &credits, document.totals.total)?;
    let row = invoices::refresh(conn, &account, invoice)?;
    let object = shown::object(conn, (org.org_id, &org.public_id), invoice)?;
    messages::write(conn, vec![message(org, &row, object)], now)?;
    paid::follow(conn, org, &row, now)?;
    Ok(row)
}

/// The message that an invoice is issued.
fn message(org: &OrgContext, invoice: &InvoiceRow, object: Option<serde_json::Value>) -> NewMessage {
    NewMessage {
        org_id: org.org_id,
        kind: "invoice.finalized",
        dedupe_key: format!("invoice:{}:finalized", invoice.invoice_id),
        data: json!({
            "org": &*org.public_id,
            "invoice": invoice.invoice_id,
            "origin": "own",
            "number": invoice.number,
            "currency": invoice.currency,
            "total": invoice.total,
            "amount_remaining": invoice.open(),
            "due_date": invoice.due_date,
        }),
        object,
    }
}

/// Refuses a draft that cannot be an invoice.
fn check(computed: &Computed) -> Result<(), Error> {
    if computed.lines.is_empty() {
        return Err(Error::conflict("invoice_is_empty", "this draft has no line: add an item, or delete it"));
    }
    let detail = match computed.waits {
        None => return Ok(()),
        Some("total_below_zero") => {
            "the total of this draft is below 0, and it charges nothing that its credit could be set off \
             against: let the items wait for the next invoice, or make a credit note on an earlier invoice"
        }
        Some("usage_without_currency") => {
            "usage of its period has a price, but its meter has no rate card that says the currency: add one"
        }
        Some(_) => "usage of its period has no price: add a rate card and price it, or delete this draft",
    };
    Err(Error::conflict("invoice_waits", detail))
}

/// How much of each credit pays an invoice, oldest first.
fn applied(credits: &[OpenEntry], total: i64) -> Vec<AppliedCredit> {
    let mut left = total;
    let mut applied = Vec::new();
    for credit in credits {
        let amount = credit.open.min(left);
        if amount > 0 {
            applied.push(AppliedCredit { description: credit.description.clone(), amount });
            left -= amount;
        }
    }
    applied
}

/// Counts a use of each coupon that took something off.
fn count_uses(conn: &mut PgConnection, org_id: i64, computed: &Computed) -> QueryResult<()> {
    let used: BTreeSet<usize> = computed.amounts.allowances.iter().map(|off| off.discount).collect();
    let codes: Vec<String> = used.into_iter().map(|place| computed.coupons[place].code.clone()).collect();
    coupons::count_uses(conn, org_id, &codes, 1)
}

fn book(
    conn: &mut PgConnection,
    account: &mut Account,
    terms: &Terms,
    document: &Document,
    now: DateTime<Utc>,
) -> Result<i64, Error> {
    let entry = NewEntry {
        kind: EntryKind::Invoice,
        document: &document.id,
        amount: document.totals.total,
        occurred_at: now,
        corrects: None,
        description: document.number.as_deref().unwrap_or_default(),
    };
    account.enter(conn, &terms.seller, &entry)
}

/// The document of a draft, without number and credits.
pub(super) fn document(
    conn: &mut PgConnection,
    basis: &Basis,
    computed: &Computed,
    texts: &DraftTexts,
    now: DateTime<Utc>,
) -> Result<Document, Error> {
    let Terms { seller, profile, .. } = &basis.terms;
    let settings = &seller.body.settings;
    let zone = seller.zone();
    let lines: Vec<Line> = (1..)
        .zip(&computed.lines)
        .zip(&computed.amounts.lines)
        .map(|((number, line), amounts)| shown_line(number, line, *amounts, zone))
        .collect();
    let issue_date = seller.day(now);
    let own = |text: &Option<String>, usual: &Option<String>| text.clone().or_else(|| usual.clone());
    Ok(Document {
        id: basis.invoice.clone(),
        kind: DocumentKind::Invoice,
        number: None,
        issue_date,
        due_date: Some(due_date(issue_date, basis.terms.terms_days())),
        supply_from: lines.iter().filter_map(|line| line.from).min(),
        supply_to: lines.iter().filter_map(|line| line.to).max(),
        currency: basis.currency.clone(),
        language: basis.terms.language().to_owned(),
        tax_inclusive: basis.terms.tax_inclusive(),
        seller: seller.body.party.clone(),
        buyer: profile.party.clone(),
        buyer_reference: own(&texts.buyer_reference, &profile.buyer_reference),
        purchase_order: own(&texts.purchase_order, &profile.purchase_order),
        invoice: None,
        reason: None,
        lines,
        allowances: allowances(computed),
        taxes: taxes(computed),
        totals: computed.amounts.totals,
        credits: Vec::new(),
        payment_accounts: payment_accounts::shown(conn, &seller.id, &basis.currency)?,
        terms: own(&texts.terms, &settings.terms),
        note: own(&texts.note, &settings.note),
    })
}

/// The day on which an invoice is due.
pub(super) fn due_date(issued: NaiveDate, terms_days: i32) -> NaiveDate {
    let days = u64::try_from(terms_days).unwrap_or(0);
    issued.checked_add_days(Days::new(days)).unwrap_or(issued)
}

fn shown_line(
    number: i32,
    line: &DraftLine,
    amounts: super::amounts::LineAmounts,
    zone: chrono_tz::Tz,
) -> Line {
    let (from, to) = line.days(zone);
    Line {
        number,
        kind: line.kind,
        description: line.description.clone(),
        quantity: line.quantity.normalize(),
        unit: line.unit.clone(),
        unit_price: line.unit_price.normalize(),
        base_quantity: line.base_quantity.normalize(),
        amount: line.amount,
        discount: amounts.discount,
        net: amounts.net,
        tax: amounts.tax,
        tax_category: line.tax_rate.body.category,
        tax_percent: line.tax_rate.group().percent,
        from,
        to,
    }
}

fn allowances(computed: &Computed) -> Vec<Allowance> {
    let shown = |off: &super::amounts::AllowanceAmounts| {
        let coupon = &computed.coupons[off.discount];
        Allowance {
            coupon: coupon.code.clone(),
            name: coupon.body.name.clone(),
            percent: coupon.body.percent.map(|percent| percent.0),
            amount: off.amount,
            net: off.net,
            tax_category: off.group.category,
            tax_percent: off.group.percent,
        }
    };
    computed.amounts.allowances.iter().map(shown).collect()
}

fn taxes(computed: &Computed) -> Vec<TaxSubtotal> {
    let shown = |tax: &super::amounts::TaxAmounts| {
        let rate = computed.lines.iter().map(|line| &line.tax_rate).find(|rate| rate.group() == tax.group);
        let body = rate.map(|rate| &rate.body);
        TaxSubtotal {
            name: body.map(|body| body.name.clone()).unwrap_or_default(),
            category: tax.group.category,
            percent: tax.group.percent,
            base: tax.base,
            tax: tax.tax,
            exemption_reason: body.and_then(|body| body.exemption_reason.clone()),
            exemption_code: body.and_then(|body| body.exemption_code.clone()),
        }
    };
    computed.amounts.taxes.iter().map(shown).collect()
}

/// The taxes of a credit note: named as on its invoice.
pub(super) fn credited_taxes(invoice: &Document, taxes: &[super::amounts::TaxAmounts]) -> Vec<TaxSubtotal> {
    let group = |tax: &TaxSubtotal| TaxGroup { category: tax.category, percent: tax.percent };
    let named = taxes.iter().filter_map(|tax| {
        let on_invoice = invoice.taxes.iter().find(|own| group(own) == tax.group)?;
        Some(TaxSubtotal { base: tax.base, tax: tax.tax, ..on_invoice.clone() })
    });
    named.collect()
}
