//! Corrections: taking back a usage event, or putting another in its place. Both stay visible. Owns
//! `usage_corrections`.
//!
//! What is taken back is a record with the negative quantity. It belongs to the day of the original, whose
//! tiers and quotas it goes back to, and is posted to that day, or to an open one where that month is closed.
//! Of meters that do not add up, what is taken back in a closed month changes nothing: the closed month stays
//! as it was told, and nothing of it is in the open one.
//!
//! Usage goes on being written meanwhile. A correction holds the catalogue shared, as all who write usage do,
//! and locks the event's key and then every row that it changes, in the order that they keep
//! ([`posting::lock_rows`]). Whoever wrote to such a row before has committed by then, records and all;
//! whoever comes later adds to what the correction leaves. The corrections of one org follow each other, so
//! that usage waits for few of them.

mod charged;
pub mod rate;
mod recount;

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Integer};
use rust_decimal::Decimal;
use uuid::Uuid;

use crate::battery::Depth;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::event::{Rejection, UsageEvent};
use crate::metering::levels::{self, Levels};
use crate::metering::posting::{self, Tiers};
use crate::metering::resolve::{Caller, Metered, Resolver, Usage, Window, posted, priced_by};
use crate::metering::series;
use crate::metering::unpriced::{self, Pricing};
use crate::quantity::{Sum, is_bounded};
use crate::quota::rulebook::{Rulebook, RulebookCache};
use crate::schema::{usage_corrections, usage_keys, usage_records, usage_series};

/// Advisory locks of corrections, one for each org.
const LOCK: i32 = 2_685_666;
/// The number of the last correction that can be amended: two more have a place in
/// `usage_records.correction`.
const LAST: i16 = i16::MAX - 2;

/// Which usage event is corrected, by whom and why.
pub struct Correction<'a> {
    pub org: &'a Arc<OrgContext>,
    pub source: &'a str,
    pub id: &'a str,
    /// Why, for whoever asks later.
    pub reason: &'a str,
    pub actor: &'a str,
}

/// Takes a usage event back. Returns the number of the correction.
///
/// # Errors
/// [`Error::NotFound`] when there is no such event, [`Error::Conflict`] when it was taken back before.
pub fn void(
    conn: &mut PgConnection,
    rules: &RulebookCache,
    series: &series::SeriesCache,
    correction: &Correction<'_>,
    now: DateTime<Utc>,
) -> Result<i16, Error> {
    let rules = begin(conn, rules, correction)?;
    let catalog = &rules.catalog;
    let stored = Stored::find(conn, correction)?;
    let mut taken = stored.taken_back(catalog, series, correction, now)?;
    posting::lock_rows(conn, correction.org.org_id, &taken.iter().collect::<Vec<_>>(), Depth::All, now)?;
    stored.take_back(conn, &mut taken, correction, now)?;
    Ok(stored.correction + 1)
}

/// Puts `event` in the place of the one that is stored under its key. Returns the number of the correction.
///
/// # Errors
/// As [`void`]; [`Error::Invalid`] when the new event is rejected, names another time, or sets a cost without
/// the right to (`price`).
pub fn amend(
    conn: &mut PgConnection,
    rules: &RulebookCache,
    series: &series::SeriesCache,
    price: bool,
    correction: &Correction<'_>,
    event: &UsageEvent<'_>,
    now: DateTime<Utc>,
) -> Result<i16, Error> {
    let rules = begin(conn, rules, correction)?;
    let catalog = &rules.catalog;
    let stored = Stored::find(conn, correction)?;
    if stored.correction > LAST {
        let detail =
            "this usage event was amended as often as one can be: take it back, and send it under another id";
        return Err(Error::conflict("too_many_corrections", detail));
    }
    if event.occurred_at.is_some_and(|at| at != stored.occurred_at) {
        let rule = "cannot be amended: take the event back and send it under another id";
        return Err(Error::invalid("event.occurred_at", rule));
    }
    // Its time was taken when it was first reported, so it is not asked about again.
    let caller = Caller { org_id: Some(correction.org.org_id), backfill: true, price };
    let window =
        Window { back: chrono::Duration::zero(), horizon: None, ahead: chrono::Duration::days(36_500) };
    let resolver = Resolver { catalog, series, caller, window, now };
    let mut event = event.clone();
    event.occurred_at = Some(stored.occurred_at);
    let refused = |rejection: Rejection| {
        Error::invalid(
            format!("event.{}", rejection.field),
            format!("{}: {}", rejection.rule, rejection.detail),
        )
    };
    let mut new = resolver.resolve(&event, correction.org).map_err(refused)?;
    new.correction = stored.correction + 2;
    stored.place(catalog, &mut new, event.cost.is_some()).map_err(refused)?;
    // What has no price may be amended as it is; what has one does not lose it.
    if stored.has_price() {
        unpriced::refuse(&new).map_err(refused)?;
    }
    let mut taken = stored.taken_back(catalog, series, correction, now)?;
    series::store_within(conn, new.metered.iter().map(|metered| &metered.series))?;
    let both: Vec<&Usage> = taken.iter().chain([&new]).collect();
    posting::lock_rows(conn, correction.org.org_id, &both, Depth::All, now)?;
    let places = stored.take_back(conn, &mut taken, correction, now)?;
    let mut tiers = Tiers::raise(conn, [&new])?;
    charged::charge_again(conn, &mut tiers, &mut new, &places)?;
    let mut levels = Levels::lock(conn, [&new])?;
    levels.take(&mut new).map_err(refused)?;
    posting::write(conn, &[&new], 1, burn(now))?;
    levels.write(conn)?;
    record(conn, correction, new.event_key, new.correction, now)?;
    Ok(new.correction)
}

