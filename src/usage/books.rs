//! The books that are counted from usage records: daily summaries, unique values, the counters of tiers and of quotas. What each
//! must say, by the records; where it says something else; how it is put right while usage goes on being written.
//!
//! *Finding* takes no lock: one statement reads records and book in one snapshot, and whoever writes usage commits both
//! together. *Mending* makes and locks the rows at fault first, in the order in which usage is written to them, and computes anew
//! after that: whoever holds such a row has committed by then, records and all; whoever waits for it adds to what is written
//! here. So writers of these very rows wait for one computation, and no one else waits. Unique values are not locked by whoever
//! finds them there already, so mending them holds up all writing of usage.
//!
//! A row of zeros says the same as no row. Everything is per org, as sharding wants it.

mod rules;
mod told;

use std::fmt::Write as _;

use chrono::{Months, NaiveDate};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Nullable, Text};

use super::catalog;
use super::partitions::month_of;
use crate::error::Error;
pub use rules::Rules;
use told::Sides;
pub use told::VALUE_DIGEST;

/// A table counted from usage records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Book {
    /// `daily_summaries`.
    Summaries,
    /// `usage_uniques`.
    Uniques,
    /// `rating_counters`. Only over whole months.
    Rating,
    /// `quota_counters.used`. The org as a whole; the days of a [`Part`] do not matter.
    Quotas,
}

/// A part of an org's books: what was counted to the local days `[from, before)`.
#[derive(Clone, Copy, Debug)]
pub struct Part {
    /// The org.
    pub org_id: i64,
    /// First local day.
    pub from: NaiveDate,
    /// The local day after the last.
    pub before: NaiveDate,
}

/// A row that does not say what the records say.
#[derive(Debug, QueryableByName)]
pub struct Difference {
    /// Which row, as JSON.
    #[diesel(sql_type = Text)]
    pub key: String,
    /// What the records say, as JSON; `None`: nothing.
    #[diesel(sql_type = Nullable<Text>)]
    pub told: Option<String>,
    /// What is stored, as JSON; `None`: no row.
    #[diesel(sql_type = Nullable<Text>)]
    pub stored: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let side = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".to_owned());
        write!(out, "{}: stored {}, by the records {}", self.key, side(&self.stored), side(&self.told))
    }
}

/// The orgs, in the order of their row ids.
///
/// # Errors
/// When the database fails.
pub fn orgs(conn: &mut PgConnection) -> Result<Vec<i64>, Error> {
    Ok(crate::schema::orgs::table
        .select(crate::schema::orgs::org_id)
        .order(crate::schema::orgs::org_id)
        .load(conn)?)
}

/// As [`orgs`], those that ever had usage.
///
/// # Errors
/// When the database fails.
pub fn orgs_with_usage(conn: &mut PgConnection) -> Result<Vec<i64>, Error> {
    use crate::schema::{orgs, usage_series};
    let series = usage_series::table.filter(usage_series::org_id.eq(orgs::org_id));
    let orgs = orgs::table.filter(diesel::dsl::exists(series)).select(orgs::org_id).order(orgs::org_id);
    Ok(orgs.load(conn)?)
}

/// The months in which an org has records or books of them, each as a part; those whose records are not all there are left out.
///
/// # Errors
/// When the database fails.
pub fn months(conn: &mut PgConnection, rules: &Rules, org_id: i64) -> Result<Vec<Part>, Error> {
    #[derive(QueryableByName)]
    struct Span {
        #[diesel(sql_type = Nullable<diesel::sql_types::Date>)]
        first: Option<NaiveDate>,
        #[diesel(sql_type = Nullable<diesel::sql_types::Date>)]
        last: Option<NaiveDate>,
    }
    // What was moved out of a closed month may lie as far ahead as the month after the last closed one.
    let span: Span = diesel::sql_query(
        "SELECT least((SELECT min(day) FROM daily_summaries WHERE org_id = $1), (SELECT min(month) FROM rating_counters WHERE org_id = $1),
                (SELECT (min(occurred_at) AT TIME ZONE 'UTC')::date - 1 FROM usage_records WHERE org_id = $1)) AS first,
            greatest((SELECT max(day) FROM daily_summaries WHERE org_id = $1), (SELECT max(month) FROM rating_counters WHERE org_id = $1),
                (SELECT (max(occurred_at) AT TIME ZONE 'UTC')::date + 1 FROM usage_records WHERE org_id = $1),
                (SELECT max(day) FROM usage_records WHERE org_id = $1 AND moved)) AS last",
    )
    .bind::<BigInt, _>(org_id)
    .get_result(conn)?;
    let (Some(first), Some(last)) = (span.first, span.last) else { return Ok(Vec::new()) };
    let whole = rules.first_whole_day.unwrap_or(NaiveDate::MIN);
    let next = |month: &NaiveDate| month.checked_add_months(Months::new(1));
    let starts = std::iter::successors(Some(month_of(first)), next).take_while(|month| *month <= last);
    Ok(starts
        .filter(|month| *month >= whole)
        .filter_map(|from| Some(Part { org_id, from, before: next(&from)? }))
        .collect())
}

