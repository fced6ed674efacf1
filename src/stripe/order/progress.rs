//! How far a snapshot has come in the life of its kind.
//!
//! Each status belongs to a stage. A snapshot of a later stage ranks above every one of an earlier stage.

use crate::stripe::json::{Json, field};

/// How far a snapshot has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::stripe) struct Progress {
    /// The life has ended: only another terminal status or a deletion can follow.
    pub(in crate::stripe) terminal: bool,
    /// Comparable within one kind; 0 if nothing is known. The high bits are the stage, the others amounts and
    /// counts that grow.
    pub(in crate::stripe) value: i64,
}

/// How the snapshots of a kind are compared.
#[derive(Clone, Copy)]
pub(in crate::stripe) enum Ranking {
    Stages {
        /// Statuses in the order of a life. An object has at most one status of each stage in its life.
        stages: &'static [&'static [&'static str]],
        last_is_terminal: bool,
        /// What grows while the status stays.
        within_stage: fn(&Json<'_>) -> i64,
    },
    Custom(fn(&Json<'_>) -> Progress),
}

impl Ranking {
    /// A ranking by status alone; no status is terminal.
    pub(in crate::stripe) const fn stages(stages: &'static [&'static [&'static str]]) -> Self {
        Self::Stages { stages, last_is_terminal: false, within_stage: nothing }
    }

    pub(in crate::stripe) fn progress(&self, snapshot: &Json<'_>) -> Progress {
        match self {
            Self::Custom(progress) => progress(snapshot),
            Self::Stages { stages, last_is_terminal, within_stage } => {
                let status = text(snapshot, "status");
                let place = stages.iter().position(|stage| stage.contains(&status));
                let stage = place.map_or(0, |place| place as i64 + 1);
                Progress {
                    terminal: *last_is_terminal && place.is_some_and(|place| place + 1 == stages.len()),
                    value: at(stage, within_stage(snapshot)),
                }
            }
        }
    }
}

pub(in crate::stripe) fn nothing(_: &Json<'_>) -> i64 {
    0
}

/// Within a status, more attempts is later, then more money paid: neither becomes less.
///
/// Before API version 2018-11-08 an invoice has the flags `paid`, `closed` and `forgiven` instead of a
/// `status`. Somebody could open a closed invoice again, so closed is not terminal.
pub(in crate::stripe) fn invoice(snapshot: &Json<'_>) -> Progress {
    let stage = match field(snapshot, "status").as_str() {
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
    Progress { terminal: stage == 4, value: at(stage, attempts << 40 | paid) }
}

/// An intent returns to `requires_payment_method` when an attempt fails, so the number of attempts counts
/// before the status. Statuses with `source` in their name are from before API version 2019-02-11.
pub(in crate::stripe) fn intent(snapshot: &Json<'_>) -> Progress {
    let stage = match text(snapshot, "status") {
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
    Progress { terminal: stage == 6, value: at(attempts.min(MAX_STAGE), stage) }
}

/// Within a status, captured is later, then more money refunded. The oldest charges have no status of these,
/// but the flag `paid`.
pub(in crate::stripe) fn charge(snapshot: &Json<'_>) -> Progress {
    let stage = match text(snapshot, "status") {
        "pending" => 1,
        "succeeded" | "failed" | "paid" => 2,
        _ if flag(snapshot, "paid") == Some(true) => 2,
        _ => 0,
    };
    let captured = i64::from(flag(snapshot, "captured") == Some(true));
    let refunded = number(snapshot, "amount_refunded").min((1 << 50) - 1);
    Progress { terminal: false, value: at(stage, captured << 50 | refunded) }
}

/// How often a dispute has moved money.
pub(in crate::stripe) fn dispute_transactions(snapshot: &Json<'_>) -> i64 {
    let moved = field(snapshot, "balance_transactions").as_array().map_or(0, <[_]>::len);
    i64::try_from(moved).unwrap_or(i64::MAX)
}

pub(in crate::stripe) fn session_is_settled(snapshot: &Json<'_>) -> i64 {
    matches!(text(snapshot, "payment_status"), "paid" | "no_payment_required").into()
}

/// Bits below the stage.
const STAGE_SHIFT: u32 = 56;
const MAX_STAGE: i64 = (1 << (63 - STAGE_SHIFT)) - 1;

/// The value that compares by `stage` first, then by `amount`.
fn at(stage: i64, amount: i64) -> i64 {
    stage << STAGE_SHIFT | amount.clamp(0, (1 << STAGE_SHIFT) - 1)
}

fn text<'a>(snapshot: &'a Json<'a>, key: &str) -> &'a str {
    field(snapshot, key).as_str().unwrap_or("")
}

fn flag(snapshot: &Json<'_>, key: &str) -> Option<bool> {
    field(snapshot, key).as_bool()
}

/// A count or amount; 0 if it is missing or below zero.
fn number(snapshot: &Json<'_>, key: &str) -> i64 {
    field(snapshot, key).as_i64().unwrap_or(0).max(0)
}
