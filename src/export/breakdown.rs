//! The export of a breakdown of usage: what may be asked of it, and columns, tables and order of its rows. A
//! row is a row of `/v1/usage/breakdown`; its columns are the same for every grouping.
//!
//! `docs/exports.md` and the API's description are made from this file.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use chrono_tz::Tz;
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::params::{self, ExportRequest};
use super::query::{Bind, Conditions};
use super::{ExportKind, ExportParams};
use crate::billing::directory::Directory;
use crate::billing::exports::{Column, Type, column, text};
use crate::db::Scope;
use crate::error::Error;
use crate::usage::breakdown::{self, BreakdownGrouping, BreakdownQuery};

/// The name of the export on the wire.
pub(super) const NAME: &str = "breakdown";

/// SQL: the order of the rows, that of the list. No two rows are equal.
pub(super) const ORDER: &str = "d.position, d.meter_id";

const fn summed(column: Column) -> Column {
    Column { summed: true, ..column }
}

/// The columns of a row, in order.
pub(super) const COLUMNS: &[Column] = &[
    column(Type::Time, "hour", "d.hour", "Beginning of the hour; empty: not grouped by it"),
    column(Type::Day, "day", "d.day", "The day in the zone of the grouping; empty: not grouped by it"),
    text("month", "d.month", "The month (`2026-11`) in that zone; empty: not grouped by it"),
    text("org_id", "d.org", "The org (`org_…`); empty: not grouped by it"),
    text("org_external_id", "o.external_id", "The org's id in your own systems"),
    text("meter", "m.key", "Key of the meter"),
    text("member", "d.member", "Member of the org; empty: it has none, or not grouped by it"),
    text("subject", "d.subject", "The subject; empty: it has none, or not grouped by it"),
    column(
        Type::Json,
        "dimensions",
        "d.dimensions",
        "The dimensions and labels that are grouped by, an object; null: the usage does not have it",
    ),
    summed(column(Type::Decimal, "quantity", "d.quantity", "How much, in `unit`")),
    summed(column(Type::Integer, "count", "d.count", "Usage events, without those that were taken back")),
    summed(column(Type::Decimal, "cost", "d.cost", "What it costs, in major units of `currency`")),
    text("currency", "d.currency", "ISO 4217 code, lower case; empty while the meter has no prices"),
    summed(column(Type::Decimal, "battery_units", "d.battery_units", "Battery units")),
    text("unit", "m.unit", "What the quantity is counted in"),
    text("aggregation", "m.aggregation", "How values become the quantity: sum, count, max, unique, latest"),
    column(Type::Time, "last_used_at", "d.last_used_at", "When the last of it occurred"),
];

/// Which usage to break down, by what, and how to write it. A time is RFC 3339, or a date such as
/// `2026-01-31` for its first instant in `time_zone`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct BreakdownExportParams {
    /// csv, jsonl, xlsx or parquet; csv when left out
    #[arg(long)]
    #[param(pattern = "^(csv|jsonl|xlsx|parquet)$")]
    pub format: Option<String>,
    /// Occurred at or after this time; 24 hours before `to` when left out
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub from: Option<String>,
    /// Occurred before this time, at most 93 days after `from`; now when left out
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub to: Option<String>,
    /// What to group rows by, separated by commas: hour, day or month, org, member, subject, names of
    /// dimensions and labels; meter alone when left out
    #[arg(long, value_name = "WORDS")]
    #[param(min_length = 1)]
    pub group_by: Option<String>,
    /// Only the org with this id (`org_…`, or your own id of it)
    #[arg(long)]
    #[param(min_length = 1)]
    pub org: Option<String>,
    /// Only the meter with this key, or several separated by commas; levels are not among them
    #[arg(long)]
    #[param(min_length = 1)]
    pub meter: Option<String>,
    /// Only of this member
    #[arg(long)]
    #[param(min_length = 1)]
    pub member: Option<String>,
    /// Only of this subject
    #[arg(long)]
    #[param(min_length = 1)]
    pub subject: Option<String>,
    /// IANA time zone of dates in the filters, of days and months in the grouping, and of times in the rows.
    /// When left out, the grouping has the zone of `org`, and all else UTC
    #[arg(long, value_name = "ZONE")]
    #[param(min_length = 1)]
    pub time_zone: Option<String>,
    /// csv: whether to begin with a line of column names; true when left out
    #[arg(long, value_name = "BOOL")]
    #[param(pattern = "^(true|false)$")]
    pub header: Option<String>,
    /// csv: whether to begin with a byte order mark, for spreadsheets that take the file for Latin-1 without
    /// it; false when left out
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[param(pattern = "^(true|false)$")]
    pub bom: Option<String>,
    /// Only usage with this value of a dimension or label; may be given several times
    #[arg(long = "dimension", value_name = "NAME=VALUE")]
    #[serde(skip)]
    pub dimensions: Vec<String>,
}

