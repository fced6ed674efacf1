//! Answers that stream an export, each from a thread and a database connection of its own.

use std::io;
use std::time::{Duration, Instant};

use actix_web::http::header::{
    CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, HeaderName,
};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use diesel::pg::PgConnection;
use futures_util::stream::Stream;
use tokio::sync::oneshot;

use crate::api::http::address;
use crate::app::App;
use crate::audit::{Author, Origin};
use crate::auth::Principal;
use crate::error::Error;
use crate::export::{self, Ended, ExportRequest, Format, Output, Totals, output_failed, stream};
use crate::panics;
use crate::shares::Share;

/// How long an export waits for a place. The one before it frees its place a moment after its last byte.
const PLACE_WAIT: Duration = Duration::from_secs(2);
/// How often it looks for one.
const PLACE_LOOK: Duration = Duration::from_millis(20);
const CONTROL_TOTALS: HeaderName = HeaderName::from_static("coulomb-control-totals");

/// Answers `request` with a download of the rows that the key may see.
///
/// # Errors
/// As [`crate::export::write`], before the first row; [`Error::Busy`] when no place is free.
pub(crate) async fn respond(
    app: &App,
    principal: &Principal,
    request: &HttpRequest,
    wanted: ExportRequest,
) -> Result<HttpResponse, Error> {
    let wanted = wanted.within(principal)?;
    let (format, name) = (wanted.format, wanted.of.name());
    let (totals, body) = start(app, principal, address::origin(app, request), wanted).await?;
    let mut response = HttpResponse::Ok();
    response
        .insert_header((CONTENT_TYPE, content_type(format)))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{name}.{}\"", format.name())))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTROL_TOTALS, totals.header()?));
    if matches!(format, Format::Xlsx | Format::Parquet) {
        // These formats are already compressed.
        response.insert_header((CONTENT_ENCODING, "identity"));
    }
    Ok(response.streaming(body))
}

/// Answers with the control totals of the rows that the key may see.
pub(crate) async fn respond_totals(
    app: &App,
    principal: &Principal,
    wanted: ExportRequest,
) -> Result<HttpResponse, Error> {
    let wanted = wanted.within(principal)?;
    let (permit, db, rows) = (permit(app, principal).await?, app.db.clone(), principal.rows);
    let counted = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        export::totals(&mut db.connect_export()?, (rows, db.has_roles()), &wanted)
    });
    let totals = counted.await.map_err(|error| Error::Internal(format!("an export failed: {error}")))??;
    Ok(HttpResponse::Ok().insert_header((CACHE_CONTROL, "no-store")).json(totals))
}

/// Takes one of the places for running exports: each export holds a database connection of its own.
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

/// Starts an export on a thread of its own; returns once its totals are known. Its body ends only when the
/// audit entry is stored: without one it breaks off.
async fn start(
    app: &App,
    principal: &Principal,
    origin: Origin,
    wanted: ExportRequest,
) -> Result<(Totals, impl Stream<Item = io::Result<Bytes>> + use<>), Error> {
    let (permit, db, scope) = (permit(app, principal).await?, app.db.clone(), principal.rows);
    let (actor, clock) = (format!("key:{}", principal.key_id), app.clock.clone());
    let (sender, totals) = oneshot::channel();
    let (out, body) = stream::open();
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _entered = span.entered();
        let _permit = permit;
        let mut sender = Some(sender);
        let mut end = out.clone();
        let mut rows = 0;
        let record = |conn: &mut PgConnection, ended: Ended<'_>| {
            let author = Author { actor: &actor, at: clock.now(), origin: Some(&origin) };
            export::record(conn, scope, &wanted, &author, ended)
        };
        let written = panics::catch_as_error(|| {
            let mut conn = db.connect_export()?;
            let gone = || output_failed("the client has gone");
            let begin = |totals: &Totals| match sender.take().map(|sender| sender.send(Ok(totals.clone()))) {
                Some(Ok(())) => Ok(Box::new(out) as Output<'_>),
                _ => Err(gone()),
            };
            // A workbook sends nothing before its last row, so only this notices that the client has gone.
            let wrote = |count| {
                rows = count;
                if end.is_abandoned() { Err(gone()) } else { Ok(()) }
            };
            let totals = export::write(&mut conn, (scope, db.has_roles()), &wanted, begin, wrote)?;
            record(&mut conn, Ended::Complete(&totals))?;
            Ok(totals)
        });
        match (written, sender) {
            (Ok(totals), _) => {
                tracing::info!(rows = totals.rows, of = wanted.of.name(), "exported");
                end.end();
            }
            // Nothing was sent yet, so the error can be the answer. The receiver may have gone.
            (Err(error), Some(sender)) => drop(sender.send(Err(error))),
            (Err(error), None) => {
                tracing::warn!(%error, rows, of = wanted.of.name(), "an export broke off");
                let ended = Ended::BrokenOff(rows, &error);
                // On a new connection: the export's own may be what failed.
                let recorded = db.connect_export().and_then(|mut conn| record(&mut conn, ended));
                if let Err(error) = recorded {
                    tracing::error!(%error, "the audit entry of an export that broke off is missing");
                }
            }
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
