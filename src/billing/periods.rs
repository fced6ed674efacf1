//! Billing periods of an org: which one an instant lies in. Pure.
//!
//! Periods are facts: each one that a subscription had is known by the events (or commands) that tell of it,
//! and an instant belongs to the period that contains it, also after the subscription has changed, restarted
//! or ended. Where none is known one is reckoned by Stripe's rule: whole intervals from the anchor, whose day
//! is clamped to the month's last one (31 January, 28 February, 31 March;
//! <https://docs.stripe.com/billing/subscriptions/billing-cycle>). Before a subscription started and after it
//! ended it has none.

use std::sync::Arc;

use chrono::{DateTime, Datelike, Months, TimeDelta, Utc};

type At = DateTime<Utc>;

/// The billing periods of an org, as a process holds them: those that follow each other by one rule are one
/// stretch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillingPeriods(Box<[Stretch]>);

/// Instants `[from, to)` that lie in periods of one subscription which follow each other by one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    from: At,
    to: At,
    /// The first period does not begin before this: the subscription did not, or the period before went on
    /// until then.
    floor: At,
    /// The last period ends here at the latest.
    ceil: At,
    cycle: Cycle,
}

/// Where periods begin: an anchor, and whole steps from it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cycle {
    anchor: At,
    /// Months from the anchor to the period from which is counted.
    offset: i64,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Months(i64),
    Seconds(i64),
}

/// What is known of a period of a Stripe subscription.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    pub start: At,
    /// When it ends, if nothing comes before that.
    pub end: At,
    /// Place of its item in the subscription's list.
    pub item_number: i32,
    /// The earliest event that shows it.
    pub first_seen: At,
    /// The latest event that shows it.
    pub last_seen: At,
    /// Rank of the plan that its item buys; `None`: it buys none.
    pub rank: Option<i32>,
    pub plan: Option<Arc<str>>,
}

/// The life of a subscription, as far as its periods go.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Of a Stripe subscription, in any order.
    pub known: Vec<Known>,
    /// Reference point of its cycle.
    pub anchor: Option<At>,
    /// When it started; nothing of it was before.
    pub started: Option<At>,
    pub ended: Option<At>,
    /// Whether further periods follow the last one that is known.
    pub goes_on: bool,
    /// When it will end, if it goes on.
    pub until: Option<At>,
    /// It ends with the last period that is known.
    pub ends_with_period: bool,
    /// Stretches of periods told by a rule: of a local subscription.
    pub told: Vec<Told>,
    /// The plan of a local subscription.
    pub plan: Option<Arc<str>>,
    /// The plans that it had before, the oldest first, each with until when.
    pub earlier_plans: Vec<(Arc<str>, At)>,
    /// Where subscriptions overlap the greater one counts: rank of the plan, Stripe before local, the later
    /// one.
    pub precedence: (Option<i32>, bool, Option<At>),
}

/// Periods of a local subscription: whole months from `start`, cut at `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    /// When the first one began.
    pub start: At,
    /// When the last one ends.
    pub end: At,
    /// Months of each; `None`: it is one period.
    pub months: Option<i64>,
}

impl BillingPeriods {
    /// Those of all subscriptions that an org has or had.
    #[must_use]
    pub fn of(mut lives: Vec<Life>) -> Self {
        lives.sort_by_key(|life| std::cmp::Reverse(life.precedence));
        let mut all: Vec<Stretch> = Vec::new();
        for stretch in lives.iter().flat_map(Life::stretches) {
            let free = all.iter().fold(vec![stretch], |pieces, taken| {
                pieces.into_iter().flat_map(|piece| piece.without(taken)).collect()
            });
            all.extend(free);
        }
        all.sort_by_key(|stretch| stretch.from);
        Self(all.into())
    }

    /// The period that an instant lies in, `[start, end)`.
    #[must_use]
    pub fn at(&self, at: At) -> Option<(At, At)> {
        let next = self.0.partition_point(|stretch| stretch.from <= at);
        let stretch = self.0[..next].last().filter(|stretch| at < stretch.to)?;
        stretch.period(at)
    }
}

impl Stretch {
    fn period(&self, at: At) -> Option<(At, At)> {
        let (start, end) = self.cycle.around(at)?;
        Some((start.max(self.floor), end.min(self.ceil)))
    }

    /// What of it lies outside of another one.
    fn without(self, other: &Self) -> Vec<Self> {
        let before = Self { to: self.to.min(other.from), ..self.clone() };
        let after = Self { from: self.from.max(other.to), ..self };
        [before, after].into_iter().filter(|piece| piece.from < piece.to).collect()
    }
}

impl Cycle {
    /// The cycle that a period is one of: whole months from the anchor where it fits them, else from the
    /// start, or back from the end (28 February to 31 March is a month from the 31st); else the period's own
    /// length.
    #[must_use]
    pub fn of(anchor: Option<At>, start: At, end: At) -> Self {
        let months = months_between(start, end);
        let fits = |anchor: At| {
            let offset = months_between(anchor, start);
            let cycle = Self { anchor, offset, step: Step::Months(months) };
            (cycle.nth(0) == Some(start) && cycle.nth(1) == Some(end)).then_some(cycle)
        };
        let by_months = (months > 0).then(|| anchor.into_iter().chain([start, end]).find_map(fits)).flatten();
        by_months.unwrap_or_else(|| Self {
            anchor: start,
            offset: 0,
            step: Step::Seconds((end - start).num_seconds().max(1)),
        })
    }

