//! Billing periods of an org: which one contains an instant. Pure.
//!
//! Events and commands show the periods that a subscription had. An instant belongs to the period that
//! contains it, even after the subscription has changed, restarted or ended. Where no period is known, it is
//! computed by Stripe's rule: whole intervals from the anchor; where a month has no such day, its last day
//! (31 January, 28 February, 31 March; <https://docs.stripe.com/billing/subscriptions/billing-cycle>). A
//! subscription has no period before its start or after its end.

use chrono::{DateTime, Datelike, Months, TimeDelta, Utc};

use super::history::{self, LocalPeriods, Span, SubscriptionHistory};

type At = DateTime<Utc>;

/// The billing periods of an org, in the order of time. Successive periods that one rule gives are one
/// stretch, to save memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BillingPeriods(Box<[Stretch]>);

/// The time `[from, to)` of successive periods of one subscription that one rule gives.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stretch {
    from: At,
    to: At,
    /// No period begins before this, because the subscription starts here or the previous period ends here.
    floor: At,
    /// No period ends after this.
    ceil: At,
    cycle: Cycle,
}

/// Where periods begin: whole steps from an anchor.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Cycle {
    anchor: At,
    /// Months from the anchor to period 0.
    offset: i64,
    step: Step,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Months(i64),
    Seconds(i64),
}

impl BillingPeriods {
    /// From all subscriptions that an org has or had.
    #[must_use]
    pub(super) fn new(histories: &[SubscriptionHistory]) -> Self {
        Self(history::spans_by_precedence(histories, stretches).into())
    }

    /// The period `[start, end)` that contains an instant.
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
}

impl Span for Stretch {
    fn bounds(&self) -> (At, At) {
        (self.from, self.to)
    }

    fn starting_at(self, from: At) -> Self {
        Self { from, ..self }
    }

    fn ending_at(self, to: At) -> Self {
        Self { to, ..self }
    }
}

impl Cycle {
    /// The cycle that a period belongs to: whole months from the anchor, if that fits the period; else whole
    /// months from its start; else from its end (28 February to 31 March is a month of a cycle on the 31st).
    /// If nothing fits, each step is as long as the period.
    fn of_period(anchor: Option<At>, start: At, end: At) -> Self {
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

    /// Where period `n` begins.
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

    /// The period `[start, end)` that contains an instant.
    fn around(&self, at: At) -> Option<(At, At)> {
        let (start, end) = (self.nth(0)?, self.nth(1)?);
        // Estimate `n` from the length of a period, then step to the exact one.
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

/// The periods of one subscription.
fn stretches(history: &SubscriptionHistory) -> Vec<Stretch> {
    let local = history.local_periods.iter().map(local_stretch);
    let mut all: Vec<Stretch> = local.chain(stripe_stretches(history)).collect();
    // The subscription has no period after its end, whatever was planned.
    let ended = history.ended.unwrap_or(At::MAX_UTC);
    for stretch in &mut all {
        (stretch.to, stretch.ceil) = (stretch.to.min(ended), stretch.ceil.min(ended));
    }
    all.retain(|stretch| stretch.from < stretch.to);
    all
}

/// Known periods in order. Each rule holds until the next known period begins: so the periods before, between
/// and after known ones are computed.
fn stripe_stretches(history: &SubscriptionHistory) -> Vec<Stretch> {
    let known = history.plan_periods();
    let (Some(first), Some(last)) = (known.first(), known.last()) else { return Vec::new() };
    let ends = match (history.ended, history.goes_on, history.ends_with_period) {
        (Some(ended), ..) => ended,
        (None, true, false) => history.until.unwrap_or(At::MAX_UTC),
        (None, ..) => last.1,
    };
    let started = history.started.unwrap_or(At::MIN_UTC).min(first.0);
    let cycle = Cycle::of_period(history.anchor, first.0, first.1);
    let mut all = vec![Stretch { from: started, to: first.0, floor: started, ceil: first.0, cycle }];
    for (n, (start, end)) in known.iter().enumerate() {
        let next = known.get(n + 1).map_or(ends, |next| next.0);
        match all.last_mut() {
            // The same rule gives this period, too.
            Some(before) if before.to == *start && before.cycle.around(*start) == Some((*start, *end)) => {
                (before.to, before.ceil) = (next, next);
            }
            _ => all.push(Stretch {
                from: *start,
                to: next,
                floor: *start,
                ceil: next,
                cycle: Cycle::of_period(history.anchor, *start, *end),
            }),
        }
    }
    all
}

fn local_stretch(periods: &LocalPeriods) -> Stretch {
    let cycle = match periods.months {
        Some(months) => Cycle { anchor: periods.start, offset: 0, step: Step::Months(months) },
        None => Cycle::of_period(None, periods.start, periods.end),
    };
    Stretch { from: periods.start, to: periods.end, floor: periods.start, ceil: periods.end, cycle }
}

#[cfg(test)]
mod tests;
