//! What finance knows: customers, subscriptions, invoices, payments, refunds, disputes and credit notes.
//!
//! The tables here mirror Stripe objects. Only the winning snapshot of an object decides what its row says.

pub mod acting_realms;
pub mod catalog;
pub mod checkout_sessions;
pub mod credit_notes;
pub mod customers;
pub mod directory;
pub mod disputes;
pub mod exports;
mod history;
pub mod invoices;
pub mod links;
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
pub mod standing;
pub mod subscription_periods;
pub mod subscriptions;
pub mod told;

use std::collections::BTreeSet;

use diesel::prelude::*;

use payments::PaymentKey;

/// The rows that one snapshot becomes: a row of a mirror, alone or with the rows that belong to it.
trait MirrorRows: Sized {
    /// The tables of these rows.
    const TABLES: &'static [&'static str];

    /// Stores all `rows`. If two have the same key, the last one counts. `replaces`: some may be stored
    /// already.
    fn write(conn: &mut PgConnection, rows: &[Self], batch: &MirrorBatch, replaces: bool) -> QueryResult<()>;
}

/// Declares [`MirrorBatch`]: the rows of each mirror, in the order in which the tables are written.
macro_rules! mirrors {
    ($($(#[$doc:meta])* $rows:ident: $row:ty,)*) => {
        /// Rows to store together. A row replaces the stored row with the same key. If two rows of the batch
        /// have the same key, the last one counts.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct MirrorBatch {
            $($(#[$doc])* pub $rows: Vec<$row>,)*
            /// Payments to recompute after the rows above are stored. The caller has locked each of them
            /// until it commits.
            pub payment_keys: BTreeSet<PaymentKey>,
        }

        impl MirrorBatch {
            fn write_mirrors(&self, conn: &mut PgConnection, replaces: bool) -> QueryResult<()> {
                $(MirrorRows::write(conn, &self.$rows, self, replaces)?;)*
                Ok(())
            }
        }

        /// Every table of a mirror.
        pub(crate) fn mirror_tables() -> impl Iterator<Item = &'static str> {
            [$(<$row as MirrorRows>::TABLES),*].into_iter().flatten().copied()
        }
    };
}

mirrors! {
    products: catalog::Product,
    prices: catalog::Price,
    coupons: catalog::Coupon,
    promotion_codes: catalog::PromotionCode,
    tax_rates: catalog::TaxRate,
    customers: customers::Customer,
    customer_tax_ids: customers::CustomerTaxId,
    discounts: customers::Discount,
    /// Their items replace those stored.
    subscriptions: subscriptions::SubscriptionWithItems,
    /// Their lines replace those stored.
    invoices: invoices::InvoiceWithLines,
    payment_intents: payments::PaymentIntent,
    /// A stored refund that came from a charge's list is deleted, unless a charge of the batch still lists
    /// it.
    charges: payments::Charge,
    invoice_payments: payments::InvoicePayment,
    /// Refund objects, and entries of charges' lists.
    refunds: refunds::Refund,
    disputes: disputes::Dispute,
    /// Their lines replace those stored.
    credit_notes: credit_notes::CreditNoteWithLines,
    /// Their line items replace those stored.
    checkout_sessions: checkout_sessions::SessionWithItems,
}

impl MirrorBatch {
    /// The payments that the objects of this batch belong to as they are stored now. An object may move to
    /// another payment (an invoice gets another intent). So lock and add these keys as well: then the old
    /// payment is recomputed, too.
    ///
    /// Call it while the objects themselves are locked.
    pub fn stored_payment_keys(&self, conn: &mut PgConnection) -> QueryResult<BTreeSet<PaymentKey>> {
        payments::stored_keys(conn, &self.invoices, &self.charges, &self.invoice_payments)
    }

    /// The payments of stored charges whose refunds or disputes in this batch name the charge, but no intent.
    pub fn payments_of_charges(&self, conn: &mut PgConnection) -> QueryResult<BTreeSet<PaymentKey>> {
        if self.refunds.is_empty() && self.disputes.is_empty() {
            return Ok(BTreeSet::new());
        }
        payments::of_charges(conn, self.payment_keys.iter())
    }

    /// Stores all rows inside the caller's transaction and recomputes `payment_keys`. It writes the tables in
    /// a fixed order and rows in the order of their keys, so that two writers never deadlock. `replaces`:
    /// some objects may be stored already, with more lines than now.
    ///
    /// # Errors
    /// When the database fails: the caller rolls back.
    pub fn write(&self, conn: &mut PgConnection, replaces: bool) -> QueryResult<()> {
        let by_invoice = self.invoices.iter().filter_map(|row| row.invoice.change());
        let changes = self.subscriptions.iter().map(|row| row.subscription.change()).chain(by_invoice);
        directory::changed(conn, changes)?;
        self.write_mirrors(conn, replaces)?;
        payments::combine(conn, &self.payment_keys)
    }
}
