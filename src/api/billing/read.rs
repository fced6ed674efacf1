//! The one handler behind all lists of mirrored objects, and the one behind all look-ups. Some show our own
//! objects beside Stripe's.

use actix_web::{HttpResponse, web};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::reads::ReadRequest;
use crate::auth::{Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::billing::read::{Basics, Listing, Lookup, Origin, Owners, Position, RealmQuery, Resource};
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::invoicing::reads::{self, TwoOrigins};

/// What a look-up can show beside the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The Stripe object as it was sent. Keys of the platform only.
    Raw,
}

/// What a look-up of an object with lines can show beside the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PartWithLines {
    /// The lines.
    Lines,
    /// The Stripe object as it was sent. Keys of the platform only.
    Raw,
}

/// What to show beside the row.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct Expand {
    /// Separated by commas.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    expand: Vec<Part>,
}

/// What to show beside the row.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ExpandWithLines {
    /// Separated by commas.
    #[serde(default)]
    #[param(style = Form, explode = false, required = false, min_items = 1)]
    expand: Vec<PartWithLines>,
}

/// Which origin a list is of.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct OriginQuery {
    /// `stripe`: only what is mirrored from Stripe; `own`: only what was made or recorded here. Both when
    /// left out. Our own have no customer and no connected account, and the mode that acts.
    origin: Option<Origin>,
}

fn own_org(principal: &Principal) -> Option<String> {
    match principal.rows {
        RowScope::Platform => None,
        RowScope::Org(_) => Some(principal.org.clone().unwrap_or_default()),
    }
}

/// `GET /v1/<resources>`: a page of Stripe's objects.
pub(super) async fn list<R: Resource>(read: ReadRequest) -> Result<HttpResponse, Error> {
    list_by::<R>(read, false, R::list).await
}

/// As [`list`], of both origins.
pub(in crate::api) async fn list_both<R: TwoOrigins>(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    let OriginQuery { origin } = read.take()?;
    // Invoices, payments, refunds and credit notes: who read which money is in the audit log.
    list_by::<R>(read, true, move |conn, listing| reads::list::<R>(conn, listing, origin)).await
}

async fn list_by<R: Resource>(
    mut read: ReadRequest,
    noted: bool,
    fetch: impl Fn(&mut PgConnection, &Listing<R::Filter>) -> Result<Vec<(Position, R::View)>, Error>
    + Send
    + 'static,
) -> Result<HttpResponse, Error> {
    let owners: Owners = if R::HAS_OWNER { read.take()? } else { Owners::default() };
    read.principal.require(Scope::BillingRead)?;
    let (basics, filter): (Basics, R::Filter) = (read.take()?, read.take()?);
    let page = read.take_page(R::OBJECTS[0])?;
    let (org, directory) = (OrgName::of(&read.principal, owners.org, "org")?, read.directory());
    if noted {
        let (own, named) = (read.principal.org_id(), org.clone());
        let org_id = move |conn: &mut PgConnection| named.as_ref().map_or(Ok(own), |org| org.row_id(conn));
        read.note("money.list", &read.collection(), org_id).await?;
    }
    read.list_keyed(page, move |conn, page| {
        let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
        let listing = Listing {
            org: org.map(|org| org.public_id.to_string()),
            linked: owners.linked,
            basics: basics.clone(),
            filter: filter.clone(),
            after: page.after.clone(),
            limit: page.limit,
        };
        fetch(conn, &listing)
    })
    .await
}

/// `GET /v1/<resources>/{id}`: one of Stripe's objects.
pub(super) async fn show<R: Resource>(
    read: ReadRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    show_by::<R, _>(read, id, R::get).await
}

/// As [`show`], of both origins.
pub(in crate::api) async fn show_both<R: TwoOrigins>(
    read: ReadRequest,
    id: web::Path<String>,
) -> Result<HttpResponse, Error> {
    show_by::<R, _>(read, id, reads::get::<R>).await
}

async fn show_by<R: Resource, T: Serialize + Send + 'static>(
    mut read: ReadRequest,
    id: web::Path<String>,
    find: fn(&mut PgConnection, &Lookup) -> Result<T, Error>,
) -> Result<HttpResponse, Error> {
    let (lines, raw) = expanded::<R>(&mut read)?;
    read.principal.require(Scope::BillingRead)?;
    if raw {
        read.principal.require_platform(Scope::BillingRead)?;
    }
    let realm: RealmQuery = read.take()?;
    read.params.done()?;
    let lookup = Lookup { own: own_org(&read.principal), id: id.into_inner(), realm, lines, raw };
    read.show(move |conn| find(conn, &lookup)).await
}

/// What `expand` asks for: the lines, and Stripe's snapshot.
fn expanded<R: Resource>(read: &mut ReadRequest) -> Result<(bool, bool), Error> {
    if R::HAS_LINES {
        let ExpandWithLines { expand } = read.take()?;
        return Ok((expand.contains(&PartWithLines::Lines), expand.contains(&PartWithLines::Raw)));
    }
    let Expand { expand } = read.take()?;
    Ok((false, !expand.is_empty()))
}
