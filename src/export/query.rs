//! Turns a request into SQL: what to select, in which order, and on which conditions.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::{Pg, PgConnection};
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Jsonb, Nullable, Text, Timestamptz};

use super::kind::Grouping;
use super::params::{ExportRange, ExportRequest};
use super::{ExportKind, audit, battery, billing, breakdown, charges, drift, usage};
use crate::battery::exports::FROM;
use crate::billing::exports::{Column, Type};
use crate::db::Scope;
use crate::error::Error;

/// A value for a placeholder.
pub(super) enum Bind {
    Text(String),
    Texts(Vec<String>),
    Bool(bool),
    Time(DateTime<Utc>),
    Number(i64),
    Numbers(Vec<i32>),
    Day(NaiveDate),
    MaybeNumber(Option<i64>),
    MaybeText(Option<String>),
    Json(serde_json::Value),
}

/// SQL conditions, and the values of their placeholders.
#[derive(Default)]
pub(super) struct Conditions {
    pub(super) all: Vec<String>,
    pub(super) binds: Vec<Bind>,
}

impl Conditions {
    /// Adds a condition; each `?` in it stands for the next of the values.
    pub(super) fn add(&mut self, condition: &str, values: impl IntoIterator<Item = Bind>) {
        let sql = self.numbered(condition, values);
        self.all.push(sql);
    }

    /// SQL with numbers in the place of each `?`, which stand for the values.
    pub(super) fn numbered(&mut self, text: &str, values: impl IntoIterator<Item = Bind>) -> String {
        let mut sql = String::new();
        let mut values = values.into_iter();
        for part in text.split_inclusive('?') {
            match part.strip_suffix('?') {
                Some(text) => {
                    self.binds.extend(values.next());
                    sql = format!("{sql}{text}${}", self.binds.len());
                }
                None => sql.push_str(part),
            }
        }
        sql
    }

    pub(super) fn add_period(&mut self, column: &str, period: ExportRange) {
        for (sign, time) in [(">=", period.from), ("<", period.before)] {
            if let Some(time) = time {
                self.add(&format!("{column} {sign} ?"), [Bind::Time(time)]);
            }
        }
    }
}

/// Rows of an export that one statement selects.
pub(super) struct Part {
    /// The columns of the kind, with SQL over the rows of `tables`.
    pub(super) columns: &'static [Column],
    /// SQL after `FROM`.
    pub(super) tables: String,
    /// SQL after `ORDER BY`.
    pub(super) order: &'static str,
    pub(super) conditions: Conditions,
}

/// An export as SQL.
pub(super) struct Query {
    pub(super) of: ExportKind,
    /// In the file the rows of several parts are in the order of their `d.created, d.id`. Where these are the
    /// same, the earlier part comes first.
    pub(super) parts: Vec<Part>,
}

impl Query {
    /// Looks up what the request names. This checks `scope`; row-level security checks it again.
    pub(super) fn build(
        conn: &mut PgConnection,
        request: &ExportRequest,
        scope: Scope,
    ) -> Result<Self, Error> {
        let of = request.of;
        let (tables, conditions) = match (of, &request.usage) {
            (ExportKind::Billing(kind), _) => {
                return Ok(Self { of, parts: billing::parts(conn, request, kind, scope)? });
            }
            (ExportKind::Usage(unit, columns), Some(rows)) => {
                usage::conditions(conn, (request, rows), (unit, columns), scope)?
            }
            (ExportKind::Usage(..), None) => {
                return Err(Error::Internal("an export of usage without its rows".to_owned()));
            }
            (ExportKind::Breakdown, _) => {
                let rows = request.breakdown.as_ref();
                let rows = rows.ok_or_else(|| Error::Internal("an export without its rows".to_owned()))?;
                breakdown::conditions(conn, (request, rows), scope)?
            }
            (ExportKind::Drift, _) => (drift::FROM.to_owned(), drift::conditions(request, scope)?),
            (ExportKind::Audit, _) => (audit::FROM.to_owned(), audit::conditions(conn, request, scope)?),
            (ExportKind::Charges, _) => {
                (charges::FROM.to_owned(), charges::conditions(conn, request, scope)?)
            }
            (ExportKind::Battery, _) => (FROM.to_owned(), battery::conditions(conn, request, scope)?),
        };
        let part = Part { columns: of.columns(), tables, order: of.order(), conditions };
        Ok(Self { of, parts: vec![part] })
    }

