//! The API's description as the daemon serves it: `/openapi.json`, and `/docs`, the page that shows it.

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

use crate::api::http::Shared;
use crate::api::openapi;

/// A document that is the same for everybody: made once, compressed once.
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
        // Both branches set Content-Encoding, so that the middleware does not compress it again.
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
pub(super) async fn json(request: HttpRequest) -> HttpResponse {
    static JSON: LazyLock<Document> =
        LazyLock::new(|| Document::new("application/json", openapi::document()));
    JSON.answer(&request)
}

/// `GET /docs`: one page that loads nothing from elsewhere and lets no frame show it.
pub(super) async fn page(request: HttpRequest) -> HttpResponse {
    static PAGE: LazyLock<Document> =
        LazyLock::new(|| Document::new("text/html; charset=utf-8", include_str!("docs/page.html")));
    PAGE.answer(&request)
}
