//! Decisions: what the lines of a source do to a battery beyond what they did before.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::clawbacks::ClawbackCause;
use super::facts::Facts;
use super::source::SaleSource;
use crate::battery::grants::GrantSource;

/// A source with its decision: what the step after this one applies.
#[derive(Debug)]
pub(crate) struct SourceDecision<'a> {
    pub(crate) source: &'a SaleSource,
    pub(crate) facts: &'a Facts,
    pub(crate) decision: Decision,
    /// Lines whose period another invoice sold too, where that one counts.
    pub(crate) repeats: RepeatedLines,
    /// Money that came back, by the object that returned it.
    pub(crate) returned: Vec<ClawbackCause>,
    /// The source keeps nothing, or not everything that it granted.
    pub(crate) loses: bool,
}

/// Lines by key, each with the id of the invoice that counts in its place. `None`: nobody needs to hear of
/// it, as an operator dismissed the line or all of its money came back.
pub(crate) type RepeatedLines = BTreeMap<String, Option<String>>;

#[derive(Debug, Default)]
pub(crate) struct Decision {
    /// New grants. A grant of zero units records that its line was decided.
    pub(crate) grants: Vec<LineGrant>,
    /// Unused time of plans and packs.
    pub(crate) clawbacks: Vec<UnusedTimeClawback>,
    pub(crate) waits: Vec<LineWait>,
}

/// What an effect is, in `battery_effects.what`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EffectKind {
    Subscription,
    Trial,
    Pack,
    /// Units for the rest of a period, after a change within it.
    Proration,
    /// Units of unused time that are clawed back.
    ProrationBack,
}

impl EffectKind {
    /// Its name in the database.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Subscription => "subscription",
            Self::Trial => "trial",
            Self::Pack => "pack",
            Self::Proration => "proration",
            Self::ProrationBack => "proration_back",
        }
    }
}

/// A new grant for one line.
#[derive(Clone, Debug)]
pub(crate) struct LineGrant {
    /// Key of the line; empty: the source as a whole.
    pub(crate) line: String,
    pub(crate) kind: EffectKind,
    /// Zero: the line grants nothing.
    pub(crate) units: Decimal,
    pub(crate) source: GrantSource,
    /// Lower burns first; `None`: the priority of the grant's source.
    pub(crate) priority: Option<i16>,
    /// `None`: at once.
    pub(crate) effective_at: Option<DateTime<Utc>>,
    pub(crate) expiry: Expiry,
    /// Plan and version.
    pub(crate) plan: Option<(String, i32)>,
    pub(crate) pack: Option<String>,
    pub(crate) subscription: Option<String>,
    pub(crate) price: Option<String>,
    pub(crate) quantity: i64,
    /// `[start, end)` of the time that was paid for.
    pub(crate) period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// When a grant expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expiry {
    Never,
    At(DateTime<Utc>),
    /// So many days after it is made.
    Days(i32),
}

/// A clawback of unused time for one line.
#[derive(Clone, Debug)]
pub(crate) struct UnusedTimeClawback {
    /// Key of the line.
    pub(crate) line: String,
    /// The grant that holds these units now; `None`: nothing is clawed back.
    pub(crate) grant: Option<i64>,
    /// The line was applied before; this moves its units to another grant.
    pub(crate) moves: bool,
    /// With `moves`: the grant that lost the units before.
    pub(crate) from_grant: Option<i64>,
    /// Above zero.
    pub(crate) units: Decimal,
    pub(crate) plan: Option<(String, i32)>,
    pub(crate) subscription: Option<String>,
    pub(crate) price: Option<String>,
    pub(crate) quantity: i64,
    /// `[start, end)` of the unused time.
    pub(crate) period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Why a line waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum WaitReason {
    /// The customer belongs to no org.
    NoOrg,
    /// No plan and no pack names the price.
    UnknownPrice,
    /// The session names no pack.
    UnknownPack,
    /// Neither the session nor the known prices tell how many packs were bought.
    UnknownQuantity,
    /// The subscription is not mirrored yet, and the decision needs it.
    UnknownSubscription,
    /// The whole period of a proration is not known yet.
    UnknownPeriod,
    /// The grant that loses the unused time does not exist yet.
    NoGrant,
    /// Stripe's event had only some of the invoice's lines.
    IncompleteLines,
    /// Another invoice sold the same period of the same item.
    AlreadyGranted,
    /// The line asks for a plan's price and belongs to no subscription.
    NoSubscription,
}

impl WaitReason {
    /// Its name in the database and on the wire.
    #[must_use]
    pub(crate) fn name(self) -> &'static str {
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

    /// Whether the line is decided without the missing fact after [`super::GRACE`].
    #[must_use]
    pub(crate) fn ends_by_itself(self) -> bool {
        matches!(self, Self::UnknownSubscription | Self::UnknownPeriod | Self::NoGrant)
    }
}

/// A line that cannot be decided yet.
#[derive(Clone, Debug)]
pub(crate) struct LineWait {
    /// Key of the line; empty: the source as a whole.
    pub(crate) line: String,
    pub(crate) reason: WaitReason,
    /// A sentence for people: why, and what to do.
    pub(crate) detail: String,
    /// A new mapping of this price or product, or a change of this subscription, has the line decided again.
    pub(crate) price: Option<String>,
    pub(crate) product: Option<String>,
    pub(crate) subscription: Option<String>,
}
