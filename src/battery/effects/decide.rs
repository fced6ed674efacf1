//! Judges a source: line by line, or as a whole. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::bought::{Bought, is_of, of_pack, of_plan, portion_key, times};
use super::facts::{Facts, Line, Pack, Period, Plan, Version};
use super::model::{self, GRACE, NewClaim, Outcome, Reason, Wait, org_of};
use super::sales::{self, Part};
use super::{Kind, SaleSource};
use crate::config::Proration;
use crate::error::Error;

/// What the source comes to.
///
/// # Errors
/// When units have no place in a decimal.
pub(super) fn outcome(
    source: &SaleSource,
    facts: &Facts,
    proration: Proration,
    now: DateTime<Utc>,
) -> Result<Outcome, Error> {
    if facts.idle {
        return Ok(Outcome::default());
    }
    let mut judge = Judge { facts, proration, now, outcome: Outcome::default() };
    match source.kind {
        Kind::Invoice => judge.invoice()?,
        Kind::PaymentIntent | Kind::CheckoutSession => judge.payment()?,
    }
    let mut outcome = judge.outcome;
    if org_of(facts).is_none() {
        let detail = match (&facts.customer_id, &facts.org_ref) {
            (_, Some(name)) => {
                format!("no org is called {name}: make one with this external_id, or assign one")
            }
            (Some(customer), None) => {
                format!("the customer {customer} belongs to no org: link it, or assign one")
            }
            (None, None) => "it names neither a customer nor an org: assign one".to_owned(),
        };
        let without = |line: String, price: Option<String>, subscription: Option<String>| Wait {
            line,
            reason: Reason::NoOrg,
            detail: detail.clone(),
            price,
            product: None,
            subscription,
        };
        outcome.waits.extend(
            outcome
                .grants
                .drain(..)
                .filter(|grant| !grant.units.is_zero())
                .map(|grant| without(grant.line, grant.price, grant.subscription)),
        );
        outcome
            .waits
            .extend(outcome.takes.drain(..).map(|take| without(take.line, take.price, take.subscription)));
    }
    Ok(outcome)
}

pub(super) struct Judge<'a> {
    pub(super) facts: &'a Facts,
    pub(super) proration: Proration,
    pub(super) now: DateTime<Utc>,
    pub(super) outcome: Outcome,
}

/// A line by its id, which the oldest shapes may leave out or use twice.
#[must_use]
pub(super) fn line_keys(lines: &[Line]) -> Vec<String> {
    let mut seen: BTreeMap<&str, usize> = BTreeMap::new();
    lines
        .iter()
        .map(|line| {
            let id = line.id.as_deref().unwrap_or("line");
            let times = seen.entry(id).or_default();
            *times += 1;
            if *times == 1 && line.id.is_some() { id.to_owned() } else { format!("{id}#{times}") }
        })
        .collect()
}

/// Key under which a session's pack is claimed where an invoice owns it.
pub(super) const WHOLE: &str = "";
/// Key under which missing lines wait.
const REST: &str = "…";

