//! Chooses the card that prices usage. Of the cards that were valid at its time, the first of these that has
//! a rate for it:
//!
//! 1. The org's own card: a negotiated price.
//! 2. The card of the plan that the org had then.
//! 3. The meter's card.
//!
//! An owner may have cards in several currencies. Of its cards that were valid then, those in the currency of
//! the org count; where there are none, those in the meter's currency; where there are none either, all.
//! Oracle's charging engine decides alike: the subscriber's currency, else the default one
//! (Communications Billing and Revenue Management 15.1, "Configuring System Currency").
//! Nothing is converted, and a cost keeps the currency of the card that was used.
//!
//! A negotiated price overrides only the prices that it names, and when it ends the usual ones count again
//! (<https://github.com/granit-fx/granit-dotnet/issues/1175>, which follows Orb). So when the card of an org
//! or plan prices one model, the next card prices the other models; and a card without rates ends the own
//! prices.
//!
//! The choice depends on owner, currency, start and version of each card, on the usage (its dimensions, when
//! it occurred), and on its [`Buyer`].

use std::cmp::Reverse;

use chrono::{DateTime, Utc};

use super::RateCard;
use crate::billing::directory::OrgContext;
use crate::metering::rating;

/// What is known of an org whose usage is priced.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Buyer<'a> {
    /// The plan that it had when the usage occurred.
    pub(crate) plan: Option<&'a str>,
    /// The currency that it has now.
    pub(crate) currency: Option<&'a str>,
}

impl<'a> Buyer<'a> {
    /// The org, as it buys usage that occurred at that time.
    pub(crate) fn new(org: &'a OrgContext, at: DateTime<Utc>) -> Self {
        Self { plan: org.plan_at(at), currency: org.currency.as_deref() }
    }
}

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

    /// The order of precedence: by owner, and of one owner and currency the latest card first.
    pub(crate) fn order(&self) -> impl Ord + '_ {
        (self.owner(), &self.currency, Reverse((self.valid_from, self.version)))
    }

    /// Whether both are of one owner and in one currency: then the later one replaces the earlier one.
    pub(crate) fn is_of_same_list(&self, other: &Self) -> bool {
        self.owner() == other.owner() && self.currency == other.currency
    }
}

