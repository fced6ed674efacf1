//! Stores rows of any mirror. Each column is sent as one array, so one prepared statement stores a batch of
//! any size.

use std::collections::BTreeMap;
use std::marker::PhantomData;

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, BoxedSqlQuery, Query, QueryFragment, QueryId, SqlQuery};
use diesel::sql_types::{Array, Bool, Integer, Text, Untyped};

use super::{MirrorBatch, MirrorRows};
pub(super) use crate::db::prepared::Column;

/// Account, live mode, id of the object, and the row's number within that object (0 for the object itself).
pub(super) type Key<'a> = (&'a str, bool, &'a str, i32);

/// A row of a mirror table; [`mirror!`] implements it.
pub(super) trait Mirror: 'static {
    const TABLE: &'static str;
    /// The columns of the primary key.
    const KEY: &'static [&'static str];
    /// Every column of the row, in the order of [`Mirror::columns`].
    const COLUMNS: &'static [&'static str];
    /// SQL: the condition for a stored row to be replaced; empty: always.
    const GUARD: &'static str = "";
    /// The primary key of this row.
    fn key(&self) -> Key<'_>;
    /// The values of each column over all rows.
    fn columns<'a>(rows: &[&'a Self]) -> Vec<Box<dyn QueryFragment<Pg> + 'a>>;

    /// Stores the rows of a batch.
    fn write(conn: &mut PgConnection, rows: &[Self], _: &MirrorBatch) -> QueryResult<()>
    where
        Self: Sized,
    {
        upsert(conn, rows)
    }
}

/// `INSERT … SELECT FROM UNNEST … ON CONFLICT DO UPDATE`. Its text depends on the table alone, so diesel
/// prepares it once per connection.
struct Upsert<'a, M> {
    columns: Vec<Box<dyn QueryFragment<Pg> + 'a>>,
    row: PhantomData<M>,
}

impl<M: Mirror> QueryFragment<Pg> for Upsert<'_, M> {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql("INSERT INTO ");
        out.push_sql(M::TABLE);
        push_list(&mut out, " (", M::COLUMNS)?;
        out.push_sql(") SELECT * FROM UNNEST(");
        for (index, column) in self.columns.iter().enumerate() {
            if index > 0 {
                out.push_sql(", ");
            }
            column.walk_ast(out.reborrow())?;
        }
        push_list(&mut out, ") ON CONFLICT (", M::KEY)?;
        let mut before = ") DO UPDATE SET ";
        for column in M::COLUMNS.iter().filter(|column| !M::KEY.contains(column)) {
            out.push_sql(before);
            out.push_identifier(column)?;
            out.push_sql(" = excluded.");
            out.push_identifier(column)?;
            before = ", ";
        }
        out.push_sql(M::GUARD);
        Ok(())
    }
}

fn push_list(out: &mut AstPass<'_, '_, Pg>, before: &str, columns: &[&str]) -> QueryResult<()> {
    let mut before = before;
    for column in columns {
        out.push_sql(before);
        out.push_identifier(column)?;
        before = ", ";
    }
    Ok(())
}

impl<M: Mirror> QueryId for Upsert<'_, M> {
    type QueryId = Upsert<'static, M>;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl<M> Query for Upsert<'_, M> {
    type SqlType = Untyped;
}

impl<M> RunQueryDsl<PgConnection> for Upsert<'_, M> {}

/// Stores rows in the order of their keys, so that two writers lock in the same order. If two rows have the
/// same key, the last one counts.
pub(super) fn upsert<'a, M: Mirror>(
    conn: &mut PgConnection,
    rows: impl IntoIterator<Item = &'a M>,
) -> QueryResult<()> {
    let sorted: BTreeMap<Key<'a>, &'a M> = rows.into_iter().map(|row| (row.key(), row)).collect();
    if sorted.is_empty() {
        return Ok(());
    }
    let rows: Vec<&M> = sorted.into_values().collect();
    Upsert::<M> { columns: M::columns(&rows), row: PhantomData }.execute(conn).map(|_| ())
}

impl<M: Mirror> MirrorRows for M {
    const TABLES: &'static [&'static str] = &[M::TABLE];

    fn write(conn: &mut PgConnection, rows: &[Self], batch: &MirrorBatch, _: bool) -> QueryResult<()> {
        Mirror::write(conn, rows, batch)
    }
}

/// Stores rows, each with the numbered rows that belong to it. The numbered rows replace all that are stored
/// for their parent. If two parents have the same key, the last one counts. `replaces`: some parents may be
/// stored already.
pub(super) fn upsert_with<'a, P: Mirror, M: Mirror>(
    conn: &mut PgConnection,
    rows: impl Iterator<Item = (&'a P, &'a [M])>,
    replaces: bool,
) -> QueryResult<()> {
    let rows: BTreeMap<Key<'a>, (&'a P, &'a [M])> = rows.map(|row| (row.0.key(), row)).collect();
    upsert(conn, rows.values().map(|(parent, _)| *parent))?;
    if replaces {
        let kept = |(parent, numbered): &(&'a P, &'a [M])| {
            let (account, livemode, id, _) = parent.key();
            (account, livemode, id, numbered.len() as i32)
        };
        trim::<M>(conn, &rows.values().map(kept).collect::<Vec<_>>())?;
    }
    upsert(conn, rows.values().flat_map(|(_, numbered)| *numbered))
}

