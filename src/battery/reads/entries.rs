//! Ledger entries, as lists and look-ups show them.

use std::collections::{BTreeSet, HashMap};

use chrono::{DateTime, Utc};
use diesel::dsl::sql;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Bool, Jsonb};
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::units_text;
use crate::battery::EntryKind;
use crate::error::Error;
use crate::schema::{battery_entries, battery_grants};
use crate::time::Moment;

/// Which entries a list shows.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// Empty: all kinds.
    pub kinds: Vec<EntryKind>,
    /// Empty: all sources.
    pub sources: Vec<String>,
    /// `[from, to)` of the times.
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    /// Number of a grant, and when it was made: only entries that name the grant or draw on it.
    pub grant: Option<(i64, DateTime<Utc>)>,
}

/// A signed change of a battery. Entries never change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatteryEntry {
    /// 1, 2, 3, … for each org, without gaps.
    pub sequence: i64,
    /// When; never before the entry before it.
    pub at: DateTime<Utc>,
    /// What it is.
    pub kind: EntryKind,
    /// Units, a decimal; below zero they leave the battery.
    pub amount: String,
    /// What the battery holds after it.
    pub balance_after: String,
    /// What caused it: the source of a grant, or `usage`, `refund`, `dispute`, …
    pub source: String,
    /// The grant that it makes, takes from or ends (`grt_…`).
    pub grant: Option<String>,
    /// What the grants lost by it. What is missing to the amount went into debt, or paid it.
    pub draws: Vec<BatteryDraw>,
    /// The usage that it burns: `GET /v1/usage/records?battery_batch=…` lists the records.
    pub batch: Option<String>,
    /// What it comes from, such as `{"object": "refund", "id": "re_…"}`.
    #[schema(value_type = Option<Object>)]
    pub link: Option<Value>,
    /// Why, where a person made it.
    pub reason: Option<String>,
    /// Who made it.
    pub actor: Option<String>,
}

/// What an entry took from a grant.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct BatteryDraw {
    /// `grt_…`
    pub grant: String,
    /// Units, a decimal; below zero the grant got them back.
    pub units: String,
}

/// An entry's place in the list.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Position(Moment, i64);

impl Position {
    #[must_use]
    pub fn from_entry(entry: &BatteryEntry) -> Self {
        Self(Moment(entry.at), entry.sequence)
    }
}

/// Order of a list of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    OldestFirst,
    NewestFirst,
}

type EntryRow = (
    (i64, DateTime<Utc>, String, Decimal, Decimal),
    (String, Option<i64>, Option<i64>, Value),
    (Option<Value>, Option<String>, Option<String>),
);

/// The columns of [`EntryRow`].
macro_rules! entry_columns {
    () => {
        (
            (
                battery_entries::sequence,
                battery_entries::at,
                battery_entries::kind,
                battery_entries::amount,
                battery_entries::balance_after,
            ),
            (
                battery_entries::source,
                battery_entries::grant_number,
                battery_entries::batch,
                battery_entries::draws,
            ),
            (battery_entries::link, battery_entries::reason, battery_entries::actor),
        )
    };
}

