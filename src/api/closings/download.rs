//! Answers with a file that is written twice over one snapshot: first for its digest and its errors, then for
//! the client.

use std::io::{self, Write};
use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_TYPE, HeaderName};
use actix_web::{HttpRequest, HttpResponse};
use diesel::pg::PgConnection;
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio::sync::oneshot;

use crate::api::exports::download::permit;
use crate::api::http::address;
use crate::api::reads::ReadRequest;
use crate::audit::{AuditEntry, Author};
use crate::auth::PLATFORM;
use crate::db;
use crate::error::Error;
use crate::export::stream;

const CONTENT_SHA256: HeaderName = HeaderName::from_static("coulomb-content-sha256");

/// Where a file goes.
type Output<'a> = &'a mut (dyn Write + Send);
/// Writes a file over one snapshot.
type WriteFile = dyn Fn(&mut PgConnection, Output<'_>) -> Result<(), Error> + Send + Sync;

/// A file to answer with.
pub(super) struct File {
    pub(super) name: String,
    pub(super) content_type: &'static str,
    /// Writes it; the same bytes each time over one snapshot.
    pub(super) write: Arc<WriteFile>,
}

/// Answers with a file. Its audit entry is stored before the first byte leaves.
///
/// # Errors
/// Those of `write`; [`Error::Busy`] when no place for an export is free.
pub(super) async fn respond(
    read: &ReadRequest,
    request: &HttpRequest,
    file: File,
) -> Result<HttpResponse, Error> {
    let permit = permit(&read.app, &read.principal).await?;
    let (actor, origin) = (format!("key:{}", read.principal.key_id), address::origin(&read.app, request));
    let (now, name) = (read.app.clock.now(), file.name.clone());
    let (db, rows, write) = (read.app.db.clone(), read.principal.rows, file.write);
    let (sender, digest) = oneshot::channel();
    let (out, body) = stream::open();
    let span = tracing::Span::current();
    tokio::task::spawn_blocking(move || {
        let _entered = span.entered();
        let _permit = permit;
        let mut sender = Some(sender);
        let mut end = out.clone();
        let mut out = out;
        let written = db.connect_export().and_then(|mut conn| {
            db::read_snapshot(&mut conn, rows, db.has_roles(), |conn| {
                let mut digest = Digesting(Sha256::new());
                write(conn, &mut digest)?;
                let digest = hex::encode(digest.0.finalize());
                let detail = json!({ "file": name, "sha256": digest });
                let entry =
                    AuditEntry { org_id: PLATFORM, action: "month.export", target: name.clone(), detail };
                let author = Author { actor: &actor, at: now, origin: Some(&origin) };
                // On another connection, for this one only reads.
                entry.write(&mut db.connect_export()?, &author)?;
                if let Some(sender) = sender.take() {
                    // The client may have gone; then the first write fails.
                    drop(sender.send(Ok(digest)));
                }
                write(conn, &mut out)
            })
        });
        match (written, sender) {
            (Ok(()), _) => end.end(),
            (Err(error), Some(sender)) => drop(sender.send(Err(error))),
            (Err(error), None) => tracing::warn!(%error, "a file of a month broke off"),
        }
    });
    let digest = digest.await.map_err(|_| Error::Internal("a file ended without a word".to_owned()))??;
    Ok(HttpResponse::Ok()
        .insert_header((CONTENT_TYPE, file.content_type))
        .insert_header((CONTENT_DISPOSITION, format!("attachment; filename=\"{}\"", file.name)))
        .insert_header((CACHE_CONTROL, "no-store"))
        .insert_header((CONTENT_SHA256, digest))
        .streaming(body))
}

struct Digesting(Sha256);

impl Write for Digesting {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
