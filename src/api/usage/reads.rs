//! `/v1/usage/daily`, `/v1/usage/records`, `/v1/usage/current`, `/v1/usage/levels`.

use std::collections::BTreeMap;
use std::io::Write;
use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse};
use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::csv_list;
use crate::api::billing::org_query::OrgQuery;
use crate::api::described::FindErrors;
use crate::api::reads::{ReadRequest, accepts_csv};
use crate::auth::Scope;
use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::export::csv::neutral;
use crate::metering::levels::list::{self as levels, Level};
use crate::metering::partitions::month_of;
use crate::metering::rates::PriceBy;
use crate::page::{Page, PageQuery};
use crate::time::{Day, Moment, day_start};
use crate::usage::current::{self, CurrentUsage};
use crate::usage::records::{self, RecordFilter, UsageRecord};
use crate::usage::summaries::{self, Grouping, SummaryQuery, UsageSummary};

/// Days of one query at most.
const DAYS: i64 = 3_700;

/// Format of the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A page as JSON.
    Json,
    /// All rows as CSV.
    Csv,
}

/// Narrows and groups the summaries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DailyQuery {
    /// First local day of the org. Left out: the first of the running local month.
    pub from: Option<Day>,
    /// The local day after the last. Left out: tomorrow.
    pub to: Option<Day>,
    /// Only of these meters, by their keys, separated by commas.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    pub meter: Vec<String>,
    /// Only of this member.
    pub member: Option<String>,
    /// What to group rows by, separated by commas: `day` or `month`, `member`, names of dimensions. Rows
    /// are always of one meter. Left out: `day`. `meter` alone: one row a meter for all days.
    #[param(style = Form, explode = false, min_items = 1)]
    pub group_by: Option<Vec<String>>,
    /// `csv`: all rows, not a page of them; as `Accept: text/csv` does.
    pub format: Option<Format>,
}

/// Lists usage by day, as of the last acknowledged usage event.
///
/// `dimension.<name>=<value>` keeps only usage with that value; of several such parameters all must hold.
/// Rows are ordered by day (or month), meter, member, dimensions.
#[utoipa::path(
    get, path = "/v1/usage/daily", tag = "usage", params(OrgQuery, DailyQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page, or all rows as CSV",
    content((Page<UsageSummary> = "application/json"), (String = "text/csv"))), FindErrors)
)]
pub(crate) async fn daily(mut read: ReadRequest, request: HttpRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let dimensions = read.params.take_prefixed("dimension.");
    let (org, asked): (OrgQuery, DailyQuery) = (read.take()?, read.take()?);
    let page: PageQuery = read.take()?;
    read.params.done()?;
    let grouping = Grouping::parse(asked.group_by.as_deref().unwrap_or(&["day".to_owned()]))?;
    let csv = asked.format.map_or_else(|| accepts_csv(&request), |format| format == Format::Csv);
    let asked = Asked {
        org: org.name(&read.principal)?,
        directory: read.directory(),
        now: read.app.clock.now(),
        asked,
        dimensions,
        grouping,
    };
    if csv {
        let check = move |conn: &mut PgConnection| {
            let query = asked.query(conn)?;
            summaries::list(conn, &query, None, 0)?;
            Ok(query)
        };
        return csv_list::answer(&read, "usage.csv", check, write_csv).await;
    }
    let page = page.of(asked.grouping.list())?;
    read.list_keyed(page, move |conn, page| {
        let query = asked.query(conn)?;
        summaries::list(conn, &query, page.after.as_ref(), page.to_fetch())
    })
    .await
}

/// A query before its org and its days are known.
#[derive(Clone)]
struct Asked {
    org: OrgName,
    directory: Arc<Directory>,
    now: DateTime<Utc>,
    asked: DailyQuery,
    dimensions: BTreeMap<String, String>,
    grouping: Grouping,
}

impl Asked {
    fn query(&self, conn: &mut PgConnection) -> Result<SummaryQuery, Error> {
        let org = self.org.find(&self.directory, conn)?;
        let today = org.day(self.now);
        let from = self.asked.from.map_or_else(|| month_of(today), |day| day.0);
        let before = self.asked.to.map(|day| day.0).or_else(|| today.succ_opt()).unwrap_or(today);
        if from >= before {
            return Err(Error::invalid(
                "to",
                "must be a day after `from`: it is the first that is not included",
            ));
        }
        if (before - from).num_days() > DAYS {
            return Err(Error::invalid("to", format!("must be at most {DAYS} days after `from`")));
        }
        Ok(SummaryQuery {
            org_id: org.org_id,
            from,
            before,
            meters: self.asked.meter.clone(),
            member: self.asked.member.clone(),
            dimensions: self.dimensions.clone(),
            grouping: self.grouping.clone(),
        })
    }
}