/// Where `book` differs from the records in `part`, at most `limit` rows, in the order of their keys.
///
/// # Errors
/// When the database fails.
pub fn differences(
    conn: &mut PgConnection,
    rules: &Rules,
    book: Book,
    part: Part,
    limit: usize,
) -> Result<Vec<Difference>, Error> {
    let Some(told) = book.told(conn, rules, part)? else { return Ok(Vec::new()) };
    let Sides { told, stored, must } = told;
    let (keys, table) = (book.keys(), book.table());
    let pairs = |side: &str, names: &[&str]| -> String {
        names.iter().map(|name| format!("'{name}', {side}{name}")).collect::<Vec<_>>().join(", ")
    };
    let (key_pairs, names) = (pairs("", keys), book.values());
    let differ: Vec<String> = names
        .iter()
        .map(|name| match *name {
            "latest_at" => "t.latest_at IS DISTINCT FROM s.latest_at".to_owned(),
            name => format!("coalesce(t.{name}, 0) <> coalesce(s.{name}, 0)"),
        })
        .collect();
    let (of_told, of_stored) = (pairs("t.", names), pairs("s.", names));
    let (any, keys, org_id, first) = (differ.join(" OR "), keys.join(", "), part.org_id, names[0]);
    Ok(diesel::sql_query(format!(
        "SELECT jsonb_build_object('org_id', {org_id}, {key_pairs})::text AS key,
             CASE WHEN t.{first} IS NOT NULL THEN jsonb_build_object({of_told})::text END AS told,
             CASE WHEN s.{first} IS NOT NULL THEN jsonb_build_object({of_stored})::text END AS stored
         FROM ({told}) t FULL JOIN (SELECT {keys}, {stored_values} FROM {table} WHERE org_id = {org_id} AND {stored}) s USING ({keys})
         WHERE ({any}) AND {must} ORDER BY {keys} LIMIT {limit}",
        stored_values = if book == Book::Uniques { "1 AS n".to_owned() } else { names.join(", ") },
    ))
    .load(conn)?)
}

