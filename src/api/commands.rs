//! Commands: every request that changes state, except webhooks, usage and reservations.
//!
//! A command runs in one transaction with its audit entry and, when the caller sent an `Idempotency-Key`,
//! with the claim of that key and the answer stored under it. A repeat with the same body gets the stored
//! answer; one with another body gets 409; a repeat while the first still runs waits for it. A command that
//! fails leaves nothing behind, so it may be tried again. When the connection is lost during COMMIT, the
//! audit entry tells whether the command was done.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::http::{Body, address, app_of};
use crate::app::App;
use crate::audit::changes::Watched;
use crate::audit::{AuditEntry, Author};
use crate::auth::Principal;
use crate::billing::directory::{self, Directory, Stale};
use crate::db::{Evidence, WithEvidence};
use crate::error::Error;
use crate::schema::idempotency_keys;

/// How long an idempotency key is remembered, in days.
pub const REMEMBERED_DAYS: i64 = 7;
/// Longest idempotency key, in bytes.
const KEY_LIMIT: usize = 255;

/// A command as it was sent, by the bearer of a valid key. Whether that key may give it, the handler checks.
pub struct Command {
    pub app: web::Data<App>,
    pub principal: Principal,
    request: HttpRequest,
    body: Body,
}

/// A command whose body, if there is one, is not read and does not count.
pub struct BodilessCommand(pub Command);

/// What a command answers, and what the audit log says of it.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status, 2xx.
    pub status: StatusCode,
    pub body: Value,
    /// What a replay gets instead of `body`, where that holds a secret which is shown once.
    pub replay: Option<Value>,
    pub audit: AuditEntry,
}

impl Answer {
    /// An answer with `status` and `body`.
    ///
    /// # Errors
    /// When `body` cannot be JSON.
    pub fn new(status: StatusCode, body: &impl Serialize, audit: AuditEntry) -> Result<Self, Error> {
        let body = crate::json::to_tree(body)?;
        Ok(Self { status, body, replay: None, audit })
    }

    /// 204: done, and nothing to show.
    #[must_use]
    pub fn done(audit: AuditEntry) -> Self {
        Self { status: StatusCode::NO_CONTENT, body: Value::Null, replay: None, audit }
    }
}

impl Command {
    /// The JSON body, whatever its `Content-Type`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is not JSON; [`Error::Invalid`] names the field that does not fit.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        self.body.read()
    }

    /// As [`Self::read`], of a body that may be left out because all of its fields may.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_optional<T: DeserializeOwned + Default>(&self) -> Result<T, Error> {
        self.body.read_optional()
    }

    /// The caller, as the audit log and ledgers name it.
    #[must_use]
    pub fn actor(&self) -> String {
        format!("key:{}", self.principal.key_id)
    }

    /// Finds orgs inside the transaction.
    #[must_use]
    pub fn directory(&self) -> Arc<Directory> {
        Arc::clone(&self.app.directory)
    }

    /// Runs `work` in one transaction with its audit entry and its idempotency key, as the platform (the
    /// handler has checked the scope).
    ///
    /// # Errors
    /// Those of `work`; [`Error::Conflict`] when the key was used for another request; [`Error::Invalid`]
    /// for a malformed key.
    pub async fn run<F>(&self, work: F) -> Result<HttpResponse, Error>
    where
        F: Fn(&mut PgConnection, DateTime<Utc>) -> Result<Answer, Error> + Send + 'static,
    {
        let key = idempotency_key(&self.request)?;
        let request_sha256 = fingerprint(&self.request, &self.body.bytes);
        let (actor, origin) = (self.actor(), address::origin(&self.app, &self.request));
        let (route, names) = place(&self.request).await?;
        let (org_id, now) = (self.principal.org_id(), self.app.clock.now());
        let changed = Arc::new(Mutex::new(Stale::Orgs(BTreeSet::new())));
        let gathered = Arc::clone(&changed);
        let done = self.app.db.run_with_evidence(self.principal.holder(), move |conn| {
            if let Some(key) = &key
                && let Some(stored) = claim(conn, org_id, key, &request_sha256, now)?
            {
                return Ok(WithEvidence { value: replay(stored, &request_sha256)?, evidence: None });
            }
            let watched = Watched::begin(conn, &route, &names)?;
            let (answer, stale) = directory::gathered(conn, |conn| work(conn, now))?;
            *gathered.lock().unwrap_or_else(PoisonError::into_inner) = stale;
            let author = Author { actor: &actor, at: now, origin: Some(&origin) };
            let change = watched.map(|watched| watched.end(conn, &answer.audit.target)).transpose()?;
            let change = change.unwrap_or_default();
            let written = answer.audit.write_with_change(conn, &author, &change)?;
            let text =
                if answer.status == StatusCode::NO_CONTENT { String::new() } else { answer.body.to_string() };
            if let Some(key) = &key {
                let kept = answer.replay.as_ref().map_or_else(|| text.clone(), Value::to_string);
                keep(conn, org_id, key, answer.status, &kept)?;
            }
            let evidence: Box<Evidence<'static>> = Box::new(move |conn| Ok(written.is_there(conn)?));
            Ok(WithEvidence { value: (answer.status, text, false), evidence: Some(evidence) })
        });
        let done = done.await;
        // Even where the outcome is unknown: what was acknowledged counts from the answer on.
        self.app.directory.forget(&changed.lock().unwrap_or_else(PoisonError::into_inner));
        let (status, text, replayed) = done?;
        let mut response = HttpResponse::build(status);
        if replayed {
            response.insert_header(("Idempotent-Replayed", "true"));
        }
        Ok(if text.is_empty() {
            response.finish()
        } else {
            response.insert_header((CONTENT_TYPE, "application/json")).body(text)
        })
    }

    /// As [`Self::run`]; then wakes the workers, because the command gave them work.
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_and_wake<F>(&self, work: F) -> Result<HttpResponse, Error>
    where
        F: Fn(&mut PgConnection, DateTime<Utc>) -> Result<Answer, Error> + Send + 'static,
    {
        let answer = self.run(work).await?;
        self.app.wake.all();
        Ok(answer)
    }
}

