//! Partitions of `usage_records`, one per month (UTC) of `occurred_at`.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use chrono::NaiveDate;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::Date;

use crate::error::Error;

/// Months whose partition this process has seen.
static SEEN: Mutex<Option<HashSet<NaiveDate>>> = Mutex::new(None);

diesel::define_sql_function! {
    /// Whether a partition had to be made.
    fn make_usage_partition(month: Date) -> diesel::sql_types::Bool
}

/// Makes the partitions of these months (their first days) where they are missing.
///
/// # Errors
/// When the database fails.
pub fn ensure(conn: &mut PgConnection, months: &[NaiveDate]) -> Result<(), Error> {
    for month in months {
        let seen = |seen: &mut Option<HashSet<NaiveDate>>| seen.get_or_insert_default().contains(month);
        if seen(&mut SEEN.lock().unwrap_or_else(PoisonError::into_inner)) {
            continue;
        }
        let made: bool = diesel::select(make_usage_partition(*month)).get_result(conn)?;
        if made {
            tracing::warn!(%month, "made a partition of usage on demand");
        }
        SEEN.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_default().insert(*month);
    }
    Ok(())
}
