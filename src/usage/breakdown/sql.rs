//! The SQL of a breakdown.

use std::fmt::Write as _;

use diesel::pg::Pg;
use diesel::query_builder::{BoxedSqlQuery, SqlQuery};
use diesel::sql_types::{Array, BigInt, Integer, Jsonb, Nullable, Text, Timestamptz};

use super::{BreakdownQuery, BreakdownTime, CountedMeter, Position};
use crate::metering::meters::Aggregation;
use crate::usage::grouped;

/// The statement for the rows. `end` is its last clause; empty: it declares a cursor over all rows.
pub(super) fn statement<'a>(
    query: &'a BreakdownQuery,
    meters: &[CountedMeter],
    after: Option<&'a Position>,
    end: &str,
) -> BoxedSqlQuery<'a, Pg, SqlQuery> {
    diesel::sql_query(text(query, meters, after.is_some(), end))
        .into_boxed()
        .bind::<Timestamptz, _>(query.from)
        .bind::<Timestamptz, _>(query.to)
        .bind::<Nullable<BigInt>, _>(query.org_id)
        .bind::<Array<Integer>, _>(meters.iter().map(|meter| meter.meter_id).collect::<Vec<_>>())
        .bind::<Nullable<Text>, _>(query.member.as_deref())
        .bind::<Nullable<Text>, _>(query.subject.as_deref())
        .bind::<Jsonb, _>(grouped::object(&query.dimensions))
        .bind::<Array<Text>, _>(&query.grouping.names)
        .bind::<Text, _>(query.zone.name())
        .bind::<Nullable<Array<Nullable<Text>>>, _>(after)
}

/// The SQL of [`statement`]. Binds: $1 and $2 times, $3 org, $4 meters, $5 member, $6 subject, $7 dimensions
/// and labels, $8 names in the grouping, $9 zone, $10 the position after which to go on.
fn text(query: &BreakdownQuery, meters: &[CountedMeter], has_position: bool, end: &str) -> String {
    let position = if has_position { "WHERE position > ($10 COLLATE \"C\")" } else { "WHERE $10 IS NULL" };
    let declare = if end.is_empty() { "DECLARE coulomb_breakdown NO SCROLL CURSOR FOR " } else { "" };
    format!("{declare}{} ORDER BY position {end}", grouped_records(query, meters, position))
}

/// SQL after `FROM` whose rows `d` are those of the list, with `m` for their meters and `o` for their orgs.
/// Binds: $1 to $9 of [`statement`].
pub(super) fn tables(query: &BreakdownQuery, meters: &[CountedMeter]) -> String {
    let grouping = &query.grouping;
    let (mut next, mut texts) = (0, Vec::new());
    for is_there in [grouping.time.is_some(), grouping.org, true, true, grouping.member, grouping.subject] {
        next += i32::from(is_there);
        texts.push(if is_there { format!("g.position[{next}]") } else { "NULL::text".to_owned() });
    }
    let of_time = |unit| if grouping.time == Some(unit) { texts[0].as_str() } else { "NULL" };
    format!(
        "(SELECT g.*, ({hour})::timestamptz AS hour, ({day})::date AS day, ({month})::text AS month,
              {org} AS org, {currency} AS currency, {member} AS member, {subject} AS subject,
              (SELECT coalesce(jsonb_object_agg(t.name, t.value ORDER BY t.name), '{{}}')
               FROM unnest($8, g.position[{names}:]) AS t (name, value))::text AS dimensions
          FROM ({rows}) g) d
         JOIN meters m ON m.meter_id = d.meter_id LEFT JOIN orgs o ON o.public_id = d.org",
        hour = of_time(BreakdownTime::Hour),
        day = of_time(BreakdownTime::Day),
        month = of_time(BreakdownTime::Month),
        org = texts[1],
        currency = texts[3],
        member = texts[4],
        subject = texts[5],
        names = next + 1,
        rows = grouped_records(query, meters, ""),
    )
}

