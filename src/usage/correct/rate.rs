//! Pricing usage that had no price when it came, now that there is one: each event is taken back and put in
//! its place again, with the rate card of its time and in the tiers of its month. What had a price keeps it.

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

use super::{LAST, burn, charged};
use crate::battery::Depth;
use crate::billing::directory::{Directory, OrgContext};
use crate::error::Error;
use crate::metering::catalog::Catalog;
use crate::metering::meters::{self, Meter};
use crate::metering::posting::{self, Tiers};
use crate::metering::resolve::{Usage, posted, priced};
use crate::metering::series;
use crate::metering::unpriced::Pricing;
use crate::quantity::Sum;
use crate::quota::rulebook::RulebookCache;
use crate::schema::usage_corrections;

/// Usage events priced in one transaction at most.
const EVENTS: usize = 1_000;
/// Records looked at in one.
const LOOKED: i64 = 20_000;

/// Which usage is to be priced, by whom and why.
#[derive(Clone, Debug)]
pub struct Later<'a> {
    /// Key of the meter.
    pub meter: &'a str,
    /// Row id of the org; `None`: the first that has any.
    pub org_id: Option<i64>,
    /// Occurred at or after.
    pub from: Option<DateTime<Utc>>,
    pub before: Option<DateTime<Utc>>,
    /// Why, for whoever asks later.
    pub reason: &'a str,
    /// Who has it done.
    pub actor: &'a str,
}

/// What pricing came to.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct Rated {
    /// Public id of the org whose usage was priced; null: there was none to be priced.
    pub org: Option<String>,
    /// Usage events that have a price now.
    pub events: u64,
    /// What they cost, a decimal.
    pub cost: String,
    /// Battery units that they burned, a decimal.
    pub battery_units: String,
    /// Whether there is more: ask again.
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
}

/// Records `r` without a price that stand: none fitted, there was no card, or (of before such things were
/// kept) it cost nothing.
const WITHOUT_PRICE: &str =
    "r.rate_card_id IS NULL AND (r.pricing IN (2, 3) OR (r.pricing = 0 AND r.cost = 0))
    AND r.correction % 2 = 0 AND r.correction <= $5
    AND ($3::timestamptz IS NULL OR r.occurred_at >= $3) AND ($4::timestamptz IS NULL OR r.occurred_at < $4)
    AND NOT EXISTS (SELECT FROM usage_records v WHERE v.org_id = r.org_id AND v.occurred_at = r.occurred_at
        AND v.event_key = r.event_key AND v.meter_id = r.meter_id AND v.correction = r.correction + 1)";

/// Prices usage of one org, a bounded number of events; `more` says whether to go on.
///
/// # Errors
/// [`Error::NotFound`] when there is no such meter, [`Error::Conflict`] when it does not add up or an amount
/// is too large.
pub fn later(
    conn: &mut PgConnection,
    (rules, series, directory): (&RulebookCache, &series::SeriesCache, &Directory),
    asked: &Later<'_>,
    now: DateTime<Utc>,
) -> Result<Rated, Error> {
    let meter = meters::find(conn, asked.meter)?;
    if !meter.aggregation.is_additive() {
        let detail = "usage of a meter whose quantities do not add up has no price";
        return Err(Error::conflict("meter_not_additive", detail));
    }
    let nothing = Rated { cost: "0".to_owned(), battery_units: "0".to_owned(), ..Rated::default() };
    if let Some(org_id) = asked.org_id {
        super::alone(conn, org_id)?;
        let rules = rules.lock_shared(conn)?;
        let org = directory.load(conn, &[], &[org_id])?.into_iter().next();
        let Some((_, org)) = org else { return Ok(nothing) };
        return of_org(conn, (&rules.catalog, series), asked, (&meter, &org), now);
    }
    let rules = rules.lock_shared(conn)?;
    for org_id in orgs_of(conn, &meter)? {
        let Some((_, org)) = directory.load(conn, &[], &[org_id])?.into_iter().next() else { continue };
        if found(conn, (&rules.catalog, series), asked, (&meter, &org), 1, now)?.0.is_empty() {
            continue;
        }
        // Who holds the catalogue must not wait for a correction, which may wait for the catalogue.
        if !super::alone_at_once(conn, org_id)? {
            return Err(Error::Busy(
                "another correction of the same org is under way: try again in a second",
            ));
        }
        // Another org may have some, too: whoever asks again finds none in this one.
        return Ok(Rated {
            more: true,
            ..of_org(conn, (&rules.catalog, series), asked, (&meter, &org), now)?
        });
    }
    Ok(nothing)
}

/// The orgs that have usage of a meter.
fn orgs_of(conn: &mut PgConnection, meter: &Meter) -> Result<Vec<i64>, Error> {
    use crate::schema::usage_series;
    let of_meter = usage_series::table.filter(usage_series::meter_id.eq(meter.meter_id));
    Ok(of_meter.select(usage_series::org_id).distinct().order(usage_series::org_id).load(conn)?)
}

