//! Prepared statements whose parameters are whole columns. PostgreSQL plans them once per connection;
//! diesel's `sql_query` would have them planned at every call.

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

/// The text of a statement; [`statement`] declares one.
pub trait StatementText: 'static {
    /// SQL with a `?` for each parameter.
    const SQL: &'static str;
    /// SQL types of a returned row; `Untyped` if the statement returns none.
    type Row;
}

/// A statement with its parameters, bound in the order of the `?`.
pub struct Prepared<'a, Q> {
    parameters: Vec<Box<dyn QueryFragment<Pg> + 'a>>,
    text: PhantomData<Q>,
}

impl<'a, Q: StatementText> Prepared<'a, Q> {
    /// The statement without parameters.
    #[must_use]
    pub fn new() -> Self {
        Self { parameters: Vec::new(), text: PhantomData }
    }

    /// Binds a column, as an array, to the next `?`.
    #[must_use]
    pub fn bind<ST, T>(mut self, values: Vec<T>) -> Self
    where
        ST: 'static,
        T: 'a,
        Pg: HasSqlType<Array<ST>>,
        Vec<T>: ToSql<Array<ST>, Pg>,
    {
        self.parameters.push(Box::new(Column::<ST, T>::new(values)));
        self
    }
}

impl<'a, Q: StatementText> Prepared<'a, Q> {
    /// Binds a single value to the next `?`.
    #[must_use]
    pub fn bind_one<ST, T>(mut self, value: T) -> Self
    where
        ST: 'static,
        T: ToSql<ST, Pg> + 'a,
        Pg: HasSqlType<ST>,
    {
        self.parameters.push(Box::new(SingleValue::<ST, T> { value, sql_type: PhantomData }));
        self
    }
}

struct SingleValue<ST, T> {
    value: T,
    sql_type: PhantomData<ST>,
}

impl<ST, T> QueryFragment<Pg> for SingleValue<ST, T>
where
    T: ToSql<ST, Pg>,
    Pg: HasSqlType<ST>,
{
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_bind_param::<ST, T>(&self.value)
    }
}

impl<Q: StatementText> Default for Prepared<'_, Q> {
    fn default() -> Self {
        Self::new()
    }
}

impl<Q: StatementText> QueryFragment<Pg> for Prepared<'_, Q> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        let mut parameters = self.parameters.iter();
        for (index, piece) in Q::SQL.split('?').enumerate() {
            if index > 0 {
                let parameter = parameters.next().expect("every `?` has its parameter");
                parameter.walk_ast(out.reborrow())?;
            }
            out.push_sql(piece);
        }
        assert!(parameters.next().is_none(), "every parameter has its `?`");
        Ok(())
    }
}

impl<Q: StatementText> QueryId for Prepared<'_, Q> {
    type QueryId = Prepared<'static, Q>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<Q: StatementText> Query for Prepared<'_, Q> {
    type SqlType = Q::Row;
}

impl<Q: StatementText> RunQueryDsl<PgConnection> for Prepared<'_, Q> {}

/// Declares the text of a [`Prepared`] statement.
macro_rules! statement {
    ($name:ident -> $row:ty: $sql:expr) => {
        struct $name;
        impl $crate::db::prepared::StatementText for $name {
            const SQL: &'static str = $sql;
            type Row = $row;
        }
    };
}
pub(crate) use statement;
