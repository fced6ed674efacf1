//! What the routes over mirrored objects share: parameters in, JSON out.

use std::sync::Arc;

use actix_web::{HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use crate::api::params::Params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::billing::read::{Basics, Listing, Lookup, Owners, RealmQuery, Resource};
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

/// `GET /v1/<resources>`: a page.
pub(super) async fn list<R: Resource>(
    app: &web::Data<App>,
    principal: Principal,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    let owners: Owners = if R::HAS_OWNER { params.take()? } else { Owners::default() };
    principal.require(Scope::BillingRead)?;
    let page: PageQuery = params.take()?;
    let (basics, filter): (Basics, R::Filter) = (params.take()?, params.take()?);
    params.done()?;
    let limit = page.limit()?;
    let org = OrgName::of(&principal, owners.org, "org")?;
    let directory = Arc::clone(&app.directory);
    let after = page.after(R::OBJECTS[0])?;
    let listing = Listing { org: None, linked: owners.linked, basics, filter, after, limit };
    let rows = app.db.run(principal.rows, move |conn| {
        let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
        R::list(conn, &Listing { org: org.map(|org| org.public_id.to_string()), ..listing.clone() })
    });
    let page = Page::of(R::OBJECTS[0], rows.await?, limit, |(position, _)| position.clone())?;
    let data: Vec<R::View> = page.data.into_iter().map(|(_, view)| view).collect();
    Ok(HttpResponse::Ok().json(Page { data, next: page.next }))
}

/// `GET /v1/<resources>/{id}`: one object.
pub(super) async fn show<R: Resource>(
    app: &web::Data<App>,
    principal: Principal,
    id: String,
    mut params: Params,
) -> Result<HttpResponse, Error> {
    let (lines, raw) = expanded::<R>(&mut params)?;
    principal.require(Scope::BillingRead)?;
    if raw {
        principal.require_platform(Scope::BillingRead)?;
    }
    let realm: RealmQuery = params.take()?;
    params.done()?;
    let lookup = Lookup { own: own_org(&principal), id, realm, lines, raw };
    let found = app.db.run(principal.rows, move |conn| R::get(conn, &lookup));
    Ok(HttpResponse::Ok().json(found.await?))
}

/// Whether `expand` asks for the lines, and for Stripe's snapshot.
fn expanded<R: Resource>(params: &mut Params) -> Result<(bool, bool), Error> {
    if R::HAS_LINES {
        let ExpandWithLines { expand } = params.take()?;
        return Ok((expand.contains(&PartWithLines::Lines), expand.contains(&PartWithLines::Raw)));
    }
    let Expand { expand } = params.take()?;
    Ok((false, !expand.is_empty()))
}
