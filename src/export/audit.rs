//! The export of the audit log: what may be asked of it, its conditions, and columns, tables and order of its
//! rows. A row is an entry.
//!
//! `docs/exports.md` and the API's description are made from this file.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::params::{self, ExportRange, ExportRequest};
use super::query::{Bind, Conditions};
use super::{ExportKind, ExportParams};
use crate::audit::read::actor_name;
use crate::billing::exports::{Column, Type, column, text};
use crate::db::Scope;
use crate::error::Error;

/// The name of the export on the wire.
pub(super) const NAME: &str = "audit";

/// SQL: whether the reader may see where the entry's request came from. Row-level security shows an org only
/// its own keys; the platform sees all.
macro_rules! own_key {
    ($column:literal) => {
        concat!("CASE WHEN k.key_id IS NOT NULL OR current_user <> 'coulomb_org' THEN ", $column, " END")
    };
}

/// The columns of a row, in order.
pub(super) const COLUMNS: &[Column] = &[
    text(
        "id",
        "'aud_' || (extract(epoch FROM d.at) * 1000000)::bigint || '_' || d.audit_id",
        "The entry (`aud_…`)",
    ),
    column(Type::Time, "at", "d.at", "When; of entries that count: when the first was"),
    text("org_id", "o.public_id", "The org that it concerns (`org_…`); empty: the platform"),
    text("org_external_id", "o.external_id", "The org's id in your own systems"),
    text("actor", "d.actor", "Who: `key:<id>`, `cli:<user>`, or `stranger` without a valid key"),
    text("actor_name", actor_name!("d"), "The name of the key, or of the user of the command line"),
    text("action", "d.action", "What was done, such as org.create"),
    text("target", "d.target", "Id of what it was done to"),
    column(Type::Json, "detail", "d.detail::text", "What else is known of it"),
    column(Type::Json, "before", "d.before::text", "The fields that changed, as they were"),
    column(Type::Json, "after", "d.after::text", "The same fields as they were after it"),
    text("request_id", "d.request_id", "Id of the request, as in the access log"),
    text("address", own_key!("d.address"), "Address of the client"),
    text("user_agent", own_key!("d.user_agent"), "What the client calls itself"),
];

/// SQL: `FROM …`. Each join finds at most one row.
pub(super) const FROM: &str = "audit_log d LEFT JOIN orgs o ON o.org_id = d.org_id
     LEFT JOIN api_keys k ON d.actor = 'key:' || k.key_id";

/// SQL: the order of the rows. No two rows are equal.
pub(super) const ORDER: &str = "d.at, d.audit_id";

/// Which entries to write, and how. A time is RFC 3339, or a date such as `2026-01-31` for its first
/// instant in `time_zone`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct AuditParams {
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
    /// Only what this actor did: `key:<id>`, `cli:<user>`, `stranger`
    #[arg(long)]
    #[param(min_length = 1)]
    pub actor: Option<String>,
    /// Only this action, such as `quota.update`, or all of a noun: `quota.`
    #[arg(long)]
    #[param(min_length = 1)]
    pub action: Option<String>,
    /// Only what was done to this
    #[arg(long)]
    #[param(min_length = 1)]
    pub target: Option<String>,
    /// Only what the request with this id did
    #[arg(long)]
    #[param(min_length = 1)]
    pub request_id: Option<String>,
    /// IANA time zone of dates in the filters, and of times in the rows; UTC when left out
    #[arg(long, value_name = "ZONE")]
    #[param(min_length = 1)]
    pub time_zone: Option<String>,
    /// csv and jsonl: go on after the entry with this id, the last one that arrived whole
    #[arg(long, value_name = "ENTRY")]
    #[param(pattern = "^aud_[0-9]{1,16}_[0-9]{1,18}$")]
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

/// Narrows an export of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditRows {
    from: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    actor: Option<String>,
    action: Option<String>,
    target: Option<String>,
    request_id: Option<String>,
}

impl AuditParams {
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
        let common = common.check(now)?;
        let period = params::period(("from", &self.from), ("to", &self.to), common.zone)?;
        let audit = AuditRows {
            from: period.from,
            before: period.before,
            actor: self.actor.clone(),
            action: self.action.clone(),
            target: self.target.clone(),
            request_id: self.request_id.clone(),
        };
        Ok(ExportRequest { of: ExportKind::Audit, audit, given: params::given(self)?, ..common })
    }
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
    let AuditRows { from, before, actor, action, target, request_id } = &request.audit;
    conditions.add_period("d.at", ExportRange { from: *from, before: *before });
    for (column, wanted) in
        [("d.actor = ?", actor), ("d.target = ?", target), ("d.request_id = ?", request_id)]
    {
        if let Some(wanted) = wanted {
            conditions.add(column, [Bind::Text(wanted.clone())]);
        }
    }
    match action {
        Some(noun) if noun.ends_with('.') => {
            conditions.add("starts_with(d.action, ?)", [Bind::Text(noun.clone())]);
        }
        Some(action) => conditions.add("d.action = ?", [Bind::Text(action.clone())]),
        None => {}
    }
    if let Some(after) = &request.after {
        let (at, id) = place(after)
            .ok_or_else(|| Error::invalid("after", "must be the id of an entry, such as aud_17_12"))?;
        conditions.add("(d.at, d.audit_id) > (?, ?)", [Bind::Time(at), Bind::Number(id)]);
    }
    Ok(conditions)
}

/// The place in the log that an id names.
fn place(id: &str) -> Option<(DateTime<Utc>, i64)> {
    let (micros, number) = id.strip_prefix("aud_")?.split_once('_')?;
    let micros = TimeDelta::microseconds(micros.parse().ok()?);
    // PostgreSQL has no later year.
    let last: DateTime<Utc> = DateTime::from_timestamp(253_402_300_799, 0)?;
    let at = DateTime::UNIX_EPOCH.checked_add_signed(micros).filter(|at| *at <= last)?;
    Some((at, number.parse().ok()?))
}
