//! Chooses the card that prices usage. Of the cards that were valid at its time, the first of these that has
//! a rate for it:
//!
//! 1. The org's own card: a negotiated price.
//! 2. The card of the plan that the org had then.
//! 3. The meter's card.
//!
//! A negotiated price overrides only the prices that it names, and when it ends the usual ones count again
//! (<https://github.com/granit-fx/granit-dotnet/issues/1175>, which follows Orb). So when the card of an org
//! or plan prices one model, the next card prices the other models; and a card without rates ends the own
//! prices.
//!
//! The choice depends on owner, start and version of each card, and on the usage: its dimensions, when it
//! occurred, and the plan that the org had then ([`OrgContext::plan_at`]).
//!
//! [`OrgContext::plan_at`]: crate::billing::directory::OrgContext::plan_at

use std::cmp::Reverse;

use chrono::{DateTime, Utc};

use super::RateCard;
use crate::metering::rating;

/// The owner of a card, in the order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner<'a> {
    /// An org, by row id.
    Org(i64),
    /// A plan: the card is for orgs that have it.
    Plan(&'a str),
    Meter,
}

impl RateCard {
    pub(crate) fn owner(&self) -> Owner<'_> {
        match &self.plan {
            _ if self.org_id != 0 => Owner::Org(self.org_id),
            Some(plan) => Owner::Plan(plan),
            None => Owner::Meter,
        }
    }

    /// The order of precedence: by owner, and of one owner the latest card first.
    pub(crate) fn order(&self) -> impl Ord + '_ {
        (self.owner(), Reverse((self.valid_from, self.version)))
    }
}

/// The index of the card that prices usage of that time. `cards`: the meter's cards that may price usage of
/// the org, in the order of precedence, each with whether it has a rate for the usage. `plan`: the plan that
/// the org had then. When no card has a rate, it is the meter's card of that time, if there is one.
pub(crate) fn position<'a>(
    cards: impl Iterator<Item = (&'a RateCard, bool)>,
    plan: Option<&str>,
    at: DateTime<Utc>,
) -> Option<usize> {
    let mut last_owner = None;
    for (index, (card, fits)) in cards.enumerate() {
        let owner = card.owner();
        let has_owner = !matches!(owner, Owner::Plan(of) if Some(of) != plan);
        // Of one owner, the first card that was valid then counts.
        if !has_owner || card.valid_from > at || last_owner == Some(owner) {
            continue;
        }
        last_owner = Some(owner);
        if fits || owner == Owner::Meter {
            return Some(index);
        }
    }
    None
}

/// The card that prices usage with these dimensions, and the index of its rate; `None` for the rate: the
/// meter's card has none that fits. The parameters are those of [`position`].
pub(crate) fn price<'a>(
    cards: impl Iterator<Item = &'a RateCard>,
    dimensions: &[(String, String)],
    plan: Option<&str>,
    at: DateTime<Utc>,
) -> Option<(&'a RateCard, Option<usize>)> {
    let cards: Vec<_> = cards.map(|card| (card, rating::rate_for(card, dimensions))).collect();
    position(cards.iter().map(|(card, rate)| (*card, rate.is_some())), plan, at).map(|index| cards[index])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metering::rates::TierPeriod;

    fn card(version: i32, owner: Owner<'_>, valid_from: &str) -> RateCard {
        RateCard {
            rate_card_id: version,
            meter_id: 1,
            version,
            plan: if let Owner::Plan(plan) = owner { Some(plan.to_owned()) } else { None },
            org_id: if let Owner::Org(org_id) = owner { org_id } else { 0 },
            org: None,
            period: TierPeriod::Month,
            price_by: None,
            valid_from: format!("2026-{valid_from}T00:00:00Z").parse().expect("a time"),
            currency: "usd".to_owned(),
            rates: Vec::new(),
            created_at: DateTime::UNIX_EPOCH,
        }
    }

    /// The meter's cards are 1 (January) and 2 (March), pro's card is 3 (February), and the org's card is 4
    /// (from April to June, when card 5 without rates ends it).
    #[test]
    fn the_orgs_own_card_counts_before_its_plans_and_that_before_the_meters() {
        let mut cards = [
            card(1, Owner::Meter, "01-01"),
            card(2, Owner::Meter, "03-01"),
            card(3, Owner::Plan("pro"), "02-01"),
            card(4, Owner::Org(7), "04-01"),
            card(5, Owner::Org(7), "06-01"),
        ];
        cards.sort_by(|one, other| one.order().cmp(&other.order()));
        // The last column is the version of the card that prices usage for which the listed versions have a
        // rate.
        for (at, plan, with_rate, version) in [
            ("01-15", None, &[1, 2, 3, 4][..], Some(1)),
            ("01-15", Some("pro"), &[1, 2, 3, 4], Some(1)),
            ("02-15", Some("pro"), &[1, 2, 3, 4], Some(3)),
            ("02-15", Some("max"), &[1, 2, 3, 4], Some(1)),
            ("03-15", None, &[1, 2, 3, 4], Some(2)),
            ("04-15", Some("pro"), &[1, 2, 3, 4], Some(4)),
            // The org's card does not name this model.
            ("04-15", Some("pro"), &[1, 2, 3], Some(3)),
            ("04-15", Some("pro"), &[2], Some(2)),
            ("06-15", Some("pro"), &[1, 2, 3, 4], Some(3)),
            ("06-15", None, &[1, 2, 3, 4], Some(2)),
            // No card has a rate: the meter's card is the one that lacks it.
            ("04-15", Some("pro"), &[], Some(2)),
        ] {
            let at = format!("2026-{at}T00:00:00Z").parse().expect("a time");
            let found =
                position(cards.iter().map(|card| (card, with_rate.contains(&card.version))), plan, at);
            assert_eq!(found.map(|place| cards[place].version), version, "{at} {plan:?} {with_rate:?}");
        }
        let before = "2025-12-31T00:00:00Z".parse().expect("a time");
        assert_eq!(position(cards.iter().map(|card| (card, true)), Some("pro"), before), None);
    }
}
