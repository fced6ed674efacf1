//! Putting rows right while usage goes on being written.

use std::fmt::Write as _;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, Text};

use super::compare::is_time;
use super::parts::Part;
use super::{DerivedTable, Difference, Rules, Sides};
use crate::error::Error;
use crate::metering::catalog;

/// Makes the rows of these differences, which are all of the one org of `part`, say what the records say by
/// now; returns how many changed. In a transaction of its own. Whoever writes usage to these rows waits for
/// one computation of the part, so it should be no more than a month.
pub fn mend(
    conn: &mut PgConnection,
    rules: &Rules,
    book: DerivedTable,
    part: Part,
    differences: &[Difference],
) -> Result<usize, Error> {
    let rows: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
    crate::db::retrying(conn, |conn| {
        let Some(sides) = book.told(conn, rules, part)? else { return Ok(0) };
        if book == DerivedTable::Uniques {
            mend_uniques(conn, &sides, &rows)
        } else {
            mend_rows(conn, book, part.orgs.first, &sides, &rows)
        }
    })
}

/// The rows named by `$1`, typed as the table has them.
fn named(table: &str) -> String {
    format!(
        "(SELECT r.* FROM unnest($1) AS j (row), jsonb_populate_record(NULL::{table}, j.row::jsonb) AS r)"
    )
}

fn mend_rows(
    conn: &mut PgConnection,
    book: DerivedTable,
    org_id: i64,
    sides: &Sides,
    rows: &[&str],
) -> Result<usize, Error> {
    let (table, keys, values) = (book.table(), book.keys().join(", "), book.values());
    let (named, told) = (named(table), &sides.told);
    let zero = |name: &&str| if is_time(name) { "NULL::timestamptz" } else { "0" };
    let mut all_values: Vec<&str> = values.to_vec();
    if book == DerivedTable::Quotas {
        all_values.push("reserved");
    }
    let zeros: Vec<&str> = all_values.iter().map(zero).collect();
    let (columns, zeros) = (all_values.join(", "), zeros.join(", "));
    for sql in [
        format!(
            "INSERT INTO {table} ({keys}, {columns})
             SELECT {keys}, {zeros} FROM {named} n ORDER BY {keys} ON CONFLICT DO NOTHING"
        ),
        format!("SELECT FROM {table} b JOIN {named} n USING ({keys}) ORDER BY {keys} FOR UPDATE OF b"),
    ] {
        diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?;
    }
    let mut set = String::new();
    for name in values {
        let value = if is_time(name) { format!("t.{name}") } else { format!("coalesce(t.{name}, 0)") };
        let _ = write!(set, "{}{name} = {value}", if set.is_empty() { "" } else { ", " });
    }
    let same: Vec<String> = book.keys().iter().map(|key| format!("b.{key} = n.{key}")).collect();
    let sql = format!(
        "UPDATE {table} b SET {set} FROM {named} n LEFT JOIN ({told}) t USING ({keys})
         WHERE b.org_id = {org_id} AND {}",
        same.join(" AND ")
    );
    Ok(diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?)
}

fn mend_uniques(conn: &mut PgConnection, sides: &Sides, rows: &[&str]) -> Result<usize, Error> {
    catalog::lock_exclusive(conn)?;
    let (named, told) = (named("usage_uniques"), &sides.told);
    let mut changed = 0;
    for sql in [
        format!(
            "DELETE FROM usage_uniques u USING {named} n
             WHERE (u.org_id, u.series_id, u.day, u.value_digest) = (n.org_id, n.series_id, n.day,
                 n.value_digest)
               AND NOT EXISTS (SELECT FROM ({told}) t
                   WHERE (t.org_id, t.series_id, t.day, t.value_digest)
                       = (n.org_id, n.series_id, n.day, n.value_digest))"
        ),
        format!(
            "INSERT INTO usage_uniques (org_id, series_id, day, value_digest)
             SELECT org_id, series_id, day, value_digest
             FROM {named} n JOIN ({told}) t USING (org_id, series_id, day, value_digest)
             ORDER BY 1, 2, 3, 4 ON CONFLICT DO NOTHING"
        ),
    ] {
        changed += diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?;
    }
    Ok(changed)
}
