//! The SQL that reads a mirror.

use diesel::dsl::SqlTypeOf;
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, Bool, Nullable, Text, Timestamptz};

use super::super::mirror::Mirror;
use super::{ListedRow, Position, owners};
use crate::time::Moment;

/// A piece of SQL with its values, mostly conditions that each begin with AND.
#[derive(Clone, Debug, Default)]
pub(in crate::billing) struct Where(Vec<Piece>);

#[derive(Clone, Debug)]
enum Piece {
    Sql(String),
    Bind(Bind),
}

/// A value sent beside the SQL.
#[derive(Clone, Debug)]
pub(in crate::billing) enum Bind {
    Text(String),
    Texts(Vec<String>),
    Flag(bool),
    At(Moment),
}

impl From<&str> for Bind {
    fn from(text: &str) -> Self {
        Self::Text(text.to_owned())
    }
}

impl From<&String> for Bind {
    fn from(text: &String) -> Self {
        Self::Text(text.clone())
    }
}

impl From<Vec<String>> for Bind {
    fn from(texts: Vec<String>) -> Self {
        Self::Texts(texts)
    }
}

impl From<bool> for Bind {
    fn from(flag: bool) -> Self {
        Self::Flag(flag)
    }
}

impl From<Moment> for Bind {
    fn from(at: Moment) -> Self {
        Self::At(at)
    }
}

impl Where {
    /// Adds a condition with `value` in the place of `{}`; adds nothing without a value.
    pub(in crate::billing) fn when(&mut self, value: Option<impl Into<Bind>>, condition: &str) -> &mut Self {
        if let Some(value) = value {
            self.sql(" AND (").with(condition, [value.into()]).sql(")");
        }
        self
    }

    /// SQL with a value in the place of each `{}`.
    pub(super) fn new(sql: &str, values: impl IntoIterator<Item = Bind>) -> Self {
        let mut made = Self::default();
        made.with(sql, values);
        made
    }

    /// Appends SQL unchanged.
    pub(in crate::billing) fn sql(&mut self, sql: &str) -> &mut Self {
        self.0.push(Piece::Sql(sql.to_owned()));
        self
    }

    /// Appends SQL with a value in the place of each `{}`.
    pub(in crate::billing) fn with(
        &mut self,
        sql: &str,
        values: impl IntoIterator<Item = Bind>,
    ) -> &mut Self {
        let mut values = values.into_iter();
        for (index, part) in sql.split("{}").enumerate() {
            if index > 0 {
                self.0.extend(values.next().map(Piece::Bind));
            }
            self.sql(part);
        }
        self
    }

    pub(super) fn append(&mut self, other: &Self) -> &mut Self {
        self.0.extend_from_slice(&other.0);
        self
    }
}

impl QueryFragment<Pg> for Where {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        for piece in &self.0 {
            match piece {
                Piece::Sql(sql) => out.push_sql(sql),
                Piece::Bind(Bind::Text(text)) => out.push_bind_param::<Text, _>(text)?,
                Piece::Bind(Bind::Texts(texts)) => out.push_bind_param::<Array<Text>, _>(texts)?,
                Piece::Bind(Bind::Flag(flag)) => out.push_bind_param::<Bool, _>(flag)?,
                Piece::Bind(Bind::At(at)) => out.push_bind_param::<Timestamptz, _>(&at.0)?,
            }
        }
        Ok(())
    }
}

/// A part of a list. Rows without `created` come after all others. The parts are read separately, because
/// each is then in the order of an index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Rows with `created`.
    Dated,
    /// Rows without.
    Undated,
}

impl Part {
    /// The parts that the page after `place` may show.
    pub(super) fn after(place: Option<&Position>) -> &'static [Self] {
        match place {
            Some(Position(None, ..)) => &[Self::Undated],
            _ => &[Self::Dated, Self::Undated],
        }
    }

    /// Adds the conditions: only rows of this part that come after `place`.
    pub(super) fn only(self, rows: &mut Where, table: &str, place: Option<&Position>) {
        let key = format!("{table}.id, {table}.account, {table}.livemode");
        rows.sql(&format!(" AND {table}.created IS {}NULL", if self == Self::Dated { "NOT " } else { "" }));
        match place {
            Some(Position(Some(at), id, account, livemode)) if self == Self::Dated => {
                let sql = format!(" AND ({table}.created, {key}) < ({{}}, {{}}, {{}}, {{}})");
                rows.with(&sql, [(*at).into(), id.into(), account.into(), (*livemode).into()]);
            }
            Some(Position(None, id, account, livemode)) if self == Self::Undated => {
                let sql = format!(" AND ({key}) < ({{}}, {{}}, {{}})");
                rows.with(&sql, [id.into(), account.into(), (*livemode).into()]);
            }
            _ => {}
        }
    }
}

