//! Finds the rows of a derived table that differ from the records.

use std::collections::BTreeMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Text};

use super::parts::Part;
use super::{CountingRules, DerivedTable, Sides};
use crate::error::Error;

/// A row that differs from what the records make of it.
#[derive(Debug, QueryableByName)]
pub struct Difference {
    #[diesel(sql_type = BigInt)]
    pub org_id: i64,
    /// The primary key, as JSON.
    #[diesel(sql_type = Text)]
    pub key: String,
    /// The row in words.
    #[diesel(sql_type = Text)]
    pub name: String,
    /// The values by the records, as JSON; `None`: the records make no such row.
    #[diesel(sql_type = Nullable<Text>)]
    pub expected: Option<String>,
    /// The stored values, as JSON; `None`: there is no row.
    #[diesel(sql_type = Nullable<Text>)]
    pub stored: Option<String>,
}

/// The row, and each field that differs with both values.
impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}: ", self.name)?;
        let side = |side: &Option<String>| fields(side.as_deref().unwrap_or("{}"));
        let (expected, stored) = (side(&self.expected), side(&self.stored));
        let list = |fields: Vec<String>| fields.join("; ");
        if self.stored.is_none() {
            let says = expected
                .iter()
                .filter(|(_, value)| *value != "0")
                .map(|(field, value)| format!("{field} {value}"));
            return write!(out, "is not there, records say {}", list(says.collect()));
        }
        let nothing = "nothing".to_owned();
        let differs = stored.iter().filter(|(field, value)| expected.get(*field) != Some(value));
        let differ = differs.map(|(field, value)| {
            format!("{field} is {value}, records say {}", expected.get(field).unwrap_or(&nothing))
        });
        let lacking = expected.iter().filter(|(field, _)| !stored.contains_key(*field));
        let lack = lacking.map(|(field, value)| format!("{field} is not set, records say {value}"));
        write!(out, "{}", list(differ.chain(lack).collect()))
    }
}

/// The fields that are not null.
fn fields(json: &str) -> BTreeMap<String, String> {
    let all: BTreeMap<String, Option<String>> = serde_json::from_str(json).unwrap_or_default();
    all.into_iter().filter_map(|(field, value)| Some((field, value?))).collect()
}

/// The rows of `part` that differ from the records, at most `limit`, in the order of their keys.
pub fn differences(
    conn: &mut PgConnection,
    rules: &CountingRules,
    table: DerivedTable,
    part: Part,
    limit: usize,
) -> Result<Vec<Difference>, Error> {
    let Some(sides) = table.expected(conn, rules, part)? else { return Ok(Vec::new()) };
    let keys = table.keys();
    let pairs = |of: &str, as_text: fn(&str, &str) -> String, names: &[&str]| -> String {
        names.iter().map(|name| format!("'{name}', {}", as_text(of, name))).collect::<Vec<_>>().join(", ")
    };
    let (values, first) = (table.values(), table.values()[0]);
    Ok(diesel::sql_query(format!(
        "SELECT d.*, {name} AS name FROM (
             SELECT {key_names}, jsonb_build_object({key_pairs})::text AS key,
                 CASE WHEN t.{first} IS NOT NULL THEN jsonb_build_object({of_expected})::text END AS expected,
                 CASE WHEN s.{first} IS NOT NULL THEN jsonb_build_object({of_stored})::text END AS stored
             FROM {differing} ORDER BY {key_names} LIMIT {limit}) d
         ORDER BY {key_names}",
        name = table.name(),
        key_names = keys.join(", "),
        key_pairs = pairs("", |_, name| name.to_owned(), keys),
        of_expected = pairs("t", as_text, values),
        of_stored = pairs("s", as_text, values),
        differing = differing(table, &sides),
    ))
    .load(conn)?)
}

