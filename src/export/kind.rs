//! What an export can hold: rows of billing, entries of batteries or of the audit log, or usage.

use super::{audit, breakdown, charges, drift};
use crate::battery::exports as battery;
use crate::billing::exports::{Column, Kind};
use crate::usage::exports::{self as usage, UsageColumns};
use crate::usage::summaries::TimeUnit;

/// The kind of an export's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    Billing(Kind),
    /// Entries of batteries' ledgers.
    Battery,
    /// Entries of the audit log.
    Audit,
    /// Usage charged through Stripe.
    Charges,
    /// Usage of each day or month.
    Usage(TimeUnit, UsageColumns),
    /// Differences between mirrors and Stripe.
    Drift,
    /// Usage grouped as `/v1/usage/breakdown` groups it.
    Breakdown,
}

impl ExportKind {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Billing(kind) => kind.name(),
            Self::Battery => battery::NAME,
            Self::Audit => audit::NAME,
            Self::Charges => charges::NAME,
            Self::Usage(_, columns) => columns.name(),
            Self::Drift => drift::NAME,
            Self::Breakdown => breakdown::NAME,
        }
    }

    /// The columns of a row, in order.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Billing(kind) => kind.columns(),
            Self::Battery => battery::COLUMNS,
            Self::Audit => audit::COLUMNS,
            Self::Charges => charges::COLUMNS,
            Self::Usage(_, columns) => columns.columns(),
            Self::Drift => drift::COLUMNS,
            Self::Breakdown => breakdown::COLUMNS,
        }
    }

    /// The SQL after `ORDER BY`.
    pub(super) fn order(self) -> &'static str {
        match self {
            Self::Billing(kind) => kind.definition().order,
            Self::Battery => battery::ORDER,
            Self::Audit => audit::ORDER,
            Self::Charges => charges::ORDER,
            Self::Usage(..) => usage::ORDER,
            Self::Drift => drift::ORDER,
            Self::Breakdown => breakdown::ORDER,
        }
    }

    /// How the control totals group the rows. There is one grouping at least, and each has every row.
    pub(super) fn groupings(self) -> &'static [Grouping] {
        match self {
            Self::Billing(_) => &[Grouping { name: "currencies", by: "currency", only: &[] }],
            Self::Battery => &[Grouping { name: "kinds", by: "kind", only: &[] }],
            Self::Audit => &[Grouping { name: "actions", by: "action", only: &[] }],
            Self::Drift => &[Grouping { name: "kinds", by: "kind", only: &[] }],
            // Quantities of different meters do not add up.
            Self::Charges => &[Grouping { name: "meters", by: "meter", only: &[] }],
            // Costs of different meters add up, their quantities do not.
            Self::Usage(_, UsageColumns::Plain) | Self::Breakdown => &[
                Grouping { name: "currencies", by: "currency", only: &["cost"] },
                Grouping { name: "meters", by: "meter", only: &["quantity", "count", "battery_units"] },
            ],
            Self::Usage(_, UsageColumns::Focus) => {
                &[Grouping { name: "currencies", by: "BillingCurrency", only: &[] }]
            }
        }
    }

    /// Whether the rows are of accounts and modes at Stripe, with the columns `account` and `livemode`.
    pub(super) fn has_realms(self) -> bool {
        matches!(self, Self::Billing(_))
    }
}

/// A grouping of the control totals.
#[derive(Debug)]
pub(super) struct Grouping {
    /// Its name in the totals.
    pub(super) name: &'static str,
    /// The column whose texts name the groups.
    pub(super) by: &'static str,
    /// The summed columns that it sums up; empty: all.
    pub(super) only: &'static [&'static str],
}

impl Grouping {
    /// Whether it sums up this column.
    pub(super) fn sums(&self, column: &Column) -> bool {
        column.summed && (self.only.is_empty() || self.only.contains(&column.name))
    }
}

impl From<Kind> for ExportKind {
    fn from(kind: Kind) -> Self {
        Self::Billing(kind)
    }
}
