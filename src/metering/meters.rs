//! Meters: rules that make a quantity of usage events. Owns `meters` and `meter_versions`.

mod define;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::error::Error;
use crate::schema::{meter_versions, meters};

pub use self::define::{MeterPatch, NewMeter, archive, create, update};

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
    /// How much there is: set, or changed by so much, and kept across periods.
    Level,
}

impl Aggregation {
    /// The name in the database and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sum => "sum",
            Self::Count => "count",
            Self::Max => "max",
            Self::Unique => "unique",
            Self::Latest => "latest",
            Self::Level => "level",
        }
    }

    /// The aggregation with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        let all = [Self::Sum, Self::Count, Self::Max, Self::Unique, Self::Latest, Self::Level];
        all.into_iter().find(|a| a.name() == name)
    }

    /// Whether the quantities of parts add up to the quantity of the whole. Only these and levels are priced.
    #[must_use]
    pub fn is_additive(self) -> bool {
        matches!(self, Self::Sum | Self::Count)
    }

    /// Whether quotas may limit it.
    #[must_use]
    pub fn is_limited(self) -> bool {
        self.is_additive() || self == Self::Level
    }

    /// Whether a day's quantity must be computed from its records again when one of them is taken back.
    #[must_use]
    pub fn is_recounted(self) -> bool {
        matches!(self, Self::Max | Self::Unique | Self::Latest)
    }
}

/// What becomes of usage that none of the meter's rates fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Unpriced {
    /// It is recorded without a price, marked, and told.
    #[default]
    Record,
    /// It is rejected.
    Refuse,
}

impl Unpriced {
    /// The name in the database and in the API.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Record => "record",
            Self::Refuse => "refuse",
        }
    }

    /// The value with this name.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        [Self::Record, Self::Refuse].into_iter().find(|unpriced| unpriced.name() == name)
    }
}

/// A meter at its newest version.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Meter {
    /// Row id.
    #[serde(skip)]
    pub meter_id: i32,
    /// What callers name it by.
    pub key: String,
    /// Counts up with each change.
    pub version: i32,
    /// What people call it.
    pub name: String,
    /// The usage events that it counts.
    pub event_name: String,
    /// How values become a quantity.
    pub aggregation: Aggregation,
    /// Field of the event's `data` that holds the value; none for `count`.
    pub value_field: Option<String>,
    /// Field of `data` that holds what a `level` changes by; its `value_field` holds what it is.
    pub change_field: Option<String>,
    /// What the quantity is counted in, for people.
    pub unit: String,
    /// Currency of its first rate card, lower case; null: it has none. Usage costs in it, unless the meter
    /// has a rate card in the org's currency.
    pub currency: Option<String>,
    /// Fields of `data` kept for grouping, prices and quotas; sorted.
    pub dimensions: Vec<String>,
    /// Fields of `data` kept with each usage record, to find it and to break usage down by; sorted. They may
    /// have any number of values, such as the ids of jobs. No price and no quota depends on them.
    pub labels: Vec<String>,
    /// Whether a key with the scope `usage:price` may report values below zero. Of every other meter, and
    /// with every other key, a value below zero is refused: it would give back quota and cost that nobody
    /// granted.
    pub allows_negative: bool,
    /// What becomes of usage that none of its rates fits, while it has any.
    pub unpriced: Unpriced,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it ceased to count; what it had counted stays and can be corrected.
    pub archived_at: Option<DateTime<Utc>>,
}

/// A meter with its history.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MeterHistory {
    /// As it is now.
    #[serde(flatten)]
    pub meter: Meter,
    /// What it was, the newest first. A version counted what came from its `created_at` on.
    pub versions: Vec<MeterVersion>,
}

/// What may change about a meter, as of one version.
#[derive(Clone, Debug, Queryable, Serialize, ToSchema)]
pub struct MeterVersion {
    /// Its number, from 1.
    pub version: i32,
    /// What people called it.
    pub name: String,
    /// The usage events that it counted.
    pub event_name: String,
    /// Field of `data` that held the value.
    pub value_field: Option<String>,
    /// Fields of `data` kept for grouping, prices and quotas.
    pub dimensions: Vec<Option<String>>,
    /// Fields of `data` kept with each usage record.
    pub labels: Vec<Option<String>>,
    /// Whether a key with the scope `usage:price` could report values below zero.
    pub allows_negative: bool,
    /// Field of `data` that held what a `level` changed by.
    pub change_field: Option<String>,
    /// When it began to count.
    pub created_at: DateTime<Utc>,
    /// What became of usage that none of its rates fitted: `record` or `refuse`.
    pub unpriced: String,
}

/// Selects meters.
#[derive(Clone, Copy, Debug, Default)]
pub struct MeterFilter<'a> {
    /// Only the meter with this key.
    pub key: Option<&'a str>,
    /// Only archived ones (true), or only others (false).
    pub archived: Option<bool>,
    /// Only keys after this one.
    pub after: Option<&'a str>,
}

/// The columns of a meter, and those of its version.
type MeterRow = (
    (i32, String, String, String, Option<String>, DateTime<Utc>, Option<DateTime<Utc>>),
    (
        (i32, String, String, Option<String>),
        (Vec<Option<String>>, Vec<Option<String>>),
        (bool, String, Option<String>),
    ),
);

