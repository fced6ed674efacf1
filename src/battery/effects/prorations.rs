//! Changes of plan or quantity within a period: units for what is left of it, and those of unused time. Pure.

use chrono::{DateTime, Months, TimeDelta, Utc};
use rust_decimal::Decimal;

use super::facts::{Line, Period};
use super::judge::{Judge, line_keys, of_plan, share, times};
use super::targets::{NewClaim, Reason, Take, Wait};
use crate::config::Proration;
use crate::error::Error;

impl Judge<'_> {
    /// A part of a period, as the plan or the quantity changed within it.
    pub(super) fn prorated(&mut self, key: &str, line: &Line) -> Result<(), Error> {
        let (Some(start), Some(end)) = (line.start, line.end) else { return Ok(()) };
        let paid_at = self.facts.invoice.as_ref().and_then(|invoice| invoice.paid_at);
        if start >= end || paid_at.is_some_and(|paid| end <= paid) || self.proration == Proration::None {
            return Ok(());
        }
        let Some(is_new) = is_for_time_to_come(line) else { return Ok(()) };
        let Some((plan, version)) = self.version(key, line) else { return Ok(()) };
        let quantity = line.quantity.unwrap_or(1).max(0);
        if self.proration == Proration::Difference {
            let more = if is_new { self.more_than_before(key)? } else { None };
            if let Some(units) = more {
                let grant = NewClaim {
                    what: "proration",
                    ..of_plan(key, line, (plan, version.version), units, (start, end))
                };
                self.outcome.grants.push(grant);
            }
            return Ok(());
        }
        let Some(full) = line.full.or_else(|| self.is_overdue(key).then(|| guess(line, start, end))) else {
            let detail = "the period that this part belongs to is not known yet: it comes with the subscription's invoice; after a day it is reckoned by the interval of the price";
            if !version.of(end - start).is_zero() {
                self.wait(key, Some(line), Reason::UnknownPeriod, detail.to_owned());
            }
            return Ok(());
        };
        let whole = times(version.of(full.end - full.start), quantity)?;
        let units = share(whole, (end - start).num_seconds(), (full.end - full.start).num_seconds())?;
        if is_new {
            let grant = NewClaim {
                what: "proration",
                ..of_plan(key, line, (plan, version.version), units, (start, end))
            };
            self.outcome.grants.push(grant);
        } else if !units.is_zero() {
            if line.holder.is_none() && !self.is_overdue(key) {
                let detail = format!(
                    "the grant of {plan} that unused time is taken from is not there yet; after a day nothing is taken"
                );
                self.wait(key, Some(line), Reason::NoGrant, detail);
                return Ok(());
            }
            self.outcome.takes.push(Take {
                line: key.to_owned(),
                holder: line.holder,
                before: None,
                known: false,
                units,
                plan: Some((plan, version.version)),
                subscription: line.subscription.clone(),
                price: line.price.clone(),
                quantity,
                period: Some((start, end)),
            });
        }
        Ok(())
    }

    /// Unused time that was counted: a grant that came later may be the one that holds it.
    pub(super) fn take_again(&mut self, key: &str, line: &Line, before: Option<i64>, units: Decimal) {
        let Some(holder) = line.holder.filter(|holder| before != Some(*holder)) else { return };
        self.outcome.takes.push(Take {
            line: key.to_owned(),
            holder: Some(holder),
            before,
            known: true,
            units,
            plan: None,
            subscription: line.subscription.clone(),
            price: None,
            quantity: 1,
            period: None,
        });
    }

    /// What a whole period of the new lines has more than one of the old, the old being set against the new in order.
    fn more_than_before(&mut self, wanted: &str) -> Result<Option<Decimal>, Error> {
        let keys = line_keys(&self.facts.lines);
        let subscription = keys
            .iter()
            .zip(&self.facts.lines)
            .find(|(key, _)| *key == wanted)
            .and_then(|(_, line)| line.subscription.clone());
        let (mut old, mut new) = (Decimal::ZERO, Vec::new());
        for (key, line) in keys.iter().zip(&self.facts.lines) {
            if line.proration != Some(true) || line.subscription != subscription {
                continue;
            }
            let before = self.outcome.waits.len();
            let Some((_, version)) = self.version(key, line) else {
                // It waits on its own account, or did before.
                let again = self.outcome.waits.split_off(before);
                if self.outcome.waits.iter().all(|wait| wait.line != wanted) {
                    self.outcome
                        .waits
                        .extend(again.into_iter().map(|wait| Wait { line: wanted.to_owned(), ..wait }));
                }
                return Ok(None);
            };
            let length = line.full.map_or_else(
                || line.start.zip(line.end).map_or(TimeDelta::zero(), |(start, end)| end - start),
                |full| full.end - full.start,
            );
            let whole = times(version.of(length), line.quantity.unwrap_or(1).max(0))?;
            match is_for_time_to_come(line) {
                Some(true) => new.push((key.clone(), whole)),
                Some(false) => old += whole,
                None => {}
            }
        }
        for (key, whole) in new {
            let set_against = old.min(whole);
            old -= set_against;
            if key == wanted {
                return Ok(Some(whole - set_against));
            }
        }
        Ok(None)
    }
}

/// Whether a prorated line is for what is left of the period (true) or gives back what was unused (false). Of lines over nothing
/// only Stripe's words tell.
fn is_for_time_to_come(line: &Line) -> Option<bool> {
    match line.amount? {
        0 => match line.description.as_deref()?.split_whitespace().next()? {
            "Remaining" => Some(true),
            "Unused" => Some(false),
            _ => None,
        },
        amount => Some(amount > 0),
    }
}

/// The period that ends with the line, by the interval of its price.
fn guess(line: &Line, start: DateTime<Utc>, end: DateTime<Utc>) -> Period {
    let (interval, count) = match &line.interval {
        Some((interval, count)) => (interval.as_str(), u32::try_from(*count).unwrap_or(1).max(1)),
        None if end - start > TimeDelta::days(31) => ("year", 1),
        None => ("month", 1),
    };
    let back = match interval {
        "day" => end.checked_sub_signed(TimeDelta::days(i64::from(count))),
        "week" => end.checked_sub_signed(TimeDelta::weeks(i64::from(count))),
        "year" => end.checked_sub_months(Months::new(12 * count)),
        _ => end.checked_sub_months(Months::new(count)),
    };
    Period { start: back.unwrap_or(start).min(start), end }
}
