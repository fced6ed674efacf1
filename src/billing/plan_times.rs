//! Which plan an org had at an instant. Pure.
//!
//! Usage is priced by the plan that the org had when the usage occurred. A change of plan prices what occurs
//! after it. Usage from before the change keeps the earlier plan, also when it is reported late: who upgrades
//! in the middle of a month pays the old plan up to that day and the new one from then on
//! (<https://github.com/mattermost/docs/pull/4966>).
//!
//! The facts: the subscription items that events showed, each with its period and the first and last event
//! that showed it; the plans that a local subscription had; the default plan. Before the first subscription
//! and between two of them the org had the default plan. While a subscription goes on, and after the last
//! one, it has the plan that it has now.

use std::cmp::Reverse;
use std::sync::Arc;

use chrono::{DateTime, Utc};

use super::periods::Life;

type At = DateTime<Utc>;

/// The plans that an org had, in the order of time.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanTimes {
    times: Box<[PlanTime]>,
    by_default: Option<Arc<str>>,
}

/// That an org had a plan in `[from, to)`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct PlanTime {
    from: At,
    /// `None`: its subscription goes on.
    to: Option<At>,
    plan: Arc<str>,
}

impl PlanTimes {
    /// Those of all subscriptions that an org has or had; where none gave a plan it had `by_default`.
    #[must_use]
    pub fn new(lives: &[Life], by_default: Option<Arc<str>>) -> Self {
        let mut lives: Vec<&Life> = lives.iter().collect();
        lives.sort_by_key(|life| Reverse(life.precedence));
        let mut all: Vec<PlanTime> = Vec::new();
        for time in lives.into_iter().flat_map(times_of) {
            let free = all.iter().fold(vec![time], |pieces, taken| {
                pieces.into_iter().flat_map(|piece| piece.without(taken)).collect()
            });
            all.extend(free);
        }
        all.sort_by_key(|time| time.from);
        Self { times: all.into(), by_default }
    }