impl Judge<'_> {
    pub(super) fn claimed(&self, line: &str) -> Option<&super::facts::LineUnits> {
        self.facts.claims.iter().find(|claim| claim.line == line)
    }

    pub(super) fn waiting(&self, line: &str) -> Option<&super::facts::Waiting> {
        self.facts.waiting.iter().find(|waiting| waiting.line == line)
    }

    pub(super) fn dismissed(&self, line: &str) -> bool {
        self.waiting(line).is_some_and(|waiting| waiting.dismissed)
    }

    /// Whether that line has waited long enough for what may never come.
    pub(super) fn is_overdue(&self, line: &str) -> bool {
        self.waiting(line).is_some_and(|waiting| self.now - waiting.since >= GRACE)
    }

    pub(super) fn wait(&mut self, key: &str, line: Option<&Line>, reason: Reason, detail: String) {
        self.outcome.waits.push(Wait {
            line: key.to_owned(),
            reason,
            detail,
            price: line.and_then(|line| line.price.clone()),
            product: line.and_then(|line| line.product.clone()),
            subscription: line.and_then(|line| line.subscription.clone()),
        });
    }

    fn invoice(&mut self) -> Result<(), Error> {
        let facts = self.facts;
        let Some(invoice) = facts.invoice.as_ref().filter(|_| !model::is_undone(facts)) else {
            return Ok(());
        };
        let pack_elsewhere = self.claimed(WHOLE).is_some() || facts.owned_elsewhere;
        let mut packs = facts.claims.iter().any(|claim| claim.what == "pack");
        for (place, (key, line)) in line_keys(&facts.lines).iter().zip(&facts.lines).enumerate() {
            if self.counted_before(key, line) {
                continue;
            }
            if let Some(pack) = self.pack_of(key, line) {
                packs = true;
                if !pack_elsewhere {
                    self.pack_line(key, place, &pack)?;
                }
            } else {
                self.plan_line(key, place, invoice.billing_reason.as_deref())?;
            }
        }
        if let Some(session) = &facts.session
            && session.mode.as_deref() == Some("payment")
            && !(packs || pack_elsewhere || self.dismissed(WHOLE))
        {
            self.named_by_session(session)?;
        }
        let touches =
            !self.outcome.grants.is_empty() || !self.outcome.waits.is_empty() || !facts.claims.is_empty();
        if !invoice.lines_complete && touches && !self.dismissed(REST) {
            let detail = "the event had some of the lines of this invoice only: grant what the others are \
                worth by hand, then dismiss this";
            self.wait(REST, None, Reason::IncompleteLines, detail.to_owned());
        }
        Ok(())
    }

    /// The pack that a line buys: as an operator says, else as its price does.
    pub(super) fn pack_of(&self, key: &str, line: &Line) -> Option<Pack> {
        self.waiting(key).and_then(|waiting| waiting.pack.clone()).or_else(|| line.pack.clone())
    }

    /// Whether a line came to something before, or an operator has dismissed it.
    fn counted_before(&mut self, key: &str, line: &Line) -> bool {
        let mut found = false;
        for claim in self.facts.claims.iter().filter(|claim| is_of(&claim.line, key)) {
            found = true;
            if claim.units < Decimal::ZERO {
                self.take_again(line, claim);
            }
        }
        found || self.dismissed(key)
    }

    /// A line whose price buys a pack: once, with every period, or the share of one.
    fn pack_line(&mut self, key: &str, place: usize, pack: &Pack) -> Result<(), Error> {
        let line = &self.facts.lines[place];
        if line.proration == Some(true) && line.subscription.is_some() {
            return self.prorated(key, line);
        }
        let Part::Sale { quantity, amount } = sales::part(self.facts, place) else { return Ok(()) };
        // Nothing is given away: in a trial, too, a pack is granted when it is paid for.
        if amount <= 0 || self.is_sold_by_another_line(line, key) {
            return Ok(());
        }
        let quantity = self.waiting(key).and_then(|waiting| waiting.quantity).unwrap_or(quantity);
        let recurring = line.is_recurring();
        self.outcome.grants.push(NewClaim {
            subscription: line.subscription.clone().filter(|_| recurring),
            price: line.price.clone(),
            period: line.start.zip(line.end).filter(|(start, end)| recurring && start < end),
            ..of_pack(key, pack, quantity, times(pack.units, quantity)?)
        });
        Ok(())
    }

    fn plan_line(&mut self, key: &str, place: usize, reason: Option<&str>) -> Result<(), Error> {
        let line = &self.facts.lines[place];
        if line.subscription.is_none() {
            self.without_subscription(key, place);
            return Ok(());
        }
        if line.proration == Some(true) {
            return if sales::is_usage(self.facts, line) { Ok(()) } else { self.prorated(key, line) };
        }
        let periodic = matches!(
            reason,
            None | Some(
                "subscription" | "subscription_create" | "subscription_cycle" | "subscription_update"
            )
        );
        match sales::part(self.facts, place) {
            Part::Sale { quantity, amount } if periodic && line.is_recurring() => {
                self.period(key, line, quantity, amount)
            }
            _ => Ok(()),
        }
    }

    /// A line that asks for a plan's price and belongs to no subscription: an invoice that somebody made by
    /// hand, as when one is voided and made again (<https://github.com/useautumn/autumn/pull/3469>). Which
    /// period it paid for it does not say, so it waits for somebody who knows.
    fn without_subscription(&mut self, key: &str, place: usize) {
        let line = &self.facts.lines[place];
        let asks = line.amount.is_some_and(|amount| amount > 0) && !line.is_metered();
        let grants = |plan: &Plan| plan.versions.iter().any(|version| version.units > Decimal::ZERO);
        let Some(plan) = line.plan.as_ref().filter(|plan| grants(plan) && asks) else { return };
        let detail = format!(
            "this line asks for the price of plan {} and belongs to no subscription, so it tells no period: \
             grant by hand what it paid for, then dismiss this; or have the price or product ignored",
            plan.id
        );
        self.wait(key, Some(line), Reason::NoSubscription, detail);
    }

    /// Whether the sale that this line stands for was counted at another of its lines.
    fn is_sold_by_another_line(&self, line: &Line, key: &str) -> bool {
        let keys = line_keys(&self.facts.lines);
        line.is_recurring()
            && keys.iter().zip(&self.facts.lines).any(|(other_key, other)| {
                other_key != key && other.same_item(line) && self.claimed(other_key).is_some()
            })
    }

    /// A whole period of a subscription.
    fn period(&mut self, key: &str, line: &Line, quantity: i64, amount: i64) -> Result<(), Error> {
        if self.is_sold_by_another_line(line, key) {
            return Ok(());
        }
        let Some((plan, version)) = self.version(key, line) else { return Ok(()) };
        let Some((start, end)) = line.start.zip(line.end).filter(|(start, end)| start < end) else {
            return Ok(());
        };
        let costs = line.costs == Some(true);
        let wants_mirror = amount == 0 && (version.trial.is_some() || costs) && line.mirrored.is_none();
        if wants_mirror && !self.is_overdue(key) {
            self.wait_for_subscription(key, line);
            return Ok(());
        }
        let trial = amount == 0 && line.mirrored.is_some_and(|sub| sub.is_trial(start));
        // Its price is known to cost something, nothing was asked, and neither a trial nor a discount says
        // why.
        if amount == 0 && costs && !trial {
            return Ok(());
        }
        let whole = Period { start, end };
        let (number, units) = (version.version, version.trial.filter(|_| trial));
        let portions = match units {
            Some(units) => vec![(whole, times(units, quantity)?)],
            None => Bought::Plan(plan.clone(), version).portions(quantity, whole, whole)?,
        };
        for (n, (portion, units)) in portions.into_iter().enumerate() {
            self.outcome.grants.push(NewClaim {
                what: if trial { "trial" } else { "subscription" },
                effective_at: Some(portion.start).filter(|start| *start > self.now),
                quantity,
                ..of_plan(&portion_key(key, n), line, (plan.clone(), number), units, portion)
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
        self.wait(key, Some(line), Reason::UnknownSubscription, detail);
    }

    /// The plan and the version of it that the line pays for.
    pub(super) fn version(&mut self, key: &str, line: &Line) -> Option<(String, Version)> {
        let Some(plan) = &line.plan else {
            if line.ignored {
                return None;
            }
            let price = line.price.as_deref().unwrap_or("none");
            let detail = format!(
                "the price {price} buys no plan and no pack: name it in one, assign a pack, or dismiss it"
            );
            self.wait(key, Some(line), Reason::UnknownPrice, detail);
            return None;
        };
        let created = self.facts.invoice.as_ref().and_then(|invoice| invoice.created);
        if let Some(moved) =
            plan.moved.and_then(|moved| plan.versions.iter().find(|version| version.version == moved))
        {
            return Some((plan.id.clone(), moved.clone()));
        }
        let at = plan.since.into_iter().chain(created).min();
        let sold = plan.versions.iter().rfind(|version| at.is_some_and(|at| version.created_at <= at));
        // Bought before: which version it has cannot be told without the subscription.
        let ambiguous = plan.since.is_none()
            && plan
                .versions
                .iter()
                .filter(|version| created.is_some_and(|at| version.created_at <= at))
                .count()
                > 1;
        if ambiguous && line.mirrored.is_none() && !self.is_overdue(key) {
            self.wait_for_subscription(key, line);
            return None;
        }
        let version = sold.or(plan.versions.first())?;
        Some((plan.id.clone(), version.clone()))
    }
}
