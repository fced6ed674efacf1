//! Payments of any processor, recorded by hand or by a service, and what goes back. Owns `own_payments`,
//! `own_refunds` and `payment_references`.
//!
//! A payment pays the invoices that it names, else the oldest debts; what is left is credit that the next
//! invoice uses visibly. A processor's reference is recorded once: a repeat with the same content answers
//! with the payment that is there.

mod back;

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::account::{Account, EntryKind, NewEntry};
use super::amounts::MAX_AMOUNT;
use super::checks::check_booked;
use super::{invoices, paid, payment_accounts, profiles, settle, undo};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::ids;
use crate::money;
use crate::schema::{own_payments as t, payment_references};
use crate::text::check_line;
use crate::time::Moment;
pub use back::{OwnRefund, RefundBody, RefundKind, get_refund, give_back, refunds_of};

/// A payment to record.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPayment)]
pub struct PaymentBody {
    /// Public or external id of the org.
    pub org: String,
    /// In minor units of the currency, above 0.
    #[schema(minimum = 1)]
    pub amount: i64,
    /// ISO 4217, lower case.
    pub currency: String,
    /// Who moved the money: `paypal`, `razorpay`, `bank_transfer`, `cash`.
    #[schema(min_length = 1, max_length = 50)]
    pub processor: String,
    /// The processor's id of the payment. It is recorded once for each processor.
    #[schema(min_length = 1, max_length = 200)]
    pub reference: String,
    /// When it was paid, not before 2000-01-01; now when left out.
    #[serde(default)]
    pub paid_at: Option<Moment>,
    /// How: `card`, `wallet`, `transfer`.
    #[serde(default)]
    pub method: Option<String>,
    /// Brand of the card.
    #[serde(default)]
    pub card_brand: Option<String>,
    /// Last four digits of the card.
    #[serde(default)]
    #[schema(pattern = "^[0-9]{4}$")]
    pub card_last4: Option<String>,
    /// What the processor kept, in minor units; at most the amount.
    #[serde(default)]
    #[schema(minimum = 0)]
    pub fee: Option<i64>,
    /// Invoices that it pays, in this order. Left out: the oldest debts first.
    #[serde(default)]
    pub invoices: Vec<PaidInvoice>,
    /// Whatever the processor said and you want to keep.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub details: Map<String, Value>,
}

/// An invoice that a payment pays.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PaidInvoice {
    /// `inv_…`
    pub invoice: String,
    /// How much of the payment; as much as the invoice asks for when left out.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub amount: Option<i64>,
}

/// A recorded payment.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnPayment {
    /// `pay_…`
    pub id: String,
    /// `own`: recorded here, not mirrored from Stripe.
    pub origin: &'static str,
    /// The org, by public id.
    pub org: String,
    /// Currency of the amounts.
    pub currency: String,
    /// What came in.
    pub amount: i64,
    /// What was given back.
    pub amount_refunded: i64,
    /// What was taken back: a bounced debit, a chargeback.
    pub amount_reversed: i64,
    /// What pays no debt yet: credit for the next invoice.
    pub amount_unused: i64,
    /// What the processor kept; null: not known.
    pub fee: Option<i64>,
    /// Who moved the money.
    pub processor: String,
    /// The processor's id.
    pub reference: String,
    /// How.
    pub method: Option<String>,
    /// Brand of the card.
    pub card_brand: Option<String>,
    /// Last four digits of the card.
    pub card_last4: Option<String>,
    /// Key of the account that it arrived on.
    pub payment_account: Option<String>,
    /// When it was paid.
    pub paid_at: DateTime<Utc>,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
    /// What the processor said.
    #[schema(value_type = Object)]
    pub details: Value,
    /// What it pays.
    pub invoices: Vec<PaidPart>,
}

/// How much of an invoice a payment pays.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct PaidPart {
    /// `inv_…`
    pub invoice: String,
    /// Number of the invoice.
    pub number: Option<String>,
    /// How much.
    pub amount: i64,
}

