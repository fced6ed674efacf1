//! What the routes over mirrored objects share: parameters in, JSON out.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use diesel::pg::PgConnection;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use utoipa::{IntoParams, ToSchema};

use crate::api::params::Params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::billing::raw;
use crate::billing::read::{Basics, Listing, Lookup, Owners, Position, RealmQuery, Shown};
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::page::{Page, PageQuery};

/// What a look-up shows beside the row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// The Stripe object as it was sent. Keys of the platform only.
    Raw,
}

/// What a look-up of an object with lines shows beside the row.
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

fn own_org(principal: &Principal) -> Option<String> {
    match principal.rows {
        RowScope::Platform => None,
        RowScope::Org(_) => Some(principal.org.clone().unwrap_or_default()),
    }
}

/// The operation behind a list: rows, each with its place.
type List<F, V> = fn(&mut PgConnection, &Listing<F>) -> Result<Vec<(Position, V)>, Error>;

/// A page of what belongs to customers.
pub(super) async fn list<F, V>(
    app: &web::Data<App>,
    principal: Principal,
    mut params: Params,
    work: List<F, V>,
) -> Result<HttpResponse, Error>
where
    F: Clone + DeserializeOwned + Send + 'static,
    V: Shown,
{
    let owners = params.take()?;
    list_owned(app, principal, params, owners, work).await
}

/// A page of the catalogue.
pub(super) async fn list_catalogue<F, V>(
    app: &web::Data<App>,
    principal: Principal,
    params: Params,
    work: List<F, V>,
) -> Result<HttpResponse, Error>
where
    F: Clone + DeserializeOwned + Send + 'static,
    V: Shown,
{
    list_owned(app, principal, params, Owners::default(), work).await
}

async fn list_owned<F, V>(
    app: &web::Data<App>,
    principal: Principal,
    mut params: Params,
    owners: Owners,
    work: List<F, V>,
) -> Result<HttpResponse, Error>
where
    F: Clone + DeserializeOwned + Send + 'static,
    V: Shown,
{
    principal.require(Scope::BillingRead)?;
    let page: PageQuery = params.take()?;
    let (basics, filter): (Basics, F) = (params.take()?, params.take()?);
    params.done()?;
    let limit = page.limit()?;
    let org = OrgName::of(&principal, owners.org, "org")?;
    let directory = Arc::clone(&app.directory);
    let after = page.after(V::OBJECTS[0])?;
    let listing = Listing { org: None, linked: owners.linked, basics, filter, after, limit };
    let rows = app.db.run(principal.rows, move |conn| {
        let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
        work(conn, &Listing { org: org.map(|org| org.public_id.to_string()), ..listing.clone() })
    });
    let rows = rows.await?;
    let page = Page::of(V::OBJECTS[0], rows, limit, |(position, _)| position.clone())?;
    let data: Vec<V> = page.data.into_iter().map(|(_, view)| view).collect();
    Ok(HttpResponse::Ok().json(Page { data, next: page.next }))
}

/// One object.
pub(super) async fn show<V: Shown>(
    app: &web::Data<App>,
    principal: Principal,
    id: String,
    mut params: Params,
    work: fn(&mut PgConnection, &Lookup) -> Result<V, Error>,
) -> Result<HttpResponse, Error> {
    let Expand { expand } = params.take()?;
    show_parts(app, principal, id, params, false, !expand.is_empty(), work).await
}

/// One object, with its lines if they are asked for.
pub(super) async fn show_with_lines<V: Shown>(
    app: &web::Data<App>,
    principal: Principal,
    id: String,
    mut params: Params,
    work: fn(&mut PgConnection, &Lookup) -> Result<V, Error>,
) -> Result<HttpResponse, Error> {
    let ExpandWithLines { expand } = params.take()?;
    let (lines, raw) = (expand.contains(&PartWithLines::Lines), expand.contains(&PartWithLines::Raw));
    show_parts(app, principal, id, params, lines, raw, work).await
}

async fn show_parts<V: Shown>(
    app: &web::Data<App>,
    principal: Principal,
    id: String,
    mut params: Params,
    lines: bool,
    raw: bool,
    work: fn(&mut PgConnection, &Lookup) -> Result<V, Error>,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    if raw {
        principal.require_platform(Scope::BillingRead)?;
    }
    let realm: RealmQuery = params.take()?;
    params.done()?;
    let lookup = Lookup { own: own_org(&principal), id, realm, lines };
    let found = app.db.run(principal.rows, move |conn| {
        let mut view = work(conn, &lookup)?;
        if raw {
            let snapshot = raw::snapshot(conn, V::OBJECTS, view.key())?;
            view.set_raw(snapshot);
        }
        Ok(view)
    });
    Ok(HttpResponse::Ok().json(found.await?))
}
