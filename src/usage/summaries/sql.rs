//! The statement behind a query of daily summaries.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Jsonb, Nullable, Text};
use serde_json::Value;

use super::{Meter, Position, Query, Time};
use crate::metering::meters::Aggregation;

/// The statement for the rows; `end` is its end, empty for a cursor over all of them. Binds: $1 org, $2 and
/// $3 days, $4 meters, $5 unique meters, $6 member, $7 dimensions, $8 names of the dimensions grouped by,
/// then the place to go on from.
pub(super) fn statement<'a>(
    query: &'a Query,
    meters: &'a [Meter],
    after: Option<&'a Position>,
    end: &str,
) -> BoxedSqlQuery<'a, Pg, SqlQuery> {
    let of = |aggregation: Aggregation| -> Vec<i32> {
        let fits = |meter: &&Meter| meter.aggregation == aggregation.name();
        meters.iter().filter(fits).map(|meter| meter.meter_id).collect()
    };
    let (max, latest, unique) = (of(Aggregation::Max), of(Aggregation::Latest), of(Aggregation::Unique));
    let time = match query.grouping.time {
        None => "NULL::date",
        Some(Time::Day) => "day",
        Some(Time::Month) => "date_trunc('month', day::timestamp)::date",
    };
    let grouping = &query.grouping;
    let mut columns: Vec<String> = grouping.member.then(|| "member".to_owned()).into_iter().collect();
    columns.extend((1..=grouping.dimensions.len()).map(|n| format!("dimensions ->> ($8)[{n}] AS d{n}")));
    let mut names: Vec<String> = grouping.member.then(|| "w.member".to_owned()).into_iter().collect();
    names.extend((1..=grouping.dimensions.len()).map(|n| format!("w.d{n}")));
    let wanted = columns.iter().fold(String::new(), |mut text, column| {
        let _ = write!(text, ", {column}");
        text
    });
    let keys: String = names.iter().map(|name| format!(", {name}")).collect();
    let plain: Vec<&str> = names.iter().map(|name| name.trim_start_matches("w.")).collect();
    let order: String = plain.iter().map(|name| format!(", {name} COLLATE \"C\" NULLS FIRST")).collect();
    // Only what these meters need: putting values in order costs time.
    let mut quantity = String::from("CASE");
    for (ids, how) in [
        (&max, "coalesce(max(quantity) FILTER (WHERE count > 0), 0)"),
        (
            &latest,
            "coalesce((array_agg(quantity
                 ORDER BY latest_at DESC, quantity DESC) FILTER (WHERE latest_at IS NOT NULL))[1], 0)",
        ),
        (&unique, "count(DISTINCT value_digest)"),
    ] {
        if !ids.is_empty() {
            let ids: Vec<String> = ids.iter().map(i32::to_string).collect();
            let _ = write!(quantity, " WHEN meter_id IN ({}) THEN {how}", ids.join(", "));
        }
    }
    quantity.push_str(if quantity == "CASE" {
        " WHEN true THEN sum(quantity) END"
    } else {
        " ELSE sum(quantity) END"
    });
    let uniques = if unique.is_empty() {
        String::new()
    } else {
        format!(
            " UNION ALL SELECT {time}, w.meter_id, w.key{keys}, 0, 0, 0, 0, NULL, u.value_digest
               FROM usage_uniques u JOIN wanted w USING (series_id)
               WHERE u.org_id = $1 AND u.day >= $2 AND u.day < $3 AND w.meter_id = ANY ($5)"
        )
    };
    let group: String = plain.iter().map(|name| format!(", {name}")).collect();
    let place = after.map_or_else(String::new, |_| beyond(&plain));
    let declare = if end.is_empty() { "DECLARE coulomb_usage NO SCROLL CURSOR FOR " } else { "" };
    let sql = format!(
        "{declare}WITH wanted AS (
             SELECT s.series_id, s.meter_id, m.key{wanted} FROM usage_series s JOIN meters m USING (meter_id)
             WHERE s.org_id = $1 AND s.meter_id = ANY ($4) AND ($6::text IS NULL OR s.member = $6)
                 AND ($7 = '{{}}' OR s.dimensions @> $7)),
         days AS (
             SELECT {time} AS time, w.meter_id, w.key{keys}, d.quantity, d.count, d.cost, d.battery_units,
                 d.latest_at, NULL::uuid AS value_digest
             FROM daily_summaries d JOIN wanted w USING (series_id)
             WHERE d.org_id = $1 AND d.day >= $2 AND d.day < $3{uniques})
         SELECT time, meter_id, ARRAY[{array}]::text[] AS rest, trim_scale({quantity})::text AS quantity,
             sum(count)::bigint AS count,
             trim_scale(sum(cost))::text AS cost, trim_scale(sum(battery_units))::text AS battery_units
         FROM days WHERE true{place} GROUP BY time, meter_id, key{group}
         HAVING sum(count) <> 0 OR sum(quantity) <> 0 OR sum(cost) <> 0 OR sum(battery_units) <> 0
         ORDER BY time, key{order} {end}",
        array = plain.join(", "),
    );
    let from =
        after.and_then(|after| Some(after.time?.0)).filter(|day| *day > query.from).unwrap_or(query.from);
    let statement = diesel::sql_query(sql)
        .into_boxed()
        .bind::<BigInt, _>(query.org_id)
        .bind::<Date, _>(from)
        .bind::<Date, _>(query.before)
        .bind::<Array<Integer>, _>(meters.iter().map(|meter| meter.meter_id).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(unique)
        .bind::<Nullable<Text>, _>(query.member.as_deref())
        .bind::<Jsonb, _>(object(&query.dimensions))
        .bind::<Array<Text>, _>(&grouping.dimensions);
    match after {
        None => statement,
        Some(after) => after.rest.iter().fold(
            statement.bind::<Nullable<Date>, _>(after.time.map(|day| day.0)).bind::<Text, _>(&after.meter),
            |statement, value| {
                statement
                    .bind::<Bool, _>(value.is_some())
                    .bind::<Text, _>(value.as_deref().unwrap_or_default())
            },
        ),
    }
}

/// The condition for rows beyond a place. Rows of no time all have the same.
fn beyond(names: &[&str]) -> String {
    let (mut left, mut right) =
        ("coalesce(time, 'epoch'), key".to_owned(), "coalesce($9, 'epoch'), $10".to_owned());
    for (n, name) in names.iter().enumerate() {
        let _ = write!(left, ", {name} IS NOT NULL, coalesce({name}, '') COLLATE \"C\"");
        let _ = write!(right, ", ${}, ${}", 11 + 2 * n, 12 + 2 * n);
    }
    format!(" AND ({left}) > ({right})")
}

fn object(dimensions: &BTreeMap<String, String>) -> Value {
    dimensions.iter().map(|(name, value)| (name.clone(), Value::from(value.as_str()))).collect()
}