#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = t)]
pub(super) struct PaymentRow {
    pub(super) org_id: i64,
    pub(super) payment_id: String,
    pub(super) seller_id: String,
    pub(super) processor: String,
    pub(super) reference: String,
    pub(super) currency: String,
    pub(super) amount: i64,
    pub(super) fee: Option<i64>,
    pub(super) method: Option<String>,
    pub(super) card_brand: Option<String>,
    pub(super) card_last4: Option<String>,
    pub(super) payment_account_id: Option<String>,
    pub(super) paid_at: DateTime<Utc>,
    pub(super) created_at: DateTime<Utc>,
    pub(super) details: Value,
    pub(super) amount_refunded: i64,
    pub(super) amount_reversed: i64,
}

impl PaymentBody {
    /// # Errors
    /// [`Error::Invalid`] names the field.
    pub fn check(&self, now: DateTime<Utc>) -> Result<(), Error> {
        if !(1..=MAX_AMOUNT).contains(&self.amount) {
            let rule = format!("must be from 1 to {MAX_AMOUNT}, in minor units of the currency");
            return Err(Error::invalid("amount", rule));
        }
        money::check_currency("currency", &self.currency)?;
        check_line("processor", &self.processor, 50)?;
        check_line("reference", &self.reference, 200)?;
        for (field, text) in [("method", &self.method), ("card_brand", &self.card_brand)] {
            if let Some(text) = text {
                check_line(field, text, 50)?;
            }
        }
        let is_four = |digits: &String| digits.len() == 4 && digits.bytes().all(|b| b.is_ascii_digit());
        if !self.card_last4.as_ref().is_none_or(is_four) {
            return Err(Error::invalid("card_last4", "must be the last four digits"));
        }
        if self.fee.is_some_and(|fee| !(0..=self.amount).contains(&fee)) {
            return Err(Error::invalid("fee", "must be from 0 to the amount, in minor units"));
        }
        if let Some(at) = self.paid_at {
            check_booked("paid_at", at.0.date_naive())?;
        }
        if self.paid_at.is_some_and(|at| at.0 > now + TimeDelta::days(1)) {
            return Err(Error::invalid("paid_at", "must not be in the future"));
        }
        let named: BTreeSet<&str> = self.invoices.iter().map(|paid| paid.invoice.as_str()).collect();
        if named.len() != self.invoices.len() {
            return Err(Error::invalid("invoices", "must name each invoice once"));
        }
        if self.invoices.iter().any(|paid| paid.amount.is_some_and(|amount| amount <= 0)) {
            return Err(Error::invalid("invoices", "must have amounts above 0"));
        }
        Ok(())
    }
}

/// Records a payment and lets it pay. The flag is false when the payment was there already.
///
/// # Errors
/// [`Error::Invalid`] names the field; [`Error::Conflict`] when the reference belongs to another payment, or
/// an invoice cannot be paid.
pub fn record(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    body: &PaymentBody,
    now: DateTime<Utc>,
) -> Result<(OwnPayment, bool), Error> {
    body.check(now)?;
    let terms = profiles::terms(conn, org.org_id)?;
    let mut account = Account::lock(conn, org.org_id, &body.currency, now)?;
    let id = ids::fresh("pay");
    if let Some(there) = claim(conn, org, body, &id)? {
        return Ok((there, false));
    }
    insert(conn, org.org_id, &terms.seller.id, body, &id, now)?;
    let paid_at = body.paid_at.map_or(now, |at| at.0);
    let description = format!("{} {}", body.processor, body.reference);
    let entry = NewEntry {
        kind: EntryKind::Payment,
        document: &id,
        amount: -body.amount,
        occurred_at: paid_at,
        corrects: None,
        description: &description,
    };
    let credit = account.enter(conn, &terms.seller, &entry)?;
    let touched = if body.invoices.is_empty() {
        settle::pay_all(conn, &mut account)?
    } else {
        pay_named(conn, &mut account, credit, body, now)?
    };
    refresh_all(conn, org, &account, &touched, now)?;
    let row = find(conn, org.org_id, &id)?;
    Ok((show(conn, &row, &org.public_id)?, true))
}

