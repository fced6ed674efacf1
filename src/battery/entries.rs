//! Ledger entries: signed changes of a battery. They are inserted and never change.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::error::Error;

/// What an entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Units of a subscription, a pack, a daily allowance.
    Grant,
    /// Units burned by usage.
    Usage,
    /// Units that lapsed unused.
    Expiry,
    /// Units taken back as money was returned; above zero: given again, as the return failed or was won back.
    Clawback,
    /// Units of usage that was taken back.
    Refund,
    /// A present.
    Bonus,
    /// A correction by hand.
    Adjustment,
}

impl EntryKind {
    pub const ALL: [Self; 7] =
        [Self::Grant, Self::Usage, Self::Expiry, Self::Clawback, Self::Refund, Self::Bonus, Self::Adjustment];

    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Grant => "grant",
            Self::Usage => "usage",
            Self::Expiry => "expiry",
            Self::Clawback => "clawback",
            Self::Refund => "refund",
            Self::Bonus => "bonus",
            Self::Adjustment => "adjustment",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        Self::named(name).ok_or_else(|| Error::Internal(format!("a ledger entry has the kind {name}")))
    }

    /// The kind that callers name so.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// An entry that is to be written.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its number in the org, without gaps.
    pub sequence: i64,
    /// When; never before the entry before it.
    pub at: DateTime<Utc>,
    pub kind: EntryKind,
    /// Units; below zero they leave the battery.
    pub amount: Decimal,
    /// What the battery holds after it.
    pub balance_after: Decimal,
    pub source: String,
    /// The grant that it makes, takes from or ends.
    pub grant: Option<i64>,
    /// The usage that it burns.
    pub batch: Option<i64>,
    /// What the grants lost by it (below zero: got back); what is missing to the amount is debt.
    pub draws: Vec<(i64, Decimal)>,
    /// What it comes from.
    pub link: Option<Value>,
    /// Why, where a person made it.
    pub reason: Option<String>,
    pub actor: Option<String>,
}