/// Columns: `day` or `month`, `meter`, `unit`, `member`, `dimension.…` as grouped by, then the figures. Text
/// that a spreadsheet would take for a formula gets an apostrophe, as in exports.
fn write_csv(conn: &mut PgConnection, query: &SummaryQuery, out: impl Write) -> Result<(), Error> {
    let mut out = csv_list::writer(out);
    let mut header: Vec<String> = Vec::new();
    header.extend(query.grouping.time.map(|time| time.name().to_owned()));
    header.extend(["meter".to_owned(), "unit".to_owned()]);
    header.extend(query.grouping.member.then(|| "member".to_owned()));
    header.extend(
        query.grouping.dimensions.iter().map(|name| neutral(&format!("dimension.{name}")).into_owned()),
    );
    header.extend(["quantity", "count", "cost", "currency", "battery_units"].map(str::to_owned));
    out.write_record(&header).map_err(csv_list::failed)?;
    summaries::each(conn, query, |usage| {
        let mut cells: Vec<String> = Vec::with_capacity(header.len());
        cells.extend(usage.day.map(|day| day.to_string()));
        cells.extend(usage.month.map(|month| month.to_string()));
        cells.extend([usage.meter.clone(), neutral(&usage.unit).into_owned()]);
        let text = |value: &Option<String>| value.as_deref().map(neutral).unwrap_or_default().into_owned();
        cells.extend(usage.member.as_ref().map(text));
        cells.extend(
            query
                .grouping
                .dimensions
                .iter()
                .map(|name| usage.dimensions.get(name).map(text).unwrap_or_default()),
        );
        cells.extend([usage.quantity.clone(), usage.count.to_string(), usage.cost.clone()]);
        cells.extend([usage.currency.clone().unwrap_or_default(), usage.battery_units.clone()]);
        out.write_record(&cells).map_err(csv_list::failed)
    })?;
    csv_list::finish(out)
}

/// Lists usage records, newest first: what each meter counted of each usage event, and all corrections.
///
/// `id` with `source` shows all records of one usage event. `dimension.<name>=<value>` keeps only records
/// with that value of a dimension or label.
#[utoipa::path(
    get, path = "/v1/usage/records", tag = "usage", params(OrgQuery, RecordFilter, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<UsageRecord>), FindErrors)
)]
pub(crate) async fn list_records(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let dimensions = read.params.take_prefixed("dimension.");
    let (org, filter): (OrgQuery, RecordFilter) = (read.take()?, read.take()?);
    let filter = RecordFilter { dimensions, ..filter };
    let page = read.take_page("usage_records")?;
    let (org, directory) = (org.name(&read.principal)?, read.directory());
    read.list_keyed(page, move |conn, page| {
        let org = org.find(&directory, conn)?;
        records::list(conn, org.org_id, &filter, page.after.as_ref(), page.to_fetch())
    })
    .await
}

/// Shows usage per meter of today, of the current local month, and of the current period of the org's
/// subscription.
#[utoipa::path(
    get, path = "/v1/usage/current", tag = "usage", params(OrgQuery), security(("key" = ["usage:read"])),
    responses((status = 200, description = "The running periods", body = CurrentUsage), FindErrors)
)]
pub(crate) async fn show_current(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let org = read.take::<OrgQuery>()?.name(&read.principal)?;
    read.params.done()?;
    let (directory, now) = (read.directory(), read.app.clock.now());
    read.show(move |conn| {
        let org = org.find(&directory, conn)?;
        current::read(conn, &org, now)
    })
    .await
}

/// Narrows the list of levels.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LevelsQuery {
    /// Only of the meter with this key.
    pub meter: Option<String>,
    /// First instant of the time; the beginning of the current local month when left out.
    pub from: Option<Moment>,
    /// End of the time, not included; now when left out.
    pub to: Option<Moment>,
    /// The figure that the price is for, `average` or `peak`; when left out, the rate card decides.
    #[serde(default)]
    #[param(inline)]
    pub price_by: Option<PriceBy>,
}

/// Lists levels: the current amount, and the average, peak and cost over a time.
///
/// They follow from the events known now: late events and corrections change figures of the past.
#[utoipa::path(
    get, path = "/v1/usage/levels", tag = "usage", params(OrgQuery, LevelsQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Level>), FindErrors)
)]
pub(crate) async fn list_levels(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::UsageRead)?;
    let (org, asked): (OrgQuery, LevelsQuery) = (read.take()?, read.take()?);
    let page = read.take_page("usage_levels")?;
    let (org, directory, now) = (org.name(&read.principal)?, read.directory(), read.app.clock.now());
    read.list_keyed(page, move |conn, page| {
        let org = org.find(&directory, conn)?;
        let month = month_of(org.day(now));
        let from = asked.from.map_or_else(|| day_start(org.zone, month), |from| from.0);
        let to = asked.to.map_or(now, |to| to.0);
        if from >= to {
            return Err(Error::invalid("to", "must be after `from`"));
        }
        let query =
            levels::LevelQuery { org, meter: asked.meter.clone(), from, to, price_by: asked.price_by };
        levels::list(conn, &query, page.after.as_ref(), page.to_fetch())
    })
    .await
}
