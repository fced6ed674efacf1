//! What tiers of a rate card are counted by: the quantity of a local month. Owns the rows of `rating_counters`.

use std::collections::BTreeMap;

use chrono::{Datelike, NaiveDate};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Date, Integer, Numeric, SmallInt, Untyped};

use crate::db::prepared::{Prepared, Text, statement};
use crate::error::Error;
use crate::quantity::Sum;
use crate::usage::event::Rejection;
use crate::usage::rating;
use crate::usage::resolve::{Metered, Usage, too_large};

/// (org, meter, rate card, rate, local month).
type Tier = (i64, i32, i32, i16, NaiveDate);

statement!(AddTiers -> (BigInt, Integer, Integer, SmallInt, Date, Numeric):
    "INSERT INTO rating_counters AS c (org_id, meter_id, rate_card_id, rate, month, quantity) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?) ON CONFLICT (org_id, meter_id, rate_card_id, rate, month) \
    DO UPDATE SET quantity = c.quantity + excluded.quantity \
    RETURNING org_id, meter_id, rate_card_id, rate, month, quantity");

statement!(LockTiers -> Untyped:
    "SELECT FROM unnest(?, ?, ?, ?, ?) AS t (o, m, c, r, d) \
    JOIN rating_counters k ON (k.org_id, k.meter_id, k.rate_card_id, k.rate, k.month) = (t.o, t.m, t.c, t.r, t.d) \
    ORDER BY t.o, t.m, t.c, t.r, t.d FOR UPDATE OF k");

/// The counters of a batch's tiers, locked and raised until the commit: with them each event in turn costs the difference that
/// it makes.
pub(crate) struct Tiers {
    /// What each counter held before the next event.
    before: BTreeMap<Tier, Sum>,
}

impl Tiers {
    /// Raises the counters that `usage` goes to. Where no price has tiers, nothing is asked of the database.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) fn raise<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<Self, Error> {
        let sums = sums(usage);
        let mut before = add(conn, &sums)?;
        for (tier, raised) in &mut before {
            *raised = *raised - sums.get(tier).copied().unwrap_or_default();
        }
        Ok(Self { before })
    }

    /// Prices the next event. One that is rejected leaves the counters in memory as they were, and belongs into
    /// [`Tiers::lower`].
    ///
    /// # Errors
    /// The rejection of an event whose cost is too large, or whose month has too many digits to be priced exactly.
    pub(crate) fn price(&mut self, usage: &mut Usage) -> Result<(), Rejection> {
        if self.before.is_empty() {
            return Ok(());
        }
        let tiers: Vec<Option<Tier>> = usage.metered.iter().map(|metered| tier_of(usage, metered)).collect();
        let mut after = Vec::new();
        for (metered, tier) in usage.metered.iter_mut().zip(tiers) {
            let Some(tier) = tier.filter(|_| metered.tiered) else { continue };
            let before = self.before.get(&tier).copied().unwrap_or_default();
            let raised = before + metered.quantity;
            let rate = metered.rate().zip(before.exact().zip(raised.exact()));
            metered.cost = rate
                .and_then(|(rate, (before, _))| rating::cost(rate, before, metered.quantity))
                .ok_or_else(too_large)?;
            after.push((tier, raised));
        }
        self.before.extend(after);
        Ok(())
    }

    /// Takes back what was raised for events that are not stored after all.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) fn lower<'a>(
        conn: &mut PgConnection,
        usage: impl IntoIterator<Item = &'a Usage>,
    ) -> Result<(), Error> {
        let back = sums(usage).into_iter().map(|(tier, sum)| (tier, -sum)).collect();
        add(conn, &back)?;
        Ok(())
    }
}

/// Locks the counters of the tiers of this usage, those that are there, until the caller's transaction ends.
///
/// # Errors
/// When the database fails.
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
        for metered in one.metered.iter().filter(|metered| metered.tiered) {
            if let Some(tier) = tier_of(one, metered) {
                *sums.entry(tier).or_default() += metered.quantity;
            }
        }
    }
    sums
}

fn tier_of(usage: &Usage, metered: &Metered) -> Option<Tier> {
    let (card, rate) = metered.card.and_then(|card| metered.series.rates.get(card))?;
    let rate = i16::try_from((*rate)?).ok()?;
    Some((usage.org.org_id, card.meter_id, card.rate_card_id, rate, usage.day.with_day(1)?))
}

/// Binds the five columns of the keys.
fn keyed<'a, Q: Text>(sums: &BTreeMap<Tier, Sum>) -> Prepared<'a, Q> {
    Prepared::new()
        .bind::<BigInt, _>(sums.keys().map(|tier| tier.0).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.1).collect())
        .bind::<Integer, _>(sums.keys().map(|tier| tier.2).collect())
        .bind::<SmallInt, _>(sums.keys().map(|tier| tier.3).collect())
        .bind::<Date, _>(sums.keys().map(|tier| tier.4).collect())
}

/// Adds the sums, and tells what each counter holds then.
fn add(conn: &mut PgConnection, sums: &BTreeMap<Tier, Sum>) -> Result<BTreeMap<Tier, Sum>, Error> {
    if sums.is_empty() {
        return Ok(BTreeMap::new());
    }
    let raised = keyed::<AddTiers>(sums).bind::<Numeric, _>(sums.values().copied().collect()).load::<(
        i64,
        i32,
        i32,
        i16,
        NaiveDate,
        Sum,
    )>(conn)?;
    let counter = |(org, meter, card, rate, month, quantity)| ((org, meter, card, rate, month), quantity);
    Ok(raised.into_iter().map(counter).collect())
}
