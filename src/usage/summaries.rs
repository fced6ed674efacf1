//! Reads usage from the daily summaries: filtered, grouped, summed up. It reads nothing else, so a query
//! costs as much as its days have series, however many usage events there were.

mod sql;

use std::collections::{BTreeMap, BTreeSet};

use chrono::NaiveDate;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Date, Integer, Nullable, Text};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::grouped::each_row;
use crate::error::Error;
use crate::metering::meters::Aggregation;
use crate::page;
use crate::time::{Day, Month};
use sql::statement;

/// Parallel workers take longer to start than a page takes.
const NO_PARALLEL: &str = "SET LOCAL max_parallel_workers_per_gather = 0";
/// Dimensions to group by at most.
const MAX_DIMENSIONS: usize = 10;

/// How rows are grouped. Each row is of one meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grouping {
    /// A row for each day, or each month.
    pub time: Option<TimeUnit>,
    /// A row for each member.
    pub member: bool,
    /// A row for each value of these dimensions.
    pub dimensions: Vec<String>,
}

/// The unit of time by which rows are grouped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeUnit {
    Day,
    Month,
}

impl TimeUnit {
    /// The name in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl Grouping {
    /// From a list of `day`, `month`, `meter`, `member` and names of dimensions, with or without `dimension.`
    /// before them. No meter has a dimension that is called as one of these words.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a repeated name, or both `day` and `month`.
    pub fn parse(names: &[String]) -> Result<Self, Error> {
        let mut grouping = Self::default();
        let mut seen = BTreeSet::new();
        for name in names {
            if !seen.insert(name) {
                return Err(Error::invalid("group_by", format!("has `{name}` twice")));
            }
            match name.as_str() {
                "day" | "month" if grouping.time.is_some() => {
                    return Err(Error::invalid("group_by", "has both day and month: keep one"));
                }
                "day" => grouping.time = Some(TimeUnit::Day),
                "month" => grouping.time = Some(TimeUnit::Month),
                // Quantities of different meters never add up.
                "meter" => {}
                "member" => grouping.member = true,
                name => grouping.dimensions.push(name.strip_prefix("dimension.").unwrap_or(name).to_owned()),
            }
        }
        if grouping.dimensions.len() > MAX_DIMENSIONS {
            return Err(Error::invalid("group_by", format!("has more than {MAX_DIMENSIONS} dimensions")));
        }
        Ok(grouping)
    }

    /// The name of the list with this grouping, for its cursors: positions of one grouping do not fit
    /// another.
    #[must_use]
    pub fn list(&self) -> String {
        let Self { time, member, dimensions } = self;
        format!("usage_daily {} {member} {}", time.map_or("none", TimeUnit::name), dimensions.join(","))
    }
}

/// Selects summaries and groups them.
#[derive(Clone, Debug)]
pub struct SummaryQuery {
    /// Row id of the org.
    pub org_id: i64,
    pub from: NaiveDate,
    /// The local day after the last one.
    pub before: NaiveDate,
    /// Keys of meters; empty: all.
    pub meters: Vec<String>,
    /// Only of this member.
    pub member: Option<String>,
    /// Only usage with these values of dimensions.
    pub dimensions: BTreeMap<String, String>,
    pub grouping: Grouping,
}

/// Usage of a meter, over the requested days, members and dimensions.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = Usage)]
pub struct UsageSummary {
    /// The local day, when grouped by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<NaiveDate>,
    /// The local month (`2026-11`), when grouped by it. The first and last month may be parts of a month.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<Month>,
    /// Key of the meter.
    pub meter: String,
    /// What the quantity is counted in.
    pub unit: String,
    /// How values became the quantity.
    pub aggregation: Aggregation,
    /// The member, when grouped by it; null: the usage has no member.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Option<String>>,
    /// The dimensions, when grouped by them; null: the usage has no such dimension.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, Option<String>>,
    /// A decimal. Over several days, members or dimensions it is the sum for `sum` and `count` meters, the
    /// largest value for `max`, the value measured last for `latest`, and for `unique` the number of
    /// different values in all (not the sum of the days).
    pub quantity: String,
    /// Usage events, without those that were taken back.
    pub count: i64,
    /// What it costs in `currency` (major units), a decimal.
    pub cost: String,
    /// Lower case; null while the meter has no rate card. Usage that costs in several currencies has a row
    /// for each.
    pub currency: Option<String>,
    /// Battery units, a decimal.
    pub battery_units: String,
}

/// The position of a row in the list.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position {
    time: Option<Day>,
    meter: String,
    /// The currency, then the member, if grouped by it, then dimensions. Null comes first.
    rest: Vec<Option<String>>,
}

impl Position {
    /// Whether it is a position of this grouping.
    fn fits(&self, grouping: &Grouping) -> bool {
        let names = 1 + usize::from(grouping.member) + grouping.dimensions.len();
        self.time.is_some() == grouping.time.is_some() && self.rest.len() == names
    }
}

#[derive(QueryableByName)]
struct SummaryRow {
    #[diesel(sql_type = Nullable<Date>)]
    time: Option<NaiveDate>,
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Array<Nullable<Text>>)]
    rest: Vec<Option<String>>,
    #[diesel(sql_type = Text)]
    quantity: String,
    #[diesel(sql_type = BigInt)]
    count: i64,
    #[diesel(sql_type = Text)]
    cost: String,
    #[diesel(sql_type = Text)]
    battery_units: String,
}

#[derive(QueryableByName)]
struct MeterRow {
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    aggregation: String,
    #[diesel(sql_type = Text)]
    unit: String,
}

