//! Lists of usage as CSV.

use std::io::Write;

use actix_web::HttpResponse;
use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE};
use diesel::pg::PgConnection;

use crate::api::exports::download::permit;
use crate::api::reads::ReadRequest;
use crate::db;
use crate::error::Error;
use crate::export::stream::{self, Chunks};

/// Answers with all rows of a query. `check` makes the query: a wrong one is answered with a problem, before
/// the first row is sent. `write` writes its rows.
pub(super) async fn answer<Q: Send + 'static>(
    read: &ReadRequest,
    file_name: &str,
    check: impl Fn(&mut PgConnection) -> Result<Q, Error> + Send + 'static,
    write: fn(&mut PgConnection, &Q, Chunks) -> Result<(), Error>,
) -> Result<HttpResponse, Error> {
    let permit = permit(&read.app, &read.principal).await?;
    let query = read.run(check).await?;
    let (out, body) = stream::open();
    let (db, rows, span) = (read.app.db.clone(), read.principal.rows, tracing::Span::current());
    tokio::task::spawn_blocking(move || {
        let _entered = span.entered();
        let _permit = permit;
        let mut end = out.clone();
        let written = db.connect_export().and_then(|mut conn| {
            db::read_snapshot(&mut conn, rows, db.has_roles(), |conn| write(conn, &query, out))
        });
        match written {
            Ok(()) => end.end(),
            Err(error) => tracing::warn!(%error, "a list of usage broke off"),
        }
    });
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, "text/csv; charset=utf-8"))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{file_name}\"")))
        .insert_header((CACHE_CONTROL, "no-store"))
        .streaming(body))
}

/// Writes rows to `out`.
pub(super) fn writer<W: Write>(out: W) -> csv::Writer<W> {
    csv::WriterBuilder::new().terminator(csv::Terminator::CRLF).buffer_capacity(32 << 10).from_writer(out)
}

/// Writes what is still in the writer's buffer.
pub(super) fn finish(mut out: csv::Writer<impl Write>) -> Result<(), Error> {
    out.flush().map_err(|error| Error::Internal(format!("the output failed: {error}")))
}

/// The error of a row that could not be written.
#[expect(clippy::needless_pass_by_value, reason = "for `map_err`")]
pub(super) fn failed(error: csv::Error) -> Error {
    Error::Internal(format!("the output failed: {error}"))
}
