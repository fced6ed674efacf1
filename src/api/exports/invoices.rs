//! `/v1/invoices/export` and `/v1/invoices/export/totals`.

use std::io;
use std::time::{Duration, Instant};

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName,
};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::stream::Stream;
use tokio::sync::oneshot;
use utoipa::Modify;
use utoipa::openapi::OpenApi;

use crate::api::described::FindErrors;
use crate::api::params;
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::billing::exports::Kind;
use crate::error::Error;
use crate::export::{Format, Of, Output, Params, Request, Totals, output_failed, stream};
use crate::shares::Share;

/// How long an export waits for a place: that of the one before is given back a moment after its last byte.
const PLACE_WAIT: Duration = Duration::from_secs(2);
/// How often it looks for one.
const PLACE_LOOK: Duration = Duration::from_millis(20);
const CONTROL_TOTALS: HeaderName = HeaderName::from_static("coulomb-control-totals");

/// Exports invoices, their lines, payments or refunds as a file. Rows are in the order of `created`, then
/// `id`; the same state gives the same bytes. `Coulomb-Control-Totals` counts and sums the rows that follow;
/// a download that fails half-way breaks off, and goes on with `after`.
#[utoipa::path(
    get, path = "/v1/invoices/export", tag = "exports", params(Params), security(("key" = ["billing:read"])),
    responses(
        (status = 200, description = "The rows", headers(
            ("Coulomb-Control-Totals" = String,
            description = "As `/v1/invoices/export/totals` answers, of the rows in this file; with very \
                many currencies only `of` and `rows`"),
            ("Content-Disposition" = String, description = "A file name")
        ), content(
            (String = "text/csv"),
            (String = "application/x-ndjson"),
            (String = "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"),
            (String = "application/vnd.apache.parquet"),
        )),
        FindErrors
    )
)]
pub async fn export(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    respond(&app, &principal, asked(&request)?).await
}

/// Counts and sums what an export with the same parameters holds now, per currency, in minor units.
#[utoipa::path(
    get, path = "/v1/invoices/export/totals", tag = "exports", params(Params),
    security(("key" = ["billing:read"])),
    responses(
        (status = 200,
            description = "Control totals: \
                `{\"of\":\"invoices\",\"rows\":2,\"currencies\":{\"eur\":{\"rows\":2,\"total\":300,…}}}`",
            body = Object),
        FindErrors
    )
)]
pub async fn totals(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::BillingRead)?;
    respond_totals(&app, &principal, asked(&request)?).await
}

/// A download of what is wanted, as far as the key may see it.
///
/// # Errors
/// As [`crate::export::write`], before the first row; [`Error::Busy`] when no place is free.
pub(crate) async fn respond(
    app: &App,
    principal: &Principal,
    wanted: Request,
) -> Result<HttpResponse, Error> {
    let wanted = wanted.within(principal)?;
    let (format, name) = (wanted.format, wanted.of.name());
    let (totals, body) = start(app, principal, wanted).await?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, content_type(format)))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.{}\"", format.name())))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTROL_TOTALS, totals.header()?));
    if matches!(format, Format::Xlsx | Format::Parquet) {
        // Compressed already.
        response.insert_header((CONTENT_ENCODING, "identity"));
    }
    Ok(response.streaming(body))
}

/// The totals of what is wanted.
pub(super) async fn respond_totals(
    app: &App,
    principal: &Principal,
    wanted: Request,
) -> Result<HttpResponse, Error> {
    let wanted = wanted.within(principal)?;
    let (permit, db, rows) = (permit(app, principal).await?, app.db.clone(), principal.rows);
    let counted = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        crate::export::totals(&mut db.connect_export()?, (rows, db.has_roles()), &wanted)
    });
    let totals = counted.await.map_err(|error| Error::Internal(format!("an export failed: {error}")))??;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(totals))
}

fn asked(request: &HttpRequest) -> Result<Request, Error> {
    Params::from_pairs(pairs(request)?)?.check()
}

/// Names and values of the query string.
pub(super) fn pairs(request: &HttpRequest) -> Result<Vec<(String, String)>, Error> {
    params::pairs(request.query_string())
}

