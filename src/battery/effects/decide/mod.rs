//! Step 4, facts → decisions: which grants, which clawbacks, and which lines wait. Pure.
//!
//! - [`invoices`] decides an invoice line by line. [`sales`] tells which lines are sales, [`offers`] what
//!   they buy and how many units that is, [`prorations`] decides changes within a period.
//! - [`purchases`] decides payments without an invoice.
//! - [`returns`] tells how much of the returned money counts.
//! - [`repeats`] compares all sources at the end: a period is granted once.

mod invoices;
mod offers;
mod prorations;
mod purchases;
pub(crate) mod repeats;
pub(crate) mod returns;
mod sales;

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};

use super::model::facts::{Line, LineEffect, WaitingLine};
use super::model::{
    Decision, Facts, GRACE, LineWait, RepeatedLines, SaleSource, SourceDecision, SourceKind, WaitReason,
};
use crate::config::Proration;
use crate::error::Error;

/// Decides all sources, each alone, and then which of them repeat each other.
///
/// # Errors
/// When units do not fit into a decimal.
pub(super) fn decide(
    facts: &BTreeMap<SaleSource, Facts>,
    proration: Proration,
    now: DateTime<Utc>,
) -> Result<Vec<SourceDecision<'_>>, Error> {
    let one = |(source, facts)| {
        Ok(SourceDecision {
            source,
            facts,
            decision: decide_source(source, facts, proration, now)?,
            repeats: RepeatedLines::new(),
            returned: returns::causes(&facts.returned),
            loses: false,
        })
    };
    let mut decisions: Vec<SourceDecision<'_>> = facts.iter().map(one).collect::<Result<_, Error>>()?;
    let mut repeats = repeats::find(decisions.iter().map(|one| (one.source, one.facts, Some(&one.decision))));
    for one in &mut decisions {
        one.repeats = repeats.remove(one.source).unwrap_or_default();
        repeats::wait_in_place_of_repeats(one.facts, &mut one.decision, &one.repeats);
        one.loses = !one.repeats.is_empty() || repeats::kept_share(one.facts).is_zero();
    }
    Ok(decisions)
}

/// Decides one source alone.
///
/// # Errors
/// When units do not fit into a decimal.
pub(super) fn decide_source(
    source: &SaleSource,
    facts: &Facts,
    proration: Proration,
    now: DateTime<Utc>,
) -> Result<Decision, Error> {
    if facts.is_inactive_realm {
        return Ok(Decision::default());
    }
    let mut decider = Decider { facts, proration, now, decision: Decision::default() };
    match source.kind {
        SourceKind::Invoice => decider.invoice()?,
        SourceKind::PaymentIntent | SourceKind::CheckoutSession => decider.payment()?,
    }
    let mut decision = decider.decision;
    leave_out_old_money(facts, &mut decision);
    if facts.org().is_none() {
        wait_for_org(facts, &mut decision);
    }
    Ok(decision)
}

/// Money from before the account was first read does nothing new. If the rule says so, what it paid for a
/// period that still ran then is granted.
///
/// The facts that decide: when the money was taken (else, of an invoice, when it was finalized), and the end
/// of the line's period.
fn leave_out_old_money(facts: &Facts, decision: &mut Decision) {
    let Some(rule) = &facts.old_money else { return };
    let taken = facts.invoice.as_ref().and_then(|invoice| invoice.paid_at).or(facts.taken_at);
    if taken.is_none_or(|taken| taken >= rule.since) {
        return;
    }
    let runs = |end: Option<DateTime<Utc>>| rule.grant_running && end.is_some_and(|end| end > rule.since);
    decision.grants.retain(|grant| runs(grant.period.map(|(_, end)| end)));
    decision.clawbacks.clear();
    decision.waits.retain(|wait| {
        let line = facts.lines.iter().find(|line| line.id.as_deref() == Some(&*wait.line));
        runs(line.and_then(|line| line.end))
    });
}

/// Without an org nothing can be granted or clawed back: all of it waits.
fn wait_for_org(facts: &Facts, decision: &mut Decision) {
    let detail = match (&facts.customer_id, &facts.org_ref) {
        (_, Some(name)) => {
            format!("no org is called {name}: make one with this external_id, or assign one")
        }
        (Some(customer), None) => {
            format!("the customer {customer} belongs to no org: link it, or assign one")
        }
        (None, None) => "it names neither a customer nor an org: assign one".to_owned(),
    };
    let wait = |line: String, price: Option<String>, subscription: Option<String>| LineWait {
        line,
        reason: WaitReason::NoOrg,
        detail: detail.clone(),
        price,
        product: None,
        subscription,
    };
    let grants = decision.grants.drain(..).filter(|grant| !grant.units.is_zero());
    decision.waits.extend(grants.map(|grant| wait(grant.line, grant.price, grant.subscription)));
    let clawbacks = decision.clawbacks.drain(..);
    decision.waits.extend(clawbacks.map(|one| wait(one.line, one.price, one.subscription)));
}

/// Decides one source. Its methods stand in the files of this folder.
struct Decider<'a> {
    facts: &'a Facts,
    proration: Proration,
    now: DateTime<Utc>,
    decision: Decision,
}

impl<'a> Decider<'a> {
    /// What the line of exactly this key did before.
    fn effect_of(&self, line: &str) -> Option<&'a LineEffect> {
        self.facts.effects.iter().find(|effect| effect.line == line)
    }

    fn waiting(&self, line: &str) -> Option<&'a WaitingLine> {
        self.facts.waiting.iter().find(|waiting| waiting.line == line)
    }

    fn is_dismissed(&self, line: &str) -> bool {
        self.waiting(line).is_some_and(|waiting| waiting.dismissed)
    }

    /// Whether the line has waited long enough for a fact that may never come.
    fn is_overdue(&self, line: &str) -> bool {
        self.waiting(line).is_some_and(|waiting| self.now - waiting.since >= GRACE)
    }

    fn wait(&mut self, key: &str, line: Option<&Line>, reason: WaitReason, detail: String) {
        self.decision.waits.push(LineWait {
            line: key.to_owned(),
            reason,
            detail,
            price: line.and_then(|line| line.price.clone()),
            product: line.and_then(|line| line.product.clone()),
            subscription: line.and_then(|line| line.subscription.clone()),
        });
    }
}