/// The rows of the list, in no order; `position` is their condition.
fn grouped_records(query: &BreakdownQuery, meters: &[CountedMeter], position: &str) -> String {
    let grouping = &query.grouping;
    let mut columns: Vec<String> = Vec::new();
    columns.extend(grouping.time.map(|time| time_text(time).to_owned()));
    columns.extend(grouping.org.then(|| "o.public_id".to_owned()));
    columns.extend(["m.key".to_owned(), "coalesce(s.currency, m.currency)".to_owned()]);
    columns.extend(grouping.member.then(|| "s.member".to_owned()));
    columns.extend(grouping.subject.then(|| "r.subject".to_owned()));
    for n in 1..=grouping.names.len() {
        columns.push(format!("coalesce(s.dimensions ->> ($8)[{n}], r.labels ->> ($8)[{n}])"));
    }
    let columns = columns.join(", ");
    let external_id = if grouping.org { "min(external_id)" } else { "NULL::text" };
    let quantity = quantity(meters);
    let valid = valid(meters);
    let conditions = conditions(query);
    format!(
        "WITH records AS (
             SELECT ARRAY[{columns}]::text[] COLLATE \"C\" AS position, r.meter_id, o.external_id, r.quantity,
                 r.cost, r.battery_units, r.occurred_at, r.value, r.correction % 2 AS takes_back,
                 {valid} AS valid
             FROM usage_records r
             JOIN usage_series s ON (s.org_id, s.series_id) = (r.org_id, r.series_id)
             JOIN meters m ON m.meter_id = r.meter_id
             JOIN orgs o ON o.org_id = r.org_id
             WHERE r.occurred_at >= $1 AND r.occurred_at < $2 AND r.meter_id = ANY ($4){conditions})
         SELECT position, meter_id, {external_id} AS external_id,
             trim_scale({quantity})::text AS quantity, sum(1 - 2 * takes_back)::bigint AS count,
             trim_scale(sum(cost))::text AS cost, trim_scale(sum(battery_units))::text AS battery_units,
             max(occurred_at) AS last_used_at
         FROM records {position}
         GROUP BY position, meter_id
         HAVING sum(1 - 2 * takes_back) <> 0 OR sum(quantity) <> 0 OR sum(cost) <> 0
             OR sum(battery_units) <> 0"
    )
}

/// A time as text that sorts by time.
fn time_text(unit: BreakdownTime) -> &'static str {
    match unit {
        // Hours of zones whose offset is no whole hour begin at another minute.
        BreakdownTime::Hour => {
            "to_char(date_trunc('hour', r.occurred_at, $9) AT TIME ZONE 'UTC',
                 'YYYY-MM-DD\"T\"HH24:MI:SS\"Z\"')"
        }
        BreakdownTime::Day => "to_char(r.occurred_at AT TIME ZONE $9, 'YYYY-MM-DD')",
        BreakdownTime::Month => "to_char(r.occurred_at AT TIME ZONE $9, 'YYYY-MM')",
    }
}

/// Each condition names its bind in any case, so that PostgreSQL knows the types of all.
fn conditions(query: &BreakdownQuery) -> String {
    let mut sql = String::new();
    for (is_asked, condition, bind) in [
        (query.org_id.is_some(), "r.org_id = $3", "$3::bigint"),
        (query.member.is_some(), "s.member = $5", "$5::text"),
        (query.subject.is_some(), "r.subject = $6", "$6::text"),
        (
            !query.dimensions.is_empty(),
            "s.dimensions || coalesce(r.labels, '{}') @> $7",
            "nullif($7::jsonb, '{}')",
        ),
        (!query.grouping.names.is_empty(), "$8::text[] IS NOT NULL", "nullif($8::text[], '{}')"),
    ] {
        if is_asked {
            let _ = write!(sql, " AND {condition}");
        } else {
            let _ = write!(sql, " AND {bind} IS NULL");
        }
    }
    sql.push_str(" AND $9::text IS NOT NULL");
    sql
}

/// Whether a record counts: it takes nothing back, and nothing took it back or replaced it. Only asked where
/// a meter needs it; the sums of the others have both the record and what takes it back.
fn valid(meters: &[CountedMeter]) -> &'static str {
    if meters.iter().all(|meter| meter.aggregation.is_additive()) {
        return "true";
    }
    "CASE WHEN m.aggregation IN ('sum', 'count') THEN true
         ELSE r.correction % 2 = 0 AND NOT EXISTS (SELECT FROM usage_records v
             WHERE v.org_id = r.org_id AND v.occurred_at = r.occurred_at AND v.event_key = r.event_key
                 AND v.meter_id = r.meter_id AND v.correction = r.correction + 1) END"
}

/// How the quantity is computed, by meter.
fn quantity(meters: &[CountedMeter]) -> String {
    let meters: Vec<(i32, Aggregation)> =
        meters.iter().map(|meter| (meter.meter_id, meter.aggregation)).collect();
    grouped::quantity(
        &meters,
        &[
            (Aggregation::Max, "coalesce(max(quantity) FILTER (WHERE valid), 0)"),
            (
                Aggregation::Latest,
                "coalesce((array_agg(quantity ORDER BY occurred_at DESC, quantity DESC)
                     FILTER (WHERE valid))[1], 0)",
            ),
            (Aggregation::Unique, "count(DISTINCT value) FILTER (WHERE valid)"),
        ],
    )
}
