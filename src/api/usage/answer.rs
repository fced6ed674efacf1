//! The answer of `POST /v1/usage`: counts, and a result for each event; a problem where nothing was stored.

use std::io::Write;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, HttpResponseBuilder};
use serde::Serialize;
use utoipa::ToSchema;

use super::events::{Results, UsageQuery};
use super::intake::EventIds;
use crate::error::Problem;
use crate::metering::event::Outcome;

const KEY_REUSED: &str = "key_reused";
const KEY_REUSED_DETAIL: &str =
    "another event is stored under this org, source and id: correct it with an amendment, or use another id";

/// The results of a request's usage events.
#[derive(Serialize, ToSchema)]
pub(crate) struct Taken {
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

/// A problem with the result of each event.
#[derive(Serialize, ToSchema)]
pub(crate) struct NotStored {
    /// The problem; its code is `not_stored`, or the rule of an event that was sent alone.
    #[serde(flatten)]
    problem: Problem,
    /// The events.
    #[serde(flatten)]
    taken: Taken,
}

/// The result of one usage event.
#[derive(Serialize, ToSchema)]
pub(crate) struct EventResult {
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

/// Writes the JSON by hand, since an answer may have ten thousand results.
pub(super) fn write(
    ids: &EventIds<'_>,
    outcomes: &[Outcome],
    query: UsageQuery,
    alone: bool,
) -> HttpResponse {
    let count = |wanted: fn(&Outcome) -> bool| outcomes.iter().filter(|one| wanted(one)).count();
    let conflict = count(|one| matches!(one, Outcome::Conflict));
    let rejected = count(|one| matches!(one, Outcome::Rejected(_)));
    let refusal = if alone {
        outcomes.first().and_then(not_taken)
    } else {
        (query.all_or_nothing && conflict + rejected > 0)
            .then(|| nothing_stored(conflict + rejected, outcomes.len()))
    };
    let refused = refusal.is_some();
    let accepted = if refused { 0 } else { count(|one| matches!(one, Outcome::Accepted)) };
    let duplicate = count(|one| matches!(one, Outcome::Duplicate));
    let mut out = Vec::with_capacity(120 + outcomes.len() * 80);
    out.push(b'{');
    if let Some((_, problem)) = &refusal {
        write_problem(&mut out, problem);
    }
    let _ = write!(out, r#""accepted":{accepted},"duplicate":{duplicate},"conflict":{conflict},"#);
    let _ = write!(out, r#""rejected":{rejected},"results":["#);
    let mut before = "";
    for (index, (id, outcome)) in ids.iter().zip(outcomes).enumerate() {
        if query.results == Results::Problems && matches!(outcome, Outcome::Accepted | Outcome::Duplicate) {
            continue;
        }
        out.extend_from_slice(before.as_bytes());
        write_result(&mut out, (index, id), outcome, refused);
        before = ",";
    }
    out.extend_from_slice(b"]}");
    let status = refusal.map_or(StatusCode::OK, |(status, _)| status);
    let response = HttpResponse::build(status);
    if refused { Problem::answer(response, "not_stored", out) } else { json(response, out) }
}

/// Writes the result of one event.
fn write_result(out: &mut Vec<u8>, (index, id): (usize, &str), outcome: &Outcome, refused: bool) {
    let status = match outcome {
        Outcome::Accepted if refused => "not_stored",
        Outcome::Accepted => "accepted",
        Outcome::Duplicate => "duplicate",
        Outcome::Conflict => "conflict",
        Outcome::Rejected(_) => "rejected",
    };
    // Writing to a Vec cannot fail.
    let _ = write!(out, r#"{{"index":{index},"id":"#);
    write_string(out, id);
    let _ = write!(out, r#","status":"{status}""#);
    match outcome {
        Outcome::Rejected(rejection) => {
            out.extend_from_slice(br#","field":"#);
            write_string(out, &rejection.field);
            out.extend_from_slice(br#","rule":"#);
            write_string(out, rejection.rule);
            out.extend_from_slice(br#","detail":"#);
            write_string(out, &rejection.detail);
        }
        Outcome::Conflict => {
            let _ = write!(out, r#","field":"id","rule":"{KEY_REUSED}","detail":"{KEY_REUSED_DETAIL}""#);
        }
        Outcome::Accepted | Outcome::Duplicate => {}
    }
    out.push(b'}');
}

fn json(mut response: HttpResponseBuilder, body: Vec<u8>) -> HttpResponse {
    response.content_type("application/json").body(body)
}

/// The problem of a request with `all_or_nothing`, where `bad` events cannot be stored.
fn nothing_stored(bad: usize, events: usize) -> (StatusCode, Problem) {
    let status = StatusCode::UNPROCESSABLE_ENTITY;
    let detail = format!(
        "{bad} of {events} events cannot be stored, so none was: correct or leave out those that the \
         results name"
    );
    (status, Problem::new(status, "not_stored", "Nothing was stored", detail))
}

/// The problem of an event that was sent alone and not taken: its rule is the code.
fn not_taken(outcome: &Outcome) -> Option<(StatusCode, Problem)> {
    let (status, code, detail, field) = match outcome {
        Outcome::Accepted | Outcome::Duplicate => return None,
        Outcome::Conflict => (StatusCode::CONFLICT, KEY_REUSED, KEY_REUSED_DETAIL, "id"),
        Outcome::Rejected(rejection) => {
            let status = match rejection.rule {
                "unknown_org" => StatusCode::NOT_FOUND,
                "quota_exceeded" | "battery_exhausted" => StatusCode::CONFLICT,
                "missing_scope" => StatusCode::FORBIDDEN,
                _ => StatusCode::BAD_REQUEST,
            };
            (status, rejection.rule, rejection.detail.as_str(), &*rejection.field)
        }
    };
    let mut problem = Problem::new(status, code, "The usage event was not taken", detail.to_owned());
    problem.field = Some(field.to_owned()).filter(|field| !field.is_empty());
    Some((status, problem))
}

/// Writes the members of a problem; those of the answer follow.
fn write_problem(out: &mut Vec<u8>, problem: &Problem) {
    let members = serde_json::to_string(problem).unwrap_or_default();
    out.extend_from_slice(members.trim_matches(['{', '}']).as_bytes());
    out.push(b',');
}

fn write_string(out: &mut Vec<u8>, text: &str) {
    // A string always serialises.
    let _ = serde_json::to_writer(out, text);
}
