//! Closes and lists months. Owns `usage_closings`. Where usage of a closed month is posted, `posting_day` of
//! `metering/resolve.rs` decides.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Date};
use serde::Serialize;
use utoipa::ToSchema;

use super::catalog;
use crate::error::Error;
use crate::schema::{orgs, usage_closings};
use crate::time::Month;

/// A closed month.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Closing {
    /// The org whose month it is; null: every org's.
    pub org: Option<String>,
    /// The month, in the org's zone.
    pub month: Month,
    /// When it was closed.
    pub closed_at: DateTime<Utc>,
    /// By whom.
    pub actor: String,
}

/// Closes a month and all months before it, for one org or (`org_id` 0) for every org. Closing twice changes
/// nothing. A month never opens again: its figures may have been billed.
///
/// # Errors
/// [`Error::Invalid`] when `month` has not ended everywhere on earth.
pub fn close(
    conn: &mut PgConnection,
    org_id: i64,
    month: Month,
    actor: &str,
    now: DateTime<Utc>,
) -> Result<(), Error> {
    let month = month.first_day();
    let next = month.checked_add_months(chrono::Months::new(1));
    // The last time zone is 12 hours behind UTC.
    if next.is_none_or(|next| (now - chrono::Duration::hours(12)).date_naive() < next) {
        return Err(Error::invalid("month", "has not ended in every time zone: close it when it has"));
    }
    catalog::begin_change(conn)?;
    diesel::insert_into(usage_closings::table)
        .values((
            usage_closings::org_id.eq(org_id),
            usage_closings::month.eq(month),
            usage_closings::closed_at.eq(now),
            usage_closings::actor.eq(actor),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    Ok(())
}

/// The last month closed for this org, by its first day. The caller holds the catalogue's lock, so that it
/// stays the last one.
pub fn last_closed(conn: &mut PgConnection, org_id: i64) -> QueryResult<Option<NaiveDate>> {
    usage_closings::table
        .filter(usage_closings::org_id.eq_any([0, org_id]))
        .select(diesel::dsl::max(usage_closings::month))
        .first(conn)
}

/// Whether a month is closed for every org that has usage in it.
pub fn is_closed_by_all(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<bool> {
    diesel::select(diesel::dsl::sql::<Bool>("usage_month_is_closed(").bind::<Date, _>(month).sql(")"))
        .get_result(conn)
}

/// Closed months, the latest first.
pub fn list(conn: &mut PgConnection, limit: i64) -> Result<Vec<Closing>, Error> {
    type ClosingRow = (Option<String>, NaiveDate, DateTime<Utc>, String);
    let rows: Vec<ClosingRow> = usage_closings::table
        .left_join(orgs::table.on(orgs::org_id.eq(usage_closings::org_id)))
        .select((
            orgs::public_id.nullable(),
            usage_closings::month,
            usage_closings::closed_at,
            usage_closings::actor,
        ))
        .order((usage_closings::month.desc(), usage_closings::org_id))
        .limit(limit)
        .load(conn)?;
    let shown = rows.into_iter().map(|(org, month, closed_at, actor)| Closing {
        org,
        month: Month::containing(month),
        closed_at,
        actor,
    });
    Ok(shown.collect())
}
