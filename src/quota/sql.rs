//! Statements with columns as arrays, prepared once per connection: `sql_query` is parsed anew each time.

use std::marker::PhantomData;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::HasSqlType;

/// A statement's text, cut where its parameters stand. One type for each text: by it diesel finds what it has prepared.
pub(super) trait Sql: 'static {
    /// The text around the parameters.
    const PARTS: &'static [&'static str];
    /// SQL types of a row that it returns.
    type Row: 'static;
}

/// The statement with its parameters.
pub(super) struct Statement<'a, S> {
    params: Vec<Box<dyn QueryFragment<Pg> + 'a>>,
    sql: PhantomData<S>,
}

impl<'a, S: Sql> Statement<'a, S> {
    pub(super) fn new() -> Self {
        Self { params: Vec::with_capacity(S::PARTS.len()), sql: PhantomData }
    }

    /// The next parameter.
    pub(super) fn bind<ST, T>(mut self, value: T) -> Self
    where
        ST: 'static,
        T: ToSql<ST, Pg> + 'a,
        Pg: HasSqlType<ST>,
    {
        self.params.push(Box::new(Param::<ST, T> { value, sql_type: PhantomData }));
        self
    }
}

struct Param<ST, T> {
    value: T,
    sql_type: PhantomData<ST>,
}

impl<ST, T> QueryFragment<Pg> for Param<ST, T>
where
    T: ToSql<ST, Pg>,
    Pg: HasSqlType<ST>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<ST, T>(&self.value)
    }
}

impl<S: Sql> QueryFragment<Pg> for Statement<'_, S> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        debug_assert_eq!(self.params.len() + 1, S::PARTS.len());
        let mut params = self.params.iter();
        for part in S::PARTS {
            out.push_sql(part);
            if let Some(param) = params.next() {
                param.walk_ast(out.reborrow())?;
            }
        }
        Ok(())
    }
}

impl<S: Sql> QueryId for Statement<'_, S> {
    type QueryId = Statement<'static, S>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<S: Sql> Query for Statement<'_, S> {
    type SqlType = S::Row;
}

impl<S: Sql> RunQueryDsl<PgConnection> for Statement<'_, S> {}

/// Declares a statement's text.
macro_rules! sql {
    ($name:ident returns $row:ty: $($part:literal),+ $(,)?) => {
        struct $name;
        impl $crate::quota::sql::Sql for $name {
            const PARTS: &'static [&'static str] = &[$($part),+];
            type Row = $row;
        }
    };
}
pub(super) use sql;
