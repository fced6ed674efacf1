//! The counters of tiers: the quantity of a local month or billing period that was priced by whatever card
//! and that the counter's rate fits. Owns the rows of `rating_counters`.
//!
//! Usage raises the counters of all cards that may price usage of its period ([`play`]), nearly always one.
//! In a period with several cards a new counter begins with the quantity that the records say.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Numeric, SmallInt, Timestamptz, Untyped};
use smallvec::SmallVec;

use super::priced_usage::{MeterPeriod, read_priced};
use crate::db::prepared::{Prepared, StatementText, statement};
use crate::error::Error;
use crate::metering::event::Rejection;
use crate::metering::periods::Period;
use crate::metering::rates::RateCard;
use crate::metering::rates::play;
use crate::metering::rating;
use crate::metering::resolve::too_large;
use crate::metering::usage::{Metered, Usage};
use crate::quantity::Sum;

/// Names a counter: org, meter, rate card, rate, the period's label and beginning.
type TierKey = (i64, i32, i32, i16, NaiveDate, DateTime<Utc>);

fn period_of(tier: &TierKey) -> Period {
    Period::from_row((tier.4, tier.5))
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

statement!(InitialiseTiers -> Untyped:
    "UPDATE rating_counters k SET quantity = k.quantity + t.q \
    FROM unnest(?, ?, ?, ?, ?, ?, ?) AS t (o, m, c, r, p, b, q) \
    WHERE (k.org_id, k.meter_id, k.rate_card_id, k.rate, k.period, k.began) = (t.o, t.m, t.c, t.r, t.p, \
        t.b)");

/// The counters of a batch's tiers, raised and locked until the commit. Each event costs the difference that
/// it makes to its period.
pub(crate) struct Tiers {
    /// The value of each counter before the next event.
    before: BTreeMap<TierKey, Sum>,
}

impl Tiers {
    /// Raises the counters of `usage`. Without tiers it sends nothing to the database.
    pub(crate) fn raise<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<Self, Error> {
        let (mut sums, mut new) = (BTreeMap::new(), Vec::new());
        for usage in usage {
            for metered in &usage.metered {
                for (tier, card) in tiers_of(usage, metered) {
                    *sums.entry(tier).or_insert_with(|| {
                        new.push((tier, metered, card));
                        Sum::ZERO
                    }) += metered.quantity;
                }
            }
        }
        let mut before = add(conn, &sums)?;
        for (tier, raised) in &mut before {
            *raised = *raised - sums.get(tier).copied().unwrap_or_default();
        }
        // A counter that was 0 may be new.
        new.retain(|(tier, metered, card)| {
            before.get(tier).is_some_and(|before| before.is_zero())
                && !is_only_card(metered, *card, period_of(tier))
        });
        before.extend(initialise(conn, &new)?);
        Ok(Self { before })
    }

    /// Prices the next event. A rejected event leaves the counters in memory unchanged; pass it to
    /// [`Tiers::lower`].
    ///
    /// # Errors
    /// The rejection of an event whose cost is too large.
    pub(crate) fn price(&mut self, usage: &mut Usage) -> Result<(), Rejection> {
        if self.before.is_empty() {
            return Ok(());
        }
        let tiers: SmallVec<[Option<TierKey>; 1]> =
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

    /// The quantity of the period before the next usage, in the tiers that price `metered`.
    pub(crate) fn quantity_before(&self, usage: &Usage, metered: &Metered) -> Sum {
        own_tier(usage, metered).and_then(|tier| self.before.get(&tier).copied()).unwrap_or_default()
    }

    /// Counts a priced event in memory.
    pub(crate) fn count(&mut self, usage: &Usage) {
        for metered in &usage.metered {
            for (tier, _) in tiers_of(usage, metered) {
                *self.before.entry(tier).or_default() += metered.quantity;
            }
        }
    }

    /// Lowers the counters again by events that are not stored after all.
    pub(crate) fn lower<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<(), Error> {
        let lowered = sums(usage).into_iter().map(|(tier, sum)| (tier, -sum)).collect();
        add(conn, &lowered)?;
        Ok(())
    }
}

/// Adds to new counters the quantity that the records say, and returns these quantities if they are not 0.
fn initialise(
    conn: &mut PgConnection,
    new: &[(TierKey, &Metered, usize)],
) -> Result<BTreeMap<TierKey, Sum>, Error> {
    if new.is_empty() {
        return Ok(BTreeMap::new());
    }
    let periods: BTreeSet<MeterPeriod> =
        new.iter().map(|(tier, ..)| (tier.0, tier.1, tier.4, tier.5)).collect();
    let mut initial: BTreeMap<TierKey, Sum> = BTreeMap::new();
    for priced in read_priced(conn, &periods.into_iter().collect::<Vec<_>>(), None)? {
        let (period, dimensions) = (priced.meter_period(), priced.dimensions());
        let is_of_period = |tier: &TierKey| (tier.0, tier.1, tier.4, tier.5) == period;
        for (tier, metered, card) in new.iter().filter(|(tier, ..)| is_of_period(tier)) {
            let rate = rating::rate_for(&metered.series.rates[*card].0, &dimensions);
            if rate.and_then(|rate| i16::try_from(rate).ok()) == Some(tier.3) {
                *initial.entry(*tier).or_default() += priced.quantity;
            }
        }
    }
    initial.retain(|_, sum| !sum.is_zero());
    if !initial.is_empty() {
        bind_keys::<InitialiseTiers>(&initial)
            .bind::<Numeric, _>(initial.values().copied().collect())
            .execute(conn)?;
    }
    Ok(initial)
}

/// Locks the existing counters of this usage until the caller's transaction ends.
pub(super) fn lock<'a>(
    conn: &mut PgConnection,
    usage: impl IntoIterator<Item = &'a Usage>,
) -> Result<(), Error> {
    let tiers = sums(usage);
    if !tiers.is_empty() {
        bind_keys::<LockTiers>(&tiers).execute(conn)?;
    }
    Ok(())
}

/// How much usage adds to its counters, in the order of their keys.
fn sums<'a>(usage: impl IntoIterator<Item = &'a Usage>) -> BTreeMap<TierKey, Sum> {
    let mut sums: BTreeMap<TierKey, Sum> = BTreeMap::new();
    for usage in usage {
        for metered in &usage.metered {
            for (tier, _) in tiers_of(usage, metered) {
                *sums.entry(tier).or_default() += metered.quantity;
            }
        }
    }
    sums
}

