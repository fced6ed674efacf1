//! What a change of the schema would destroy, found by making the change and taking it back.

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::migrate::MigrateError;

/// A column, or a table as a whole where the name of the column is left out.
#[derive(QueryableByName, Clone, PartialEq, Eq)]
struct Part {
    #[diesel(sql_type = Text)]
    relation: String,
    #[diesel(sql_type = Nullable<Text>)]
    attribute: Option<String>,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct Name {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Tables with a row that a migration wrote, and bookkeeping: nobody's data.
const OURS: &str = "'catalog', 'coulomb_migrations', '__diesel_schema_migrations'";

/// The database's name.
pub(super) fn database(conn: &mut PgConnection) -> QueryResult<String> {
    let name: Name = diesel::sql_query("SELECT current_database()::text AS name").get_result(conn)?;
    Ok(name.name)
}

/// What of it `change` destroys, such as "3 orgs": largest first, empty where nothing is lost. Nothing is
/// kept of the change. The tables concerned stay locked until the caller's transaction ends.
pub(super) fn of(
    conn: &mut PgConnection,
    change: impl FnOnce(&mut PgConnection) -> Result<(), MigrateError>,
) -> Result<Vec<String>, MigrateError> {
    let before = parts(conn)?;
    let mut after = Vec::new();
    let tried = conn.transaction(|conn| {
        change(conn)?;
        after = parts(conn)?;
        Err::<(), MigrateError>(diesel::result::Error::RollbackTransaction.into())
    });
    match tried {
        Err(MigrateError::Database(diesel::result::Error::RollbackTransaction)) => {}
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    let mut lost = Vec::new();
    let gone = before.iter().filter(|part| !after.contains(part));
    for part in gone.clone() {
        let table_goes = gone.clone().any(|gone| gone.relation == part.relation && gone.attribute.is_none());
        if part.attribute.is_some() && table_goes {
            continue;
        }
        let count = count(conn, part)?;
        if count > 0 {
            let column = part.attribute.as_ref().map_or_else(String::new, |column| format!(" ({column})"));
            lost.push((count, format!("{count} {}{column}", part.relation)));
        }
    }
    lost.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    Ok(lost.into_iter().map(|(_, text)| text).collect())
}

fn count(conn: &mut PgConnection, part: &Part) -> QueryResult<i64> {
    let table = quoted(&part.relation);
    conn.batch_execute(&format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))?;
    let what = part.attribute.as_ref().map_or_else(|| "*".to_owned(), |column| quoted(column));
    let count: Count =
        diesel::sql_query(format!("SELECT count({what}) AS count FROM {table}")).get_result(conn)?;
    Ok(count.count)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn parts(conn: &mut PgConnection) -> QueryResult<Vec<Part>> {
    diesel::sql_query(format!(
        "SELECT c.relname::text AS relation, a.attname::text AS attribute
         FROM pg_class c
         LEFT JOIN LATERAL (
             SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
             UNION ALL SELECT NULL
         ) a ON true
         WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
             AND NOT c.relispartition AND c.relname NOT IN ({OURS})"
    ))
    .load(conn)
}
