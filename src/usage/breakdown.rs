//! Breaks usage down by when it occurred and whose it was: by org, hour, day or month, meter, member,
//! subject, dimensions and labels, of one org or of all.
//!
//! It reads the records themselves, so a label may have any number of values. It counts usage where it
//! occurred: usage of a closed month stays in that month, while the daily summaries ([`super::summaries`])
//! have it where it was posted.

mod sql;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Nullable, Text, Timestamptz};
use serde::Serialize;
use utoipa::ToSchema;

use super::grouped::each_row;
use crate::error::Error;
use crate::metering::meters::{self, Aggregation, MeterFilter};
use crate::page;

/// Days that one breakdown covers at most: it reads every record of them.
pub const MAX_DAYS: i64 = 93;
/// Dimensions and labels to group by at most.
const MAX_NAMES: usize = 10;

/// What rows are grouped by. Each row is of one meter and one currency.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BreakdownGrouping {
    pub time: Option<BreakdownTime>,
    pub org: bool,
    pub member: bool,
    pub subject: bool,
    /// Names of dimensions and labels.
    pub names: Vec<String>,
}

/// The unit of time by which rows are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BreakdownTime {
    Hour,
    Day,
    Month,
}

impl BreakdownTime {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl BreakdownGrouping {
    /// From a list of `hour`, `day`, `month`, `org`, `meter`, `member`, `subject` and names of dimensions and
    /// labels. One that is called like one of these words is written `dimension.member`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a repeated name, several units of time, or too many names.
    pub fn parse(words: &[String]) -> Result<Self, Error> {
        let mut grouping = Self::default();
        let mut seen = BTreeSet::new();
        for word in words {
            if !seen.insert(word) {
                return Err(Error::invalid("group_by", format!("has `{word}` twice")));
            }
            let times = [BreakdownTime::Hour, BreakdownTime::Day, BreakdownTime::Month];
            match (times.into_iter().find(|time| time.name() == word), word.as_str()) {
                (Some(_), _) if grouping.time.is_some() => {
                    return Err(Error::invalid("group_by", "has two of hour, day and month: keep one"));
                }
                (Some(time), _) => grouping.time = Some(time),
                (_, "org") => grouping.org = true,
                // Quantities of different meters never add up.
                (_, "meter") => {}
                (_, "member") => grouping.member = true,
                (_, "subject") => grouping.subject = true,
                (_, name) => {
                    grouping.names.push(name.strip_prefix("dimension.").unwrap_or(name).to_owned());
                }
            }
        }
        if grouping.names.len() > MAX_NAMES {
            return Err(Error::invalid(
                "group_by",
                format!("has more than {MAX_NAMES} dimensions and labels"),
            ));
        }
        Ok(grouping)
    }

    /// The name of the list with this grouping, for its cursors.
    #[must_use]
    pub fn list(&self) -> String {
        let Self { time, org, member, subject, names } = self;
        let time = time.map_or("none", BreakdownTime::name);
        format!("usage_breakdown {time} {org} {member} {subject} {}", names.join(","))
    }

    /// Texts of a row's position.
    fn positions(&self) -> usize {
        let flags = [self.time.is_some(), self.org, self.member, self.subject];
        2 + flags.into_iter().filter(|flag| *flag).count() + self.names.len()
    }
}

/// Selects usage and groups it.
#[derive(Clone, Debug)]
pub struct BreakdownQuery {
    /// Row id; `None`: every org that the caller may see.
    pub org_id: Option<i64>,
    /// Occurred at or after.
    pub from: DateTime<Utc>,
    /// Occurred before.
    pub to: DateTime<Utc>,
    /// Where days and months begin.
    pub zone: Tz,
    /// Keys of meters; empty: all that have quantities to add.
    pub meters: Vec<String>,
    pub member: Option<String>,
    pub subject: Option<String>,
    /// Only usage with these values of dimensions and labels.
    pub dimensions: BTreeMap<String, String>,
    pub grouping: BreakdownGrouping,
}

/// Usage of a meter that occurred in a time.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct UsageBreakdown {
    /// Beginning of the hour, RFC 3339 in UTC; when grouped by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hour: Option<String>,
    /// The day (`2026-11-28`) in `time_zone`; when grouped by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<String>,
    /// The month (`2026-11`) in `time_zone`; when grouped by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<String>,
    /// Public id of the org; when grouped by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org: Option<String>,
    /// The org's id in your own systems; when grouped by org.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub org_external_id: Option<String>,
    /// Key of the meter.
    pub meter: String,
    /// What the quantity is counted in.
    pub unit: String,
    /// How values became the quantity.
    pub aggregation: Aggregation,
    /// The member, when grouped by it; null: the usage has no member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Option<String>>,
    /// The subject, when grouped by it; null: the usage has no subject.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub subject: Option<Option<String>>,
    /// Dimensions and labels, when grouped by them; null: the usage does not have it.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, Option<String>>,
    /// A decimal: the sum for `sum` and `count` meters, the largest value for `max`, the value measured last
    /// for `latest`, the number of different values for `unique`.
    pub quantity: String,
    /// Usage events, without those that were taken back.
    pub count: i64,
    /// What it costs in `currency` (major units), a decimal.
    pub cost: String,
    /// Lower case; null while the meter has no rate card.
    pub currency: Option<String>,
    /// Battery units, a decimal.
    pub battery_units: String,
    /// When the last of it occurred.
    pub last_used_at: DateTime<Utc>,
}

