//! `/v1/battery`, its grants, entries and statement: what keys of orgs may read too.

use std::sync::Arc;

use actix_web::http::header::ACCEPT;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{Datelike, Months};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::billing::org_query::OrgQuery;
use crate::api::described::FindErrors;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::battery::entries::EntryKind;
use crate::battery::reads::balance::{self, BatteryBalance};
use crate::battery::reads::entries::{self, BatteryEntry, Order, Position};
use crate::battery::reads::grants::{self, BatteryGrant};
use crate::battery::reads::statement::{self, BatteryStatement, StatementFigures};
use crate::battery::upkeep;
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::db::Scope as RowScope;
use crate::error::{Error, Problem};
use crate::export::{BatteryParams, Entries};
use crate::page::{Page, PageQuery};
use crate::time::{Moment, day_start};

/// Entries shown with a grant.
const ENTRIES_OF_GRANT: i64 = 100;

/// Balances are for whoever may read usage and for whoever may read billing.
fn require(principal: &Principal) -> Result<(), Error> {
    principal.require(Scope::BillingRead).or_else(|_| principal.require(Scope::UsageRead))
}

fn own(rows: RowScope) -> Option<i64> {
    match rows {
        RowScope::Platform => None,
        RowScope::Org(org_id) => Some(org_id),
    }
}

/// The org that is asked about. What has become due in its battery is written before it is read, so that
/// grants and entries are what they are at this moment.
async fn settled(
    app: &web::Data<App>,
    principal: &Principal,
    asked: OrgQuery,
) -> Result<Arc<OrgContext>, Error> {
    let (shared, caller, now) = (app.clone(), principal.clone(), app.clock.now());
    let found = app.db.run(principal.rows, move |conn| {
        let org = asked.find(&shared.directory, conn, &caller)?;
        let due = upkeep::is_due(conn, org.org_id, now)?;
        Ok((org, due))
    });
    let (org, due) = found.await?;
    if due {
        let org_id = org.org_id;
        app.db.run(RowScope::Platform, move |conn| upkeep::post(conn, [org_id], now)).await?;
    }
    Ok(org)
}

/// When.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AtQuery {
    /// A moment in the past: what the battery held then, with all that happened up to that moment and at it.
    /// Now, when left out.
    at: Option<Moment>,
}

/// Shows what a battery holds: units granted, less what was used, taken back or has lapsed. With `usage:read`
/// or `billing:read`.
#[utoipa::path(
    get, path = "/v1/battery", tag = "battery", params(OrgQuery, AtQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "The balance", body = BatteryBalance),
    (status = 429, description = "Too many requests wait: try again", body = Problem,
    content_type = "application/problem+json"), FindErrors)
)]
pub async fn show(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    require(&principal)?;
    let (asked, at): (OrgQuery, AtQuery) = (params.take()?, params.take()?);
    params.done()?;
    let now = app.clock.now();
    if at.at.is_some_and(|at| at.0 > now) {
        return Err(Error::invalid("at", "must not be in the future: leave it out for now"));
    }
    let (shared, caller) = (app.clone(), principal.clone());
    let found = app.db.run(principal.rows, move |conn| {
        let org = asked.find(&shared.directory, conn, &caller)?;
        let past = at.at.map(|at| balance::as_of(conn, &org, at.0)).transpose()?;
        let last_allowance = balance::last_allowance(conn, org.org_id)?;
        Ok((org, past, last_allowance))
    });
    let (org, past, last_allowance) = found.await?;
    if let Some(past) = past {
        return Ok(HttpResponse::Ok().json(past));
    }
    let charge = app.quotas.overview(principal.holder(), OrgRef::Own(org.org_id)).await?.battery;
    Ok(HttpResponse::Ok().json(balance::now(&org, charge.into(), last_allowance, now)))
}

