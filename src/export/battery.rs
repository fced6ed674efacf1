//! What may be asked of an export of batteries, and its conditions.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::params::{self, ExportRange, ExportRequest};
use super::query::{Bind, Conditions};
use super::{ExportKind, ExportParams};
use crate::battery::EntryKind;
use crate::billing::org_name::OrgName;
use crate::db::Scope;
use crate::error::Error;

/// Which entries to write, and how. A time is RFC 3339, or a date such as `2026-01-31` for its first
/// instant in `time_zone`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct BatteryParams {
    /// csv, jsonl, xlsx or parquet; csv when left out
    #[arg(long)]
    #[param(pattern = "^(csv|jsonl|xlsx|parquet)$")]
    pub format: Option<String>,
    /// At or after this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub from: Option<String>,
    /// Before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub to: Option<String>,
    /// Only the org with this id (`org_…`, or your own id of it)
    #[arg(long)]
    #[param(min_length = 1)]
    pub org: Option<String>,
    /// Only entries of this kind, or several separated by commas
    #[arg(long)]
    #[param(pattern = "^(grant|usage|expiry|clawback|refund|bonus|adjustment)\
        (,(grant|usage|expiry|clawback|refund|bonus|adjustment))*$")]
    pub kind: Option<String>,
    /// Only entries from this source, or several separated by commas
    #[arg(long)]
    pub source: Option<String>,
    /// IANA time zone of dates in the filters, and of times in the rows; UTC when left out
    #[arg(long, value_name = "ZONE")]
    #[param(min_length = 1)]
    pub time_zone: Option<String>,
    /// csv and jsonl: go on after the entry `org_id/sequence`, the last one that arrived whole
    #[arg(long, value_name = "ENTRY")]
    #[param(pattern = "^.+/[0-9]{1,18}$")]
    pub after: Option<String>,
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

/// Narrows an export of batteries.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// The first instant.
    pub from: Option<DateTime<Utc>>,
    pub before: Option<DateTime<Utc>>,
    /// Only these kinds; empty: all.
    pub kinds: Vec<EntryKind>,
    /// Only these sources; empty: all.
    pub sources: Vec<String>,
    /// Number of a grant within its org: only entries that name it or draw on it.
    pub grant: Option<i64>,
}

impl BatteryParams {
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
            org: self.org.clone(),
            after: self.after.clone(),
            header: self.header.clone(),
            bom: self.bom.clone(),
            time_zone: self.time_zone.clone(),
            ..ExportParams::default()
        };
        let kinds =
            list(&self.kind).map(|name| EntryKind::named(&name).ok_or(name)).collect::<Result<_, _>>();
        let kinds = kinds.map_err(|_| {
            let known = EntryKind::ALL.map(EntryKind::name).join(", ");
            Error::invalid("kind", format!("must be of {known}"))
        })?;
        let sources = list(&self.source).collect::<Vec<_>>();
        let common = common.check(now)?;
        let period = params::period(("from", &self.from), ("to", &self.to), common.zone)?;
        let entries = Entries { from: period.from, before: period.before, kinds, sources, grant: None };
        Ok(ExportRequest { of: ExportKind::Battery, entries, given: params::given(self)?, ..common })
    }
}

fn list(text: &Option<String>) -> impl Iterator<Item = String> {
    text.as_deref().map(params::parts).unwrap_or_default().into_iter()
}

/// The conditions of a request. This checks `scope`; row-level security checks it again.
pub(super) fn conditions(
    conn: &mut PgConnection,
    request: &ExportRequest,
    scope: Scope,
) -> Result<Conditions, Error> {
    let mut conditions = Conditions::default();
    conditions.add("true", []);
    if let Some(org_id) = request.org_within(conn, scope)? {
        conditions.add("d.org_id = ?", [Bind::Number(org_id)]);
    }
    let entries = &request.entries;
    conditions.add_period("d.at", ExportRange { from: entries.from, before: entries.before });
    if !entries.kinds.is_empty() {
        let kinds = entries.kinds.iter().map(|kind| kind.name().to_owned()).collect();
        conditions.add("d.kind = ANY (?)", [Bind::Texts(kinds)]);
    }
    if !entries.sources.is_empty() {
        conditions.add("d.source = ANY (?)", [Bind::Texts(entries.sources.clone())]);
    }
    if let Some(number) = entries.grant {
        let drawn = Bind::Text(format!("[[{number}]]"));
        conditions.add("(d.grant_number = ? OR d.draws @> ?::text::jsonb)", [Bind::Number(number), drawn]);
    }
    if let Some(after) = &request.after {
        let place = after.rsplit_once('/').and_then(|(org, number)| Some((org, number.parse().ok()?)));
        let (org, sequence): (&str, i64) = place.ok_or_else(|| {
            Error::invalid("after", "must be `org_id/sequence` of an entry, such as org_1/12")
        })?;
        let org_id = OrgName::of_any(org, "after").row_id(conn).ok();
        let org_id = org_id.filter(|org_id| scope == Scope::Platform || scope == Scope::Org(*org_id));
        let org_id =
            org_id.ok_or_else(|| Error::invalid("after", "names an org that does not exist here"))?;
        conditions.add("(d.org_id, d.sequence) > (?, ?)", [Bind::Number(org_id), Bind::Number(sequence)]);
    }
    Ok(conditions)
}
