//! Entries of the ledger, as lists show them.

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

use super::super::entries::EntryKind;
use super::text;
use crate::error::Error;
use crate::schema::{battery_entries, battery_grants};
use crate::time::Moment;

/// Narrows a list of entries.
#[derive(Clone, Debug, Default)]
pub struct EntryFilter {
    /// Only of these kinds; empty: of all.
    pub kinds: Vec<EntryKind>,
    /// Only from these sources; empty: from all.
    pub sources: Vec<String>,
    /// At or after.
    pub from: Option<DateTime<Utc>>,
    pub to: Option<DateTime<Utc>>,
    /// Only those that this grant is named by or drawn on, and when it was made.
    pub grant: Option<(i64, DateTime<Utc>)>,
}

/// A signed change of a battery. Entries never change.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatteryEntry)]
pub struct Posted {
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
    pub draws: Vec<Draw>,
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
#[schema(as = BatteryDraw)]
pub struct Draw {
    /// `grt_…`
    pub grant: String,
    /// Units, a decimal; below zero the grant got them back.
    pub units: String,
}

/// An entry's place in the list.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Position(Moment, i64);

impl Position {
    /// The place of an entry.
    #[must_use]
    pub fn of(entry: &Posted) -> Self {
        Self(Moment(entry.at), entry.sequence)
    }
}

/// In which order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Order {
    /// As they were written.
    OldestFirst,
    /// The other way round.
    NewestFirst,
}

type EntryRow = (
    (i64, DateTime<Utc>, String, Decimal, Decimal),
    (String, Option<i64>, Option<i64>, Value),
    (Option<Value>, Option<String>, Option<String>),
);

/// An org's entries, at most `limit`, after the one at that place.
pub fn list(
    conn: &mut PgConnection,
    org_id: i64,
    filter: &EntryFilter,
    order: Order,
    after: Option<Position>,
    limit: i64,
) -> Result<Vec<Posted>, Error> {
    let mut query = battery_entries::table
        .filter(battery_entries::org_id.eq(org_id))
        .select((
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
        ))
        .limit(limit)
        .into_boxed();
    // Times never go back, so both orders are those of the sequence; the index on the times finds a stretch
    // of them.
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
    posted(conn, org_id, rows)
}

/// One entry by its sequence.
///
/// # Errors
/// [`Error::NotFound`].
pub fn find(conn: &mut PgConnection, org_id: i64, sequence: i64) -> Result<Posted, Error> {
    let row: EntryRow = battery_entries::table
        .find((org_id, sequence))
        .select((
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
        ))
        .first(conn)
        .optional()?
        .ok_or(Error::NotFound("entry"))?;
    posted(conn, org_id, vec![row])?.pop().ok_or(Error::NotFound("entry"))
}

fn posted(conn: &mut PgConnection, org_id: i64, rows: Vec<EntryRow>) -> Result<Vec<Posted>, Error> {
    let drawn =
        rows.iter().map(|(_, (_, _, _, draws), _)| draws_of(draws)).collect::<Result<Vec<_>, Error>>()?;
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
        let draw = |(number, units)| Ok(Draw { grant: id(number)?, units });
        Ok(Posted {
            sequence,
            at,
            kind: EntryKind::parse(&kind)?,
            amount: text(amount),
            balance_after: text(balance_after),
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

/// `[[grant number, units], …]`.
fn draws_of(draws: &Value) -> Result<Vec<(i64, String)>, Error> {
    let broken = || Error::Internal(format!("an entry has the draws {draws}"));
    let one = |draw: &Value| Some((draw.get(0)?.as_i64()?, draw.get(1)?.as_str()?.to_owned()));
    draws.as_array().ok_or_else(broken)?.iter().map(|draw| one(draw).ok_or_else(broken)).collect()
}
