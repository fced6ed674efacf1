//! Daily summaries as they are asked for: filtered, grouped, rolled up. They are all that is read, so a query
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

use crate::error::Error;
use crate::metering::meters::Aggregation;
use crate::page;
use crate::time::{Day, Month};
use sql::statement;

/// Starting helpers takes longer than a page of a list does.
pub(super) const ALONE: &str = "SET LOCAL max_parallel_workers_per_gather = 0";
/// Dimensions to group by at most.
const DIMENSIONS: usize = 10;

/// What rows are made of beside the meter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Grouping {
    /// A row for each day, or each month.
    pub time: Option<Time>,
    /// A row for each member.
    pub member: bool,
    /// A row for each value of these dimensions.
    pub dimensions: Vec<String>,
}

/// A stretch of time that a row stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Time {
    Day,
    Month,
}

impl Time {
    /// Its name on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Day => "day",
            Self::Month => "month",
        }
    }
}

impl Grouping {
    /// From a list of `day`, `month`, `meter`, `member` and names of dimensions. A dimension of one of these
    /// names is written `dimension.member`.
    ///
    /// # Errors
    /// [`Error::Invalid`] for what is there twice or contradicts itself.
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
                "day" => grouping.time = Some(Time::Day),
                "month" => grouping.time = Some(Time::Month),
                // Quantities of different meters never add up.
                "meter" => {}
                "member" => grouping.member = true,
                name => grouping.dimensions.push(name.strip_prefix("dimension.").unwrap_or(name).to_owned()),
            }
        }
        if grouping.dimensions.len() > DIMENSIONS {
            return Err(Error::invalid("group_by", format!("has more than {DIMENSIONS} dimensions")));
        }
        Ok(grouping)
    }

    /// The name of a list that is grouped so: rows of one grouping have no place in another.
    #[must_use]
    pub fn list(&self) -> String {
        let Self { time, member, dimensions } = self;
        format!("usage_daily {} {member} {}", time.map_or("none", Time::name), dimensions.join(","))
    }
}

/// Which summaries are asked for.
#[derive(Clone, Debug)]
pub struct Query {
    /// Row id of the org.
    pub org_id: i64,
    pub from: NaiveDate,
    /// The local day after the last.
    pub before: NaiveDate,
    /// Keys of meters; empty: all.
    pub meters: Vec<String>,
    /// Only of this member.
    pub member: Option<String>,
    /// Only with these values of dimensions.
    pub dimensions: BTreeMap<String, String>,
    /// What rows are made of.
    pub grouping: Grouping,
}

/// Usage of a meter over the days, members and dimensions that were asked for.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Usage {
    /// The local day, when grouped by it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub day: Option<NaiveDate>,
    /// The local month (`2026-11`), when grouped by it. Of a month that is only partly asked for, that part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub month: Option<Month>,
    /// Key of the meter.
    pub meter: String,
    /// What the quantity is counted in.
    pub unit: String,
    /// How values became the quantity.
    pub aggregation: Aggregation,
    /// The member, when grouped by it; null where usage names none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub member: Option<Option<String>>,
    /// The dimensions grouped by; null where usage has none of that name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dimensions: BTreeMap<String, Option<String>>,
    /// A decimal. Over several days, members or dimensions: of `sum` and `count` meters the sum, of `max` the
    /// largest, of `latest` the one measured last, of `unique` how many different values there were in all
    /// (not the sum of those of the days).
    pub quantity: String,
    /// Usage events, those taken back not counted.
    pub count: i64,
    /// What it costs in `currency` (major units), a decimal.
    pub cost: String,
    /// Currency of the meter's rate cards, lower case; null while it has none.
    pub currency: Option<String>,
    /// Battery units, a decimal.
    pub battery_units: String,
}

/// A row's place among the others.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Position {
    time: Option<Day>,
    meter: String,
    /// Member, if grouped by it, then dimensions. None come first.
    rest: Vec<Option<String>>,
}

