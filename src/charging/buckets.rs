//! What is to be sent of a bucket of usage. Pure.
//!
//! A bucket is the usage of a meter in a UTC hour or day, cut where a billing period begins or ends, so
//! that no event is counted to two periods. Its *value* is what our books say (`quantity`), less what a
//! later bucket charges (`moved`), plus what it charges for earlier ones (`carried`). All values add up to
//! the books.
//!
//! What a bucket cannot charge itself moves to the running bucket:
//! - usage that came or was taken back when the bucket's period was charged already;
//! - what is below zero: Stripe documents no negative values for meter events;
//! - usage that is too old for Stripe (35 days,
//!   <https://docs.stripe.com/billing/subscriptions/usage-based/recording-usage-api>);
//! - usage that Stripe took and never invoices, when people say so ([`super::discarded`]).

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use sha2::{Digest, Sha256};

use super::stripe_meter::Window;
use super::ways::Way;
use crate::realm::Realm;

type At = DateTime<Utc>;

/// Stripe takes events of the last 35 days. A margin, so that a waiting call does not come too late.
pub(super) const OLDEST: TimeDelta = TimeDelta::hours(35 * 24 - 12);
/// Stripe takes events up to five minutes ahead.
const AHEAD: TimeDelta = TimeDelta::minutes(4);
/// Usage of a period counts until its invoice is finalised, an hour after its end by default
/// (<https://docs.stripe.com/billing/subscriptions/usage-based/configure-grace-period>).
pub(super) const GRACE: TimeDelta = TimeDelta::minutes(55);
/// Stripe takes numbers of at most so many significant digits.
const DIGITS: u32 = 15;
/// How long Stripe certainly knows an identifier, less an hour
/// (<https://docs.stripe.com/api/billing/meter-event/create>).
pub(super) const IDENTIFIER_KEPT: TimeDelta = TimeDelta::hours(23);

/// What is known of a bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bucket {
    pub(super) way: Way,
    pub(super) start: At,
    /// Not included.
    pub(super) end: At,
    pub(super) quantity: Decimal,
    pub(super) moved: Decimal,
    pub(super) carried: Decimal,
    /// What Stripe took: the last total, or the sum of the deltas.
    pub(super) delivered: Decimal,
    /// What of it Stripe never invoices.
    pub(super) discarded: Decimal,
    /// The total or delta that is sent under the present sequence.
    pub(super) sending: Option<Decimal>,
    /// Whether it may have been sent already.
    pub(super) is_tried: bool,
}

/// What happens next with a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Stripe has what it is to have.
    Done,
    /// An answer is missing. Nothing is decided before it is known.
    Unanswered,
    /// Send this total or delta.
    Send(Decimal),
    /// This much is for the running bucket. What is left may be sent then.
    Move(Decimal),
}

impl Bucket {
    /// What the bucket charges in all.
    pub(super) fn value(&self) -> Decimal {
        self.quantity - self.moved + self.carried
    }

    /// `is_charged`: its period was invoiced, or it is too old, so it takes nothing more.
    pub(super) fn step(&self, is_charged: bool) -> Step {
        if self.sending.is_some() && self.is_tried {
            return Step::Unanswered;
        }
        // What Stripe is to have: what it discarded is charged by another bucket, and stays there.
        let value = self.value() + self.discarded;
        let missing = value - self.delivered;
        match self.way {
            Way::Totals => {
                if significant(value) == self.delivered {
                    Step::Done
                } else if is_charged {
                    Step::Move(missing)
                } else if value < Decimal::ZERO {
                    Step::Move(value)
                } else {
                    Step::Send(significant(value))
                }
            }
            Way::Deltas | Way::InvoiceItems => {
                if missing.is_zero() {
                    Step::Done
                } else if is_charged || missing < Decimal::ZERO {
                    Step::Move(missing)
                } else {
                    Step::Send(significant(missing))
                }
            }
        }
    }
}

/// The number with 15 significant digits, which is all that Stripe takes. Half is rounded to even.
pub(super) fn significant(number: Decimal) -> Decimal {
    number
        .round_sf_with_strategy(DIGITS, rust_decimal::RoundingStrategy::MidpointNearestEven)
        .unwrap_or(number)
        .normalize()
}

/// The time of the event with this sequence: it grows with the sequence, so the most recent event is the last
/// one by either meaning, and it stays inside the bucket.
pub(super) fn timestamp(start: At, end: At, sequence: i32) -> At {
    (start + TimeDelta::seconds(i64::from(sequence))).min(end - TimeDelta::seconds(1)).max(start)
}

/// Whether Stripe takes an event of this time now.
pub(super) fn is_takeable(timestamp: At, now: At) -> bool {
    timestamp <= now + AHEAD && timestamp > now - OLDEST
}

/// The window that contains an instant.
pub(super) fn window_of(at: At, window: Window) -> (At, At) {
    let length = window.seconds();
    let start = at.timestamp().div_euclid(length) * length;
    let time = |second| DateTime::from_timestamp(second, 0).unwrap_or(at);
    (time(start), time(start + length))
}

/// The buckets of a window: it is cut at each of these instants that lies inside.
pub(super) fn cut(window: (At, At), cuts: impl IntoIterator<Item = At>) -> Vec<(At, At)> {
    let mut edges: Vec<At> = cuts
        .into_iter()
        .filter(|cut| *cut > window.0 && *cut < window.1)
        .chain([window.0, window.1])
        .collect();
    edges.sort_unstable();
    edges.dedup();
    edges.windows(2).map(|pair| (pair[0], pair[1])).collect()
}

/// The part of the identifier that all events of a bucket have in common. It is derived from what the bucket
/// is, so a daemon that crashed sends the same one again.
pub(super) fn identifier(realm: &Realm, customer: &str, event_name: &str, org_id: i64, start: At) -> String {
    let mut digest = Sha256::new();
    let parts = [
        realm.account.as_str(),
        if realm.livemode { "live" } else { "test" },
        customer,
        event_name,
        &org_id.to_string(),
        &start.timestamp_micros().to_string(),
    ];
    for part in parts {
        digest.update(part.len().to_be_bytes());
        digest.update(part);
    }
    format!("coulomb-{}", hex::encode(&digest.finalize()[..20]))
}

/// The identifier of an event.
pub(super) fn with_sequence(identifier: &str, sequence: i32) -> String {
    format!("{identifier}-{sequence}")
}

#[cfg(test)]
mod tests;
