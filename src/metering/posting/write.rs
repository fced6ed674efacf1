//! Everything that posting changes, in the order in which it is locked.

use diesel::pg::PgConnection;

use super::burn::{self, Burn};
use super::{records, totals};
use crate::error::Error;
use crate::metering::counters::{self, Moved};
use crate::metering::resolve::Usage;
use crate::metering::unpriced;

/// Writes what was claimed and priced (or takes back what was stored, with `sign` -1): records, counters,
/// batteries, summaries. Tells which counters moved.
pub(crate) fn write(
    conn: &mut PgConnection,
    new: &[&Usage],
    sign: i64,
    burn: Burn<'_>,
) -> Result<Vec<Moved>, Error> {
    if new.is_empty() {
        return Ok(Vec::new());
    }
    let batch = burn::batch(burn.now);
    // Records first: nobody waits for them, while counters and days stay locked until the commit.
    records::copy(conn, new, batch)?;
    let moved = counters::add(conn, &totals::counter_changes(new))?;
    burn.post(conn, new, batch)?;
    totals::add_days(conn, new, sign)?;
    unpriced::count(conn, new, sign)?;
    Ok(moved)
}

/// Writes records and summaries alone, for a caller who sees to prices, counters and batteries.
pub(crate) fn write_rows(
    conn: &mut PgConnection,
    new: &[&Usage],
    sign: i64,
    batch: i64,
) -> Result<(), Error> {
    if new.is_empty() {
        return Ok(());
    }
    records::copy(conn, new, batch)?;
    totals::add_days(conn, new, sign)?;
    unpriced::count(conn, new, sign)
}
