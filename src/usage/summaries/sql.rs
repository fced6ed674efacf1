//! The SQL of a query of daily summaries.

use std::fmt::Write as _;

use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{Array, BigInt, Bool, Date, Integer, Jsonb, Nullable, Text};

use super::{MeterRow, Position, SummaryQuery, TimeUnit};
use crate::metering::meters::Aggregation;
use crate::usage::grouped;

/// The statement for the rows. `end` is its last clause; empty: it declares a cursor over all rows. Binds: $1
/// org, $2 and $3 days, $4 meters, $5 unique meters, $6 member, $7 dimensions, $8 names of the dimensions in
/// the grouping, then the position after which to go on.
pub(super) fn statement<'a>(
    query: &'a SummaryQuery,
    meters: &'a [MeterRow],
    after: Option<&'a Position>,
    end: &str,
) -> BoxedSqlQuery<'a, Pg, SqlQuery> {
    let from =
        after.and_then(|after| Some(after.time?.0)).filter(|day| *day > query.from).unwrap_or(query.from);
    let statement = diesel::sql_query(text(query, meters, after.is_some(), end))
        .into_boxed()
        .bind::<BigInt, _>(query.org_id)
        .bind::<Date, _>(from)
        .bind::<Date, _>(query.before)
        .bind::<Array<Integer>, _>(meters.iter().map(|meter| meter.meter_id).collect::<Vec<_>>())
        .bind::<Array<Integer>, _>(with_aggregation(meters, Aggregation::Unique))
        .bind::<Nullable<Text>, _>(query.member.as_deref())
        .bind::<Jsonb, _>(grouped::object(&query.dimensions))
        .bind::<Array<Text>, _>(&query.grouping.dimensions);
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

/// The SQL of [`statement`].
fn text(query: &SummaryQuery, meters: &[MeterRow], has_position: bool, end: &str) -> String {
    let grouping = &query.grouping;
    let time = match grouping.time {
        None => "NULL::date",
        Some(TimeUnit::Day) => "day",
        Some(TimeUnit::Month) => "date_trunc('month', day::timestamp)::date",
    };
    // The columns of the grouping: their names, and how they are read from a series.
    // The currency always is one of them: costs in several currencies do not add up.
    let mut names = vec!["currency".to_owned()];
    names.extend(grouping.member.then(|| "member".to_owned()));
    let mut columns = names.clone();
    columns[0] = "coalesce(s.currency, m.currency) AS currency".to_owned();
    for n in 1..=grouping.dimensions.len() {
        names.push(format!("d{n}"));
        columns.push(format!("dimensions ->> ($8)[{n}] AS d{n}"));
    }
    let each = |form: &dyn Fn(&String) -> String| names.iter().map(form).collect::<String>();
    let columns: String = columns.iter().map(|column| format!(", {column}")).collect();
    let keys = each(&|name| format!(", s.{name}"));
    let group = each(&|name| format!(", {name}"));
    let order = each(&|name| format!(", {name} COLLATE \"C\" NULLS FIRST"));
    let array = names.join(", ");
    let quantity = quantity(meters);
    let uniques = uniques(meters, time, &keys);
    let position = if has_position { after_position(&names) } else { String::new() };
    let declare = if end.is_empty() { "DECLARE coulomb_usage NO SCROLL CURSOR FOR " } else { "" };
    format!(
        "{declare}WITH series AS (
             SELECT s.series_id, s.meter_id, m.key{columns}
             FROM usage_series s JOIN meters m USING (meter_id)
             WHERE s.org_id = $1 AND s.meter_id = ANY ($4) AND ($6::text IS NULL OR s.member = $6)
                 AND ($7 = '{{}}' OR s.dimensions @> $7)),
         days AS (
             SELECT {time} AS time, s.meter_id, s.key{keys}, d.quantity, d.count, d.cost, d.battery_units,
                 d.latest_at, NULL::uuid AS value_digest
             FROM daily_summaries d JOIN series s USING (series_id)
             WHERE d.org_id = $1 AND d.day >= $2 AND d.day < $3{uniques})
         SELECT time, meter_id, ARRAY[{array}]::text[] AS rest,
             trim_scale({quantity})::text AS quantity, sum(count)::bigint AS count,
             trim_scale(sum(cost))::text AS cost, trim_scale(sum(battery_units))::text AS battery_units
         FROM days WHERE true{position}
         GROUP BY time, meter_id, key{group}
         HAVING sum(count) <> 0 OR sum(quantity) <> 0 OR sum(cost) <> 0 OR sum(battery_units) <> 0
         ORDER BY time, key{order} {end}"
    )
}

/// How the quantity of several days is computed, by meter.
fn quantity(meters: &[MeterRow]) -> String {
    let meters: Vec<(i32, Aggregation)> = meters.iter().filter_map(MeterRow::kind).collect();
    grouped::quantity(
        &meters,
        &[
            (Aggregation::Max, "coalesce(max(quantity) FILTER (WHERE count > 0), 0)"),
            (
                Aggregation::Latest,
                "coalesce((array_agg(quantity
                     ORDER BY latest_at DESC, quantity DESC) FILTER (WHERE latest_at IS NOT NULL))[1], 0)",
            ),
            (Aggregation::Unique, "count(DISTINCT value_digest)"),
        ],
    )
}

/// The unique values, as further rows beside the days; empty without such meters.
fn uniques(meters: &[MeterRow], time: &str, keys: &str) -> String {
    if with_aggregation(meters, Aggregation::Unique).is_empty() {
        return String::new();
    }
    format!(
        " UNION ALL SELECT {time}, s.meter_id, s.key{keys}, 0, 0, 0, 0, NULL, u.value_digest
           FROM usage_uniques u JOIN series s USING (series_id)
           WHERE u.org_id = $1 AND u.day >= $2 AND u.day < $3 AND s.meter_id = ANY ($5)"
    )
}

fn with_aggregation(meters: &[MeterRow], aggregation: Aggregation) -> Vec<i32> {
    let fits = |meter: &&MeterRow| meter.aggregation == aggregation.name();
    meters.iter().filter(fits).map(|meter| meter.meter_id).collect()
}

/// The condition for rows after a position. Rows without a time have the epoch.
fn after_position(names: &[String]) -> String {
    let (mut left, mut right) =
        ("coalesce(time, 'epoch'), key".to_owned(), "coalesce($9, 'epoch'), $10".to_owned());
    for (n, name) in names.iter().enumerate() {
        let _ = write!(left, ", {name} IS NOT NULL, coalesce({name}, '') COLLATE \"C\"");
        let _ = write!(right, ", ${}, ${}", 11 + 2 * n, 12 + 2 * n);
    }
    format!(" AND ({left}) > ({right})")
}
