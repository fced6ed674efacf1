//! What may be asked of an export of usage, and its conditions.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use super::params::{self, ExportRequest, choice};
use super::query::{Bind, Conditions};
use super::{ExportKind, ExportParams};
use crate::db::Scope;
use crate::error::Error;
use crate::time::Day;
use crate::usage::exports::{KEPT, UsageColumns};
use crate::usage::summaries::{self, TimeUnit};

/// The service categories of FOCUS 1.2.
const SERVICE_CATEGORIES: [&str; 19] = [
    "AI and Machine Learning",
    "Analytics",
    "Business Applications",
    "Compute",
    "Databases",
    "Developer Tools",
    "Identity",
    "Integration",
    "Internet of Things",
    "Management and Governance",
    "Media",
    "Migration",
    "Mobile",
    "Multicloud",
    "Networking",
    "Security",
    "Storage",
    "Web",
    "Other",
];

/// Which usage to write, and how.
#[derive(Clone, Debug, Default, Serialize, Deserialize, IntoParams, clap::Args)]
#[into_params(parameter_in = Query)]
#[serde(default)]
pub struct UsageParams {
    /// csv, jsonl, xlsx or parquet; csv when left out
    #[arg(long)]
    #[param(pattern = "^(csv|jsonl|xlsx|parquet)$")]
    pub format: Option<String>,
    /// First day of the usage, by each org's time zone
    #[arg(long, value_name = "DAY")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    pub from: Option<String>,
    /// The day after the last one
    #[arg(long, value_name = "DAY")]
    #[param(pattern = "^[0-9]{4}-[0-9]{2}-[0-9]{2}$")]
    pub before: Option<String>,
    /// A row for each day or each month: day or month; day when left out
    #[arg(long, value_name = "UNIT")]
    #[param(pattern = "^(day|month)$")]
    pub group_by: Option<String>,
    /// Only the org with this id (`org_…`, or your own id of it)
    #[arg(long)]
    #[param(min_length = 1)]
    pub org: Option<String>,
    /// Only the meter with this key, or several separated by commas
    #[arg(long)]
    #[param(min_length = 1)]
    pub meter: Option<String>,
    /// Only of this member
    #[arg(long)]
    #[param(min_length = 1)]
    pub member: Option<String>,
    /// focus: the columns of FOCUS 1.2, without usage that has no price; plain when left out
    #[arg(long)]
    #[param(pattern = "^(plain|focus)$")]
    pub columns: Option<String>,
    /// FOCUS: who provides the service and issues the invoices; Coulomb when left out
    #[arg(long, value_name = "NAME")]
    #[param(min_length = 1)]
    pub provider: Option<String>,
    /// FOCUS: category of the service, such as `AI and Machine Learning`; Other when left out
    #[arg(long, value_name = "NAME")]
    pub service_category: Option<String>,
    /// csv: whether to begin with a line of column names; true when left out
    #[arg(long, value_name = "BOOL")]
    #[param(pattern = "^(true|false)$")]
    pub header: Option<String>,
    /// csv: whether to begin with a byte order mark, for spreadsheets that take the file for Latin-1 without
    /// it; false when left out
    #[arg(long, value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    #[param(pattern = "^(true|false)$")]
    pub bom: Option<String>,
    /// Only usage with this value of a dimension; may be given several times
    #[arg(long = "dimension", value_name = "NAME=VALUE")]
    #[serde(skip)]
    pub dimensions: Vec<String>,
}

/// Narrows an export of usage.
#[derive(Clone, Debug)]
pub struct UsageRows {
    pub(super) from: NaiveDate,
    /// The day after the last one.
    pub(super) before: NaiveDate,
    /// Keys of meters; empty: all.
    pub(super) meters: Vec<String>,
    pub(super) member: Option<String>,
    pub(super) dimensions: BTreeMap<String, String>,
    pub(super) provider: String,
    pub(super) service_category: String,
}