/// The counters that usage is added to, each with the index of its card: those of all cards in play in its
/// period whose rate for it has tiers. Usage without a card is added to none.
fn tiers_of(usage: &Usage, metered: &Metered) -> SmallVec<[(TierKey, usize); 1]> {
    let series = &metered.series;
    if !series.has_tiers || metered.card.is_none() {
        return SmallVec::new();
    }
    let cards = series.rates.iter().map(|(card, _)| &**card);
    play::in_play(cards, |card| card.period_of(usage.own_day, usage.billing_period))
        .filter_map(|(card, period)| Some((tier_key(usage.org.org_id, metered, card, period)?, card)))
        .collect()
}

/// The counter of the tiers that price it; `None`: no tiers do.
fn own_tier(usage: &Usage, metered: &Metered) -> Option<TierKey> {
    let card = metered.card.filter(|_| metered.tiered)?;
    tier_key(usage.org.org_id, metered, card, tier_period(usage, metered, card)?)
}

/// The period in which the card at this index counts tiers of this usage.
pub(crate) fn tier_period(usage: &Usage, metered: &Metered, card: usize) -> Option<Period> {
    let (card, _) = metered.series.rates.get(card)?;
    Some(card.period_of(usage.own_day, usage.billing_period))
}

fn tier_key(org_id: i64, metered: &Metered, card: usize, period: Period) -> Option<TierKey> {
    let (card, rate) = metered.series.rates.get(card)?;
    let rate = (*rate).filter(|rate| card.rates[*rate].tiers.is_some())?;
    let (label, began) = period.to_row();
    Some((org_id, card.meter_id, card.rate_card_id, i16::try_from(rate).ok()?, label, began))
}

/// Whether no card but the one at this index can have priced usage of the period.
pub(crate) fn is_only_card(metered: &Metered, card: usize, period: Period) -> bool {
    let cards = &metered.series.rates;
    if cards.len() == 1 {
        return true;
    }
    let cards: Vec<&RateCard> = cards.iter().map(|(card, _)| &**card).collect();
    play::is_only_card(&cards, card, period)
}

/// Binds the six columns of the keys.
fn bind_keys<'a, Q: StatementText>(sums: &BTreeMap<TierKey, Sum>) -> Prepared<'a, Q> {
    Prepared::new()
        .bind::<BigInt, _>(sums.keys().map(|tier| tier.0).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.1).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.2).collect())
        .bind::<SmallInt, _>(sums.keys().map(|tier| tier.3).collect())
        .bind::<Date, _>(sums.keys().map(|tier| tier.4).collect())
        .bind::<Timestamptz, _>(sums.keys().map(|tier| tier.5).collect())
}

/// Adds the sums and returns the new value of each counter.
fn add(conn: &mut PgConnection, sums: &BTreeMap<TierKey, Sum>) -> Result<BTreeMap<TierKey, Sum>, Error> {
    if sums.is_empty() {
        return Ok(BTreeMap::new());
    }
    type RaisedTier = (i64, i32, i32, i16, NaiveDate, DateTime<Utc>, Sum);
    let raised: Vec<RaisedTier> =
        bind_keys::<AddTiers>(sums).bind::<Numeric, _>(sums.values().copied().collect()).load(conn)?;
    let key_and_sum = |(org, meter, card, rate, label, began, sum): RaisedTier| {
        ((org, meter, card, rate, label, began), sum)
    };
    Ok(raised.into_iter().map(key_and_sum).collect())
}