/// Locks the catalogue shared, and has the org's corrections follow each other.
fn begin(
    conn: &mut PgConnection,
    rules: &RulebookCache,
    correction: &Correction<'_>,
) -> Result<Arc<Rulebook>, Error> {
    alone(conn, correction.org.org_id)?;
    rules.lock_shared(conn)
}

/// Has the org's corrections follow each other.
fn alone(conn: &mut PgConnection, org_id: i64) -> Result<(), Error> {
    diesel::sql_query("SELECT pg_advisory_xact_lock($1, hashint8($2))")
        .bind::<Integer, _>(LOCK)
        .bind::<BigInt, _>(org_id)
        .execute(conn)?;
    Ok(())
}

/// As [`alone`], without waiting: whether no other correction of the org is under way.
fn alone_at_once(conn: &mut PgConnection, org_id: i64) -> Result<bool, Error> {
    let lock = diesel::dsl::sql::<Bool>("pg_try_advisory_xact_lock(").bind::<Integer, _>(LOCK);
    let lock = lock.sql(", hashint8(").bind::<BigInt, _>(org_id).sql("))");
    Ok(diesel::select(lock).get_result(conn)?)
}

/// The event as it counts now.
struct Stored {
    event_key: Uuid,
    occurred_at: DateTime<Utc>,
    correction: i16,
    records: Vec<Record>,
}

/// One of its records.
#[derive(Queryable)]
struct Record {
    meter_id: i32,
    rate_card_id: Option<i32>,
    pricing: i16,
    day: NaiveDate,
    own_day: Option<NaiveDate>,
    billing_start: Option<DateTime<Utc>>,
    correction: i16,
    quantity: Decimal,
    cost: Sum,
    battery_units: Sum,
    subject: Option<String>,
    value: Option<String>,
    member: Option<String>,
    dimensions: serde_json::Value,
}

impl Stored {
    fn find(conn: &mut PgConnection, correction: &Correction<'_>) -> Result<Self, Error> {
        let event_key = crate::metering::resolve::event_key(correction.source, correction.id);
        let org_id = correction.org.org_id;
        let occurred_at: DateTime<Utc> = usage_keys::table
            .find((org_id, event_key))
            .select(usage_keys::occurred_at)
            .for_update()
            .first(conn)
            .optional()?
            .ok_or(Error::NotFound("usage event"))?;
        let mut records: Vec<Record> = usage_records::table
            .inner_join(
                usage_series::table.on(usage_series::org_id
                    .eq(usage_records::org_id)
                    .and(usage_series::series_id.eq(usage_records::series_id))),
            )
            .filter(usage_records::org_id.eq(org_id))
            .filter(usage_records::occurred_at.eq(occurred_at))
            .filter(usage_records::event_key.eq(event_key))
            .select((
                usage_records::meter_id,
                usage_records::rate_card_id,
                usage_records::pricing,
                usage_records::day,
                usage_records::own_day,
                usage_records::billing_start,
                usage_records::correction,
                usage_records::quantity,
                usage_records::cost,
                usage_records::battery_units,
                usage_records::subject,
                usage_records::value,
                usage_series::member,
                usage_series::dimensions,
            ))
            .load(conn)?;
        let last = records.iter().map(|record| record.correction).max();
        let correction =
            last.ok_or(Error::NotFound("usage record of that event: its month is no longer kept"))?;
        if correction % 2 == 1 {
            return Err(Error::conflict("already_voided", "this usage event was taken back before"));
        }
        // What was priced later was replaced on one meter alone.
        let mut last: HashMap<i32, i16> = HashMap::new();
        for record in &records {
            let of_meter = last.entry(record.meter_id).or_default();
            *of_meter = record.correction.max(*of_meter);
        }
        records.retain(|record| record.correction % 2 == 0 && last[&record.meter_id] == record.correction);
        Ok(Self { event_key, occurred_at, correction, records })
    }

    /// Whether none of its records lacks a price.
    fn has_price(&self) -> bool {
        let lacks =
            |record: &Record| matches!(Pricing::of(record.pricing), Pricing::NoRate | Pricing::NoCard);
        !self.records.iter().any(lacks)
    }

