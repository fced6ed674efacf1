//! `/v1/battery`, its grants, entries and statement. Keys of orgs may read them, too.

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{Datelike, Months};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::billing::org_query::OrgQuery;
use crate::api::described::FindErrors;
use crate::api::exports::download::respond;
use crate::api::reads::{ReadRequest, accepts_csv};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::battery::entries::EntryKind;
use crate::battery::reads::balance::{self, BatteryBalance};
use crate::battery::reads::entries::{self, BatteryEntry, EntryFilter, Order, Position};
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

/// Balances belong to usage and to billing, so either scope may read them.
fn require(principal: &Principal) -> Result<(), Error> {
    principal.require(Scope::BillingRead).or_else(|_| principal.require(Scope::UsageRead))
}

/// Finds the org that is asked about. Writes what has become due in its battery first, so that grants and
/// entries are those of this moment.
async fn up_to_date_org(read: &ReadRequest, asked: OrgQuery) -> Result<Arc<OrgContext>, Error> {
    let (org, directory, now) = (asked.name(&read.principal)?, read.directory(), read.app.clock.now());
    let found = read.run(move |conn| {
        let org = org.find(&directory, conn)?;
        let due = upkeep::is_due(conn, org.org_id, now)?;
        Ok((org, due))
    });
    let (org, due) = found.await?;
    if due {
        post_due(&read.app, org.org_id).await?;
    }
    Ok(org)
}

/// Writes what has become due in an org's battery.
async fn post_due(app: &App, org_id: i64) -> Result<(), Error> {
    let now = app.clock.now();
    app.db.run(RowScope::Platform, move |conn| upkeep::post(conn, [org_id], now)).await?;
    Ok(())
}

/// A moment in the past.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct AtQuery {
    /// Shows the balance at this moment of the past, after all entries up to and including it. Now, when left
    /// out.
    at: Option<Moment>,
}

/// Shows a battery's balance: units granted, less units used, taken back and lapsed.
///
/// The key needs `usage:read` or `billing:read`.
#[utoipa::path(
    get, path = "/v1/battery", tag = "battery", params(OrgQuery, AtQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses(
        (status = 200, description = "The balance", body = BatteryBalance),
        (status = 429, description = "Too many requests wait: try again", body = Problem,
            content_type = "application/problem+json"),
        FindErrors
    )
)]
pub(crate) async fn show(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    require(&read.principal)?;
    let (asked, AtQuery { at }): (OrgQuery, _) = (read.take()?, read.take()?);
    read.params.done()?;
    let now = read.app.clock.now();
    if at.is_some_and(|at| at.0 > now) {
        return Err(Error::invalid("at", "must not be in the future: leave it out for now"));
    }
    let (org, directory) = (asked.name(&read.principal)?, read.directory());
    let found = read.run(move |conn| {
        let org = org.find(&directory, conn)?;
        let past = at.map(|at| balance::as_of(conn, &org, at.0)).transpose()?;
        let last_allowance = balance::last_allowance(conn, org.org_id)?;
        Ok((org, past, last_allowance))
    });
    let (org, past, last_allowance) = found.await?;
    if let Some(past) = past {
        return Ok(HttpResponse::Ok().json(past));
    }
    let battery =
        read.app.quotas.entitlements(read.principal.holder(), OrgRef::Own(org.org_id)).await?.battery;
    Ok(HttpResponse::Ok().json(balance::now(&org, battery.into(), last_allowance, now)))
}

/// Lists grants, newest first.
#[utoipa::path(
    get, path = "/v1/battery/grants", tag = "battery", params(OrgQuery, grants::GrantFilter, PageQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<BatteryGrant>), FindErrors)
)]
pub(crate) async fn list_grants(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    require(&read.principal)?;
    let (asked, filter): (OrgQuery, grants::GrantFilter) = (read.take()?, read.take()?);
    let page = read.take_page::<i64>("battery_grants")?;
    let org_id = up_to_date_org(&read, asked).await?.org_id;
    read.list_keyed(page, move |conn, page| {
        let found = grants::list(conn, org_id, &filter, page.after, page.to_fetch())?;
        Ok(found.into_iter().map(|(place, grant)| (place.number, grant)).collect())
    })
    .await
}

/// A grant with its entries.
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
pub(crate) async fn show_grant(read: ReadRequest, id: web::Path<String>) -> Result<HttpResponse, Error> {
    require(&read.principal)?;
    let (id, own, now) = (id.into_inner(), read.principal.own_org_id(), read.app.clock.now());
    let asked = id.clone();
    let found = read.run(move |conn| {
        let (place, _) = grants::find(conn, &asked, own)?;
        Ok((place.org_id, upkeep::is_due(conn, place.org_id, now)?))
    });
    let (org_id, due) = found.await?;
    if due {
        post_due(&read.app, org_id).await?;
    }
    read.show(move |conn| {
        let (place, grant) = grants::find(conn, &id, own)?;
        let filter = EntryFilter { grant: Some((place.number, grant.created_at)), ..EntryFilter::default() };
        let entries = entries::list(conn, place.org_id, &filter, Order::NewestFirst, None, ENTRIES_OF_GRANT)?;
        Ok(GrantWithEntries { grant, entries })
    })
    .await
}

