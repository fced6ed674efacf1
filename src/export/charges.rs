//! The export of usage charged through Stripe: what may be asked of it, its conditions, and columns, tables
//! and order of its rows. A row is a charge.
//!
//! `docs/exports.md` and the API's description are made from this file.

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::params::{self, ExportRange, ExportRequest};
use super::query::{Bind, Conditions};
use super::{ExportKind, ExportParams};
use crate::billing::exports::{Column, Type, column, text};
use crate::billing::org_name::OrgName;
use crate::db::Scope;
use crate::error::Error;

/// The name of the export on the wire.
pub(super) const NAME: &str = "stripe_charges";

const fn decimal(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Decimal, name, sql, meaning)
}

const fn summed(column: Column) -> Column {
    Column { summed: true, ..column }
}

/// The columns of a row, in order.
pub(super) const COLUMNS: &[Column] = &[
    text("charge_id", "d.charge_id", "The charge (`chg_…`)"),
    text("org_id", "o.public_id", "The org (`org_…`)"),
    text("org_external_id", "o.external_id", "The org's id in your own systems"),
    text("meter", "m.key", "Key of the meter"),
    text("way", "d.way", "totals, deltas or invoice_items"),
    text("state", "d.state", "waiting, planned, sent, confirmed or failed"),
    text("reason", "d.reason", "Why it waits or failed, as a code"),
    text("account", "d.account", "`acct_…` of a connected account; empty: our own"),
    text("customer_id", "d.customer_id", "Stripe's customer; empty: not known yet"),
    column(Type::Time, "period_start", "d.period_start", "Start of the bucket, or of the line's period"),
    column(Type::Time, "period_end", "d.period_end", "Its end, not included"),
    summed(decimal("quantity", "trim_scale(d.quantity)::text", "What our books say")),
    summed(decimal("moved", "trim_scale(d.moved)::text", "What of it a later bucket charges")),
    summed(decimal("carried", "trim_scale(d.carried)::text", "What it charges for earlier buckets")),
    summed(decimal("delivered", "trim_scale(d.delivered)::text", "What Stripe took")),
    summed(decimal("discarded", "trim_scale(d.discarded)::text", "What of it Stripe never invoices")),
    text("currency", "nullif(d.currency, '')", "Of a line: ISO 4217 code, lower case"),
    column(Type::Integer, "amount", "d.amount", "Of a line: minor units of `currency`"),
    decimal("cost", "trim_scale(d.cost)::text", "Of a line: its exact cost in major units"),
    text("invoice_id", "d.invoice_id", "Of a line: Stripe's invoice; empty: the customer's next one"),
    text("invoice_item_id", "d.item_id", "Of a line: Stripe's invoice item"),
    column(Type::Time, "planned_at", "d.planned_at", "When it was planned"),
    column(Type::Time, "sent_at", "d.sent_at", "When Stripe took it"),
    column(Type::Time, "confirmed_at", "d.confirmed_at", "When Stripe's sums or lines agreed"),
];

/// SQL: `FROM …`. Each join finds one row.
pub(super) const FROM: &str = "stripe_charges d JOIN orgs o ON o.org_id = d.org_id
     JOIN meters m ON m.meter_id = d.meter_id";

/// SQL: the order of the rows. It is that of the primary key, so no sort is needed, and no two rows are
/// equal.
pub(super) const ORDER: &str = "d.org_id, d.charge_id";

/// Which charges to write, and how. A time is RFC 3339, or a date such as `2026-01-31` for its first
/// instant in
/// `time_zone`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct ChargeParams {
    /// csv, jsonl, xlsx or parquet; csv when left out
    #[arg(long)]
    #[param(pattern = "^(csv|jsonl|xlsx|parquet)$")]
    pub format: Option<String>,
    /// Whose bucket or period begins at or after this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub from: Option<String>,
    /// Whose bucket or period begins before this time
    #[arg(long, value_name = "TIME")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}([Tt ].+)?$")]
    pub to: Option<String>,
    /// Only the org with this id (`org_…`, or your own id of it)
    #[arg(long)]
    #[param(min_length = 1)]
    pub org: Option<String>,
    /// Only charges in this state, or several separated by commas
    #[arg(long)]
    #[param(
        pattern = "^(waiting|planned|sent|confirmed|failed)(,(waiting|planned|sent|confirmed|failed))*$"
    )]
    pub state: Option<String>,
    /// IANA time zone of dates in the filters, and of times in the rows; UTC when left out
    #[arg(long, value_name = "ZONE")]
    #[param(min_length = 1)]
    pub time_zone: Option<String>,
    /// csv and jsonl: go on after the charge `org_id/charge_id`, the last one that arrived whole
    #[arg(long, value_name = "CHARGE")]
    #[param(pattern = "^.+/chg_[0-9a-f]{1,64}$")]
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

/// Narrows an export of charges.
#[derive(Clone, Debug, Default)]
pub struct ChargeRows {
    from: Option<DateTime<Utc>>,
    before: Option<DateTime<Utc>>,
    states: Vec<String>,
}

/// The states of charges.
const STATES: [&str; 5] = ["waiting", "planned", "sent", "confirmed", "failed"];

impl ChargeParams {
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
        let states: Vec<String> =
            self.state.as_deref().map(params::parts).unwrap_or_default().into_iter().collect();
        if states.iter().any(|state| !STATES.contains(&state.as_str())) {
            return Err(Error::invalid("state", format!("must be of {}", STATES.join(", "))));
        }
        let common = common.check(now)?;
        let period = params::period(("from", &self.from), ("to", &self.to), common.zone)?;
        let charges = ChargeRows { from: period.from, before: period.before, states };
        Ok(ExportRequest { of: ExportKind::Charges, charges, given: params::given(self)?, ..common })
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
    let ChargeRows { from, before, states } = &request.charges;
    conditions.add_period("d.period_start", ExportRange { from: *from, before: *before });
    if !states.is_empty() {
        conditions.add("d.state = ANY (?)", [Bind::Texts(states.clone())]);
    }
    if let Some(after) = &request.after {
        let place = after.rsplit_once('/');
        let (org, charge) = place.ok_or_else(|| {
            Error::invalid("after", "must be `org_id/charge_id` of a charge, such as org_1/chg_1")
        })?;
        let org_id = OrgName::of_any(org, "after").row_id(conn).ok();
        let org_id = org_id.filter(|org_id| scope == Scope::Platform || scope == Scope::Org(*org_id));
        let org_id =
            org_id.ok_or_else(|| Error::invalid("after", "names an org that does not exist here"))?;
        let charge = Bind::Text(charge.to_owned());
        conditions.add("(d.org_id, d.charge_id) > (?, ?)", [Bind::Number(org_id), charge]);
    }
    Ok(conditions)
}
