//! A usage event as a caller sent it, in whatever form. `parse.rs` finds the
//! events of a body, `fields.rs` reads one, `lago.rs` reads Lago's form.

mod fields;
pub mod lago;
mod parse;

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde_json::value::RawValue;

pub use self::parse::{BodyFormat, ParsedBody, ParsedEvent, parse};

/// A usage event, borrowed from the request's body.
#[derive(Clone, Debug)]
pub struct UsageEvent<'a> {
    /// The caller's id. With `source` and the org it is the event's key.
    pub id: Cow<'a, str>,
    /// Who reports it; empty when left out.
    pub source: Cow<'a, str>,
    /// The org, by public or external id; the org of the API key when left out.
    pub org: Option<Cow<'a, str>>,
    /// Meters with this event name count it.
    pub event_name: Cow<'a, str>,
    /// When it happened; when it arrived, if left out.
    pub occurred_at: Option<DateTime<Utc>>,
    /// Who in the org caused it.
    pub member: Option<Cow<'a, str>>,
    /// Quotas per subject count the event to it.
    pub subject: Option<Cow<'a, str>>,
    /// A JSON object with values and dimensions for meters.
    pub data: Option<&'a RawValue>,
    /// A cost set by the caller, which needs the scope `usage:price`.
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

/// Why a usage event was rejected.
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
    pub fn new(field: impl Into<Cow<'static, str>>, rule: &'static str, detail: impl Into<String>) -> Self {
        Self { field: field.into(), rule, detail: detail.into() }
    }
}

/// The number of usage events by outcome.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub accepted: u64,
    pub duplicate: u64,
    /// Another event has the same key.
    pub conflict: u64,
    pub rejected: u64,
}

impl Tally {
    #[must_use]
    pub fn from_outcomes(outcomes: &[Outcome]) -> Self {
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
    /// It was stored before. Nothing changed.
    Duplicate,
    /// Another event has its key. Nothing changed.
    Conflict,
    /// It breaks a rule. Nothing changed.
    Rejected(Rejection),
}
