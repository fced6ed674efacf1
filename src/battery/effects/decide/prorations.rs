//! Prorations: changes of plan or quantity within a period. Pure.
//!
//! Stripe bills a change as two lines: "unused time" of the old quantity, below zero, and "remaining time" of
//! the new quantity. The first claws the share of the time back from the grant that holds it. The second
//! grants its share.

use chrono::{Months, TimeDelta};
use rust_decimal::Decimal;

use super::Decider;
use super::offers::{Offer, Portion};
use super::sales;
use crate::battery::effects::model::facts::{Line, LineEffect, Period};
use crate::battery::effects::model::line_keys::portion_key;
use crate::battery::effects::model::{LineWait, UnusedTimeClawback, WaitReason};
use crate::config::Proration;
use crate::error::Error;

/// Which of the two lines of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    /// Unused time of what was bought before.
    Unused,
    /// Remaining time of what is bought now.
    Remaining,
}

impl Decider<'_> {
    /// Decides a prorated line.
    pub(super) fn prorated(&mut self, key: &str, line: &Line) -> Result<(), Error> {
        let Some(part) = line.period() else { return Ok(()) };
        let paid_at = self.facts.invoice.as_ref().and_then(|invoice| invoice.paid_at);
        let is_over = paid_at.is_some_and(|paid| part.end <= paid);
        if part.start >= part.end || is_over || self.proration == Proration::None {
            return Ok(());
        }
        let Some(side) = side_of(line) else { return Ok(()) };
        let Some(offer) = self.offer(key, line) else { return Ok(()) };
        if offer.is_pack() && side == Side::Remaining && self.is_net_credit(line) {
            return Ok(());
        }
        if self.proration == Proration::Difference {
            return match side {
                Side::Remaining => self.grant_difference(key, line, &offer, part),
                Side::Unused => Ok(()),
            };
        }
        let quantity = line.quantity_or_one().max(0);
        let guessed = || self.is_overdue(key).then(|| period_by_interval(line, part));
        let Some(full) = line.full_period.or_else(guessed) else {
            return self.wait_for_full_period(key, line, &offer, part);
        };
        let portions = offer.portions(quantity, full, part)?;
        match side {
            Side::Remaining => self.grant_remaining(key, line, &offer, portions, quantity),
            Side::Unused => self.claw_back_unused(key, line, &offer, portions, quantity),
        }
        Ok(())
    }

    fn wait_for_full_period(
        &mut self,
        key: &str,
        line: &Line,
        offer: &Offer,
        part: Period,
    ) -> Result<(), Error> {
        let detail = "the period that this part belongs to is not known yet: it comes with the \
             subscription's invoice; after a day the interval of the price tells it";
        let portions = offer.portions(line.quantity_or_one().max(0), part, part)?;
        if portions.iter().any(|(_, units)| !units.is_zero()) {
            self.wait(key, Some(line), WaitReason::UnknownPeriod, detail.to_owned());
        }
        Ok(())
    }

    /// Grants remaining time. The first portion may be used at once, the others when they begin.
    fn grant_remaining(
        &mut self,
        key: &str,
        line: &Line,
        offer: &Offer,
        portions: Vec<Portion>,
        quantity: i64,
    ) {
        for (n, portion) in portions.into_iter().enumerate() {
            let mut grant = offer.prorated_grant(&portion_key(key, n), line, quantity, portion);
            grant.effective_at = Some(portion.0.start).filter(|start| n > 0 && *start > self.now);
            self.decision.grants.push(grant);
        }
    }

    /// Claws unused time back from the grants that hold it.
    fn claw_back_unused(
        &mut self,
        key: &str,
        line: &Line,
        offer: &Offer,
        portions: Vec<Portion>,
        quantity: i64,
    ) {
        let portions: Vec<Portion> = portions.into_iter().filter(|(_, units)| !units.is_zero()).collect();
        let is_missing = portions.iter().any(|(period, _)| line.grant_holding(*period).is_none());
        if is_missing && !self.is_overdue(key) {
            let detail = format!(
                "the grant of {} that unused time is taken from is not there yet; after a day nothing is \
                 taken",
                offer.id()
            );
            self.wait(key, Some(line), WaitReason::NoGrant, detail);
            return;
        }
        let clawback = |(n, (period, units)): (usize, Portion)| UnusedTimeClawback {
            line: portion_key(key, n),
            grant: line.grant_holding(period),
            moves: false,
            from_grant: None,
            units,
            plan: offer.plan(),
            subscription: line.subscription.clone(),
            price: line.price.clone(),
            quantity,
            period: Some((period.start, period.end)),
        };
        self.decision.clawbacks.extend(portions.into_iter().enumerate().map(clawback));
    }

    /// Moves unused time, which was clawed back before, to the grant that holds it now: that grant may have
    /// come later.
    pub(super) fn move_unused(&mut self, line: &Line, effect: &LineEffect) {
        let period = effect.start.or(line.start).zip(effect.end.or(line.end));
        let grant = period.and_then(|(start, end)| line.grant_holding(Period { start, end }));
        let Some(grant) = grant.filter(|grant| effect.grant != Some(*grant)) else { return };
        self.decision.clawbacks.push(UnusedTimeClawback {
            line: effect.line.clone(),
            grant: Some(grant),
            moves: true,
            from_grant: effect.grant,
            units: -effect.units,
            plan: None,
            subscription: line.subscription.clone(),
            price: None,
            quantity: 1,
            period: None,
        });
    }

    /// Grants, at once, what a whole period of the new plan or quantity has more than one of the old.
    fn grant_difference(&mut self, key: &str, line: &Line, offer: &Offer, part: Period) -> Result<(), Error> {
        if let Some(units) = self.difference(key, line, offer)? {
            let quantity = line.quantity_or_one().max(0);
            self.decision.grants.push(offer.prorated_grant(key, line, quantity, (part, units)));
        }
        Ok(())
    }

    /// What a whole period of the new lines has more than one of the old lines. The old units are set against
    /// the new lines in order. `None`: the line waits, as a line of the same change does.
    fn difference(&mut self, key: &str, line: &Line, offer: &Offer) -> Result<Option<Decimal>, Error> {
        let facts = self.facts;
        let (mut old, mut new) = (Decimal::ZERO, Vec::new());
        for (other_key, other) in facts.keyed_lines() {
            let is_of_change = other.proration == Some(true) && other.subscription == line.subscription;
            if !is_of_change || sales::is_usage(facts, other) {
                continue;
            }
            let waits_before = self.decision.waits.len();
            let Some(other_offer) = self.offer(&other_key, other) else {
                self.wait_with_other_line(key, waits_before);
                return Ok(None);
            };
            if !other_offer.is_comparable(offer) {
                continue;
            }
            let whole = other_offer.units_of_whole_period(other)?;
            match side_of(other) {
                Some(Side::Remaining) => new.push((other_key, whole)),
                Some(Side::Unused) => old += whole,
                None => {}
            }
        }
        for (new_key, whole) in new {
            let set_against = old.min(whole);
            old -= set_against;
            if new_key == key {
                return Ok(Some(whole - set_against));
            }
        }
        Ok(None)
    }

    /// Lets the line wait for what another line of its change waits for. The waits since `waits_before` are
    /// that other line's; its own turn adds them again.
    fn wait_with_other_line(&mut self, key: &str, waits_before: usize) {
        let of_other = self.decision.waits.split_off(waits_before);
        if self.decision.waits.iter().all(|wait| wait.line != key) {
            let as_own = of_other.into_iter().map(|wait| LineWait { line: key.to_owned(), ..wait });
            self.decision.waits.extend(as_own);
        }
    }

    /// What the line buys. `None`: nothing, or it waits until somebody says so.
    fn offer(&mut self, key: &str, line: &Line) -> Option<Offer> {
        if let Some(pack) = self.pack_of(key, line) {
            return Some(Offer::Pack(pack));
        }
        self.version(key, line).map(|(plan, version)| Offer::Plan(plan, version))
    }

    /// Whether the changes of this item give more money back than they ask for. Then the buyer has fewer
    /// packs than before, and the change grants no units.
    fn is_net_credit(&self, line: &Line) -> bool {
        let changes = self.facts.lines.iter().filter(|other| {
            other.proration == Some(true)
                && other.subscription == line.subscription
                && other.item == line.item
        });
        changes.filter_map(|other| other.amount).fold(0, i64::saturating_add) <= 0
    }
}

