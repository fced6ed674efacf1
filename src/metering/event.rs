//! A usage event as a caller sent it, whatever its form. `parse` reads it.

pub mod lago;
mod parse;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;

pub use self::parse::{Form, Parsed, Sent, parse};

/// A usage event, borrowed from the request's body.
#[derive(Clone, Debug)]
pub struct UsageEvent<'a> {
    /// The caller's id of it: with `source` and the org its key.
    pub id: Cow<'a, str>,
    /// Who reports it; empty when left out.
    pub source: Cow<'a, str>,
    /// The org that it belongs to, by public or external id; the key's own when left out.
    pub org: Option<Cow<'a, str>>,
    /// Which meters count it.
    pub event_name: Cow<'a, str>,
    /// When it happened; when it arrived, if left out.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Who in the org caused it.
    pub member: Option<Cow<'a, str>>,
    /// What a quota per subject counts it to.
    pub subject: Option<Cow<'a, str>>,
    /// A JSON object with the values and dimensions that meters read.
    pub data: Option<&'a RawValue>,
    /// A cost that the caller sets; only some keys may.
    pub cost: Option<Cost>,
}

/// A cost in the meter's currency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cost {
    /// In whole units.
    Major(Decimal),
    /// In minor units, such as cents.
    Minor(Decimal),
}

/// Why one usage event was not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// The field at fault.
    pub field: Cow<'static, str>,
    /// A stable word for the rule.
    pub rule: &'static str,
    /// What to do, for people.
    pub detail: String,
}

impl Rejection {
    /// A rejection.
    pub fn new(field: impl Into<Cow<'static, str>>, rule: &'static str, detail: impl Into<String>) -> Self {
        Self { field: field.into(), rule, detail: detail.into() }
    }
}

/// How many usage events became what.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub accepted: u64,
    pub duplicate: u64,
    /// Another event is stored under their key.
    pub conflict: u64,
    pub rejected: u64,
}

impl Tally {
    /// Counts outcomes.
    #[must_use]
    pub fn of(outcomes: &[Outcome]) -> Self {
        let mut tally = Self::default();
        for outcome in outcomes {
            *match outcome {
                Outcome::Accepted => &mut tally.accepted,
                Outcome::Duplicate => &mut tally.duplicate,
                Outcome::Conflict => &mut tally.conflict,
                Outcome::Rejected(_) => &mut tally.rejected,
            } += 1;
        }
        tally
    }
}

/// What became of one usage event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is stored and counted.
    Accepted,
    /// It was stored before; nothing changed.
    Duplicate,
    /// Another event is stored under its key; nothing changed.
    Conflict,
    /// It was not taken.
    Rejected(Rejection),
}