/// Selects and groups the usage of an export.
#[derive(Clone, Debug)]
pub struct BreakdownRows {
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    /// `None`: that of the org, or UTC.
    zone: Option<Tz>,
    meters: Vec<String>,
    member: Option<String>,
    subject: Option<String>,
    dimensions: BTreeMap<String, String>,
    grouping: BreakdownGrouping,
}

impl BreakdownExportParams {
    /// Reads named values, as [`ExportParams::from_pairs`] does. `dimension.<name>` names a dimension or
    /// label.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        let (dimensions, others) = params::split_dimensions(pairs);
        Ok(Self { dimensions, ..params::named(others)? })
    }

    /// Checks all parameters. `now` is when the export is asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that breaks a rule.
    pub fn check(&self, now: DateTime<Utc>) -> Result<ExportRequest, Error> {
        let common = ExportParams {
            format: self.format.clone(),
            org: self.org.clone(),
            header: self.header.clone(),
            bom: self.bom.clone(),
            time_zone: self.time_zone.clone(),
            ..ExportParams::default()
        };
        let common = common.check(now)?;
        let asked = params::period(("from", &self.from), ("to", &self.to), common.zone)?;
        let to = asked.before.unwrap_or(now);
        let words = params::id("group_by", &self.group_by)?.as_deref().map(params::parts).unwrap_or_default();
        let dimensions = params::dimensions(&self.dimensions)?;
        let mut given = params::given(self)?;
        given.extend(params::given_dimensions(&dimensions));
        let breakdown = BreakdownRows {
            from: asked.from.unwrap_or(to - TimeDelta::days(1)),
            to,
            zone: self.time_zone.is_some().then(|| common.zone.tz()),
            meters: params::id("meter", &self.meter)?.as_deref().map(params::parts).unwrap_or_default(),
            member: params::id("member", &self.member)?,
            subject: params::id("subject", &self.subject)?,
            dimensions,
            grouping: BreakdownGrouping::parse(&words)?,
        };
        Ok(ExportRequest { of: ExportKind::Breakdown, breakdown: Some(breakdown), given, ..common })
    }
}

/// The tables of a request, and its conditions with the values of both. This checks `scope`; row-level
/// security checks it again.
pub(super) fn conditions(
    conn: &mut PgConnection,
    (request, rows): (&ExportRequest, &BreakdownRows),
    scope: Scope,
) -> Result<(String, Conditions), Error> {
    let org_id = request.org_within(conn, scope)?;
    let zone = match (rows.zone, org_id) {
        (Some(zone), _) => zone,
        (None, Some(org_id)) => Directory::default().find(conn, org_id)?.zone,
        (None, None) => Tz::UTC,
    };
    let query = BreakdownQuery {
        org_id,
        from: rows.from,
        to: rows.to,
        zone,
        meters: rows.meters.clone(),
        member: rows.member.clone(),
        subject: rows.subject.clone(),
        dimensions: rows.dimensions.clone(),
        grouping: rows.grouping.clone(),
    };
    let (tables, meters) = breakdown::tables(conn, &query)?;
    let object =
        serde_json::to_value(&query.dimensions).map_err(|error| Error::Internal(error.to_string()))?;
    // In the order of the numbers in the tables.
    let binds = vec![
        Bind::Time(query.from),
        Bind::Time(query.to),
        Bind::MaybeNumber(query.org_id),
        Bind::Numbers(meters),
        Bind::MaybeText(query.member),
        Bind::MaybeText(query.subject),
        Bind::Json(object),
        Bind::Texts(query.grouping.names),
        Bind::Text(zone.name().to_owned()),
    ];
    Ok((tables, Conditions { all: vec!["true".to_owned()], binds }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mistake_names_its_parameter() {
        for (query, name) in [
            (&[("from", "2026-13-01")][..], "from"),
            (&[("from", "2026-01-02"), ("to", "2026-01-02")], "to"),
            (&[("group_by", "hour,day")], "group_by"),
            (&[("group_by", "")], "group_by"),
            (&[("time_zone", "CEST2")], "time_zone"),
            (&[("dimension", "a=b")], "dimension"),
            (&[("dimension.a", "b"), ("dimension.a", "c")], "dimension.a"),
            (&[("format", "pdf")], "format"),
            (&[("after", "x")], "after"),
            (&[("format", "xlsx"), ("header", "true")], "header"),
        ] {
            let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
            let params = BreakdownExportParams::from_pairs(pairs);
            match params.and_then(|params| params.check(DateTime::UNIX_EPOCH)).expect_err(name) {
                Error::Invalid { field, .. } => assert_eq!(field, name, "{query:?}"),
                other => panic!("{other}"),
            }
        }
    }
}