impl Line {
    /// The latest grant that covers all of this period.
    fn grant_holding(&self, period: Period) -> Option<i64> {
        let covers = self
            .overlapping_grants
            .iter()
            .find(|grant| Period { start: grant.start, end: grant.end }.covers(period));
        covers.map(|grant| grant.number)
    }
}

/// The sign of the amount tells the side; of a line over nothing, only Stripe's description does.
fn side_of(line: &Line) -> Option<Side> {
    match line.amount? {
        0 => match line.description.as_deref()?.split_whitespace().next()? {
            "Remaining" => Some(Side::Remaining),
            "Unused" => Some(Side::Unused),
            _ => None,
        },
        amount if amount > 0 => Some(Side::Remaining),
        _ => Some(Side::Unused),
    }
}

/// The period that ends with the part and is as long as the interval of the price.
fn period_by_interval(line: &Line, part: Period) -> Period {
    let Period { start, end } = part;
    let (interval, count) = match &line.interval {
        Some((interval, count)) => (interval.as_str(), u32::try_from(*count).unwrap_or(1).max(1)),
        None if end - start > TimeDelta::days(31) => ("year", 1),
        None => ("month", 1),
    };
    let begins = match interval {
        "day" => end.checked_sub_signed(TimeDelta::days(i64::from(count))),
        "week" => end.checked_sub_signed(TimeDelta::weeks(i64::from(count))),
        "year" => end.checked_sub_months(Months::new(12 * count)),
        _ => end.checked_sub_months(Months::new(count)),
    };
    Period { start: begins.unwrap_or(start).min(start), end }
}
