//! What a source is worth: which grants, what is taken back, what has to wait. Pure.

use std::collections::BTreeMap;

use chrono::{DateTime, Months, TimeDelta, Utc};
use rust_decimal::Decimal;
use serde::Deserialize;
use serde_json::Value;

use super::facts::{Facts, Line, Named, Pack, Period, Session, Version};
use super::{Kind, Source};
use crate::battery::grants;
use crate::config::Proration;
use crate::error::Error;
use crate::money::round_units;

/// A paid period longer than this is a year.
const YEAR_FROM: TimeDelta = TimeDelta::days(300);
/// How long facts that should come soon are waited for, before it is done without them.
pub const GRACE: TimeDelta = TimeDelta::days(1);

/// What a source comes to beyond what it came to before.
#[derive(Debug, Default)]
pub struct Outcome {
    /// New grants, and lines that come to nothing.
    pub grants: Vec<NewClaim>,
    /// Unused time of plans.
    pub takes: Vec<Take>,
    /// What cannot happen yet.
    pub waits: Vec<Wait>,
}

/// What a line comes to.
#[derive(Clone, Debug)]
pub struct NewClaim {
    /// The line; empty: the source as a whole.
    pub line: String,
    /// `subscription`, `trial`, `pack`, `proration`.
    pub what: &'static str,
    /// Units; none are zero.
    pub units: Decimal,
    /// What the grant comes from.
    pub source: grants::Source,
    /// Lower is burned first; none: that of its source.
    pub priority: Option<i16>,
    /// When it may be used, where that is not at once.
    pub effective_at: Option<DateTime<Utc>>,
    /// When it lapses.
    pub expires: Expiry,
    /// Plan and version.
    pub plan: Option<(String, i32)>,
    /// Pack.
    pub pack: Option<String>,
    /// Subscription.
    pub subscription: Option<String>,
    /// Price.
    pub price: Option<String>,
    /// How many.
    pub quantity: i64,
    /// The time that is paid for.
    pub period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// When a grant lapses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Never.
    Never,
    /// Then.
    At(DateTime<Utc>),
    /// So many days after it is made.
    Days(i32),
}

/// Units of unused time, to be taken back from a grant.
#[derive(Clone, Debug)]
pub struct Take {
    /// The line.
    pub line: String,
    /// The grant that holds them now; none: they come to nothing.
    pub holder: Option<i64>,
    /// The grant they were counted at before.
    pub before: Option<i64>,
    /// Whether the line was counted before.
    pub known: bool,
    /// Units, above zero.
    pub units: Decimal,
    /// Plan and version.
    pub plan: Option<(String, i32)>,
    /// Subscription.
    pub subscription: Option<String>,
    /// Price.
    pub price: Option<String>,
    /// How many.
    pub quantity: i64,
    /// The unused time.
    pub period: Option<(DateTime<Utc>, DateTime<Utc>)>,
}

/// Why something cannot happen yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The customer belongs to no org.
    NoOrg,
    /// No plan is bought by the price.
    UnknownPrice,
    /// The session names no pack.
    UnknownPack,
    /// The subscription is not mirrored yet, and it matters.
    UnknownSubscription,
    /// The whole period of a proration is not known yet.
    UnknownPeriod,
    /// The grant that unused time is taken from is not there yet.
    NoGrant,
    /// Stripe's event had some of the invoice's lines only.
    IncompleteLines,
}

impl Reason {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::NoOrg => "no_org",
            Self::UnknownPrice => "unknown_price",
            Self::UnknownPack => "unknown_pack",
            Self::UnknownSubscription => "unknown_subscription",
            Self::UnknownPeriod => "unknown_period",
            Self::NoGrant => "no_grant",
            Self::IncompleteLines => "incomplete_lines",
        }
    }

    /// Whether it is done without what is missing in the end.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self, Self::UnknownSubscription | Self::UnknownPeriod | Self::NoGrant)
    }
}

/// Something that cannot happen yet.
#[derive(Clone, Debug)]
pub struct Wait {
    /// The line; empty: the source as a whole.
    pub line: String,
    /// Why.
    pub reason: Reason,
    /// Why, as a sentence.
    pub detail: String,
    /// What would let it happen.
    pub price: Option<String>,
    /// What would let it happen.
    pub product: Option<String>,
    /// What would let it happen.
    pub subscription: Option<String>,
}

