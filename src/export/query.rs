//! Turns a request into SQL: conditions, order, and the row to continue after.

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Nullable, Text, Timestamptz};

use super::kind::Grouping;
use super::params::{ExportRange, ExportRequest, Void};
use super::{ExportKind, battery, usage};
use crate::auth::PLATFORM;
use crate::battery::exports::FROM;
use crate::billing::acting_realms;
use crate::billing::exports::{Column, Filters, Kind, Type};
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
}

/// SQL conditions, and the values of their placeholders.
#[derive(Default)]
pub(super) struct Conditions {
    all: Vec<String>,
    binds: Vec<Bind>,
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

/// An export as SQL.
pub(super) struct Query {
    pub(super) of: ExportKind,
    /// SQL after `FROM`.
    tables: String,
    conditions: Conditions,
}

impl Query {
    /// Looks up what the request names. This checks `scope`; row-level security checks it again.
    pub(super) fn build(
        conn: &mut PgConnection,
        request: &ExportRequest,
        scope: Scope,
    ) -> Result<Self, Error> {
        let of = request.of;
        let kind = match (of, &request.usage) {
            (ExportKind::Billing(kind), _) => kind,
            (ExportKind::Usage(unit, columns), Some(rows)) => {
                let (tables, conditions) = usage::conditions(conn, (request, rows), (unit, columns), scope)?;
                return Ok(Self { of, tables, conditions });
            }
            (ExportKind::Usage(..), None) => {
                return Err(Error::Internal("an export of usage without its rows".to_owned()));
            }
            (ExportKind::Battery, _) => {
                let conditions = battery::conditions(conn, request, scope)?;
                return Ok(Self { of, tables: FROM.to_owned(), conditions });
            }
        };
        let mut conditions = realm_and_org(conn, request, scope)?;
        let after = request.after.as_deref().map(|after| find(conn, kind, &conditions, after)).transpose()?;
        conditions.add(kind.definition().kept, []);
        narrow(&mut conditions, &kind.definition().filters, request);
        if let Some(key) = after {
            add_after(&mut conditions, kind, key);
        }
        Ok(Self { of, tables: kind.definition().from.to_owned(), conditions })
    }

    /// Declares a cursor over the rows in order, with one SQL column for each column of the kind.
    pub(super) fn declare_cursor(&self, name: &str) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        let columns: Vec<&str> = self.of.columns().iter().map(|column| column.sql).collect();
        let order = format!("ORDER BY {}", self.of.order());
        self.bound(&format!("DECLARE {name} NO SCROLL CURSOR FOR SELECT {}", columns.join(", ")), &order)
    }

    /// Selects one row per account, mode and group of a grouping: the number of rows, and the sums of the
    /// grouping's columns as texts.
    pub(super) fn totals(&self, grouping: &Grouping) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        let columns = self.of.columns();
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
        self.bound(&select, "GROUP BY 1, 2, 3")
    }

    fn bound(&self, select: &str, end: &str) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
        let conditions = self.conditions.all.join(" AND ");
        let sql = format!("{select} FROM {} WHERE {conditions} {end}", self.tables);
        bind(sql, &self.conditions.binds)
    }
}

/// The conditions of the parameters. One that does not apply to the kind was refused before.
fn narrow(conditions: &mut Conditions, filters: &Filters, request: &ExportRequest) {
    conditions.add_period("d.created", request.created);
    for (column, period) in
        [(filters.issued, request.issued), (filters.paid, request.paid), (filters.due, request.due)]
    {
        if let Some(column) = column {
            conditions.add_period(column, period);
        }
    }
    if let (Some(overdue), Some(wanted)) = (filters.overdue, request.overdue) {
        let is = if wanted { "IS TRUE" } else { "IS NOT TRUE" };
        conditions.add(&format!("({overdue}) {is}"), [Bind::Time(request.now)]);
    }
    match (filters.void, request.void) {
        (None, _) | (_, Void::Include) => {}
        (Some(void), Void::Exclude) => conditions.add(&format!("({void}) IS NOT TRUE"), []),
        (Some(void), Void::Only) => conditions.add(void, []),
    }
    for (column, texts) in [(Some("d.status"), &request.statuses), (filters.currency, &request.currencies)] {
        if let (Some(column), Some(texts)) = (column, texts) {
            conditions.add(&format!("{column} = ANY (?)"), [Bind::Texts(texts.clone())]);
        }
    }
    for (column, text) in [
        (Some(filters.customer), &request.customer),
        (filters.subscription, &request.subscription),
        (filters.number, &request.number),
    ] {
        if let (Some(column), Some(text)) = (column, text) {
            conditions.add(&format!("{column} = ?"), [Bind::Text(text.clone())]);
        }
    }
}

