//! Statements: the balance of a battery before a span of time, what happened in it, and the balance after it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Numeric, Text, Timestamptz};
use rust_decimal::Decimal;
use serde::Serialize;
use utoipa::ToSchema;

use super::entries::BatteryEntry;
use super::units_text;
use crate::error::Error;

/// An account of a battery over `[from, to)`: `opening` and the amounts of all kinds make `closing`.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatteryStatement {
    /// Public id of the org.
    pub org: String,
    /// Beginning of the span, included.
    pub from: DateTime<Utc>,
    /// End of the span, not included.
    pub to: DateTime<Utc>,
    /// What the battery held before the first entry.
    pub opening: String,
    /// What happened, by the kind of entry. Kinds without an entry are left out.
    pub kinds: BTreeMap<String, BatterySum>,
    /// What it held after the last entry.
    pub closing: String,
    /// A page of the entries, oldest first.
    pub entries: Vec<BatteryEntry>,
    /// `cursor` of the next page; null on the last.
    pub next: Option<String>,
}

/// All entries of a kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BatterySum {
    /// How many.
    pub entries: i64,
    /// Their units together.
    pub amount: String,
}

/// The numbers of a statement.
#[derive(Debug)]
pub struct StatementFigures {
    pub opening: String,
    pub kinds: BTreeMap<String, BatterySum>,
    pub closing: String,
}

#[derive(QueryableByName)]
struct StatementRow {
    #[diesel(sql_type = Numeric)]
    opening: Decimal,
    #[diesel(sql_type = Numeric)]
    closing: Decimal,
    #[diesel(sql_type = Array<Text>)]
    kinds: Vec<String>,
    #[diesel(sql_type = Array<BigInt>)]
    entries: Vec<i64>,
    #[diesel(sql_type = Array<Numeric>)]
    amounts: Vec<Decimal>,
}

/// The numbers of `[from, to)`. One SQL statement reads all of them, so they are of one moment.
///
/// # Errors
/// When the ledger does not add up.
pub fn figures(
    conn: &mut PgConnection,
    org_id: i64,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
) -> Result<StatementFigures, Error> {
    let row: StatementRow = diesel::sql_query(
        "WITH sums AS (
             SELECT kind, count(*) AS entries, sum(amount) AS amount
             FROM battery_entries
             WHERE org_id = $1
                 AND at >= $2
                 AND at < $3
             GROUP BY kind)
         SELECT coalesce((
                 SELECT e.balance_after
                 FROM battery_entries e
                 WHERE e.org_id = $1
                     AND e.at < $2
                 ORDER BY e.at DESC, e.sequence DESC
                 LIMIT 1), 0) AS opening,
             coalesce((
                 SELECT e.balance_after
                 FROM battery_entries e
                 WHERE e.org_id = $1
                     AND e.at < $3
                 ORDER BY e.at DESC, e.sequence DESC
                 LIMIT 1), 0) AS closing,
             ARRAY(SELECT kind FROM sums ORDER BY kind) AS kinds,
             ARRAY(SELECT entries FROM sums ORDER BY kind) AS entries,
             ARRAY(SELECT amount FROM sums ORDER BY kind) AS amounts",
    )
    .bind::<BigInt, _>(org_id)
    .bind::<Timestamptz, _>(from)
    .bind::<Timestamptz, _>(to)
    .get_result(conn)?;
    let sum: Decimal = row.amounts.iter().sum();
    if row.opening + sum != row.closing {
        return Err(Error::Internal(format!("the ledger of org {org_id} does not add up")));
    }
    let sums = row.entries.into_iter().zip(row.amounts);
    let sums = sums.map(|(entries, amount)| BatterySum { entries, amount: units_text(amount) });
    Ok(StatementFigures {
        opening: units_text(row.opening),
        kinds: row.kinds.into_iter().zip(sums).collect(),
        closing: units_text(row.closing),
    })
}
