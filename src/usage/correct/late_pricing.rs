//! Prices usage that had no price when it arrived. Each event is taken back and written again, with the rate
//! card of its time and in the tiers of its month. Usage with a price keeps it.

use std::sync::Arc;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Date, Integer, Jsonb, Nullable, Numeric, SmallInt, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::Serialize;
use smallvec::smallvec;
use utoipa::ToSchema;
use uuid::Uuid;

use super::{LAST_AMENDABLE, burn, insert_corrections, tier_cost};
use crate::battery::Depth;
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::meters::{self, Meter};
use crate::metering::posting::{self, Tiers};
use crate::metering::resolve::{posting_day, priced};
use crate::metering::series::{self, SeriesCache, dimension_pairs};
use crate::metering::unpriced::Pricing;
use crate::metering::usage::{Metered, Usage};
use crate::quantity::Sum;
use crate::quota::rulebook::RulebookCache;

/// Usage events that one transaction prices at most.
const MAX_EVENTS: usize = 1_000;
/// Records that one query reads.
const PAGE: i64 = 20_000;

/// Which usage is priced, by whom and why.
#[derive(Clone, Debug)]
pub struct LatePricing<'a> {
    /// Key of the meter.
    pub meter: &'a str,
    /// Row id of the org; `None`: the first org with such usage.
    pub org_id: Option<i64>,
    /// Only usage that occurred at or after.
    pub from: Option<DateTime<Utc>>,
    /// Only usage that occurred before.
    pub before: Option<DateTime<Utc>>,
    pub reason: &'a str,
    pub actor: &'a str,
}

/// The usage that was priced.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Rated {
    /// Public id of the org whose usage was priced; null: no usage could be priced.
    pub org: Option<String>,
    /// Usage events that have a price now.
    pub events: u64,
    /// What they cost, a decimal.
    pub cost: String,
    /// Battery units that they burned, a decimal.
    pub battery_units: String,
    /// There is more: ask again.
    pub more: bool,
}

/// A record without a price.
#[derive(QueryableByName)]
struct UnpricedRecord {
    #[diesel(sql_type = diesel::sql_types::Uuid)]
    event_key: Uuid,
    #[diesel(sql_type = Timestamptz)]
    occurred_at: DateTime<Utc>,
    #[diesel(sql_type = Date)]
    day: NaiveDate,
    #[diesel(sql_type = Nullable<Date>)]
    own_day: Option<NaiveDate>,
    #[diesel(sql_type = Nullable<Timestamptz>)]
    billing_start: Option<DateTime<Utc>>,
    #[diesel(sql_type = SmallInt)]
    correction: i16,
    #[diesel(sql_type = SmallInt)]
    pricing: i16,
    #[diesel(sql_type = Numeric)]
    quantity: Decimal,
    #[diesel(sql_type = Text)]
    event_id: String,
    #[diesel(sql_type = Text)]
    source: String,
    #[diesel(sql_type = Nullable<Text>)]
    subject: Option<String>,
    #[diesel(sql_type = Nullable<Text>)]
    member: Option<String>,
    #[diesel(sql_type = Jsonb)]
    dimensions: serde_json::Value,
    #[diesel(sql_type = Nullable<Jsonb>)]
    labels: Option<serde_json::Value>,
}

/// Valid records `r` without a price: no rate fitted, there was no card, or, for records of older versions,
/// the cost is 0.
const WITHOUT_PRICE: &str =
    "r.rate_card_id IS NULL AND (r.pricing IN (2, 3) OR (r.pricing = 0 AND r.cost = 0))
    AND r.correction % 2 = 0 AND r.correction <= $5
    AND ($3::timestamptz IS NULL OR r.occurred_at >= $3) AND ($4::timestamptz IS NULL OR r.occurred_at < $4)
    AND NOT EXISTS (SELECT FROM usage_records v WHERE v.org_id = r.org_id AND v.occurred_at = r.occurred_at
        AND v.event_key = r.event_key AND v.meter_id = r.meter_id AND v.correction = r.correction + 1)";

