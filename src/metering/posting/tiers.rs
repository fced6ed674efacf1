//! What tiers of a rate card are counted by: the quantity of a local month or billing period, whichever card
//! priced it. Owns the rows of `rating_counters`.
//!
//! A counter says what was priced in the period of the usage that its rate fits. Usage raises those of all
//! cards that are in play in its period ([`play`]), nearly always one. A counter that is new in a period of
//! several cards begins at what the records say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Numeric, SmallInt, Timestamptz, Untyped};
use smallvec::SmallVec;

use super::priced::{self, OfPeriod};
use crate::db::prepared::{Prepared, StatementText, statement};
use crate::error::Error;
use crate::metering::event::Rejection;
use crate::metering::periods::Period;
use crate::metering::rates::RateCard;
use crate::metering::rates::play;
use crate::metering::rating;
use crate::metering::resolve::{Metered, Usage, too_large};
use crate::quantity::Sum;

/// (org, meter, rate card, rate, the period's label and beginning).
type Tier = (i64, i32, i32, i16, NaiveDate, DateTime<Utc>);

/// The period of a counter.
fn period_of(tier: &Tier) -> Period {
    Period::of_row((tier.4, tier.5))
}

statement!(AddTiers -> (BigInt, Integer, Integer, SmallInt, Date, Timestamptz, Numeric):
    "INSERT INTO rating_counters AS c (org_id, meter_id, rate_card_id, rate, period, began, quantity) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?, ?) \
    ON CONFLICT (org_id, meter_id, rate_card_id, rate, period, began) \
    DO UPDATE SET quantity = c.quantity + excluded.quantity \
    RETURNING org_id, meter_id, rate_card_id, rate, period, began, quantity");

statement!(LockTiers -> Untyped:
    "SELECT FROM unnest(?, ?, ?, ?, ?, ?) AS t (o, m, c, r, p, b) \
    JOIN rating_counters k ON (k.org_id, k.meter_id, k.rate_card_id, k.rate, k.period, k.began) \
        = (t.o, t.m, t.c, t.r, t.p, t.b) \
    ORDER BY t.o, t.m, t.c, t.r, t.p, t.b FOR UPDATE OF k");

statement!(BeginTiers -> Untyped:
    "UPDATE rating_counters k SET quantity = k.quantity + t.q \
    FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, m, c, r, p, b, q) \
    WHERE (k.org_id, k.meter_id, k.rate_card_id, k.rate, k.period, k.began) = (t.o, t.m, t.c, t.r, t.p, \
        t.b)");

/// The counters of a batch's tiers, locked and raised until the commit: with them each event in turn costs
/// the difference that it makes.
pub(crate) struct Tiers {
    /// What each counter held before the next event.
    before: BTreeMap<Tier, Sum>,
}

impl Tiers {
    /// Raises the counters that `usage` goes to. Where no price has tiers, nothing is asked of the database.
    pub(crate) fn raise<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<Self, Error> {
        let (mut sums, mut fresh) = (BTreeMap::new(), Vec::new());
        for one in usage {
            for metered in &one.metered {
                for (tier, place) in tiers_of(one, metered) {
                    *sums.entry(tier).or_insert_with(|| {
                        fresh.push((tier, metered, place));
                        Sum::ZERO
                    }) += metered.quantity;
                }
            }
        }
        let mut before = add(conn, &sums)?;
        for (tier, raised) in &mut before {
            *raised = *raised - sums.get(tier).copied().unwrap_or_default();
        }
        // One of nothing may be new.
        fresh.retain(|(tier, metered, place)| {
            before.get(tier).is_some_and(|before| before.is_zero())
                && !is_alone(metered, *place, period_of(tier))
        });
        let begun = begin(conn, &fresh)?;
        before.extend(begun);
        Ok(Self { before })
    }

    /// Prices the next event. One that is rejected leaves the counters in memory as they were, and belongs
    /// into [`Tiers::lower`].
    ///
    /// # Errors
    /// The rejection of an event whose cost is too large.
    pub(crate) fn price(&mut self, usage: &mut Usage) -> Result<(), Rejection> {
        if self.before.is_empty() {
            return Ok(());
        }
        let tiers: SmallVec<[Option<Tier>; 1]> =
            usage.metered.iter().map(|metered| own_tier(usage, metered)).collect();
        for (metered, tier) in usage.metered.iter_mut().zip(tiers) {
            let Some(tier) = tier else { continue };
            let before = self.before.get(&tier).copied().unwrap_or_default();
            let cost = metered.rate().and_then(|rate| rating::cost(rate, before, metered.quantity));
            metered.cost = cost.ok_or_else(too_large)?;
        }
        self.count(usage);
        Ok(())
    }

    /// How much of the period stands before the next usage of the tiers that price `metered`.
    pub(crate) fn standing(&self, usage: &Usage, metered: &Metered) -> Sum {
        own_tier(usage, metered).and_then(|tier| self.before.get(&tier).copied()).unwrap_or_default()
    }

    /// Takes note of an event that is priced.
    pub(crate) fn count(&mut self, usage: &Usage) {
        for metered in &usage.metered {
            for (tier, _) in tiers_of(usage, metered) {
                *self.before.entry(tier).or_default() += metered.quantity;
            }
        }
    }

    /// Takes back what was raised for events that are not stored after all.
    pub(crate) fn lower<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<(), Error> {
        let back = sums(usage).into_iter().map(|(tier, sum)| (tier, -sum)).collect();
        add(conn, &back)?;
        Ok(())
    }
}

