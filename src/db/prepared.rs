//! Statements over whole columns that PostgreSQL plans once per connection: diesel plans `sql_query` anew
//! each time.

use std::marker::PhantomData;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::serialize::ToSql;
use diesel::sql_types::{Array, HasSqlType};

/// The values of one column, sent as one array.
pub struct Column<ST, T> {
    values: Vec<T>,
    sql_type: PhantomData<ST>,
}

impl<ST, T> Column<ST, T> {
    /// A column of these values.
    pub fn new(values: Vec<T>) -> Self {
        Self { values, sql_type: PhantomData }
    }
}

impl<ST, T> QueryFragment<Pg> for Column<ST, T>
where
    ST: 'static,
    Pg: HasSqlType<Array<ST>>,
    Vec<T>: ToSql<Array<ST>, Pg>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<Array<ST>, Vec<T>>(&self.values)
    }
}

/// The text of a statement.
pub trait Text: 'static {
    /// SQL with a `?` for each column that is bound.
    const SQL: &'static str;
    /// The types of a row that it gives back; `Untyped` for none.
    type Row;
}

/// A statement with its columns bound in the order of the `?`.
pub struct Prepared<'a, Q> {
    columns: Vec<Box<dyn QueryFragment<Pg> + 'a>>,
    text: PhantomData<Q>,
}

impl<'a, Q: Text> Prepared<'a, Q> {
    /// The statement without its columns.
    #[must_use]
    pub fn new() -> Self {
        Self { columns: Vec::new(), text: PhantomData }
    }

    /// Binds the next column.
    #[must_use]
    pub fn bind<ST, T>(mut self, values: Vec<T>) -> Self
    where
        ST: 'static,
        T: 'a,
        Pg: HasSqlType<Array<ST>>,
        Vec<T>: ToSql<Array<ST>, Pg>,
    {
        self.columns.push(Box::new(Column::<ST, T>::new(values)));
        self
    }
}

impl<'a, Q: Text> Prepared<'a, Q> {
    /// Binds a single value.
    #[must_use]
    pub fn bind_one<ST, T>(mut self, value: T) -> Self
    where
        ST: 'static,
        T: ToSql<ST, Pg> + 'a,
        Pg: HasSqlType<ST>,
    {
        self.columns.push(Box::new(One::<ST, T> { value, sql_type: PhantomData }));
        self
    }
}

struct One<ST, T> {
    value: T,
    sql_type: PhantomData<ST>,
}

impl<ST, T> QueryFragment<Pg> for One<ST, T>
where
    T: ToSql<ST, Pg>,
    Pg: HasSqlType<ST>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<ST, T>(&self.value)
    }
}

impl<Q: Text> Default for Prepared<'_, Q> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Q: Text> QueryFragment<Pg> for Prepared<'_, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut columns = self.columns.iter();
        for (index, piece) in Q::SQL.split('?').enumerate() {
            if index > 0 {
                let column = columns.next().expect("every `?` has its column");
                column.walk_ast(out.reborrow())?;
            }
            out.push_sql(piece);
        }
        assert!(columns.next().is_none(), "every column has its `?`");
        Ok(())
    }
}

impl<Q: Text> QueryId for Prepared<'_, Q> {
    type QueryId = Prepared<'static, Q>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Q: Text> Query for Prepared<'_, Q> {
    type SqlType = Q::Row;
}

impl<Q: Text> RunQueryDsl<PgConnection> for Prepared<'_, Q> {}

/// Declares the text of a [`Prepared`] statement.
macro_rules! statement {
    ($name:ident -> $row:ty: $sql:expr) => {
        struct $name;
        impl $crate::db::prepared::Text for $name {
            const SQL: &'static str = $sql;
            type Row = $row;
        }
    };
}
pub(crate) use statement;