/// Claims the reference. Returns the payment that has it already, if it is the same.
fn claim(
    conn: &mut PgConnection,
    org: &OrgContext,
    body: &PaymentBody,
    id: &str,
) -> Result<Option<OwnPayment>, Error> {
    use payment_references as r;
    let claimed = diesel::insert_into(r::table)
        .values((
            (r::processor.eq(&body.processor), r::reference.eq(&body.reference)),
            (r::org_id.eq(org.org_id), r::own_id.eq(id)),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    if claimed == 1 {
        return Ok(None);
    }
    let holder: (i64, String) =
        r::table.find((&body.processor, &body.reference)).select((r::org_id, r::own_id)).first(conn)?;
    let other = || {
        let detail = "this processor's reference belongs to another payment or refund, or to another amount";
        Error::conflict("reference_taken", detail)
    };
    let row = t::table.find((holder.0, &holder.1)).select(PaymentRow::as_select()).first(conn).optional()?;
    let same = row
        .filter(|row| row.org_id == org.org_id && row.amount == body.amount && row.currency == body.currency);
    show(conn, &same.ok_or_else(other)?, &org.public_id).map(Some)
}

fn insert(
    conn: &mut PgConnection,
    org_id: i64,
    seller: &str,
    body: &PaymentBody,
    id: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let arrived = payment_accounts::of_processor(conn, seller, &body.processor, &body.currency)?;
    diesel::insert_into(t::table)
        .values((
            (t::org_id.eq(org_id), t::payment_id.eq(id), t::seller_id.eq(seller)),
            (t::processor.eq(&body.processor), t::reference.eq(&body.reference)),
            (t::currency.eq(&body.currency), t::amount.eq(body.amount), t::fee.eq(body.fee)),
            (t::method.eq(&body.method), t::card_brand.eq(&body.card_brand)),
            (t::card_last4.eq(&body.card_last4), t::payment_account_id.eq(arrived)),
            (t::paid_at.eq(body.paid_at.map_or(now, |at| at.0)), t::created_at.eq(now)),
            t::details.eq(Value::Object(body.details.clone())),
        ))
        .execute(conn)?;
    Ok(())
}

/// Lets a payment pay the invoices that it names.
fn pay_named(
    conn: &mut PgConnection,
    account: &mut Account,
    credit: i64,
    body: &PaymentBody,
    now: DateTime<Utc>,
) -> Result<BTreeSet<String>, Error> {
    let (mut left, mut touched) = (body.amount, BTreeSet::new());
    for named in &body.invoices {
        let row = invoices::lock(conn, account.org_id, &named.invoice)
            .map_err(|_| Error::invalid("invoices", "must be invoices of this org (`inv_…`)"))?;
        row.must_be_finalised()?;
        if row.currency != account.currency {
            return Err(Error::invalid("currency", "must be that of the invoice"));
        }
        let asked = row.open() + if row.status == "uncollectible" { row.amount_written_off } else { 0 };
        let wanted = named.amount.unwrap_or_else(|| asked.min(left));
        if wanted > asked || wanted > left {
            let detail = format!(
                "invoice {} asks for {asked}, and {left} is left of the payment: name less, or leave \
                 amounts out",
                named.invoice
            );
            return Err(Error::conflict("too_much_for_invoice", detail));
        }
        if wanted == 0 {
            continue;
        }
        if row.status == "uncollectible" {
            undo::recover(conn, account, &row, wanted, now)?;
        }
        let debit = account.entry_of(conn, EntryKind::Invoice, &named.invoice)?;
        account.allocate(conn, (credit, debit), wanted)?;
        left -= wanted;
        touched.insert(named.invoice.clone());
    }
    Ok(touched)
}

/// Computes the state of invoices again, and does what follows for those that are paid.
pub(super) fn refresh_all(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    account: &Account,
    touched: &BTreeSet<String>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    for invoice in touched {
        let row = invoices::refresh(conn, account, invoice)?;
        paid::follow(conn, org, &row, now)?;
    }
    Ok(())
}

/// # Errors
/// [`Error::NotFound`] when the org has no such payment.
pub(super) fn find(conn: &mut PgConnection, org_id: i64, payment: &str) -> Result<PaymentRow, Error> {
    let row = t::table.find((org_id, payment)).select(PaymentRow::as_select());
    row.first(conn).optional()?.ok_or(Error::NotFound("payment"))
}

/// The org of a payment. `own`: the only org that the caller may see.
///
/// # Errors
/// [`Error::NotFound`] when there is no such payment, or it is another org's.
pub fn org_of(conn: &mut PgConnection, payment: &str, own: Option<i64>) -> Result<i64, Error> {
    let mut query = t::table.filter(t::payment_id.eq(payment)).select(t::org_id).into_boxed();
    if let Some(org_id) = own {
        query = query.filter(t::org_id.eq(org_id));
    }
    query.first(conn).optional()?.ok_or(Error::NotFound("payment"))
}

/// Shows a payment of an org.
///
/// # Errors
/// [`Error::NotFound`] when the org has no such payment.
pub fn get(conn: &mut PgConnection, (org_id, org): (i64, &str), payment: &str) -> Result<OwnPayment, Error> {
    let row = find(conn, org_id, payment)?;
    show(conn, &row, org)
}

pub(super) fn show(conn: &mut PgConnection, row: &PaymentRow, org: &str) -> Result<OwnPayment, Error> {
    use diesel::sql_types::{BigInt, Nullable, Text};
    #[derive(QueryableByName)]
    struct PartRow {
        #[diesel(sql_type = Text)]
        kind: String,
        #[diesel(sql_type = Text)]
        document_id: String,
        #[diesel(sql_type = Nullable<Text>)]
        number: Option<String>,
        #[diesel(sql_type = BigInt)]
        amount: i64,
    }
    let parts: Vec<PartRow> = diesel::sql_query(
        "SELECT d.kind, d.document_id, i.number, sum(a.amount)::bigint AS amount
         FROM account_entries c
         JOIN account_allocations a
             ON (a.org_id, a.currency, a.credit_sequence) = (c.org_id, c.currency, c.sequence)
         JOIN account_entries d
             ON (d.org_id, d.currency, d.sequence) = (a.org_id, a.currency, a.debit_sequence)
         LEFT JOIN own_invoices i ON (i.org_id, i.invoice_id) = (d.org_id, d.document_id)
         WHERE c.org_id = $1 AND c.kind = 'payment' AND c.document_id = $2
         GROUP BY 1, 2, 3 HAVING sum(a.amount) <> 0 ORDER BY min(a.allocation)",
    )
    .bind::<BigInt, _>(row.org_id)
    .bind::<Text, _>(&row.payment_id)
    .load(conn)?;
    let used: i64 = parts.iter().map(|part| part.amount).sum();
    let invoices = parts.into_iter().filter(|part| part.kind == EntryKind::Invoice.name());
    let row = row.clone();
    Ok(OwnPayment {
        id: row.payment_id,
        origin: "own",
        org: org.to_owned(),
        currency: row.currency,
        amount: row.amount,
        amount_refunded: row.amount_refunded,
        amount_reversed: row.amount_reversed,
        amount_unused: row.amount - used,
        fee: row.fee,
        processor: row.processor,
        reference: row.reference,
        method: row.method,
        card_brand: row.card_brand,
        card_last4: row.card_last4,
        payment_account: row.payment_account_id,
        paid_at: row.paid_at,
        created_at: row.created_at,
        details: row.details,
        invoices: invoices
            .map(|part| PaidPart { invoice: part.document_id, number: part.number, amount: part.amount })
            .collect(),
    })
}
