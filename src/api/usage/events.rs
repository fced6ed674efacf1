//! `POST /v1/usage`: usage events, each with its own result.

use actix_web::{HttpRequest, HttpResponse, web};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};

use super::answer::{self, NotStored, Taken};
use super::event_body::{CloudEvent, OneOrMany};
use super::intake::{self, EVENTS, EventIds, split_ids};
use crate::api::http::access::note_usage;
use crate::api::params::Params;
use crate::app::App;
use crate::auth::Principal;
use crate::error::{Error, Problem};
use crate::metering::event::{self, Outcome, Tally};
use crate::usage::ingest::IngestOptions;

/// How to store usage, and what to answer.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct UsageQuery {
    /// Store nothing when one event is rejected or in conflict.
    #[serde(default)]
    pub(super) all_or_nothing: bool,
    /// `all` (when left out): `results` lists every event. `problems`: only events that are rejected or in
    /// conflict.
    #[serde(default)]
    pub(super) results: Results,
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

/// Reports usage.
///
/// Send one event, an array, `{"events": […]}`, lines (`application/x-ndjson`), or CloudEvents 1.0 (single,
/// batch or binary mode); gzip or zstd by `Content-Encoding`; at most 10,000 events. The key of an event is
/// its org, source and id, whatever its time: it counts once, however often it is sent. The answer comes when
/// all accepted events are durable, with one result for each event. With a key of the platform, the subject
/// of a CloudEvent names the org if there is no `org` attribute.
///
/// An event that is sent alone (not in an array, `{"events": […]}` or lines) and not taken gets a problem
/// whose `code` is the event's `rule`: 404 for `unknown_org`, 403 for `missing_scope`, 409 for `key_reused`,
/// `quota_exceeded` and `battery_exhausted`, else 400. A batch gets 200, whatever the results of its events.
#[utoipa::path(
    post, path = "/v1/usage", tag = "usage", params(UsageQuery), security(("key" = ["usage:write"])),
    request_body(content(
        (OneOrMany = "application/json"), (CloudEvent = "application/cloudevents+json"),
        (Vec<CloudEvent> = "application/cloudevents-batch+json"), (String = "application/x-ndjson")
    ), description = "Usage events"),
    responses(
        (status = 200, description = "The result of each event", body = Taken),
        (status = 400,
            description = "The body cannot be read; or the one event was rejected, and the problem is as \
                with 409",
            body = Problem, content_type = "application/problem+json"),
        (status = 403, description = "The key may not; or the one event has a cost that the key may not set",
            body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "There is no such org as the one event names", body = NotStored,
            content_type = "application/problem+json"),
        (status = 409,
            description = "The one event is in conflict with another of its id, over a limit that refuses \
                it, or more than the battery holds",
            body = NotStored, content_type = "application/problem+json"),
        (status = 422,
            description = "`all_or_nothing`, and one is rejected or in conflict: nothing is stored \
                (`not_stored`)",
            body = NotStored, content_type = "application/problem+json"),
        (status = 401, description = "No valid key", body = Problem,
            content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit, or has too many events", body = Problem,
            content_type = "application/problem+json"),
        (status = 429, description = "Too much waits: send it again", body = Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not stored: send it again", body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn post(
    app: web::Data<App>,
    principal: Principal,
    mut params: Params,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let caller = intake::caller(&principal)?;
    let query: UsageQuery = params.take()?;
    params.done()?;
    let (body, _place) = intake::read_body(&app, &principal, &request, payload).await?;
    let form = intake::form(request.headers());
    let (mut ids, mut alone) = (EventIds::new(), false);
    let read = || {
        let sent = event::parse(&body, &form, EVENTS, caller.org_id.is_none())?;
        let events;
        (ids, events) = split_ids(sent.events);
        alone = sent.is_single;
        Ok(events)
    };
    let options = IngestOptions { all_or_nothing: query.all_or_nothing, new_only: false };
    let outcomes = app.usage.accept(&app.quotas, (principal.holder(), &caller), options, read).await?;
    let problem = |outcome: &Outcome| matches!(outcome, Outcome::Conflict | Outcome::Rejected(_));
    if options.all_or_nothing && outcomes.iter().any(problem) {
        // The others were not stored.
        let stored = |outcome: &&Outcome| **outcome != Outcome::Accepted;
        note_usage(
            &request,
            Tally::from_outcomes(&outcomes.iter().filter(stored).cloned().collect::<Vec<_>>()),
        );
    } else {
        intake::count(&app, &request, &outcomes);
    }
    Ok(answer::write(&ids, &outcomes, query, alone))
}

/// Does what [`post`] does before it stores anything: a benchmark compares the two.
///
/// # Errors
/// As [`post`].
pub async fn parse_only(
    app: &App,
    principal: &Principal,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let caller = intake::caller(principal)?;
    let (body, _place) = intake::read_body(app, principal, request, payload).await?;
    let form = intake::form(request.headers());
    let (ids, events) = split_ids(event::parse(&body, &form, EVENTS, caller.org_id.is_none())?.events);
    let outcome = |event: Result<_, _>| event.map_or_else(Outcome::Rejected, |_| Outcome::Accepted);
    let outcomes: Vec<Outcome> = events.into_iter().map(outcome).collect();
    Ok(answer::write(&ids, &outcomes, UsageQuery::default(), false))
}