/// The conditions that a row fulfils for ever, so that `after` still finds a row whose status has changed.
fn realm_and_org(
    conn: &mut PgConnection,
    request: &ExportRequest,
    scope: Scope,
) -> Result<Conditions, Error> {
    let mut conditions = Conditions::default();
    if let Some(account) = &request.account {
        conditions.add("d.account = ?", [Bind::Text(account.clone())]);
    }
    if let Some(livemode) = request.livemode {
        conditions.add("d.livemode = ?", [Bind::Bool(livemode)]);
    }
    if !request.every_realm && (request.account.is_none() || request.livemode.is_none()) {
        let trusted = acting_realms::load(conn)?;
        if request.account.is_none() {
            conditions.add("d.account = ANY (?)", [Bind::Texts(trusted.accounts().to_vec())]);
        }
        if request.livemode.is_none() {
            conditions.add("d.livemode = ?", [Bind::Bool(trusted.livemode())]);
        }
    }
    let asked = request.org.as_ref().map(|org| org.row_id(conn)).transpose()?;
    let own = match scope {
        Scope::Platform => None,
        Scope::Org(org_id) => Some(org_id),
    };
    debug_assert!(own != Some(PLATFORM), "the platform has a scope of its own");
    if asked.is_some() && own.is_some() && asked != own {
        return Err(Error::UnknownOrg("org".into()));
    }
    if let Some(org_id) = own.or(asked) {
        conditions.add("o.org_id = ?", [Bind::Number(org_id)]);
    }
    Ok(conditions)
}

/// A row's place in the order.
#[derive(QueryableByName)]
struct Place {
    #[diesel(sql_type = Nullable<Timestamptz>)]
    created: Option<DateTime<Utc>>,
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
}

/// Finds the row that `after` names; for lines also the number of the line.
fn find(
    conn: &mut PgConnection,
    kind: Kind,
    conditions: &Conditions,
    after: &str,
) -> Result<(Place, Option<i64>), Error> {
    // Of a line it looks for the document only: its number gives its place, even when the line is gone.
    let (of, id, number) = match kind.definition().lines_of {
        None => (kind, after, None),
        Some(documents) => {
            let place = after.rsplit_once('/').and_then(|(id, number)| Some((id, number.parse().ok()?)));
            let (id, number): (&str, i64) = place.ok_or_else(|| {
                let rule = "must be the document's id and the line's number, such as in_1/0";
                Error::invalid("after", rule)
            })?;
            (documents, id, Some(number))
        }
    };
    let mut wanted = conditions.all.clone();
    wanted.push(format!("d.id = ${}", conditions.binds.len() + 1));
    let sql = format!(
        "SELECT d.created, d.id, d.account, d.livemode FROM {} WHERE {} LIMIT 2",
        of.definition().from,
        wanted.join(" AND ")
    );
    let mut found: Vec<Place> = bind(sql, &conditions.binds).bind::<Text, _>(id.to_owned()).load(conn)?;
    match (found.pop(), found.is_empty()) {
        (Some(place), true) => Ok((place, number)),
        (Some(_), false) => {
            Err(Error::invalid("after", "names several rows: narrow the export by `account` and `livemode`"))
        }
        (None, _) => Err(Error::invalid(
            "after",
            "names no row here: give the id of the last complete row, as the export shows it",
        )),
    }
}

/// Keeps the rows after this one. Rows without `created` come last, as PostgreSQL sorts them.
fn add_after(conditions: &mut Conditions, kind: Kind, (place, number): (Place, Option<i64>)) {
    let mut rest = vec![Bind::Text(place.id), Bind::Text(place.account), Bind::Bool(place.livemode)];
    rest.extend(number.map(Bind::Number));
    let order = kind.definition().order;
    let marks = if number.is_some() { "?, ?, ?, ?" } else { "?, ?, ?" };
    match place.created {
        Some(created) => {
            let condition = format!("(d.created IS NULL OR ({order}) > (?, {marks}))");
            conditions.add(&condition, std::iter::once(Bind::Time(created)).chain(rest));
        }
        None => {
            let order = order.trim_start_matches("d.created, ");
            conditions.add(&format!("d.created IS NULL AND ({order}) > ({marks})"), rest);
        }
    }
}

fn bind(sql: String, binds: &[Bind]) -> BoxedSqlQuery<'static, Pg, SqlQuery> {
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
