//! What a line of an invoice sells: which of them are sales, which are parts of one, which are usage. Pure.
//!
//! A period is sold once for each subscription item, by the item whose price buys the plan. The facts: sign
//! and discount of the line, its item and period, whether its price is licensed or metered, whether the plan
//! is bought by the price or by the product. Sources:
//! <https://docs.stripe.com/subscriptions/pricing-models/usage-based-pricing> (a flat and a metered price in
//! one product), <https://docs.stripe.com/products-prices/pricing-models#tiered-pricing> (a line for each
//! tier).

use super::facts::{Facts, Line};

/// Whether a price counts what is bought or what was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Usage {
    Licensed,
    Metered,
}

/// What a line is to the sale that it belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// The sale, with the quantity and amount of all of its lines.
    Sale { quantity: i64, amount: i64 },
    /// Another line of a sale that an earlier line stands for.
    Rest,
    /// It bills what was used.
    Usage,
    /// It gives money back, or nothing was asked for it.
    Nothing,
}

impl Line {
    /// What its price says, or that of its item: known in whatever order they come.
    fn usage(&self) -> Option<Usage> {
        match self.usage_type.as_deref().or(self.price_usage.as_deref()).or(self.item_usage.as_deref())? {
            "metered" => Some(Usage::Metered),
            _ => Some(Usage::Licensed),
        }
    }

    pub(super) fn is_metered(&self) -> bool {
        self.usage() == Some(Usage::Metered)
    }

    /// An item that Stripe bills with every period, and not once.
    pub(super) fn is_recurring(&self) -> bool {
        self.subscription.is_some()
            && (self.proration == Some(true) || self.kind.as_deref() != Some("invoiceitem"))
    }

    /// It asks for nothing, but for a discount: Stripe's amounts are those before discounts, those of some
    /// shapes are not.
    fn is_given_by_discount(&self) -> bool {
        self.amount == Some(0) && self.discount.is_some_and(|discount| discount > 0)
    }

    pub(super) fn same_item(&self, other: &Self) -> bool {
        let item = |line: &Self| line.item.clone().or_else(|| line.price.clone());
        self.subscription == other.subscription
            && item(self) == item(other)
            && self.price == other.price
            && (self.start, self.end) == (other.start, other.end)
            && self.proration == other.proration
            && self.kind == other.kind
    }

    /// Both are of one subscription and buy one plan.
    fn same_plan(&self, other: &Self) -> bool {
        let plan = |line: &Self| line.plan.as_ref().map(|plan| plan.id.clone());
        self.subscription == other.subscription && plan(self) == plan(other)
    }
}

/// Whether a line of a plan bills what was used. A metered price buys the plan only where it is named by
/// itself and nothing licensed of the subscription does, nor any other plan for the time to come: the invoice
/// after an upgrade bills the overage of the plan before. Where no one has told of the price: what is billed
/// for a time that is over, beside what buys the plan for the time to come.
pub(super) fn is_usage(facts: &Facts, line: &Line) -> bool {
    let beside = |fits: &dyn Fn(&Line) -> bool| {
        facts.lines.iter().any(|other| !std::ptr::eq(other, line) && other.same_plan(line) && fits(other))
    };
    let licensed = |other: &Line| !other.is_metered();
    let is_over = |other: &Line| other.start.zip(line.end).is_some_and(|(start, end)| start >= end);
    let of_the_plan_before = || {
        facts.lines.iter().any(|other| {
            other.subscription == line.subscription
                && other.plan.is_some()
                && other.proration != Some(true)
                && licensed(other)
                && is_over(other)
        })
    };
    let Some(plan) = line.plan.as_ref() else { return line.is_metered() };
    match line.usage() {
        Some(Usage::Metered) => {
            !plan.by_price || plan.licensed_beside || beside(&licensed) || of_the_plan_before()
        }
        Some(Usage::Licensed) => false,
        None => line.proration != Some(true) && beside(&is_over),
    }
}

/// Whether another line of the same subscription and plan buys it by its price, this one only by its product.
fn is_beside_the_price(facts: &Facts, line: &Line) -> bool {
    let by_price = |line: &Line| line.plan.as_ref().is_some_and(|plan| plan.by_price);
    line.plan.is_some()
        && !by_price(line)
        && facts.lines.iter().any(|other| {
            other.same_plan(line)
                && by_price(other)
                && (other.start, other.end) == (line.start, line.end)
                && !is_usage(facts, other)
        })
}

/// What the line of this place is. Several lines of one item and period, as tiers make them, are one sale:
/// the first of them stands for all. Only licensed prices have a quantity.
pub(super) fn part(facts: &Facts, place: usize) -> Part {
    let line = &facts.lines[place];
    if is_usage(facts, line) || is_beside_the_price(facts, line) {
        return Part::Usage;
    }
    if !line.is_recurring() {
        return of(line.quantity.unwrap_or(1), line.amount, line.is_given_by_discount());
    }
    let mut group = facts.lines.iter().enumerate().filter(|(_, other)| other.same_item(line)).peekable();
    if group.peek().is_some_and(|(first, _)| *first != place) {
        return Part::Rest;
    }
    let group: Vec<&Line> = group.map(|(_, line)| line).collect();
    let amount = group
        .iter()
        .map(|line| line.amount)
        .fold(None, |sum: Option<i64>, amount| Some(sum.unwrap_or(0).saturating_add(amount?)).or(sum));
    let asked = group.iter().filter(|line| line.amount.is_none_or(|amount| amount >= 0));
    let quantity = asked.map(|line| line.quantity.unwrap_or(1)).fold(0, i64::saturating_add);
    of(
        if line.is_metered() { 1 } else { quantity },
        amount,
        group.iter().any(|line| line.is_given_by_discount()),
    )
}

fn of(quantity: i64, amount: Option<i64>, given_by_discount: bool) -> Part {
    match amount {
        Some(amount) if amount < 0 => Part::Nothing,
        Some(0) if given_by_discount => Part::Sale { quantity: quantity.max(0), amount: 1 },
        amount => Part::Sale { quantity: quantity.max(0), amount: amount.unwrap_or(1) },
    }
}
