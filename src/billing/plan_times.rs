//! Which plan an org had at an instant. Pure.
//!
//! Usage is priced by the plan that the org had when the usage occurred. Usage from before a change of plan
//! keeps the earlier plan, even if it is reported late: a customer who upgrades in the middle of a month pays
//! the old plan up to that day and the new one from then on (<https://github.com/mattermost/docs/pull/4966>).
//!
//! It is computed from these facts: the subscription items that events showed, each with its period and the
//! first and last event that showed it; the plans of a local subscription; the default plan. Before the first
//! subscription, and between two of them, the org had the default plan. While a subscription goes on, and
//! after the last one, the org has its present plan.

use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::history::{self, Span, SubscriptionHistory};

type At = DateTime<Utc>;

/// The plans that an org had, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanTimes {
    times: Box<[PlanTime]>,
    by_default: Option<Arc<str>>,
}

/// An org had this plan during `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlanTime {
    from: At,
    /// `None`: its subscription goes on.
    to: Option<At>,
    plan: Arc<str>,
}

impl PlanTimes {
    /// From all subscriptions that an org has or had, and the default plan.
    #[must_use]
    pub(super) fn new(histories: &[SubscriptionHistory], by_default: Option<Arc<str>>) -> Self {
        Self { times: history::spans_by_precedence(histories, times_of).into(), by_default }
    }

    /// The plan at an instant. `present` is the plan that the org has now. It counts while a subscription
    /// goes on: if that is unpaid, it may no longer give its own plan.
    #[must_use]
    pub fn at<'a>(&'a self, at: At, present: Option<&'a str>) -> Option<&'a str> {
        let next = self.times.partition_point(|time| time.from <= at);
        let time = next.checked_sub(1).and_then(|last| self.times.get(last));
        match time {
            Some(time) if time.to.is_none() => present,
            Some(time) if time.to.is_some_and(|to| at < to) => Some(&time.plan),
            // After the last subscription, or the org never had one.
            _ if next == self.times.len() => present,
            _ => self.by_default.as_deref(),
        }
    }
}

impl Span for PlanTime {
    fn bounds(&self) -> (At, At) {
        (self.from, self.to.unwrap_or(At::MAX_UTC))
    }

    fn starting_at(self, from: At) -> Self {
        Self { from, ..self }
    }

    fn ending_at(self, to: At) -> Self {
        Self { to: Some(to), ..self }
    }
}

