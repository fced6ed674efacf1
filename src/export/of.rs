//! What can be exported: rows of billing, and entries of batteries.

use crate::battery::exports as battery;
use crate::billing::exports::{Column, Kind};

/// A kind of row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Of {
    Billing(Kind),
    /// Entries of batteries' ledgers.
    Battery,
}

impl Of {
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

    /// `FROM …`.
    pub(super) fn from(self) -> &'static str {
        match self {
            Self::Billing(kind) => kind.from(),
            Self::Battery => battery::FROM,
        }
    }

    /// The order of rows.
    pub(super) fn order(self) -> &'static str {
        match self {
            Self::Billing(kind) => kind.order(),
            Self::Battery => battery::ORDER,
        }
    }

    /// The column by which sums are told apart, and what the sums are called.
    pub(super) fn summed_by(self) -> (&'static str, &'static str) {
        match self {
            Self::Billing(_) => ("currency", "currencies"),
            Self::Battery => ("kind", "kinds"),
        }
    }
}

impl From<Kind> for Of {
    fn from(kind: Kind) -> Self {
        Self::Billing(kind)
    }
}
