//! `/v1/usage/breakdown`.

use std::collections::BTreeMap;
use std::io::Write;

use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use serde::Deserialize;
use utoipa::IntoParams;

use super::csv_list;
use super::reads::Format;
use crate::api::described::FindErrors;
use crate::api::reads::{ReadRequest, accepts_csv};
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::export::csv::neutral;
use crate::page::{Page, PageQuery};
use crate::time::Moment;
use crate::usage::breakdown::{self, BreakdownGrouping, BreakdownQuery, UsageBreakdown};

/// Narrows and groups usage.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BreakdownParams {
    /// Only of this org, by its id (`org_…`) or your own id of it. Left out by a key of the platform: of
    /// every org.
    pub org: Option<String>,
    /// Occurred at or after. Left out: 24 hours before `to`.
    pub from: Option<Moment>,
    /// Occurred before, at most 93 days after `from`. Left out: now.
    pub to: Option<Moment>,
    /// IANA zone in which days and months begin. Left out: the zone of `org`, or else UTC.
    pub time_zone: Option<String>,
    /// Only of these meters, by their keys, separated by commas. Levels are not among them.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub meter: Vec<String>,
    /// Only of this member.
    pub member: Option<String>,
    /// Only of this subject.
    pub subject: Option<String>,
    /// What to group rows by, separated by commas: `hour`, `day` or `month`, `org`, `member`, `subject`,
    /// names of dimensions and labels (`dimension.org` for one that is called `hour`, `org` or
    /// `subject`). Rows are always of one meter. Left out: `meter` alone.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub group_by: Vec<String>,
    /// `csv`: all rows, not a page of them; as `Accept: text/csv` does.
    pub format: Option<Format>,
}

/// Breaks usage down by when it occurred and whose it was, of one org or of all.
///
/// `dimension.<name>=<value>` keeps only usage with that value of a dimension or label; of several such
/// parameters all must hold. Rows are ordered by time, org, meter, currency, member, subject, names. Usage of
/// a closed month is counted where it occurred, not where it was posted.
#[utoipa::path(
    get, path = "/v1/usage/breakdown", tag = "usage", params(BreakdownParams, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page, or all rows as CSV",
    content((Page<UsageBreakdown> = "application/json"), (String = "text/csv"))), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest, request: HttpRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let dimensions = read.params.take_prefixed("dimension.");
    let asked: BreakdownParams = read.take()?;
    let page: PageQuery = read.take()?;
    read.params.done()?;
    let grouping = BreakdownGrouping::parse(&asked.group_by)?;
    let is_csv = asked.format.map_or_else(|| accepts_csv(&request), |format| format == Format::Csv);
    let name = OrgName::of(&read.principal, asked.org.clone(), "org")?;
    let (directory, now) = (read.directory(), read.app.clock.now());
    let list = grouping.list();
    let query = move |conn: &mut PgConnection| {
        let org = name.as_ref().map(|name| name.find(&directory, conn)).transpose()?;
        let zone = match &asked.time_zone {
            None => org.as_ref().map_or(chrono_tz::UTC, |org| org.zone),
            Some(zone) => zone.parse().map_err(|_| {
                Error::invalid(
                    "time_zone",
                    format!("`{zone}` is not an IANA time zone such as Europe/Berlin"),
                )
            })?,
        };
        checked(conn, &asked, (org.map(|org| org.org_id), zone), (&dimensions, &grouping), now)
    };
    if is_csv {
        return csv_list::answer(&read, "usage-breakdown.csv", query, write_csv).await;
    }
    read.list_keyed(page.of(list)?, move |conn, page| {
        let query = query(conn)?;
        breakdown::list(conn, &query, page.after.as_ref(), page.to_fetch())
    })
    .await
}

fn checked(
    conn: &mut PgConnection,
    asked: &BreakdownParams,
    (org_id, zone): (Option<i64>, chrono_tz::Tz),
    (dimensions, grouping): (&BTreeMap<String, String>, &BreakdownGrouping),
    now: DateTime<Utc>,
) -> Result<BreakdownQuery, Error> {
    let to = asked.to.map_or(now, |to| to.0);
    let query = BreakdownQuery {
        org_id,
        from: asked.from.map_or(to - TimeDelta::days(1), |from| from.0),
        to,
        zone,
        meters: asked.meter.clone(),
        member: asked.member.clone(),
        subject: asked.subject.clone(),
        dimensions: dimensions.clone(),
        grouping: grouping.clone(),
    };
    breakdown::check_query(conn, &query)?;
    Ok(query)
}

/// Columns: what rows are grouped by, then the figures. Text that a spreadsheet would take for a formula gets
/// an apostrophe, as in exports.
fn write_csv(conn: &mut PgConnection, query: &BreakdownQuery, out: impl Write) -> Result<(), Error> {
    let mut out = csv_list::writer(out);
    let grouping = &query.grouping;
    let mut header: Vec<String> = Vec::new();
    header.extend(grouping.time.map(|time| time.name().to_owned()));
    if grouping.org {
        header.extend(["org", "org_external_id"].map(str::to_owned));
    }
    header.extend(["meter", "unit"].map(str::to_owned));
    header.extend(grouping.member.then(|| "member".to_owned()));
    header.extend(grouping.subject.then(|| "subject".to_owned()));
    header.extend(grouping.names.iter().map(|name| neutral(&format!("dimension.{name}")).into_owned()));
    let figures = ["quantity", "count", "cost", "currency", "battery_units", "last_used_at"];
    header.extend(figures.map(str::to_owned));
    out.write_record(&header).map_err(csv_list::failed)?;
    breakdown::each(conn, query, |usage| out.write_record(cells(query, usage)).map_err(csv_list::failed))?;
    csv_list::finish(out)
}

fn cells(query: &BreakdownQuery, usage: &UsageBreakdown) -> Vec<String> {
    let text = |value: &Option<String>| value.as_deref().map(neutral).unwrap_or_default().into_owned();
    let mut cells: Vec<String> = Vec::new();
    cells.extend([&usage.hour, &usage.day, &usage.month].into_iter().flatten().cloned());
    if query.grouping.org {
        cells.extend([text(&usage.org), text(&usage.org_external_id)]);
    }
    cells.extend([usage.meter.clone(), neutral(&usage.unit).into_owned()]);
    cells.extend([&usage.member, &usage.subject].into_iter().flatten().map(text));
    let dimension = |name: &String| usage.dimensions.get(name).map(text).unwrap_or_default();
    cells.extend(query.grouping.names.iter().map(dimension));
    cells.extend([usage.quantity.clone(), usage.count.to_string(), usage.cost.clone()]);
    cells.extend([usage.currency.clone().unwrap_or_default(), usage.battery_units.clone()]);
    cells.push(usage.last_used_at.to_rfc3339_opts(chrono::SecondsFormat::Micros, true));
    cells
}
