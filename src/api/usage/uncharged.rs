//! `/v1/usage/uncharged`.

use actix_web::HttpResponse;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::api::described::FindErrors;
use crate::api::reads::ReadRequest;
use crate::auth::Scope;
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::invoicing::uncharged::{self, UnchargedPosition, UnchargedUsage};
use crate::page::{Page, PageQuery};

/// Narrows the list of uncharged usage.
#[derive(Clone, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UnchargedQuery {
    /// Only of this org, by public or external id.
    org: Option<String>,
}

/// Lists usage of the last 92 days that is on no invoice, because it lies in no period that is charged:
/// before the first subscription of an org with a billing profile, after the end of one, or without any.
/// Usage of meters that Stripe charges by invoice items is listed, too, where an org's customer at Stripe had
/// no subscription.
///
/// A row is an org and a currency. Usage of a trial is free and not listed; levels have no cost before the
/// end of a period and are not listed either.
#[utoipa::path(
    get, path = "/v1/usage/uncharged", tag = "usage", params(UnchargedQuery, PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<UnchargedUsage>), FindErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::BillingRead)?;
    let (query, page): (UnchargedQuery, _) =
        (read.take()?, read.take_page::<UnchargedPosition>("uncharged_usage")?);
    let (org, directory) = (OrgName::of(&read.principal, query.org, "org")?, read.directory());
    let now = read.app.clock.now();
    read.list(page, UnchargedUsage::position, move |conn, page| {
        let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
        Ok(uncharged::list(conn, org.map(|org| org.org_id), page.after.as_ref(), page.to_fetch(), now)?)
    })
    .await
}
