//! `POST /v1/usage`.

use std::borrow::Cow;
use std::io::Write;

use actix_web::dev::Decompress;
use actix_web::error::PayloadError;
use actix_web::http::StatusCode;
use actix_web::http::header::{CONTENT_ENCODING, CONTENT_TYPE, ContentEncoding, HeaderMap};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::{StreamExt, stream};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use crate::api::http::access::note_usage;
use crate::api::http::{Bounds, Memory, read_body};
use crate::api::params::Params;
use crate::app::App;
use crate::auth::{PLATFORM, Principal, Scope};
use crate::error::{Error, Problem, ProblemCode};
use crate::metering::event::{self, Form, Outcome, Parsed, Tally};
use crate::metering::resolve::Caller;
use crate::quantity::Quantity;
use crate::shares::Share;
use crate::time::Moment;
use crate::usage::ingest::Options;

/// Usage events of a request at most.
pub const EVENTS: usize = 10_000;

const KEY_REUSED: &str = "key_reused";
const KEY_REUSED_DETAIL: &str =
    "another event is stored under this org, source and id: correct it with an amendment, or use another id";

/// How usage is to be taken, and told.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Store nothing when one event is rejected or in conflict.
    #[serde(default)]
    all_or_nothing: bool,
    /// Whether `results` lists every event (`all`, when left out) or only those that are rejected or in
    /// conflict (`problems`).
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

/// A usage event as it is sent. A CloudEvent has `type` and `time` for `event_name` and `occurred_at`, and
/// may have attributes of its own.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
#[schema(as = UsageEvent)]
pub struct EventBody {
    /// Your id of it: with `source` and the org its key.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    id: String,
    /// Who reports it; empty when left out.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    source: Option<String>,
    /// The org, by its id or your own id of it; the key's own when left out.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    org: Option<String>,
    /// Which meters count it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    event_name: String,
    /// When it happened; now when left out.
    #[schema(value_type = Option<Moment>)]
    occurred_at: Option<Moment>,
    /// Who in the org caused it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    member: Option<String>,
    /// What a quota per subject counts it to.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    subject: Option<String>,
    /// The values and dimensions that meters read.
    #[schema(value_type = Option<Object>)]
    data: Option<()>,
    /// A cost to set; needs the scope usage:price.
    cost: Option<Quantity>,
}

/// Usage events in one body.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
#[schema(as = UsageEvents)]
pub struct EventsBody {
    /// At most 10,000.
    #[schema(max_items = 10000)]
    events: Vec<EventBody>,
}

/// One usage event or many.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
#[serde(untagged)]
#[schema(as = UsageEventOrEvents)]
pub enum OneOrMany {
    /// One.
    One(EventBody),
    /// Many.
    Many(Vec<EventBody>),
    /// Many, in an object.
    Wrapped(EventsBody),
}