/// Prices usage of one org, at most [`MAX_EVENTS`] events. [`Rated::more`] says whether there is more.
///
/// # Errors
/// [`Error::NotFound`] when there is no such meter; [`Error::Conflict`] when it does not add up, or an amount
/// is too large.
pub fn price_late(
    conn: &mut PgConnection,
    (rules, series, directory): (&RulebookCache, &SeriesCache, &Directory),
    asked: &LatePricing<'_>,
    now: DateTime<Utc>,
) -> Result<Rated, Error> {
    let meter = meters::find(conn, asked.meter)?;
    if !meter.aggregation.is_additive() {
        let detail = "usage of a meter whose quantities do not add up has no price";
        return Err(Error::conflict("meter_not_additive", detail));
    }
    let nothing = Rated { cost: "0".to_owned(), battery_units: "0".to_owned(), ..Rated::default() };
    if let Some(org_id) = asked.org_id {
        super::lock_org(conn, org_id)?;
        let catalog = &rules.lock_shared(conn)?.catalog;
        let org = directory.load(conn, &[], &[org_id])?.into_iter().next();
        let Some((_, org)) = org else { return Ok(nothing) };
        return price_org(conn, (catalog, series), asked, (&meter, &org), now);
    }
    let catalog = &rules.lock_shared(conn)?.catalog;
    for org_id in orgs_with_usage(conn, &meter)? {
        let Some((_, org)) = directory.load(conn, &[], &[org_id])?.into_iter().next() else { continue };
        if find_priceable(conn, (catalog, series), asked, (&meter, &org), 1, now)?.0.is_empty() {
            continue;
        }
        // The catalogue is locked, and a correction may wait for it: so do not wait for a correction.
        if !super::try_lock_org(conn, org_id)? {
            return Err(Error::Busy(
                "another correction of the same org is under way: try again in a second",
            ));
        }
        // Another org may have such usage, too. The next call will find none of this one.
        return Ok(Rated { more: true, ..price_org(conn, (catalog, series), asked, (&meter, &org), now)? });
    }
    Ok(nothing)
}

/// The orgs with usage of a meter.
fn orgs_with_usage(conn: &mut PgConnection, meter: &Meter) -> Result<Vec<i64>, Error> {
    use crate::schema::usage_series;
    let with_meter = usage_series::table.filter(usage_series::meter_id.eq(meter.meter_id));
    Ok(with_meter.select(usage_series::org_id).distinct().order(usage_series::org_id).load(conn)?)
}

fn price_org(
    conn: &mut PgConnection,
    (catalog, cache): (&Catalog, &SeriesCache),
    asked: &LatePricing<'_>,
    (meter, org): (&Meter, &Arc<OrgContext>),
    now: DateTime<Utc>,
) -> Result<Rated, Error> {
    let (pairs, more) = find_priceable(conn, (catalog, cache), asked, (meter, org), MAX_EVENTS, now)?;
    let (reversals, mut new): (Vec<Usage>, Vec<Usage>) = pairs.into_iter().unzip();
    let mut rated = Rated { org: Some(org.public_id.to_string()), more, ..Rated::default() };
    (rated.cost, rated.battery_units) = ("0".to_owned(), "0".to_owned());
    if new.is_empty() {
        return Ok(rated);
    }
    // A price in another currency than the meter's has a series of its own.
    let priced_series = new.iter().flat_map(|usage| &usage.metered).map(|metered| &metered.series);
    series::store_within(conn, priced_series)?;
    let all: Vec<&Usage> = reversals.iter().chain(&new).collect();
    posting::lock_rows(conn, org.org_id, &all, Depth::All, now)?;
    let mut tiers = Tiers::raise(conn, &new)?;
    for usage in &mut new {
        tier_cost::price_replacement(conn, &mut tiers, usage, &[])?;
    }
    posting::write(conn, &reversals.iter().collect::<Vec<_>>(), -1, burn(now))?;
    posting::write(conn, &new.iter().collect::<Vec<_>>(), 1, burn(now))?;
    insert_corrections(conn, reversals.iter().chain(&new), (asked.actor, asked.reason), now)?;
    let sum = |amount: fn(&Usage) -> Sum| new.iter().map(amount).sum::<Sum>().shown().to_string();
    rated.events = u64::try_from(new.len()).unwrap_or_default();
    rated.cost = sum(|usage| usage.metered.iter().map(|metered| metered.cost).sum());
    rated.battery_units = sum(posting::units);
    Ok(rated)
}

/// The reversal of a record, and the usage that replaces it.
type Replacement = (Usage, Usage);