impl FromRequest for Command {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, mut payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let principal = Principal::extract(&request).await?;
            let body = Body::from_request(&request, &mut payload).await?;
            Ok(Self { app: app_of(&request)?, principal, request, body })
        })
    }
}

impl FromRequest for BodilessCommand {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let request = request.clone();
        Box::pin(async move {
            let principal = Principal::extract(&request).await?;
            Ok(Self(Command { app: app_of(&request)?, principal, request, body: Body::none() }))
        })
    }
}

/// The stored outcome of a claimed key: digest of the request, status and body of the answer.
type Stored = (Vec<u8>, Option<i16>, Option<String>);

/// Claims the key. `None`: it is ours now; otherwise what is stored under it. Waits while another transaction
/// holds it.
fn claim(
    conn: &mut PgConnection,
    org_id: i64,
    key: &str,
    sha256: &[u8],
    now: DateTime<Utc>,
) -> Result<Option<Stored>, Error> {
    let claimed = diesel::insert_into(idempotency_keys::table)
        .values((
            idempotency_keys::org_id.eq(org_id),
            idempotency_keys::idempotency_key.eq(key),
            idempotency_keys::request_sha256.eq(sha256),
            idempotency_keys::created_at.eq(now),
        ))
        .on_conflict_do_nothing()
        .execute(conn)?;
    if claimed == 1 {
        return Ok(None);
    }
    let stored = idempotency_keys::table
        .find((org_id, key))
        .select((idempotency_keys::request_sha256, idempotency_keys::status, idempotency_keys::body))
        .first::<Stored>(conn)?;
    Ok(Some(stored))
}

fn replay((sha256, status, body): Stored, asked: &[u8]) -> Result<(StatusCode, String, bool), Error> {
    if sha256 != asked {
        return Err(Error::conflict(
            "idempotency_key_reused",
            "this Idempotency-Key was used for another request: use a fresh key",
        ));
    }
    let status = status
        .and_then(|status| u16::try_from(status).ok())
        .and_then(|status| StatusCode::from_u16(status).ok());
    let status = status
        .ok_or_else(|| Error::Internal("an idempotency key was stored without its answer".to_owned()))?;
    Ok((status, body.unwrap_or_default(), true))
}

fn keep(
    conn: &mut PgConnection,
    org_id: i64,
    key: &str,
    status: StatusCode,
    body: &str,
) -> Result<(), Error> {
    let status = i16::try_from(status.as_u16()).map_err(|error| Error::Internal(error.to_string()))?;
    diesel::update(idempotency_keys::table.find((org_id, key)))
        .set((idempotency_keys::status.eq(status), idempotency_keys::body.eq(body)))
        .execute(conn)?;
    Ok(())
}

fn idempotency_key(request: &HttpRequest) -> Result<Option<String>, Error> {
    let Some(value) = request.headers().get("Idempotency-Key") else { return Ok(None) };
    match value.to_str() {
        Ok(key) if (1..=KEY_LIMIT).contains(&key.len()) && key.bytes().all(|b| b.is_ascii_graphic()) => {
            Ok(Some(key.to_owned()))
        }
        _ => Err(Error::invalid(
            "Idempotency-Key",
            format!("must be 1 to {KEY_LIMIT} visible ASCII characters, without spaces"),
        )),
    }
}

/// The route of a command, and the parts of its path.
async fn place(request: &HttpRequest) -> Result<(String, Vec<String>), Error> {
    let route = request.match_pattern().unwrap_or_default();
    if request.match_info().is_empty() {
        return Ok((route, Vec::new()));
    }
    let names = web::Path::<Vec<String>>::extract(request).await;
    let names = names.map_err(|error| Error::Internal(format!("a path without its parts: {error}")))?;
    Ok((route, names.into_inner()))
}

/// Two requests are the same when method, path, query and body are.
fn fingerprint(request: &HttpRequest, body: &[u8]) -> Vec<u8> {
    let mut digest = Sha256::new();
    for part in [request.method().as_str(), request.path(), request.query_string()] {
        digest.update(part.as_bytes());
        digest.update([0]);
    }
    digest.update(body);
    digest.finalize().to_vec()
}

/// Deletes up to 10,000 keys that are older than [`REMEMBERED_DAYS`]; says how many.
pub fn forget_old(conn: &mut PgConnection, now: DateTime<Utc>) -> QueryResult<usize> {
    let oldest = now - chrono::TimeDelta::days(REMEMBERED_DAYS);
    diesel::sql_query(
        "DELETE FROM idempotency_keys
         WHERE ctid = ANY (ARRAY (SELECT ctid FROM idempotency_keys WHERE created_at < $1 LIMIT 10000))",
    )
    .bind::<diesel::sql_types::Timestamptz, _>(oldest)
    .execute(conn)
}