/// The place that a running export takes: each holds a database connection of its own.
pub(crate) async fn permit(app: &App, principal: &Principal) -> Result<Share, Error> {
    const FULL: Error = Error::Busy("as many exports as allowed are running: try again when one has ended");
    let until = Instant::now() + PLACE_WAIT;
    loop {
        if let Some(place) = app.exports.take(principal.holder(), 1) {
            return Ok(place);
        }
        if Instant::now() >= until {
            return Err(FULL);
        }
        tokio::time::sleep(PLACE_LOOK).await;
    }
}

/// Starts an export on a thread of its own; returns once its totals are known.
async fn start(
    app: &App,
    principal: &Principal,
    wanted: Request,
) -> Result<(Totals, impl Stream<Item = io::Result<Bytes>> + use<>), Error> {
    let (permit, db, rows) = (permit(app, principal).await?, app.db.clone(), principal.rows);
    let (told, totals) = oneshot::channel();
    let (out, body) = stream::open();
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _entered = span.entered();
        let _permit = permit;
        let mut told = Some(told);
        let mut end = out.clone();
        let written = db.connect_export().and_then(|mut conn| {
            let gone = || output_failed("the client has gone");
            let begin = |totals: &Totals| match told.take().map(|told| told.send(Ok(totals.clone()))) {
                Some(Ok(())) => Ok(Box::new(out) as Output<'_>),
                _ => Err(gone()),
            };
            // A workbook sends nothing until its last row is written.
            let wrote = |_| if end.is_abandoned() { Err(gone()) } else { Ok(()) };
            crate::export::write(&mut conn, (rows, db.has_roles()), &wanted, begin, wrote)
        });
        match (written, told) {
            (Ok(totals), _) => {
                tracing::info!(rows = totals.rows, of = wanted.of.name(), "exported");
                end.end();
            }
            // Nothing was sent yet: it can be an answer. If nobody waits for it any more, so be it.
            (Err(error), Some(told)) => drop(told.send(Err(error))),
            (Err(error), None) => tracing::warn!(%error, of = wanted.of.name(), "an export broke off"),
        }
    });
    let totals = totals.await.map_err(|_| Error::Internal("an export ended without a word".to_owned()))??;
    Ok((totals, body))
}

fn content_type(format: Format) -> &'static str {
    match format {
        Format::Csv => "text/csv; charset=utf-8",
        Format::Jsonl => "application/x-ndjson",
        Format::Xlsx => "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        Format::Parquet => "application/vnd.apache.parquet",
    }
}

/// Adds the tables of columns to the API's description.
pub struct Columns;

impl Modify for Columns {
    fn modify(&self, api: &mut OpenApi) {
        let mut describe = |path: &str, text: &str| {
            let operation = api.paths.paths.get_mut(path).and_then(|path| path.get.as_mut());
            if let Some(operation) = operation {
                operation.description.get_or_insert_default().push_str(text);
            }
        };
        for kind in Kind::ALL {
            let table = column_table(kind);
            describe("/v1/invoices/export", &format!("\n\n### Columns of `of={}`\n\n{table}", kind.name()));
        }
        describe("/v1/battery/export", &format!("\n\n### Columns\n\n{}", column_table(Of::Battery)));
    }
}

/// The columns of a kind as a Markdown table.
fn column_table(of: impl Into<Of>) -> String {
    let rows: Vec<String> = of
        .into()
        .columns()
        .iter()
        .map(|column| {
            let sum = if column.summed { "yes" } else { "" };
            format!("| `{}` | {} | {} | {sum} |", column.name, column.holds.unit(), column.meaning)
        })
        .collect();
    format!("| Column | Unit | Meaning | In the control totals |\n|---|---|---|---|\n{}\n", rows.join("\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_for_finance_has_the_columns_of_the_code() {
        let page = include_str!("../../../docs/exports.md");
        for of in Kind::ALL.map(Of::Billing).into_iter().chain([Of::Battery]) {
            let table = column_table(of);
            assert!(page.contains(&table), "docs/exports.md lacks this table of {}:\n{table}", of.name());
        }
    }

    #[test]
    fn the_description_has_the_columns() {
        let text = crate::api::openapi::document();
        assert!(text.contains("Columns of `of=refunds`") && text.contains("amount_remaining_major"));
    }
}
