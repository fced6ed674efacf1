//! The API's description, generated from the code, and the page that shows it.

use std::io::Write;
use std::sync::LazyLock;

use actix_web::http::StatusCode;
use actix_web::http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG,
    IF_NONE_MATCH, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{IntoParams, IntoResponses, Modify, OpenApi};

use crate::error::Problem;
use crate::export::http::Columns;
use crate::http::Shared;
use crate::{auth, battery, billing, export, health, plans, quota, stripe, usage};

/// The whole description.
#[derive(OpenApi)]
#[openapi(
    info(title = "Coulomb",
    description = "Billing and metering beside one PostgreSQL. Send `Authorization: Bearer clb_live_…`."),
    paths(
        health::healthz,
        health::readyz,
        health::metrics,
        stripe::http::receive,
        stripe::admin::list,
        stripe::admin::unfiled,
        stripe::admin::types,
        stripe::admin::show,
        stripe::admin::retry,
        stripe::admin::retry_all,
        auth::http::list,
        auth::http::create,
        auth::http::revoke,
        billing::orgs_http::list,
        billing::orgs_http::create,
        billing::orgs_http::show,
        billing::orgs_http::update,
        billing::orgs_http::link,
        billing::orgs_http::unlink,
        plans::http::list,
        plans::http::show,
        plans::http::put,
        plans::http::versions,
        plans::http::move_all,
        plans::http::import,
        plans::subscriptions_http::start,
        plans::subscriptions_http::activate,
        plans::subscriptions_http::cancel,
        plans::subscriptions_http::change,
        plans::subscriptions_http::show,
        plans::subscriptions_http::history,
        plans::subscriptions_http::move_one,
        plans::entitlements_http::show,
        billing::customers_http::list,
        billing::customers_http::show,
        billing::subscriptions_http::list,
        billing::subscriptions_http::show,
        billing::invoices_http::list,
        billing::invoices_http::show,
        billing::payments_http::list,
        billing::payments_http::show,
        billing::refunds_http::list,
        billing::refunds_http::show,
        billing::disputes_http::list,
        billing::disputes_http::show,
        billing::credit_notes_http::list,
        billing::credit_notes_http::show,
        billing::products_http::list,
        billing::products_http::show,
        billing::prices_http::list,
        billing::prices_http::show,
        usage::meters_http::list,
        usage::meters_http::show,
        usage::meters_http::create,
        usage::meters_http::update,
        usage::meters_http::archive,
        usage::rates_http::list,
        usage::rates_http::create,
        usage::unpriced_http::list,
        usage::unpriced_http::rate_usage,
        usage::http::post,
        usage::wire_http::post,
        usage::wire_http::batch,
        usage::correct_http::void,
        usage::correct_http::amend,
        usage::correct_http::close,
        usage::correct_http::closed,
        usage::reads_http::daily,
        usage::reads_http::list_records,
        usage::reads_http::show_current,
        usage::reads_http::list_levels,
        quota::quotas_http::show_plan,
        quota::quotas_http::put_plan,
        quota::quotas_http::list,
        quota::quotas_http::create,
        quota::quotas_http::show,
        quota::quotas_http::update,
        quota::quotas_http::delete,
        quota::quotas_http::history,
        quota::exemptions_http::list,
        quota::exemptions_http::create,
        quota::exemptions_http::delete,
        quota::check_http::check,
        quota::check_http::reserve,
        quota::check_http::settle,
        quota::check_http::release,
        quota::messages_http::list,
        battery::reads_http::show,
        battery::reads_http::list_grants,
        battery::reads_http::show_grant,
        battery::reads_http::list_entries,
        battery::reads_http::show_entry,
        battery::reads_http::show_statement,
        battery::by_hand_http::grant,
        battery::by_hand_http::adjust,
        battery::by_hand_http::void,
        battery::by_hand_http::put_settings,
        battery::by_hand_http::delete_settings,
        export::battery_http::export,
        export::battery_http::totals,
        battery::packs_http::list,
        battery::packs_http::show,
        battery::packs_http::put,
        battery::effects_http::list,
        battery::effects_http::dismiss,
        battery::effects_http::assign,
        battery::ignored_http::list,
        battery::ignored_http::put,
        battery::ignored_http::delete,
        export::http::export,
        export::http::totals,
    ),
    // Named by query parameters alone, from where they are not collected.
    components(schemas(
        crate::time::Day,
        crate::time::Moment,
        usage::http::Results,
        battery::effects::ignored::IgnoredKind,
        billing::trust::ShownRealms,
        billing::read::ListPart,
        billing::read_http::Part,
        billing::read_http::PartWithLines,
        usage::reads_http::Format,
        usage::rates::PriceBy,
        battery::reads_http::Format,
        battery::entries::Kind,
        battery::grants::Source,
        battery::grants::State,
    )),
    modifiers(&Key, &Columns, &OperationIds)
)]
pub struct Api;

struct Key;

impl Modify for Key {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        let key = SecurityScheme::Http(
            Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("clb_live_…").build(),
        );
        api.components.get_or_insert_default().add_security_scheme("key", key);
    }
}

/// Names every operation by its method and path: handlers are called `list` in many modules, and names must
/// be unique.
struct OperationIds;

