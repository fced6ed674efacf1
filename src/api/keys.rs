//! Keys over the API: made, listed, revoked.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Array, ArrayBuilder, ObjectBuilder, Type};

use crate::api::commands::{self, Answer, Audit};
use crate::api::described::{CommandErrors, IdempotencyKey, ReadErrors};
use crate::api::http::Body;
use crate::app::App;
use crate::auth::{Key, NewKey, PLATFORM, Principal, Scope};
use crate::billing::org_name::OrgName;
use crate::error::Error;
use crate::time::Moment;

/// What a new key is to be.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct KeyBody {
    /// Public or external id of the org that it is for; the platform when left out.
    #[serde(default)]
    org: Option<String>,
    /// What people call it.
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
    /// What people call it.
    pub name: String,
    /// What it may do.
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
pub async fn list(app: web::Data<App>, principal: Principal) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let keys = app.db.run(principal.rows, |conn| crate::auth::list(conn, None)).await?;
    Ok(HttpResponse::Ok().json(KeyList { data: keys.into_iter().map(KeyView::from).collect() }))
}

/// Makes an API key.
#[utoipa::path(
    post, path = "/v1/keys", tag = "keys", security(("key" = ["admin"])), params(IdempotencyKey),
    request_body = KeyBody,
    responses((status = 201, description = "The key, shown once", body = NewKeyView), CommandErrors)
)]
pub async fn create(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let asked: KeyBody = commands::parse(&body.0)?;
    if asked.name.trim().is_empty() || asked.name.chars().count() > 200 {
        return Err(Error::invalid("name", "must be 1 to 200 characters, and not blank"));
    }
    let scopes = asked.scopes.iter().map(|name| name.parse()).collect::<Result<Vec<Scope>, _>>();
    let scopes = scopes.map_err(|error| Error::invalid("scopes", error))?;
    let expires_at = asked.expires_at.map(|at| at.0);
    let new = NewKey { org_id: PLATFORM, name: asked.name, scopes, expires_at };
    let (org, directory) = (OrgName::of(&principal, asked.org, "org")?, Arc::clone(&app.directory));
    commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        let org = org.as_ref().map(|org| org.find(&directory, conn)).transpose()?;
        let new = NewKey { org_id: org.as_ref().map_or(PLATFORM, |org| org.org_id), ..new.clone() };
        let (id, key) = crate::auth::create(conn, &new, now)?;
        let names: Vec<_> = new.scopes.iter().map(|scope| scope.name()).collect();
        let detail =
            json!({ "name": new.name, "org": org.as_ref().map(|org| &*org.public_id), "scopes": names });
        let audit = Audit { org_id: PLATFORM, action: "api_key.create", target: id.clone(), detail };
        let mut answer =
            Answer::new(StatusCode::CREATED, &NewKeyView { id: id.clone(), key: Some(key) }, audit)?;
        answer.replay = Some(json!({ "id": id, "key": null }));
        Ok(answer)
    })
    .await
}

/// Revokes an API key for good: at once on the daemon that is asked, within two seconds on its replicas.
#[utoipa::path(
    delete, path = "/v1/keys/{id}", tag = "keys", security(("key" = ["admin"])),
    params(("id" = String, Path, description = "Public id of the key"), IdempotencyKey),
    responses((status = 204, description = "Revoked"), CommandErrors)
)]
pub async fn revoke(
    app: web::Data<App>,
    principal: Principal,
    id: web::Path<String>,
    request: HttpRequest,
    body: Body,
) -> Result<HttpResponse, Error> {
    principal.require_platform(Scope::Admin)?;
    let id = id.into_inner();
    let revoked = commands::run(&app, &principal, &request, &body.0, move |conn, now| {
        crate::auth::revoke(conn, &id, now)?;
        let audit =
            Audit { org_id: PLATFORM, action: "api_key.revoke", target: id.clone(), detail: json!({}) };
        Answer::new(StatusCode::NO_CONTENT, &json!({}), audit)
    })
    .await;
    app.keyring.forget();
    revoked
}
