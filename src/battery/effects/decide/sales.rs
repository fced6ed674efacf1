//! What a line of an invoice is: a sale, a part of a sale, or usage. Pure.
//!
//! A period is sold once for each subscription item, by the item whose price buys the plan. The facts that
//! decide: sign and discount of the line, its item and period, whether its price is licensed or metered,
//! whether the price or the product buys the plan. Sources:
//! <https://docs.stripe.com/subscriptions/pricing-models/usage-based-pricing> (a flat and a metered price in
//! one product), <https://docs.stripe.com/products-prices/pricing-models#tiered-pricing> (a line for each
//! tier).

use crate::battery::effects::model::facts::{Facts, Line};

/// A licensed price counts what is bought, a metered price counts what was used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum UsageType {
    Licensed,
    Metered,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LineRole {
    /// A sale, with the quantity and amount of all of its lines.
    Sale { quantity: i64, amount: i64 },
    /// A further line of a sale; the first line stands for all.
    RestOfSale,
    /// It bills what was used.
    Usage,
    /// It gives money back.
    MoneyBack,
}

impl LineRole {
    /// Of a sale whose amount is not known, assume that it costs something.
    fn from_amount(quantity: i64, amount: Option<i64>, is_given_by_discount: bool) -> Self {
        match amount {
            Some(amount) if amount < 0 => Self::MoneyBack,
            Some(0) if is_given_by_discount => Self::Sale { quantity: quantity.max(0), amount: 1 },
            amount => Self::Sale { quantity: quantity.max(0), amount: amount.unwrap_or(1) },
        }
    }
}

impl Line {
    /// As the line says, else its price, else its item: the answer is the same in whatever order they come.
    fn usage_type(&self) -> Option<UsageType> {
        match self.usage_type.as_deref().or(self.price_usage.as_deref()).or(self.item_usage.as_deref())? {
            "metered" => Some(UsageType::Metered),
            _ => Some(UsageType::Licensed),
        }
    }

    pub(super) fn is_metered(&self) -> bool {
        self.usage_type() == Some(UsageType::Metered)
    }

    /// Whether Stripe bills it with every period, and not once.
    pub(super) fn is_recurring(&self) -> bool {
        self.subscription.is_some()
            && (self.proration == Some(true) || self.kind.as_deref() != Some("invoiceitem"))
    }

    /// Whether a discount makes its amount zero. Stripe's amounts are those before discounts, but not in
    /// every shape.
    fn is_given_by_discount(&self) -> bool {
        self.amount == Some(0) && self.discount.is_some_and(|discount| discount > 0)
    }

    /// Whether both lines bill the same item for the same period, as the lines of tiers do.
    pub(super) fn is_same_sale(&self, other: &Self) -> bool {
        let item = |line: &Self| line.item.clone().or_else(|| line.price.clone());
        self.subscription == other.subscription
            && item(self) == item(other)
            && self.price == other.price
            && (self.start, self.end) == (other.start, other.end)
            && self.proration == other.proration
            && self.kind == other.kind
    }

    fn is_same_plan(&self, other: &Self) -> bool {
        let plan = |line: &Self| line.plan.as_ref().map(|plan| plan.id.clone());
        self.subscription == other.subscription && plan(self) == plan(other)
    }
}

/// Whether a line of a plan bills usage.
///
/// - A metered price buys the plan only if the plan names this price, and no licensed item of the
///   subscription buys the plan, and no other plan is bought for the time to come: the invoice after an
///   upgrade bills the overage of the plan before.
/// - While the price is unknown: the line bills usage if its time is over, and another line buys the plan for
///   the time to come.
pub(super) fn is_usage(facts: &Facts, line: &Line) -> bool {
    let is_beside = |fits: &dyn Fn(&Line) -> bool| {
        let others = facts.lines.iter().filter(|other| !std::ptr::eq(*other, line));
        others.filter(|other| other.is_same_plan(line)).any(fits)
    };
    let is_licensed = |other: &Line| !other.is_metered();
    let begins_after = |other: &Line| other.start.zip(line.end).is_some_and(|(start, end)| start >= end);
    let is_of_plan_before = || {
        facts.lines.iter().any(|other| {
            other.subscription == line.subscription
                && other.plan.is_some()
                && other.proration != Some(true)
                && is_licensed(other)
                && begins_after(other)
        })
    };
    let Some(plan) = line.plan.as_ref() else { return line.is_metered() };
    match line.usage_type() {
        Some(UsageType::Metered) => {
            !plan.by_price || plan.licensed_beside || is_beside(&is_licensed) || is_of_plan_before()
        }
        Some(UsageType::Licensed) => false,
        None => line.proration != Some(true) && is_beside(&begins_after),
    }
}

/// Whether this line buys the plan by its product only, and another line of the same subscription and period
/// buys it by its price.
fn is_beside_the_price(facts: &Facts, line: &Line) -> bool {
    let by_price = |line: &Line| line.plan.as_ref().is_some_and(|plan| plan.by_price);
    line.plan.is_some()
        && !by_price(line)
        && facts.lines.iter().any(|other| {
            other.is_same_plan(line)
                && by_price(other)
                && (other.start, other.end) == (line.start, line.end)
                && !is_usage(facts, other)
        })
}

/// The role of the line at this place. Several lines of one item and period, as tiers make them, are one
/// sale. Only licensed prices have a quantity.
pub(super) fn role(facts: &Facts, place: usize) -> LineRole {
    let line = &facts.lines[place];
    if is_usage(facts, line) || is_beside_the_price(facts, line) {
        return LineRole::Usage;
    }
    if !line.is_recurring() {
        return LineRole::from_amount(line.quantity_or_one(), line.amount, line.is_given_by_discount());
    }
    let is_in_sale = |(_, other): &(usize, &Line)| other.is_same_sale(line);
    let mut sale = facts.lines.iter().enumerate().filter(is_in_sale).peekable();
    if sale.peek().is_some_and(|(first, _)| *first != place) {
        return LineRole::RestOfSale;
    }
    let sale: Vec<&Line> = sale.map(|(_, line)| line).collect();
    // A line without an amount makes the sum of it and the lines before it unknown.
    let amount = sale
        .iter()
        .map(|line| line.amount)
        .fold(None, |sum: Option<i64>, amount| Some(sum.unwrap_or(0).saturating_add(amount?)));
    let charged = sale.iter().filter(|line| line.amount.is_none_or(|amount| amount >= 0));
    let quantity = charged.map(|line| line.quantity_or_one()).fold(0, i64::saturating_add);
    LineRole::from_amount(
        if line.is_metered() { 1 } else { quantity },
        amount,
        sale.iter().any(|line| line.is_given_by_discount()),
    )
}
