//! Repairs derived rows while usage is being written.

use std::fmt::Write as _;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, Text};

use super::differences::is_time;
use super::parts::Part;
use super::{CountingRules, DerivedTable, Difference, Sides};
use crate::error::Error;
use crate::metering::catalog;

/// Computes the rows of these differences again from the records and writes them, in a transaction of its
/// own; returns how many changed. All of them belong to the one org of `part`. Writers of these rows wait
/// while the part is computed once, so a part should be no longer than a month.
pub fn repair(
    conn: &mut PgConnection,
    rules: &CountingRules,
    table: DerivedTable,
    part: Part,
    differences: &[Difference],
) -> Result<usize, Error> {
    let rows: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
    crate::db::run_with_retries(conn, |conn| {
        let Some(sides) = table.expected(conn, rules, part)? else { return Ok(0) };
        if table == DerivedTable::Uniques {
            repair_uniques(conn, &sides, &rows)
        } else {
            repair_rows(conn, table, part.orgs.first, &sides, &rows)
        }
    })
}

/// The rows that `$1` names (JSON), with the column types of the table.
fn named(table: &str) -> String {
    format!(
        "(SELECT r.* FROM unnest($1) AS j (row), jsonb_populate_record(NULL::{table}, j.row::jsonb) AS r)"
    )
}

fn repair_rows(
    conn: &mut PgConnection,
    table: DerivedTable,
    org_id: i64,
    sides: &Sides,
    rows: &[&str],
) -> Result<usize, Error> {
    let (name, keys, values) = (table.sql_name(), table.keys().join(", "), table.values());
    let (named, expected) = (named(name), &sides.expected);
    let zero = |name: &&str| if is_time(name) { "NULL::timestamptz" } else { "0" };
    let mut all_values: Vec<&str> = values.to_vec();
    if table == DerivedTable::Quotas {
        all_values.push("reserved");
    }
    let zeros: Vec<&str> = all_values.iter().map(zero).collect();
    let (columns, zeros) = (all_values.join(", "), zeros.join(", "));
    for sql in [
        format!(
            "INSERT INTO {name} ({keys}, {columns})
             SELECT {keys}, {zeros} FROM {named} n ORDER BY {keys} ON CONFLICT DO NOTHING"
        ),
        format!("SELECT FROM {name} b JOIN {named} n USING ({keys}) ORDER BY {keys} FOR UPDATE OF b"),
    ] {
        diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?;
    }
    let mut set = String::new();
    for name in values {
        let value = if is_time(name) { format!("t.{name}") } else { format!("coalesce(t.{name}, 0)") };
        let _ = write!(set, "{}{name} = {value}", if set.is_empty() { "" } else { ", " });
    }
    let same: Vec<String> = table.keys().iter().map(|key| format!("b.{key} = n.{key}")).collect();
    let sql = format!(
        "UPDATE {name} b SET {set} FROM {named} n LEFT JOIN ({expected}) t USING ({keys})
         WHERE b.org_id = {org_id} AND {}",
        same.join(" AND ")
    );
    Ok(diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?)
}

fn repair_uniques(conn: &mut PgConnection, sides: &Sides, rows: &[&str]) -> Result<usize, Error> {
    catalog::lock_exclusive(conn)?;
    let (named, expected) = (named("usage_uniques"), &sides.expected);
    let mut changed = 0;
    for sql in [
        format!(
            "DELETE FROM usage_uniques u USING {named} n
             WHERE (u.org_id, u.series_id, u.day, u.value_digest) = (n.org_id, n.series_id, n.day,
                 n.value_digest)
               AND NOT EXISTS (SELECT FROM ({expected}) t
                   WHERE (t.org_id, t.series_id, t.day, t.value_digest)
                       = (n.org_id, n.series_id, n.day, n.value_digest))"
        ),
        format!(
            "INSERT INTO usage_uniques (org_id, series_id, day, value_digest)
             SELECT org_id, series_id, day, value_digest
             FROM {named} n JOIN ({expected}) t USING (org_id, series_id, day, value_digest)
             ORDER BY 1, 2, 3, 4 ON CONFLICT DO NOTHING"
        ),
    ] {
        changed += diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?;
    }
    Ok(changed)
}
