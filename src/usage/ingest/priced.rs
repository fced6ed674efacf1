//! What of a month was priced by which card, by its records: asked where the counters of tiers do not tell,
//! which is seldom.

use chrono::{DateTime, Days, Months, NaiveDate, NaiveTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Jsonb, Numeric, Timestamptz};

use crate::error::Error;
use crate::quantity::Sum;

/// (org, meter, local month).
pub(in crate::usage) type OfMonth = (i64, i32, NaiveDate);

/// What a card priced of a month, for usage with some dimensions.
#[derive(QueryableByName)]
pub(in crate::usage) struct Priced {
    #[diesel(sql_type = BigInt)]
    pub(in crate::usage) org_id: i64,
    #[diesel(sql_type = Integer)]
    pub(in crate::usage) meter_id: i32,
    #[diesel(sql_type = Date)]
    pub(in crate::usage) month: NaiveDate,
    #[diesel(sql_type = Integer)]
    pub(in crate::usage) rate_card_id: i32,
    #[diesel(sql_type = Jsonb)]
    dimensions: serde_json::Value,
    #[diesel(sql_type = Numeric)]
    pub(in crate::usage) quantity: Sum,
    #[diesel(sql_type = Numeric)]
    pub(in crate::usage) cost: Sum,
}

impl Priced {
    /// The dimensions, as rates are found by them.
    pub(in crate::usage) fn dimensions(&self) -> Vec<(String, String)> {
        let pairs = self.dimensions.as_object().into_iter().flatten();
        pairs.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect()
    }
}

/// What was priced of these months.
///
/// # Errors
/// When the database fails.
pub(in crate::usage) fn of_months(conn: &mut PgConnection, months: &[OfMonth]) -> Result<Vec<Priced>, Error> {
    let at = |day: Option<NaiveDate>, or: DateTime<Utc>| {
        day.map_or(or, |day| day.and_time(NaiveTime::MIN).and_utc())
    };
    // Bounds for all of them, so that other months' partitions are left out.
    let first =
        months.iter().map(|(.., month)| *month).min().and_then(|day| day.checked_sub_days(Days::new(2)));
    let last = months.iter().filter_map(|(.., month)| month.checked_add_months(Months::new(1))).max();
    let last = last.and_then(|day| day.checked_add_days(Days::new(2)));
    let rows = diesel::sql_query(
        "SELECT r.org_id, r.meter_id, k.month, r.rate_card_id, s.dimensions, sum(r.quantity) AS quantity, sum(r.cost) AS cost
         FROM unnest($1, $2, $3) AS k (org_id, meter_id, month)
         JOIN (SELECT *, coalesce(own_day, day) AS own FROM usage_records
               WHERE org_id = ANY ($1) AND occurred_at >= $4 AND occurred_at < $5
               UNION ALL
               SELECT *, day FROM usage_records
               WHERE org_id = ANY ($1) AND occurred_at < $4 AND moved AND own_day IS NULL) r
             ON r.org_id = k.org_id AND r.meter_id = k.meter_id
                 AND r.own >= k.month AND r.own < k.month + interval '1 month'
         JOIN usage_series s ON s.org_id = r.org_id AND s.series_id = r.series_id
         WHERE r.rate_card_id IS NOT NULL
         GROUP BY 1, 2, 3, 4, 5",
    )
    .bind::<Array<BigInt>, _>(months.iter().map(|(org, ..)| *org).collect::<Vec<_>>())
    .bind::<Array<Integer>, _>(months.iter().map(|(_, meter, _)| *meter).collect::<Vec<_>>())
    .bind::<Array<Date>, _>(months.iter().map(|(.., month)| *month).collect::<Vec<_>>())
    .bind::<Timestamptz, _>(at(first, DateTime::<Utc>::UNIX_EPOCH))
    .bind::<Timestamptz, _>(at(last, DateTime::<Utc>::UNIX_EPOCH + chrono::Duration::days(36_500)))
    .load(conn)?;
    Ok(rows)
}