impl Modify for OperationIds {
    fn modify(&self, api: &mut utoipa::openapi::OpenApi) {
        for (path, item) in &mut api.paths.paths {
            let place = path.trim_start_matches("/v1").replace(['/', '.', '{', '}'], " ");
            let place = place.split_whitespace().collect::<Vec<_>>().join("_");
            let operations = [
                ("get", &mut item.get),
                ("put", &mut item.put),
                ("post", &mut item.post),
                ("patch", &mut item.patch),
                ("delete", &mut item.delete),
            ];
            for (method, operation) in operations {
                if let Some(operation) = operation {
                    operation.operation_id = Some(format!("{method}_{place}"));
                }
            }
        }
    }
}

/// The header that makes a command safe to repeat.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
pub struct IdempotencyKey {
    /// Any text of at most 255 visible characters. A repeat with the same key and request gets the first
    /// answer again.
    #[param(
        rename = "Idempotency-Key",
        required = false,
        min_length = 1,
        max_length = 255,
        pattern = r"^[!-~]+$"
    )]
    #[allow(dead_code, reason = "describes a header")]
    idempotency_key: Option<String>,
}

macro_rules! errors {
    ($(#[doc = $doc:literal])+ $name:ident: $($status:literal $variant:ident $what:literal),+) => {
        $(#[doc = $doc])+
        #[derive(IntoResponses)]
        #[allow(dead_code, reason = "describes answers")]
        pub enum $name { $(
            #[doc = $what]
            #[response(status = $status, description = $what, content_type = "application/problem+json")]
            $variant(#[to_schema] Problem),
        )+ }
    };
}

errors!(
    /// Errors of a list.
    ReadErrors:
    400 Invalid "A parameter breaks a rule",
    401 Unauthorized "No valid key",
    403 Forbidden "The key lacks the scope",
    503 Busy "Overloaded or the database is away: try again"
);
errors!(
    /// Errors of a look-up.
    FindErrors:
    400 Invalid "A parameter breaks a rule",
    401 Unauthorized "No valid key",
    403 Forbidden "The key lacks the scope",
    404 NotFound "Not there, or not yours",
    503 Busy "Overloaded or the database is away: try again"
);
errors!(
    /// Errors of a command.
    CommandErrors:
    400 Invalid "The request breaks a rule",
    401 Unauthorized "No valid key",
    403 Forbidden "The key lacks the scope",
    404 NotFound "Not there, or not yours",
    408 TooSlow "The body came too slowly",
    409 Conflict "It contradicts what is there, or the Idempotency-Key was used for another request",
    413 TooLarge "The body is over the limit",
    503 Busy "Overloaded or the database is away: try again"
);

/// The description as JSON.
#[must_use]
pub fn document() -> String {
    Api::openapi().to_pretty_json().unwrap_or_default()
}

/// A document that is the same for everybody: made once, packed once.
struct Document {
    content_type: &'static str,
    plain: Bytes,
    packed: Bytes,
    tag: String,
}

impl Document {
    fn new(content_type: &'static str, text: impl Into<Bytes>) -> Self {
        let plain: Bytes = text.into();
        let mut packer = GzEncoder::new(Vec::new(), Compression::best());
        // Writing to a Vec cannot fail.
        let packed = packer.write_all(&plain).and_then(|()| packer.finish()).unwrap_or_default();
        let tag = format!("W/\"{}\"", hex::encode(&Sha256::digest(&plain)[..16]));
        Self { content_type, plain, packed: packed.into(), tag }
    }

    fn answer(&self, request: &HttpRequest) -> HttpResponse {
        let asked =
            |name| request.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let mut response = HttpResponse::Ok();
        response
            .insert_header((ETAG, self.tag.as_str()))
            .insert_header((CACHE_CONTROL, "public, max-age=300"))
            .insert_header((VARY, "Accept-Encoding"))
            .insert_header((X_CONTENT_TYPE_OPTIONS, "nosniff"))
            .insert_header((X_FRAME_OPTIONS, "DENY"))
            .insert_header((CONTENT_SECURITY_POLICY, "frame-ancestors 'none'"));
        if asked(IF_NONE_MATCH).split(',').any(|tag| tag.trim() == self.tag) {
            return response.status(StatusCode::NOT_MODIFIED).finish();
        }
        // Said in both cases: nobody has to pack it again.
        let takes_gzip = |one: &str| {
            let mut parts = one.split(';').map(str::trim);
            let wanted = |part: &str| {
                part.strip_prefix("q=").is_none_or(|weight| !weight.trim_matches(['0', '.']).is_empty())
            };
            parts.next() == Some("gzip") && parts.all(wanted)
        };
        let (encoding, body) = if asked(ACCEPT_ENCODING).split(',').any(takes_gzip) {
            ("gzip", &self.packed)
        } else {
            ("identity", &self.plain)
        };
        response.insert_header((CONTENT_TYPE, self.content_type)).insert_header((CONTENT_ENCODING, encoding));
        response.extensions_mut().insert(Shared);
        response.body(body.clone())
    }
}

/// `GET /openapi.json`.
pub async fn json(request: HttpRequest) -> HttpResponse {
    static JSON: LazyLock<Document> = LazyLock::new(|| Document::new("application/json", document()));
    JSON.answer(&request)
}

/// `GET /docs`: one page, nothing fetched from elsewhere, shown in no frame.
pub async fn page(request: HttpRequest) -> HttpResponse {
    static PAGE: LazyLock<Document> =
        LazyLock::new(|| Document::new("text/html; charset=utf-8", include_str!("openapi/docs.html")));
    PAGE.answer(&request)
}
