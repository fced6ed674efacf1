//! The kinds of Stripe objects, and how they differ: each kind is one entry of [`KINDS`]. To mirror another
//! kind, add an entry.

use super::json::Json;
use super::order::progress::{self, Progress, Ranking};
use super::shape::{self, ObjectFields, ShapeError};
use crate::billing::MirrorBatch;
use crate::billing::links::Link;

/// What the projection knows of a kind of Stripe object.
pub(super) struct Kind {
    /// The value of the field `object`.
    pub(super) name: &'static str,
    /// Adds the rows of a snapshot to the batch. On an error it adds nothing.
    pub(super) shape: fn(ObjectFields<'_>, &mut MirrorBatch) -> Result<(), ShapeError>,
    /// How far a snapshot has come in the life of its kind.
    pub(super) ranking: Ranking,
    /// Ids of the payments that the object belongs to.
    pub(super) payments: fn(ObjectFields<'_>) -> Vec<String>,
    /// The org of a customer, if the object names it.
    pub(super) link: fn(ObjectFields<'_>) -> Option<Link>,
    pub(super) marker: EffectsMarker,
    /// Whether a deleted object's id may name a new object, because the account chooses the id (the parameter
    /// `id` in <https://docs.stripe.com/api>). True of `discount`, too: it had no id of its own before 2020.
    pub(super) id_may_return: bool,
}

/// The marker that a change writes for the effects on batteries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EffectsMarker {
    None,
    /// Names the object.
    Object,
    /// Says that prices may buy something else now: the amount of a price decides how many units it buys.
    Mapping,
}

impl Kind {
    pub(super) fn progress(&self, snapshot: &Json<'_>) -> Progress {
        self.ranking.progress(snapshot)
    }
}

/// A kind without a mirror whose statuses we do not know.
const UNKNOWN: Kind = Kind {
    name: "",
    shape: |_, _| Ok(()),
    ranking: Ranking::stages(&[]),
    payments: |_| Vec::new(),
    link: |_| None,
    marker: EffectsMarker::None,
    id_may_return: false,
};

/// A kind by its name; [`UNKNOWN`] if it has no entry.
pub(super) fn find(name: &str) -> &'static Kind {
    static FALLBACK: Kind = UNKNOWN;
    KINDS.iter().find(|kind| kind.name == name).unwrap_or(&FALLBACK)
}

fn push<R>(rows: &mut Vec<R>, row: R) -> Result<(), ShapeError> {
    rows.push(row);
    Ok(())
}

/// Statuses: the field `status` of each object in <https://docs.stripe.com/api>.
static KINDS: &[Kind] = &[
    Kind {
        name: "charge",
        shape: shape::payments::add_charge,
        ranking: Ranking::Custom(progress::charge),
        payments: shape::payments::ids_in_charge,
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "checkout.session",
        shape: |from, batch| push(&mut batch.checkout_sessions, shape::checkout::session(from)?),
        ranking: Ranking::Stages {
            stages: &[&["open"], &["complete", "expired"]],
            last_is_terminal: false,
            within_stage: progress::session_is_settled,
        },
        link: shape::links::from_session,
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "coupon",
        shape: |from, batch| push(&mut batch.coupons, shape::catalog::coupon(from)?),
        id_may_return: true,
        ..UNKNOWN
    },
    Kind {
        name: "credit_note",
        shape: |from, batch| push(&mut batch.credit_notes, shape::returns::credit_note(from)?),
        ranking: Ranking::stages(&[&["issued"], &["void"]]),
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "customer",
        shape: |from, batch| push(&mut batch.customers, shape::customers::customer(from)?),
        link: shape::links::from_customer,
        ..UNKNOWN
    },
    Kind {
        name: "discount",
        shape: |from, batch| push(&mut batch.discounts, shape::customers::discount(from)),
        id_may_return: true,
        ..UNKNOWN
    },
    Kind {
        name: "dispute",
        shape: |from, batch| push(&mut batch.disputes, shape::returns::dispute(from)?),
        ranking: Ranking::Stages {
            stages: &[
                &["warning_needs_response"],
                &["warning_under_review"],
                &["warning_closed"],
                &["needs_response"],
                &["under_review"],
                &["won", "lost", "prevented", "charge_refunded"],
                // Some networks let a lost dispute be appealed (<https://docs.stripe.com/disputes>).
                &["appeal_needs_response"],
                &["appeal_under_review"],
            ],
            last_is_terminal: false,
            within_stage: progress::dispute_transactions,
        },
        payments: shape::payments::ids_in_return,
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "invoice",
        shape: |from, batch| push(&mut batch.invoices, shape::invoices::invoice(from)?),
        ranking: Ranking::Custom(progress::invoice),
        payments: shape::payments::ids_in_invoice,
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "invoice_payment",
        shape: |from, batch| push(&mut batch.invoice_payments, shape::payments::invoice_payment(from)?),
        ranking: Ranking::stages(&[&["open"], &["paid", "canceled"]]),
        payments: shape::payments::ids_in_invoice_payment,
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "payment_intent",
        shape: |from, batch| push(&mut batch.payment_intents, shape::payments::payment_intent(from)?),
        ranking: Ranking::Custom(progress::intent),
        payments: shape::payments::ids_in_intent,
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "price",
        shape: |from, batch| push(&mut batch.prices, shape::catalog::price(from)?),
        marker: EffectsMarker::Mapping,
        id_may_return: true,
        ..UNKNOWN
    },
    Kind {
        name: "product",
        shape: |from, batch| push(&mut batch.products, shape::catalog::product(from)),
        id_may_return: true,
        ..UNKNOWN
    },
    Kind {
        name: "promotion_code",
        shape: |from, batch| push(&mut batch.promotion_codes, shape::catalog::promotion_code(from)),
        ..UNKNOWN
    },
    Kind {
        name: "refund",
        shape: |from, batch| push(&mut batch.refunds, shape::returns::refund(from)?),
        ranking: Ranking::stages(&[
            &["pending"],
            &["requires_action"],
            &["succeeded"],
            &["failed", "canceled", "reversed"],
        ]),
        payments: shape::payments::ids_in_return,
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "subscription",
        shape: |from, batch| push(&mut batch.subscriptions, shape::subscriptions::subscription(from)),
        ranking: Ranking::Stages {
            stages: &[
                &["incomplete"],
                &["trialing"],
                &["paused"],
                &["active"],
                &["past_due"],
                &["unpaid"],
                &["canceled", "incomplete_expired"],
            ],
            last_is_terminal: true,
            within_stage: progress::nothing,
        },
        marker: EffectsMarker::Object,
        ..UNKNOWN
    },
    Kind {
        name: "tax_id",
        shape: |from, batch| push(&mut batch.customer_tax_ids, shape::customers::tax_id(from)),
        ..UNKNOWN
    },
    Kind {
        name: "tax_rate",
        shape: |from, batch| push(&mut batch.tax_rates, shape::catalog::tax_rate(from)?),
        ..UNKNOWN
    },
    // Kinds without a mirror: only the order of events needs them.
    Kind { name: "plan", id_may_return: true, ..UNKNOWN },
    Kind { name: "sku", id_may_return: true, ..UNKNOWN },
    Kind { name: "setup_intent", ranking: Ranking::Custom(progress::intent), ..UNKNOWN },
    Kind {
        name: "payout",
        ranking: Ranking::stages(&[&["pending"], &["in_transit"], &["paid"], &["failed", "canceled"]]),
        ..UNKNOWN
    },
    Kind {
        name: "transfer",
        ranking: Ranking::stages(&[&["pending"], &["in_transit"], &["paid"], &["failed", "canceled"]]),
        ..UNKNOWN
    },
    Kind {
        name: "topup",
        ranking: Ranking::stages(&[&["pending"], &["succeeded"], &["failed", "canceled", "reversed"]]),
        ..UNKNOWN
    },
    Kind {
        name: "source",
        ranking: Ranking::stages(&[
            &["pending"],
            &["chargeable"],
            &["consumed"],
            &["failed", "canceled", "reversed"],
        ]),
        ..UNKNOWN
    },
    Kind {
        name: "quote",
        ranking: Ranking::stages(&[&["draft"], &["open"], &["accepted", "canceled"]]),
        ..UNKNOWN
    },
    Kind {
        name: "subscription_schedule",
        ranking: Ranking::stages(&[&["not_started"], &["active"], &["completed", "released", "canceled"]]),
        ..UNKNOWN
    },
];
