//! What is taken back of a grant: the share of the money that was returned, and unused time. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;

use super::bought::too_large;
use crate::error::Error;
use crate::money::round_units;

/// What took money back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CauseKind {
    Refund,
    /// What a charge says was refunded beyond the refunds that are known: newer shapes do not list them.
    Charge,
    Dispute,
    CreditNote,
    /// Unused time of a plan.
    Proration,
    /// The invoice itself: voided after it was paid, or emptied by credit notes before.
    Invoice,
}

impl CauseKind {
    /// Its name in the database; that of the Stripe object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refund => "refund",
            Self::Charge => "charge",
            Self::Dispute => "dispute",
            Self::CreditNote => "credit_note",
            Self::Proration => "proration",
            Self::Invoice => "invoice",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        [Self::Refund, Self::Charge, Self::Dispute, Self::CreditNote, Self::Proration, Self::Invoice]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::Internal(format!("no cause is called {name}")))
    }
}

/// Money returned by one object, in minor units.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    pub kind: CauseKind,
    pub id: String,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    pub minor: i64,
}

/// A refund, dispute or credit note as the mirror has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Returned {
    pub cause: String,
    pub id: String,
    pub created: Option<DateTime<Utc>>,
    pub amount: Option<i64>,
    pub status: Option<String>,
    pub currency: Option<String>,
    pub funds_withdrawn: Option<i64>,
    pub funds_currency: Option<String>,
    #[serde(rename = "type")]
    pub type_: Option<String>,
    pub out_of_band: Option<i64>,
    /// How many refunds it names.
    pub refunds: i64,
    /// What it gives back of what was settled.
    pub after: Option<i64>,
    /// Of that, by refunds, as the credit note says.
    pub refunded: Option<i64>,
    /// What the refunds that it names come to, as far as they are known.
    pub known: i64,
}

/// How much counts of each. A refund that a credit note names is the same money: it counts by itself where it
/// is known, by what the charge tells of it, and by the credit note where neither came.
#[must_use]
pub fn causes(returned: &[Returned]) -> Vec<Cause> {
    let mut causes: Vec<Cause> = returned.iter().map(Returned::cause).collect();
    let told = causes.iter().filter(|cause| cause.kind == CauseKind::Charge);
    let mut told = told.fold(0_i64, |sum, cause| sum.saturating_add(cause.minor));
    let mut notes: Vec<(&Returned, &mut Cause)> = returned
        .iter()
        .zip(&mut causes)
        .filter(|(returned, cause)| cause.kind == CauseKind::CreditNote && !returned.is_void())
        .collect();
    notes.sort_by(|a, b| (a.0.created, &a.0.id).cmp(&(b.0.created, &b.0.id)));
    for (note, cause) in notes {
        let unknown = note.refunded.unwrap_or(0).saturating_sub(note.known).max(0);
        let by_charge = unknown.min(told);
        told -= by_charge;
        cause.minor = cause.minor.saturating_add(unknown - by_charge);
    }
    causes
}

impl Returned {
    /// How much of it counts.
    #[must_use]
    pub fn cause(&self) -> Cause {
        let (kind, minor) = match self.cause.as_str() {
            "charge" => (CauseKind::Charge, self.amount.unwrap_or(0)),
            "dispute" => (CauseKind::Dispute, self.disputed()),
            "credit_note" => (CauseKind::CreditNote, self.credited()),
            _ => (CauseKind::Refund, self.live_refund()),
        };
        Cause { kind, id: self.id.clone(), created: self.created, minor: minor.max(0) }
    }

    fn live_refund(&self) -> i64 {
        match self.status.as_deref() {
            Some("failed" | "canceled") => 0,
            _ => self.amount.unwrap_or(0),
        }
    }

