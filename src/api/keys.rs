//! `/v1/keys`: makes, imports, rotates, verifies, limits, lists and revokes API keys.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, ObjectBuilder, Type};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, IdempotencyKey, LimitedErrors, ReadErrors};
use crate::api::http::{Body, look_up_other};
use crate::api::reads::ReadRequest;
use crate::app::App;
use crate::audit::AuditEntry;
use crate::audit::tally::Counted;
use crate::auth::{self, Key, NewKey, PLATFORM, Principal, Scope};
use crate::billing::directory::Directory;
use crate::billing::org_name::OrgName;
use crate::billing::standing;
use crate::error::Error;
use crate::time::Moment;

/// Keys in one import at most.
const MOST_IMPORTED: usize = 1_000;
/// How long both keys work after a rotation, in seconds, unless the request says.
const OVERLAP_S: u32 = 86_400;

/// A key to make.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    /// Public or external id of the key's org; the platform when left out.
    #[serde(default)]
    org: Option<String>,
    /// A name for people.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    name: String,
    /// `usage:write`, `usage:backfill`, `usage:price`, `usage:read`, `billing:read`, `billing:write`,
    /// `keys:write`, `keys:verify`, `admin`. No more than those of the key that makes it.
    #[schema(schema_with = scope_names)]
    scopes: Vec<String>,
    /// When it stops working; never when left out.
    #[serde(default)]
    expires_at: Option<Moment>,
    /// Requests a minute that it may send to each daemon; as the settings say when left out.
    #[serde(default)]
    #[schema(minimum = 1)]
    requests_per_minute: Option<i32>,
}

impl KeyBody {
    /// What to make, and for which org, by `principal`. `at`: where the key is in the body, as `keys.3.`.
    fn check(self, principal: &Principal, at: &str) -> Result<(NewKey, Option<OrgName>), Error> {
        if self.name.trim().is_empty() || self.name.chars().count() > 200 {
            return Err(Error::invalid(format!("{at}name"), "must be 1 to 200 characters, and not blank"));
        }
        let scopes = self.scopes.iter().map(|name| name.parse()).collect::<Result<Vec<Scope>, _>>();
        let scopes = scopes.map_err(|error| Error::invalid(format!("{at}scopes"), error))?;
        Scope::must_be_within(&scopes, &principal.scopes, &format!("{at}scopes"))?;
        let (expires_at, requests_per_minute) = (self.expires_at.map(|at| at.0), self.requests_per_minute);
        let new = NewKey { org_id: PLATFORM, name: self.name, scopes, expires_at, requests_per_minute };
        Ok((new, OrgName::of(principal, self.org, format!("{at}org"))?))
    }
}

/// The key with its org, and that org's public id.
fn placed(
    conn: &mut PgConnection,
    directory: &Directory,
    (new, org): &(NewKey, Option<OrgName>),
    maker: &str,
) -> Result<(NewKey, Option<String>), Error> {
    let org = org.as_ref().map(|org| org.find(directory, conn)).transpose()?;
    let org_id = org.as_ref().map_or(PLATFORM, |org| org.org_id);
    standing::must_not_be_erased(conn, org_id)?;
    let new = auth::bounded(conn, maker, NewKey { org_id, ..new.clone() })?;
    Ok((new, org.map(|org| org.public_id.to_string())))
}

fn scope_names() -> Array {
    let names = Scope::ALL.map(|scope| scope.name());
    let name = ObjectBuilder::new().schema_type(Type::String).enum_values(Some(names));
    ArrayBuilder::new().items(name).min_items(Some(1)).build()
}

/// A key, without its secret.
#[derive(Serialize, ToSchema)]
pub struct KeyView {
    /// Public id.
    pub id: String,
    /// Its org; null: the platform's.
    pub org: Option<String>,
    /// A name for people.
    pub name: String,
    /// Its scopes.
    pub scopes: Vec<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was used last, to the minute; null: never since this is kept.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Id of the key that it was made to follow, by a rotation.
    pub replaces: Option<String>,
    /// How it begins, if another program made it.
    pub hint: Option<String>,
    /// Requests a minute that it may send to each daemon; null: as the settings say.
    pub requests_per_minute: Option<i32>,
}

impl From<Key> for KeyView {
    fn from(key: Key) -> Self {
        Self {
            id: key.key_id,
            org: key.org,
            name: key.name,
            scopes: key.scopes.into_iter().flatten().collect(),
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            replaces: key.replaces,
            hint: key.hint,
            requests_per_minute: key.requests_per_minute,
        }
    }
}

