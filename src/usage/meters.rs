//! Meters: rules that turn usage events into a quantity. Owns `meters` and `meter_versions`.

use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;
use crate::schema::{meter_versions, meters};

/// How the values of a day become one quantity.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Aggregation {
    /// The sum of the values.
    Sum,
    /// The number of usage events.
    Count,
    /// The largest value.
    Max,
    /// How many different values there were.
    Unique,
    /// The value measured last.
    Latest,
}

impl Aggregation {
    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Max => "max",
            Self::Unique => "unique",
            Self::Latest => "latest",
        }
    }

    /// The aggregation of that name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Sum, Self::Count, Self::Max, Self::Unique, Self::Latest].into_iter().find(|a| a.name() == name)
    }

    /// Whether the quantities of parts add up to that of the whole. Only such meters are priced and limited.
    #[must_use]
    pub fn is_additive(self) -> bool {
        matches!(self, Self::Sum | Self::Count)
    }
}

/// A meter as it counts now.
#[derive(Clone, Debug)]
pub struct Meter {
    /// Row id.
    pub meter_id: i32,
    /// What callers name it by.
    pub key: String,
    /// Its version.
    pub version: i32,
    /// What people call it.
    pub name: String,
    /// The usage events that it counts.
    pub event_name: String,
    /// How values become a quantity.
    pub aggregation: Aggregation,
    /// Field of the event's `data` that holds the value; none for `count`.
    pub value_field: Option<String>,
    /// What the quantity is counted in, for people.
    pub unit: String,
    /// Fields of `data` kept for grouping, prices and quotas; sorted.
    pub dimensions: Vec<String>,
}

type Row = (i32, String, String, String, i32, String, String, Option<String>, Vec<Option<String>>);

/// Meters that count, in the order of their ids, each at its newest version.
///
/// # Errors
/// When the database fails.
pub fn active(conn: &mut PgConnection) -> Result<Vec<Meter>, Error> {
    let rows: Vec<Row> = meters::table
        .inner_join(meter_versions::table.on(meter_versions::meter_id.eq(meters::meter_id)))
        .filter(meters::archived_at.is_null())
        .distinct_on(meters::meter_id)
        .order((meters::meter_id, meter_versions::version.desc()))
        .select((
            meters::meter_id,
            meters::key,
            meters::aggregation,
            meters::unit,
            meter_versions::version,
            meter_versions::name,
            meter_versions::event_name,
            meter_versions::value_field,
            meter_versions::dimensions,
        ))
        .load(conn)?;
    rows.into_iter().map(meter_of).collect()
}

fn meter_of(row: Row) -> Result<Meter, Error> {
    let (meter_id, key, aggregation, unit, version, name, event_name, value_field, dimensions) = row;
    let aggregation = Aggregation::parse(&aggregation)
        .ok_or_else(|| Error::Internal(format!("meter {key} has the aggregation {aggregation}")))?;
    let mut dimensions: Vec<String> = dimensions.into_iter().flatten().collect();
    dimensions.sort();
    Ok(Meter { meter_id, key, version, name, event_name, aggregation, value_field, unit, dimensions })
}

/// What a new meter is to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewMeter {
    /// What callers name it by: lower case letters, digits, `_`, `-`, `.`, at most 100.
    #[schema(min_length = 1, max_length = 100, pattern = "^[a-z0-9][a-z0-9_.-]*$")]
    pub key: String,
    /// What people call it; its key when left out.
    #[serde(default)]
    pub name: Option<String>,
    /// The usage events that it counts.
    #[schema(min_length = 1, max_length = 200)]
    pub event_name: String,
    /// How values become a quantity.
    pub aggregation: Aggregation,
    /// Field of `data` that holds the value; left out for `count`.
    #[serde(default)]
    pub value_field: Option<String>,
    /// What the quantity is counted in, for people, such as `tokens`.
    #[serde(default)]
    pub unit: String,
    /// Fields of `data` kept for grouping, prices and quotas, at most 10.
    #[serde(default)]
    pub dimensions: Vec<String>,
}
