//! Grants: units that were added to a battery, with source, priority and expiry.

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::entries::EntryKind;
use crate::error::Error;

/// What a grant comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantSource {
    /// A paid period (or a trial) of a subscription.
    Subscription,
    /// A pack that was bought.
    Purchase,
    /// The allowance of a local day.
    DailyAllowance,
    /// A present.
    Bonus,
    /// A correction by hand, or usage taken back whose grant is gone.
    Adjustment,
}

impl GrantSource {
    const ALL: [Self; 5] =
        [Self::Subscription, Self::Purchase, Self::DailyAllowance, Self::Bonus, Self::Adjustment];

    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Purchase => "purchase",
            Self::DailyAllowance => "daily_allowance",
            Self::Bonus => "bonus",
            Self::Adjustment => "adjustment",
        }
    }

    /// The source with this name in the database.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|source| source.name() == name);
        found.ok_or_else(|| Error::Internal(format!("a grant has the source {name}")))
    }

    /// The default priority of its grants. The lowest number burns first: daily allowances first, bought
    /// packs last.
    #[must_use]
    pub fn priority(self) -> i16 {
        match self {
            Self::DailyAllowance => 10,
            Self::Subscription => 20,
            Self::Bonus | Self::Adjustment => 30,
            Self::Purchase => 40,
        }
    }

    /// Kind of the ledger entry that adds its units.
    #[must_use]
    pub fn kind(self) -> EntryKind {
        match self {
            Self::Subscription | Self::Purchase | Self::DailyAllowance => EntryKind::Grant,
            Self::Bonus => EntryKind::Bonus,
            Self::Adjustment => EntryKind::Adjustment,
        }
    }
}

/// Whether a grant may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum GrantState {
    /// Not effective yet, and in no balance.
    Scheduled,
    /// May be used.
    Open,
    /// Nothing is left of it.
    Closed,
}

impl GrantState {
    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Open => "open",
            Self::Closed => "closed",
        }
    }

    /// The state with this name in the database.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found =
            [Self::Scheduled, Self::Open, Self::Closed].into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| Error::Internal(format!("a grant has the state {name}")))
    }
}

/// A grant. `amount = remaining + burned + clawed + lapsed`.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// 1, 2, 3, … for each org.
    pub number: i64,
    /// `grt_…`
    pub id: String,
    pub source: GrantSource,
    /// What it was granted for. An org has one grant a key.
    pub key: String,
    pub state: GrantState,
    /// Lower burns first.
    pub priority: i16,
    pub created_at: DateTime<Utc>,
    pub effective_at: DateTime<Utc>,
    /// `None`: never.
    pub expires_at: Option<DateTime<Utc>>,
    pub amount: Decimal,
    pub remaining: Decimal,
    /// Used, or paid for debt that the battery had when the grant became effective.
    pub burned: Decimal,
    /// Clawed back or voided.
    pub clawed: Decimal,
    /// Expired unused.
    pub lapsed: Decimal,
    /// The Stripe object that it comes from, as `{"object", "id"}`.
    pub link: Option<serde_json::Value>,
    /// Only where a person made it.
    pub reason: Option<String>,
}

impl Grant {
    /// Sort key of the order in which grants burn: priority, then soonest expiry, then oldest.
    #[must_use]
    pub fn burn_order(&self) -> (i16, bool, Option<DateTime<Utc>>, i64) {
        (self.priority, self.expires_at.is_none(), self.expires_at, self.number)
    }

    #[must_use]
    pub fn is_expired(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