/// The orgs of `part` that have a difference in `table`, in order.
pub fn orgs_that_differ(
    conn: &mut PgConnection,
    rules: &CountingRules,
    table: DerivedTable,
    part: Part,
) -> Result<Vec<i64>, Error> {
    #[derive(QueryableByName)]
    struct Org {
        #[diesel(sql_type = BigInt)]
        org_id: i64,
    }
    let Some(sides) = table.expected(conn, rules, part)? else { return Ok(Vec::new()) };
    let sql = format!("SELECT DISTINCT org_id FROM {} ORDER BY org_id", differing(table, &sides));
    let rows: Vec<Org> = diesel::sql_query(sql).load(conn)?;
    Ok(rows.into_iter().map(|row| row.org_id).collect())
}

/// The join of the expected rows `t` and the stored rows `s`, where they differ.
fn differing(table: DerivedTable, sides: &Sides) -> String {
    let Sides { expected, stored, counts_if } = sides;
    let (keys, name) = (table.keys().join(", "), table.sql_name());
    let differ: Vec<String> = table
        .values()
        .iter()
        .map(|name| match *name {
            // An upper bound: no change is later. It may stay when the last change is taken back.
            "changed_at" => "t.changed_at > coalesce(s.changed_at, '-infinity')".to_owned(),
            name if is_time(name) => format!("t.{name} IS DISTINCT FROM s.{name}"),
            name => format!("coalesce(t.{name}, 0) <> coalesce(s.{name}, 0)"),
        })
        .collect();
    format!(
        "({expected}) t FULL JOIN (SELECT {keys}, {values} FROM {name} WHERE {stored}) s USING ({keys})
         WHERE ({any}) AND {counts_if}",
        values = if table == DerivedTable::Uniques { "1 AS n".to_owned() } else { table.values().join(", ") },
        any = differ.join(" OR "),
    )
}

/// Whether a column holds a time, which may be null.
pub(super) fn is_time(name: &str) -> bool {
    ["latest_at", "set_at", "changed_at", "first_seen", "last_seen"].contains(&name)
}

/// A value as text for people.
fn as_text(of: &str, name: &str) -> String {
    match name {
        name if is_time(name) => {
            format!("to_char({of}.{name} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')")
        }
        "count" | "n" | "events" => format!("{of}.{name}::text"),
        _ => format!("trim_scale({of}.{name})::text"),
    }
}

impl DerivedTable {
    /// The SQL that names the row of a difference `d` in words.
    fn name(self) -> String {
        const ORG: &str =
            "coalesce((SELECT public_id FROM orgs o WHERE o.org_id = d.org_id), 'org ' || d.org_id)";
        const SERIES: &str = "coalesce((
            SELECT concat_ws(' ', m.key, s.member, nullif(s.dimensions, '{}')) FROM usage_series s
            JOIN meters m USING (meter_id)
            WHERE (s.org_id, s.series_id) = (d.org_id, d.series_id)), 'series ' || d.series_id)";
        const METER: &str = "(SELECT key FROM meters m WHERE m.meter_id = d.meter_id)";
        const SLOT: &str = "(
            SELECT concat_ws(' ', m.key, nullif(q.filter, '{}'), 'by ' || q.period)
            FROM quota_slots q JOIN meters m USING (meter_id) WHERE q.slot_id = d.slot_id)";
        // The time belongs to the name: two periods may begin on one date.
        const BEGAN: &str =
            "to_char(nullif(d.began, 'epoch') AT TIME ZONE 'UTC', '\"from\" HH24:MI:SS \"UTC\"')";
        let words = match self {
            Self::Summaries => format!("{SERIES}, d.day"),
            Self::Uniques => format!("{SERIES}, d.day, 'value ' || d.value_digest"),
            Self::Unpriced => SERIES.to_owned(),
            Self::Rating => format!(
                "{METER}, CASE WHEN d.began = 'epoch' THEN to_char(d.period, 'YYYY-MM') ELSE d.period::text \
                    END,
                 {BEGAN}, 'rate card ' || d.rate_card_id, 'rate ' || d.rate + 1"
            ),
            Self::Levels => format!("{SERIES}, 'of ' || quote_literal(nullif(d.subject, ''))"),
            Self::Quotas => {
                format!("{SLOT}, d.period, {BEGAN}, 'of ' || quote_literal(nullif(d.subject, ''))")
            }
        };
        format!("concat_ws(' ', {ORG}, {words})")
    }
}
