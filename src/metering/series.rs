//! Series: one number for (org, meter, member, dimensions, currency). Owns `usage_series`.
//!
//! The number is a digest, so it needs no look-up. A daemon has in memory which series are stored already,
//! and which slots and rates of the catalogue apply to each.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer, Jsonb, Nullable, Text, Untyped};
use quick_cache::sync::Cache;
use serde_json::{Map, Value};

use super::catalog::Catalog;
use super::meters::Meter;
use super::rates::RateCard;
use super::rates::choose::{self, Buyer};
use crate::db::prepared::{Prepared, statement};
use crate::error::Error;
use crate::metering::digest::series_number;
use crate::metering::slots::Slot;

/// Series in memory at most.
const CAPACITY: usize = 100_000;

/// A series, with the slots and rates of one version of the catalogue that apply to it.
#[derive(Debug)]
pub struct Series {
    pub org_id: i64,
    /// Unique in the org.
    pub series_id: i64,
    pub meter: Arc<Meter>,
    pub member: Option<String>,
    /// The meter's dimensions that the usage has, sorted by name.
    pub dimensions: Vec<(String, String)>,
    /// Of its costs; `None`: the currency of the meter.
    pub currency: Option<String>,
    pub slots: Vec<Arc<Slot>>,
    /// The meter's rate cards that may price usage of the org, for any plan, in the order of precedence. Each
    /// with the index of its rate that fits, if one does.
    pub rates: Vec<(Arc<RateCard>, Option<usize>)>,
    /// Any of these rates has tiers.
    pub has_tiers: bool,
    /// Version of the catalogue that slots and rates are from.
    version: i64,
    is_stored: AtomicBool,
}

impl Series {
    /// Index in `rates` of the card that prices usage of that time.
    #[must_use]
    pub(crate) fn priced_by(&self, buyer: Buyer<'_>, at: DateTime<Utc>) -> Option<usize> {
        let cards = self.rates.iter().map(|(card, rate)| (&**card, rate.is_some()));
        choose::position(cards, (buyer, self.meter.currency.as_deref()), at)
    }
}

/// The series that this process has seen lately, by org and number.
pub struct SeriesCache(Cache<(i64, i64), Arc<Series>>);

impl Default for SeriesCache {
    fn default() -> Self {
        Self(Cache::new(CAPACITY))
    }
}

impl SeriesCache {
    /// The series of usage, by this version of the catalogue. `dimensions` are sorted by name.
    #[must_use]
    pub fn get(
        &self,
        catalog: &Catalog,
        org_id: i64,
        meter: &Arc<Meter>,
        member: Option<&str>,
        dimensions: &[(&str, &str)],
    ) -> Arc<Series> {
        self.with_currency(catalog, (org_id, meter), (member, dimensions), None)
    }

    /// The same series with costs in this currency; `None`: in the currency of the meter.
    #[must_use]
    pub fn in_currency(
        &self,
        catalog: &Catalog,
        series: &Arc<Series>,
        currency: Option<&str>,
    ) -> Arc<Series> {
        let currency = currency.filter(|currency| Some(*currency) != series.meter.currency.as_deref());
        if series.currency.as_deref() == currency {
            return Arc::clone(series);
        }
        let dimensions: Vec<(&str, &str)> =
            series.dimensions.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let member = series.member.as_deref();
        self.with_currency(catalog, (series.org_id, &series.meter), (member, &dimensions), currency)
    }

    fn with_currency(
        &self,
        catalog: &Catalog,
        (org_id, meter): (i64, &Arc<Meter>),
        (member, dimensions): (Option<&str>, &[(&str, &str)]),
        currency: Option<&str>,
    ) -> Arc<Series> {
        let series_id = series_number((org_id, meter.meter_id), member, dimensions, currency);
        let cached = self.0.get(&(org_id, series_id));
        if let Some(series) = &cached
            && series.version == catalog.version
        {
            return Arc::clone(series);
        }
        let is_stored = cached.is_some_and(|series| series.is_stored.load(Ordering::Relaxed));
        let dimensions: Vec<(String, String)> =
            dimensions.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let slots = catalog.slots.get(&meter.meter_id).into_iter().flatten();
        let cards = catalog.rate_cards(meter.meter_id, org_id);
        let rates: Vec<(Arc<RateCard>, Option<usize>)> =
            cards.map(|card| (Arc::clone(card), super::rating::rate_for(card, &dimensions))).collect();
        let has_tiers = |(card, rate): &(Arc<RateCard>, Option<usize>)| {
            rate.is_some_and(|rate| card.rates[rate].tiers.is_some())
        };
        let series = Arc::new(Series {
            org_id,
            series_id,
            meter: Arc::clone(meter),
            member: member.map(str::to_owned),
            currency: currency.map(str::to_owned),
            slots: slots.filter(|slot| slot.counts(org_id, &dimensions)).cloned().collect(),
            has_tiers: rates.iter().any(has_tiers),
            rates,
            dimensions,
            version: catalog.version,
            is_stored: AtomicBool::new(is_stored),
        });
        self.0.insert((org_id, series_id), Arc::clone(&series));
        series
    }
}

statement!(Insert -> Untyped: "INSERT INTO usage_series \
    (org_id, series_id, meter_id, member, dimensions, currency) \
    SELECT * FROM unnest(?, ?, ?, ?, ?, ?) ON CONFLICT (org_id, series_id) DO NOTHING");
// Two series with one number: 63 bits make that nearly impossible, and this check makes it harmless.
statement!(Collisions -> Bool: "SELECT true FROM unnest(?, ?, ?, ?, ?, ?) AS t (o, s, m, u, d, c) \
    JOIN usage_series k ON k.org_id = t.o AND k.series_id = t.s \
    WHERE k.meter_id <> t.m OR k.member IS DISTINCT FROM t.u OR k.dimensions <> t.d \
        OR k.currency IS DISTINCT FROM t.c");

/// As [`store`], inside the caller's transaction. That may be rolled back, so the cache does not remember the
/// series as stored.
pub fn store_within<'a>(
    conn: &mut PgConnection,
    series: impl Iterator<Item = &'a Arc<Series>>,
) -> Result<(), Error> {
    insert(conn, series).map(drop)
}

/// Stores the series that are not known to be stored. Outside of any transaction: a series without usage does
/// no harm.
///
/// # Errors
/// [`Error::Internal`] when two series have one number.
pub fn store<'a>(
    conn: &mut PgConnection,
    series: impl Iterator<Item = &'a Arc<Series>>,
) -> Result<(), Error> {
    for series in insert(conn, series)? {
        series.is_stored.store(true, Ordering::Relaxed);
    }
    Ok(())
}

fn insert<'a>(
    conn: &mut PgConnection,
    series: impl Iterator<Item = &'a Arc<Series>>,
) -> Result<Vec<&'a Arc<Series>>, Error> {
    let mut new: Vec<&Arc<Series>> =
        series.filter(|series| !series.is_stored.load(Ordering::Relaxed)).collect();
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
        .bind::<Nullable<Text>, _>(series.iter().map(|s| s.currency.as_deref()).collect())
}

/// The dimensions of a row of `usage_series`.
pub(crate) fn dimension_pairs(dimensions: &Value) -> impl Iterator<Item = (&str, &str)> {
    let pairs = dimensions.as_object().into_iter().flatten();
    pairs.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
}

fn object(dimensions: &[(String, String)]) -> Value {
    let entries = dimensions.iter().map(|(name, value)| (name.clone(), Value::String(value.clone())));
    Value::Object(entries.collect::<Map<_, _>>())
}
