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
    /// Units that expired unused.
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

    /// The kind with this name in the database.
    pub fn parse(name: &str) -> Result<Self, Error> {
        Self::named(name).ok_or_else(|| Error::Internal(format!("a ledger entry has the kind {name}")))
    }

    /// The kind with this name, if there is one.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

/// A ledger entry.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// 1, 2, 3, … for each org, without gaps.
    pub sequence: i64,
    /// Never before the entry before it.
    pub at: DateTime<Utc>,
    pub kind: EntryKind,
    /// Units; below zero they leave the battery.
    pub amount: Decimal,
    /// The balance after it.
    pub balance_after: Decimal,
    pub source: String,
    /// Number of the grant that it makes, takes from or ends.
    pub grant: Option<i64>,
    /// Number of the usage batch that it burns.
    pub batch: Option<i64>,
    /// Number of each grant, with the units that it lost by this entry; below zero: got back. What is missing
    /// to the amount went into debt, or paid it.
    pub draws: Vec<(i64, Decimal)>,
    pub link: Option<Value>,
    /// Only where a person made it, as is `actor`.
    pub reason: Option<String>,
    pub actor: Option<String>,
}