impl MeterRow {
    /// Its row id and aggregation.
    fn kind(&self) -> Option<(i32, Aggregation)> {
        Some((self.meter_id, Aggregation::parse(&self.aggregation)?))
    }
}

/// Rows in the order of time, meter, currency, member, dimensions: at most `limit` after `after`. There is no
/// row where all usage was taken back.
///
/// # Errors
/// [`Error::Invalid`] for an unknown meter or dimension.
pub fn list(
    conn: &mut PgConnection,
    query: &SummaryQuery,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<(Position, UsageSummary)>, Error> {
    if after.is_some_and(|after| !after.fits(&query.grouping)) {
        return Err(page::wrong_cursor());
    }
    let meters = meters(conn, query)?;
    conn.batch_execute(NO_PARALLEL)?;
    let rows: Vec<SummaryRow> = statement(query, &meters, after, &format!("LIMIT {limit}")).load(conn)?;
    rows.into_iter().map(|row| usage(query, &meters, row)).collect()
}

/// Passes every row, in order, to `each`, which may stop it by an error. Reads a thousand rows at a time; the
/// caller's transaction should be a snapshot.
///
/// # Errors
/// Those of [`list`] and of `each`.
pub fn each(
    conn: &mut PgConnection,
    query: &SummaryQuery,
    mut each: impl FnMut(&UsageSummary) -> Result<(), Error>,
) -> Result<(), Error> {
    let meters = meters(conn, query)?;
    let declare = statement(query, &meters, None, "");
    each_row(conn, ("coulomb_usage", declare), |row: SummaryRow| each(&usage(query, &meters, row)?.1))
}

/// Row ids of the meters with these keys (none: of all). Checks that they exist, and have these dimensions.
///
/// # Errors
/// [`Error::Invalid`] for an unknown meter or dimension.
pub fn meter_ids(
    conn: &mut PgConnection,
    keys: &[String],
    dimensions: &BTreeMap<String, String>,
) -> Result<Vec<i32>, Error> {
    let query = SummaryQuery {
        org_id: 0,
        from: NaiveDate::MIN,
        before: NaiveDate::MIN,
        meters: keys.to_vec(),
        member: None,
        dimensions: dimensions.clone(),
        grouping: Grouping::default(),
    };
    Ok(meters(conn, &query)?.into_iter().map(|meter| meter.meter_id).collect())
}

/// The meters of the query. Checks its names of meters and dimensions.
fn meters(conn: &mut PgConnection, query: &SummaryQuery) -> Result<Vec<MeterRow>, Error> {
    let meters: Vec<MeterRow> = diesel::sql_query(
        "SELECT m.meter_id, m.key, m.aggregation, m.unit FROM meters m WHERE $1 = '{}' OR m.key = ANY ($1)",
    )
    .bind::<Array<Text>, _>(&query.meters)
    .load(conn)?;
    if let Some(key) = query.meters.iter().find(|key| !meters.iter().any(|meter| meter.key == **key)) {
        return Err(crate::metering::meters::unknown(key));
    }
    let names: Vec<&String> = query.dimensions.keys().chain(&query.grouping.dimensions).collect();
    if names.is_empty() {
        return Ok(meters);
    }
    #[derive(QueryableByName)]
    struct NameRow {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let unknown: Vec<NameRow> = diesel::sql_query(
        "SELECT name FROM unnest($1) AS n (name) WHERE NOT EXISTS (
             SELECT FROM meter_versions v WHERE v.meter_id = ANY ($2) AND v.dimensions @> ARRAY[n.name])",
    )
    .bind::<Array<Text>, _>(names)
    .bind::<Array<Integer>, _>(meters.iter().map(|meter| meter.meter_id).collect::<Vec<_>>())
    .load(conn)?;
    match unknown.into_iter().next() {
        None => Ok(meters),
        Some(NameRow { name }) if query.dimensions.contains_key(&name) => Err(Error::invalid(
            format!("dimension.{name}"),
            "is no dimension of these meters: /v1/meters lists what they have",
        )),
        Some(NameRow { name }) => Err(Error::invalid(
            "group_by",
            format!(
                "has `{name}`, which is none of day, month, meter, member and no dimension of these meters"
            ),
        )),
    }
}

fn usage(
    query: &SummaryQuery,
    meters: &[MeterRow],
    row: SummaryRow,
) -> Result<(Position, UsageSummary), Error> {
    let meter = meters.iter().find(|meter| meter.meter_id == row.meter_id).ok_or_else(|| {
        Error::Internal(format!("a summary of the meter {}, which the query does not have", row.meter_id))
    })?;
    let aggregation = Aggregation::parse(&meter.aggregation).ok_or_else(|| {
        Error::Internal(format!("meter {} has the aggregation {}", meter.key, meter.aggregation))
    })?;
    let position = Position { time: row.time.map(Day), meter: meter.key.clone(), rest: row.rest.clone() };
    let mut rest = row.rest.into_iter();
    let currency = rest.next().flatten();
    let grouping = &query.grouping;
    let usage = UsageSummary {
        day: row.time.filter(|_| grouping.time == Some(TimeUnit::Day)),
        month: row.time.filter(|_| grouping.time == Some(TimeUnit::Month)).map(Month::containing),
        meter: meter.key.clone(),
        unit: meter.unit.clone(),
        aggregation,
        member: if grouping.member { rest.next() } else { None },
        dimensions: grouping.dimensions.iter().cloned().zip(rest).collect(),
        quantity: row.quantity,
        count: row.count,
        cost: row.cost,
        currency,
        battery_units: row.battery_units,
    };
    Ok((position, usage))
}