/// Format of the answer.
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
pub(crate) async fn list_entries(mut read: ReadRequest, request: HttpRequest) -> Result<HttpResponse, Error> {
    require(&read.principal)?;
    let (asked, query): (OrgQuery, EntryQuery) = (read.take()?, read.take()?);
    let page: PageQuery = read.take()?;
    read.params.done()?;
    if query.from.zip(query.to).is_some_and(|(from, to)| from.0 >= to.0) {
        return Err(Error::invalid("to", "must be after `from`"));
    }
    let page = page.of::<Position>("battery_entries")?;
    let org = up_to_date_org(&read, asked).await?;
    let org_id = org.org_id;
    let grant = match query.grant.clone() {
        None => None,
        Some(id) => {
            let (place, grant) = read.run(move |conn| grants::find(conn, &id, Some(org_id))).await?;
            Some((place.number, grant.created_at))
        }
    };
    let (from, to) = (query.from.map(|from| from.0), query.to.map(|to| to.0));
    if query.format.map_or_else(|| accepts_csv(&request), |format| format == Format::Csv) {
        let params = BatteryParams { org: Some(org.public_id.to_string()), ..BatteryParams::default() };
        let entries = Entries {
            kinds: query.kind,
            sources: query.source,
            from,
            before: to,
            grant: grant.map(|(number, _)| number),
        };
        let wanted = params.check(read.app.clock.now())?.narrowed(entries);
        return respond(&read.app, &read.principal, &request, wanted).await;
    }
    let filter = EntryFilter { kinds: query.kind, sources: query.source, from, to, grant };
    read.list(page, Position::from_entry, move |conn, page| {
        entries::list(conn, org_id, &filter, Order::NewestFirst, page.after, page.to_fetch())
    })
    .await
}

/// Shows an entry by its number in the org.
#[utoipa::path(
    get, path = "/v1/battery/entries/{sequence}", tag = "battery",
    params(("sequence" = i64, Path, description = "Its number in the org"), OrgQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "The entry", body = BatteryEntry), FindErrors)
)]
pub(crate) async fn show_entry(
    mut read: ReadRequest,
    sequence: web::Path<String>,
) -> Result<HttpResponse, Error> {
    require(&read.principal)?;
    let asked: OrgQuery = read.take()?;
    read.params.done()?;
    let sequence: i64 = sequence.parse().map_err(|_| Error::NotFound("entry"))?;
    let (org, directory) = (asked.name(&read.principal)?, read.directory());
    read.show(move |conn| {
        let org = org.find(&directory, conn)?;
        entries::find(conn, org.org_id, sequence)
    })
    .await
}

/// The time of the statement.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct StatementQuery {
    /// First instant. Left out: the beginning of the org's current local month.
    from: Option<Moment>,
    /// End, not included. Left out: the end of the org's current local month.
    to: Option<Moment>,
}

/// Shows a statement of a battery: the opening balance, the sums by kind of entry, and the closing balance.
///
/// `opening` and the sums of all kinds make `closing`. The pages show the entries, oldest first; the figures
/// cover all of them.
#[utoipa::path(
    get, path = "/v1/battery/statement", tag = "battery", params(OrgQuery, StatementQuery, PageQuery),
    security(("key" = ["usage:read"]), ("key" = ["billing:read"])),
    responses((status = 200, description = "The statement", body = BatteryStatement), FindErrors)
)]
pub(crate) async fn show_statement(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    require(&read.principal)?;
    let (asked, query): (OrgQuery, StatementQuery) = (read.take()?, read.take()?);
    let page = read.take_page::<Position>("battery_statement")?;
    let org = up_to_date_org(&read, asked).await?;
    let today = org.day(read.app.clock.now());
    let month = today.with_day(1).unwrap_or(today);
    let from = query.from.map_or_else(|| day_start(org.zone, month), |from| from.0);
    let to = query.to.map_or_else(|| day_start(org.zone, month + Months::new(1)), |to| to.0);
    if from >= to {
        return Err(Error::invalid("to", "must be after `from`"));
    }
    read.show(move |conn| {
        let StatementFigures { opening, kinds, closing } = statement::figures(conn, org.org_id, (from, to))?;
        let filter = EntryFilter { from: Some(from), to: Some(to), ..EntryFilter::default() };
        let rows = entries::list(conn, org.org_id, &filter, Order::OldestFirst, page.after, page.to_fetch())?;
        let Page { data: entries, next } = page.page(rows, Position::from_entry)?;
        let org = org.public_id.to_string();
        Ok(BatteryStatement { org, from, to, opening, kinds, closing, entries, next })
    })
    .await
}
