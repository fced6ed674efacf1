//! `POST /v1/invoicing/apply`: a billing file as JSON.

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use crate::api::commands::{Answer, Command};
use crate::api::described::{CommandErrors, IdempotencyKey};
use crate::api::params::Params;
use crate::audit::AuditEntry;
use crate::auth::{PLATFORM, Scope};
use crate::error::Error;
use crate::invoicing::file::{self, BillingFile, SettingChange};

/// Whether to change anything.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct ApplyQuery {
    /// True: only answer what would change.
    #[serde(default)]
    #[param(required = false)]
    dry_run: bool,
}

/// What a billing file changed, or would change.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct AppliedSettings {
    /// True when the changes were made; false for a dry run.
    pub applied: bool,
    /// What differs; nothing: nothing to do.
    pub changes: Vec<SettingChange>,
}

/// Sets sellers, tax rates, coupons, payment accounts and billing profiles together: all of them, or none.
///
/// What is not named stays as it is.
#[utoipa::path(
    post, path = "/v1/invoicing/apply", tag = "invoicing", params(ApplyQuery, IdempotencyKey),
    request_body = BillingFile, security(("key" = ["billing:write"])),
    responses((status = 200, description = "What was, or would be, changed", body = AppliedSettings),
        CommandErrors)
)]
pub(crate) async fn apply(command: Command, mut params: Params) -> Result<HttpResponse, Error> {
    command.principal.require_platform(Scope::BillingWrite)?;
    let ApplyQuery { dry_run } = params.take()?;
    params.done()?;
    let wanted: BillingFile = command.read()?;
    command
        .run(move |conn, now| {
            let changes =
                if dry_run { file::changes(conn, &wanted, now)? } else { file::apply(conn, &wanted, now)? };
            let detail = json!({ "dry_run": dry_run, "changes": changes });
            let (action, target) = ("invoicing.apply", String::new());
            let audit = AuditEntry { org_id: PLATFORM, action, target, detail };
            Answer::new(StatusCode::OK, &AppliedSettings { applied: !dry_run, changes }, audit)
        })
        .await
}
