//! What the lists of grouped usage have in common: [`super::summaries`] and [`super::breakdown`].

use std::collections::BTreeMap;
use std::fmt::Write as _;

use diesel::connection::SimpleConnection;
use diesel::pg::{Pg, PgConnection};
use diesel::prelude::*;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use serde_json::Value;

use crate::error::Error;
use crate::metering::meters::Aggregation;

/// SQL: the quantity of several rows, by meter; the sum where no other expression is given. `meters`: the
/// meters of the query. Only the expressions that they need are in it: sorting takes time.
pub(super) fn quantity(meters: &[(i32, Aggregation)], expressions: &[(Aggregation, &str)]) -> String {
    let mut sql = String::from("CASE");
    for (aggregation, expression) in expressions {
        let of_kind = meters.iter().filter(|(_, of_meter)| of_meter == aggregation);
        let ids: Vec<String> = of_kind.map(|(meter_id, _)| meter_id.to_string()).collect();
        if !ids.is_empty() {
            let _ = write!(sql, " WHEN meter_id IN ({}) THEN {expression}", ids.join(", "));
        }
    }
    sql.push_str(if sql == "CASE" { " WHEN true THEN sum(quantity) END" } else { " ELSE sum(quantity) END" });
    sql
}

/// Wanted values of dimensions as an object.
pub(super) fn object(dimensions: &BTreeMap<String, String>) -> Value {
    dimensions.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
}

/// Declares a cursor by `declare` and passes all of its rows to `each`, which may stop it by an error.
/// Reads a thousand rows at a time; the caller's transaction should be a snapshot.
pub(super) fn each_row<R>(
    conn: &mut PgConnection,
    (cursor, declare): (&str, BoxedSqlQuery<'_, Pg, SqlQuery>),
    mut each: impl FnMut(R) -> Result<(), Error>,
) -> Result<(), Error>
where
    R: diesel::deserialize::QueryableByName<Pg> + 'static,
{
    // A slow reader leaves the transaction idle. The writer of the output bounds that, not the server.
    conn.batch_execute("SET LOCAL idle_in_transaction_session_timeout = 0")?;
    declare.execute(conn)?;
    loop {
        let rows: Vec<R> = diesel::sql_query(format!("FETCH FORWARD 1000 FROM {cursor}")).load(conn)?;
        if rows.is_empty() {
            return Ok(());
        }
        rows.into_iter().try_for_each(&mut each)?;
    }
}