/// Whether anything could come of the source: what else is known of it does not matter otherwise.
#[must_use]
pub fn matters(facts: &Facts) -> bool {
    let paid = facts.invoice.as_ref().is_some_and(|invoice| invoice.status.as_deref() == Some("paid"));
    let session =
        facts.session.as_ref().is_some_and(|session| session.payment_status.as_deref() == Some("paid"));
    let intent = facts
        .intent
        .as_ref()
        .is_some_and(|intent| intent.status.as_deref() == Some("succeeded") && opted_in(&intent.named));
    paid || session || intent || !facts.claims.is_empty()
}

/// The org that a source belongs to: for ever that of its first effect; else as assigned, else as linked.
#[must_use]
pub fn org_of(facts: &Facts) -> Option<i64> {
    let claimed = facts.claims.first().map(|claim| claim.org_id);
    let assigned = || facts.waiting.iter().find_map(|waiting| waiting.org);
    claimed.or_else(assigned).or(facts.org_id)
}

/// What was paid for a source, in minor units, and in what.
#[must_use]
pub fn paid(facts: &Facts) -> (i64, Option<String>) {
    if let Some(invoice) = &facts.invoice {
        return (invoice.amount_paid.unwrap_or(0), invoice.currency.clone());
    }
    let (session, intent) = (facts.session.as_ref(), facts.intent.as_ref());
    let amount =
        session.and_then(|session| session.amount_total).or(intent.and_then(|intent| intent.amount_received));
    let currency = session
        .and_then(|session| session.currency.clone())
        .or(intent.and_then(|intent| intent.currency.clone()));
    (amount.unwrap_or(0), currency)
}

/// What the source comes to.
///
/// # Errors
/// When units have no place in a decimal.
pub fn outcome(
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

struct Judge<'a> {
    facts: &'a Facts,
    proration: Proration,
    now: DateTime<Utc>,
    outcome: Outcome,
}

