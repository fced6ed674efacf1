//! `POST /v1/usage`.

use std::io::Write;

use actix_web::dev::Decompress;
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, ContentEncoding, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::event::{self, Form, Outcome, Parsed};
use super::ingest::Options;
use super::resolve::Caller;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::error::{Error, Problem};
use crate::http::{Bounds, Memory, read_body};
use crate::params::Params;
use crate::shares::Share;

/// Usage events of a request at most.
pub const EVENTS: usize = 10_000;

/// How usage is to be taken, and told.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Store nothing when one event is rejected or in conflict.
    #[serde(default)]
    all_or_nothing: bool,
    /// Whether `results` lists every event (`all`, when left out) or only those that are rejected or in conflict (`problems`).
    #[serde(default)]
    results: Results,
}

/// Which events the answer lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Results {
    /// Every one.
    #[default]
    All,
    /// Rejected ones and conflicts.
    Problems,
}

/// What became of a request's usage events.
#[derive(Serialize, ToSchema)]
pub struct Taken {
    /// Stored and counted now.
    accepted: usize,
    /// Stored before; nothing changed.
    duplicate: usize,
    /// Another event is stored under the same org, source and id; nothing changed.
    conflict: usize,
    /// Not taken.
    rejected: usize,
    /// One for each event, in the order in which they were sent.
    results: Vec<EventResult>,
}

/// A problem that says what became of each event.
#[derive(Serialize, ToSchema)]
pub struct NotStored {
    /// The problem; its code is `not_stored`.
    #[serde(flatten)]
    problem: Problem,
    /// The events.
    #[serde(flatten)]
    taken: Taken,
}

/// What became of one usage event.
#[derive(Serialize, ToSchema)]
pub struct EventResult {
    /// Its place in the request, from 0.
    index: usize,
    /// Its id; empty when it had none.
    id: String,
    /// `accepted`, `duplicate`, `conflict` or `rejected`.
    status: String,
    /// The field at fault.
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<String>,
    /// A stable word for the rule that it breaks.
    #[serde(skip_serializing_if = "Option::is_none")]
    rule: Option<String>,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
}

/// Reports usage.
///
/// One event, an array, `{"events": […]}`, lines (`application/x-ndjson`), or CloudEvents 1.0 (single, batch or binary mode); gzip
/// or zstd by `Content-Encoding`; at most 10,000 events. An event's key is its org, source and id, whatever its time: it counts
/// once however often it is sent. Answered when all that is accepted is durable, with one result for each event. The subject of a
/// CloudEvent names the org where the key is the platform's and there is no `org` attribute.
#[utoipa::path(
    post, path = "/v1/usage", tag = "usage", params(UsageQuery), security(("key" = ["usage:write"])),
    request_body(content(
        (Object = "application/json"), (Object = "application/cloudevents+json"),
        (Vec<Object> = "application/cloudevents-batch+json"), (String = "application/x-ndjson")
    ), description = "Usage events: id, event_name, and what else they have of source, org, occurred_at, member, subject, data, cost"),
    responses(
        (status = 200, description = "What became of each event", body = Taken),
        (status = 400, description = "The body cannot be read", body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid key", body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key may not", body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit, or has too many events", body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 422, description = "`all_or_nothing`, and one is rejected or in conflict: nothing is stored (`not_stored`)", body = NotStored, content_type = "application/problem+json"),
        (status = 429, description = "Too much waits: send it again", body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 503, description = "Not stored: send it again", body = crate::error::Problem, content_type = "application/problem+json"),
    )
)]
pub async fn post(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let caller = caller(&principal)?;
    let query: UsageQuery = params.take()?;
    params.done()?;
    let (body, _place) = body(&app, &principal, &request, payload).await?;
    let form = form(request.headers());
    let mut names = Names::new();
    let read = || {
        let (ids, events) = apart(event::parse(&body, &form, EVENTS, caller.org_id.is_none())?);
        names = ids;
        Ok(events)
    };
    let options = Options { all_or_nothing: query.all_or_nothing, new_only: false };
    let outcomes = app.usage.take(&app, (principal.holder(), &caller), options, read).await?;
    let problem = |outcome: &Outcome| matches!(outcome, Outcome::Conflict | Outcome::Rejected(_));
    if !(options.all_or_nothing && outcomes.iter().any(problem)) {
        app.metrics.usage(&outcomes);
    }
    Ok(answer(&names, &outcomes, query))
}

/// What [`post`] does before anything is stored, for a benchmark to compare with.
///
/// # Errors
/// As [`post`].
pub async fn parse_only(
    app: &App,
    principal: &Principal,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let caller = caller(principal)?;
    let (body, _place) = body(app, principal, request, payload).await?;
    let form = form(request.headers());
    let (names, events) = apart(event::parse(&body, &form, EVENTS, caller.org_id.is_none())?);
    let outcome = |event: Result<_, _>| event.map_or_else(Outcome::Rejected, |_| Outcome::Accepted);
    let outcomes: Vec<Outcome> = events.into_iter().map(outcome).collect();
    Ok(answer(&names, &outcomes, UsageQuery::default()))
}

/// What the key may do with usage.
///
/// # Errors
/// [`Error::Forbidden`] without the scope.
pub(super) fn caller(principal: &Principal) -> Result<Caller, Error> {
    principal.require(Scope::UsageWrite)?;
    Ok(Caller {
        org_id: Some(principal.org_id()).filter(|org_id| *org_id != PLATFORM),
        backfill: principal.require(Scope::UsageBackfill).is_ok(),
        price: principal.require(Scope::UsagePrice).is_ok(),
    })
}

