//! The export of differences between mirrors and Stripe: what may be asked of it, and columns, tables and
//! order of its rows. A row is a row of `/v1/stripe/drift`.
//!
//! `docs/exports.md` and the API's description are made from this file.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::params::{self, ExportRange, ExportRequest};
use super::query::{Bind, Conditions};
use super::{ExportKind, ExportParams};
use crate::billing::exports::{Column, Type, column, text};
use crate::db::Scope;
use crate::error::Error;

/// The name of the export on the wire.
pub(super) const NAME: &str = "drift";

/// The columns of a row, in order.
pub(super) const COLUMNS: &[Column] = &[
    column(Type::Integer, "drift_id", "d.drift_id", "Its number"),
    column(Type::Time, "found_at", "d.found_at", "When it was found"),
    text("account", "d.account", "Connected account (`acct_…`); empty: our own"),
    column(Type::Boolean, "livemode", "d.livemode", "Live or test mode"),
    text("kind", "d.kind", "What kind of difference, such as missed_event"),
    text("object", "d.object", "Kind of the object, such as invoice"),
    text("object_id", "d.object_id", "Id of the object"),
    text("fields", "array_to_string(d.fields, ' ')", "Paths of the fields that differed, at most 20"),
    text("ours", "d.ours", "SHA-256 of what the mirror showed, or our figure"),
    text("theirs", "d.theirs", "SHA-256 of what Stripe showed, or Stripe's figure"),
    text("detail", "d.detail", "A sentence for people"),
    column(Type::Integer, "inbox_id", "d.inbox_id", "The entry of the inbox that repaired it"),
    column(Type::Integer, "run_id", "d.run_id", "The backfill or comparison that found it"),
];

/// SQL: `FROM …`.
pub(super) const FROM: &str = "stripe_drift d";

/// SQL: the order of the rows. No two rows are equal.
pub(super) const ORDER: &str = "d.drift_id";

/// The kinds of differences, in the words of `/v1/stripe/drift`.
const KINDS: [&str; 9] = [
    "missed_event",
    "ambiguous_resolved",
    "incomplete_lines",
    "thin_event",
    "deleted",
    "unknown_version",
    "impossible",
    "theirs_older",
    "usage",
];

/// Which differences to write, and how. A time is RFC 3339, or a date such as `2026-01-31` for its first
/// instant in `time_zone`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct DriftParams {
    /// csv, jsonl, xlsx or parquet; csv when left out
    #[arg(long)]
    #[param(pattern = "^(csv|jsonl|xlsx|parquet)$")]
    pub format: Option<String>,
    /// Found at or after this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub from: Option<String>,
    /// Found before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub to: Option<String>,
    /// Only of this kind, such as missed_event
    #[arg(long)]
    #[param(
        pattern = "^(missed_event|ambiguous_resolved|incomplete_lines|thin_event|deleted|unknown_version|\
            impossible|theirs_older|usage)$"
    )]
    pub kind: Option<String>,
    /// Only of this kind of object, such as invoice
    #[arg(long)]
    #[param(min_length = 1)]
    pub object: Option<String>,
    /// IANA time zone of dates in the filters, and of times in the rows; UTC when left out
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
}

/// Narrows an export of differences.
#[derive(Clone, Debug, Default)]
pub struct DriftRows {
    from: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    kind: Option<String>,
    object: Option<String>,
}

impl DriftParams {
    /// Reads named values, as [`ExportParams::from_pairs`] does.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the parameter.
    pub fn from_pairs(pairs: impl IntoIterator<Item = (String, String)>) -> Result<Self, Error> {
        params::named(pairs)
    }

    /// Checks all parameters. `now` is when the export is asked for.
    ///
    /// # Errors
    /// [`Error::Invalid`] naming the first that breaks a rule.
    pub fn check(&self, now: DateTime<Utc>) -> Result<ExportRequest, Error> {
        let common = ExportParams {
            format: self.format.clone(),
            header: self.header.clone(),
            bom: self.bom.clone(),
            time_zone: self.time_zone.clone(),
            ..ExportParams::default()
        };
        let common = common.check(now)?;
        let kind = self.kind.as_deref().map(|text| params::choice("kind", text, &KINDS, |name| name));
        let period = params::period(("from", &self.from), ("to", &self.to), common.zone)?;
        let drift = DriftRows {
            from: period.from,
            before: period.before,
            kind: kind.transpose()?.map(str::to_owned),
            object: self.object.clone(),
        };
        Ok(ExportRequest { of: ExportKind::Drift, drift, given: params::given(self)?, ..common })
    }
}

/// The conditions of a request. Differences belong to no org: only the platform exports them.
pub(super) fn conditions(request: &ExportRequest, scope: Scope) -> Result<Conditions, Error> {
    if !matches!(scope, Scope::Platform) {
        return Err(Error::Forbidden("differences from Stripe are the platform's"));
    }
    let mut conditions = Conditions::default();
    conditions.add("true", []);
    let DriftRows { from, before, kind, object } = &request.drift;
    conditions.add_period("d.found_at", ExportRange { from: *from, before: *before });
    for (column, wanted) in [("d.kind = ?", kind), ("d.object = ?", object)] {
        if let Some(wanted) = wanted {
            conditions.add(column, [Bind::Text(wanted.clone())]);
        }
    }
    Ok(conditions)
}
