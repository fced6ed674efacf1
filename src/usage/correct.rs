//! Corrections: taking back a usage event, or putting another in its place. Both stay visible. Owns `usage_corrections`.
//!
//! What is taken back is a record with the negative quantity, counted to the day of the original, or to an open one where that
//! month is closed. No usage is written meanwhile: a correction holds the catalogue alone.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Date};
use rust_decimal::Decimal;
use uuid::Uuid;

use super::catalog::{self, Catalog};
use super::event::{Rejection, UsageEvent};
use super::ingest;
use super::meters::Aggregation;
use super::resolve::{Caller, Metered, Resolver, Usage, Window};
use super::series;
use crate::battery::Depth;
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::schema::{usage_corrections, usage_keys, usage_records, usage_series};

/// Which usage event is corrected, by whom and why.
pub struct Correction<'a> {
    /// Whose it is.
    pub org: &'a Arc<OrgContext>,
    /// Who reported it.
    pub source: &'a str,
    /// Its id there.
    pub id: &'a str,
    /// Why, for whoever asks later.
    pub reason: &'a str,
    /// Who corrects it.
    pub actor: &'a str,
}

/// Takes a usage event back. Returns the number of the correction.
///
/// # Errors
/// [`Error::NotFound`] when there is no such event, [`Error::Conflict`] when it was taken back before.
pub fn void(
    conn: &mut PgConnection,
    held: &catalog::Held,
    series: &series::Held,
    correction: &Correction<'_>,
    now: DateTime<Utc>,
) -> Result<i16, Error> {
    let catalog = held.alone(conn)?;
    let stored = Stored::find(conn, correction)?;
    stored.take_back(conn, &catalog, series, correction, now)
}

/// Puts `event` in the place of the one that is stored under its key. Returns the number of the correction.
///
/// # Errors
/// As [`void`]; [`Error::Invalid`] when the new event is rejected, names another time, or sets a cost without the right to
/// (`price`).
pub fn amend(
    conn: &mut PgConnection,
    held: &catalog::Held,
    series: &series::Held,
    price: bool,
    correction: &Correction<'_>,
    event: &UsageEvent<'_>,
    now: DateTime<Utc>,
) -> Result<i16, Error> {
    let catalog = held.alone(conn)?;
    let stored = Stored::find(conn, correction)?;
    if event.occurred_at.is_some_and(|at| at != stored.occurred_at) {
        let rule = "cannot be amended: take the event back and send it under another id";
        return Err(Error::invalid("event.occurred_at", rule));
    }
    // Its time was taken when it was first reported, so it is not asked about again.
    let caller = Caller { org_id: Some(correction.org.org_id), backfill: true, price };
    let window =
        Window { back: chrono::Duration::zero(), horizon: None, ahead: chrono::Duration::days(36_500) };
    let resolver = Resolver { catalog: &catalog, series, caller, window, now };
    let taken = stored.take_back(conn, &catalog, series, correction, now)?;
    let mut event = event.clone();
    event.occurred_at = Some(stored.occurred_at);
    let refused = |rejection: Rejection| {
        Error::invalid(
            format!("event.{}", rejection.field),
            format!("{}: {}", rejection.rule, rejection.detail),
        )
    };
    let mut new = resolver.resolve(&event, correction.org).map_err(refused)?;
    new.correction = taken + 1;
    series::store_within(conn, new.metered.iter().map(|metered| &metered.series))?;
    ingest::write(conn, &mut [&mut new], 1, burn(now))?;
    record(conn, correction, new.event_key, new.correction, now)?;
    Ok(new.correction)
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
    day: NaiveDate,
    billing_period: Option<NaiveDate>,
    correction: i16,
    quantity: Decimal,
    cost: Decimal,
    battery_units: Decimal,
    subject: Option<String>,
    value: Option<String>,
    member: Option<String>,
    dimensions: serde_json::Value,
}

impl Stored {
    fn find(conn: &mut PgConnection, correction: &Correction<'_>) -> Result<Self, Error> {
        let event_key = super::resolve::event_key(correction.source, correction.id);
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
                usage_records::day,
                usage_records::billing_period,
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
        records.retain(|record| record.correction == correction);
        Ok(Self { event_key, occurred_at, correction, records })
    }