/// All keys.
#[derive(Serialize, ToSchema)]
pub struct KeyList {
    /// Newest first.
    pub data: Vec<KeyView>,
}

/// A new key: the only time that it is shown.
#[derive(Serialize, ToSchema)]
pub struct NewKeyView {
    /// Public id.
    pub id: String,
    /// The key itself. A replay of the request shows null.
    pub key: Option<String>,
}

/// Lists the API keys; a key of an org lists those of its org.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", security(("key" = ["keys:write"])),
responses((status = 200, description = "All keys", body = KeyList), ReadErrors))]
pub(crate) async fn list(read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require(Scope::KeysWrite)?;
    let own = read.principal.own_org_id();
    read.show(move |conn| {
        let keys = auth::list(conn, own)?;
        Ok(KeyList { data: keys.into_iter().map(KeyView::from).collect() })
    })
    .await
}

/// Makes an API key, which may do no more than the key that makes it, ends no later and may send no more
/// requests. A key of an org makes keys of its org.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", security(("key" = ["keys:write"])), params(IdempotencyKey),
    request_body = KeyBody,
    responses((status = 201, description = "The key, shown once", body = NewKeyView), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::KeysWrite)?;
    let asked = command.read::<KeyBody>()?.check(&command.principal, "")?;
    let (directory, maker) = (command.directory(), command.principal.key_id.clone());
    command
        .run(move |conn, now| {
            let (new, org) = placed(conn, &directory, &asked, &maker)?;
            let (id, key) = auth::create(conn, &new, now)?;
            let names: Vec<_> = new.scopes.iter().map(|scope| scope.name()).collect();
            let detail = json!({ "name": new.name, "org": org, "scopes": names });
            let audit =
                AuditEntry { org_id: new.org_id, action: "api_key.create", target: id.clone(), detail };
            let mut answer =
                Answer::new(StatusCode::CREATED, &NewKeyView { id: id.clone(), key: Some(key) }, audit)?;
            answer.replay = Some(json!({ "id": id, "key": null }));
            Ok(answer)
        })
        .await
}

/// A key that another program made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportedKeyBody {
    /// SHA-256 of the whole key, in hexadecimal.
    #[schema(pattern = "^[0-9a-fA-F]{64}$")]
    sha256: String,
    /// How the key begins, for people: 1 to 16 characters.
    #[schema(min_length = 1, max_length = 16)]
    hint: String,
    /// Public or external id of the key's org; the platform when left out.
    #[serde(default)]
    org: Option<String>,
    /// A name for people.
    #[schema(min_length = 1, max_length = 200, pattern = r"\S")]
    name: String,
    /// As of a new key.
    #[schema(schema_with = scope_names)]
    scopes: Vec<String>,
    /// When it stops working; never when left out.
    #[serde(default)]
    expires_at: Option<Moment>,
    /// As of a new key.
    #[serde(default)]
    #[schema(minimum = 1)]
    requests_per_minute: Option<i32>,
}

/// Keys that other programs made.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ImportKeysBody {
    /// 1 to 1000 keys; all are taken over, or none.
    #[schema(min_items = 1, max_items = 1000)]
    keys: Vec<ImportedKeyBody>,
}

/// Ids of the keys that were taken over.
#[derive(Serialize, ToSchema)]
pub struct ImportedKeys {
    /// In the order of the request.
    pub ids: Vec<String>,
}

