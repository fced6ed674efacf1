//! What an export can hold: rows of billing, or entries of batteries.

use crate::battery::exports as battery;
use crate::billing::exports::{Column, Kind};

/// The kind of an export's rows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ExportKind {
    Billing(Kind),
    /// Entries of batteries' ledgers.
    Battery,
}

impl ExportKind {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Billing(kind) => kind.name(),
            Self::Battery => battery::NAME,
        }
    }

    /// The columns of a row, in order.
    #[must_use]
    pub fn columns(self) -> &'static [Column] {
        match self {
            Self::Billing(kind) => kind.columns(),
            Self::Battery => battery::COLUMNS,
        }
    }

    /// The SQL after `FROM`.
    pub(super) fn tables(self) -> &'static str {
        match self {
            Self::Billing(kind) => kind.definition().from,
            Self::Battery => battery::FROM,
        }
    }

    /// The SQL after `ORDER BY`.
    pub(super) fn order(self) -> &'static str {
        match self {
            Self::Billing(kind) => kind.definition().order,
            Self::Battery => battery::ORDER,
        }
    }

    /// The column that groups the sums, and the name of the groups.
    pub(super) fn summed_by(self) -> (&'static str, &'static str) {
        match self {
            Self::Billing(_) => ("currency", "currencies"),
            Self::Battery => ("kind", "kinds"),
        }
    }
}

impl From<Kind> for ExportKind {
    fn from(kind: Kind) -> Self {
        Self::Billing(kind)
    }
}
