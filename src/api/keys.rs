//! `/v1/keys`: makes, lists and revokes API keys.

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, ObjectBuilder, Type};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, IdempotencyKey, ReadErrors};
use crate::api::reads::ReadRequest;
use crate::audit::AuditEntry;
use crate::auth::{Key, NewKey, PLATFORM, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::time::Moment;

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
    /// `admin`.
    #[schema(schema_with = scope_names)]
    scopes: Vec<String>,
    /// When it stops working; never when left out.
    #[serde(default)]
    expires_at: Option<Moment>,
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

/// Lists the API keys.
#[utoipa::path(get, path = "/v1/keys", tag = "keys", security(("key" = ["admin"])),
responses((status = 200, description = "All keys", body = KeyList), ReadErrors))]
pub(crate) async fn list(read: ReadRequest) -> Result<HttpResponse, Error> {
    read.principal.require_platform(Scope::Admin)?;
    read.show(|conn| {
        let keys = crate::auth::list(conn, None)?;
        Ok(KeyList { data: keys.into_iter().map(KeyView::from).collect() })
    })
    .await
}

/// Makes an API key.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", security(("key" = ["admin"])), params(IdempotencyKey),
    request_body = KeyBody,
    responses((status = 201, description = "The key, shown once", body = NewKeyView), CommandErrors)
)]
pub(crate) async fn create(command: Command) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let asked: KeyBody = command.read()?;
    if asked.name.trim().is_empty() || asked.name.chars().count() > 200 {
        return Err(Error::invalid("name", "must be 1 to 200 characters, and not blank"));
    }
    let scopes = asked.scopes.iter().map(|name| name.parse()).collect::<Result<Vec<Scope>, _>>();
    let scopes = scopes.map_err(|error| Error::invalid("scopes", error))?;
    let expires_at = asked.expires_at.map(|at| at.0);
    let new = NewKey { org_id: PLATFORM, name: asked.name, scopes, expires_at };
    let (org, directory) = (OrgName::of(&command.principal, asked.org, "org")?, command.directory());
    command
        .run(move |conn, now| {
            let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
            let new = NewKey { org_id: org.as_ref().map_or(PLATFORM, |org| org.org_id), ..new.clone() };
            let (id, key) = crate::auth::create(conn, &new, now)?;
            let names: Vec<_> = new.scopes.iter().map(|scope| scope.name()).collect();
            let detail =
                json!({ "name": new.name, "org": org.as_ref().map(|org| &*org.public_id), "scopes": names });
            let audit = AuditEntry { org_id: PLATFORM, action: "api_key.create", target: id.clone(), detail };
            let mut answer =
                Answer::new(StatusCode::CREATED, &NewKeyView { id: id.clone(), key: Some(key) }, audit)?;
            answer.replay = Some(json!({ "id": id, "key": null }));
            Ok(answer)
        })
        .await
}

/// Revokes an API key for good: at once on the daemon that gets the request, within two seconds on its
/// replicas.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", security(("key" = ["admin"])),
    params(("id" = String, Path, description = "Public id of the key"), IdempotencyKey),
    responses((status = 204, description = "Revoked"), CommandErrors)
)]
pub(crate) async fn revoke(command: Command, id: web::Path<String>) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::Admin)?;
    let id = id.into_inner();
    let revoked = command
        .run(move |conn, now| {
            crate::auth::revoke(conn, &id, now)?;
            let audit = AuditEntry {
                org_id: PLATFORM,
                action: "api_key.revoke",
                target: id.clone(),
                detail: json!({}),
            };
            Ok(Answer::done(audit))
        })
        .await;
    command.app.keyring.forget();
    revoked
}
