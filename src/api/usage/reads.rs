//! `/v1/usage/daily`, `/v1/usage/records`, `/v1/usage/current`, `/v1/usage/levels`.

use std::io::Write;

use actix_web::http::header::{ACCEPT, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use actix_web::{HttpRequest, HttpResponse, web};
use diesel::pg::PgConnection;
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::billing::org_query::OrgQuery;
use crate::api::described::FindErrors;
use crate::api::exports::invoices::permit;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::db;
use crate::error::Error;
use crate::export::csv::neutral;
use crate::export::stream;
use crate::metering::levels::list::{self as levels, Level};
use crate::metering::rates::PriceBy;
use crate::page::{Page, PageQuery};
use crate::time::{Day, Moment, day_start};
use crate::usage::current::{self, Current};
use crate::usage::records::{self, Record, RecordFilter};
use crate::usage::summaries::{self, Grouping, Query, Usage};

/// Days of one query at most.
const DAYS: i64 = 3_700;

/// How the answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Format {
    /// A page as JSON.
    Json,
    /// All rows as CSV.
    Csv,
}

/// Which summaries.
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
    /// What rows are made of, separated by commas: `day` or `month`, `member`, names of dimensions
    /// (`dimension.day` for one that is called as one of these). Rows are always of one meter. Left out:
    /// `day`. `meter` alone: one row a meter for all days.
    #[param(style = Form, explode = false, min_items = 1)]
    pub group_by: Option<Vec<String>>,
    /// `csv`: all rows, not a page of them; as `Accept: text/csv` does.
    pub format: Option<Format>,
}

/// Lists what was used, by day, from the daily summaries: true as of the last acknowledged usage event.
/// `dimension.<name>=<value>` narrows it to usage with that value; several such parameters must all hold. In
/// the order of day (or month), meter, member, dimensions.
#[utoipa::path(
    get, path = "/v1/usage/daily", tag = "usage", params(OrgQuery, DailyQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page, or all rows as CSV",
    content((Page<Usage> = "application/json"), (String = "text/csv"))), FindErrors)
)]
pub async fn daily(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let dimensions = params.take_prefixed("dimension.");
    let (org, asked, page): (OrgQuery, DailyQuery, PageQuery) =
        (params.take()?, params.take()?, params.take()?);
    params.done()?;
    let grouping = Grouping::parse(asked.group_by.as_deref().unwrap_or(&["day".to_owned()]))?;
    let accepts_csv = || {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        accept.is_some_and(|accept| accept.contains("text/csv"))
    };
    let csv = asked.format.map_or_else(accepts_csv, |format| format == Format::Csv);
    let asked = Asked { org, asked, dimensions, grouping };
    if csv {
        return daily_csv(&app, &principal, asked).await;
    }
    let list = asked.grouping.list();
    let (limit, after) = (page.limit()?, page.after(&list)?);
    let (shared, caller) = (app.clone(), principal.clone());
    let rows = app.db.run(principal.rows, move |conn| {
        let query = asked.query(&shared, conn, &caller)?;
        summaries::list(conn, &query, after.as_ref(), limit + 1)
    });
    let page = Page::of(&list, rows.await?, limit, |(position, _)| position.clone())?;
    let data: Vec<Usage> = page.data.into_iter().map(|(_, usage)| usage).collect();
    Ok(HttpResponse::Ok().json(Page { data, next: page.next }))
}

/// A query before its org and its days are known.
#[derive(Clone)]
struct Asked {
    org: OrgQuery,
    asked: DailyQuery,
    dimensions: std::collections::BTreeMap<String, String>,
    grouping: Grouping,
}

