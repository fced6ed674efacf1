//! Commands: everything but webhooks and usage that changes state.
//!
//! A command runs in one transaction with its audit entry and, when the caller sent an `Idempotency-Key`,
//! with the claim of that key and the answer stored under it. A repeat with the same body gets the stored
//! answer; one with another body gets 409; a repeat while the first is still running waits for it. A command
//! that fails leaves nothing, so it may be tried again. When the answer to its COMMIT is lost, its audit
//! entry tells whether it was done.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use diesel::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::api::http::RequestId;
use crate::app::App;
use crate::audit;
use crate::auth::Principal;
use crate::billing::directory::{self, Stale};
use crate::db::{Evidence, WithEvidence};
use crate::error::Error;
use crate::json;
use crate::schema::idempotency_keys;

/// How long an idempotency key is remembered, in days.
pub const REMEMBERED_DAYS: i64 = 7;
const KEY_LIMIT: usize = 255;

/// A command's answer.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status, 2xx.
    pub status: StatusCode,
    pub body: Value,
    /// What a replay gets instead of `body`, where that holds a secret which is shown once.
    pub replay: Option<Value>,
    /// What the audit log says of it.
    pub audit: Audit,
}

/// The command's line in the audit log.
#[derive(Debug)]
pub struct Audit {
    /// The org that it concerns; 0: the platform.
    pub org_id: i64,
    /// `noun.verb`.
    pub action: &'static str,
    /// Public id of what was changed.
    pub target: String,
    /// What is worth keeping beside it; secrets are not.
    pub detail: Value,
}

impl Answer {
    /// An answer with `status` and `body`.
    ///
    /// # Errors
    /// When `body` cannot be JSON.
    pub fn new(status: StatusCode, body: &impl Serialize, audit: Audit) -> Result<Self, Error> {
        let body = serde_json::to_value(body).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(Self { status, body, replay: None, audit })
    }
}

/// The stored outcome of a claimed key.
type Stored = (Vec<u8>, Option<i16>, Option<String>);

/// Runs `work` as a command of `principal`, as the platform (the handler has checked the scope).
///
/// # Errors
/// What `work` says; [`Error::Conflict`] when the key was used for another request; [`Error::Invalid`] for a
/// bad key.
pub async fn run<F>(
    app: &App,
    principal: &Principal,
    request: &HttpRequest,
    body: &[u8],
    work: F,
) -> Result<HttpResponse, Error>
where
    F: Fn(&mut PgConnection, DateTime<Utc>) -> Result<Answer, Error> + Send + 'static,
{
    let key = idempotency_key(request)?;
    let request_sha256 = fingerprint(request, body);
    let request_id = RequestId::of(request);
    let actor = format!("key:{}", principal.key_id);
    let (org_id, now) = (principal.org_id(), app.clock.now());
    let changed = Arc::new(Mutex::new(Stale::Orgs(BTreeSet::new())));
    let told = Arc::clone(&changed);
    let done = app.db.run_with_evidence(principal.holder(), move |conn| {
        if let Some(key) = &key
            && let Some(stored) = claim(conn, org_id, key, &request_sha256, now)?
        {
            return Ok(WithEvidence { value: replay(stored, &request_sha256)?, evidence: None });
        }
        let (answer, stale) = directory::gathered(conn, |conn| work(conn, now))?;
        *told.lock().unwrap_or_else(PoisonError::into_inner) = stale;
        let entry = audit::Entry {
            org_id: answer.audit.org_id,
            at: now,
            actor: &actor,
            action: answer.audit.action,
            target: &answer.audit.target,
            detail: answer.audit.detail.clone(),
            request_id: Some(&request_id),
        };
        let written = audit::record(conn, &entry)?;
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
    // Whether or not the outcome is known: what was acknowledged counts from the answer on.
    app.directory.forget(&changed.lock().unwrap_or_else(PoisonError::into_inner));
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

/// Reads a command's JSON body, whatever its `Content-Type`.
///
/// # Errors
/// [`Error::Malformed`] for what is not JSON, [`Error::Invalid`] naming the field that does not fit.
pub fn parse<T: DeserializeOwned>(body: &web::Bytes) -> Result<T, Error> {
    json::read(body)
}

/// As [`parse`], of a body that may be left out because all of its fields may.
///
/// # Errors
/// As [`parse`].
pub fn parse_optional<T: DeserializeOwned + Default>(body: &web::Bytes) -> Result<T, Error> {
    // What a client without a body may send for it.
    if matches!(body.trim_ascii(), b"" | b"null") { Ok(T::default()) } else { json::read(body) }
}

/// Claims the key: `None` when it is ours, else what is stored. Waits while another transaction holds it.
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

/// Forgets old keys; a bounded batch at a time.
pub fn forget_old(conn: &mut PgConnection, now: DateTime<Utc>) -> QueryResult<usize> {
    let oldest = now - chrono::TimeDelta::days(REMEMBERED_DAYS);
    diesel::sql_query(
        "DELETE FROM idempotency_keys
         WHERE ctid = ANY (ARRAY (SELECT ctid FROM idempotency_keys WHERE created_at < $1 LIMIT 10000))",
    )
    .bind::<diesel::sql_types::Timestamptz, _>(oldest)
    .execute(conn)
}
