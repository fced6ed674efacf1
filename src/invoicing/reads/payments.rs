//! Payments of both origins.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, Bool, Text};
use serde::{Serialize, Serializer};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{OwnPage, TwoOrigins, as_one, either_origin, narrowed, when};
use crate::billing::payments::Payment;
use crate::billing::payments::read::{PaymentFilter, PaymentView};
use crate::billing::read::{Origin, Position};
use crate::error::Error;
use crate::invoicing::payments::{self, OwnPayment, OwnRefund};
use crate::schema::{orgs, own_payments as t};

either_origin! {
    /// A payment of either origin.
    AnyPayment: PaymentView | OwnPaymentView
}

/// A payment that was recorded here, as a look-up shows it: the fields of Stripe's payments, and its own.
#[derive(Debug, ToSchema)]
pub struct OwnPaymentView {
    /// The fields that payments of both origins have.
    #[serde(flatten)]
    pub row: Payment,
    /// Its own.
    #[serde(flatten)]
    pub own: OwnPayment,
    /// What went back of it, in order.
    pub refunds: Vec<OwnRefund>,
}

impl Serialize for OwnPaymentView {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        as_one(to, &[&self.row, &self.own, &json!({ "refunds": self.refunds })])
    }
}

#[derive(Queryable)]
struct ListedPayment {
    org_id: i64,
    org: String,
    id: String,
    processor: String,
    reference: String,
    currency: String,
    amount: i64,
    amount_refunded: i64,
    amount_reversed: i64,
    method: Option<String>,
    paid_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    details: Value,
}

/// The columns of a [`ListedPayment`].
macro_rules! listed {
    () => {
        (
            t::org_id,
            orgs::public_id,
            t::payment_id,
            t::processor,
            t::reference,
            t::currency,
            t::amount,
            t::amount_refunded,
            t::amount_reversed,
            t::method,
            t::paid_at,
            t::created_at,
            t::details,
        )
    };
}

impl ListedPayment {
    /// In the shape of Stripe's payments. `invoice`: the one that it pays, if it pays only one.
    fn row(self, livemode: bool, invoice: Option<String>) -> Payment {
        Payment {
            account: String::new(),
            livemode,
            id: self.id,
            payment_intent_id: None,
            charge_id: None,
            invoice_payment_id: None,
            invoice_id: invoice,
            customer_id: None,
            status: Some("succeeded".to_owned()),
            amount: Some(self.amount),
            amount_received: self.amount,
            amount_refunded: self.amount_refunded,
            currency: Some(self.currency),
            description: Some(format!("{} {}", self.processor, self.reference)),
            payment_method_type: Some(self.method.unwrap_or(self.processor)),
            failure_code: None,
            failure_message: None,
            disputed: self.amount_reversed > 0,
            created: Some(self.created_at),
            paid_at: Some(self.paid_at),
            metadata: self.details,
            outside_stripe: true,
        }
    }
}

/// SQL before and after the id of an invoice: whether money of the payment pays it. `now`: now, else ever.
pub(super) fn pays(payment: &str, now: bool) -> (String, String) {
    let standing = if now { " GROUP BY c.document_id HAVING sum(a.amount) <> 0" } else { "" };
    let before = format!(
        "{payment} IN (SELECT c.document_id
             FROM own_invoices i
             JOIN account_entries d
                 ON (d.org_id, d.document_id, d.kind) = (i.org_id, i.invoice_id, 'invoice')
             JOIN account_allocations a
                 ON (a.org_id, a.currency, a.debit_sequence) = (d.org_id, d.currency, d.sequence)
             JOIN account_entries c
                 ON (c.org_id, c.currency, c.sequence) = (a.org_id, a.currency, a.credit_sequence)
             WHERE c.kind = 'payment' AND i.invoice_id = "
    );
    (before, format!("{standing})"))
}

/// The invoice that each payment pays, of those that pay only one; by payment.
fn only_invoices(conn: &mut PgConnection, ids: Vec<&str>) -> QueryResult<BTreeMap<String, String>> {
    #[derive(QueryableByName)]
    struct Pays {
        #[diesel(sql_type = Text)]
        payment: String,
        #[diesel(sql_type = Text)]
        invoice: String,
    }
    let rows: Vec<Pays> = diesel::sql_query(
        "SELECT payment, min(invoice) AS invoice FROM (
             SELECT c.document_id AS payment, d.document_id AS invoice
             FROM own_payments p
             JOIN account_entries c
                 ON (c.org_id, c.document_id, c.kind) = (p.org_id, p.payment_id, 'payment')
             JOIN account_allocations a
                 ON (a.org_id, a.currency, a.credit_sequence) = (c.org_id, c.currency, c.sequence)
             JOIN account_entries d
                 ON (d.org_id, d.currency, d.sequence) = (a.org_id, a.currency, a.debit_sequence)
             WHERE p.payment_id = ANY ($1) AND d.kind = 'invoice'
             GROUP BY 1, 2 HAVING sum(a.amount) <> 0) s
         GROUP BY 1 HAVING count(*) = 1",
    )
    .bind::<Array<Text>, _>(ids)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| (row.payment, row.invoice)).collect())
}

impl TwoOrigins for Payment {
    type Any = AnyPayment;

    fn own_page(
        conn: &mut PgConnection,
        page: &OwnPage<'_, PaymentFilter>,
    ) -> Result<Vec<(Position, PaymentView)>, Error> {
        let filter = page.filter.clone();
        let is_other = filter.status.as_deref().is_some_and(|status| status != "succeeded");
        if is_other || filter.customer.is_some() || filter.charge.is_some() {
            return Ok(Vec::new());
        }
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = narrowed!(joined, t, payment_id, page);
        when! { query,
            filter.currency => |currency| t::currency.eq(currency),
            filter.invoice => |id| {
                let (before, after) = pays("own_payments.payment_id", true);
                diesel::dsl::sql::<Bool>(&before).bind::<Text, _>(id).sql(&after)
            },
        }
        let found: Vec<ListedPayment> = query.load(conn)?;
        let mut invoices = only_invoices(conn, found.iter().map(|payment| &*payment.id).collect())?;
        let view = |payment: ListedPayment| {
            let position = Position::of_own(payment.created_at, &payment.id, page.livemode);
            let (org, invoice) = (Some(payment.org.clone()), invoices.remove(&payment.id));
            let row = payment.row(page.livemode, invoice);
            (position, PaymentView { row, origin: Origin::Own, org, raw: None })
        };
        Ok(found.into_iter().map(view).collect())
    }

    fn own(
        conn: &mut PgConnection,
        id: &str,
        org: Option<&str>,
        livemode: bool,
    ) -> Result<AnyPayment, Error> {
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = joined.filter(t::payment_id.eq(id)).into_boxed();
        when! { query, org.map(str::to_owned) => |org| orgs::public_id.eq(org) }
        let found: Option<ListedPayment> = query.first(conn).optional()?;
        let found = found.ok_or(Error::NotFound("payment"))?;
        let own = payments::get(conn, (found.org_id, &found.org), id)?;
        let refunds = payments::refunds_of(conn, found.org_id, id)?;
        let invoice = only_invoices(conn, vec![id])?.remove(id);
        let row = found.row(livemode, invoice);
        Ok(AnyPayment::Own(Box::new(OwnPaymentView { row, own, refunds })))
    }
}
