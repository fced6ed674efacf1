//! Series: (org, meter, member, dimensions) as one number. Owns `usage_series`.
//!
//! The number is a digest, so it needs no look-up; what a daemon keeps in memory is only which series are
//! stored already, and what of the catalogue applies to each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Jsonb, Nullable, Text, Untyped};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::catalog::Catalog;
use super::meters::Meter;
use super::rates::{RateCard, choose};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::slots::Slot;

/// Series held in memory at most.
const CAPACITY: usize = 100_000;

/// A series, with what one version of the catalogue makes of it.
#[derive(Debug)]
pub struct Series {
    pub org_id: i64,
    /// Its number, unique in the org.
    pub series_id: i64,
    pub meter: Arc<Meter>,
    pub member: Option<String>,
    /// The meter's dimensions that the usage has, in the order of their names.
    pub dimensions: Vec<(String, String)>,
    /// Slots that count it.
    pub slots: Vec<Arc<Slot>>,
    /// The meter's rate cards that concern the org, whatever its plan, in the order in which they are asked,
    /// each with the rate that fits if one does.
    pub rates: Vec<(Arc<RateCard>, Option<usize>)>,
    /// Whether any of these rates has tiers.
    pub has_tiers: bool,
    /// Version of the catalogue that what is above is from.
    version: i64,
    stored: AtomicBool,
}

impl Series {
    /// The place in `rates` of the card that prices usage of that time. `plan`: the one that the org had
    /// then.
    #[must_use]
    pub fn priced_by(&self, plan: Option<&str>, at: DateTime<Utc>) -> Option<usize> {
        choose::place(self.rates.iter().map(|(card, rate)| (&**card, rate.is_some())), plan, at)
    }
}

/// The series that this process has seen lately.
pub struct SeriesCache(Cache<(i64, i64), Arc<Series>>);

impl Default for SeriesCache {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl SeriesCache {
    /// The series of this usage under `catalog`. `dimensions` are sorted by name.
    #[must_use]
    pub fn of(
        &self,
        catalog: &Catalog,
        org_id: i64,
        meter: &Arc<Meter>,
        member: Option<&str>,
        dimensions: &[(&str, &str)],
    ) -> Arc<Series> {
        let series_id = number(org_id, meter.meter_id, member, dimensions);
        let held = self.0.get(&(org_id, series_id));
        if let Some(series) = &held
            && series.version == catalog.version
        {
            return Arc::clone(series);
        }
        let stored = held.is_some_and(|series| series.stored.load(Ordering::Relaxed));
        let dimensions: Vec<(String, String)> =
            dimensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let slots = catalog.slots.get(&meter.meter_id).into_iter().flatten();
        let cards = catalog.rate_cards(meter.meter_id, org_id);
        let rates: Vec<(Arc<RateCard>, Option<usize>)> =
            cards.map(|card| (Arc::clone(card), super::rating::rate_for(card, &dimensions))).collect();
        let tiered = |(card, rate): &(Arc<RateCard>, Option<usize>)| {
            rate.is_some_and(|rate| card.rates[rate].tiers.is_some())
        };
        let series = Arc::new(Series {
            org_id,
            series_id,
            meter: Arc::clone(meter),
            member: member.map(str::to_owned),
            slots: slots.filter(|slot| slot.counts(org_id, &dimensions)).cloned().collect(),
            has_tiers: rates.iter().any(tiered),
            rates,
            dimensions,
            version: catalog.version,
            stored: AtomicBool::new(stored),
        });
        self.0.insert((org_id, series_id), Arc::clone(&series));
        series
    }
}

/// 63 bits of a digest over all that makes the series; every text is preceded by its length.
fn number(org_id: i64, meter_id: i32, member: Option<&str>, dimensions: &[(&str, &str)]) -> i64 {
    let mut bytes = Vec::with_capacity(128);
    bytes.extend_from_slice(&org_id.to_be_bytes());
    bytes.extend_from_slice(&meter_id.to_be_bytes());
    let mut text = |text: &str| {
        bytes.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(text.as_bytes());
    };
    text(if member.is_some() { "m" } else { "" });
    text(member.unwrap_or_default());
    for (name, value) in dimensions {
        text(name);
        text(value);
    }
    let digest = Sha256::digest(&bytes);
    i64::from_be_bytes(digest[..8].try_into().expect("a digest has 32 bytes")) & i64::MAX
}

statement!(Insert -> Untyped: "INSERT INTO usage_series (org_id, series_id, meter_id, member, dimensions) \
    SELECT * FROM unnest(?, ?, ?, ?, ?) ON CONFLICT (org_id, series_id) DO NOTHING");
// Two series under one number: 63 bits make that all but impossible, and this makes it harmless.
statement!(Collisions -> Bool: "SELECT true FROM unnest(?, ?, ?, ?, ?) AS t (o, s, m, u, d) \
    JOIN usage_series k ON k.org_id = t.o AND k.series_id = t.s \
    WHERE k.meter_id <> t.m OR k.member IS DISTINCT FROM t.u OR k.dimensions <> t.d");

/// As [`store`], inside the caller's transaction: as that may be rolled back, nothing is remembered.
///
/// # Errors
/// As [`store`].
pub fn store_within<'a>(
    conn: &mut PgConnection,
    series: impl Iterator<Item = &'a Arc<Series>>,
) -> Result<(), Error> {
    insert(conn, series).map(drop)
}

/// Stores those series that are not known to be stored, outside of any transaction: a series without usage
/// harms nobody.
///
/// # Errors
/// When the database fails, or two series have one number.
pub fn store<'a>(
    conn: &mut PgConnection,
    series: impl Iterator<Item = &'a Arc<Series>>,
) -> Result<(), Error> {
    for series in insert(conn, series)? {
        series.stored.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn insert<'a>(
    conn: &mut PgConnection,
    series: impl Iterator<Item = &'a Arc<Series>>,
) -> Result<Vec<&'a Arc<Series>>, Error> {
    let mut new: Vec<&Arc<Series>> = series.filter(|series| !series.stored.load(Ordering::Relaxed)).collect();
    if new.is_empty() {
        return Ok(new);
    }
    new.sort_by_key(|series| (series.org_id, series.series_id));
    new.dedup_by_key(|series| (series.org_id, series.series_id));
    let stored = bind(Prepared::<Insert>::new(), &new).execute(conn)?;
    if stored < new.len() && !bind(Prepared::<Collisions>::new(), &new).load::<bool>(conn)?.is_empty() {
        return Err(Error::Internal("two usage series share a number".to_owned()));
    }
    Ok(new)
}

fn bind<'a, Q: crate::db::prepared::StatementText>(
    statement: Prepared<'a, Q>,
    series: &[&'a Arc<Series>],
) -> Prepared<'a, Q> {
    statement
        .bind::<BigInt, _>(series.iter().map(|s| s.org_id).collect())
        .bind::<BigInt, _>(series.iter().map(|s| s.series_id).collect())
        .bind::<Integer, _>(series.iter().map(|s| s.meter.meter_id).collect())
        .bind::<Nullable<Text>, _>(series.iter().map(|s| s.member.as_deref()).collect())
        .bind::<Jsonb, _>(series.iter().map(|s| object(&s.dimensions)).collect())
}

fn object(dimensions: &[(String, String)]) -> Value {
    let entries = dimensions.iter().map(|(name, value)| (name.clone(), Value::String(value.clone())));
    Value::Object(entries.collect::<Map<_, _>>())
}