/// Rows of a mirror, each with its customer's id and its org's public id.
///
/// It is never a prepared statement: the plan must fit the values, and each set of filters has its own text.
pub(in crate::billing) struct Select<T: Selectable<Pg>> {
    columns: T::SelectExpression,
    rows: Where,
    end: String,
}

impl<T: ListedRow> Select<T> {
    /// `few`: the conditions select few rows through an index of their own.
    pub(super) fn newest_first(rows: Where, few: bool, limit: i64) -> Self {
        let table = T::TABLE;
        // PostgreSQL does not know that invoices are issued soon after their creation. So it would walk the
        // index on `created` from the newest row to an old month. No index has this expression.
        let created = if few { "created + interval '0'" } else { "created" };
        let end = format!(
            " ORDER BY {table}.{created} DESC, {table}.id DESC, {table}.account DESC, {table}.livemode DESC
             LIMIT {limit}"
        );
        Self { columns: T::construct_selection(), rows, end }
    }

    pub(super) fn own_account_first(rows: Where) -> Self {
        let end = " ORDER BY account, livemode DESC LIMIT 1".to_owned();
        Self { columns: T::construct_selection(), rows, end }
    }
}

impl<T: ListedRow> QueryFragment<Pg> for Select<T>
where
    T::SelectExpression: QueryFragment<Pg>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.unsafe_to_cache_prepared();
        out.push_sql("SELECT ");
        self.columns.walk_ast(out.reborrow())?;
        out.push_sql(&format!(
            ", {}, {} FROM {} WHERE true",
            owners::customer::<T>(),
            owners::org::<T>(),
            T::TABLE
        ));
        self.rows.walk_ast(out.reborrow())?;
        out.push_sql(&self.end);
        Ok(())
    }
}

impl<T: Selectable<Pg>> QueryId for Select<T> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<T: ListedRow> Query for Select<T>
where
    T::SelectExpression: Expression,
{
    type SqlType = (SqlTypeOf<T::SelectExpression>, Nullable<Text>, Nullable<Text>);
}

impl<T: Selectable<Pg>> RunQueryDsl<PgConnection> for Select<T> {}

/// A query for the numbered rows of some parents.
pub(in crate::billing) struct Children<C: Selectable<Pg>> {
    columns: C::SelectExpression,
    accounts: Vec<String>,
    livemodes: Vec<bool>,
    ids: Vec<String>,
}

impl<C: Selectable<Pg>> Children<C> {
    pub(super) fn new(parents: &[(String, bool, String)]) -> Self {
        Self {
            columns: C::construct_selection(),
            accounts: parents.iter().map(|key| key.0.clone()).collect(),
            livemodes: parents.iter().map(|key| key.1).collect(),
            ids: parents.iter().map(|key| key.2.clone()).collect(),
        }
    }
}

impl<C: Mirror + Selectable<Pg>> QueryFragment<Pg> for Children<C>
where
    C::SelectExpression: QueryFragment<Pg>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let (table, parent, number) = (C::TABLE, C::KEY[2], C::KEY[3]);
        out.unsafe_to_cache_prepared();
        out.push_sql("SELECT ");
        self.columns.walk_ast(out.reborrow())?;
        out.push_sql(" FROM unnest(");
        out.push_bind_param::<Array<Text>, _>(&self.accounts)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Bool>, _>(&self.livemodes)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<Text>, _>(&self.ids)?;
        out.push_sql(&format!(
            ") AS p (account, livemode, id)
             JOIN {table} ON {table}.account = p.account
                 AND {table}.livemode = p.livemode
                 AND {table}.{parent} = p.id
             ORDER BY {table}.{number}"
        ));
        Ok(())
    }
}

impl<C: Selectable<Pg>> QueryId for Children<C> {
    type QueryId = ();
    const HAS_STATIC_QUERY_ID: bool = false;
}

impl<C: Mirror + Selectable<Pg>> Query for Children<C>
where
    C::SelectExpression: Expression,
{
    type SqlType = SqlTypeOf<C::SelectExpression>;
}

impl<C: Selectable<Pg>> RunQueryDsl<PgConnection> for Children<C> {}
