//! A stored usage event that is corrected: finding it, and taking it back.

use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use uuid::Uuid;

use super::tier_cost::{self, TierPosition};
use super::{Correction, burn, insert_corrections, recount, too_large};
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::digest::event_key;
use crate::metering::event::Rejection;
use crate::metering::levels;
use crate::metering::posting::{self, Tiers};
use crate::metering::resolve::{posting_day, priced_by};
use crate::metering::series::{SeriesCache, dimension_pairs};
use crate::metering::unpriced::Pricing;
use crate::metering::usage::{Metered, Usage};
use crate::quantity::{Sum, is_bounded};
use crate::schema::{usage_keys, usage_records, usage_series};

/// A usage event with the records that count now.
pub(super) struct StoredEvent {
    event_key: Uuid,
    pub(super) occurred_at: DateTime<Utc>,
    /// The number of its last correction.
    pub(super) correction: i16,
    records: Vec<StoredRecord>,
}

/// A record: what one meter counted.
#[derive(Queryable)]
struct StoredRecord {
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
    labels: Option<serde_json::Value>,
    member: Option<String>,
    dimensions: serde_json::Value,
    /// Of the series; `None`: the currency of the meter.
    currency: Option<String>,
}

impl StoredEvent {
    /// Locks the event's key and reads its records.
    pub(super) fn find(conn: &mut PgConnection, correction: &Correction<'_>) -> Result<Self, Error> {
        let event_key = event_key(correction.source, correction.id);
        let org_id = correction.org.org_id;
        let occurred_at: DateTime<Utc> = usage_keys::table
            .find((org_id, event_key))
            .select(usage_keys::occurred_at)
            .for_update()
            .first(conn)
            .optional()?
            .ok_or(Error::NotFound("usage event"))?;
        let mut records: Vec<StoredRecord> = usage_records::table
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
                usage_records::labels,
                usage_series::member,
                usage_series::dimensions,
                usage_series::currency,
            ))
            .load(conn)?;
        let last = records.iter().map(|record| record.correction).max();
        let correction =
            last.ok_or(Error::NotFound("usage record of that event: its month is no longer kept"))?;
        if correction % 2 == 1 {
            return Err(Error::conflict("already_voided", "this usage event was taken back before"));
        }
        // Late pricing replaces the record of one meter alone.
        let mut last: HashMap<i32, i16> = HashMap::new();
        for record in &records {
            let last_of_meter = last.entry(record.meter_id).or_default();
            *last_of_meter = record.correction.max(*last_of_meter);
        }
        records.retain(|record| record.correction % 2 == 0 && last[&record.meter_id] == record.correction);
        Ok(Self { event_key, occurred_at, correction, records })
    }

    /// Whether every record has a price.
    pub(super) fn has_price(&self) -> bool {
        let lacks_price = |record: &StoredRecord| {
            matches!(Pricing::from_number(record.pricing), Pricing::NoRate | Pricing::NoCard)
        };
        !self.records.iter().any(lacks_price)
    }

    /// The usage that takes the event back, one for each record.
    pub(super) fn reversals(
        &self,
        catalog: &Catalog,
        series: &SeriesCache,
        correction: &Correction<'_>,
        now: DateTime<Utc>,
    ) -> Result<Vec<Usage>, Error> {
        let org = correction.org;
        let reversal = |record: &StoredRecord| {
            let day = posting_day(catalog, org, record.day, now);
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
                metered: [reversed(catalog, series, org.org_id, record)?].into(),
            })
        };
        self.records.iter().map(reversal).collect()
    }

    /// Gives the new event the days and periods of this one, and the cards that priced it. Its meters and
    /// dimensions may have changed, its time has not. `has_cost`: the caller set its cost.
    pub(super) fn put_in_place(
        &self,
        (catalog, cache): (&Catalog, &SeriesCache),
        new: &mut Usage,
        has_cost: bool,
    ) -> Result<(), Rejection> {
        let Some(first) = self.records.first() else { return Ok(()) };
        new.own_day = first.own_day.unwrap_or(first.day);
        new.day = posting_day(catalog, &new.org, first.day, new.received_at);
        new.billing_period = first.billing_start;
        for metered in new.metered.iter_mut().filter(|_| !has_cost) {
            let same_meter = |record: &&StoredRecord| record.meter_id == metered.series.meter.meter_id;
            let card_id = self.records.iter().find(same_meter).and_then(|record| record.rate_card_id);
            let card = metered.series.rates.iter().position(|(card, _)| Some(card.rate_card_id) == card_id);
            if card.is_some() {
                let series = Arc::clone(&metered.series);
                let (value, labels) = (metered.value.take(), metered.labels.take());
                let priced = priced_by((catalog, cache), series, metered.quantity, card, value)?;
                *metered = Metered { labels, ..priced };
            }
        }
        Ok(())
    }

    /// Writes the reversals and returns the event's positions in its tiers. Every row that changes is locked.
    pub(super) fn take_back(
        &self,
        conn: &mut PgConnection,
        reversals: &mut [Usage],
        correction: &Correction<'_>,
        now: DateTime<Utc>,
    ) -> Result<Vec<TierPosition>, Error> {
        let mut tiers = Tiers::raise(conn, reversals.iter())?;
        let mut positions = Vec::new();
        for reversal in &mut *reversals {
            positions.extend(tier_cost::price_reversal(conn, &mut tiers, reversal)?);
            levels::take_back(conn, reversal)?;
        }
        posting::write(conn, &reversals.iter().collect::<Vec<_>>(), -1, burn(now))?;
        for reversal in reversals.iter().filter(|reversal| !reversal.elsewhere) {
            recount::recount_day(conn, reversal)?;
        }
        insert_corrections(conn, &*reversals, (correction.actor, correction.reason), now)?;
        Ok(positions)
    }
}

/// The reversal of a record. Its cost by tiers follows when it is written.
fn reversed(
    catalog: &Catalog,
    series: &SeriesCache,
    org_id: i64,
    record: &StoredRecord,
) -> Result<Metered, Error> {
    let broken = |what: &str| Error::Internal(format!("a usage record of meter {}: {what}", record.meter_id));
    let meter = catalog.meters.get(&record.meter_id).ok_or_else(|| broken("no such meter"))?;
    let dimensions: Vec<(&str, &str)> = dimension_pairs(&record.dimensions).collect();
    let in_meter_currency = series.get(catalog, org_id, meter, record.member.as_deref(), &dimensions);
    let series = series.in_currency(catalog, &in_meter_currency, record.currency.as_deref());
    let card =
        record.rate_card_id.and_then(|id| series.rates.iter().position(|(card, _)| card.rate_card_id == id));
    let has_tiers = card.is_some_and(|card| {
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
        tiered: has_tiers,
        pricing: Pricing::from_number(record.pricing),
        value: record.value.as_deref().map(Into::into),
        labels: record.labels.as_ref().map(|labels| labels.to_string().into()),
        moves: Decimal::ZERO,
        series: Arc::clone(&series),
    })
}