/// For each parent `(account, livemode, parent id, kept)`, deletes the rows of `M` with the number `kept` or
/// more: the rest of an older, longer list. Lists seldom become shorter, so it looks before it deletes.
fn trim<M: Mirror>(conn: &mut PgConnection, parents: &[Key<'_>]) -> QueryResult<()> {
    if parents.is_empty() {
        return Ok(());
    }
    let [_, _, parent, number] = M::KEY else { unreachable!("only numbered rows belong to a parent") };
    let table = M::TABLE;
    // OFFSET 0 makes the planner use one index lookup for each parent, even before it has statistics.
    let longer: Vec<Parent> = for_parents(
        format!(
            "SELECT p.account, p.livemode, p.id, p.kept
             FROM UNNEST($1, $2, $3, $4) AS p (account, livemode, id, kept)
             WHERE EXISTS (SELECT FROM {table} t WHERE t.account = p.account AND t.livemode = p.livemode
                           AND t.{parent} = p.id AND t.{number} >= p.kept OFFSET 0)"
        ),
        parents,
    )
    .load(conn)?;
    if longer.is_empty() {
        return Ok(());
    }
    let longer: Vec<Key<'_>> =
        longer.iter().map(|row| (&*row.account, row.livemode, &*row.id, row.kept)).collect();
    for_parents(
        format!(
            "DELETE FROM {table} t USING UNNEST($1, $2, $3, $4) AS p (account, livemode, id, kept)
             WHERE t.account = p.account AND t.livemode = p.livemode AND t.{parent} = p.id
                 AND t.{number} >= p.kept"
        ),
        &longer,
    )
    .execute(conn)
    .map(|_| ())
}

#[derive(QueryableByName)]
struct Parent {
    #[diesel(sql_type = Text)]
    account: String,
    #[diesel(sql_type = Bool)]
    livemode: bool,
    #[diesel(sql_type = Text)]
    id: String,
    #[diesel(sql_type = Integer)]
    kept: i32,
}

/// A statement whose `$1` to `$4` are the columns of these parents.
fn for_parents<'a>(sql: String, parents: &[Key<'a>]) -> BoxedSqlQuery<'a, Pg, SqlQuery> {
    diesel::sql_query(sql)
        .into_boxed()
        .bind::<Array<Text>, _>(parents.iter().map(|key| key.0).collect::<Vec<_>>())
        .bind::<Array<Bool>, _>(parents.iter().map(|key| key.1).collect::<Vec<_>>())
        .bind::<Array<Text>, _>(parents.iter().map(|key| key.2).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(parents.iter().map(|key| key.3).collect::<Vec<_>>())
}

/// Declares the row of a mirror table: a struct whose fields are the table's columns, how to store it and how
/// the API shows it. `guard`: an update replaces only stored rows that fulfil this condition. `written by`: a
/// function that stores the rows of a batch, where a plain upsert is not enough.
macro_rules! mirror {
    (
        $(#[$doc:meta])*
        $name:ident in $table:ident,
            key (account, livemode, $id:ident $(, $number:ident)?) $(, guard $guard:literal)?
            $(, written by $write:path)? {
            $($(#[$field_doc:meta])* $field:ident: $type:ty,)*
        }
    ) => {
        $(#[$doc])*
        #[derive(
            Clone, Debug, PartialEq, diesel::Queryable, diesel::Selectable, serde::Serialize,
            utoipa::ToSchema,
        )]
        #[diesel(table_name = crate::schema::$table)]
        #[diesel(check_for_backend(diesel::pg::Pg))]
        pub struct $name {
            $($(#[$field_doc])* pub $field: $type,)*
        }

        impl $crate::billing::mirror::Mirror for $name {
            const TABLE: &'static str = stringify!($table);
            const KEY: &'static [&'static str] =
                &["account", "livemode", stringify!($id) $(, stringify!($number))?];
            const COLUMNS: &'static [&'static str] =
                &[$(<crate::schema::$table::$field as diesel::Column>::NAME),*];
            $(const GUARD: &'static str = $guard;)?

            fn key(&self) -> $crate::billing::mirror::Key<'_> {
                (&self.account, self.livemode, &self.$id, 0 $(+ self.$number)?)
            }

            fn columns<'a>(
                rows: &[&'a Self],
            ) -> Vec<Box<dyn diesel::query_builder::QueryFragment<diesel::pg::Pg> + 'a>> {
                vec![$(Box::new($crate::billing::mirror::Column::<
                    diesel::dsl::SqlTypeOf<crate::schema::$table::$field>, &'a $type,
                >::new(rows.iter().map(|row| &row.$field).collect()))),*]
            }

            $(fn write(
                conn: &mut diesel::pg::PgConnection,
                rows: &[Self],
                batch: &$crate::billing::MirrorBatch,
            ) -> diesel::QueryResult<()> {
                $write(conn, rows, batch)
            })?
        }
    };
}
pub(super) use mirror;