/// Makes the rows of these differences say what the records say by now; returns how many changed. In a transaction of its own.
///
/// # Errors
/// When the database fails.
pub fn mend(
    conn: &mut PgConnection,
    rules: &Rules,
    book: Book,
    part: Part,
    differences: &[Difference],
) -> Result<usize, Error> {
    let rows: Vec<&str> = differences.iter().map(|difference| difference.key.as_str()).collect();
    crate::db::retrying(conn, |conn| {
        let Some(sides) = book.told(conn, rules, part)? else { return Ok(0) };
        if book == Book::Uniques {
            mend_uniques(conn, &sides, &rows)
        } else {
            mend_rows(conn, book, part, &sides, &rows)
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
    book: Book,
    part: Part,
    sides: &Sides,
    rows: &[&str],
) -> Result<usize, Error> {
    let (table, keys, values) = (book.table(), book.keys().join(", "), book.values());
    let (named, told, org_id) = (named(table), &sides.told, part.org_id);
    let zero = |name: &&str| if *name == "latest_at" { "NULL::timestamptz" } else { "0" };
    let mut all_values: Vec<&str> = values.to_vec();
    if book == Book::Quotas {
        all_values.push("reserved");
    }
    let zeros: Vec<&str> = all_values.iter().map(zero).collect();
    let (columns, zeros) = (all_values.join(", "), zeros.join(", "));
    for sql in [
        format!(
            "INSERT INTO {table} (org_id, {keys}, {columns}) SELECT {org_id}, {keys}, {zeros} FROM {named} n ORDER BY {keys} ON CONFLICT DO NOTHING"
        ),
        format!(
            "SELECT FROM {table} b JOIN {named} n USING (org_id, {keys}) ORDER BY {keys} FOR UPDATE OF b"
        ),
    ] {
        diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?;
    }
    let mut set = String::new();
    for name in values {
        let value =
            if *name == "latest_at" { "t.latest_at".to_owned() } else { format!("coalesce(t.{name}, 0)") };
        let _ = write!(set, "{}{name} = {value}", if set.is_empty() { "" } else { ", " });
    }
    let same: Vec<String> = book.keys().iter().map(|key| format!("b.{key} = n.{key}")).collect();
    let sql = format!(
        "UPDATE {table} b SET {set} FROM {named} n LEFT JOIN ({told}) t USING ({keys}) WHERE b.org_id = {org_id} AND {}",
        same.join(" AND ")
    );
    Ok(diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?)
}

fn mend_uniques(conn: &mut PgConnection, sides: &Sides, rows: &[&str]) -> Result<usize, Error> {
    catalog::freeze(conn)?;
    let (named, told) = (named("usage_uniques"), &sides.told);
    let mut changed = 0;
    for sql in [
        format!(
            "DELETE FROM usage_uniques u USING {named} n WHERE (u.org_id, u.series_id, u.day, u.value_digest) = (n.org_id, n.series_id, n.day, n.value_digest)
               AND NOT EXISTS (SELECT FROM ({told}) t WHERE (t.series_id, t.day, t.value_digest) = (n.series_id, n.day, n.value_digest))"
        ),
        format!(
            "INSERT INTO usage_uniques (org_id, series_id, day, value_digest) SELECT n.org_id, series_id, day, value_digest
             FROM {named} n JOIN ({told}) t USING (series_id, day, value_digest) ORDER BY 1, 2, 3, 4 ON CONFLICT DO NOTHING"
        ),
    ] {
        changed += diesel::sql_query(sql).bind::<Array<Text>, _>(rows).execute(conn)?;
    }
    Ok(changed)
}

impl Book {
    /// Every book, in the order in which usage is written to them.
    pub const ALL: [Self; 4] = [Self::Rating, Self::Quotas, Self::Uniques, Self::Summaries];

    /// Its table.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Summaries => "daily_summaries",
            Self::Uniques => "usage_uniques",
            Self::Rating => "rating_counters",
            Self::Quotas => "quota_counters",
        }
    }

    /// Its primary key after `org_id`.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Summaries => &["series_id", "day"],
            Self::Uniques => &["series_id", "day", "value_digest"],
            Self::Rating => &["meter_id", "rate_card_id", "rate", "month"],
            Self::Quotas => &["slot_id", "subject", "period"],
        }
    }

    /// What is counted in it. A unique value is there or not: `n` stands for that.
    fn values(self) -> &'static [&'static str] {
        match self {
            Self::Summaries => &["quantity", "count", "cost", "battery_units", "latest_at"],
            Self::Uniques => &["n"],
            Self::Rating => &["quantity"],
            Self::Quotas => &["used"],
        }
    }
}

/// Keys of an org without a record as reported, and records as reported without a key, at most `limit`, as sentences. Keys of
/// months whose records are gone are left out.
///
/// # Errors
/// When the database fails.
pub fn unmatched_keys(conn: &mut PgConnection, org_id: i64, limit: usize) -> Result<Vec<String>, Error> {
    #[derive(QueryableByName)]
    struct Line {
        #[diesel(sql_type = Text)]
        line: String,
    }
    let rows: Vec<Line> = diesel::sql_query(format!(
        "(SELECT format('usage_keys: %s at %s has no record', k.event_key, k.occurred_at) AS line FROM usage_keys k
          WHERE k.org_id = $1
            AND NOT EXISTS (SELECT FROM usage_records r WHERE r.org_id = $1 AND r.event_key = k.event_key AND r.occurred_at = k.occurred_at AND r.correction = 0)
            AND NOT EXISTS (SELECT FROM usage_months_gone g WHERE g.month = date_trunc('month', k.occurred_at AT TIME ZONE 'UTC')::date)
          LIMIT {limit})
         UNION ALL
         (SELECT DISTINCT format('usage_records: %s at %s has no key of that time', r.event_key, r.occurred_at) FROM usage_records r
          WHERE r.org_id = $1 AND r.correction = 0
            AND NOT EXISTS (SELECT FROM usage_keys k WHERE k.org_id = $1 AND k.event_key = r.event_key AND k.occurred_at = r.occurred_at)
          LIMIT {limit})"
    ))
    .bind::<BigInt, _>(org_id)
    .load(conn)?;
    Ok(rows.into_iter().map(|row| row.line).collect())
}