impl Position {
    /// Whether rows that are grouped so have such places.
    fn fits(&self, grouping: &Grouping) -> bool {
        let names = usize::from(grouping.member) + grouping.dimensions.len();
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
struct Meter {
    #[diesel(sql_type = Integer)]
    meter_id: i32,
    #[diesel(sql_type = Text)]
    key: String,
    #[diesel(sql_type = Text)]
    aggregation: String,
    #[diesel(sql_type = Text)]
    unit: String,
    #[diesel(sql_type = Nullable<Text>)]
    currency: Option<String>,
}

/// Rows in the order of time, meter, member, dimensions: at most `limit` after `after`. Where all was taken
/// back there is none.
///
/// # Errors
/// [`Error::Invalid`] for a meter or a dimension that there is not.
pub fn list(
    conn: &mut PgConnection,
    query: &Query,
    after: Option<&Position>,
    limit: i64,
) -> Result<Vec<(Position, Usage)>, Error> {
    if after.is_some_and(|after| !after.fits(&query.grouping)) {
        return Err(page::wrong_cursor());
    }
    let meters = meters(conn, query)?;
    conn.batch_execute(ALONE)?;
    let rows: Vec<SummaryRow> = statement(query, &meters, after, &format!("LIMIT {limit}")).load(conn)?;
    rows.into_iter().map(|row| usage(query, &meters, row)).collect()
}

/// Hands every row, in order, to `each`, which may stop by an error. Rows are fetched a thousand at a time;
/// the caller's transaction should be a snapshot.
///
/// # Errors
/// As [`list`], and what `each` says.
pub fn each(
    conn: &mut PgConnection,
    query: &Query,
    mut each: impl FnMut(&Usage) -> Result<(), Error>,
) -> Result<(), Error> {
    let meters = meters(conn, query)?;
    // A slow reader leaves the transaction idle; who bounds that is the output, not the server.
    conn.batch_execute("SET LOCAL idle_in_transaction_session_timeout = 0")?;
    statement(query, &meters, None, "").execute(conn)?;
    loop {
        let rows: Vec<SummaryRow> = diesel::sql_query("FETCH FORWARD 1000 FROM coulomb_usage").load(conn)?;
        if rows.is_empty() {
            return Ok(());
        }
        for row in rows {
            each(&usage(query, &meters, row)?.1)?;
        }
    }
}

/// The meters that are asked for, and checks the names of the query.
fn meters(conn: &mut PgConnection, query: &Query) -> Result<Vec<Meter>, Error> {
    let meters: Vec<Meter> = diesel::sql_query(
        "SELECT m.meter_id, m.key, m.aggregation, m.unit,
             (SELECT c.currency FROM rate_cards c WHERE c.meter_id = m.meter_id ORDER BY c.version DESC
                 LIMIT 1) AS currency
         FROM meters m WHERE $1 = '{}' OR m.key = ANY ($1)",
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
    struct Name {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let unknown: Vec<Name> = diesel::sql_query(
        "SELECT name FROM unnest($1) AS n (name) WHERE NOT EXISTS (
             SELECT FROM meter_versions v WHERE v.meter_id = ANY ($2) AND v.dimensions @> ARRAY[n.name])",
    )
    .bind::<Array<Text>, _>(names)
    .bind::<Array<Integer>, _>(meters.iter().map(|meter| meter.meter_id).collect::<Vec<_>>())
    .load(conn)?;
    match unknown.into_iter().next() {
        None => Ok(meters),
        Some(Name { name }) if query.dimensions.contains_key(&name) => Err(Error::invalid(
            format!("dimension.{name}"),
            "is no dimension of these meters: /v1/meters lists what they have",
        )),
        Some(Name { name }) => Err(Error::invalid(
            "group_by",
            format!(
                "has `{name}`, which is none of day, month, meter, member and no dimension of these meters"
            ),
        )),
    }
}

fn usage(query: &Query, meters: &[Meter], row: SummaryRow) -> Result<(Position, Usage), Error> {
    let meter = meters.iter().find(|meter| meter.meter_id == row.meter_id).ok_or_else(|| {
        Error::Internal(format!("a summary of the meter {}, which was not asked for", row.meter_id))
    })?;
    let aggregation = Aggregation::parse(&meter.aggregation).ok_or_else(|| {
        Error::Internal(format!("meter {} has the aggregation {}", meter.key, meter.aggregation))
    })?;
    let position = Position { time: row.time.map(Day), meter: meter.key.clone(), rest: row.rest.clone() };
    let mut rest = row.rest.into_iter();
    let grouping = &query.grouping;
    let usage = Usage {
        day: row.time.filter(|_| grouping.time == Some(Time::Day)),
        month: row.time.filter(|_| grouping.time == Some(Time::Month)).map(Month::containing),
        meter: meter.key.clone(),
        unit: meter.unit.clone(),
        aggregation,
        member: if grouping.member { rest.next() } else { None },
        dimensions: grouping.dimensions.iter().cloned().zip(rest).collect(),
        quantity: row.quantity,
        count: row.count,
        cost: row.cost,
        currency: meter.currency.clone(),
        battery_units: row.battery_units,
    };
    Ok((position, usage))
}
