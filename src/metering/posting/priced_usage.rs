//! Reads from the records how much of a period each card has priced. Needed where the counters of tiers do
//! not say it, which is seldom.

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Jsonb, Nullable, Numeric, Timestamptz};

use crate::error::Error;
use crate::metering::series::dimension_pairs;
use crate::quantity::Sum;

/// Org, meter, and a period's label and beginning as [`Period::to_row`] returns them.
///
/// [`Period::to_row`]: crate::metering::periods::Period::to_row
pub(crate) type MeterPeriod = (i64, i32, NaiveDate, DateTime<Utc>);

/// What a card priced in a period, for usage with these dimensions.
#[derive(QueryableByName)]
pub(crate) struct PricedUsage {
    #[diesel(sql_type = BigInt)]
    org_id: i64,
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Date)]
    period: NaiveDate,
    #[diesel(sql_type = Timestamptz)]
    began: DateTime<Utc>,
    #[diesel(sql_type = Integer)]
    pub(crate) rate_card_id: i32,
    #[diesel(sql_type = Jsonb)]
    dimensions: serde_json::Value,
    #[diesel(sql_type = Numeric)]
    pub(crate) quantity: Sum,
    #[diesel(sql_type = Numeric)]
    pub(crate) cost: Sum,
    /// Time of the first event.
    #[diesel(sql_type = Timestamptz)]
    pub(crate) first_at: DateTime<Utc>,
    /// The part of the quantity that occurred before the instant of the query.
    #[diesel(sql_type = Numeric)]
    pub(crate) quantity_before: Sum,
}

impl PricedUsage {
    pub(crate) fn meter_period(&self) -> MeterPeriod {
        (self.org_id, self.meter_id, self.period, self.began)
    }

    /// The dimensions, as [`rate_for`] takes them.
    ///
    /// [`rate_for`]: crate::metering::rating::rate_for
    pub(crate) fn dimensions(&self) -> Vec<(String, String)> {
        let pairs = dimension_pairs(&self.dimensions);
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
    }
}

/// Reads what was priced in these periods, and how much of it occurred before an instant.
pub(crate) fn read_priced(
    conn: &mut PgConnection,
    periods: &[MeterPeriod],
    before: Option<DateTime<Utc>>,
) -> Result<Vec<PricedUsage>, Error> {
    let at = |day: Option<NaiveDate>, or: DateTime<Utc>| {
        day.map_or(or, |day| day.and_time(NaiveTime::MIN).and_utc())
    };
    // Bounds for all periods, so that PostgreSQL reads only their partitions. No billing period is longer
    // than three years (https://docs.stripe.com/billing/subscriptions/billing-cycle).
    let labels = || periods.iter().map(|(_, _, label, _)| *label);
    let is_billing = periods.iter().any(|(.., began)| *began != DateTime::UNIX_EPOCH);
    let longest = Months::new(if is_billing { 36 } else { 1 });
    let first = labels().min().and_then(|day| day.checked_sub_days(Days::new(2)));
    let last = labels().filter_map(|label| label.checked_add_months(longest)).max();
    let last = last.and_then(|day| day.checked_add_days(Days::new(2)));
    let rows = diesel::sql_query(
        "SELECT r.org_id, r.meter_id, k.period, k.began, r.rate_card_id, s.dimensions,
             sum(r.quantity) AS quantity, sum(r.cost) AS cost, min(r.occurred_at) AS first_at,
             coalesce(sum(r.quantity) FILTER (WHERE r.occurred_at < $7), 0) AS quantity_before
         FROM unnest($1, $2, $3, $4) AS k (org_id, meter_id, period, began)
         JOIN (SELECT *, coalesce(own_day, day) AS own FROM usage_records
               WHERE org_id = ANY ($1) AND occurred_at >= $5 AND occurred_at < $6
               UNION ALL
               SELECT *, day FROM usage_records
               WHERE org_id = ANY ($1) AND occurred_at < $5 AND moved AND own_day IS NULL) r
             ON r.org_id = k.org_id AND r.meter_id = k.meter_id
                 AND CASE WHEN k.began > 'epoch' THEN r.billing_start = k.began
                     ELSE r.own >= k.period AND r.own < k.period + interval '1 month' END
         JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
         WHERE r.rate_card_id IS NOT NULL
         GROUP BY 1, 2, 3, 4, 5, 6",
    )
    .bind::<Array<BigInt>, _>(periods.iter().map(|(org, ..)| *org).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(periods.iter().map(|(_, meter, ..)| *meter).collect::<Vec<_>>())
    .bind::<Array<Date>, _>(labels().collect::<Vec<_>>())
    .bind::<Array<Timestamptz>, _>(periods.iter().map(|(.., began)| *began).collect::<Vec<_>>())
    .bind::<Timestamptz, _>(at(first, DateTime::<Utc>::UNIX_EPOCH))
    .bind::<Timestamptz, _>(at(last, DateTime::<Utc>::UNIX_EPOCH + chrono::Duration::days(36_500)))
    .bind::<Nullable<Timestamptz>, _>(before)
    .load(conn)?;
    Ok(rows)
}