/// At most `limit` entries of an org, after the position `after`.
pub fn list(
    conn: &mut PgConnection,
    org_id: i64,
    filter: &EntryFilter,
    order: Order,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<BatteryEntry>, Error> {
    let mut query = battery_entries::table
        .filter(battery_entries::org_id.eq(org_id))
        .select(entry_columns!())
        .limit(limit)
        .into_boxed();
    // Times never go back, so the order of times is the order of the sequence. The index on the times finds a
    // range of them.
    query = match order {
        Order::OldestFirst => query.order((battery_entries::at.asc(), battery_entries::sequence.asc())),
        Order::NewestFirst => query.order((battery_entries::at.desc(), battery_entries::sequence.desc())),
    };
    if let Some(Position(at, sequence)) = after {
        query = match order {
            Order::OldestFirst => {
                query.filter(battery_entries::at.ge(at.0)).filter(battery_entries::sequence.gt(sequence))
            }
            Order::NewestFirst => {
                query.filter(battery_entries::at.le(at.0)).filter(battery_entries::sequence.lt(sequence))
            }
        };
    }
    if let Some(from) = filter.from {
        query = query.filter(battery_entries::at.ge(from));
    }
    if let Some(to) = filter.to {
        query = query.filter(battery_entries::at.lt(to));
    }
    if !filter.kinds.is_empty() {
        query = query.filter(battery_entries::kind.eq_any(filter.kinds.iter().map(|kind| kind.name())));
    }
    if !filter.sources.is_empty() {
        query = query.filter(battery_entries::source.eq_any(&filter.sources));
    }
    if let Some((number, made)) = filter.grant {
        let drawn = sql::<Bool>("battery_entries.draws @> ").bind::<Jsonb, _>(json!([[number]]));
        let named = battery_entries::grant_number.eq(number).assume_not_null();
        query = query.filter(battery_entries::at.ge(made)).filter(named.or(drawn));
    }
    let rows: Vec<EntryRow> = query.load(conn)?;
    to_entries(conn, org_id, rows)
}

/// One entry by its sequence.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find(conn: &mut PgConnection, org_id: i64, sequence: i64) -> Result<BatteryEntry, Error> {
    let row: EntryRow = battery_entries::table
        .find((org_id, sequence))
        .select(entry_columns!())
        .first(conn)
        .optional()?
        .ok_or(Error::NotFound("entry"))?;
    to_entries(conn, org_id, vec![row])?.pop().ok_or(Error::NotFound("entry"))
}

fn to_entries(conn: &mut PgConnection, org_id: i64, rows: Vec<EntryRow>) -> Result<Vec<BatteryEntry>, Error> {
    let drawn =
        rows.iter().map(|(_, (_, _, _, draws), _)| parse_draws(draws)).collect::<Result<Vec<_>, Error>>()?;
    let numbers: BTreeSet<i64> = rows
        .iter()
        .filter_map(|(_, (_, number, _, _), _)| *number)
        .chain(drawn.iter().flatten().map(|(number, _)| *number))
        .collect();
    let ids: HashMap<i64, String> = battery_grants::table
        .filter(battery_grants::org_id.eq(org_id).and(battery_grants::grant_number.eq_any(numbers)))
        .select((battery_grants::grant_number, battery_grants::grant_id))
        .load::<(i64, String)>(conn)?
        .into_iter()
        .collect();
    let id = |number: i64| {
        let missing = || Error::Internal(format!("an entry names the grant {number}, which is not there"));
        ids.get(&number).cloned().ok_or_else(missing)
    };
    let view = |((head, middle, (link, reason, actor)), drawn): (EntryRow, Vec<(i64, String)>)| {
        let (sequence, at, kind, amount, balance_after) = head;
        let (source, number, batch, _) = middle;
        let draw = |(number, units)| Ok(BatteryDraw { grant: id(number)?, units });
        Ok(BatteryEntry {
            sequence,
            at,
            kind: EntryKind::parse(&kind)?,
            amount: units_text(amount),
            balance_after: units_text(balance_after),
            source,
            grant: number.map(id).transpose()?,
            draws: drawn.into_iter().map(draw).collect::<Result<_, Error>>()?,
            batch: batch.map(|batch| batch.to_string()),
            link,
            reason,
            actor,
        })
    };
    rows.into_iter().zip(drawn).map(view).collect()
}

/// Reads `[[grant number, units], …]`.
fn parse_draws(draws: &Value) -> Result<Vec<(i64, String)>, Error> {
    let broken = || Error::Internal(format!("an entry has the draws {draws}"));
    let one = |draw: &Value| Some((draw.get(0)?.as_i64()?, draw.get(1)?.as_str()?.to_owned()));
    draws.as_array().ok_or_else(broken)?.iter().map(|draw| one(draw).ok_or_else(broken)).collect()
}
