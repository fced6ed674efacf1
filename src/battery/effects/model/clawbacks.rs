//! Clawbacks: how many units of one grant are taken back, and why.
//!
//! A cause takes back either money (a share of the grant) or units (unused time). The sum depends on the last
//! state of each cause alone, so the order in which causes come does not matter.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::units_too_large;
use crate::error::Error;
use crate::money::round_units;

/// What takes units of a grant back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum CauseKind {
    Refund,
    /// Refunds that a charge reports and that are not mirrored: newer shapes of Stripe's charge do not list
    /// its refunds.
    Charge,
    Dispute,
    CreditNote,
    /// Unused time of a plan or a pack.
    Proration,
    /// The invoice itself: voided after it was paid, emptied by credit notes before, or a repeat of another
    /// invoice.
    Invoice,
}

impl CauseKind {
    /// Its name in the database. For a Stripe object: that of the object.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Refund => "refund",
            Self::Charge => "charge",
            Self::Dispute => "dispute",
            Self::CreditNote => "credit_note",
            Self::Proration => "proration",
            Self::Invoice => "invoice",
        }
    }

    /// The kind with this name in the database.
    pub(crate) fn parse(name: &str) -> Result<Self, Error> {
        [Self::Refund, Self::Charge, Self::Dispute, Self::CreditNote, Self::Proration, Self::Invoice]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::Internal(format!("`{name}` is no kind of clawback cause")))
    }
}

/// Money that one Stripe object returned, in minor units.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ClawbackCause {
    pub(crate) kind: CauseKind,
    pub(crate) id: String,
    pub(crate) created: Option<DateTime<Utc>>,
    pub(crate) minor: i64,
}

/// What one cause counts for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct CauseAmount {
    /// Money returned, in minor units.
    pub(crate) minor: i64,
    /// Units taken back without money.
    pub(crate) units: Decimal,
}

impl CauseAmount {
    pub(crate) fn from_money(minor: i64) -> Self {
        Self { minor, units: Decimal::ZERO }
    }

    pub(crate) fn from_units(units: Decimal) -> Self {
        Self { minor: 0, units }
    }
}

/// All clawbacks of one grant.
#[derive(Clone, Debug, Default)]
pub(crate) struct GrantClawbacks {
    /// Units of the grant.
    pub(crate) granted: Decimal,
    /// What the buyer gave for the source of the grant, in minor units.
    pub(crate) paid: i64,
    pub(crate) causes: BTreeMap<(CauseKind, String), CauseAmount>,
}

impl GrantClawbacks {
    pub(crate) fn new(granted: Decimal, paid: i64) -> Self {
        Self { granted, paid, causes: BTreeMap::new() }
    }

    /// What this cause counts for now; nothing if it is not recorded.
    #[must_use]
    pub(crate) fn amount_of(&self, kind: CauseKind, id: &str) -> CauseAmount {
        self.causes.get(&(kind, id.to_owned())).copied().unwrap_or_default()
    }

    /// Units taken back: `granted × money returned ÷ paid + units`, at most `granted`. Of a grant for which
    /// nothing was paid, returned money takes nothing back.
    ///
    /// # Errors
    /// When the units do not fit into a decimal.
    pub(crate) fn units(&self) -> Result<Decimal, Error> {
        let (mut minor, mut units) = (Decimal::ZERO, Decimal::ZERO);
        for amount in self.causes.values() {
            minor += Decimal::from(amount.minor);
            units += amount.units;
        }
        let units_of_money = if self.paid <= 0 || minor.is_zero() {
            Decimal::ZERO
        } else if minor >= Decimal::from(self.paid) {
            self.granted
        } else {
            let product =
                self.granted.checked_mul(minor).and_then(|units| units.checked_div(Decimal::from(self.paid)));
            round_units(product.ok_or_else(units_too_large)?)
        };
        Ok(self.granted.min(units_of_money + units))
    }

    /// Sets what was paid: a credit note that comes after the payment may lower it. Returns how many units
    /// more are taken back; below zero: given again.
    ///
    /// # Errors
    /// When the units do not fit into a decimal.
    pub(crate) fn set_paid(&mut self, paid: i64) -> Result<Decimal, Error> {
        let before = self.units()?;
        self.paid = paid;
        Ok(self.units()? - before)
    }

    /// Sets causes that replace each other and move no units, such as a refund that a charge had reported
    /// before. Returns false, and sets nothing, if units would move.
    ///
    /// # Errors
    /// When the units do not fit into a decimal.
    pub(crate) fn replace_causes(&mut self, causes: &[&ClawbackCause]) -> Result<bool, Error> {
        let mut after = self.clone();
        for cause in causes {
            after.causes.insert((cause.kind, cause.id.clone()), CauseAmount::from_money(cause.minor));
        }
        let moves_nothing = after.units()? == self.units()?;
        if moves_nothing {
            *self = after;
        }
        Ok(moves_nothing)
    }

    /// Sets what a cause counts for. Returns how many units more are taken back (below zero: given again), or
    /// `None` if the cause has this amount already.
    ///
    /// # Errors
    /// When the units do not fit into a decimal.
    pub(crate) fn set_cause(
        &mut self,
        kind: CauseKind,
        id: &str,
        amount: CauseAmount,
    ) -> Result<Option<Decimal>, Error> {
        if self.amount_of(kind, id) == amount {
            return Ok(None);
        }
        let before = self.units()?;
        self.causes.insert((kind, id.to_owned()), amount);
        Ok(Some(self.units()? - before))
    }
}