    /// Declares a cursor over the rows of a part in order, with one SQL column for each column of the kind.
    /// If there are several parts, the row's place ([`super::row::Packed::place`]) follows.
    pub(super) fn declare_cursor(&self, name: &str, part: &Part) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        let mut columns: Vec<&str> = part.columns.iter().map(|column| column.sql).collect();
        if self.parts.len() > 1 {
            columns.extend(["d.created", "d.id"]);
        }
        let order = format!("ORDER BY {}", part.order);
        part.bound(&format!("DECLARE {name} NO SCROLL CURSOR FOR SELECT {}", columns.join(", ")), &order)
    }

    /// Selects one row of a part per account, mode and group of a grouping: the number of rows, and the sums
    /// of the grouping's columns as texts.
    pub(super) fn totals(&self, grouping: &Grouping, part: &Part) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        let columns = part.columns;
        let sum = |column: &Column| match column.holds {
            Type::Decimal => format!("coalesce(sum(({})::numeric), 0)::text", column.sql),
            _ => format!("coalesce(sum({}), 0)::text", column.sql),
        };
        let sums: Vec<String> = columns.iter().filter(|column| grouping.sums(column)).map(sum).collect();
        let sql = |name: &str| columns.iter().find(|column| column.name == name).map(|column| column.sql);
        let name = sql(grouping.by).unwrap_or("NULL");
        let realm =
            if self.of.has_realms() { "d.account, d.livemode" } else { "'' AS account, true AS livemode" };
        let select = format!(
            "SELECT {realm}, {name} AS name, count(*) AS rows, ARRAY[{}]::text[] AS sums",
            sums.join(", ")
        );
        part.bound(&select, "GROUP BY 1, 2, 3")
    }
}

impl Part {
    fn bound(&self, select: &str, end: &str) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        let sql = format!("{select} FROM {} WHERE {} {end}", self.tables, self.conditions.all.join(" AND "));
        bind(sql, &self.conditions.binds)
    }
}

pub(super) fn bind(sql: String, binds: &[Bind]) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
    let mut query = diesel::sql_query(sql).into_boxed::<Pg>();
    for value in binds {
        query = match value {
            Bind::Text(text) => query.bind::<Text, _>(text.clone()),
            Bind::Texts(texts) => query.bind::<Array<Text>, _>(texts.clone()),
            Bind::Bool(flag) => query.bind::<Bool, _>(*flag),
            Bind::Time(time) => query.bind::<Timestamptz, _>(*time),
            Bind::Number(number) => query.bind::<BigInt, _>(*number),
            Bind::Numbers(numbers) => query.bind::<Array<Integer>, _>(numbers.clone()),
            Bind::Day(day) => query.bind::<Date, _>(*day),
            Bind::MaybeNumber(number) => query.bind::<Nullable<BigInt>, _>(*number),
            Bind::MaybeText(text) => query.bind::<Nullable<Text>, _>(text.clone()),
            Bind::Json(value) => query.bind::<Jsonb, _>(value.clone()),
        };
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placeholders_are_numbered_through() {
        let mut conditions = Conditions::default();
        conditions.add("a = ?", [Bind::Number(1)]);
        conditions.add("(b, c) > (?, ?)", [Bind::Number(2), Bind::Number(3)]);
        conditions.add("NOT d", []);
        assert_eq!(conditions.all, ["a = $1", "(b, c) > ($2, $3)", "NOT d"]);
        assert_eq!(conditions.binds.len(), 3);
    }
}
