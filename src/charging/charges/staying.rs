//! Charges that stay planned: Stripe takes none of them, or nothing sends them.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text, Timestamptz};

/// Charges that have stayed planned for long.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct StayingPlanned {
    /// How many.
    #[diesel(sql_type = BigInt)]
    pub charges: i64,
    /// When the oldest was planned; null: there is none.
    #[diesel(sql_type = Nullable<Timestamptz>)]
    pub since: Option<DateTime<Utc>>,
    /// Stripe's last answer about the oldest; null: it was not asked.
    #[diesel(sql_type = Nullable<Text>)]
    pub detail: Option<String>,
}

/// Counts the charges that were planned before a time, and are not sent.
///
/// # Errors
/// When the database fails.
pub fn count(conn: &mut PgConnection, before: DateTime<Utc>) -> QueryResult<StayingPlanned> {
    diesel::sql_query(
        "SELECT count(*) AS charges, min(planned_at) AS since,
             (array_agg(detail ORDER BY planned_at, charge_id))[1] AS detail
         FROM stripe_charges WHERE state = 'planned' AND planned_at < $1",
    )
    .bind::<Timestamptz, _>(before)
    .get_result(conn)
}
