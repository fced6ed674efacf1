//! Judges a source: line by line, or as a whole. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde_json::Value;

use super::facts::{Facts, Line, Named, Pack, Session, Version};
use super::targets::{Expiry, GRACE, NewClaim, Outcome, Reason, Wait, opted_in, org_of};
use super::{Kind, Source};
use crate::battery::grants;
use crate::config::Proration;
use crate::error::Error;
use crate::money::round_units;
use crate::quantity::is_bounded;

/// A paid period longer than this is a year.
const YEAR_FROM: TimeDelta = TimeDelta::days(300);

/// What the source comes to.
///
/// # Errors
/// When units have no place in a decimal.
pub(super) fn outcome(
    source: &Source,
    facts: &Facts,
    proration: Proration,
    now: DateTime<Utc>,
) -> Result<Outcome, Error> {
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
const WHOLE: &str = "";
/// Key under which missing lines wait.
const REST: &str = "…";

impl Judge<'_> {
    fn claimed(&self, line: &str) -> Option<&super::facts::Claim> {
        self.facts.claims.iter().find(|claim| claim.line == line)
    }

    fn waiting(&self, line: &str) -> Option<&super::facts::Waiting> {
        self.facts.waiting.iter().find(|waiting| waiting.line == line)
    }

    fn dismissed(&self, line: &str) -> bool {
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
        let Some(invoice) =
            facts.invoice.as_ref().filter(|invoice| invoice.status.as_deref() == Some("paid"))
        else {
            return Ok(());
        };
        let reason = invoice.billing_reason.as_deref();
        let periodic = matches!(
            reason,
            None | Some(
                "subscription" | "subscription_create" | "subscription_cycle" | "subscription_update"
            )
        );
        let pack_elsewhere = self.claimed(WHOLE).is_some() || facts.owned_elsewhere;
        let mut packs = facts.claims.iter().any(|claim| claim.what == "pack");
        for (key, line) in line_keys(&facts.lines).iter().zip(&facts.lines) {
            let assigned = self.waiting(key).and_then(|waiting| waiting.pack.clone());
            if let Some(claim) = self.claimed(key) {
                if claim.units < Decimal::ZERO {
                    self.take_again(key, line, claim.grant, -claim.units);
                }
            } else if self.dismissed(key) {
            } else if let Some(pack) = assigned.or_else(|| line.pack.clone()) {
                packs = true;
                if !pack_elsewhere {
                    self.pack(key, &pack, line.quantity.unwrap_or(1), line.price.clone())?;
                }
            } else if line.proration == Some(true) && line.subscription.is_some() {
                self.prorated(key, line)?;
            } else if periodic && line.subscription.is_some() && line.kind.as_deref() != Some("invoiceitem") {
                self.period(key, line)?;
            }
        }
        if let Some(session) = &facts.session
            && is_paid_for(session)
            && !(packs || pack_elsewhere || self.dismissed(WHOLE))
        {
            self.named_by_session(session)?;
        }
        let touches =
            !self.outcome.grants.is_empty() || !self.outcome.waits.is_empty() || !facts.claims.is_empty();
        if !invoice.lines_complete && touches && !self.dismissed(REST) {
            let detail = "the event had some of the lines of this invoice only: grant what the others are worth by hand, then dismiss this";
            self.wait(REST, None, Reason::IncompleteLines, detail.to_owned());
        }
        Ok(())
    }

    fn payment(&mut self) -> Result<(), Error> {
        let facts = self.facts;
        if facts.owned_elsewhere || self.claimed(WHOLE).is_some() || self.dismissed(WHOLE) {
            return Ok(());
        }
        if let Some(session) = &facts.session {
            return if is_paid_for(session) { self.named_by_session(session) } else { Ok(()) };
        }
        match &facts.intent {
            Some(intent) if intent.status.as_deref() == Some("succeeded") && opted_in(&intent.named) => {
                self.named(&intent.named, None)
            }
            _ => Ok(()),
        }
    }

    fn named_by_session(&mut self, session: &Session) -> Result<(), Error> {
        self.named(&session.named, session.payment_link.as_deref())
    }

    /// The pack that metadata (or the payment link) names.
    fn named(&mut self, named: &Named, link: Option<&str>) -> Result<(), Error> {
        let text = |key: &str| match named.metadata.get(key) {
            Some(Value::String(text)) => Some(text.trim().to_owned()),
            Some(Value::Number(number)) => Some(number.to_string()),
            _ => None,
        };
        let assigned = self.waiting(WHOLE).and_then(|waiting| waiting.pack.clone());
        let units = text("battery_units");
        let said = units
            .as_deref()
            .and_then(|text| Decimal::from_str_exact(text).ok())
            .filter(|units| *units > Decimal::ZERO && *units == round_units(*units));
        let of_units = said.map(|units| Pack { id: None, units, days: None, priority: None });
        let pack = match (assigned, text("battery_pack"), &units) {
            (Some(pack), _, _) => Some(pack),
            (None, Some(_), _) => named.pack.clone(),
            (None, None, Some(_)) => of_units,
            (None, None, None) => named.priced.clone().or_else(|| named.linked.clone()),
        };
        let quantity = text("quantity").map_or(Some(1), |text| text.parse::<i64>().ok().filter(|n| *n > 0));
        let detail = match (&pack, text("battery_pack"), units, quantity) {
            (Some(pack), _, _, Some(quantity)) => return self.pack(WHOLE, &pack.clone(), quantity, None),
            (Some(_), _, _, None) => "metadata.quantity must be a whole number above zero".to_owned(),
            (None, Some(id), _, _) => format!("there is no pack {id}, which metadata.battery_pack names"),
            (None, None, Some(units), _) => format!(
                "metadata.battery_units is `{units}`, but must be a number above zero with at most nine decimal places"
            ),
            (None, None, None, _) => format!(
                "neither metadata (battery_pack, battery_units, price) nor the payment link ({}) names a pack: assign one, or dismiss it",
                link.unwrap_or("none")
            ),
        };
        self.wait(WHOLE, None, Reason::UnknownPack, detail);
        Ok(())
    }

    fn pack(&mut self, key: &str, pack: &Pack, quantity: i64, price: Option<String>) -> Result<(), Error> {
        self.outcome.grants.push(NewClaim {
            line: key.to_owned(),
            what: "pack",
            units: times(pack.units, quantity)?,
            source: grants::Source::Purchase,
            priority: pack.priority,
            effective_at: None,
            expires: pack.days.map_or(Expiry::Never, Expiry::Days),
            plan: None,
            pack: pack.id.clone(),
            subscription: None,
            price,
            quantity,
            period: None,
        });
        Ok(())
    }

    /// A whole period of a subscription.
    fn period(&mut self, key: &str, line: &Line) -> Result<(), Error> {
        let Some((plan, version)) = self.version(key, line) else { return Ok(()) };
        let Some((start, end)) = line.start.zip(line.end).filter(|(start, end)| start < end) else {
            return Ok(());
        };
        let trial = line.amount == Some(0)
            && line.mirrored.is_some_and(|sub| {
                sub.trial_start.is_some_and(|from| from <= start)
                    && sub.trial_end.is_some_and(|until| start < until)
            });
        let wants_mirror = line.amount == Some(0) && version.trial.is_some() && line.mirrored.is_none();
        if wants_mirror && !self.is_overdue(key) {
            self.wait_for_subscription(key, line);
            return Ok(());
        }
        let units = version.trial.filter(|_| trial).unwrap_or_else(|| version.of(end - start));
        let quantity = line.quantity.unwrap_or(1).max(0);
        self.outcome.grants.push(NewClaim {
            what: if trial { "trial" } else { "subscription" },
            effective_at: Some(start).filter(|start| *start > self.now),
            ..of_plan(key, line, (plan, version.version), times(units, quantity)?, (start, end))
        });
        Ok(())
    }

    fn wait_for_subscription(&mut self, key: &str, line: &Line) {
        let id = line.subscription.as_deref().unwrap_or_default();
        let detail = format!(
            "the subscription {id} is not known yet: it says what this line is worth; after a day it is done without"
        );
        self.wait(key, Some(line), Reason::UnknownSubscription, detail);
    }

    /// The plan and the version of it that the line pays for.
    pub(super) fn version(&mut self, key: &str, line: &Line) -> Option<(String, Version)> {
        let Some(plan) = &line.plan else {
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

pub(super) fn of_plan(
    key: &str,
    line: &Line,
    plan: (String, i32),
    units: Decimal,
    (start, end): (DateTime<Utc>, DateTime<Utc>),
) -> NewClaim {
    NewClaim {
        line: key.to_owned(),
        what: "subscription",
        units,
        source: grants::Source::Subscription,
        priority: None,
        effective_at: None,
        expires: Expiry::At(end),
        plan: Some(plan),
        pack: None,
        subscription: line.subscription.clone(),
        price: line.price.clone(),
        quantity: line.quantity.unwrap_or(1),
        period: Some((start, end)),
    }
}

impl Version {
    /// Units for a period of this length.
    pub(super) fn of(&self, length: TimeDelta) -> Decimal {
        self.annual.filter(|_| length > YEAR_FROM).unwrap_or(self.units)
    }
}

fn is_paid_for(session: &Session) -> bool {
    session.mode.as_deref() == Some("payment") && session.payment_status.as_deref() == Some("paid")
}

pub(super) fn times(units: Decimal, quantity: i64) -> Result<Decimal, Error> {
    let product = units.checked_mul(Decimal::from(quantity)).map(round_units);
    product.filter(|units| is_bounded(*units)).ok_or_else(too_large)
}

pub(super) fn share(units: Decimal, part: i64, whole: i64) -> Result<Decimal, Error> {
    let product =
        units.checked_mul(Decimal::from(part)).and_then(|units| units.checked_div(Decimal::from(whole)));
    product.map(round_units).filter(|units| is_bounded(*units)).ok_or_else(too_large)
}

pub(super) fn too_large() -> Error {
    Error::Internal("battery units are too large to be reckoned with".to_owned())
}
