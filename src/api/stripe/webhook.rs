//! `POST /webhooks/stripe`: signature over the raw bytes, one insert, 2xx. Whether the event had been
//! delivered before is found later.

use actix_web::http::header::USER_AGENT;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::http::{self, Bounds, read_growing};
use crate::app::App;
use crate::error::Error;
use crate::stripe::bodies::Memory;
use crate::stripe::event;
use crate::stripe::inbox::{Delivery, Refused};

const SIGNATURE: &str = "Stripe-Signature";

/// The answer to a delivery.
#[derive(Serialize, ToSchema)]
pub struct Received {
    /// Always true: the event is durable.
    pub received: bool,
}

/// Takes a Stripe webhook delivery.
///
/// The body is stored as it came before the answer; all other work happens after it. A repeated delivery of a
/// stored event gets the same answer, and is counted.
#[utoipa::path(
    post,
    path = "/webhooks/stripe",
    tag = "stripe",
    params(("Stripe-Signature" = String, Header, description = "`t=…,v1=…` as Stripe signs it")),
    request_body(content = Object, description = "A Stripe event", content_type = "application/json"),
    responses(
        (status = 200, description = "Stored", body = Received),
        (status = 400, description = "The signature does not hold, or the body is not a JSON object",
            body = crate::error::Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body came too slowly", body = crate::error::Problem,
            content_type = "application/problem+json"),
        (status = 413, description = "The body is over the limit", body = crate::error::Problem,
            content_type = "application/problem+json"),
        (status = 503, description = "Not stored: send it again", body = crate::error::Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn receive(
    app: web::Data<App>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    let result = take(&app, &request, payload).await;
    app.metrics.count_delivery(if result.is_ok() { "stored" } else { "refused" });
    result.map(|()| HttpResponse::Ok().json(Received { received: true }))
}

async fn take(app: &App, request: &HttpRequest, payload: web::Payload) -> Result<(), Error> {
    let (body, _memory) = verified_body(app, request, payload).await?;
    if !event::looks_like_one(&body) {
        return Err(Error::Malformed("a Stripe event is a JSON object, and this body is not".to_owned()));
    }
    let header =
        |name: &str| request.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let delivery = Delivery {
        signature: header(SIGNATURE).unwrap_or_default(),
        user_agent: header(USER_AGENT.as_str()),
        received_at: app.clock.now(),
        body,
    };
    app.inbox.store(delivery).await.map_err(|refused| {
        Error::Busy(match refused {
            Refused::Full => "more deliveries wait than are allowed to: send it again",
            Refused::Unavailable => "the database is away for the moment: send it again",
            Refused::Unknown => {
                "the database is slow, and it is not known whether this was stored: send it again"
            }
        })
    })
}

/// The body, when its signature holds, and the memory that it takes.
///
/// # Errors
/// [`Error::Signature`], [`Error::NotConfigured`] without a signing secret, [`Error::Busy`] when there is no
/// memory for it, and those of [`read_growing`].
pub async fn verified_body(
    app: &App,
    request: &HttpRequest,
    payload: web::Payload,
) -> Result<(web::Bytes, Memory), Error> {
    const FULL: Error = Error::Busy("deliveries take as much memory as they may: send it again");
    if app.signing_secrets.is_empty() {
        return Err(Error::NotConfigured(
            "STRIPE_WEBHOOK_SECRET is not set, so forged deliveries cannot be recognised",
        ));
    }
    let mut headers = request.headers().get_all(SIGNATURE);
    let header = headers.next().ok_or_else(|| Error::Signature("the header is missing".to_owned()))?;
    if headers.next().is_some() {
        return Err(Error::Signature("the header is there twice".to_owned()));
    }
    let (mut memory, mut payload) = (app.delivery_memory.begin(), payload.into_inner());
    let grow = |bytes| if memory.grow(bytes) { Ok(()) } else { Err(FULL) };
    let bounds = Bounds::new(app, app.config.webhook_body_limit);
    let body = tokio::select! {
        body = read_growing(request, &mut payload, bounds, grow) => body?,
        () = memory.ended() => return Err(FULL),
    };
    let (now, tolerance) = (app.clock.now().timestamp(), i64::from(app.config.stripe_tolerance_s));
    app.signing_secrets
        .verify(header.as_bytes(), &body, now, tolerance)
        .map_err(|error| Error::Signature(error.to_string()))?;
    http::known(request);
    if memory.keep() { Ok((body, memory)) } else { Err(FULL) }
}
