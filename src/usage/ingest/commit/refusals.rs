//! New events that are refused after their keys were claimed: by a quota, a battery, or because a cost or a
//! level becomes too large.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use rust_decimal::Decimal;

use crate::battery::Accounts;
use crate::error::Error;
use crate::metering::counters::CounterKey;
use crate::metering::event::{Outcome, Rejection};
use crate::metering::levels::Levels;
use crate::metering::posting::{self, Key, Tiers, key};
use crate::metering::slots::PeriodKind;
use crate::metering::usage::Usage;
use crate::quantity::Quantity;
use crate::quota::enforce::{AdmittedSoFar, Demand, Refusal, enforce};
use crate::quota::rulebook::Rulebook;
use crate::usage::ingest::request::PendingEvent;

/// Why each refused event is refused.
#[derive(Default)]
pub(super) struct Refusals(HashMap<Key, Rejection>);

impl Refusals {
    /// Lets quotas and batteries decide on the claimed events. Returns the batteries that are locked then;
    /// `None`: nothing can refuse any of them.
    pub(super) fn decide(
        conn: &mut PgConnection,
        rulebook: &Rulebook,
        events: &[&mut PendingEvent],
        claimed: &[bool],
        levels: &mut Levels,
        now: DateTime<Utc>,
    ) -> Result<(Self, Option<Accounts>), Error> {
        let limits = &rulebook.limits;
        let may_be_refused = |usage: &Usage| {
            limits.may_refuse(&usage.org)
                || limits.battery_may_refuse(&usage.org) && !posting::units(usage).is_zero()
        };
        if !events.iter().any(|event| may_be_refused(&event.usage)) {
            return Ok((Self::default(), None));
        }
        let new = events.iter().zip(claimed).filter_map(|(event, claimed)| claimed.then_some(&event.usage));
        let new: Vec<&Usage> = new.collect();
        let counters: Vec<Vec<_>> = new.iter().map(|usage| posting::counted(usage).collect()).collect();
        let demands: Vec<Demand<'_>> = new
            .iter()
            .zip(&counters)
            .map(|(usage, counters)| Demand {
                org: &usage.org,
                subject: usage.subject.as_deref(),
                counters,
                units: posting::units(usage).rounded_up().unwrap_or(Decimal::MAX),
            })
            .collect();
        let mut admitted = AdmittedLevels { levels, new: &new };
        let (verdicts, accounts) = enforce(conn, rulebook, &demands, &mut admitted, now)?;
        let refused = new.iter().zip(verdicts);
        let refused = refused.filter_map(|(usage, verdict)| Some((key(usage), rejection(&verdict?))));
        Ok((Self(refused.collect()), Some(accounts)))
    }

    /// Prices what depends on the month's quantity, and refuses what costs too much.
    pub(super) fn price(&mut self, tiers: &mut Tiers, events: &mut [&mut PendingEvent], claimed: &[bool]) {
        self.try_each(events, claimed, |usage| tiers.price(usage));
    }

    /// Moves the levels by what is not refused, and refuses what makes one too large.
    pub(super) fn count_levels(
        &mut self,
        levels: &mut Levels,
        events: &mut [&mut PendingEvent],
        claimed: &[bool],
    ) {
        if !levels.is_empty() {
            levels.reset();
            self.try_each(events, claimed, |usage| levels.take(usage));
        }
    }

    fn try_each(
        &mut self,
        events: &mut [&mut PendingEvent],
        claimed: &[bool],
        mut step: impl FnMut(&mut Usage) -> Result<(), Rejection>,
    ) {
        for (event, claimed) in events.iter_mut().zip(claimed) {
            let key = key(&event.usage);
            if *claimed
                && !self.0.contains_key(&key)
                && let Err(rejection) = step(&mut event.usage)
            {
                self.0.insert(key, rejection);
            }
        }
    }

    /// Rejects refused events and their repeats in the batch. Returns the keys that must be given back.
    pub(super) fn reject(self, events: &[&mut PendingEvent], outcomes: &mut [Outcome]) -> Vec<Key> {
        if self.0.is_empty() {
            return Vec::new();
        }
        for (event, outcome) in events.iter().zip(outcomes) {
            if let Some(rejection) = self.0.get(&key(&event.usage)) {
                *outcome = Outcome::Rejected(rejection.clone());
            }
        }
        self.0.into_keys().collect()
    }
}

/// What an event adds to the counters of levels depends on the events admitted before it.
struct AdmittedLevels<'a> {
    levels: &'a mut Levels,
    new: &'a [&'a Usage],
}

impl AdmittedSoFar for AdmittedLevels<'_> {
    fn counters(&self, demand: usize) -> Option<Vec<(CounterKey, Decimal)>> {
        self.levels.counted(self.new[demand])
    }

    fn admit(&mut self, demand: usize) {
        if !self.levels.is_empty() {
            // One that makes a level too large is refused afterwards.
            let _ = self.levels.take(&mut self.new[demand].clone());
        }
    }
}

fn rejection(refusal: &Refusal) -> Rejection {
    let status = match refusal {
        Refusal::Quota(status) => status,
        Refusal::Battery(battery) => {
            return Rejection::new("data", "battery_exhausted", battery.to_string());
        }
    };
    let quantity = |quantity: &Option<Quantity>| {
        quantity.as_ref().map_or_else(|| "none".to_owned(), |quantity| quantity.0.to_string())
    };
    let resets_at = match (status.resets_at, status.period) {
        (Some(at), _) => format!(", resets at {}", at.to_rfc3339()),
        (None, PeriodKind::Always) => ", never resets".to_owned(),
        (None, _) => String::new(),
    };
    let detail = format!(
        "the quota on {} is used up: limit {}, used {}, reserved {}, remaining {}{resets_at}",
        status.meter,
        quantity(&status.limit),
        status.used.0,
        status.reserved.0,
        quantity(&status.remaining)
    );
    Rejection::new("data", "quota_exceeded", detail)
}
