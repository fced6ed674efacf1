//! What a source is worth: which grants, what is taken back, what has to wait. Pure.

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;

use super::facts::{Facts, Invoice, Named};
use crate::battery::grants;

/// How long facts that should come soon are waited for, before it is done without them.
pub const GRACE: TimeDelta = TimeDelta::days(1);

/// What a source comes to beyond what it came to before.
#[derive(Debug, Default)]
pub struct Outcome {
    /// New grants, and lines that come to nothing.
    pub grants: Vec<NewClaim>,
    /// Unused time of plans.
    pub takes: Vec<Take>,
    /// What cannot happen yet.
    pub waits: Vec<Wait>,
}

/// What a line comes to.
#[derive(Clone, Debug)]
pub struct NewClaim {
    /// The line; empty: the source as a whole.
    pub line: String,
    /// `subscription`, `trial`, `pack`, `proration`.
    pub what: &'static str,
    /// Units; none are zero.
    pub units: Decimal,
    /// What the grant comes from.
    pub source: grants::GrantSource,
    /// Lower is burned first; none: that of its source.
    pub priority: Option<i16>,
    /// When it may be used, where that is not at once.
    pub effective_at: Option<DateTime<Utc>>,
    pub expires: Expiry,
    pub plan: Option<(String, i32)>,
    pub pack: Option<String>,
    pub subscription: Option<String>,
    pub price: Option<String>,
    pub quantity: i64,
    /// The time that is paid for.
    pub period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// When a grant lapses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    Never,
    At(DateTime<Utc>),
    /// So many days after it is made.
    Days(i32),
}

/// Units of unused time, to be taken back from a grant.
#[derive(Clone, Debug)]
pub struct Take {
    pub line: String,
    /// The grant that holds them now; none: they come to nothing.
    pub holder: Option<i64>,
    /// The grant they were counted at before.
    pub before: Option<i64>,
    /// Whether the line was counted before.
    pub known: bool,
    /// Units, above zero.
    pub units: Decimal,
    pub plan: Option<(String, i32)>,
    pub subscription: Option<String>,
    pub price: Option<String>,
    pub quantity: i64,
    pub period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Why something cannot happen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The customer belongs to no org.
    NoOrg,
    /// No plan is bought by the price.
    UnknownPrice,
    /// The session names no pack.
    UnknownPack,
    /// Neither the session nor the prices that are known tell how many were bought.
    UnknownQuantity,
    /// The subscription is not mirrored yet, and it matters.
    UnknownSubscription,
    /// The whole period of a proration is not known yet.
    UnknownPeriod,
    /// The grant that unused time is taken from is not there yet.
    NoGrant,
    /// Stripe's event had some of the invoice's lines only.
    IncompleteLines,
    /// Another invoice sold the same period of the same item.
    AlreadyGranted,
    /// What buys a plan stands on a line that belongs to no subscription.
    NoSubscription,
}

impl Reason {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoOrg => "no_org",
            Self::UnknownPrice => "unknown_price",
            Self::UnknownPack => "unknown_pack",
            Self::UnknownQuantity => "unknown_quantity",
            Self::UnknownSubscription => "unknown_subscription",
            Self::UnknownPeriod => "unknown_period",
            Self::NoGrant => "no_grant",
            Self::IncompleteLines => "incomplete_lines",
            Self::AlreadyGranted => "already_granted",
            Self::NoSubscription => "no_subscription",
        }
    }

    /// Whether it is done without what is missing in the end.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::UnknownSubscription | Self::UnknownPeriod | Self::NoGrant)
    }
}

/// Something that cannot happen yet.
#[derive(Clone, Debug)]
pub struct Wait {
    /// The line; empty: the source as a whole.
    pub line: String,
    pub reason: Reason,
    /// Why, as a sentence.
    pub detail: String,
    /// What would let it happen.
    pub price: Option<String>,
    /// What would let it happen.
    pub product: Option<String>,
    /// What would let it happen.
    pub subscription: Option<String>,
}

/// The org that a source belongs to: for ever that of its first effect; else as assigned, else as linked.
#[must_use]
pub fn org_of(facts: &Facts) -> Option<i64> {
    let claimed = facts.claims.first().map(|claim| claim.org_id);
    let assigned = || facts.waiting.iter().filter_map(|waiting| waiting.org).min();
    claimed.or_else(assigned).or(facts.org_id)
}

/// What a source was settled with, in minor units, and in what: all that the buyer gave up, by card, from the
/// balance, by credits or outside Stripe. Of an invoice that is its total without what credit notes took off
/// before it was paid; of a payment what was captured, else what was asked.
#[must_use]
pub fn settled(facts: &Facts) -> (i64, Option<String>) {
    if let Some(invoice) = &facts.invoice {
        let settled = match invoice.total {
            Some(total) => total.saturating_sub(reduced(invoice)),
            None => invoice.amount_paid.unwrap_or(0),
        };
        return (settled.max(0), invoice.currency.clone());
    }
    let (session, intent) = (facts.session.as_ref(), facts.intent.as_ref());
    let captured = intent.filter(|intent| intent.is_paid()).and_then(|intent| intent.amount_received);
    let amount = captured.or(session.and_then(|session| session.amount_total));
    let currency = session
        .and_then(|session| session.currency.clone())
        .or(intent.and_then(|intent| intent.currency.clone()));
    (amount.unwrap_or(0), currency)
}

fn reduced(invoice: &Invoice) -> i64 {
    invoice.reduced.unwrap_or(0).max(invoice.notes.unwrap_or(0)).max(0)
}

/// Whether nothing of a sale is left: its invoice was voided after it was paid, or credit notes had taken off
/// all of it before.
#[must_use]
pub fn is_undone(facts: &Facts) -> bool {
    facts.invoice.as_ref().is_some_and(|invoice| {
        let emptied = invoice.total.is_some_and(|total| total > 0 && reduced(invoice) >= total);
        emptied || invoice.status.as_deref() != Some("paid")
    })
}

pub(super) fn opted_in(named: &Named) -> bool {
    ["battery_pack", "battery_units"].iter().any(|key| named.metadata.get(*key).is_some())
}
