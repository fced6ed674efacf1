//! Which of a meter's cards prices usage: the first of these that has a rate for it, of the cards that were
//! valid at its time.
//!
//! 1. The org's own card: a negotiated price.
//! 2. The card of the plan that the org had then.
//! 3. The meter's card.
//!
//! A negotiated price overrides the prices that it names, and when it ends the usual ones count again
//! (<https://github.com/granit-fx/granit-dotnet/issues/1175>, which follows Orb). So a card of an org or plan
//! that prices one model leaves the other models to the next card, and one without any rate ends the own
//! prices.
//!
//! The facts: owner, start and version of each card; the dimensions of the usage; when it occurred; the plan
//! that the org had then ([`OrgContext::plan_at`]).
//!
//! [`OrgContext::plan_at`]: crate::billing::directory::OrgContext::plan_at

use std::cmp::Reverse;

use chrono::{DateTime, Utc};

use super::RateCard;
use crate::metering::rating;

/// Whose usage a card prices, in the order in which cards are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Owner<'a> {
    /// An org's, by row id.
    Org(i64),
    /// That of the orgs with a plan.
    Plan(&'a str),
    Meter,
}

impl RateCard {
    /// Whose usage it prices.
    pub(crate) fn owner(&self) -> Owner<'_> {
        match &self.plan {
            _ if self.org_id != 0 => Owner::Org(self.org_id),
            Some(plan) => Owner::Plan(plan),
            None => Owner::Meter,
        }
    }

    /// What cards are sorted by: the owners in the order in which they are asked, of each the latest card
    /// first.
    pub(crate) fn order(&self) -> impl Ord + '_ {
        (self.owner(), Reverse((self.valid_from, self.version)))
    }
}

/// The place of the card that prices usage of that time. `cards`: those of the meter that concern the org, in
/// their order, each with whether it has a rate for the usage; `plan`: the one that the org had then. Where
/// none has a rate, the meter's card of that time, if there is one.
pub(crate) fn place<'a>(
    cards: impl Iterator<Item = (&'a RateCard, bool)>,
    plan: Option<&str>,
    at: DateTime<Utc>,
) -> Option<usize> {
    let mut seen = None;
    for (place, (card, fits)) in cards.enumerate() {
        let owner = card.owner();
        let concerns = !matches!(owner, Owner::Plan(of) if Some(of) != plan);
        // Of one owner the first that was valid then counts.
        if !concerns || card.valid_from > at || seen == Some(owner) {
            continue;
        }
        seen = Some(owner);
        if fits || owner == Owner::Meter {
            return Some(place);
        }
    }
    None
}

/// The card that prices usage with these dimensions, and its rate, which is `None` where the meter's card has
/// none that fits. The parameters are those of [`place`].
pub(crate) fn price<'a>(
    cards: impl Iterator<Item = &'a RateCard>,
    dimensions: &[(String, String)],
    plan: Option<&str>,
    at: DateTime<Utc>,
) -> Option<(&'a RateCard, Option<usize>)> {
    let cards: Vec<_> = cards.map(|card| (card, rating::rate_for(card, dimensions))).collect();
    place(cards.iter().map(|(card, rate)| (*card, rate.is_some())), plan, at).map(|place| cards[place])
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

    /// The meter's cards 1 (January) and 2 (March), pro's 3 (February), the org's 4 (from April to June, when
    /// 5 without rates ends it).
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
        // Version of the card that prices usage for which these versions have a rate.
        for (at, plan, with_rate, version) in [
            ("01-15", None, &[1, 2, 3, 4][..], Some(1)),
            ("01-15", Some("pro"), &[1, 2, 3, 4], Some(1)),
            ("02-15", Some("pro"), &[1, 2, 3, 4], Some(3)),
            ("02-15", Some("max"), &[1, 2, 3, 4], Some(1)),
            ("03-15", None, &[1, 2, 3, 4], Some(2)),
            ("04-15", Some("pro"), &[1, 2, 3, 4], Some(4)),
            // A model that the org's card does not name.
            ("04-15", Some("pro"), &[1, 2, 3], Some(3)),
            ("04-15", Some("pro"), &[2], Some(2)),
            ("06-15", Some("pro"), &[1, 2, 3, 4], Some(3)),
            ("06-15", None, &[1, 2, 3, 4], Some(2)),
            // None has a rate: it is the meter's card that lacks one.
            ("04-15", Some("pro"), &[], Some(2)),
        ] {
            let at = format!("2026-{at}T00:00:00Z").parse().expect("a time");
            let found = place(cards.iter().map(|card| (card, with_rate.contains(&card.version))), plan, at);
            assert_eq!(found.map(|place| cards[place].version), version, "{at} {plan:?} {with_rate:?}");
        }
        let before = "2025-12-31T00:00:00Z".parse().expect("a time");
        assert_eq!(place(cards.iter().map(|card| (card, true)), Some("pro"), before), None);
    }
}
