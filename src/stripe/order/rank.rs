//! What one event alone tells about its place among the events of its object.

use crate::stripe::json::{Json, field};

/// An object that has reached the end of its life: nothing but another end can follow.
const TERMINAL: i16 = 1;
/// A deleted object whose id never names another.
const GONE: i16 = 2;

/// What one event alone shows of its place in the order. Compared field by field, from the top.
///
/// It is small enough to be stored with the winner. Of two events of one object the one with the greater
/// [`GroupKey`] wins, always; within a group [`choose`](super::choose) has to see all events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    /// 0: may still change; 1: in a terminal status; 2: deleted, and the id never returns. Beats `created`.
    pub standing: i16,
    /// `created` of the Stripe event, in unix seconds.
    pub created: i64,
    /// The event says that the object is deleted.
    pub deleted: bool,
    /// How far the snapshot has come in the life of its kind, 0 where nothing is known. An opaque number: the
    /// stage of the status in the high bits, growing amounts and counts below.
    pub progress: i64,
    /// How late this type of event comes in a life: `*.created` first, `*.deleted` last.
    pub type_rank: i16,
}

/// What decides alone: events of one object with an equal key form a *group*.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupKey {
    /// See [`Rank::standing`].
    pub standing: i16,
    /// See [`Rank::created`].
    pub created: i64,
}

impl Rank {
    /// The group that the event belongs to.
    pub fn group(&self) -> GroupKey {
        GroupKey { standing: self.standing, created: self.created }
    }
}

/// The rank of one event. `object` is the kind (`data.object.object`, such as `invoice`), `created` the unix
/// second of the event, `snapshot` its `data.object`. Allocates nothing; an unknown kind, type or status
/// ranks low and never fails.
pub fn rank(object: &str, event_type: &str, created: i64, snapshot: &Json<'_>) -> Rank {
    let deleted = is_deletion(object, event_type, snapshot);
    let (terminal, progress) = progress(object, snapshot);
    let standing = match (deleted, terminal) {
        (true, _) if !id_may_return(object) => GONE,
        (_, true) => TERMINAL,
        _ => 0,
    };
    Rank { standing, created, deleted, progress, type_rank: type_rank(event_type) }
}

/// Does this type of event open the life of its object?
pub(super) fn is_creation(event_type: &str) -> bool {
    event_type.ends_with(".created")
}

/// `customer.subscription.deleted` is no deletion: a subscription stays readable as `canceled`.
fn is_deletion(object: &str, event_type: &str, snapshot: &Json<'_>) -> bool {
    object != "subscription" && (event_type.ends_with(".deleted") || flag(snapshot, "deleted") == Some(true))
}

/// Kinds whose id the caller may choose, and who may thus delete and create it again; `discount` had no id of
/// its own before 2020. Source: <https://docs.stripe.com/api>, the `id` parameter of plans, coupons and
/// products.
fn id_may_return(object: &str) -> bool {
    matches!(object, "plan" | "coupon" | "product" | "price" | "sku" | "discount")
}

fn type_rank(event_type: &str) -> i16 {
    match event_type.rsplit('.').next() {
        Some("created") => 0,
        Some("attached") => 1,
        Some("detached") => 3,
        Some("deleted") => 4,
        _ => 2,
    }
}

/// Is the snapshot terminal, and how far has it come? Statuses stand in the order of a life; those that
/// exclude each other share a level. Source: the `status` of each object in <https://docs.stripe.com/api>.
fn progress(object: &str, snapshot: &Json<'_>) -> (bool, i64) {
    let status = text(snapshot, "status");
    match object {
        "invoice" => invoice(snapshot),
        "subscription" => {
            let level = match status {
                "incomplete" => 1,
                "trialing" => 2,
                "paused" => 3,
                "active" => 4,
                "past_due" => 5,
                "unpaid" => 6,
                "canceled" | "incomplete_expired" => 7,
                _ => 0,
            };
            (level == 7, at(level, 0))
        }
        "payment_intent" | "setup_intent" => intent(snapshot),
        "charge" => (false, charge(snapshot)),
        "dispute" => {
            let level = match status {
                "warning_needs_response" => 1,
                "warning_under_review" => 2,
                "warning_closed" => 3,
                "needs_response" => 4,
                "under_review" => 5,
                "won" | "lost" | "prevented" | "charge_refunded" => 6,
                // Of networks where a dispute that is lost can be appealed
                // (<https://docs.stripe.com/disputes>).
                "appeal_needs_response" => 7,
                "appeal_under_review" => 8,
                _ => 0,
            };
            let moved = field(snapshot, "balance_transactions").as_array().map_or(0, <[_]>::len);
            (false, at(level, i64::try_from(moved).unwrap_or(i64::MAX)))
        }
        "checkout.session" => {
            let level = match status {
                "open" => 1,
                "complete" | "expired" => 2,
                _ => 0,
            };
            let settled = matches!(text(snapshot, "payment_status"), "paid" | "no_payment_required");
            (false, at(level, settled.into()))
        }
        _ => (false, at(plain_level(object, status), 0)),
    }
}