/// The request's body, unpacked, with its place in the memory that bodies may take.
///
/// # Errors
/// Those of [`read_body`].
pub(super) async fn body(
    app: &App,
    principal: &Principal,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<(web::Bytes, Share), Error> {
    let bounds = Bounds::new(app, app.config.usage_body_limit);
    let memory = Memory { kib: &app.usage_memory, holder: principal.holder(), full: Error::TooMany };
    let encoding = match request.headers().get(CONTENT_ENCODING).map(|value| value.as_bytes()) {
        None | Some(b"" | b"identity") => {
            return read_body(request, &mut payload.into_inner(), bounds, memory).await;
        }
        Some(b"gzip") => ContentEncoding::Gzip,
        Some(b"zstd") => ContentEncoding::Zstd,
        Some(_) => return Err(Error::invalid("Content-Encoding", "must be gzip or zstd, or be left out")),
    };
    let slices = payload.into_inner().flat_map(|chunk| stream::iter(sliced(chunk)));
    read_body(request, &mut Decompress::new(slices, encoding), bounds, memory).await
}

/// Packed bytes in small pieces: the decoder unpacks a whole piece before anybody can look how large it has become.
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

/// How the body holds its events, by its headers.
pub(super) fn form(headers: &HeaderMap) -> Form {
    if headers.contains_key("ce-specversion") {
        let attributes = headers.iter().filter_map(|(name, value)| {
            Some((name.as_str().strip_prefix("ce-")?.to_owned(), value.to_str().ok()?.to_owned()))
        });
        return Form::Binary(attributes.collect());
    }
    let content_type = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    match content_type.split(';').next().unwrap_or_default().trim() {
        "application/x-ndjson" | "application/jsonl" | "application/x-jsonlines" => Form::Lines,
        _ => Form::Json,
    }
}

pub(super) type Names<'a> = Vec<std::borrow::Cow<'a, str>>;
pub(super) type Events<'a> = Vec<Result<event::UsageEvent<'a>, event::Rejection>>;

/// The ids of events, and the events.
pub(super) fn apart(parsed: Vec<Parsed<'_>>) -> (Names<'_>, Events<'_>) {
    parsed.into_iter().map(|one| (one.id, one.event)).unzip()
}

/// Written by hand: ten thousand results are no reason to build a tree.
fn answer(names: &Names<'_>, outcomes: &[Outcome], query: UsageQuery) -> HttpResponse {
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|one| wanted(one)).count();
    let conflict = count(|one| matches!(one, Outcome::Conflict));
    let rejected = count(|one| matches!(one, Outcome::Rejected(_)));
    let refused = query.all_or_nothing && conflict + rejected > 0;
    let accepted = if refused { 0 } else { count(|one| matches!(one, Outcome::Accepted)) };
    let duplicate = count(|one| matches!(one, Outcome::Duplicate));
    let mut out = Vec::with_capacity(120 + outcomes.len() * 80);
    out.push(b'{');
    if refused {
        refusal(&mut out, conflict + rejected, outcomes.len());
    }
    let _ = write!(
        out,
        r#""accepted":{accepted},"duplicate":{duplicate},"conflict":{conflict},"rejected":{rejected},"results":["#
    );
    let mut before = "";
    for (index, (id, outcome)) in names.iter().zip(outcomes).enumerate() {
        let status = match outcome {
            Outcome::Accepted if refused => "not_stored",
            Outcome::Accepted => "accepted",
            Outcome::Duplicate => "duplicate",
            Outcome::Conflict => "conflict",
            Outcome::Rejected(_) => "rejected",
        };
        if query.results == Results::Problems && matches!(outcome, Outcome::Accepted | Outcome::Duplicate) {
            continue;
        }
        let _ = write!(out, r#"{before}{{"index":{index},"id":"#);
        string(&mut out, id);
        let _ = write!(out, r#","status":"{status}""#);
        match outcome {
            Outcome::Rejected(rejection) => {
                out.extend_from_slice(br#","field":"#);
                string(&mut out, &rejection.field);
                out.extend_from_slice(br#","rule":"#);
                string(&mut out, rejection.rule);
                out.extend_from_slice(br#","detail":"#);
                string(&mut out, &rejection.detail);
            }
            Outcome::Conflict => out.extend_from_slice(
                br#","field":"id","rule":"key_reused","detail":"another event is stored under this org, source and id: correct it with an amendment, or use another id""#,
            ),
            Outcome::Accepted | Outcome::Duplicate => {}
        }
        out.push(b'}');
        before = ",";
    }
    out.extend_from_slice(b"]}");
    let status = if refused { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let content_type = if refused { "application/problem+json" } else { "application/json" };
    HttpResponse::build(status).content_type(content_type).body(out)
}

/// The members of a problem, before those of the answer.
fn refusal(out: &mut Vec<u8>, bad: usize, events: usize) {
    // Writing to a Vec cannot fail.
    let _ = write!(
        out,
        r#""type":"about:blank#not_stored","title":"Nothing was stored","status":422,"code":"not_stored","detail":"{bad} of {events} events cannot be stored, so none was: mend or leave out those that the results name","#
    );
}

fn string(out: &mut Vec<u8>, text: &str) {
    // A string always serialises.
    let _ = serde_json::to_writer(out, text);
}
