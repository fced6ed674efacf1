//! What finance can export: for each kind of row its columns, its tables and its order.
//!
//! `docs/exports.md` and the API's description are made from these definitions.

mod columns;

use serde::Serialize;

pub use columns::{Column, Type};

/// A kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Invoices that were not deleted at Stripe.
    Invoices,
    /// Lines of such invoices.
    Lines,
    /// Payments: one row per movement of money.
    Payments,
    Refunds,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Invoices, Self::Lines, Self::Payments, Self::Refunds];

    /// Its name in requests and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Invoices => "invoices",
            Self::Lines => "lines",
            Self::Payments => "payments",
            Self::Refunds => "refunds",
        }
    }

    /// The columns of a row, in the order of the file.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Invoices => columns::INVOICES,
            Self::Lines => columns::LINES,
            Self::Payments => columns::PAYMENTS,
            Self::Refunds => columns::REFUNDS,
        }
    }

    /// The statuses that rows of this kind (for lines: their invoices) can have.
    #[must_use]
    pub fn statuses(self) -> &'static [&'static str] {
        match self {
            Self::Invoices | Self::Lines => &["draft", "open", "paid", "void", "uncollectible"],
            // A payment has the status of its payment intent, charge or invoice payment: see `payments`.
            Self::Payments => &[
                "requires_payment_method",
                "requires_confirmation",
                "requires_action",
                "processing",
                "requires_capture",
                "canceled",
                "succeeded",
                "pending",
                "failed",
            ],
            Self::Refunds => &["pending", "requires_action", "succeeded", "failed", "canceled"],
        }
    }

    /// SQL after `FROM`: the rows, and the org billed. `d` is the document whose time, status and realm
    /// count. `o` is the org, null when the customer has none. No join but that of the lines adds rows.
    #[must_use]
    pub fn from(self) -> &'static str {
        match self {
            Self::Invoices => {
                "invoices d
                 LEFT JOIN stripe_customer_links k
                     ON (k.account, k.livemode, k.customer_id) = (d.account, d.livemode, d.customer_id)
                 LEFT JOIN org_refs f ON f.ref = k.ref LEFT JOIN orgs o ON o.org_id = f.org_id"
            }
            Self::Lines => {
                "invoices d
                 JOIN invoice_lines n ON (n.account, n.livemode, n.invoice_id) = (d.account, d.livemode, d.id)
                 LEFT JOIN stripe_customer_links k
                     ON (k.account, k.livemode, k.customer_id) = (d.account, d.livemode, d.customer_id)
                 LEFT JOIN org_refs f ON f.ref = k.ref LEFT JOIN orgs o ON o.org_id = f.org_id"
            }
            Self::Payments => {
                "payments d
                 LEFT JOIN stripe_customer_links k
                     ON (k.account, k.livemode, k.customer_id) = (d.account, d.livemode, d.customer_id)
                 LEFT JOIN org_refs f ON f.ref = k.ref LEFT JOIN orgs o ON o.org_id = f.org_id"
            }
            Self::Refunds => {
                "refunds d
                 LEFT JOIN payments p
                     ON (p.account, p.livemode, p.id)
                         = (d.account, d.livemode, coalesce(d.payment_intent_id, d.charge_id))
                 LEFT JOIN stripe_customer_links k
                     ON (k.account, k.livemode, k.customer_id) = (p.account, p.livemode, p.customer_id)
                 LEFT JOIN org_refs f ON f.ref = k.ref LEFT JOIN orgs o ON o.org_id = f.org_id"
            }
        }
    }

    /// SQL: the customer of a row of [`Kind::from`].
    pub(crate) fn customer(self) -> &'static str {
        if self == Self::Refunds { "p.customer_id" } else { "d.customer_id" }
    }

    /// SQL: the condition for rows of [`Kind::from`] to be exported at all.
    pub(crate) fn kept(self) -> &'static str {
        match self {
            Self::Invoices | Self::Lines => "NOT d.deleted",
            Self::Payments | Self::Refunds => "true",
        }
    }

    /// SQL after `ORDER BY`: no two rows have the same place. Each table has an index that begins like this,
    /// so PostgreSQL streams rows without a sort.
    #[must_use]
    pub fn order(self) -> &'static str {
        match self {
            Self::Lines => "d.created, d.id, d.account, d.livemode, n.line_number",
            _ => "d.created, d.id, d.account, d.livemode",
        }
    }
}