    /// Inquiries move nothing; what was withdrawn and not reinstated counts. What was lost stays so while it
    /// is appealed.
    fn disputed(&self) -> i64 {
        let amount = self.amount.unwrap_or(0);
        match self.status.as_deref() {
            Some("won" | "prevented") => 0,
            Some("lost" | "appeal_needs_response" | "appeal_under_review") => amount,
            Some(status) if status.starts_with("warning_") => 0,
            _ => match self.funds_withdrawn {
                Some(withdrawn) if withdrawn > 0 && self.funds_currency == self.currency => {
                    amount.min(withdrawn)
                }
                Some(withdrawn) if withdrawn > 0 => amount,
                _ => 0,
            },
        }
    }

    /// Its part after the payment, but for its refunds: what went to the balance and what was returned
    /// outside Stripe. The part from before lowered what was paid.
    fn credited(&self) -> i64 {
        if self.is_void() {
            return 0;
        }
        let of_type = || match self.type_.as_deref() {
            Some("post_payment") => self.amount,
            Some("pre_payment") => Some(0),
            _ => None,
        };
        let refunded = match self.refunded {
            Some(refunded) => Some(refunded),
            None if self.refunds == 0 => Some(0),
            None => Some(self.known).filter(|known| *known > 0),
        };
        let outside = self.out_of_band.unwrap_or(0);
        // A refund of which nothing is known yet: what is left is certain.
        self.after
            .or_else(of_type)
            .zip(refunded)
            .map_or(outside, |(after, refunded)| after.saturating_sub(refunded))
    }

    fn is_void(&self) -> bool {
        self.status.as_deref() == Some("void")
    }
}

/// What is counted against one grant.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Units granted.
    pub amount: Decimal,
    /// What the source was settled with, in minor units.
    pub paid: i64,
    /// By cause: money returned, and units of unused time.
    pub causes: BTreeMap<(CauseKind, String), (i64, Decimal)>,
}

impl Counted {
    /// Units that are taken back: the same in whatever order the causes came.
    ///
    /// # Errors
    /// When they have no place in a decimal.
    pub fn taken(&self) -> Result<Decimal, Error> {
        let (mut minor, mut units) = (Decimal::ZERO, Decimal::ZERO);
        for (money, time) in self.causes.values() {
            minor += Decimal::from(*money);
            units += time;
        }
        let of_money = if self.paid <= 0 || minor.is_zero() {
            Decimal::ZERO
        } else if minor >= Decimal::from(self.paid) {
            self.amount
        } else {
            let product =
                self.amount.checked_mul(minor).and_then(|units| units.checked_div(Decimal::from(self.paid)));
            round_units(product.ok_or_else(too_large)?)
        };
        Ok(self.amount.min(of_money + units))
    }

    /// Counts what the source was settled with, which a credit note may lower that comes later than the
    /// payment; gives what more is taken back (below zero: given again).
    ///
    /// # Errors
    /// As [`Counted::taken`].
    pub fn settle(&mut self, paid: i64) -> Result<Decimal, Error> {
        let taken = self.taken()?;
        self.paid = paid;
        Ok(self.taken()? - taken)
    }

    /// Counts causes that only change places, such as a refund that a charge had told of: no units move.
    /// False when they do, and then nothing is counted.
    ///
    /// # Errors
    /// As [`Counted::taken`].
    pub fn relabel(&mut self, causes: &[&Cause]) -> Result<bool, Error> {
        let mut after = self.clone();
        for cause in causes {
            after.causes.insert((cause.kind, cause.id.clone()), (cause.minor, Decimal::ZERO));
        }
        let same = after.taken()? == self.taken()?;
        if same {
            *self = after;
        }
        Ok(same)
    }

    /// Counts a cause with what it is now; gives what more is taken back (below zero: given again), or none
    /// when it was counted so.
    ///
    /// # Errors
    /// As [`Counted::taken`].
    pub fn count(
        &mut self,
        kind: CauseKind,
        id: &str,
        minor: i64,
        units: Decimal,
    ) -> Result<Option<Decimal>, Error> {
        let key = (kind, id.to_owned());
        let before = self.causes.get(&key).copied().unwrap_or_default();
        if before == (minor, units) {
            return Ok(None);
        }
        let taken = self.taken()?;
        self.causes.insert(key, (minor, units));
        Ok(Some(self.taken()? - taken))
    }
}