/// Meters in the order of their keys, each at its newest version, at most `limit`.
pub fn list(conn: &mut PgConnection, filter: MeterFilter<'_>, limit: i64) -> Result<Vec<Meter>, Error> {
    let meter_columns = (
        meters::meter_id,
        meters::key,
        meters::aggregation,
        meters::unit,
        meters::currency,
        meters::created_at,
        meters::archived_at,
    );
    let version_columns = (
        (
            meter_versions::version,
            meter_versions::name,
            meter_versions::event_name,
            meter_versions::value_field,
        ),
        (meter_versions::dimensions, meter_versions::labels),
        (meter_versions::allows_negative, meter_versions::unpriced, meter_versions::change_field),
    );
    let mut query = meters::table
        .inner_join(meter_versions::table.on(meter_versions::meter_id.eq(meters::meter_id)))
        .distinct_on(meters::key)
        .order((meters::key, meter_versions::version.desc()))
        .select((meter_columns, version_columns))
        .limit(limit)
        .into_boxed();
    if let Some(key) = filter.key {
        query = query.filter(meters::key.eq(key));
    }
    match filter.archived {
        Some(true) => query = query.filter(meters::archived_at.is_not_null()),
        Some(false) => query = query.filter(meters::archived_at.is_null()),
        None => {}
    }
    if let Some(after) = filter.after {
        query = query.filter(meters::key.gt(after));
    }
    query.load::<MeterRow>(conn)?.into_iter().map(from_row).collect()
}

fn from_row(
    ((meter_id, key, aggregation, unit, currency, created_at, archived_at), version): MeterRow,
) -> Result<Meter, Error> {
    let ((version, name, event_name, value_field), (dimensions, labels), further) = version;
    let (allows_negative, unpriced, change_field) = further;
    let aggregation = Aggregation::parse(&aggregation)
        .ok_or_else(|| Error::Internal(format!("meter {key} has the aggregation {aggregation}")))?;
    let unpriced = Unpriced::parse(&unpriced).ok_or_else(|| {
        Error::Internal(format!("meter {key} has the rule `{unpriced}` for unpriced usage"))
    })?;
    let sorted = |names: Vec<Option<String>>| {
        let mut names: Vec<String> = names.into_iter().flatten().collect();
        names.sort();
        names
    };
    Ok(Meter {
        meter_id,
        key,
        version,
        name,
        event_name,
        aggregation,
        value_field,
        change_field,
        unit,
        currency,
        dimensions: sorted(dimensions),
        labels: sorted(labels),
        allows_negative,
        unpriced,
        created_at,
        archived_at,
    })
}

/// Gives a meter the currency of its first rate card.
pub(super) fn set_currency(conn: &mut PgConnection, meter_id: i32, currency: &str) -> QueryResult<()> {
    let without = meters::table.find(meter_id).filter(meters::currency.is_null());
    diesel::update(without).set(meters::currency.eq(currency)).execute(conn).map(drop)
}

/// Every meter, also archived ones: their usage can still be corrected.
pub fn all(conn: &mut PgConnection) -> Result<Vec<Meter>, Error> {
    list(conn, MeterFilter::default(), i64::MAX)
}

/// The meter with this key.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn find(conn: &mut PgConnection, key: &str) -> Result<Meter, Error> {
    list(conn, MeterFilter { key: Some(key), ..MeterFilter::default() }, 1)?
        .pop()
        .ok_or(Error::NotFound("meter"))
}

/// The error for a key of a query that no meter has. An empty list would look like a meter without usage.
#[must_use]
pub fn unknown(key: &str) -> Error {
    Error::invalid("meter", format!("`{key}` is no meter: /v1/meters lists them"))
}

/// The row ids of meters by their keys.
///
/// # Errors
/// [`Error::Invalid`] for a key that no meter has.
pub fn ids(conn: &mut PgConnection, keys: &[String]) -> Result<Vec<i32>, Error> {
    let found: Vec<(i32, String)> =
        meters::table.filter(meters::key.eq_any(keys)).select((meters::meter_id, meters::key)).load(conn)?;
    match keys.iter().find(|key| !found.iter().any(|(_, known)| known == *key)) {
        Some(key) => Err(unknown(key)),
        None => Ok(found.into_iter().map(|(meter_id, _)| meter_id).collect()),
    }
}

/// The meter with this key and all its versions.
///
/// # Errors
/// [`Error::NotFound`] when there is none.
pub fn history(conn: &mut PgConnection, key: &str) -> Result<MeterHistory, Error> {
    let meter = find(conn, key)?;
    let versions = meter_versions::table
        .filter(meter_versions::meter_id.eq(meter.meter_id))
        .order(meter_versions::version.desc())
        .select((
            meter_versions::version,
            meter_versions::name,
            meter_versions::event_name,
            meter_versions::value_field,
            meter_versions::dimensions,
            meter_versions::labels,
            meter_versions::allows_negative,
            meter_versions::change_field,
            meter_versions::created_at,
            meter_versions::unpriced,
        ))
        .load(conn)?;
    Ok(MeterHistory { meter, versions })
}