    /// `n` steps from the period that was counted from.
    fn nth(&self, n: i64) -> Option<At> {
        match self.step {
            Step::Months(months) => {
                let by = n.checked_mul(months)?.checked_add(self.offset)?;
                let months = Months::new(u32::try_from(by.abs()).ok()?);
                if by < 0 {
                    self.anchor.checked_sub_months(months)
                } else {
                    self.anchor.checked_add_months(months)
                }
            }
            Step::Seconds(seconds) => {
                self.anchor.checked_add_signed(TimeDelta::try_seconds(seconds.checked_mul(n)?)?)
            }
        }
    }

    /// The whole step that an instant lies in.
    fn around(&self, at: At) -> Option<(At, At)> {
        let (start, end) = (self.nth(0)?, self.nth(1)?);
        // An estimate by the length, then the exact place beside it.
        let mut n = (at - start).num_seconds().div_euclid((end - start).num_seconds().max(1));
        while self.nth(n)? > at {
            n -= 1;
        }
        while self.nth(n + 1)? <= at {
            n += 1;
        }
        Some((self.nth(n)?, self.nth(n + 1)?))
    }
}

fn months_between(from: At, to: At) -> i64 {
    i64::from(to.year() - from.year()) * 12 + i64::from(to.month()) - i64::from(from.month())
}

impl Life {
    fn stretches(&self) -> Vec<Stretch> {
        let told = self.told.iter().map(Told::stretch);
        let mut all: Vec<Stretch> = told.chain(self.of_known()).collect();
        // Nothing of it is after its end, whatever was foreseen.
        let ended = self.ended.unwrap_or(At::MAX_UTC);
        for stretch in &mut all {
            (stretch.to, stretch.ceil) = (stretch.to.min(ended), stretch.ceil.min(ended));
        }
        all.retain(|stretch| stretch.from < stretch.to);
        all
    }

    /// Known periods in order, each up to the next one, and what is reckoned before, between and after them.
    fn of_known(&self) -> Vec<Stretch> {
        let known = self.plan_periods();
        let (Some(first), Some(last)) = (known.first(), known.last()) else { return Vec::new() };
        let ends = match (self.ended, self.goes_on, self.ends_with_period) {
            (Some(ended), ..) => ended,
            (None, true, false) => self.until.unwrap_or(At::MAX_UTC),
            (None, ..) => last.1,
        };
        let started = self.started.unwrap_or(At::MIN_UTC).min(first.0);
        let cycle = Cycle::of(self.anchor, first.0, first.1);
        let mut all = vec![Stretch { from: started, to: first.0, floor: started, ceil: first.0, cycle }];
        for (n, (start, end)) in known.iter().enumerate() {
            let next = known.get(n + 1).map_or(ends, |next| next.0);
            match all.last_mut() {
                // It follows by the same rule.
                Some(before)
                    if before.to == *start && before.cycle.around(*start) == Some((*start, *end)) =>
                {
                    (before.to, before.ceil) = (next, next);
                }
                _ => all.push(Stretch {
                    from: *start,
                    to: next,
                    floor: *start,
                    ceil: next,
                    cycle: Cycle::of(self.anchor, *start, *end),
                }),
            }
        }
        all
    }

    /// `[start, end)` of the periods of the item that buys the plan; where none does, of the first item. Of
    /// several such items the first in the list counts, as it does for the plan.
    fn plan_periods(&self) -> Vec<(At, At)> {
        let mut shown = self.shown();
        // Of one start the latest event tells the end.
        shown.sort_by_key(|known| (known.start, std::cmp::Reverse(known.last_seen), known.item_number));
        shown.dedup_by_key(|known| known.start);
        shown.into_iter().map(|known| (known.start, known.end)).collect()
    }

    /// What is known of the items that buy a plan, by the start of their periods and the first event that
    /// shows them.
    pub(super) fn buying(&self) -> Vec<&Known> {
        let mut shown: Vec<&Known> = self.shown().into_iter().filter(|known| known.plan.is_some()).collect();
        shown.sort_by_key(|known| (known.start, known.first_seen, known.item_number));
        shown
    }

    /// What is known of the items that tell the periods, without those that another one hides.
    fn shown(&self) -> Vec<&Known> {
        let buys = self.known.iter().any(|known| known.rank.is_some());
        let meant = |known: &&Known| if buys { known.rank.is_some() } else { known.item_number == 0 };
        let meant: Vec<&Known> = self.known.iter().filter(meant).collect();
        let hides = |one: &Known, other: &Known| {
            one.item_number < other.item_number
                && (one.start..one.end).contains(&other.start)
                // They were in the list together.
                && one.first_seen <= other.last_seen
                && other.first_seen <= one.last_seen
        };
        meant.iter().copied().filter(|known| !meant.iter().any(|other| hides(other, known))).collect()
    }
}

impl Told {
    fn stretch(&self) -> Stretch {
        let cycle = match self.months {
            Some(months) => Cycle { anchor: self.start, offset: 0, step: Step::Months(months) },
            None => Cycle::of(None, self.start, self.end),
        };
        Stretch { from: self.start, to: self.end, floor: self.start, ceil: self.end, cycle }
    }
}

#[cfg(test)]
mod tests;
