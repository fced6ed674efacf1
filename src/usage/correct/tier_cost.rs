//! What a correction gives back and charges for usage with tiers: by the card that priced the event, in the
//! event's period.
//!
//! A card has charged for a period what its tiers cost from the quantity at which it began in the period to
//! the quantity at which it ended. A void gives back this charge less what the tiers cost without the event.
//! When one card priced the period, this is the difference that the event makes to the period, in whatever
//! order usage arrived; and when all usage is taken back, everything is given back, to the last decimal
//! place. An amendment is priced at the event's position. In a closed month the difference is posted to the
//! open one, as in a document that corrects an invoice (FOCUS, "Correction Handling", closed billing periods:
//! <https://github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec/pull/1434>).

use diesel::pg::PgConnection;

use crate::error::Error;
use crate::metering::periods::Period;
use crate::metering::posting::{self, PricedUsage, Tiers};
use crate::metering::rates::play;
use crate::metering::rating;
use crate::metering::usage::{Metered, Usage};
use crate::quantity::Sum;

/// What a card has charged for a period by one of its rates.
#[derive(Clone, Copy)]
struct Charge {
    /// Quantity that other cards priced before: here its own usage begins.
    earlier: Sum,
    /// Quantity that it priced.
    own: Sum,
    /// Quantity that other cards priced after it.
    later: Sum,
    /// What it charged for `own`.
    cost: Sum,
}

/// The position in its tiers of an event that was taken back, for the event that replaces it.
#[derive(Clone, Copy)]
pub(super) struct TierPosition {
    meter_id: i32,
    rate_card_id: i32,
    rate: usize,
    /// Quantity of the period before it.
    from: Sum,
}

/// Prices the reversal of an event, whose quantities are negative. Its tiers are raised already. Returns the
/// event's positions.
///
/// # Errors
/// [`Error::Conflict`] when an amount is too large.
pub(super) fn price_reversal(
    conn: &mut PgConnection,
    tiers: &mut Tiers,
    reversal: &mut Usage,
) -> Result<Vec<TierPosition>, Error> {
    let mut positions = Vec::new();
    for n in 0..reversal.metered.len() {
        let metered = &reversal.metered[n];
        let Some((card, rate)) = metered.card.zip(metered.rate()).filter(|_| metered.tiered) else {
            continue;
        };
        let Some(period) = posting::tier_period(reversal, metered, card) else { continue };
        let cost = if posting::is_only_card(metered, card, period) {
            rating::cost(rate, tiers.quantity_before(reversal, metered), metered.quantity)
        } else {
            let charge = charge(conn, reversal.org.org_id, metered, period)?;
            let after = charge.earlier + charge.own + metered.quantity;
            let expected = rating::between(rate, charge.earlier, charge.earlier + charge.own);
            if expected == Some(charge.cost) {
                positions.extend(position(metered, after));
            }
            rating::between(rate, charge.earlier, after).map(|without| without - charge.cost)
        };
        reversal.metered[n].cost = cost.filter(|cost| cost.is_bounded()).ok_or_else(super::too_large)?;
    }
    tiers.count(reversal);
    Ok(positions)
}

fn position(metered: &Metered, from: Sum) -> Option<TierPosition> {
    let (card, rate) = metered.series.rates.get(metered.card?)?;
    Some(TierPosition { meter_id: card.meter_id, rate_card_id: card.rate_card_id, rate: (*rate)?, from })
}

/// Prices an event that replaces another. Its tiers are raised already. Without a position of its own it is
/// priced after all usage of the period. When its card has no counter any more, because another card replaced
/// it as a whole, the records say how much that is.
///
/// # Errors
/// [`Error::Conflict`] when an amount is too large.
pub(super) fn price_replacement(
    conn: &mut PgConnection,
    tiers: &mut Tiers,
    new: &mut Usage,
    positions: &[TierPosition],
) -> Result<(), Error> {
    for n in 0..new.metered.len() {
        let metered = &new.metered[n];
        let Some((card, rate)) = metered.card.zip(metered.rate()).filter(|_| metered.tiered) else {
            continue;
        };
        let Some(period) = posting::tier_period(new, metered, card) else { continue };
        let replaced = position(metered, Sum::ZERO).and_then(|own| {
            let is_same = |other: &&TierPosition| {
                (other.meter_id, other.rate_card_id, other.rate) == (own.meter_id, own.rate_card_id, own.rate)
            };
            positions.iter().find(is_same)
        });
        let from = match replaced {
            Some(position) => position.from,
            None if is_in_play(new, metered) => tiers.quantity_before(new, metered),
            None => {
                let charge = charge(conn, new.org.org_id, metered, period)?;
                charge.earlier + charge.own + charge.later
            }
        };
        let cost = rating::cost(rate, from, metered.quantity);
        new.metered[n].cost = cost.ok_or_else(super::too_large)?;
    }
    tiers.count(new);
    Ok(())
}

/// Whether the card that prices the usage has a counter in its period.
fn is_in_play(usage: &Usage, metered: &Metered) -> bool {
    let cards = metered.series.rates.iter().map(|(card, _)| &**card);
    play::in_play(cards, |card| card.period_of(usage.own_day, usage.billing_period))
        .any(|(card, _)| Some(card) == metered.card)
}

/// What the card of `metered` has charged for the period, from the records.
fn charge(conn: &mut PgConnection, org_id: i64, metered: &Metered, period: Period) -> Result<Charge, Error> {
    let mut charge = Charge { earlier: Sum::ZERO, own: Sum::ZERO, later: Sum::ZERO, cost: Sum::ZERO };
    let rates = &metered.series.rates;
    let Some((card, rate)) = metered.card.and_then(|card| rates.get(card)) else { return Ok(charge) };
    let (label, began) = period.to_row();
    let period = (org_id, card.meter_id, label, began);
    let fits = |priced: &PricedUsage| rating::rate_for(card, &priced.dimensions()) == *rate;
    let is_own = |priced: &PricedUsage| priced.rate_card_id == card.rate_card_id;
    let all = posting::read_priced(conn, &[period], None)?;
    let first_at =
        all.iter().filter(|priced| fits(priced) && is_own(priced)).map(|priced| priced.first_at).min();
    for priced in posting::read_priced(conn, &[period], first_at)?.iter().filter(|priced| fits(priced)) {
        let index = rates.iter().position(|(card, _)| card.rate_card_id == priced.rate_card_id);
        let Some(index) = index else { continue };
        let other = &rates[index].0;
        // Of one owner and currency the latest card comes first. Other cards alternate as the org's plan and
        // prices change: usage that occurred before the first usage of this card counts as earlier.
        let earlier = match (other.is_of_same_list(card), Some(index) > metered.card) {
            (true, true) => priced.quantity,
            (true, false) => Sum::ZERO,
            (false, _) => priced.quantity_before,
        };
        if Some(index) == metered.card {
            charge.own += priced.quantity;
            charge.cost += priced.cost;
        } else {
            charge.earlier += earlier;
            charge.later += priced.quantity - earlier;
        }
    }
    Ok(charge)
}