fn of_org(
    conn: &mut PgConnection,
    (catalog, held): (&Catalog, &series::SeriesCache),
    asked: &Later<'_>,
    (meter, org): (&Meter, &Arc<OrgContext>),
    now: DateTime<Utc>,
) -> Result<Rated, Error> {
    let (pairs, more) = found(conn, (catalog, held), asked, (meter, org), EVENTS, now)?;
    let (taken, mut new): (Vec<Usage>, Vec<Usage>) = pairs.into_iter().unzip();
    let mut rated = Rated { org: Some(org.public_id.to_string()), more, ..Rated::default() };
    (rated.cost, rated.battery_units) = ("0".to_owned(), "0".to_owned());
    if new.is_empty() {
        return Ok(rated);
    }
    let all: Vec<&Usage> = taken.iter().chain(&new).collect();
    posting::lock_rows(conn, org.org_id, &all, Depth::All, now)?;
    let mut tiers = Tiers::raise(conn, &new)?;
    for one in &mut new {
        charged::charge_again(conn, &mut tiers, one, &[])?;
    }
    posting::write(conn, &taken.iter().collect::<Vec<_>>(), -1, burn(now))?;
    posting::write(conn, &new.iter().collect::<Vec<_>>(), 1, burn(now))?;
    note(conn, asked, taken.iter().chain(&new), now)?;
    let sum = |of: fn(&Usage) -> Sum| new.iter().map(of).sum::<Sum>().shown().to_string();
    rated.events = u64::try_from(new.len()).unwrap_or_default();
    rated.cost = sum(|one| one.metered.iter().map(|metered| metered.cost).sum());
    rated.battery_units = sum(posting::units);
    Ok(rated)
}

/// What takes a record back, and what takes its place.
type Pair = (Usage, Usage);

/// Records that have no price and can have one now, at most `most`, and whether there are more.
fn found(
    conn: &mut PgConnection,
    (catalog, held): (&Catalog, &series::SeriesCache),
    asked: &Later<'_>,
    (meter, org): (&Meter, &Arc<OrgContext>),
    most: usize,
    now: DateTime<Utc>,
) -> Result<(Vec<Pair>, bool), Error> {
    let meter = catalog.meters.get(&meter.meter_id).ok_or(Error::NotFound("meter"))?;
    let mut pairs = Vec::new();
    let mut after = None;
    loop {
        let rows = rows(conn, asked, (org.org_id, meter.meter_id), after)?;
        let looked = i64::try_from(rows.len()).unwrap_or(LOOKED);
        after = rows.last().map(|row| (row.occurred_at, row.event_key));
        for row in rows {
            let Some(pair) = priced_now((catalog, held), (meter, org), &row, now)? else { continue };
            if pairs.len() == most {
                return Ok((pairs, true));
            }
            pairs.push(pair);
        }
        if looked < LOOKED {
            return Ok((pairs, false));
        }
    }
}

fn rows(
    conn: &mut PgConnection,
    asked: &Later<'_>,
    (org_id, meter_id): (i64, i32),
    after: Option<(DateTime<Utc>, Uuid)>,
) -> Result<Vec<UnpricedRecord>, Error> {
    let sql = format!(
        "SELECT r.event_key, r.occurred_at, r.day, r.own_day, r.billing_start, r.correction, r.pricing,
             r.quantity,
             r.event_id, r.source, r.subject, s.member, s.dimensions
         FROM usage_records r JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
         WHERE r.org_id = $1 AND r.meter_id = $2 AND {WITHOUT_PRICE}
           AND (NOT $6 OR (r.occurred_at, r.event_key) > ($7, $8))
         ORDER BY r.org_id, r.occurred_at, r.event_key LIMIT {LOOKED}"
    );
    let place = after.unwrap_or((DateTime::UNIX_EPOCH, Uuid::nil()));
    Ok(diesel::sql_query(sql)
        .bind::<BigInt, _>(org_id)
        .bind::<Integer, _>(meter_id)
        .bind::<Nullable<Timestamptz>, _>(asked.from)
        .bind::<Nullable<Timestamptz>, _>(asked.before)
        .bind::<SmallInt, _>(LAST)
        .bind::<Bool, _>(after.is_some())
        .bind::<Timestamptz, _>(place.0)
        .bind::<diesel::sql_types::Uuid, _>(place.1)
        .load(conn)?)
}

/// What takes the record back, and what takes its place; `None` where it still has no price.
fn priced_now(
    (catalog, held): (&Catalog, &series::SeriesCache),
    (meter, org): (&Arc<Meter>, &Arc<OrgContext>),
    row: &UnpricedRecord,
    now: DateTime<Utc>,
) -> Result<Option<Pair>, Error> {
    let pairs = row.dimensions.as_object().into_iter().flatten();
    let dimensions: Vec<(&str, &str)> =
        pairs.filter_map(|(name, value)| Some((name.as_str(), value.as_str()?))).collect();
    let series = held.of(catalog, org.org_id, meter, row.member.as_deref(), &dimensions);
    let metered = priced(series, row.quantity, org, row.occurred_at, None).map_err(|_| super::too_large())?;
    if metered.card.is_none() {
        return Ok(None);
    }
    let day = posted(catalog, org, row.day, now);
    let mut back = metered.clone();
    (back.quantity, back.cost, back.battery_units) = (-row.quantity, Sum::ZERO, Sum::ZERO);
    (back.card, back.tiered, back.pricing) = (None, false, Pricing::of(row.pricing));
    let taken = Usage {
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
        metered: smallvec![back],
    };
    let new = Usage {
        correction: row.correction + 2,
        elsewhere: false,
        metered: smallvec![metered],
        ..taken.clone()
    };
    Ok(Some((taken, new)))
}

/// Why, and who did it.
fn note<'a>(
    conn: &mut PgConnection,
    asked: &Later<'_>,
    all: impl Iterator<Item = &'a Usage>,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let rows: Vec<_> = all
        .map(|one| {
            (
                usage_corrections::org_id.eq(one.org.org_id),
                usage_corrections::event_key.eq(one.event_key),
                usage_corrections::correction.eq(one.correction),
                usage_corrections::at.eq(now),
                usage_corrections::actor.eq(asked.actor),
                usage_corrections::reason.eq(asked.reason),
            )
        })
        .collect();
    // An event that several meters count may have been priced for another of them.
    diesel::insert_into(usage_corrections::table).values(rows).on_conflict_do_nothing().execute(conn)?;
    Ok(())
}