    /// The plan at an instant. `present` is the plan that the org has now; an unpaid subscription that goes
    /// on may no longer give its plan.
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

impl PlanTime {
    /// What of it lies outside of another one.
    fn without(self, other: &Self) -> Vec<Self> {
        let ends = |time: &Self| time.to.unwrap_or(At::MAX_UTC);
        let end = ends(&self);
        let before = Self { to: Some(end.min(other.from)), ..self.clone() };
        let after = other.to.map(|to| Self { from: self.from.max(to), ..self.clone() });
        let untouched = end <= other.from || ends(other) <= self.from;
        if untouched {
            return vec![self];
        }
        [Some(before), after].into_iter().flatten().filter(|piece| piece.from < ends(piece)).collect()
    }
}

/// The plans of one subscription.
fn times_of(life: &Life) -> Vec<PlanTime> {
    let mut starts: Vec<(At, Arc<str>)> = Vec::new();
    let known = life.buying();
    for (n, one) in known.iter().enumerate() {
        let Some(plan) = &one.plan else { continue };
        // The first plan of a period counts from its start, a later one from the first event that shows it.
        let is_first = n == 0 || known[n - 1].start != one.start;
        let from = if is_first { one.start } else { one.first_seen.max(one.start) };
        starts.push((from, Arc::clone(plan)));
        // The subscription came back to an earlier plan of this period. Events do not tell exactly when: the
        // earlier plan counts again from its last event on.
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
    if let (Some(first), Some(started)) = (starts.first_mut(), life.started) {
        first.0 = first.0.min(started);
    }
    let last_end = known.iter().map(|one| one.end).max();
    let end = match life.ended {
        Some(ended) => Some(ended),
        None if life.goes_on => None,
        None => last_end,
    };
    let of_known = starts.iter().enumerate().map(|(n, (from, plan))| PlanTime {
        from: *from,
        to: starts.get(n + 1).map(|next| next.0).or(end),
        plan: Arc::clone(plan),
    });
    let of_told = life.told.iter().flat_map(|told| {
        let plans = life.earlier_plans.iter().map(|(plan, until)| (plan, Some(*until)));
        let mut from = told.start;
        plans.chain(life.plan.iter().map(|plan| (plan, None))).map(move |(plan, until)| {
            let to = until.map_or(told.end, |until| until.min(told.end));
            let time = PlanTime { from, to: Some(to), plan: Arc::clone(plan) };
            from = from.max(to);
            time
        })
    });
    let ended = life.ended.unwrap_or(At::MAX_UTC);
    of_known
        .chain(of_told)
        .map(|time| PlanTime { to: time.to.map(|to| to.min(ended)), ..time })
        .filter(|time| time.to.is_none_or(|to| time.from < to))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::billing::periods::{Known, Told};

    fn at(text: &str) -> At {
        format!("2026-{text}:00Z").parse().expect("a time")
    }

    fn known(plan: &str, start: &str, end: &str, first_seen: &str, last_seen: &str) -> Known {
        Known {
            start: at(start),
            end: at(end),
            item_number: 0,
            first_seen: at(first_seen),
            last_seen: at(last_seen),
            rank: Some(0),
            plan: Some(plan.into()),
        }
    }

    fn stripe(known: Vec<Known>) -> Life {
        let started = known.iter().map(|known| known.start).min();
        Life { known, started, goes_on: true, precedence: (Some(0), true, started), ..Life::default() }
    }

    #[track_caller]
    fn has(lives: &[Life], present: &str, cases: &[(&str, &str)]) {
        let times = PlanTimes::new(lives, Some("free".into()));
        for (instant, expected) in cases {
            assert_eq!(times.at(at(instant), Some(present)), Some(*expected), "{instant}");
        }
    }

    #[test]
    fn usage_has_the_plan_of_its_time() {
        // Pro from 10 March; on 20 March, within the period, max; renewed on 10 April.
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
        // While it goes on the present counts: its grace may be over.
        has(std::slice::from_ref(&upgrade), "free", &[("04-15T00:00", "free"), ("03-15T00:00", "pro")]);
        // It ended on 1 May: what was before is pro's and max's, whatever the org has now.
        let ended = Life { ended: Some(at("05-01T00:00")), goes_on: false, ..upgrade };
        has(
            std::slice::from_ref(&ended),
            "free",
            &[("03-15T00:00", "pro"), ("04-30T23:59", "max"), ("05-01T00:00", "free")],
        );
        // A change that begins with a period counts from its start, though the event comes a little later.
        let scheduled = stripe(vec![
            known("pro", "03-10T00:00", "04-10T00:00", "03-10T00:00", "04-01T00:00"),
            known("max", "04-10T00:00", "05-10T00:00", "04-10T00:07", "04-20T00:00"),
        ]);
        has(&[scheduled], "max", &[("04-09T23:59", "pro"), ("04-10T00:00", "max")]);
        // There and back within a period.
        let back = stripe(vec![
            known("pro", "03-10T00:00", "04-10T00:00", "03-10T00:00", "03-25T00:00"),
            known("max", "03-10T00:00", "04-10T00:00", "03-15T00:00", "03-15T00:00"),
        ]);
        has(&[back], "pro", &[("03-14T00:00", "pro"), ("03-20T00:00", "max"), ("03-25T00:00", "pro")]);
    }

    #[test]
    fn of_two_subscriptions_the_one_that_counts_has_the_plan() {
        let local = Life {
            told: vec![Told { start: at("02-01T00:00"), end: at("03-01T00:00"), months: Some(1) }],
            plan: Some("basic".into()),
            precedence: (Some(0), false, Some(at("02-01T00:00"))),
            ..Life::default()
        };
        let higher = Life {
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
        // A local one that was basic, from 10 to 15 February plus, then pro.
        let changed = Life {
            told: vec![Told { start: at("02-01T00:00"), end: at("03-01T00:00"), months: Some(1) }],
            plan: Some("pro".into()),
            earlier_plans: vec![("basic".into(), at("02-10T00:00")), ("plus".into(), at("02-15T00:00"))],
            ..Life::default()
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
        // Nothing is known: the plan that it has.
        has(&[], "given", &[("02-05T00:00", "given")]);
    }
}