#[derive(QueryableByName)]
struct BreakdownRow {
    #[diesel(sql_type = Array<Nullable<Text>>)]
    position: Vec<Option<String>>,
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Nullable<Text>)]
    external_id: Option<String>,
    #[diesel(sql_type = Text)]
    quantity: String,
    #[diesel(sql_type = BigInt)]
    count: i64,
    #[diesel(sql_type = Text)]
    cost: String,
    #[diesel(sql_type = Text)]
    battery_units: String,
    #[diesel(sql_type = Timestamptz)]
    last_used_at: DateTime<Utc>,
}

/// A meter that can be broken down.
pub(super) struct CountedMeter {
    meter_id: i32,
    key: String,
    unit: String,
    aggregation: Aggregation,
}

/// The position of a row in the list: the texts that it is grouped by, in the order of the list.
pub type Position = Vec<Option<String>>;

/// Rows in the order of time, org, meter, currency, member, subject, names: at most `limit` after `after`.
/// There is no row where all usage was taken back.
///
/// # Errors
/// [`Error::Invalid`] for an unknown meter or name, for a meter of levels, or for too long a time.
pub fn list(
    conn: &mut PgConnection,
    query: &BreakdownQuery,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<(Position, UsageBreakdown)>, Error> {
    if after.is_some_and(|after| after.len() != query.grouping.positions()) {
        return Err(page::wrong_cursor());
    }
    let meters = check(conn, query)?;
    let rows: Vec<BreakdownRow> =
        sql::statement(query, &meters, after, &format!("LIMIT {limit}")).load(conn)?;
    rows.into_iter().map(|row| broken_down(query, &meters, row)).collect()
}

/// Passes every row, in order, to `each`, which may stop it by an error. The caller's transaction should be a
/// snapshot.
///
/// # Errors
/// Those of [`list`] and of `each`.
pub fn each(
    conn: &mut PgConnection,
    query: &BreakdownQuery,
    mut each: impl FnMut(&UsageBreakdown) -> Result<(), Error>,
) -> Result<(), Error> {
    let meters = check(conn, query)?;
    let declare = sql::statement(query, &meters, None, "");
    each_row(conn, ("coulomb_breakdown", declare), |row: BreakdownRow| {
        each(&broken_down(query, &meters, row)?.1)
    })
}

/// SQL after `FROM` for the rows of a query: `d` has them, `m` is the meter of each, `o` its org where rows
/// are grouped by org. Returns the row ids of the meters with it. Its numbers stand for: the times from and
/// to, the org or null, these meters, member, subject, dimensions as JSON, the names grouped by, the zone.
///
/// # Errors
/// As [`list`].
pub fn tables(conn: &mut PgConnection, query: &BreakdownQuery) -> Result<(String, Vec<i32>), Error> {
    let meters = check(conn, query)?;
    Ok((sql::tables(query, &meters), meters.iter().map(|meter| meter.meter_id).collect()))
}

/// Checks a query and finds its meters.
///
/// # Errors
/// As [`list`].
pub fn check_query(conn: &mut PgConnection, query: &BreakdownQuery) -> Result<(), Error> {
    check(conn, query).map(drop)
}

fn check(conn: &mut PgConnection, query: &BreakdownQuery) -> Result<Vec<CountedMeter>, Error> {
    if query.from >= query.to {
        return Err(Error::invalid("to", "must be after `from`: it is the first that is not included"));
    }
    if query.to - query.from > TimeDelta::days(MAX_DAYS) {
        let rule = format!("must be at most {MAX_DAYS} days after `from`: every record of them is read");
        return Err(Error::invalid("to", rule));
    }
    let all = meters::list(conn, MeterFilter::default(), i64::MAX)?;
    if let Some(key) = query.meters.iter().find(|key| !all.iter().any(|meter| meter.key == **key)) {
        return Err(meters::unknown(key));
    }
    let is_asked = |key: &String| query.meters.is_empty() || query.meters.contains(key);
    let (levels, counted): (Vec<_>, Vec<_>) = all
        .into_iter()
        .filter(|meter| is_asked(&meter.key))
        .partition(|meter| meter.aggregation == Aggregation::Level);
    if let Some(level) = levels.first().filter(|_| !query.meters.is_empty()) {
        let rule = format!("`{}` is a level, which lasts over a time: read /v1/usage/levels", level.key);
        return Err(Error::invalid("meter", rule));
    }
    let meters: Vec<CountedMeter> = counted
        .into_iter()
        .map(|meter| CountedMeter {
            meter_id: meter.meter_id,
            key: meter.key,
            unit: meter.unit,
            aggregation: meter.aggregation,
        })
        .collect();
    check_names(conn, query, &meters)?;
    Ok(meters)
}

/// Refuses names that no version of these meters has as a dimension or label: nothing would have a value.
fn check_names(
    conn: &mut PgConnection,
    query: &BreakdownQuery,
    meters: &[CountedMeter],
) -> Result<(), Error> {
    #[derive(QueryableByName)]
    struct NameRow {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let names: Vec<&String> = query.dimensions.keys().chain(&query.grouping.names).collect();
    let unknown: Vec<NameRow> = diesel::sql_query(
        "SELECT name FROM unnest($1) AS n (name) WHERE NOT EXISTS (
             SELECT FROM meter_versions v
             WHERE v.meter_id = ANY ($2) AND (v.dimensions || v.labels) @> ARRAY[n.name])",
    )
    .bind::<Array<Text>, _>(names)
    .bind::<Array<Integer>, _>(meters.iter().map(|meter| meter.meter_id).collect::<Vec<_>>())
    .load(conn)?;
    let Some(NameRow { name }) = unknown.into_iter().next() else { return Ok(()) };
    if query.dimensions.contains_key(&name) {
        let rule = "is no dimension or label of these meters: /v1/meters lists what they have";
        return Err(Error::invalid(format!("dimension.{name}"), rule));
    }
    let rule = format!(
        "has `{name}`, which is none of org, hour, day, month, meter, member, subject, and no dimension or \
            label of these meters"
    );
    Err(Error::invalid("group_by", rule))
}

fn broken_down(
    query: &BreakdownQuery,
    meters: &[CountedMeter],
    row: BreakdownRow,
) -> Result<(Position, UsageBreakdown), Error> {
    let meter = meters.iter().find(|meter| meter.meter_id == row.meter_id).ok_or_else(|| {
        Error::Internal(format!("a breakdown of the meter {}, which the query does not have", row.meter_id))
    })?;
    let grouping = &query.grouping;
    let mut texts = row.position.clone().into_iter();
    let mut next = |is_there: bool| if is_there { texts.next() } else { None };
    let time = next(grouping.time.is_some()).flatten();
    let of_time = |unit: BreakdownTime| time.clone().filter(|_| grouping.time == Some(unit));
    let org = next(grouping.org).flatten();
    let (_, currency) = (next(true), next(true).flatten());
    let (member, subject) = (next(grouping.member), next(grouping.subject));
    let usage = UsageBreakdown {
        hour: of_time(BreakdownTime::Hour),
        day: of_time(BreakdownTime::Day),
        month: of_time(BreakdownTime::Month),
        org,
        org_external_id: row.external_id,
        meter: meter.key.clone(),
        unit: meter.unit.clone(),
        aggregation: meter.aggregation,
        member,
        subject,
        dimensions: grouping.names.iter().cloned().zip(texts).collect(),
        quantity: row.quantity,
        count: row.count,
        cost: row.cost,
        currency,
        battery_units: row.battery_units,
        last_used_at: row.last_used_at,
    };
    Ok((row.position, usage))
}