/// Records without a price that can have one now, at most `limit`, and whether there are more.
fn find_priceable(
    conn: &mut PgConnection,
    (catalog, series): (&Catalog, &SeriesCache),
    asked: &LatePricing<'_>,
    (meter, org): (&Meter, &Arc<OrgContext>),
    limit: usize,
    now: DateTime<Utc>,
) -> Result<(Vec<Replacement>, bool), Error> {
    let meter = catalog.meters.get(&meter.meter_id).ok_or(Error::NotFound("meter"))?;
    let mut pairs = Vec::new();
    let mut after = None;
    loop {
        let rows = read_page(conn, asked, (org.org_id, meter.meter_id), after)?;
        let read = i64::try_from(rows.len()).unwrap_or(PAGE);
        after = rows.last().map(|row| (row.occurred_at, row.event_key));
        for row in rows {
            let Some(pair) = replacement((catalog, series), (meter, org), &row, now)? else { continue };
            if pairs.len() == limit {
                return Ok((pairs, true));
            }
            pairs.push(pair);
        }
        if read < PAGE {
            return Ok((pairs, false));
        }
    }
}

fn read_page(
    conn: &mut PgConnection,
    asked: &LatePricing<'_>,
    (org_id, meter_id): (i64, i32),
    after: Option<(DateTime<Utc>, Uuid)>,
) -> Result<Vec<UnpricedRecord>, Error> {
    let sql = format!(
        "SELECT r.event_key, r.occurred_at, r.day, r.own_day, r.billing_start, r.correction, r.pricing,
             r.quantity,
             r.event_id, r.source, r.subject, s.member, s.dimensions, r.labels
         FROM usage_records r JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
         WHERE r.org_id = $1 AND r.meter_id = $2 AND {WITHOUT_PRICE}
           AND (NOT $6 OR (r.occurred_at, r.event_key) > ($7, $8))
         ORDER BY r.org_id, r.occurred_at, r.event_key LIMIT {PAGE}"
    );
    let (last_at, last_key) = after.unwrap_or((DateTime::UNIX_EPOCH, Uuid::nil()));
    Ok(diesel::sql_query(sql)
        .bind::<BigInt, _>(org_id)
        .bind::<Integer, _>(meter_id)
        .bind::<Nullable<Timestamptz>, _>(asked.from)
        .bind::<Nullable<Timestamptz>, _>(asked.before)
        .bind::<SmallInt, _>(LAST_AMENDABLE)
        .bind::<Bool, _>(after.is_some())
        .bind::<Timestamptz, _>(last_at)
        .bind::<diesel::sql_types::Uuid, _>(last_key)
        .load(conn)?)
}

/// The reversal of a record, and the usage with a price that replaces it; `None`: it still has no price.
fn replacement(
    (catalog, series): (&Catalog, &SeriesCache),
    (meter, org): (&Arc<Meter>, &Arc<OrgContext>),
    row: &UnpricedRecord,
    now: DateTime<Utc>,
) -> Result<Option<Replacement>, Error> {
    let dimensions: Vec<(&str, &str)> = dimension_pairs(&row.dimensions).collect();
    let unpriced = series.get(catalog, org.org_id, meter, row.member.as_deref(), &dimensions);
    let metered =
        priced((catalog, series), Arc::clone(&unpriced), row.quantity, (org, row.occurred_at), None)
            .map_err(|_| super::too_large())?;
    if metered.card.is_none() {
        return Ok(None);
    }
    let labels = row.labels.as_ref().map(|labels| labels.to_string().into());
    let metered = Metered { labels, ..metered };
    let day = posting_day(catalog, org, row.day, now);
    let mut reversed = Metered { series: unpriced, ..metered.clone() };
    (reversed.quantity, reversed.cost, reversed.battery_units) = (-row.quantity, Sum::ZERO, Sum::ZERO);
    (reversed.card, reversed.tiered, reversed.pricing) = (None, false, Pricing::from_number(row.pricing));
    let reversal = Usage {
        org: Arc::clone(org),
        event_key: row.event_key,
        content: 0,
        names_time: true,
        occurred_at: row.occurred_at,
        received_at: now,
        day,
        own_day: row.own_day.unwrap_or(row.day),
        billing_period: row.billing_start,
        event_id: row.event_id.as_str().into(),
        source: row.source.as_str().into(),
        subject: row.subject.as_deref().map(Into::into),
        correction: row.correction + 1,
        elsewhere: day != row.day,
        metered: smallvec![reversed],
    };
    let new = Usage {
        correction: row.correction + 2,
        elsewhere: false,
        metered: smallvec![metered],
        ..reversal.clone()
    };
    Ok(Some((reversal, new)))
}
