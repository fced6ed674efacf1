//! What we know of the subscriptions that an org has or had. From it the org's billing period
//! ([`super::periods`]) and plan ([`super::plan_times`]) at any instant are computed.

mod read;

use std::cmp::Reverse;
use std::sync::Arc;

use chrono::{DateTime, Utc};

pub(super) use read::read;

type At = DateTime<Utc>;

/// A period of an item of a Stripe subscription, as events showed it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KnownPeriod {
    pub(super) start: At,
    /// When it ends, unless the next one starts earlier.
    pub(super) end: At,
    /// The item's place in the subscription's list.
    pub(super) item_number: i32,
    /// When the earliest event that shows it was made.
    pub(super) first_seen: At,
    /// When the latest event that shows it was made.
    pub(super) last_seen: At,
    /// Rank of the plan that the item buys; `None`: it buys none.
    pub(super) rank: Option<i32>,
    pub(super) plan: Option<Arc<str>>,
}

/// Successive periods of a local subscription: whole intervals from `start`; the last one ends at `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LocalPeriods {
    pub(super) start: At,
    pub(super) end: At,
    /// Months of each period; `None`: it is one period.
    pub(super) months: Option<i64>,
}

/// One subscription: its periods, and the plans that it gave.
#[derive(Clone, Debug, Default)]
pub(super) struct SubscriptionHistory {
    /// Periods of a Stripe subscription, in any order.
    pub(super) known_periods: Vec<KnownPeriod>,
    /// Stripe's `billing_cycle_anchor`: periods begin at whole intervals from it.
    pub(super) anchor: Option<At>,
    pub(super) started: Option<At>,
    pub(super) ended: Option<At>,
    /// Further periods follow the last known one.
    pub(super) goes_on: bool,
    /// When it will end, if it goes on.
    pub(super) until: Option<At>,
    /// It ends with its last known period.
    pub(super) ends_with_period: bool,
    /// Periods of a local subscription.
    pub(super) local_periods: Vec<LocalPeriods>,
    /// The plan that a local subscription has now.
    pub(super) plan: Option<Arc<str>>,
    /// The plans that a local subscription had before, the oldest first, each with its end.
    pub(super) earlier_plans: Vec<(Arc<str>, At)>,
    /// Where subscriptions overlap, the one with the greater precedence counts: rank of the plan, whether it
    /// is Stripe's, when it was created.
    pub(super) precedence: (Option<i32>, bool, Option<At>),
}

impl SubscriptionHistory {
    /// `[start, end)` of the periods of the item that buys the plan; if no item does, of the first item. If
    /// several items buy a plan, the first in the list counts, as it does for the plan.
    pub(super) fn plan_periods(&self) -> Vec<(At, At)> {
        let mut shown = self.shown();
        // If events give a period different ends, the latest event counts.
        shown.sort_by_key(|known| (known.start, Reverse(known.last_seen), known.item_number));
        shown.dedup_by_key(|known| known.start);
        shown.into_iter().map(|known| (known.start, known.end)).collect()
    }

    /// The periods of items that buy a plan, ordered by start, then by the first event that shows them.
    pub(super) fn buying(&self) -> Vec<&KnownPeriod> {
        let mut shown: Vec<&KnownPeriod> =
            self.shown().into_iter().filter(|known| known.plan.is_some()).collect();
        shown.sort_by_key(|known| (known.start, known.first_seen, known.item_number));
        shown
    }

    /// The periods of the items that count, without those that an earlier item hides.
    fn shown(&self) -> Vec<&KnownPeriod> {
        let buys = self.known_periods.iter().any(|known| known.rank.is_some());
        let counts = |known: &&KnownPeriod| if buys { known.rank.is_some() } else { known.item_number == 0 };
        let counting: Vec<&KnownPeriod> = self.known_periods.iter().filter(counts).collect();
        let hides = |one: &KnownPeriod, other: &KnownPeriod| {
            one.item_number < other.item_number
                && (one.start..one.end).contains(&other.start)
                // The two items were in the list at the same time.
                && one.first_seen <= other.last_seen
                && other.first_seen <= one.last_seen
        };
        let is_hidden = |known: &KnownPeriod| counting.iter().any(|other| hides(other, known));
        counting.iter().copied().filter(|known| !is_hidden(known)).collect()
    }
}

/// Something that is true during `[from, to)`.
pub(super) trait Span: Clone {
    fn bounds(&self) -> (At, At);
    /// The span with a later start.
    fn starting_at(self, from: At) -> Self;
    /// The span with an earlier end.
    fn ending_at(self, to: At) -> Self;
}

/// The spans of all subscriptions, in the order of time. Where two subscriptions overlap, the one with the
/// greater precedence keeps its span, and the other's span loses that time.
pub(super) fn spans_by_precedence<S: Span>(
    histories: &[SubscriptionHistory],
    spans: impl Fn(&SubscriptionHistory) -> Vec<S>,
) -> Vec<S> {
    let mut histories: Vec<&SubscriptionHistory> = histories.iter().collect();
    histories.sort_by_key(|history| Reverse(history.precedence));
    let mut all: Vec<S> = Vec::new();
    for span in histories.into_iter().flat_map(spans) {
        let free = all.iter().fold(vec![span], |pieces, taken| {
            pieces.into_iter().flat_map(|piece| outside(piece, taken.bounds())).collect()
        });
        all.extend(free);
    }
    all.sort_by_key(|span| span.bounds().0);
    all
}

/// The pieces of a span outside `[taken_from, taken_to)`.
fn outside<S: Span>(span: S, (taken_from, taken_to): (At, At)) -> Vec<S> {
    let (from, to) = span.bounds();
    if to <= taken_from || taken_to <= from {
        return vec![span];
    }
    let before = (from < taken_from).then(|| span.clone().ending_at(taken_from));
    let after = (taken_to < to).then(|| span.starting_at(taken_to));
    before.into_iter().chain(after).collect()
}