    /// What takes the event back.
    fn taken_back(
        &self,
        catalog: &Catalog,
        held: &series::SeriesCache,
        correction: &Correction<'_>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Usage>, Error> {
        let org = correction.org;
        let taken = self.records.iter().map(|record| {
            let day = posted(catalog, org, record.day, now);
            Ok(Usage {
                org: Arc::clone(org),
                event_key: self.event_key,
                content: 0,
                names_time: true,
                occurred_at: self.occurred_at,
                received_at: now,
                day,
                own_day: record.own_day.unwrap_or(record.day),
                billing_period: record.billing_start,
                event_id: correction.id.into(),
                source: correction.source.into(),
                subject: record.subject.as_deref().map(Into::into),
                correction: record.correction + 1,
                elsewhere: day != record.day,
                metered: [negative(catalog, held, org.org_id, record)?].into(),
            })
        });
        taken.collect()
    }

    /// Puts what takes the event's place where that belongs, by the cards that priced it; what it is called
    /// may have changed, when it happened has not. `has_cost`: the caller says what it costs.
    fn place(&self, catalog: &Catalog, new: &mut Usage, has_cost: bool) -> Result<(), Rejection> {
        let Some(first) = self.records.first() else { return Ok(()) };
        new.own_day = first.own_day.unwrap_or(first.day);
        new.day = posted(catalog, &new.org, first.day, new.received_at);
        new.billing_period = first.billing_start;
        for metered in new.metered.iter_mut().filter(|_| !has_cost) {
            let of_meter = |record: &&Record| record.meter_id == metered.series.meter.meter_id;
            let card = self.records.iter().find(of_meter).and_then(|record| record.rate_card_id);
            let place = metered.series.rates.iter().position(|(rate, _)| Some(rate.rate_card_id) == card);
            if place.is_some() {
                let series = Arc::clone(&metered.series);
                *metered = priced_by(series, metered.quantity, place, metered.value.take())?;
            }
        }
        Ok(())
    }

    /// Writes what takes the event back, and tells where it stood in its tiers. Every row that it changes is
    /// locked.
    fn take_back(
        &self,
        conn: &mut PgConnection,
        taken: &mut [Usage],
        correction: &Correction<'_>,
        now: DateTime<Utc>,
    ) -> Result<Vec<charged::Place>, Error> {
        let mut tiers = Tiers::raise(conn, taken.iter())?;
        let mut places = Vec::new();
        for one in &mut *taken {
            places.extend(charged::give_back(conn, &mut tiers, one)?);
            levels::take_back(conn, one)?;
        }
        posting::write(conn, &taken.iter().collect::<Vec<_>>(), -1, burn(now))?;
        for one in taken.iter().filter(|one| !one.elsewhere) {
            recount::without(conn, one)?;
        }
        for number in taken.iter().map(|one| one.correction) {
            record(conn, correction, self.event_key, number, now)?;
        }
        Ok(places)
    }
}

fn too_large() -> Error {
    Error::conflict("amount_too_large", "what this would cost or give back is too large a number to be kept")
}

/// What a correction takes back may go to any grant.
fn burn(now: DateTime<Utc>) -> posting::Burn<'static> {
    posting::Burn { terms: None, locked: None, depth: Depth::All, now }
}

/// What takes a record back; what its tiers give back is asked when it is written.
fn negative(
    catalog: &Catalog,
    held: &series::SeriesCache,
    org_id: i64,
    record: &Record,
) -> Result<Metered, Error> {
    let broken = |what: &str| Error::Internal(format!("a usage record of meter {}: {what}", record.meter_id));
    let meter = catalog.meters.get(&record.meter_id).ok_or_else(|| broken("no such meter"))?;
    let dimensions: Vec<(&str, &str)> = record
        .dimensions
        .as_object()
        .ok_or_else(|| broken("its dimensions"))?
        .iter()
        .filter_map(|(name, value)| Some((name.as_str(), value.as_str()?)))
        .collect();
    let series = held.of(catalog, org_id, meter, record.member.as_deref(), &dimensions);
    let card =
        record.rate_card_id.and_then(|id| series.rates.iter().position(|(card, _)| card.rate_card_id == id));
    let tiered = card.is_some_and(|card| {
        let (card, rate) = &series.rates[card];
        rate.is_some_and(|rate| card.rates[rate].tiers.is_some())
    });
    if !is_bounded(record.quantity) || ![record.cost, record.battery_units].into_iter().all(Sum::is_bounded) {
        return Err(too_large());
    }
    Ok(Metered {
        quantity: -record.quantity,
        cost: -record.cost,
        battery_units: -record.battery_units,
        card,
        tiered,
        pricing: Pricing::of(record.pricing),
        value: record.value.as_deref().map(Into::into),
        moves: Decimal::ZERO,
        series: Arc::clone(&series),
    })
}

fn record(
    conn: &mut PgConnection,
    correction: &Correction<'_>,
    event_key: Uuid,
    number: i16,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    diesel::insert_into(usage_corrections::table)
        .values((
            usage_corrections::org_id.eq(correction.org.org_id),
            usage_corrections::event_key.eq(event_key),
            usage_corrections::correction.eq(number),
            usage_corrections::at.eq(now),
            usage_corrections::actor.eq(correction.actor),
            usage_corrections::reason.eq(correction.reason),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    Ok(())
}