/// Kinds where the status is all there is.
fn plain_level(object: &str, status: &str) -> i64 {
    match (object, status) {
        ("refund" | "topup" | "source", "pending") => 1,
        ("refund", "requires_action") | ("source", "chargeable") => 2,
        ("refund" | "topup", "succeeded") | ("source", "consumed") => 3,
        ("refund" | "topup" | "source", "failed" | "canceled" | "reversed") => 4,

        ("payout" | "transfer", "pending") => 1,
        ("payout" | "transfer", "in_transit") => 2,
        ("payout" | "transfer", "paid") => 3,
        ("payout" | "transfer", "failed" | "canceled") => 4,

        ("credit_note", "issued") | ("invoice_payment", "open") => 1,
        ("credit_note", "void") | ("invoice_payment", "paid" | "canceled") => 2,

        ("subscription_schedule", "not_started") | ("quote", "draft") => 1,
        ("subscription_schedule", "active") | ("quote", "open") => 2,
        ("subscription_schedule", "completed" | "released" | "canceled") => 3,
        ("quote", "accepted" | "canceled") => 3,
        _ => 0,
    }
}

/// Within a status more attempts, then more money paid, is later: neither shrinks.
///
/// Before API version 2018-11-08 there is no `status` but `paid`, `closed` and `forgiven`. A closed invoice
/// could be opened again, so that is not terminal.
fn invoice(snapshot: &Json<'_>) -> (bool, i64) {
    let level = match field(snapshot, "status").as_str() {
        Some("draft") => 1,
        Some("open") => 2,
        Some("uncollectible") => 3,
        Some("paid" | "void") => 4,
        Some(_) => 0,
        None if flag(snapshot, "paid") == Some(true) => 4,
        None if flag(snapshot, "forgiven") == Some(true) || flag(snapshot, "closed") == Some(true) => 3,
        None if flag(snapshot, "paid") == Some(false) => 2,
        None => 0,
    };
    let attempts = number(snapshot, "attempt_count").min(0x7fff);
    let paid = number(snapshot, "amount_paid").min((1 << 40) - 1);
    (level == 4, at(level, attempts << 40 | paid))
}

/// An intent goes back to `requires_payment_method` when an attempt fails, so the number of attempts comes
/// first. The names with `source` are those before API version 2019-02-11.
fn intent(snapshot: &Json<'_>) -> (bool, i64) {
    let level = match text(snapshot, "status") {
        "requires_payment_method" | "requires_source" => 1,
        "requires_confirmation" => 2,
        "requires_action" | "requires_source_action" => 3,
        "processing" => 4,
        "requires_capture" => 5,
        "succeeded" | "canceled" => 6,
        _ => 0,
    };
    let attempted =
        !field(snapshot, "latest_charge").is_null() || !field(snapshot, "latest_attempt").is_null();
    let attempts = number(field(snapshot, "charges"), "total_count").max(attempted.into());
    (level == 6, at(attempts.min(MAX_LEVEL), level))
}

/// Captured, then more refunded. The oldest charges have no `status` that fits, but `paid`.
fn charge(snapshot: &Json<'_>) -> i64 {
    let level = match text(snapshot, "status") {
        "pending" => 1,
        "succeeded" | "failed" | "paid" => 2,
        _ if flag(snapshot, "paid") == Some(true) => 2,
        _ => 0,
    };
    let captured = i64::from(flag(snapshot, "captured") == Some(true));
    at(level, captured << 50 | number(snapshot, "amount_refunded").min((1 << 50) - 1))
}

/// Bits below the level.
const LEVEL_SHIFT: u32 = 56;
const MAX_LEVEL: i64 = (1 << (63 - LEVEL_SHIFT)) - 1;

/// `level` counts first, then `amount`.
fn at(level: i64, amount: i64) -> i64 {
    level << LEVEL_SHIFT | amount.clamp(0, (1 << LEVEL_SHIFT) - 1)
}

fn text<'a>(snapshot: &'a Json<'a>, key: &str) -> &'a str {
    field(snapshot, key).as_str().unwrap_or("")
}

fn flag(snapshot: &Json<'_>, key: &str) -> Option<bool> {
    field(snapshot, key).as_bool()
}

/// A count or amount; what is missing or below zero counts as none.
fn number(snapshot: &Json<'_>, key: &str) -> i64 {
    field(snapshot, key).as_i64().unwrap_or(0).max(0)
}
