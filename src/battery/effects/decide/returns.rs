//! Returned money: how much of each refund, dispute and credit note counts. Pure.

use crate::battery::effects::model::facts::ReturnedMoney;
use crate::battery::effects::model::{CauseKind, ClawbackCause};

/// The causes of these returns, oldest first.
///
/// A credit note may return money by a refund. That money counts once: as the refund, if it is mirrored; else
/// as the charge, if the charge reports it; else as the credit note.
#[must_use]
pub(crate) fn causes(returned: &[ReturnedMoney]) -> Vec<ClawbackCause> {
    let mut causes: Vec<ClawbackCause> = returned.iter().map(ReturnedMoney::cause).collect();
    let of_charges = causes.iter().filter(|cause| cause.kind == CauseKind::Charge);
    let mut reported_by_charges = of_charges.fold(0_i64, |sum, cause| sum.saturating_add(cause.minor));
    let mut notes: Vec<(&ReturnedMoney, &mut ClawbackCause)> = returned
        .iter()
        .zip(&mut causes)
        .filter(|(returned, cause)| cause.kind == CauseKind::CreditNote && !returned.is_void())
        .collect();
    notes.sort_by(|a, b| (a.0.created, &a.0.id).cmp(&(b.0.created, &b.0.id)));
    for (note, cause) in notes {
        let not_mirrored = note.refunded.unwrap_or(0).saturating_sub(note.known).max(0);
        let by_charge = not_mirrored.min(reported_by_charges);
        reported_by_charges -= by_charge;
        cause.minor = cause.minor.saturating_add(not_mirrored - by_charge);
    }
    causes.sort_by(|a, b| (a.created, &a.id).cmp(&(b.created, &b.id)));
    causes
}

impl ReturnedMoney {
    /// How much of it counts, taken alone.
    #[must_use]
    pub(crate) fn cause(&self) -> ClawbackCause {
        let (kind, minor) = match self.cause.as_str() {
            "charge" => (CauseKind::Charge, self.amount.unwrap_or(0)),
            "dispute" => (CauseKind::Dispute, self.disputed()),
            "credit_note" => (CauseKind::CreditNote, self.credited()),
            _ => (CauseKind::Refund, self.refunded_now()),
        };
        ClawbackCause { kind, id: self.id.clone(), created: self.created, minor: minor.max(0) }
    }

    fn refunded_now(&self) -> i64 {
        match self.status.as_deref() {
            Some("failed" | "canceled") => 0,
            _ => self.amount.unwrap_or(0),
        }
    }

    /// A dispute counts while its money is withdrawn and not reinstated. An inquiry moves no money. A lost
    /// dispute stays lost during an appeal.
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

    /// What a credit note returned after the payment without a refund: to the balance, or outside Stripe.
    /// Its part before the payment lowered what was paid.
    fn credited(&self) -> i64 {
        if self.is_void() {
            return 0;
        }
        let by_type = || match self.type_.as_deref() {
            Some("post_payment") => self.amount,
            Some("pre_payment") => Some(0),
            _ => None,
        };
        let refunded = match self.refunded {
            Some(refunded) => Some(refunded),
            None if self.refunds == 0 => Some(0),
            None => Some(self.known).filter(|known| *known > 0),
        };
        let out_of_band = self.out_of_band.unwrap_or(0);
        // While the amount of its refund is unknown, only the part outside Stripe is certain.
        self.after
            .or_else(by_type)
            .zip(refunded)
            .map_or(out_of_band, |(after, refunded)| after.saturating_sub(refunded))
    }

    fn is_void(&self) -> bool {
        self.status.as_deref() == Some("void")
    }
}
