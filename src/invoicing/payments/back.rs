//! Money that goes back: refunds that we make, and reversals that are made to us.
//!
//! No more goes back than came in. A refund takes first what the payment pays nothing with, then the credit
//! of credit notes; only then an invoice that the payment paid asks for the money again. So a refund of a
//! credit note leaves its invoice paid, and a refund without one leaves it open. A reversal (a bounced debit,
//! a chargeback) does not look for credit notes.
//!
//! What asks for money then is paid by all credit that the account still has, also that of credit notes.

use std::collections::BTreeSet;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::{PaymentRow, find, refresh_all};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::ids;
use crate::invoicing::account::{Account, EntryKind, NewEntry, Side, StandingAllocation};
use crate::invoicing::checks::check_booked;
use crate::invoicing::{sellers, settle};
use crate::messages::{self, NewMessage};
use crate::schema::{own_payments, own_refunds as t, payment_references};
use crate::text::check_line;
use crate::time::Moment;

/// Whether we give back, or it is taken back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = OwnRefundKind)]
pub enum RefundKind {
    /// We give it back.
    Refund,
    /// It is taken back: a bounced debit, a chargeback.
    Reversal,
}

impl RefundKind {
    fn name(self) -> &'static str {
        match self {
            Self::Refund => "refund",
            Self::Reversal => "reversal",
        }
    }

    fn entry(self) -> EntryKind {
        match self {
            Self::Refund => EntryKind::Refund,
            Self::Reversal => EntryKind::Reversal,
        }
    }
}

/// Money that goes back.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRefund)]
pub struct RefundBody {
    /// In minor units of the payment's currency; all that is left of the payment when left out.
    #[serde(default)]
    #[schema(minimum = 1)]
    pub amount: Option<i64>,
    /// Why, for people.
    #[schema(min_length = 1, max_length = 200)]
    pub reason: String,
    /// The processor's id of it. It is recorded once for each processor.
    #[serde(default)]
    pub reference: Option<String>,
    /// When, not before the payment; now when left out.
    #[serde(default)]
    pub at: Option<Moment>,
}

/// A refund or a reversal.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OwnRefund {
    /// `rfd_…`
    pub id: String,
    /// `own`: recorded here, not mirrored from Stripe.
    pub origin: &'static str,
    /// Refund or reversal.
    pub kind: RefundKind,
    /// The payment.
    pub payment: String,
    /// Currency of the amount.
    pub currency: String,
    /// How much.
    pub amount: i64,
    /// Why.
    pub reason: String,
    /// The processor's id of it.
    pub reference: Option<String>,
    /// When.
    pub at: DateTime<Utc>,
    /// When it was recorded.
    pub created_at: DateTime<Utc>,
}

/// Records money of a payment that goes back. The flag is false when it was there already.
///
/// # Errors
/// [`Error::Invalid`] names the field; [`Error::Conflict`] when more would go back than is left, or the
/// reference belongs to something else.
pub fn give_back(
    conn: &mut PgConnection,
    org: &Arc<OrgContext>,
    (payment, kind): (&str, RefundKind),
    body: &RefundBody,
    now: DateTime<Utc>,
) -> Result<(OwnRefund, bool), Error> {
    check_line("reason", &body.reason, 200)?;
    if let Some(reference) = &body.reference {
        check_line("reference", reference, 200)?;
    }
    if body.amount.is_some_and(|amount| amount <= 0) {
        return Err(Error::invalid("amount", "must be above 0, in minor units of the payment's currency"));
    }
    let currency = find(conn, org.org_id, payment)?.currency;
    let mut account = Account::lock(conn, org.org_id, &currency, now)?;
    let row = find(conn, org.org_id, payment)?;
    let at = when(&row, body, now)?;
    let left = row.amount - row.amount_refunded - row.amount_reversed;
    let amount = body.amount.unwrap_or(left);
    let id = ids::fresh("rfd");
    if let Some(there) = claim(conn, &row, body, amount, &id)? {
        return Ok((there, false));
    }
    if left == 0 || amount > left {
        let detail = format!("of this payment {left} is left: no more can go back");
        return Err(Error::conflict("too_much_to_give_back", detail));
    }
    insert(conn, &row, (kind, amount, at), body, &id, now)?;
    let entry = NewEntry {
        kind: kind.entry(),
        document: &id,
        amount,
        occurred_at: at,
        corrects: Some(&row.payment_id),
        description: &format!("{} {}: {}", row.processor, row.reference, body.reason),
    };
    let seller = sellers::find(conn, &row.seller_id)?;
    let debit = account.enter(conn, &seller, &entry)?;
    let mut touched = pay_out(conn, &mut account, &row, kind, (debit, amount))?;
    touched.extend(settle::pay_all(conn, &mut account)?);
    refresh_all(conn, org, &account, &touched, now)?;
    let refund = get_refund(conn, org.org_id, &id)?;
    messages::write(conn, vec![message(org, &refund)], now)?;
    Ok((refund, true))
}

/// When money went back: not before it came in, and not in the future.
fn when(payment: &PaymentRow, body: &RefundBody, now: DateTime<Utc>) -> Result<DateTime<Utc>, Error> {
    // A processor's clock may be ahead of ours: see `paid_at`.
    let Some(at) = body.at else { return Ok(now.max(payment.paid_at)) };
    check_booked("at", at.0.date_naive())?;
    if at.0 < payment.paid_at {
        let paid_at = payment.paid_at.to_rfc3339_opts(SecondsFormat::AutoSi, true);
        return Err(Error::invalid("at", format!("must not be before the payment, which is of {paid_at}")));
    }
    if at.0 > now + TimeDelta::days(1) {
        return Err(Error::invalid("at", "must not be in the future"));
    }
    Ok(at.0)
}