/// Takes over keys that another program made, by their SHA-256. From then on they work in `Authorization:
/// Bearer …` as they are: 16 to 512 visible ASCII characters that do not begin with `clb_live_`.
#[utoipa::path(
    post, path = "/v1/keys/import", tag = "keys", security(("key" = ["keys:write"])), params(IdempotencyKey),
    request_body = ImportKeysBody,
    responses((status = 201, description = "Their ids", body = ImportedKeys), CommandErrors)
)]
pub(crate) async fn import(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::KeysWrite)?;
    let asked: ImportKeysBody = command.read()?;
    if asked.keys.is_empty() || asked.keys.len() > MOST_IMPORTED {
        return Err(Error::invalid("keys", format!("must have 1 to {MOST_IMPORTED} keys")));
    }
    let mut keys = Vec::new();
    for (n, key) in asked.keys.into_iter().enumerate() {
        let mut sha256 = [0; 32];
        hex::decode_to_slice(&key.sha256, &mut sha256)
            .map_err(|_| Error::invalid(format!("keys.{n}.sha256"), "must be 64 hexadecimal digits"))?;
        let ImportedKeyBody { hint, org, name, scopes, expires_at, requests_per_minute, .. } = key;
        let body = KeyBody { org, name, scopes, expires_at, requests_per_minute };
        keys.push((body.check(&command.principal, &format!("keys.{n}."))?, sha256, hint));
    }
    let (directory, of) = (command.directory(), command.principal.org_id());
    let maker = command.principal.key_id.clone();
    command
        .run(move |conn, now| {
            let mut ids = Vec::new();
            for (n, (asked, sha256, hint)) in keys.iter().enumerate() {
                let new = placed(conn, &directory, asked, &maker);
                let (new, _) = new.map_err(|error| error.within(&format!("keys.{n}")))?;
                let id = auth::import(conn, &new, (sha256, hint), now);
                ids.push(id.map_err(|error| error.within(&format!("keys.{n}")))?);
            }
            let detail = json!({ "keys": ids });
            let target = ids.len().to_string();
            let audit = AuditEntry { org_id: of, action: "api_key.import", target, detail };
            Answer::new(StatusCode::CREATED, &ImportedKeys { ids }, audit)
        })
        .await
}

/// How to rotate a key.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateBody {
    /// How long the old key works too, in seconds: 0 to 7776000 (90 days); a day when left out.
    #[serde(default)]
    #[schema(minimum = 0, maximum = 7_776_000)]
    overlap_s: Option<u32>,
}

/// A key that takes the place of another one.
#[derive(Serialize, ToSchema)]
pub struct RotatedKey {
    /// Public id of the new key.
    pub id: String,
    /// The key itself. A replay of the request shows null.
    pub key: Option<String>,
    /// When the old key stops working.
    pub old_expires_at: DateTime<Utc>,
}

/// Makes a key with the rights, the name and the end of this one. Both work for a while.
#[utoipa::path(
    post, path = "/v1/keys/{id}/rotate", tag = "keys", security(("key" = ["keys:write"])),
    params(("id" = String, Path, description = "Public id of the key"), IdempotencyKey),
    request_body = Option<RotateBody>,
    responses((status = 201, description = "The new key, shown once", body = RotatedKey), CommandErrors)
)]
pub(crate) async fn rotate(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::KeysWrite)?;
    let asked: RotateBody = command.read_optional()?;
    let overlap = TimeDelta::seconds(i64::from(asked.overlap_s.unwrap_or(OVERLAP_S)));
    let (own, scopes) = (command.principal.own_org_id(), command.principal.scopes.clone());
    let rotated = command
        .run(move |conn, now| {
            let org_id = auth::org_of(conn, &id, own)?;
            let made = auth::rotate(conn, &id, (own, &scopes), overlap, now)?;
            let old_expires_at = made.old_expires_at;
            let detail = json!({ "new": made.id });
            let audit = AuditEntry { org_id, action: "api_key.rotate", target: id.clone(), detail };
            let shown = RotatedKey { id: made.id.clone(), key: Some(made.text), old_expires_at };
            let mut answer = Answer::new(StatusCode::CREATED, &shown, audit)?;
            answer.replay = Some(json!({ "id": made.id, "key": null, "old_expires_at": old_expires_at }));
            Ok(answer)
        })
        .await;
    command.app.keyring.forget();
    rotated
}

/// What to change of a key.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyPatch {
    /// Requests a minute that it may send to each daemon; null: as the settings say.
    #[schema(minimum = 1)]
    // Not left out: that would be taken for null.
    #[serde(deserialize_with = "Option::deserialize")]
    requests_per_minute: Option<i32>,
}

/// Sets the limit of a key: at once on the daemon that gets the request, within two seconds on its replicas.
/// Keys of the platform only: an org cannot raise its own limits.
#[utoipa::path(
    patch, path = "/v1/keys/{id}", tag = "keys", security(("key" = ["admin"])),
    params(("id" = String, Path, description = "Public id of the key"), IdempotencyKey),
    request_body = KeyPatch,
    responses((status = 204, description = "Set"), CommandErrors)
)]
pub(crate) async fn update(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let KeyPatch { requests_per_minute } = command.read()?;
    let updated = command
        .run(move |conn, _| {
            let org_id = auth::org_of(conn, &id, None)?;
            auth::set_limit(conn, &id, requests_per_minute)?;
            let detail = json!({ "requests_per_minute": requests_per_minute });
            Ok(Answer::done(AuditEntry { org_id, action: "api_key.update", target: id.clone(), detail }))
        })
        .await;
    command.app.keyring.forget();
    updated
}