/// The index of the card that prices usage of that time. `cards`: the meter's cards that may price usage of
/// the org, in the order of precedence, each with whether it has a rate for the usage. `meter_currency`: the
/// currency of the meter. When no card has a rate, it is the meter's card of that time, if there is one.
pub(crate) fn position<'a>(
    cards: impl Iterator<Item = (&'a RateCard, bool)>,
    (buyer, meter_currency): (Buyer<'_>, Option<&str>),
    at: DateTime<Utc>,
) -> Option<usize> {
    let rank = |card: &RateCard| match Some(card.currency.as_str()) {
        currency if currency == buyer.currency => 0,
        currency if currency == meter_currency => 1,
        _ => 2,
    };
    // The best card of the owner at hand: its index, its rank, whether it fits.
    let mut best: Option<(usize, &RateCard, u8, bool)> = None;
    let counts = |(_, card, _, fits): &(usize, &RateCard, u8, bool)| *fits || card.owner() == Owner::Meter;
    for (index, (card, fits)) in cards.enumerate() {
        let is_valid =
            card.valid_from <= at && !matches!(card.owner(), Owner::Plan(plan) if Some(plan) != buyer.plan);
        if !is_valid {
            continue;
        }
        match &best {
            // Of one owner and rank, the first card counts.
            Some((_, other, of_rank, _)) if other.owner() == card.owner() && *of_rank <= rank(card) => {}
            Some(other) if other.1.owner() != card.owner() && counts(other) => return Some(other.0),
            _ => best = Some((index, card, rank(card), fits)),
        }
    }
    best.filter(counts).map(|(index, ..)| index)
}

/// The card that prices usage with these dimensions, and the index of its rate; `None` for the rate: the
/// meter's card has none that fits. The parameters are those of [`position`].
pub(crate) fn price<'a>(
    cards: impl Iterator<Item = &'a RateCard>,
    dimensions: &[(String, String)],
    (buyer, meter_currency): (Buyer<'_>, Option<&str>),
    at: DateTime<Utc>,
) -> Option<(&'a RateCard, Option<usize>)> {
    let cards: Vec<_> = cards.map(|card| (card, rating::rate_for(card, dimensions))).collect();
    let fitting = cards.iter().map(|(card, rate)| (*card, rate.is_some()));
    position(fitting, (buyer, meter_currency), at).map(|index| cards[index])
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
            let fitting = cards.iter().map(|card| (card, with_rate.contains(&card.version)));
            let found = position(fitting, (Buyer { plan, currency: None }, Some("usd")), at);
            assert_eq!(found.map(|place| cards[place].version), version, "{at} {plan:?} {with_rate:?}");
        }
        let before = "2025-12-31T00:00:00Z".parse().expect("a time");
        let buyer = Buyer { plan: Some("pro"), currency: None };
        assert_eq!(position(cards.iter().map(|card| (card, true)), (buyer, Some("usd")), before), None);
    }

    /// The meter has cards in USD (1, and 2 from March), EUR (3) and JPY (4, from February); pro has one in
    /// GBP (5) and one in JPY (6); the org has one in EUR from April (7), which a EUR card without rates (8)
    /// ends in June.
    #[test]
    fn of_one_owner_the_card_in_the_orgs_currency_counts_then_that_in_the_meters() {
        let money = |currency: &str, card: RateCard| RateCard { currency: currency.to_owned(), ..card };
        let mut cards = [
            card(1, Owner::Meter, "01-01"),
            card(2, Owner::Meter, "03-01"),
            money("eur", card(3, Owner::Meter, "01-01")),
            money("jpy", card(4, Owner::Meter, "02-01")),
            money("gbp", card(5, Owner::Plan("pro"), "01-01")),
            money("jpy", card(6, Owner::Plan("pro"), "01-01")),
            money("eur", card(7, Owner::Org(7), "04-01")),
            money("eur", card(8, Owner::Org(7), "06-01")),
        ];
        cards.sort_by(|one, other| one.order().cmp(&other.order()));
        for (at, plan, currency, with_rate, version) in [
            ("01-15", None, None, &[1, 2, 3, 4, 5, 6, 7][..], Some(1)),
            ("03-15", None, None, &[1, 2, 3, 4, 5, 6, 7], Some(2)),
            ("03-15", None, Some("eur"), &[1, 2, 3, 4, 5, 6, 7], Some(3)),
            // No card in that currency, or none yet.
            ("03-15", None, Some("chf"), &[1, 2, 3, 4, 5, 6, 7], Some(2)),
            ("01-15", None, Some("jpy"), &[1, 2, 3, 4, 5, 6, 7], Some(1)),
            ("03-15", None, Some("jpy"), &[1, 2, 3, 4, 5, 6, 7], Some(4)),
            // The list in the org's currency lacks the price: it is not taken from another currency.
            ("03-15", None, Some("eur"), &[1, 2, 4, 5, 6, 7], Some(3)),
            ("03-15", Some("pro"), Some("jpy"), &[1, 2, 3, 4, 5, 6, 7], Some(6)),
            // The plan has none in EUR and none in USD: its first one, and not the meter's.
            ("03-15", Some("pro"), Some("eur"), &[1, 2, 3, 4, 5, 6, 7], Some(5)),
            ("03-15", Some("pro"), Some("eur"), &[1, 2, 3, 4], Some(3)),
            ("04-15", Some("pro"), Some("gbp"), &[1, 2, 3, 4, 5, 6, 7], Some(7)),
            ("06-15", Some("pro"), Some("gbp"), &[1, 2, 3, 4, 5, 6, 7], Some(5)),
        ] {
            let at = format!("2026-{at}T00:00:00Z").parse().expect("a time");
            let fitting = cards.iter().map(|card| (card, with_rate.contains(&card.version)));
            let found = position(fitting, (Buyer { plan, currency }, Some("usd")), at);
            let found = found.map(|place| cards[place].version);
            assert_eq!(found, version, "{at} {plan:?} {currency:?} {with_rate:?}");
        }
    }
}
