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
use utoipa::{Modify, OpenApi};

use crate::api::exports::invoices::Columns;
use crate::api::http::Shared;
use crate::{api, battery, billing, metering};

/// The whole description.
#[derive(OpenApi)]
#[openapi(
    info(title = "Coulomb",
    description = "Billing and metering beside one PostgreSQL. Send `Authorization: Bearer clb_live_…`."),
    paths(
        api::health::healthz,
        api::health::readyz,
        api::health::metrics,
        api::stripe::webhook::receive,
        api::stripe::inbox::list,
        api::stripe::inbox::unfiled,
        api::stripe::inbox::types,
        api::stripe::inbox::show,
        api::stripe::inbox::retry,
        api::stripe::inbox::retry_all,
        api::keys::list,
        api::keys::create,
        api::keys::revoke,
        api::billing::orgs::list,
        api::billing::orgs::create,
        api::billing::orgs::show,
        api::billing::orgs::update,
        api::billing::orgs::link,
        api::billing::orgs::unlink,
        api::plans::catalogue::list,
        api::plans::catalogue::show,
        api::plans::catalogue::put,
        api::plans::catalogue::versions,
        api::plans::catalogue::move_all,
        api::plans::catalogue::import,
        api::plans::subscriptions::start,
        api::plans::subscriptions::activate,
        api::plans::subscriptions::cancel,
        api::plans::subscriptions::change,
        api::plans::subscriptions::show,
        api::plans::subscriptions::history,
        api::plans::subscriptions::move_one,
        api::plans::entitlements::show,
        api::billing::customers::list,
        api::billing::customers::show,
        api::billing::subscriptions::list,
        api::billing::subscriptions::show,
        api::billing::invoices::list,
        api::billing::invoices::show,
        api::billing::payments::list,
        api::billing::payments::show,
        api::billing::refunds::list,
        api::billing::refunds::show,
        api::billing::disputes::list,
        api::billing::disputes::show,
        api::billing::credit_notes::list,
        api::billing::credit_notes::show,
        api::billing::products::list,
        api::billing::products::show,
        api::billing::prices::list,
        api::billing::prices::show,
        api::usage::meters::list,
        api::usage::meters::show,
        api::usage::meters::create,
        api::usage::meters::update,
        api::usage::meters::archive,
        api::usage::rates::list,
        api::usage::rates::create,
        api::usage::unpriced::list,
        api::usage::unpriced::rate_usage,
        api::usage::events::post,
        api::usage::wire::post,
        api::usage::wire::batch,
        api::usage::correct::void,
        api::usage::correct::amend,
        api::usage::correct::close,
        api::usage::correct::closed,
        api::usage::reads::daily,
        api::usage::reads::list_records,
        api::usage::reads::show_current,
        api::usage::reads::list_levels,
        api::quotas::limits::show_plan,
        api::quotas::limits::put_plan,
        api::quotas::limits::list,
        api::quotas::limits::create,
        api::quotas::limits::show,
        api::quotas::limits::update,
        api::quotas::limits::delete,
        api::quotas::limits::history,
        api::quotas::exemptions::list,
        api::quotas::exemptions::create,
        api::quotas::exemptions::delete,
        api::quotas::check::check,
        api::quotas::check::reserve,
        api::quotas::check::settle,
        api::quotas::check::release,
        api::quotas::messages::list,
        api::battery::reads::show,
        api::battery::reads::list_grants,
        api::battery::reads::show_grant,
        api::battery::reads::list_entries,
        api::battery::reads::show_entry,
        api::battery::reads::show_statement,
        api::battery::by_hand::grant,
        api::battery::by_hand::adjust,
        api::battery::by_hand::void,
        api::battery::by_hand::put_settings,
        api::battery::by_hand::delete_settings,
        api::exports::battery::export,
        api::exports::battery::totals,
        api::battery::packs::list,
        api::battery::packs::show,
        api::battery::packs::put,
        api::battery::effects::list,
        api::battery::effects::dismiss,
        api::battery::effects::assign,
        api::battery::ignored::list,
        api::battery::ignored::put,
        api::battery::ignored::delete,
        api::exports::invoices::export,
        api::exports::invoices::totals,
    ),
    // Named by query parameters alone, from where they are not collected.
    components(schemas(
        crate::time::Day,
        crate::time::Moment,
        api::usage::events::Results,
        battery::effects::ignored::IgnoredKind,
        billing::acting_realms::ShownRealms,
        billing::read::ListPart,
        api::billing::read::Part,
        api::billing::read::PartWithLines,
        api::usage::reads::Format,
        metering::rates::PriceBy,
        api::battery::reads::Format,
        battery::entries::Kind,
        battery::grants::GrantSource,
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