/// Lists grants, newest first.
#[utoipa::path(
    get, path = "/v1/battery/grants", tag = "battery", params(OrgQuery, grants::GrantFilter, PageQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<BatteryGrant>), FindErrors)
)]
pub async fn list_grants(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    require(&principal)?;
    let (asked, filter, page): (OrgQuery, grants::GrantFilter, PageQuery) =
        (params.take()?, params.take()?, params.take()?);
    params.done()?;
    let (limit, before) = (page.limit()?, page.after::<i64>("battery_grants")?);
    let org_id = settled(&app, &principal, asked).await?.org_id;
    let rows = app.db.run(principal.rows, move |conn| grants::list(conn, org_id, &filter, before, limit + 1));
    let page = Page::of("battery_grants", rows.await?, limit, |(place, _)| place.number)?;
    let data: Vec<BatteryGrant> = page.data.into_iter().map(|(_, grant)| grant).collect();
    Ok(HttpResponse::Ok().json(Page { data, next: page.next }))
}

/// A grant with what became of it.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[schema(as = BatteryGrantWithEntries)]
pub struct GrantWithEntries {
    /// The grant.
    #[serde(flatten)]
    pub grant: BatteryGrant,
    /// The entries that name it or drew on it, newest first, 100 at most: `GET /v1/battery/entries?grant=…`
    /// lists them all.
    pub entries: Vec<BatteryEntry>,
}

/// Shows a grant and the entries that made, used and ended it.
#[utoipa::path(
    get, path = "/v1/battery/grants/{id}", tag = "battery",
    params(("id" = String, Path, description = "`grt_…`")),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "The grant", body = GrantWithEntries), FindErrors)
)]
pub async fn show_grant(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    require(&principal)?;
    let (id, own, now) = (id.into_inner(), own(principal.rows), app.clock.now());
    let find = {
        let id = id.clone();
        move |conn: &mut diesel::PgConnection| {
            let (place, _) = grants::find(conn, &id, own)?;
            Ok((place.org_id, upkeep::is_due(conn, place.org_id, now)?))
        }
    };
    let (org_id, due) = app.db.run(principal.rows, find).await?;
    if due {
        app.db.run(RowScope::Platform, move |conn| upkeep::post(conn, [org_id], now)).await?;
    }
    let found = app.db.run(principal.rows, move |conn| {
        let (place, grant) = grants::find(conn, &id, own)?;
        let filter = entries::EntryFilter {
            grant: Some((place.number, grant.created_at)),
            ..entries::EntryFilter::default()
        };
        let entries = entries::list(conn, place.org_id, &filter, Order::NewestFirst, None, ENTRIES_OF_GRANT)?;
        Ok(GrantWithEntries { grant, entries })
    });
    Ok(HttpResponse::Ok().json(found.await?))
}

/// How the answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EntriesFormat)]
pub enum Format {
    /// A page as JSON.
    Json,
    /// All entries as CSV.
    Csv,
}

/// Narrows the list of entries.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct EntryQuery {
    /// Only of these kinds, separated by commas: grant, usage, expiry, clawback, refund, bonus, adjustment.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    kind: Vec<EntryKind>,
    /// Only what these sources caused, separated by commas, such as usage or subscription.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    source: Vec<String>,
    /// At or after.
    from: Option<Moment>,
    /// Before.
    to: Option<Moment>,
    /// Only those that name this grant or drew on it (`grt_…`).
    grant: Option<String>,
    /// `csv`: all of them, oldest first, with the columns of `/v1/battery/export`; as `Accept: text/csv`
    /// does.
    format: Option<Format>,
}

