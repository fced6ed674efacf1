//! Changes of plan or quantity within a period: units for what is left of it, and those of unused time. Pure.
//!
//! Stripe invoices a change as two lines: "unused time" of the old quantity, below zero, and "remaining time"
//! of the new one. The first takes the share of the time back from the grant that holds it, the second grants
//! it.

use chrono::{DateTime, Months, TimeDelta, Utc};
use rust_decimal::Decimal;

use super::bought::{Bought, portion_key, times};
use super::decide::{Judge, line_keys};
use super::facts::{Line, LineUnits, Period};
use super::model::{NewClaim, Reason, Take, Wait};
use super::sales;
use crate::config::Proration;
use crate::error::Error;

impl Judge<'_> {
    /// A part of a period, as the plan or the quantity changed within it.
    pub(super) fn prorated(&mut self, key: &str, line: &Line) -> Result<(), Error> {
        let Some(part) = line.start.zip(line.end).map(|(start, end)| Period::of(start, end)) else {
            return Ok(());
        };
        let paid_at = self.facts.invoice.as_ref().and_then(|invoice| invoice.paid_at);
        let over = paid_at.is_some_and(|paid| part.end <= paid);
        if part.start >= part.end || over || self.proration == Proration::None {
            return Ok(());
        }
        let Some(is_new) = is_for_time_to_come(line) else { return Ok(()) };
        let Some(bought) = self.bought(key, line) else { return Ok(()) };
        if matches!(bought, Bought::Pack(_)) && is_new && self.comes_to_a_credit(line) {
            return Ok(());
        }
        if self.proration == Proration::Difference {
            return if is_new { self.difference(key, line, &bought, part) } else { Ok(()) };
        }
        let quantity = line.quantity.unwrap_or(1).max(0);
        let Some(full) =
            line.full.or_else(|| self.is_overdue(key).then(|| guess(line, part.start, part.end)))
        else {
            let detail = "the period that this part belongs to is not known yet: it comes with the \
                subscription's invoice; after a day it is reckoned by the interval of the price";
            let short = bought.portions(quantity, part, part)?;
            if short.iter().any(|(_, units)| !units.is_zero()) {
                self.wait(key, Some(line), Reason::UnknownPeriod, detail.to_owned());
            }
            return Ok(());
        };
        let portions = bought.portions(quantity, full, part)?;
        if is_new {
            for (n, (portion, units)) in portions.into_iter().enumerate() {
                self.outcome.grants.push(NewClaim {
                    what: if matches!(bought, Bought::Pack(_)) { "pack" } else { "proration" },
                    effective_at: Some(portion.start).filter(|start| n > 0 && *start > self.now),
                    ..bought.claim(&portion_key(key, n), line, quantity, units, portion)
                });
            }
            return Ok(());
        }
        self.unused(key, line, &bought, &portions, quantity);
        Ok(())
    }

    /// Takes unused time back from the grants that hold it.
    fn unused(
        &mut self,
        key: &str,
        line: &Line,
        bought: &Bought,
        portions: &[(Period, Decimal)],
        quantity: i64,
    ) {
        let portions: Vec<&(Period, Decimal)> =
            portions.iter().filter(|(_, units)| !units.is_zero()).collect();
        let held = |portion: Period| line.holder_of(portion);
        if portions.iter().any(|(portion, _)| held(*portion).is_none()) && !self.is_overdue(key) {
            let detail = format!(
                "the grant of {} that unused time is taken from is not there yet; after a day nothing is \
                    taken",
                bought.name()
            );
            self.wait(key, Some(line), Reason::NoGrant, detail);
            return;
        }
        self.outcome.takes.extend(portions.into_iter().enumerate().map(|(n, (portion, units))| Take {
            line: portion_key(key, n),
            holder: held(*portion),
            before: None,
            known: false,
            units: *units,
            plan: bought.plan(),
            subscription: line.subscription.clone(),
            price: line.price.clone(),
            quantity,
            period: Some((portion.start, portion.end)),
        }));
    }

    /// Grants what the new plan or quantity has more than the old one, for a whole period.
    fn difference(&mut self, key: &str, line: &Line, bought: &Bought, part: Period) -> Result<(), Error> {
        if let Some(units) = self.more_than_before(key, bought)? {
            self.outcome.grants.push(NewClaim {
                what: if matches!(bought, Bought::Pack(_)) { "pack" } else { "proration" },
                ..bought.claim(key, line, line.quantity.unwrap_or(1).max(0), units, part)
            });
        }
        Ok(())
    }

    /// What the line buys; none: it waits for somebody to say so.
    fn bought(&mut self, key: &str, line: &Line) -> Option<Bought> {
        if let Some(pack) = self.pack_of(key, line) {
            return Some(Bought::Pack(pack));
        }
        self.version(key, line).map(|(plan, version)| Bought::Plan(plan, version))
    }

    /// Whether the changes of this item give more money back than they ask for: the buyer has fewer packs
    /// than before, and a net credit adds no units.
    fn comes_to_a_credit(&self, line: &Line) -> bool {
        let changes = self.facts.lines.iter().filter(|other| {
            other.proration == Some(true)
                && other.subscription == line.subscription
                && other.item == line.item
        });
        changes.filter_map(|other| other.amount).fold(0, i64::saturating_add) <= 0
    }

    /// Unused time that was counted: a grant that came later may be the one that holds it.
    pub(super) fn take_again(&mut self, line: &Line, claim: &LineUnits) {
        let period = claim.start.or(line.start).zip(claim.end.or(line.end));
        let holder = period.and_then(|(start, end)| line.holder_of(Period::of(start, end)));
        let Some(holder) = holder.filter(|holder| claim.grant != Some(*holder)) else { return };
        self.outcome.takes.push(Take {
            line: claim.line.clone(),
            holder: Some(holder),
            before: claim.grant,
            known: true,
            units: -claim.units,
            plan: None,
            subscription: line.subscription.clone(),
            price: None,
            quantity: 1,
            period: None,
        });
    }

    /// What a whole period of the new lines has more than one of the old, the old being set against the new
    /// in order.
    fn more_than_before(&mut self, wanted: &str, bought: &Bought) -> Result<Option<Decimal>, Error> {
        let facts = self.facts;
        let keys = line_keys(&facts.lines);
        let Some(own) = keys.iter().zip(&facts.lines).find(|(key, _)| *key == wanted) else {
            return Ok(None);
        };
        let alike = |other: &Bought| match (other, bought) {
            (Bought::Plan(..), Bought::Plan(..)) => true,
            (Bought::Pack(a), Bought::Pack(b)) => a.id == b.id,
            _ => false,
        };
        let (mut old, mut new) = (Decimal::ZERO, Vec::new());
        for (key, line) in keys.iter().zip(&facts.lines) {
            let other = line.proration != Some(true) || line.subscription != own.1.subscription;
            if other || sales::is_usage(facts, line) {
                continue;
            }
            let before = self.outcome.waits.len();
            let Some(bought) = self.bought(key, line) else {
                // It waits on its own account, or did before.
                let again = self.outcome.waits.split_off(before);
                if self.outcome.waits.iter().all(|wait| wait.line != wanted) {
                    self.outcome
                        .waits
                        .extend(again.into_iter().map(|wait| Wait { line: wanted.to_owned(), ..wait }));
                }
                return Ok(None);
            };
            if !alike(&bought) {
                continue;
            }
            let whole = whole_units(&bought, line)?;
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

/// Units of a whole period of what the line bought: of a year that is granted monthly, those of a month.
fn whole_units(bought: &Bought, line: &Line) -> Result<Decimal, Error> {
    let part = line.start.zip(line.end).map(|(start, end)| Period::of(start, end));
    let Some(full) = line.full.or(part).filter(|full| full.start < full.end) else {
        return Ok(Decimal::ZERO);
    };
    let quantity = line.quantity.unwrap_or(1).max(0);
    match bought {
        Bought::Plan(..) => {
            Ok(bought.portions(quantity, full, full)?.first().map_or(Decimal::ZERO, |one| one.1))
        }
        Bought::Pack(pack) => times(pack.units, quantity),
    }
}

impl Line {
    /// The latest grant that holds units of all of this time.
    fn holder_of(&self, time: Period) -> Option<i64> {
        let covers = self.holders.iter().find(|holder| Period::of(holder.start, holder.end).covers(time));
        covers.map(|holder| holder.number)
    }
}

/// Whether a prorated line is for what is left of the period (true) or gives back what was unused (false). Of
/// lines over nothing only Stripe's words tell.
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
