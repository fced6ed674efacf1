//! Invoices, line by line: whole periods of plans, packs, and what has to wait. Pure.

use rust_decimal::Decimal;

use super::Decider;
use super::offers::{Offer, multiply, pack_grant, plan_grant};
use super::sales::{self, LineRole};
use crate::battery::effects::model::facts::{Line, Pack, Plan, Version};
use crate::battery::effects::model::line_keys::{MISSING_LINES, WHOLE, is_line_or_portion, portion_key};
use crate::battery::effects::model::{EffectKind, LineGrant, WaitReason};
use crate::error::Error;

impl Decider<'_> {
    /// Decides an invoice. One that is not paid, or of which nothing is left, grants nothing.
    pub(super) fn invoice(&mut self) -> Result<(), Error> {
        let facts = self.facts;
        let Some(invoice) = facts.invoice.as_ref().filter(|_| !facts.is_reversed()) else {
            return Ok(());
        };
        let pack_is_granted_elsewhere = self.effect_of(WHOLE).is_some() || facts.owned_elsewhere;
        let mut has_packs = facts.effects.iter().any(|effect| effect.what == EffectKind::Pack.name());
        for (place, (key, line)) in facts.keyed_lines().into_iter().enumerate() {
            if self.is_decided(&key, line) {
                continue;
            }
            if let Some(pack) = self.pack_of(&key, line) {
                has_packs = true;
                if !pack_is_granted_elsewhere {
                    self.pack_line(&key, place, &pack)?;
                }
            } else {
                self.plan_line(&key, place, invoice.billing_reason.as_deref())?;
            }
        }
        if let Some(session) = &facts.session
            && session.mode.as_deref() == Some("payment")
            && !(has_packs || pack_is_granted_elsewhere || self.is_dismissed(WHOLE))
        {
            self.pack_of_session(session)?;
        }
        if !invoice.lines_complete {
            self.wait_for_missing_lines();
        }
        Ok(())
    }

    /// An invoice that sells something here waits for the lines that Stripe's event left out.
    fn wait_for_missing_lines(&mut self) {
        let sells = !self.decision.grants.is_empty()
            || !self.decision.waits.is_empty()
            || !self.facts.effects.is_empty();
        if sells && !self.is_dismissed(MISSING_LINES) {
            let detail = "the event had some of the lines of this invoice only: grant what the others are \
                 worth by hand, then dismiss this";
            self.wait(MISSING_LINES, None, WaitReason::IncompleteLines, detail.to_owned());
        }
    }

    /// The pack that a line buys: as an operator assigned it, else as its price says.
    pub(super) fn pack_of(&self, key: &str, line: &Line) -> Option<Pack> {
        self.waiting(key).and_then(|waiting| waiting.pack.clone()).or_else(|| line.pack.clone())
    }

    /// Whether a line had an effect before, or an operator dismissed it. Unused time may still move to
    /// another grant.
    fn is_decided(&mut self, key: &str, line: &Line) -> bool {
        let mut has_effect = false;
        for effect in self.facts.effects.iter().filter(|effect| is_line_or_portion(&effect.line, key)) {
            has_effect = true;
            if effect.is_clawback() {
                self.move_unused(line, effect);
            }
        }
        has_effect || self.is_dismissed(key)
    }

    /// A line whose price buys a pack: once, or with every period, or the share of a period.
    fn pack_line(&mut self, key: &str, place: usize, pack: &Pack) -> Result<(), Error> {
        let line = &self.facts.lines[place];
        if line.proration == Some(true) && line.subscription.is_some() {
            return self.prorated(key, line);
        }
        let LineRole::Sale { quantity, amount } = sales::role(self.facts, place) else { return Ok(()) };
        // Packs are not given away. In a trial, too, a pack is granted when it is paid for.
        if amount <= 0 || self.is_sold_by_another_line(line, key) {
            return Ok(());
        }
        let quantity = self.waiting(key).and_then(|waiting| waiting.quantity).unwrap_or(quantity);
        let is_recurring = line.is_recurring();
        self.decision.grants.push(LineGrant {
            subscription: line.subscription.clone().filter(|_| is_recurring),
            price: line.price.clone(),
            period: line.start.zip(line.end).filter(|(start, end)| is_recurring && start < end),
            ..pack_grant(key, pack, quantity, multiply(pack.units, quantity)?)
        });
        Ok(())
    }

    /// A line whose price buys no pack: a period of a plan, the share of one, or something unknown.
    fn plan_line(&mut self, key: &str, place: usize, billing_reason: Option<&str>) -> Result<(), Error> {
        let line = &self.facts.lines[place];
        if line.subscription.is_none() {
            self.line_without_subscription(key, line);
            return Ok(());
        }
        if line.proration == Some(true) {
            return if sales::is_usage(self.facts, line) { Ok(()) } else { self.prorated(key, line) };
        }
        let bills_periods = matches!(
            billing_reason,
            None | Some(
                "subscription" | "subscription_create" | "subscription_cycle" | "subscription_update"
            )
        );
        match sales::role(self.facts, place) {
            LineRole::Sale { quantity, amount } if bills_periods && line.is_recurring() => {
                self.period(key, line, quantity, amount)
            }
            _ => Ok(()),
        }
    }

    /// A line that asks for a plan's price and belongs to no subscription. Somebody made the invoice by hand,
    /// as when one is voided and made again (<https://github.com/useautumn/autumn/pull/3469>). It does not
    /// say which period it paid for, so it waits for somebody who knows.
    fn line_without_subscription(&mut self, key: &str, line: &Line) {
        let asks = line.amount.is_some_and(|amount| amount > 0) && !line.is_metered();
        let grants = |plan: &Plan| plan.versions.iter().any(|version| version.units > Decimal::ZERO);
        let Some(plan) = line.plan.as_ref().filter(|plan| grants(plan) && asks) else { return };
        let detail = format!(
            "this line asks for the price of plan {} and belongs to no subscription, so it tells no period: \
             grant by hand what it paid for, then dismiss this; or have the price or product ignored",
            plan.id
        );
        self.wait(key, Some(line), WaitReason::NoSubscription, detail);
    }

    /// Whether the sale of this line has an effect at another of its lines.
    fn is_sold_by_another_line(&self, line: &Line, key: &str) -> bool {
        line.is_recurring()
            && self.facts.keyed_lines().iter().any(|(other_key, other)| {
                other_key != key && other.is_same_sale(line) && self.effect_of(other_key).is_some()
            })
    }

    /// A whole period of a plan.
    fn period(&mut self, key: &str, line: &Line, quantity: i64, amount: i64) -> Result<(), Error> {
        if self.is_sold_by_another_line(line, key) {
            return Ok(());
        }
        let Some((plan, version)) = self.version(key, line) else { return Ok(()) };
        let Some(period) = line.period().filter(|period| period.start < period.end) else {
            return Ok(());
        };
        let costs = line.costs == Some(true);
        let may_be_trial = amount == 0 && (version.trial.is_some() || costs);
        if may_be_trial && line.mirrored.is_none() && !self.is_overdue(key) {
            self.wait_for_subscription(key, line);
            return Ok(());
        }
        let is_trial = amount == 0 && line.mirrored.is_some_and(|mirrored| mirrored.is_trial(period.start));
        // Nothing was asked for a price that costs something, and neither a trial nor a discount says why.
        if amount == 0 && costs && !is_trial {
            return Ok(());
        }
        let plan_version = (plan.clone(), version.version);
        let portions = match version.trial.filter(|_| is_trial) {
            Some(units) => vec![(period, multiply(units, quantity)?)],
            None => Offer::Plan(plan, version).portions(quantity, period, period)?,
        };
        for (n, (portion, units)) in portions.into_iter().enumerate() {
            self.decision.grants.push(LineGrant {
                kind: if is_trial { EffectKind::Trial } else { EffectKind::Subscription },
                effective_at: Some(portion.start).filter(|start| *start > self.now),
                quantity,
                ..plan_grant(&portion_key(key, n), line, plan_version.clone(), units, portion)
            });
        }
        Ok(())
    }

    fn wait_for_subscription(&mut self, key: &str, line: &Line) {
        let id = line.subscription.as_deref().unwrap_or_default();
        let detail = format!(
            "the subscription {id} is not known yet: it says what this line is worth; after a day it is done \
             without"
        );
        self.wait(key, Some(line), WaitReason::UnknownSubscription, detail);
    }

    /// The plan that the line pays for, and its version: the one that an operator moved the subscription to,
    /// else the newest one that existed when the subscription got the price. `None`: the line is ignored, or
    /// waits.
    pub(super) fn version(&mut self, key: &str, line: &Line) -> Option<(String, Version)> {
        let Some(plan) = &line.plan else {
            self.wait_for_mapping(key, line);
            return None;
        };
        if let Some(moved) = plan.moved.and_then(|moved| plan.version(moved)) {
            return Some((plan.id.clone(), moved.clone()));
        }
        let created = self.facts.invoice.as_ref().and_then(|invoice| invoice.created);
        let exists = |version: &&Version| created.is_some_and(|at| version.created_at <= at);
        // Several versions existed: when it was bought, only the subscription can tell.
        let is_ambiguous = plan.since.is_none() && plan.versions.iter().filter(exists).count() > 1;
        if is_ambiguous && line.mirrored.is_none() && !self.is_overdue(key) {
            self.wait_for_subscription(key, line);
            return None;
        }
        let bought_at = plan.since.into_iter().chain(created).min();
        let sold = plan.versions.iter().rfind(|version| bought_at.is_some_and(|at| version.created_at <= at));
        let version = sold.or(plan.versions.first())?;
        Some((plan.id.clone(), version.clone()))
    }

    fn wait_for_mapping(&mut self, key: &str, line: &Line) {
        if line.ignored {
            return;
        }
        let price = line.price.as_deref().unwrap_or("none");
        let detail = format!(
            "the price {price} buys no plan and no pack: name it in one, assign a pack, or dismiss it"
        );
        self.wait(key, Some(line), WaitReason::UnknownPrice, detail);
    }
}

impl Plan {
    fn version(&self, number: i32) -> Option<&Version> {
        self.versions.iter().find(|version| version.version == number)
    }
}