/// A CloudEvent 1.0 with usage.
#[derive(ToSchema)]
#[allow(dead_code, reason = "describes a body")]
pub struct CloudEvent {
    /// `1.0`.
    #[schema(pattern = r"^1\.0$")]
    specversion: String,
    /// Your id of it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    id: String,
    /// Who reports it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    source: Option<String>,
    /// Which meters count it.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    r#type: String,
    /// When it happened; now when left out.
    #[schema(value_type = Option<Moment>)]
    time: Option<Moment>,
    /// With a key of the platform the org, unless there is an attribute `org`.
    #[schema(min_length = 1, max_length = 200, pattern = r"^[^\x00-\x1f\x7f-\x9f]+$")]
    subject: Option<String>,
    /// The values and dimensions that meters read.
    #[schema(value_type = Option<Object>)]
    data: Option<()>,
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
    /// The problem; its code is `not_stored`, or of an event sent alone its rule.
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
    /// `accepted`, `duplicate`, `conflict` or `rejected`; with `all_or_nothing`, where another event is
    /// refused, `not_stored` instead of `accepted`.
    #[schema(pattern = "^(accepted|duplicate|conflict|rejected|not_stored)$")]
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
/// One event, an array, `{"events": […]}`, lines (`application/x-ndjson`), or CloudEvents 1.0 (single, batch
/// or binary mode); gzip or zstd by `Content-Encoding`; at most 10,000 events. An event's key is its org,
/// source and id, whatever its time: it counts once however often it is sent. Answered when all that is
/// accepted is durable, with one result for each event. The subject of a CloudEvent names the org where the
/// key is the platform's and there is no `org` attribute.
///
/// An event that is sent alone (not in an array, `{"events": […]}` or lines) and is not taken is answered
/// with a problem whose `code` is the event's `rule`: 404 for `unknown_org`, 403 for `missing_scope`, 409 for
/// `key_reused`, `quota_exceeded` and `battery_exhausted`, else 400. A batch is answered with 200 whatever
/// became of its events.
#[utoipa::path(
    post, path = "/v1/usage", tag = "usage", params(UsageQuery), security(("key" = ["usage:write"])),
    request_body(content(
        (OneOrMany = "application/json"), (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"), (String = "application/x-ndjson")
    ), description = "Usage events"),
    responses(
        (status = 200, description = "What became of each event", body = Taken),
        (status = 400,
            description = "The body cannot be read; or the one event was rejected, and the problem is as \
                with 409",
            body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 401, description = "No valid key", body = crate::error::Problem,
            content_type = "application/problem+json"),
        (status = 403, description = "The key may not; or the one event has a cost that the key may not set",
            body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such org as the one event names", body = NotStored,
            content_type = "application/problem+json"),
        (status = 409,
            description = "The one event is in conflict with another of its id, over a limit that refuses \
                it, or more than the battery holds",
            body = NotStored, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = crate::error::Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit, or has too many events",
            body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 422,
            description = "`all_or_nothing`, and one is rejected or in conflict: nothing is stored \
                (`not_stored`)",
            body = NotStored, content_type = "application/problem+json"),
        (status = 429, description = "Too much waits: send it again", body = crate::error::Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not stored: send it again", body = crate::error::Problem,
            content_type = "application/problem+json"),
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
    let (mut names, mut alone) = (Names::new(), false);
    let read = || {
        let sent = event::parse(&body, &form, EVENTS, caller.org_id.is_none())?;
        let (ids, events) = apart(sent.events);
        (names, alone) = (ids, sent.alone);
        Ok(events)
    };
    let options = Options { all_or_nothing: query.all_or_nothing, new_only: false };
    let outcomes = app.usage.take(&app.quotas, (principal.holder(), &caller), options, read).await?;
    let problem = |outcome: &Outcome| matches!(outcome, Outcome::Conflict | Outcome::Rejected(_));
    if options.all_or_nothing && outcomes.iter().any(problem) {
        // The others were not stored.
        let stored = |outcome: &&Outcome| **outcome != Outcome::Accepted;
        note_usage(&request, Tally::of(&outcomes.iter().filter(stored).cloned().collect::<Vec<_>>()));
    } else {
        count(&app, &request, &outcomes);
    }
    Ok(answer(&names, &outcomes, query, alone))
}

/// Counts what became of a request's events.
pub(super) fn count(app: &App, request: &HttpRequest, outcomes: &[Outcome]) {
    let tally = Tally::of(outcomes);
    app.metrics.count_usage(tally);
    note_usage(request, tally);
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
    let (names, events) = apart(event::parse(&body, &form, EVENTS, caller.org_id.is_none())?.events);
    let outcome = |event: Result<_, _>| event.map_or_else(Outcome::Rejected, |_| Outcome::Accepted);
    let outcomes: Vec<Outcome> = events.into_iter().map(outcome).collect();
    Ok(answer(&names, &outcomes, UsageQuery::default(), false))
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

/// Packed bytes in small pieces: the decoder unpacks a whole piece before anybody can look how large it has
/// become.
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
fn answer(names: &Names<'_>, outcomes: &[Outcome], query: UsageQuery, alone: bool) -> HttpResponse {
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|one| wanted(one)).count();
    let conflict = count(|one| matches!(one, Outcome::Conflict));
    let rejected = count(|one| matches!(one, Outcome::Rejected(_)));
    let refusal = if alone {
        outcomes.first().and_then(Refusal::of_one)
    } else {
        (query.all_or_nothing && conflict + rejected > 0)
            .then(|| Refusal::of_all(conflict + rejected, outcomes.len()))
    };
    let refused = refusal.is_some();
    let accepted = if refused { 0 } else { count(|one| matches!(one, Outcome::Accepted)) };
    let duplicate = count(|one| matches!(one, Outcome::Duplicate));
    let mut out = Vec::with_capacity(120 + outcomes.len() * 80);
    out.push(b'{');
    if let Some(refusal) = &refusal {
        refusal.write(&mut out);
    }
    let _ = write!(out, r#""accepted":{accepted},"duplicate":{duplicate},"conflict":{conflict},"#);
    let _ = write!(out, r#""rejected":{rejected},"results":["#);
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
            Outcome::Conflict => {
                let _ = write!(out, r#","field":"id","rule":"{KEY_REUSED}","detail":"{KEY_REUSED_DETAIL}""#);
            }
            Outcome::Accepted | Outcome::Duplicate => {}
        }
        out.push(b'}');
        before = ",";
    }
    out.extend_from_slice(b"]}");
    let status = refusal.map_or(StatusCode::OK, |refusal| refusal.status);
    let content_type = if refused { "application/problem+json" } else { "application/json" };
    let mut response = HttpResponse::build(status).content_type(content_type).body(out);
    if refused {
        response.extensions_mut().insert(ProblemCode("not_stored"));
    }
    response
}

/// Why a request as a whole is answered with a problem.
struct Refusal<'a> {
    status: StatusCode,
    code: &'a str,
    title: &'static str,
    detail: Cow<'a, str>,
    field: Option<&'a str>,
}

impl<'a> Refusal<'a> {
    /// `all_or_nothing`, and some cannot be stored.
    fn of_all(bad: usize, events: usize) -> Self {
        let detail = format!(
            "{bad} of {events} events cannot be stored, so none was: mend or leave out those that the \
                results name"
        );
        Self {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            code: "not_stored",
            title: "Nothing was stored",
            detail: detail.into(),
            field: None,
        }
    }

    /// An event that was sent alone, and was not taken: its rule is the code of the problem.
    fn of_one(outcome: &'a Outcome) -> Option<Self> {
        let title = "The usage event was not taken";
        match outcome {
            Outcome::Accepted | Outcome::Duplicate => None,
            Outcome::Conflict => Some(Self {
                status: StatusCode::CONFLICT,
                code: KEY_REUSED,
                title,
                detail: KEY_REUSED_DETAIL.into(),
                field: Some("id"),
            }),
            Outcome::Rejected(rejection) => Some(Self {
                status: match rejection.rule {
                    "unknown_org" => StatusCode::NOT_FOUND,
                    "quota_exceeded" | "battery_exhausted" => StatusCode::CONFLICT,
                    "missing_scope" => StatusCode::FORBIDDEN,
                    _ => StatusCode::BAD_REQUEST,
                },
                code: rejection.rule,
                title,
                detail: rejection.detail.as_str().into(),
                field: Some(&*rejection.field).filter(|field| !field.is_empty()),
            }),
        }
    }

    /// The members of the problem, before those of the answer.
    fn write(&self, out: &mut Vec<u8>) {
        let (code, status) = (self.code, self.status.as_u16());
        // Writing to a Vec cannot fail.
        let _ = write!(
            out,
            r#""type":"about:blank#{code}","title":"{}","status":{status},"code":"{code}","detail":"#,
            self.title
        );
        string(out, &self.detail);
        if let Some(field) = self.field {
            out.extend_from_slice(br#","field":"#);
            string(out, field);
        }
        out.push(b',');
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    // A string always serialises.
    let _ = serde_json::to_writer(out, text);
}
