//! Rating: what a quantity costs, in memory, from a rate card. The one place where costs are rounded.

use rust_decimal::{Decimal, RoundingStrategy};

use super::rates::{Rate, RateCard, TierMode, Tiers};

/// Decimal places of a record's cost and battery units. Half goes to the even neighbour.
pub const PLACES: u32 = 9;

/// The index of the card's rate for usage with these dimensions; `None`: it has no price.
#[must_use]
pub fn rate_for(card: &RateCard, dimensions: &[(String, String)]) -> Option<usize> {
    card.rates.iter().position(|rate| {
        rate.when.iter().all(|(name, value)| dimensions.iter().any(|(n, v)| n == name && v == value))
    })
}

/// What `quantity` more costs, rounded, when the month's quantity was `before`; `before` matters to tiers only.
/// `None` when the number has no place in a decimal.
#[must_use]
pub fn cost(rate: &Rate, before: Decimal, quantity: Decimal) -> Option<Decimal> {
    match &rate.tiers {
        None => round(rate.unit_cost.checked_mul(quantity)?),
        // Differences of rounded totals add up to the rounded total, whatever the steps were.
        Some(tiers) => total(tiers, before.checked_add(quantity)?)?.checked_sub(total(tiers, before)?),
    }
}

/// Battery units of `quantity`, rounded.
#[must_use]
pub fn battery_units(rate: &Rate, quantity: Decimal) -> Option<Decimal> {
    round(rate.battery_units.checked_mul(quantity)?)
}

/// To [`PLACES`]; the one rounding of costs.
pub(super) fn round(amount: Decimal) -> Option<Decimal> {
    Some(amount.round_dp_with_strategy(PLACES, RoundingStrategy::MidpointNearestEven))
}

/// What a month's `quantity` costs in all.
fn total(tiers: &Tiers, quantity: Decimal) -> Option<Decimal> {
    if quantity <= Decimal::ZERO {
        return Some(Decimal::ZERO);
    }
    match tiers.mode {
        TierMode::Graduated => {
            let (mut cost, mut from) = (Decimal::ZERO, Decimal::ZERO);
            for tier in &tiers.tiers {
                let end = tier.up_to.map_or(quantity, |end| end.min(quantity));
                cost =
                    cost.checked_add(tier.unit_cost.checked_mul(end - from)?)?.checked_add(tier.flat_cost)?;
                from = end;
                if from >= quantity {
                    break;
                }
            }
            round(cost)
        }
        TierMode::Volume => {
            let reached = tiers.tiers.iter().find(|tier| tier.up_to.is_none_or(|end| quantity <= end))?;
            round(reached.unit_cost.checked_mul(quantity)?.checked_add(reached.flat_cost)?)
        }
        TierMode::Package => {
            let tier = tiers.tiers.first()?;
            let packages = quantity.checked_div(tier.package_size?)?.ceil();
            round(tier.unit_cost.checked_mul(packages)?.checked_add(tier.flat_cost)?)
        }
    }
}
