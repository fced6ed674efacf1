//! Closes months.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;

use crate::auth::PLATFORM;
use crate::schema::usage_closings;

/// When a month was closed for every org; `None`: it is open.
pub(super) fn closed_at(conn: &mut PgConnection, month: NaiveDate) -> QueryResult<Option<DateTime<Utc>>> {
    // Closing a month closes the months before it.
    usage_closings::table
        .filter(usage_closings::org_id.eq(PLATFORM).and(usage_closings::month.ge(month)))
        .select(diesel::dsl::min(usage_closings::closed_at))
        .first(conn)
}
