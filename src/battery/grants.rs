//! Grants: units added to a battery, with source, priority and expiry.

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

    /// The source of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found = Self::ALL.into_iter().find(|source| source.name() == name);
        found.ok_or_else(|| Error::Internal(format!("a grant has the source {name}")))
    }

    /// The priority of its grants where nobody says another; the lowest is burned first. What lapses soonest
    /// goes first, what was paid for extra goes last.
    #[must_use]
    pub fn priority(self) -> i16 {
        match self {
            Self::DailyAllowance => 10,
            Self::Subscription => 20,
            Self::Bonus | Self::Adjustment => 30,
            Self::Purchase => 40,
        }
    }

    /// What the entry is called that adds its units.
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

    /// The state of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        let found =
            [Self::Scheduled, Self::Open, Self::Closed].into_iter().find(|state| state.name() == name);
        found.ok_or_else(|| Error::Internal(format!("a grant has the state {name}")))
    }
}

/// A grant. Its amount is what remains, was burned, was taken back or has lapsed.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// Its number in the org.
    pub number: i64,
    /// `grt_…`
    pub id: String,
    /// What it comes from.
    pub source: GrantSource,
    /// What it is granted for: once an org.
    pub key: String,
    /// Whether it may be used.
    pub state: GrantState,
    /// Lower is burned first.
    pub priority: i16,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// From when on it may be used.
    pub effective_at: DateTime<Utc>,
    /// When what remains lapses; none: never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Units granted.
    pub amount: Decimal,
    /// Units that may still be used.
    pub remaining: Decimal,
    /// Units used, or gone into debt that was there before.
    pub burned: Decimal,
    /// Units taken back.
    pub clawed: Decimal,
    /// Units expired unused.
    pub lapsed: Decimal,
    /// What it comes from, for whoever asks later.
    pub link: Option<serde_json::Value>,
    /// Why, where a person made it.
    pub reason: Option<String>,
}

impl Grant {
    /// Sorts grants in the order in which they are burned: priority, then soonest expiry, then oldest.
    #[must_use]
    pub fn burn_order(&self) -> (i16, bool, Option<DateTime<Utc>>, i64) {
        (self.priority, self.expires_at.is_none(), self.expires_at, self.number)
    }

    /// Whether it has expired.
    #[must_use]
    pub fn is_over(&self, now: DateTime<Utc>) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}
