//! What finance knows: customers, subscriptions, invoices, payments and what was returned.
//!
//! The tables here mirror Stripe objects. A row follows from the winning snapshot of its object alone.

pub mod catalog;
pub mod checkout_sessions;
pub mod credit_notes;
pub mod customers;
pub mod directory;
pub mod disputes;
pub mod exports;
pub mod invoices;
pub mod links;
mod lives;
pub mod local_subscriptions;
pub mod markers;
mod mirror;
pub mod moves;
pub mod org_name;
pub mod org_plan;
pub mod orgs;
pub mod payments;
pub mod periods;
mod plan_times;
pub mod plans;
pub(crate) mod raw;
pub mod read;
pub mod refunds;
pub mod subscription_periods;
pub mod subscriptions;
pub mod trust;

use std::collections::{BTreeMap, BTreeSet};

use diesel::prelude::*;

use catalog::{Coupon, Price, Product, PromotionCode, TaxRate};
use checkout_sessions::CheckoutSession;
use credit_notes::CreditNoteWithLines;
use customers::{Customer, CustomerTaxId, Discount};
use disputes::Dispute;
use invoices::InvoiceWithLines;
use mirror::{Mirror, upsert};
use payments::{Charge, InvoicePayment, PaymentIntent, PaymentKey};
use refunds::Refund;
use subscriptions::SubscriptionWithItems;

/// Rows to be stored together. Each is the new truth for its key; of equal keys the last one counts.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MirrorBatch {
    pub customers: Vec<Customer>,
    /// Tax ids of customers.
    pub customer_tax_ids: Vec<CustomerTaxId>,
    pub discounts: Vec<Discount>,
    /// Subscriptions; their items replace those stored.
    pub subscriptions: Vec<SubscriptionWithItems>,
    /// Invoices; their lines replace those stored.
    pub invoices: Vec<InvoiceWithLines>,
    pub payment_intents: Vec<PaymentIntent>,
    /// Charges; refunds that were read from a charge's list and are not in this batch are forgotten.
    pub charges: Vec<Charge>,
    pub invoice_payments: Vec<InvoicePayment>,
    /// Refunds of both sources.
    pub refunds: Vec<Refund>,
    pub disputes: Vec<Dispute>,
    /// Credit notes; their lines replace those stored.
    pub credit_notes: Vec<CreditNoteWithLines>,
    pub checkout_sessions: Vec<CheckoutSession>,
    pub products: Vec<Product>,
    pub prices: Vec<Price>,
    pub coupons: Vec<Coupon>,
    pub promotion_codes: Vec<PromotionCode>,
    pub tax_rates: Vec<TaxRate>,
    /// Payments to recompute after the rows above are stored. The caller holds a lock on each until it
    /// commits.
    pub payment_keys: BTreeSet<PaymentKey>,
}

impl MirrorBatch {
    /// The payments that rows of this batch take part in as they are stored now. An object may change its
    /// payment (an invoice gets another intent): lock and add these keys as well, so that the old payment is
    /// recomputed.
    ///
    /// Ask while the objects themselves are locked.
    ///
    /// # Errors
    /// What the database answers.
    pub fn stored_payment_keys(&self, conn: &mut PgConnection) -> QueryResult<BTreeSet<PaymentKey>> {
        payments::stored_keys(conn, &self.invoices, &self.charges, &self.invoice_payments)
    }

    /// The payments of the charges that refunds and disputes of this batch name alone, as far as these are
    /// stored.
    ///
    /// # Errors
    /// What the database answers.
    pub fn payments_of_charges(&self, conn: &mut PgConnection) -> QueryResult<BTreeSet<PaymentKey>> {
        if self.refunds.is_empty() && self.disputes.is_empty() {
            return Ok(BTreeSet::new());
        }
        payments::of_charges(conn, self.payment_keys.iter())
    }

    /// Stores all rows inside the caller's transaction and recomputes `payment_keys`. Tables are written in a
    /// fixed order and rows in the order of their keys, so that two writers do not wait for each other in a
    /// circle. `replaces`: some of it may be there already, with more lines than now.
    ///
    /// # Errors
    /// What the database answers; the transaction is then to be rolled back.
    pub fn write(&self, conn: &mut PgConnection, replaces: bool) -> QueryResult<()> {
        upsert(conn, &self.products)?;
        upsert(conn, &self.prices)?;
        upsert(conn, &self.coupons)?;
        upsert(conn, &self.promotion_codes)?;
        upsert(conn, &self.tax_rates)?;
        upsert(conn, &self.customers)?;
        upsert(conn, &self.customer_tax_ids)?;
        upsert(conn, &self.discounts)?;
        let by_invoice = self.invoices.iter().filter_map(|row| row.invoice.change());
        let changes = self.subscriptions.iter().map(|row| row.subscription.change()).chain(by_invoice);
        directory::changed(conn, changes)?;
        subscriptions::write(conn, &latest(&self.subscriptions, |row| row.subscription.key()), replaces)?;
        invoices::write(conn, &latest(&self.invoices, |row| row.invoice.key()), replaces)?;
        upsert(conn, &self.payment_intents)?;
        upsert(conn, &self.charges)?;
        upsert(conn, &self.invoice_payments)?;
        refunds::write(conn, &self.refunds, &self.charges)?;
        upsert(conn, &self.disputes)?;
        credit_notes::write(conn, &latest(&self.credit_notes, |row| row.credit_note.key()), replaces)?;
        upsert(conn, &self.checkout_sessions)?;
        payments::combine(conn, &self.payment_keys)
    }
}

/// The last row given of each key, in the order of keys.
fn latest<'a, T>(rows: &'a [T], key: impl Fn(&'a T) -> mirror::Key<'a>) -> Vec<&'a T> {
    rows.iter().map(|row| (key(row), row)).collect::<BTreeMap<_, _>>().into_values().collect()
}
