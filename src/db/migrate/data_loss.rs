//! Finds the data that a change of the schema would destroy: makes the change, compares, rolls it back.

use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::MigrateError;

/// A column of a table; without `attribute`, the whole table.
#[derive(QueryableByName, Clone, PartialEq, Eq)]
struct TablePart {
    #[diesel(sql_type = Text)]
    relation: String,
    #[diesel(sql_type = Nullable<Text>)]
    attribute: Option<String>,
}

#[derive(QueryableByName)]
struct RowCount {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct DatabaseName {
    #[diesel(sql_type = Text)]
    name: String,
}

/// Tables without user data: one row that a migration wrote, or the list of migrations.
const WITHOUT_USER_DATA: &str = "'catalog', 'coulomb_migrations', '__diesel_schema_migrations'";

/// The name of the connected database.
pub(super) fn database_name(conn: &mut PgConnection) -> QueryResult<String> {
    let name: DatabaseName = diesel::sql_query("SELECT current_database()::text AS name").get_result(conn)?;
    Ok(name.name)
}

/// Lists what `change` would destroy, such as "3 orgs", largest first; empty if nothing would be lost. The
/// change itself is rolled back. The tables that it removes stay locked until the caller's transaction ends.
pub(super) fn preview(
    conn: &mut PgConnection,
    change: impl FnOnce(&mut PgConnection) -> Result<(), MigrateError>,
) -> Result<Vec<String>, MigrateError> {
    let before = parts(conn)?;
    let mut after = Vec::new();
    let result = conn.transaction(|conn| {
        change(conn)?;
        after = parts(conn)?;
        Err::<(), MigrateError>(diesel::result::Error::RollbackTransaction.into())
    });
    match result {
        Err(MigrateError::Database(diesel::result::Error::RollbackTransaction)) => {}
        Err(error) => return Err(error),
        Ok(()) => {}
    }
    let mut lost = Vec::new();
    let removed = before.iter().filter(|part| !after.contains(part));
    for part in removed.clone() {
        let is_table = |other: &TablePart| other.relation == part.relation && other.attribute.is_none();
        if part.attribute.is_some() && removed.clone().any(is_table) {
            continue;
        }
        let count = count_values(conn, part)?;
        if count > 0 {
            let column = part.attribute.as_ref().map_or_else(String::new, |column| format!(" ({column})"));
            lost.push((count, format!("{count} {}{column}", part.relation)));
        }
    }
    lost.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    Ok(lost.into_iter().map(|(_, text)| text).collect())
}

/// The table's rows, or the column's values that are not NULL. Locks the table.
fn count_values(conn: &mut PgConnection, part: &TablePart) -> QueryResult<i64> {
    let table = quoted(&part.relation);
    conn.batch_execute(&format!("LOCK TABLE {table} IN ACCESS EXCLUSIVE MODE"))?;
    let counted = part.attribute.as_ref().map_or_else(|| "*".to_owned(), |column| quoted(column));
    let count: RowCount =
        diesel::sql_query(format!("SELECT count({counted}) AS count FROM {table}")).get_result(conn)?;
    Ok(count.count)
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn parts(conn: &mut PgConnection) -> QueryResult<Vec<TablePart>> {
    diesel::sql_query(format!(
        "SELECT c.relname::text AS relation, a.attname::text AS attribute
         FROM pg_class c
         LEFT JOIN LATERAL (
             SELECT attname FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0 AND NOT attisdropped
             UNION ALL SELECT NULL
         ) a ON true
         WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p')
             AND NOT c.relispartition AND c.relname NOT IN ({WITHOUT_USER_DATA})"
    ))
    .load(conn)
}