/// The message that money of a payment went back.
fn message(org: &OrgContext, refund: &OwnRefund) -> NewMessage {
    NewMessage {
        org_id: org.org_id,
        kind: match refund.kind {
            RefundKind::Refund => "payment.refunded",
            RefundKind::Reversal => "payment.reversed",
        },
        dedupe_key: format!("refund:{}", refund.id),
        data: json!({
            "org": &*org.public_id, "refund": refund.id, "payment": refund.payment, "origin": "own",
            "invoice": null, "currency": refund.currency, "amount": refund.amount, "reason": refund.reason,
        }),
        object: serde_json::to_value(refund).ok(),
    }
}

/// Finds what the money comes from, and returns the invoices that ask for it again.
fn pay_out(
    conn: &mut PgConnection,
    account: &mut Account,
    payment: &PaymentRow,
    kind: RefundKind,
    (debit, amount): (i64, i64),
) -> Result<BTreeSet<String>, Error> {
    let credit = account.entry_of(conn, EntryKind::Payment, &payment.payment_id)?;
    let mut left = amount;
    left -= settle::pay_from(conn, account, debit, left, |open| open.sequence == credit)?;
    if kind == RefundKind::Refund {
        let notes = EntryKind::CreditNote.name();
        left -= settle::pay_from(conn, account, debit, left, |open| open.kind == notes)?;
    }
    let is_invoice = |paid: &StandingAllocation| paid.kind == EntryKind::Invoice.name();
    let (touched, freed) = settle::take_back(conn, account, Side::FromCredit(credit), left, is_invoice)?;
    if freed > 0 {
        account.allocate(conn, (credit, debit), freed)?;
    }
    Ok(touched)
}

fn claim(
    conn: &mut PgConnection,
    payment: &PaymentRow,
    body: &RefundBody,
    amount: i64,
    id: &str,
) -> Result<Option<OwnRefund>, Error> {
    use payment_references as r;
    let Some(reference) = &body.reference else { return Ok(None) };
    let claimed = diesel::insert_into(r::table)
        .values((
            (r::processor.eq(&payment.processor), r::reference.eq(reference)),
            (r::org_id.eq(payment.org_id), r::own_id.eq(id)),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    if claimed == 1 {
        return Ok(None);
    }
    let holder: (i64, String) =
        r::table.find((&payment.processor, reference)).select((r::org_id, r::own_id)).first(conn)?;
    let there = if holder.0 == payment.org_id { get_refund(conn, holder.0, &holder.1).ok() } else { None };
    let is_same = |there: &OwnRefund| {
        there.payment == payment.payment_id && body.amount.is_none_or(|_| there.amount == amount)
    };
    there.filter(is_same).map(Some).ok_or_else(|| {
        let detail = "this processor's reference belongs to another payment or refund, or to another amount";
        Error::conflict("reference_taken", detail)
    })
}

fn insert(
    conn: &mut PgConnection,
    payment: &PaymentRow,
    (kind, amount, at): (RefundKind, i64, DateTime<Utc>),
    body: &RefundBody,
    id: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::insert_into(t::table)
        .values((
            (t::org_id.eq(payment.org_id), t::refund_id.eq(id), t::payment_id.eq(&payment.payment_id)),
            (t::kind.eq(kind.name()), t::reference.eq(&body.reference), t::currency.eq(&payment.currency)),
            (t::amount.eq(amount), t::reason.eq(&body.reason)),
            (t::refunded_at.eq(at), t::created_at.eq(now)),
        ))
        .execute(conn)?;
    let (refunded, reversed) = match kind {
        RefundKind::Refund => (amount, 0),
        RefundKind::Reversal => (0, amount),
    };
    use own_payments as p;
    diesel::update(p::table.find((payment.org_id, &payment.payment_id)))
        .set((
            p::amount_refunded.eq(p::amount_refunded + refunded),
            p::amount_reversed.eq(p::amount_reversed + reversed),
        ))
        .execute(conn)?;
    Ok(())
}

type RefundRow = (String, String, String, String, i64, String, Option<String>, DateTime<Utc>, DateTime<Utc>);

fn read(row: RefundRow) -> OwnRefund {
    let (id, kind, payment, currency, amount, reason, reference, at, created_at) = row;
    let kind = if kind == "refund" { RefundKind::Refund } else { RefundKind::Reversal };
    OwnRefund { id, origin: "own", kind, payment, currency, amount, reason, reference, at, created_at }
}

/// The columns of a refund as it is shown.
macro_rules! shown {
    () => {
        (
            t::refund_id,
            t::kind,
            t::payment_id,
            t::currency,
            t::amount,
            t::reason,
            t::reference,
            t::refunded_at,
            t::created_at,
        )
    };
}

/// A refund or reversal of an org.
///
/// # Errors
/// [`Error::NotFound`] when the org has none with this id.
pub fn get_refund(conn: &mut PgConnection, org_id: i64, refund: &str) -> Result<OwnRefund, Error> {
    let row: Option<RefundRow> = t::table.find((org_id, refund)).select(shown!()).first(conn).optional()?;
    row.map(read).ok_or(Error::NotFound("refund"))
}

/// What went back of a payment, in order.
pub fn refunds_of(conn: &mut PgConnection, org_id: i64, payment: &str) -> QueryResult<Vec<OwnRefund>> {
    let rows: Vec<RefundRow> = t::table
        .filter(t::org_id.eq(org_id).and(t::payment_id.eq(payment)))
        .order((t::created_at, t::refund_id))
        .select(shown!())
        .load(conn)?;
    Ok(rows.into_iter().map(read).collect())
}
