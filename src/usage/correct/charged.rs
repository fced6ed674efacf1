//! What a correction of tiered usage gives back and charges: rated in the period of what it corrects, by
//! the card that priced it.
//!
//! The charge of a card for a period is what its tiers cost from where it began in the period to where it
//! ended. A void gives back what was charged by that card, less what its tiers cost without the event: where
//! one card priced the month this is the difference that the event makes to the month, in whatever order
//! usage came; and when all of it is taken back, all that was charged is given back, to the last place. An
//! amendment is priced where the event stood. In a closed month the difference is posted to the open one, as
//! a document that corrects an invoice would have it (FOCUS, "Correction Handling", closed billing periods:
//! <https://github.com/FinOps-Open-Cost-and-Usage-Spec/FOCUS_Spec/pull/1434>).

use diesel::pg::PgConnection;

use crate::error::Error;
use crate::metering::periods::Period;
use crate::metering::posting::{self, Priced, Tiers};
use crate::metering::rates::play;
use crate::metering::rating;
use crate::metering::resolve::{Metered, Usage};
use crate::quantity::Sum;

/// What a card has charged for a period, on one of its rates.
#[derive(Clone, Copy)]
struct Charge {
    /// What cards before it priced in the period: where its own usage begins.
    earlier: Sum,
    own: Sum,
    /// What cards after it priced.
    later: Sum,
    /// What it charged for that.
    cost: Sum,
}

/// Where an event that was taken back had stood, for one that takes its place.
#[derive(Clone, Copy)]
pub(super) struct Place {
    meter_id: i32,
    rate_card_id: i32,
    rate: usize,
    from: Sum,
}

/// Prices what takes an event back; its quantities are negative. Its tiers are raised. Tells where it had
/// stood.
///
/// # Errors
/// When an amount is too large, or the database fails.
pub(super) fn give_back(
    conn: &mut PgConnection,
    tiers: &mut Tiers,
    taken: &mut Usage,
) -> Result<Vec<Place>, Error> {
    let mut places = Vec::new();
    for n in 0..taken.metered.len() {
        let metered = &taken.metered[n];
        let Some((card, rate)) = metered.card.zip(metered.rate()).filter(|_| metered.tiered) else {
            continue;
        };
        let Some(period) = posting::period_at(taken, metered, card) else { continue };
        let cost = if posting::is_alone(metered, card, period) {
            rating::cost(rate, tiers.standing(taken, metered), metered.quantity)
        } else {
            let charge = charge(conn, taken.org.org_id, metered, period)?;
            let after = charge.earlier + charge.own + metered.quantity;
            let stood = rating::between(rate, charge.earlier, charge.earlier + charge.own);
            if stood == Some(charge.cost) {
                places.extend(place(metered, after));
            }
            rating::between(rate, charge.earlier, after).map(|left| left - charge.cost)
        };
        taken.metered[n].cost = cost.filter(|cost| cost.is_bounded()).ok_or_else(super::too_large)?;
    }
    tiers.count(taken);
    Ok(places)
}

fn place(metered: &Metered, from: Sum) -> Option<Place> {
    let (card, rate) = metered.series.rates.get(metered.card?)?;
    Some(Place { meter_id: card.meter_id, rate_card_id: card.rate_card_id, rate: (*rate)?, from })
}

/// Prices what takes the place of an event that was taken back. Its tiers are raised. Where it has no place
/// of its own it goes on where the month stands: the records say where that is, as a card that another has
/// replaced as a whole has no counter any more.
///
/// # Errors
/// When an amount is too large, or the database fails.
pub(super) fn charge_again(
    conn: &mut PgConnection,
    tiers: &mut Tiers,
    new: &mut Usage,
    places: &[Place],
) -> Result<(), Error> {
    for n in 0..new.metered.len() {
        let metered = &new.metered[n];
        let Some((card, rate)) = metered.card.zip(metered.rate()).filter(|_| metered.tiered) else {
            continue;
        };
        let Some(period) = posting::period_at(new, metered, card) else { continue };
        let own = place(metered, Sum::ZERO).and_then(|own| {
            let is_own = |place: &&Place| {
                (place.meter_id, place.rate_card_id, place.rate) == (own.meter_id, own.rate_card_id, own.rate)
            };
            places.iter().find(is_own)
        });
        let from = match own {
            Some(place) => place.from,
            None if is_in_play(new, metered) => tiers.standing(new, metered),
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

/// Whether the card that prices it has a counter in its period.
fn is_in_play(usage: &Usage, metered: &Metered) -> bool {
    let cards = metered.series.rates.iter().map(|(card, _)| &**card);
    play::in_play(cards, |card| card.period_of(usage.own_day, usage.billing_period))
        .any(|(place, _)| Some(place) == metered.card)
}

/// What the card of `metered` has charged for the period, by the records.
fn charge(conn: &mut PgConnection, org_id: i64, metered: &Metered, period: Period) -> Result<Charge, Error> {
    let mut charge = Charge { earlier: Sum::ZERO, own: Sum::ZERO, later: Sum::ZERO, cost: Sum::ZERO };
    let rates = &metered.series.rates;
    let Some((card, rate)) = metered.card.and_then(|place| rates.get(place)) else { return Ok(charge) };
    let (label, began) = period.stored();
    let period = (org_id, card.meter_id, label, began);
    let fits = |priced: &Priced| rating::rate_for(card, &priced.dimensions()) == *rate;
    let own = |priced: &Priced| priced.rate_card_id == card.rate_card_id;
    let all = posting::of_periods(conn, &[period], None)?;
    let first_at =
        all.iter().filter(|priced| fits(priced) && own(priced)).map(|priced| priced.first_at).min();
    for priced in posting::of_periods(conn, &[period], first_at)?.iter().filter(|priced| fits(priced)) {
        let place = rates.iter().position(|(card, _)| card.rate_card_id == priced.rate_card_id);
        let Some(place) = place else { continue };
        let other = &rates[place].0;
        // Of one owner the latest card comes first. Cards of several owners take turns as the org's plan and
        // prices change: what occurred before the first usage of this one stands before it.
        let earlier = match (other.owner() == card.owner(), Some(place) > metered.card) {
            (true, true) => priced.quantity,
            (true, false) => Sum::ZERO,
            (false, _) => priced.quantity_before,
        };
        if Some(place) == metered.card {
            charge.own += priced.quantity;
            charge.cost += priced.cost;
        } else {
            charge.earlier += earlier;
            charge.later += priced.quantity - earlier;
        }
    }
    Ok(charge)
}
