//! What the routes that take usage have in common: the caller's rights, the body, and how it holds its
//! events.

use std::borrow::Cow;

use actix_web::dev::Decompress;
use actix_web::error::PayloadError;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, ContentEncoding, HeaderMap};
use actix_web::{HttpRequest, web};
use futures_util::{StreamExt, stream};

use crate::api::http::access::note_usage;
use crate::api::http::{self, Bounds, Memory};
use crate::app::App;
use crate::auth::{Principal, Scope};
use crate::error::Error;
use crate::metering::event::{self, BodyFormat, Outcome, ParsedEvent, Tally};
use crate::metering::resolve::Caller;
use crate::shares::Share;

/// Usage events of a request at most.
pub(super) const EVENTS: usize = 10_000;

/// Counts the outcomes in the metrics, and has the access log tell them.
pub(super) fn count(app: &App, request: &HttpRequest, outcomes: &[Outcome]) {
    let tally = Tally::from_outcomes(outcomes);
    app.metrics.count_usage(tally);
    note_usage(request, tally);
}

/// The caller's rights on usage.
///
/// # Errors
/// [`Error::Forbidden`] without the scope.
pub(super) fn caller(principal: &Principal) -> Result<Caller, Error> {
    principal.require(Scope::UsageWrite)?;
    Ok(Caller {
        org_id: principal.own_org_id(),
        backfill: principal.require(Scope::UsageBackfill).is_ok(),
        price: principal.require(Scope::UsagePrice).is_ok(),
    })
}

/// Reads the request's body, decompressed, and its share of the memory for bodies.
///
/// # Errors
/// Those of [`http::read_body`].
pub(super) async fn read_body(
    app: &App,
    principal: &Principal,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<(web::Bytes, Share), Error> {
    let bounds = Bounds::new(app, app.config.usage_body_limit);
    let memory = Memory { kib: &app.usage_memory, holder: principal.holder(), full: Error::TooMany };
    let encoding = match request.headers().get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => {
            return http::read_body(request, &mut payload.into_inner(), bounds, memory).await;
        }
        Some(b"gzip") => ContentEncoding::Gzip,
        Some(b"zstd") => ContentEncoding::Zstd,
        Some(_) => return Err(Error::invalid("Content-Encoding", "must be gzip or zstd, or be left out")),
    };
    let slices = payload.into_inner().flat_map(|chunk| stream::iter(sliced(chunk)));
    http::read_body(request, &mut Decompress::new(slices, encoding), bounds, memory).await
}

/// Cuts compressed bytes into small pieces: the decoder unpacks a whole piece before anybody can check its
/// size.
fn sliced(chunk: Result<web::Bytes, PayloadError>) -> Vec<Result<web::Bytes, PayloadError>> {
    const SLICE: usize = 256;
    match chunk {
        Ok(mut bytes) => {
            let mut slices = Vec::with_capacity(bytes.len() / SLICE + 1);
            while !bytes.is_empty() {
                slices.push(Ok(bytes.split_to(bytes.len().min(SLICE))));
            }
            slices
        }
        Err(error) => vec![Err(error)],
    }
}

/// The form of the body, as its headers say.
pub(super) fn form(headers: &HeaderMap) -> BodyFormat {
    if headers.contains_key("ce-specversion") {
        let attributes = headers.iter().filter_map(|(name, value)| {
            Some((name.as_str().strip_prefix("ce-")?.to_owned(), value.to_str().ok()?.to_owned()))
        });
        return BodyFormat::Binary(attributes.collect());
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" => BodyFormat::Lines,
        _ => BodyFormat::Json,
    }
}

/// Ids of usage events, in their order; empty where an event has none.
pub(super) type EventIds<'a> = Vec<Cow<'a, str>>;
type Events<'a> = Vec<Result<event::UsageEvent<'a>, event::Rejection>>;

/// Splits parsed events into their ids and the events.
pub(super) fn split_ids(parsed: Vec<ParsedEvent<'_>>) -> (EventIds<'_>, Events<'_>) {
    parsed.into_iter().map(|one| (one.id, one.event)).unzip()
}
