//! `/v1/closings` and `/v1/journals`: closes months, and shows what closed months held.

mod download;
pub mod journals;

use std::sync::Arc;

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, FindErrors, IdempotencyKey, ReadErrors};
use crate::api::exports::download::permit;
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::closing::exports::{self, ClosedRows};
use crate::closing::month::{self, ListedManifest, Maker, StoredManifest};
use crate::error::Error;
use crate::page::{Page, PageQuery};
use crate::time::Month;

/// A month to close.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CloseMonthBody {
    /// The month, such as `2026-10`.
    month: Month,
}

/// What of a month to export.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ClosedExportQuery {
    /// usage, documents or entries
    #[param(pattern = "^(usage|documents|entries)$")]
    of: String,
}

/// The month of a path.
pub(super) fn named(month: &str) -> Result<Month, Error> {
    month.parse().map_err(|rule: &str| Error::invalid("month", rule))
}

/// Closes a month for usage and money, and makes its manifest.
///
/// All months before it are closed too, and get the manifests that they lack. What comes later is posted to
/// the open month and names the month that it belongs to. Closing again changes nothing. The manifest states
/// totals and digests of the month's usage records, documents and account entries, and is signed with the
/// key of the setting `COULOMB_CLOSING_KEY`.
#[utoipa::path(
    post, path = "/v1/closings", tag = "closings", params(IdempotencyKey), request_body = CloseMonthBody,
    security(("key" = ["billing:write"])),
    responses((status = 200, description = "It is closed", body = StoredManifest), CommandErrors)
)]
pub(crate) async fn close(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let asked: CloseMonthBody = command.read()?;
    let (asked, actor) = (asked.month, command.actor());
    let closer = actor.clone();
    command
        .run(move |conn, now| {
            month::close(conn, asked, &closer, now)?;
            let detail = json!({ "month": asked });
            let audit =
                AuditEntry { org_id: PLATFORM, action: "month.close", target: asked.to_string(), detail };
            Ok(Answer::done(audit))
        })
        .await?;
    // A second transaction: it reads much, and no usage and no entry waits for it.
    let app = &command.app;
    let maker = Maker::new(&app.config, actor, app.clock.now())?;
    let (permit, db) = (permit(app, &command.principal).await?, app.db.clone());
    let made = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        month::complete(&mut db.connect_export()?, asked, &maker)
    });
    let manifest = made.await.map_err(|error| Error::Internal(format!("a closing failed: {error}")))??;
    Ok(HttpResponse::Ok().json(manifest))
}

/// Lists closed months that have a manifest, latest first.
#[utoipa::path(
    get, path = "/v1/closings", tag = "closings", params(PageQuery),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "A page", body = Page<ListedManifest>), ReadErrors)
)]
pub(crate) async fn list(mut read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::BillingRead)?;
    let page = read.take_page::<Month>("closings")?;
    read.params.done()?;
    read.show(move |conn| month::list(conn, &page)).await
}

/// Shows the manifest of a closed month.
///
/// `text` is what the digest and the signature are of, word for word.
#[utoipa::path(
    get, path = "/v1/closings/{month}", tag = "closings",
    params(("month" = Month, Path, description = "The month, such as `2026-10`")),
    security(("key" = ["billing:read"])),
    responses((status = 200, description = "The manifest", body = StoredManifest), FindErrors)
)]
pub(crate) async fn show(read: ReadRequest, month: web::Path<String>) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::BillingRead)?;
    read.params.done()?;
    let month = named(&month)?;
    read.show(move |conn| month::find(conn, month)).await
}

/// Exports usage records, documents or account entries of a closed month as CSV.
///
/// The file is the same for ever: its SHA-256 is the digest in the manifest, and the header
/// `Coulomb-Content-SHA256`.
#[utoipa::path(
    get, path = "/v1/closings/{month}/export", tag = "closings",
    params(("month" = Month, Path, description = "The month, such as `2026-10`"), ClosedExportQuery),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200, description = "The rows", content_type = "text/csv", body = String, headers(
            ("Coulomb-Content-SHA256" = String, description = "SHA-256 of the file, in hexadecimal")
        )),
        FindErrors
    )
)]
pub(crate) async fn export(
    mut read: ReadRequest,
    request: HttpRequest,
    month: web::Path<String>,
) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::BillingRead)?;
    let asked: ClosedExportQuery = read.take()?;
    read.params.done()?;
    let (of, month) = (ClosedRows::parse(&asked.of)?, named(&month)?);
    read.run(move |conn| month::must_have_manifest(conn, month)).await?;
    let file = download::File {
        name: format!("{}_{month}.csv", of.name()),
        content_type: "text/csv; charset=utf-8",
        write: Arc::new(move |conn, out| exports::write(conn, of, month.first_day(), out).map(drop)),
    };
    download::respond(&read, &request, file).await
}