/// What the records say that new counters begin with, written to them; only what is not nothing.
fn begin(conn: &mut PgConnection, fresh: &[(Tier, &Metered, usize)]) -> Result<BTreeMap<Tier, Sum>, Error> {
    if fresh.is_empty() {
        return Ok(BTreeMap::new());
    }
    let periods: BTreeSet<OfPeriod> =
        fresh.iter().map(|(tier, ..)| (tier.0, tier.1, tier.4, tier.5)).collect();
    let mut begun: BTreeMap<Tier, Sum> = BTreeMap::new();
    for priced in priced::of_periods(conn, &periods.into_iter().collect::<Vec<_>>(), None)? {
        let (of_period, dimensions) = (priced.of_period(), priced.dimensions());
        let here = |tier: &Tier| (tier.0, tier.1, tier.4, tier.5) == of_period;
        for (tier, metered, place) in fresh.iter().filter(|(tier, ..)| here(tier)) {
            let fitting = rating::rate_for(&metered.series.rates[*place].0, &dimensions);
            if fitting.and_then(|rate| i16::try_from(rate).ok()) == Some(tier.3) {
                *begun.entry(*tier).or_default() += priced.quantity;
            }
        }
    }
    begun.retain(|_, sum| !sum.is_zero());
    if !begun.is_empty() {
        keyed::<BeginTiers>(&begun).bind::<Numeric, _>(begun.values().copied().collect()).execute(conn)?;
    }
    Ok(begun)
}

/// Locks the counters of the tiers of this usage, those that are there, until the caller's transaction ends.
pub(super) fn lock<'a>(
    conn: &mut PgConnection,
    usage: impl IntoIterator<Item = &'a Usage>,
) -> Result<(), Error> {
    let tiers = sums(usage);
    if !tiers.is_empty() {
        keyed::<LockTiers>(&tiers).execute(conn)?;
    }
    Ok(())
}

/// What usage adds to its tiers, in the order of their keys.
fn sums<'a>(usage: impl IntoIterator<Item = &'a Usage>) -> BTreeMap<Tier, Sum> {
    let mut sums: BTreeMap<Tier, Sum> = BTreeMap::new();
    for one in usage {
        for metered in &one.metered {
            for (tier, _) in tiers_of(one, metered) {
                *sums.entry(tier).or_default() += metered.quantity;
            }
        }
    }
    sums
}

/// The counters that usage is added to, each with the place of its card: of all cards in play in its period
/// whose rate for it has tiers. What no card priced is added to none.
fn tiers_of(usage: &Usage, metered: &Metered) -> SmallVec<[(Tier, usize); 1]> {
    let series = &metered.series;
    if !series.has_tiers || metered.card.is_none() {
        return SmallVec::new();
    }
    let cards = series.rates.iter().map(|(card, _)| &**card);
    play::in_play(cards, |card| card.period_of(usage.own_day, usage.billing_period))
        .filter_map(|(place, period)| Some((tier_at(usage.org.org_id, metered, place, period)?, place)))
        .collect()
}

/// The counter of the tiers that price it; `None`: they do not.
fn own_tier(usage: &Usage, metered: &Metered) -> Option<Tier> {
    let place = metered.card.filter(|_| metered.tiered)?;
    tier_at(usage.org.org_id, metered, place, period_at(usage, metered, place)?)
}

/// The period by which the card at that place counts tiers of this usage.
pub(crate) fn period_at(usage: &Usage, metered: &Metered, place: usize) -> Option<Period> {
    let (card, _) = metered.series.rates.get(place)?;
    Some(card.period_of(usage.own_day, usage.billing_period))
}

fn tier_at(org_id: i64, metered: &Metered, place: usize, period: Period) -> Option<Tier> {
    let (card, rate) = metered.series.rates.get(place)?;
    let rate = (*rate).filter(|rate| card.rates[*rate].tiers.is_some())?;
    let (label, began) = period.stored();
    Some((org_id, card.meter_id, card.rate_card_id, i16::try_from(rate).ok()?, label, began))
}

/// Whether all that was priced of the period was priced by the card at this place.
pub(crate) fn is_alone(metered: &Metered, place: usize, period: Period) -> bool {
    let cards = &metered.series.rates;
    if cards.len() == 1 {
        return true;
    }
    let cards: Vec<&RateCard> = cards.iter().map(|(card, _)| &**card).collect();
    play::is_alone(&cards, place, period)
}

/// Binds the six columns of the keys.
fn keyed<'a, Q: StatementText>(sums: &BTreeMap<Tier, Sum>) -> Prepared<'a, Q> {
    Prepared::new()
        .bind::<BigInt, _>(sums.keys().map(|tier| tier.0).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.1).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.2).collect())
        .bind::<SmallInt, _>(sums.keys().map(|tier| tier.3).collect())
        .bind::<Date, _>(sums.keys().map(|tier| tier.4).collect())
        .bind::<Timestamptz, _>(sums.keys().map(|tier| tier.5).collect())
}

/// Adds the sums, and tells what each counter holds then.
fn add(conn: &mut PgConnection, sums: &BTreeMap<Tier, Sum>) -> Result<BTreeMap<Tier, Sum>, Error> {
    if sums.is_empty() {
        return Ok(BTreeMap::new());
    }
    type RaisedTier = (i64, i32, i32, i16, NaiveDate, DateTime<Utc>, Sum);
    let raised: Vec<RaisedTier> =
        keyed::<AddTiers>(sums).bind::<Numeric, _>(sums.values().copied().collect()).load(conn)?;
    let counter = |(org, meter, card, rate, label, began, sum): RaisedTier| {
        ((org, meter, card, rate, label, began), sum)
    };
    Ok(raised.into_iter().map(counter).collect())
}