/// A key to verify.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct VerifyBody {
    /// The key, as your customer sent it.
    key: String,
}

/// Whether a key is valid, and whose it is.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct VerifiedKey {
    /// Whether it works now.
    pub valid: bool,
    /// Why not: `unknown` (or no key at all), `revoked` or `expired`; null: it is valid.
    pub reason: Option<&'static str>,
    /// Its public id.
    pub id: Option<String>,
    /// Public id of its org; null: the platform's.
    pub org: Option<String>,
    /// The org's id in your own systems.
    pub external_id: Option<String>,
    /// What it may do.
    pub scopes: Vec<&'static str>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Says whether a key that a customer sent to your own product is valid, and whose it is.
///
/// The answer never has the key. A key of an org learns only of keys of its org; all others are `unknown` to
/// it. After `COULOMB_KEY_VERIFY_FAILURES` keys in vain within a minute the caller waits for the next one.
#[utoipa::path(
    post, path = "/v1/keys/verify", tag = "keys", security(("key" = ["keys:verify"])),
    request_body = VerifyBody,
    responses((status = 200, description = "What is known of it", body = VerifiedKey), LimitedErrors)
)]
pub(crate) async fn verify(
    app: web::Data<App>,
    principal: Principal,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require(Scope::KeysVerify)?;
    let VerifyBody { key } = body.read()?;
    let (now, most) = (app.clock.now(), app.config.key_verify_failures);
    if principal.state.failures(now) >= most {
        let wait_s = 60 - now.timestamp().rem_euclid(60).unsigned_abs();
        return Err(Error::RateLimited { of: "verify", quota: most, reset_s: wait_s, wait_s });
    }
    let found = look_up_other(&app, &principal, &key).await;
    let verified = match found {
        Ok(found) if principal.own_org_id().is_none_or(|own| own == found.principal.org_id()) => {
            VerifiedKey {
                valid: true,
                reason: None,
                id: Some(found.principal.key_id),
                org: found.principal.org,
                external_id: found.principal.external_id,
                scopes: found.principal.scopes.iter().map(|scope| scope.name()).collect(),
                expires_at: found.expires_at,
            }
        }
        Ok(_) => VerifiedKey { reason: Some("unknown"), ..VerifiedKey::default() },
        // Only the platform learns that a key was valid once: it may be another org's.
        Err(Error::Unauthorized(why)) => {
            let reason = if principal.own_org_id().is_some() { "unknown" } else { auth::why_invalid(why) };
            VerifiedKey { reason: Some(reason), ..VerifiedKey::default() }
        }
        Err(error) => return Err(error),
    };
    if !verified.valid {
        principal.state.count_failure(now);
        let (org_id, actor) = (principal.org_id(), format!("key:{}", principal.key_id));
        let (action, target) = ("api_key.verify_fail", String::new());
        app.tallies.count(Counted { org_id, actor, action, target, address: None }, || json!({}), now);
    }
    Ok(HttpResponse::Ok().json(verified))
}

/// Revokes an API key for good, if it may do no more than the key that asks, or is that key: at once on the
/// daemon that gets the request, within two seconds on its replicas.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", security(("key" = ["keys:write"])),
    params(("id" = String, Path, description = "Public id of the key"), IdempotencyKey),
    responses((status = 204, description = "Revoked"), CommandErrors)
)]
pub(crate) async fn revoke(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require(Scope::KeysWrite)?;
    let (id, principal) = (id.into_inner(), command.principal.clone());
    let revoked = command
        .run(move |conn, now| {
            let org_id = auth::org_of(conn, &id, principal.own_org_id())?;
            auth::must_be_endable(conn, &id, &principal)?;
            auth::revoke(conn, &id, now)?;
            let (action, target) = ("api_key.revoke", id.clone());
            Ok(Answer::done(AuditEntry { org_id, action, target, detail: json!({}) }))
        })
        .await;
    command.app.keyring.forget();
    revoked
}