    fn take_back(
        &self,
        conn: &mut PgConnection,
        catalog: &Catalog,
        held: &series::Held,
        correction: &Correction<'_>,
        now: DateTime<Utc>,
    ) -> Result<i16, Error> {
        let number = self.correction + 1;
        let org = correction.org;
        let mut taken = Vec::with_capacity(self.records.len());
        for record in &self.records {
            let (day, billing_period) = match catalog.closed_month(org.org_id) {
                Some(closed) if record.day < next_month(closed) => {
                    (org.day(now).max(next_month(closed)), org.billing_period(now))
                }
                _ => (record.day, record.billing_period),
            };
            taken.push(Usage {
                org: Arc::clone(org),
                event_key: self.event_key,
                content: 0,
                occurred_at: self.occurred_at,
                received_at: now,
                day,
                billing_period,
                event_id: correction.id.into(),
                source: correction.source.into(),
                subject: record.subject.as_deref().map(Into::into),
                correction: number,
                metered: [negative(catalog, held, org.org_id, record)?].into(),
            });
        }
        ingest::write(conn, &mut taken.iter_mut().collect::<Vec<_>>(), -1, burn(now))?;
        for one in &taken {
            for metered in
                one.metered.iter().filter(|metered| !metered.series.meter.aggregation.is_additive())
            {
                let everywhere = catalog.closed_month(org.org_id).is_some();
                recompute(conn, metered, org.org_id, one.day, everywhere)?;
            }
        }
        record(conn, correction, self.event_key, number, now)?;
        Ok(number)
    }
}

/// What a correction takes back may go to any grant.
fn burn(now: DateTime<Utc>) -> ingest::Burn<'static> {
    ingest::Burn { terms: None, locked: None, depth: Depth::All, now }
}

fn next_month(month: NaiveDate) -> NaiveDate {
    month.checked_add_months(chrono::Months::new(1)).unwrap_or(NaiveDate::MAX)
}

/// What takes a record back: the tiers are asked again, as other usage may have moved their bounds since.
fn negative(catalog: &Catalog, held: &series::Held, org_id: i64, record: &Record) -> Result<Metered, Error> {
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
    Ok(Metered {
        quantity: -record.quantity,
        cost: -record.cost,
        battery_units: -record.battery_units,
        card,
        tiered,
        value: record.value.as_deref().map(Into::into),
        series: Arc::clone(&series),
    })
}

/// Finds a day of a series that does not add up anew from its records. Nobody else writes usage now.
fn recompute(
    conn: &mut PgConnection,
    metered: &Metered,
    org_id: i64,
    day: NaiveDate,
    everywhere: bool,
) -> Result<(), Error> {
    const LIVE: &str = "WITH live AS (
            SELECT quantity, occurred_at, value FROM usage_records r
            WHERE org_id = $1 AND series_id = $2 AND day = $3 AND correction % 2 = 0
              AND ($4 OR occurred_at BETWEEN $3::timestamp - interval '2 days' AND $3::timestamp + interval '3 days')
              AND NOT EXISTS (SELECT FROM usage_records v WHERE (v.org_id, v.occurred_at, v.event_key, v.meter_id, v.correction)
                              = (r.org_id, r.occurred_at, r.event_key, r.meter_id, (r.correction + 1)::smallint)))";
    let unique = metered.series.meter.aggregation == Aggregation::Unique;
    let sql = if unique {
        format!(
            "{LIVE}, kept AS (SELECT DISTINCT encode(substr(sha256(convert_to(value, 'UTF8')), 1, 16), 'hex')::uuid AS digest FROM live),
             gone AS (DELETE FROM usage_uniques u WHERE org_id = $1 AND series_id = $2 AND day = $3 AND value_digest NOT IN (SELECT digest FROM kept))
             UPDATE daily_summaries SET quantity = (SELECT count(*) FROM kept), count = (SELECT count(*) FROM live)
             WHERE org_id = $1 AND series_id = $2 AND day = $3"
        )
    } else {
        let best = match metered.series.meter.aggregation {
            Aggregation::Max => "quantity DESC",
            _ => "occurred_at DESC, quantity DESC",
        };
        format!(
            "{LIVE}, best AS (SELECT quantity, occurred_at FROM live ORDER BY {best} LIMIT 1)
             UPDATE daily_summaries SET quantity = coalesce((SELECT quantity FROM best), 0), count = (SELECT count(*) FROM live),
                    latest_at = CASE WHEN $5 THEN (SELECT occurred_at FROM best) END
             WHERE org_id = $1 AND series_id = $2 AND day = $3"
        )
    };
    let query = diesel::sql_query(sql)
        .bind::<BigInt, _>(org_id)
        .bind::<BigInt, _>(metered.series.series_id)
        .bind::<Date, _>(day)
        .bind::<Bool, _>(everywhere);
    if unique {
        query.execute(conn)?;
    } else {
        query.bind::<Bool, _>(metered.series.meter.aggregation == Aggregation::Latest).execute(conn)?;
    }
    Ok(())
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
        .execute(conn)?;
    Ok(())
}