impl Asked {
    fn query(&self, app: &App, conn: &mut PgConnection, principal: &Principal) -> Result<Query, Error> {
        let org = self.org.find(&app.directory, conn, principal)?;
        let today = org.day(app.clock.now());
        let from = self.asked.from.map_or_else(|| crate::metering::partitions::month_of(today), |day| day.0);
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
        Ok(Query {
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

/// The rows as CSV. What is wrong with the query is answered before the first of them is sent.
async fn daily_csv(app: &web::Data<App>, principal: &Principal, asked: Asked) -> Result<HttpResponse, Error> {
    let permit = permit(app, principal).await?;
    let (shared, caller, rows) = (app.clone(), principal.clone(), principal.rows);
    let checked = asked.clone();
    let query = app
        .db
        .run(rows, move |conn| {
            let query = checked.query(&shared, conn, &caller)?;
            summaries::list(conn, &query, None, 0)?;
            Ok(query)
        })
        .await?;
    let (out, body) = stream::open();
    let (db, span) = (app.db.clone(), tracing::Span::current());
    tokio::task::spawn_blocking(move || {
        let _entered = span.entered();
        let _permit = permit;
        let mut end = out.clone();
        let written = db.connect_export().and_then(|mut conn| {
            db::read_snapshot(&mut conn, rows, db.has_roles(), |conn| write_csv(conn, &query, out))
        });
        match written {
            Ok(()) => end.end(),
            Err(error) => tracing::warn!(%error, "a list of usage broke off"),
        }
    });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/csv; charset=utf-8"))
        .insert_header((CONTENT_DISPOSITION, "attachment; filename=\"usage.csv\""))
        .insert_header((CACHE_CONTROL, "no-store"))
        .streaming(body))
}

/// Columns: `day` or `month`, `meter`, `unit`, `member`, `dimension.…` as grouped by, then the figures. Text
/// that a spreadsheet would take for a formula gets an apostrophe, as in exports.
fn write_csv(conn: &mut PgConnection, query: &Query, out: impl Write) -> Result<(), Error> {
    let failed = |error: csv::Error| Error::Internal(format!("the output failed: {error}"));
    let mut out = csv::WriterBuilder::new()
        .terminator(csv::Terminator::CRLF)
        .buffer_capacity(32 << 10)
        .from_writer(out);
    let mut header: Vec<String> = Vec::new();
    header.extend(query.grouping.time.map(|time| time.name().to_owned()));
    header.extend(["meter".to_owned(), "unit".to_owned()]);
    header.extend(query.grouping.member.then(|| "member".to_owned()));
    header.extend(
        query.grouping.dimensions.iter().map(|name| neutral(&format!("dimension.{name}")).into_owned()),
    );
    header.extend(["quantity", "count", "cost", "currency", "battery_units"].map(str::to_owned));
    out.write_record(&header).map_err(failed)?;
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
        out.write_record(&cells).map_err(failed)
    })?;
    out.flush().map_err(|error| Error::Internal(format!("the output failed: {error}")))
}

/// Lists usage records, newest first: what each meter counted of each usage event, and what was taken back or
/// replaced. `id` with `source` shows all that became of one usage event.
#[utoipa::path(
    get, path = "/v1/usage/records", tag = "usage", params(OrgQuery, RecordFilter, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Record>), FindErrors)
)]
pub async fn list_records(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (org, filter, page): (OrgQuery, RecordFilter, PageQuery) =
        (params.take()?, params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after("usage_records")?);
    let (shared, caller) = (app.clone(), principal.clone());
    let rows = app.db.run(principal.rows, move |conn| {
        let org = org.find(&shared.directory, conn, &caller)?;
        records::list(conn, org.org_id, &filter, after.as_ref(), limit + 1)
    });
    let page = Page::of("usage_records", rows.await?, limit, |(position, _)| position.clone())?;
    let data: Vec<Record> = page.data.into_iter().map(|(_, record)| record).collect();
    Ok(HttpResponse::Ok().json(Page { data, next: page.next }))
}

/// Shows what was used today, in the running local month, and in the running period of the org's
/// subscription, per meter.
#[utoipa::path(
    get, path = "/v1/usage/current", tag = "usage", params(OrgQuery), security(("key" = ["usage:read"])),
    responses((status = 200, description = "The running periods", body = Current), FindErrors)
)]
pub async fn show_current(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let org: OrgQuery = params.take()?;
    params.done()?;
    let (shared, caller, now) = (app.clone(), principal.clone(), app.clock.now());
    let current = app.db.run(principal.rows, move |conn| {
        let org = org.find(&shared.directory, conn, &caller)?;
        current::of(conn, &org, now)
    });
    Ok(HttpResponse::Ok().json(current.await?))
}

/// Which levels, over which time.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct LevelsQuery {
    /// Only of the meter with this key.
    pub meter: Option<String>,
    /// First instant of the time; the beginning of the running local month when left out.
    pub from: Option<Moment>,
    /// The instant after its last; now when left out.
    pub to: Option<Moment>,
    /// Which figure the price is for, `average` or `peak`; when left out, that which the rate card says.
    #[serde(default)]
    #[param(inline)]
    pub price_by: Option<PriceBy>,
}

/// Lists levels: how much there is, and the average, the peak and the cost of a time. They follow from the
/// events as they are known now: late ones and corrections change what was told of the past.
#[utoipa::path(
    get, path = "/v1/usage/levels", tag = "usage", params(OrgQuery, LevelsQuery, PageQuery),
    security(("key" = ["usage:read"])),
    responses((status = 200, description = "A page", body = Page<Level>), FindErrors)
)]
pub async fn list_levels(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::UsageRead)?;
    let (org, asked, page): (OrgQuery, LevelsQuery, PageQuery) =
        (params.take()?, params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after("usage_levels")?);
    let (shared, caller, now) = (app.clone(), principal.clone(), app.clock.now());
    let rows = app.db.run(principal.rows, move |conn| {
        let org = org.find(&shared.directory, conn, &caller)?;
        let month = crate::metering::partitions::month_of(org.day(now));
        let from = asked.from.map_or_else(|| day_start(org.zone, month), |from| from.0);
        let to = asked.to.map_or(now, |to| to.0);
        if from >= to {
            return Err(Error::invalid("to", "must be after `from`"));
        }
        let query = levels::Query { org, meter: asked.meter.clone(), from, to, price_by: asked.price_by };
        levels::list(conn, &query, after.as_ref(), limit + 1)
    });
    let page = Page::of("usage_levels", rows.await?, limit, |(position, _)| position.clone())?;
    let data: Vec<Level> = page.data.into_iter().map(|(_, level)| level).collect();
    Ok(HttpResponse::Ok().json(Page { data, next: page.next }))
}