/// A line by its id, which the oldest shapes may leave out or use twice.
#[must_use]
pub fn line_keys(lines: &[Line]) -> Vec<String> {
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
    fn is_overdue(&self, line: &str) -> bool {
        self.waiting(line).is_some_and(|waiting| self.now - waiting.since >= GRACE)
    }

    fn wait(&mut self, key: &str, line: Option<&Line>, reason: Reason, detail: String) {
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
    fn version(&mut self, key: &str, line: &Line) -> Option<(String, Version)> {
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

    /// A part of a period, as the plan or the quantity changed within it.
    fn prorated(&mut self, key: &str, line: &Line) -> Result<(), Error> {
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
    fn take_again(&mut self, key: &str, line: &Line, before: Option<i64>, units: Decimal) {
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

fn of_plan(
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
    fn of(&self, length: TimeDelta) -> Decimal {
        self.annual.filter(|_| length > YEAR_FROM).unwrap_or(self.units)
    }
}

fn opted_in(named: &Named) -> bool {
    ["battery_pack", "battery_units"].iter().any(|key| named.metadata.get(*key).is_some())
}

fn is_paid_for(session: &Session) -> bool {
    session.mode.as_deref() == Some("payment") && session.payment_status.as_deref() == Some("paid")
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

fn times(units: Decimal, quantity: i64) -> Result<Decimal, Error> {
    units.checked_mul(Decimal::from(quantity)).map(round_units).ok_or_else(too_large)
}

fn share(units: Decimal, part: i64, whole: i64) -> Result<Decimal, Error> {
    let product =
        units.checked_mul(Decimal::from(part)).and_then(|units| units.checked_div(Decimal::from(whole)));
    product.map(round_units).ok_or_else(too_large)
}

fn too_large() -> Error {
    Error::Internal("battery units are too large to be reckoned with".to_owned())
}

/// What took money back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum CauseKind {
    /// A refund.
    Refund,
    /// A dispute.
    Dispute,
    /// A credit note.
    CreditNote,
    /// Unused time of a plan.
    Proration,
}

impl CauseKind {
    /// Its name in the database; that of the Stripe object.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Refund => "refund",
            Self::Dispute => "dispute",
            Self::CreditNote => "credit_note",
            Self::Proration => "proration",
        }
    }

    /// The kind of that name.
    ///
    /// # Errors
    /// When there is none.
    pub fn parse(name: &str) -> Result<Self, Error> {
        [Self::Refund, Self::Dispute, Self::CreditNote, Self::Proration]
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or_else(|| Error::Internal(format!("no cause is called {name}")))
    }
}

/// Money returned by one object, in minor units.
#[derive(Clone, Debug, PartialEq)]
pub struct Cause {
    /// What it is.
    pub kind: CauseKind,
    /// Stripe's id.
    pub id: String,
    /// When it was made.
    pub created: Option<DateTime<Utc>>,
    /// How much counts.
    pub minor: i64,
}

/// A refund, dispute or credit note as the mirror has it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Returned {
    pub cause: String,
    pub id: String,
    pub created: Option<DateTime<Utc>>,
    pub amount: Option<i64>,
    pub status: Option<String>,
    pub currency: Option<String>,
    pub funds_withdrawn: Option<i64>,
    pub funds_currency: Option<String>,
    #[serde(rename = "type")]
    pub type_: Option<String>,
    pub out_of_band: Option<i64>,
    pub refunds: i64,
}

impl Returned {
    /// How much of it counts.
    #[must_use]
    pub fn cause(&self) -> Cause {
        let (kind, minor) = match self.cause.as_str() {
            "dispute" => (CauseKind::Dispute, self.disputed()),
            "credit_note" => (CauseKind::CreditNote, self.credited()),
            _ => (CauseKind::Refund, self.refunded()),
        };
        Cause { kind, id: self.id.clone(), created: self.created, minor: minor.max(0) }
    }

    fn refunded(&self) -> i64 {
        match self.status.as_deref() {
            Some("failed" | "canceled") => 0,
            _ => self.amount.unwrap_or(0),
        }
    }

    /// Inquiries move nothing; what was withdrawn and not reinstated counts.
    fn disputed(&self) -> i64 {
        let amount = self.amount.unwrap_or(0);
        match self.status.as_deref() {
            Some("won" | "prevented") => 0,
            Some("lost") => amount,
            Some(status) if status.starts_with("warning_") => 0,
            _ => match self.funds_withdrawn {
                Some(withdrawn) if withdrawn > 0 && self.funds_currency == self.currency => {
                    amount.min(withdrawn)
                }
                Some(withdrawn) if withdrawn > 0 => amount,
                _ => 0,
            },
        }
    }

    /// Beside its refunds only what was returned outside Stripe counts. One from before the payment lowered what was paid.
    fn credited(&self) -> i64 {
        match (self.status.as_deref(), self.type_.as_deref()) {
            (Some("void"), _) | (_, Some("pre_payment")) => 0,
            (_, Some("post_payment")) if self.refunds == 0 => self.amount.unwrap_or(0),
            _ => self.out_of_band.unwrap_or(0),
        }
    }
}

/// What is counted against one grant.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Units granted.
    pub amount: Decimal,
    /// What was paid for the source, in minor units.
    pub paid: i64,
    /// By cause: money returned, and units of unused time.
    pub causes: BTreeMap<(CauseKind, String), (i64, Decimal)>,
}

impl Counted {
    /// Units that are taken back: the same in whatever order the causes came.
    ///
    /// # Errors
    /// When they have no place in a decimal.
    pub fn taken(&self) -> Result<Decimal, Error> {
        let (mut minor, mut units) = (Decimal::ZERO, Decimal::ZERO);
        for (money, time) in self.causes.values() {
            minor += Decimal::from(*money);
            units += time;
        }
        let of_money = if self.paid <= 0 || minor.is_zero() {
            Decimal::ZERO
        } else if minor >= Decimal::from(self.paid) {
            self.amount
        } else {
            let product =
                self.amount.checked_mul(minor).and_then(|units| units.checked_div(Decimal::from(self.paid)));
            round_units(product.ok_or_else(too_large)?)
        };
        Ok(self.amount.min(of_money + units))
    }

    /// Counts a cause with what it is now; gives what more is taken back (below zero: given again), or none when it was counted so.
    ///
    /// # Errors
    /// As [`Counted::taken`].
    pub fn count(
        &mut self,
        kind: CauseKind,
        id: &str,
        minor: i64,
        units: Decimal,
    ) -> Result<Option<Decimal>, Error> {
        let key = (kind, id.to_owned());
        let before = self.causes.get(&key).copied().unwrap_or_default();
        if before == (minor, units) {
            return Ok(None);
        }
        let taken = self.taken()?;
        self.causes.insert(key, (minor, units));
        Ok(Some(self.taken()? - taken))
    }
}
