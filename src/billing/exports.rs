//! What finance can export: for each kind of row its columns, its tables, its order, and what narrows it.
//!
//! A new kind is one [`Definition`] and one entry of [`Kind`]. `docs/exports.md`, the API's description and
//! the rules of the parameters are made from these definitions, which are of Stripe's objects. Our own
//! objects have definitions of the same columns with other SQL (`crate::invoicing::exports`).

#[macro_use]
mod joins;
mod columns;
mod credit_notes;
mod customers;
mod invoices;
mod payments;
mod returns;

use serde::Serialize;

pub use columns::{Column, Type};
pub(crate) use columns::{column, text};

/// A kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Invoices that were not deleted at Stripe.
    Invoices,
    /// Lines of such invoices.
    Lines,
    /// Payments: one row per movement of money.
    Payments,
    Refunds,
    CreditNotes,
    CreditNoteLines,
    Disputes,
    /// Customers at Stripe, those deleted there, too.
    Customers,
}

/// What an export of a kind is made of. All SQL is over the rows of `from`.
#[derive(Debug)]
pub struct Definition {
    /// Its name in requests and answers.
    pub name: &'static str,
    /// The columns of a row, in the order of the file.
    pub columns: &'static [Column],
    /// SQL after `FROM`: the rows, and the org billed. `d` is the document whose time and realm count. `o` is
    /// the org, null when the customer has none. No join but that of lines adds rows.
    pub from: &'static str,
    /// SQL: the condition for a row to be exported at all.
    pub kept: &'static str,
    /// SQL after `ORDER BY`, which begins with `d.created, d.id`: no two rows have the same place. Each table
    /// has an index that begins like this, so PostgreSQL streams rows without a sort.
    pub order: &'static str,
    /// The kind of the documents whose lines these rows are.
    pub lines_of: Option<Kind>,
    pub filters: Filters,
}

/// What the parameters of a request narrow, as SQL. `None`: the parameter does not apply to the kind.
/// `customer`, `subscription` and `number` may be `ANY (…)` of an array.
#[derive(Debug)]
pub struct Filters {
    /// The statuses that `d.status` can have; empty: there is no status.
    pub statuses: &'static [&'static str],
    pub currency: Option<&'static str>,
    /// The customer at Stripe.
    pub customer: &'static str,
    pub subscription: Option<&'static str>,
    /// The number that the customer sees.
    pub number: Option<&'static str>,
    /// When the document was issued.
    pub issued: Option<&'static str>,
    pub paid: Option<&'static str>,
    /// Until when somebody has to act.
    pub due: Option<&'static str>,
    /// Whether `d` is late at the time `?`.
    pub overdue: Option<&'static str>,
    /// Whether `d` is void.
    pub void: Option<&'static str>,
}

impl Filters {
    /// Nothing but the customer applies.
    pub(crate) const fn of_customer(customer: &'static str) -> Self {
        Self {
            statuses: &[],
            currency: None,
            customer,
            subscription: None,
            number: None,
            issued: None,
            paid: None,
            due: None,
            overdue: None,
            void: None,
        }
    }
}

/// The order of documents.
pub(crate) const BY_CREATED: &str = "d.created, d.id, d.account, d.livemode";

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Invoices,
        Self::Lines,
        Self::Payments,
        Self::Refunds,
        Self::CreditNotes,
        Self::CreditNoteLines,
        Self::Disputes,
        Self::Customers,
    ];

    #[must_use]
    pub fn definition(self) -> &'static Definition {
        match self {
            Self::Invoices => &invoices::INVOICES,
            Self::Lines => &invoices::LINES,
            Self::Payments => &payments::PAYMENTS,
            Self::Refunds => &returns::REFUNDS,
            Self::CreditNotes => &credit_notes::CREDIT_NOTES,
            Self::CreditNoteLines => &credit_notes::CREDIT_NOTE_LINES,
            Self::Disputes => &returns::DISPUTES,
            Self::Customers => &customers::CUSTOMERS,
        }
    }

    /// Its name in requests and answers.
    #[must_use]
    pub fn name(self) -> &'static str {
        self.definition().name
    }

    /// The columns of a row, in the order of the file.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        self.definition().columns
    }
}