/// Lists the entries of a battery's ledger, newest first.
#[utoipa::path(
    get, path = "/v1/battery/entries", tag = "battery", params(OrgQuery, EntryQuery, PageQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "A page, or all entries as CSV",
    content((Page<BatteryEntry> = "application/json"), (String = "text/csv"))), FindErrors)
)]
pub async fn list_entries(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    require(&principal)?;
    let (asked, query, page): (OrgQuery, EntryQuery, PageQuery) =
        (params.take()?, params.take()?, params.take()?);
    params.done()?;
    if query.from.zip(query.to).is_some_and(|(from, to)| from.0 >= to.0) {
        return Err(Error::invalid("to", "must be after `from`"));
    }
    let (limit, after) = (page.limit()?, page.after::<Position>("battery_entries")?);
    let org = settled(&app, &principal, asked).await?;
    let grant = match query.grant.clone() {
        None => None,
        Some(id) => {
            let org_id = org.org_id;
            let found = app.db.run(principal.rows, move |conn| grants::find(conn, &id, Some(org_id)));
            let (place, grant) = found.await?;
            Some((place.number, grant.created_at))
        }
    };
    let accepts_csv = || {
        let accept = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok());
        accept.is_some_and(|accept| accept.contains("text/csv"))
    };
    let (from, to) = (query.from.map(|from| from.0), query.to.map(|to| to.0));
    if query.format.map_or_else(accepts_csv, |format| format == Format::Csv) {
        let params = BatteryParams { org: Some(org.public_id.to_string()), ..BatteryParams::default() };
        let entries = Entries {
            kinds: query.kind,
            sources: query.source,
            from,
            before: to,
            grant: grant.map(|(number, _)| number),
        };
        let wanted = params.check()?.narrowed(entries);
        return crate::api::exports::invoices::respond(&app, &principal, wanted).await;
    }
    let filter = entries::EntryFilter { kinds: query.kind, sources: query.source, from, to, grant };
    let rows = app.db.run(principal.rows, move |conn| {
        entries::list(conn, org.org_id, &filter, Order::NewestFirst, after, limit + 1)
    });
    Ok(HttpResponse::Ok().json(Page::of("battery_entries", rows.await?, limit, Position::from_entry)?))
}

/// Shows an entry by its sequence.
#[utoipa::path(
    get, path = "/v1/battery/entries/{sequence}", tag = "battery",
    params(("sequence" = i64, Path, description = "Its number in the org"), OrgQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "The entry", body = BatteryEntry), FindErrors)
)]
pub async fn show_entry(
    app: web::Data<App>,
    principal: Principal,
    sequence: web::Path<String>,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    require(&principal)?;
    let asked: OrgQuery = params.take()?;
    params.done()?;
    let sequence: i64 = sequence.parse().map_err(|_| Error::NotFound("entry"))?;
    let (shared, caller) = (app.clone(), principal.clone());
    let entry = app.db.run(principal.rows, move |conn| {
        let org = asked.find(&shared.directory, conn, &caller)?;
        entries::find(conn, org.org_id, sequence)
    });
    Ok(HttpResponse::Ok().json(entry.await?))
}

/// Which stretch of time.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatementQuery {
    /// From then on. Left out: from the beginning of the running local month of the org.
    from: Option<Moment>,
    /// Until before then. Left out: until the end of the running local month.
    to: Option<Moment>,
}

/// Shows a statement: what the battery held before, what happened by kind of entry, and what it held then.
/// `opening` and the amounts of all kinds make `closing`. The pages are those of the entries, oldest first;
/// the figures are of all of them.
#[utoipa::path(
    get, path = "/v1/battery/statement", tag = "battery", params(OrgQuery, StatementQuery, PageQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "The statement", body = BatteryStatement), FindErrors)
)]
pub async fn show_statement(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    require(&principal)?;
    let (asked, query, page): (OrgQuery, StatementQuery, PageQuery) =
        (params.take()?, params.take()?, params.take()?);
    params.done()?;
    let (limit, after) = (page.limit()?, page.after::<Position>("battery_statement")?);
    let org = settled(&app, &principal, asked).await?;
    let today = org.day(app.clock.now());
    let month = today.with_day(1).unwrap_or(today);
    let from = query.from.map_or_else(|| day_start(org.zone, month), |from| from.0);
    let to = query.to.map_or_else(|| day_start(org.zone, month + Months::new(1)), |to| to.0);
    if from >= to {
        return Err(Error::invalid("to", "must be after `from`"));
    }
    let statement = app.db.run(principal.rows, move |conn| {
        let StatementFigures { opening, kinds, closing } = statement::figures(conn, org.org_id, (from, to))?;
        let filter =
            entries::EntryFilter { from: Some(from), to: Some(to), ..entries::EntryFilter::default() };
        let rows = entries::list(conn, org.org_id, &filter, Order::OldestFirst, after, limit + 1)?;
        let page = Page::of("battery_statement", rows, limit, Position::from_entry)?;
        let org = org.public_id.to_string();
        Ok(BatteryStatement { org, from, to, opening, kinds, closing, entries: page.data, next: page.next })
    });
    Ok(HttpResponse::Ok().json(statement.await?))
}