impl UsageParams {
    /// Reads named values, as [`ExportParams::from_pairs`] does. `dimension.<name>` names a dimension.
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
            ..ExportParams::default()
        };
        let units = [TimeUnit::Day, TimeUnit::Month];
        let unit = choice("group_by", self.group_by.as_deref().unwrap_or("day"), &units, TimeUnit::name)?;
        let columns = match self.columns.as_deref() {
            None | Some("plain") => UsageColumns::Plain,
            Some("focus") => UsageColumns::Focus,
            Some(_) => return Err(Error::invalid("columns", "must be one of plain, focus")),
        };
        let of = ExportKind::Usage(unit, columns);
        let dimensions = params::dimensions(&self.dimensions)?;
        let mut given = params::given(self)?;
        given.extend(params::given_dimensions(&dimensions));
        let usage = Some(self.rows(columns, dimensions)?);
        Ok(ExportRequest { of, usage, given, ..common.check(now)? })
    }

    fn rows(&self, columns: UsageColumns, dimensions: BTreeMap<String, String>) -> Result<UsageRows, Error> {
        let day = |name: &'static str, text: &Option<String>, open: NaiveDate| match text {
            None => Ok(open),
            Some(text) => text.parse::<Day>().map(|day| day.0).map_err(|rule| Error::invalid(name, rule)),
        };
        let from = day("from", &self.from, Day::FIRST)?;
        let before = day("before", &self.before, Day::LAST)?;
        if from >= before {
            return Err(Error::invalid("before", "must be a day after `from`: it is not included"));
        }
        for (name, given) in [("provider", &self.provider), ("service_category", &self.service_category)] {
            if given.is_some() && columns != UsageColumns::Focus {
                return Err(Error::invalid(name, "applies to columns=focus only: leave it out"));
            }
        }
        let category = self.service_category.as_deref().unwrap_or("Other");
        if !SERVICE_CATEGORIES.contains(&category) {
            let known = SERVICE_CATEGORIES.join(", ");
            return Err(Error::invalid("service_category", format!("must be one of {known}")));
        }
        let provider = params::id("provider", &self.provider)?.unwrap_or_else(|| "Coulomb".to_owned());
        if crate::text::has_nul(&provider) {
            return Err(Error::invalid("provider", crate::text::NO_NUL));
        }
        Ok(UsageRows {
            from,
            before,
            meters: params::id("meter", &self.meter)?.as_deref().map(params::parts).unwrap_or_default(),
            member: params::id("member", &self.member)?,
            dimensions,
            provider,
            service_category: category.to_owned(),
        })
    }
}

/// The tables of a request with their values, and its conditions. This checks `scope`; row-level security
/// checks it again.
pub(super) fn conditions(
    conn: &mut PgConnection,
    (request, rows): (&ExportRequest, &UsageRows),
    (unit, columns): (TimeUnit, UsageColumns),
    scope: Scope,
) -> Result<(String, Conditions), Error> {
    let mut conditions = Conditions::default();
    let days = || [Bind::Day(rows.from), Bind::Day(rows.before)];
    let values = match unit {
        TimeUnit::Day => Vec::from(days()),
        TimeUnit::Month => days().into_iter().chain(days()).collect(),
    };
    let focus = [Bind::Text(rows.provider.clone()), Bind::Text(rows.service_category.clone())];
    let tables = conditions.numbered(&crate::usage::exports::from(unit), values.into_iter().chain(focus));
    conditions.add(KEPT, []);
    if columns == UsageColumns::Focus {
        // BillingCurrency must not be empty.
        conditions.add("coalesce(s.currency, m.currency) IS NOT NULL", []);
    }
    if let Some(org_id) = request.org_within(conn, scope)? {
        conditions.add("d.org_id = ?", [Bind::Number(org_id)]);
    }
    if !rows.meters.is_empty() || !rows.dimensions.is_empty() {
        let meters = summaries::meter_ids(conn, &rows.meters, &rows.dimensions)?;
        conditions.add("m.meter_id = ANY (?)", [Bind::Numbers(meters)]);
    }
    if let Some(member) = &rows.member {
        conditions.add("s.member = ?", [Bind::Text(member.clone())]);
    }
    if !rows.dimensions.is_empty() {
        let object = serde_json::to_string(&rows.dimensions);
        let object = object.map_err(|error| Error::Internal(error.to_string()))?;
        conditions.add("s.dimensions @> ?::text::jsonb", [Bind::Text(object)]);
    }
    Ok((tables, conditions))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(query: &[(&str, &str)]) -> Result<ExportRequest, String> {
        let pairs = query.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let params = UsageParams::from_pairs(pairs);
        params.and_then(|params| params.check(DateTime::UNIX_EPOCH)).map_err(|error| match error {
            Error::Invalid { field, .. } => field.into_owned(),
            other => panic!("{other}"),
        })
    }

    #[test]
    fn every_mistake_names_its_parameter() {
        for (query, name) in [
            (&[("from", "2026-01-01T00:00:00Z")][..], "from"),
            (&[("from", "2026-01-02"), ("before", "2026-01-02")], "before"),
            (&[("group_by", "week")], "group_by"),
            (&[("columns", "cur")], "columns"),
            (&[("provider", "Acme")], "provider"),
            (&[("columns", "focus"), ("service_category", "AI")], "service_category"),
            (&[("columns", "focus"), ("provider", "")], "provider"),
            (&[("dimension", "a=b")], "dimension"),
            (&[("dimensions", "a=b")], "dimensions"),
            (&[("dimension.", "b")], "dimension"),
            (&[("dimension.a", "b"), ("dimension.a", "c")], "dimension.a"),
            (&[("format", "pdf")], "format"),
            (&[("meter", "")], "meter"),
        ] {
            assert_eq!(check(query).expect_err(name), name, "{query:?}");
        }
    }
}