/// The plans of one subscription.
fn times_of(history: &SubscriptionHistory) -> Vec<PlanTime> {
    let mut starts: Vec<(At, Arc<str>)> = Vec::new();
    let known = history.buying();
    for (n, one) in known.iter().enumerate() {
        let Some(plan) = &one.plan else { continue };
        // The first plan of a period counts from the period's start, a later plan from the first event that
        // shows it.
        let is_first = n == 0 || known[n - 1].start != one.start;
        let from = if is_first { one.start } else { one.first_seen.max(one.start) };
        starts.push((from, Arc::clone(plan)));
        // The subscription may have returned to an earlier plan of this period. Events do not show exactly
        // when, so the earlier plan counts again from its last event on.
        let is_last = known.get(n + 1).is_none_or(|next| next.start != one.start);
        let back = known[..n].iter().filter(|other| other.start == one.start);
        let back = back.max_by_key(|other| other.last_seen).filter(|back| back.last_seen > one.last_seen);
        if let Some((back, plan)) =
            back.filter(|_| is_last).and_then(|back| Some((back, back.plan.as_ref()?)))
        {
            starts.push((back.last_seen, Arc::clone(plan)));
        }
    }
    starts.sort_by_key(|(from, _)| *from);
    if let (Some(first), Some(started)) = (starts.first_mut(), history.started) {
        first.0 = first.0.min(started);
    }
    let last_end = known.iter().map(|one| one.end).max();
    let end = match history.ended {
        Some(ended) => Some(ended),
        None if history.goes_on => None,
        None => last_end,
    };
    let from_stripe = starts.iter().enumerate().map(|(n, (from, plan))| PlanTime {
        from: *from,
        to: starts.get(n + 1).map(|next| next.0).or(end),
        plan: Arc::clone(plan),
    });
    let local = history.local_periods.iter().flat_map(|periods| {
        let plans = history.earlier_plans.iter().map(|(plan, until)| (plan, Some(*until)));
        let mut from = periods.start;
        plans.chain(history.plan.iter().map(|plan| (plan, None))).map(move |(plan, until)| {
            let to = until.map_or(periods.end, |until| until.min(periods.end));
            let time = PlanTime { from, to: Some(to), plan: Arc::clone(plan) };
            from = from.max(to);
            time
        })
    });
    let ended = history.ended.unwrap_or(At::MAX_UTC);
    from_stripe
        .chain(local)
        .map(|time| PlanTime { to: time.to.map(|to| to.min(ended)), ..time })
        .filter(|time| time.to.is_none_or(|to| time.from < to))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::history::{KnownPeriod, LocalPeriods};

    fn at(text: &str) -> At {
        format!("2026-{text}:00Z").parse().expect("a time")
    }

    fn known(plan: &str, start: &str, end: &str, first_seen: &str, last_seen: &str) -> KnownPeriod {
        KnownPeriod {
            start: at(start),
            end: at(end),
            item_number: 0,
            first_seen: at(first_seen),
            last_seen: at(last_seen),
            rank: Some(0),
            plan: Some(plan.into()),
        }
    }

    fn stripe(known_periods: Vec<KnownPeriod>) -> SubscriptionHistory {
        let started = known_periods.iter().map(|known| known.start).min();
        SubscriptionHistory {
            known_periods,
            started,
            goes_on: true,
            precedence: (Some(0), true, started),
            ..SubscriptionHistory::default()
        }
    }

    #[track_caller]
    fn has(histories: &[SubscriptionHistory], present: &str, cases: &[(&str, &str)]) {
        let times = PlanTimes::new(histories, Some("free".into()));
        for (instant, expected) in cases {
            assert_eq!(times.at(at(instant), Some(present)), Some(*expected), "{instant}");
        }
    }

    #[test]
    fn usage_has_the_plan_of_its_time() {
        // Pro from 10 March, max from 20 March (within the period), renewed on 10 April.
        let upgrade = stripe(vec![
            known("pro", "03-10T00:00", "04-10T00:00", "03-10T00:00", "03-15T00:00"),
            known("max", "03-10T00:00", "04-10T00:00", "03-20T12:00", "04-09T00:00"),
            known("max", "04-10T00:00", "05-10T00:00", "04-10T00:01", "04-20T00:00"),
        ]);
        let cases = [
            ("03-09T23:59", "free"),
            ("03-10T00:00", "pro"),
            ("03-20T11:59", "pro"),
            ("03-20T12:00", "max"),
            ("04-10T00:00", "max"),
        ];
        has(std::slice::from_ref(&upgrade), "max", &cases);
        // While it continues, its present plan counts: its grace may be over.
        has(std::slice::from_ref(&upgrade), "free", &[("04-15T00:00", "free"), ("03-15T00:00", "pro")]);
        // It ended on 1 May: the time before belongs to pro and max, whatever plan the org has now.
        let ended = SubscriptionHistory { ended: Some(at("05-01T00:00")), goes_on: false, ..upgrade };
        has(
            std::slice::from_ref(&ended),
            "free",
            &[("03-15T00:00", "pro"), ("04-30T23:59", "max"), ("05-01T00:00", "free")],
        );
        // A change at the start of a period counts from that start, though its event is a little later.
        let scheduled = stripe(vec![
            known("pro", "03-10T00:00", "04-10T00:00", "03-10T00:00", "04-01T00:00"),
            known("max", "04-10T00:00", "05-10T00:00", "04-10T00:07", "04-20T00:00"),
        ]);
        has(&[scheduled], "max", &[("04-09T23:59", "pro"), ("04-10T00:00", "max")]);
        // To another plan and back within a period.
        let back = stripe(vec![
            known("pro", "03-10T00:00", "04-10T00:00", "03-10T00:00", "03-25T00:00"),
            known("max", "03-10T00:00", "04-10T00:00", "03-15T00:00", "03-15T00:00"),
        ]);
        has(&[back], "pro", &[("03-14T00:00", "pro"), ("03-20T00:00", "max"), ("03-25T00:00", "pro")]);
    }

    #[test]
    fn of_two_subscriptions_the_one_that_counts_has_the_plan() {
        let local = SubscriptionHistory {
            local_periods: vec![LocalPeriods {
                start: at("02-01T00:00"),
                end: at("03-01T00:00"),
                months: Some(1),
            }],
            plan: Some("basic".into()),
            precedence: (Some(0), false, Some(at("02-01T00:00"))),
            ..SubscriptionHistory::default()
        };
        let higher = SubscriptionHistory {
            precedence: (Some(9), true, Some(at("02-10T00:00"))),
            goes_on: false,
            ..stripe(vec![known("pro", "02-10T00:00", "02-20T00:00", "02-10T00:00", "02-10T00:00")])
        };
        has(
            &[local, higher],
            "free",
            &[
                ("01-31T00:00", "free"),
                ("02-05T00:00", "basic"),
                ("02-10T00:00", "pro"),
                ("02-20T00:00", "basic"),
                ("03-02T00:00", "free"),
            ],
        );
        // A local subscription: first basic, plus from 10 to 15 February, then pro.
        let changed = SubscriptionHistory {
            local_periods: vec![LocalPeriods {
                start: at("02-01T00:00"),
                end: at("03-01T00:00"),
                months: Some(1),
            }],
            plan: Some("pro".into()),
            earlier_plans: vec![("basic".into(), at("02-10T00:00")), ("plus".into(), at("02-15T00:00"))],
            ..SubscriptionHistory::default()
        };
        has(
            &[changed],
            "pro",
            &[
                ("02-09T23:59", "basic"),
                ("02-10T00:00", "plus"),
                ("02-15T00:00", "pro"),
                ("02-28T23:59", "pro"),
            ],
        );
        // No history is known: the org's present plan counts.
        has(&[], "given", &[("02-05T00:00", "given")]);
    }
}
