//! The access log: one line for each request, once its answer is written or has broken off.

use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::CONTENT_LENGTH;
use actix_web::http::{Method, StatusCode};
use actix_web::web::Bytes;
use actix_web::{Error as ActixError, HttpMessage, HttpRequest};
use tracing::{Level, Span};

use crate::auth::Principal;
use crate::error::{Error, ProblemCode};
use crate::metering::event::Tally;

/// Successful requests on these routes are logged at `debug`: there are many, and the metrics count them.
const QUIET: [&str; 7] = [
    "/webhooks/stripe",
    "/v1/usage",
    "/api/v1/events",
    "/api/v1/events/batch",
    "/healthz",
    "/readyz",
    "/metrics",
];

/// Whose key the request carries.
struct Caller {
    key_id: String,
    org: Option<String>,
}

/// The outcomes of its usage events.
struct CountedEvents(Tally);

/// Adds to the line whose key the request carries.
pub(super) fn note_caller(request: &HttpRequest, principal: &Principal) {
    let caller = Caller { key_id: principal.key_id.clone(), org: principal.org.clone() };
    request.extensions_mut().insert(caller);
}

/// Adds the outcomes of usage events to the line.
pub(crate) fn note_usage(request: &HttpRequest, tally: Tally) {
    request.extensions_mut().insert(CountedEvents(tally));
}

/// What we know of a request before its answer.
pub(super) struct StartedRequest {
    started: Instant,
    client: Option<IpAddr>,
    bytes: Option<u64>,
    head: bool,
}

impl StartedRequest {
    pub(super) fn new(request: &ServiceRequest) -> Self {
        Self {
            started: Instant::now(),
            client: request.peer_addr().map(|address| address.ip()),
            bytes: sent_bytes(request),
            head: request.method() == Method::HEAD,
        }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Has the answer's body write the line when it ends.
    pub(super) fn answered<B: MessageBody + 'static>(
        self,
        span: Span,
        route: &str,
        response: ServiceResponse<B>,
    ) -> ServiceResponse<LoggedBody> {
        let line = self.line(span, route, &response);
        response.map_body(|_, body| LoggedBody {
            body: body.boxed(),
            line: line.map(Box::new),
            bytes: 0,
            whole: false,
        })
    }

    fn line<B>(&self, span: Span, route: &str, response: &ServiceResponse<B>) -> Option<Line> {
        let status = response.status();
        let request = response.request().extensions();
        let tally = request.get::<CountedEvents>().map(|counted| counted.0);
        let refused =
            status.as_u16() >= 400 || tally.is_some_and(|tally| tally.conflict + tally.rejected > 0);
        let quiet = !refused && QUIET.contains(&route);
        if quiet && !tracing::enabled!(target: "coulomb::access", Level::DEBUG) {
            return None;
        }
        let caller = request.get::<Caller>();
        let error = response.response().error().and_then(|error| error.as_error::<Error>());
        let code = response.response().extensions().get::<ProblemCode>().map(|code| code.0);
        Some(Line {
            span,
            route: route.to_owned(),
            status,
            quiet,
            micros: micros(self.started),
            started: self.started,
            code,
            field: error.and_then(Error::field).map(str::to_owned),
            // On other routes the reason may quote what was sent.
            reason: error.filter(|_| route == "/webhooks/stripe").map(ToString::to_string),
            key_id: caller.map(|caller| caller.key_id.clone()),
            org: caller.and_then(|caller| caller.org.clone()),
            client: self.client,
            request_bytes: self.bytes,
            bodiless: self.head,
            tally,
        })
    }

    /// Writes the line of a request whose handler failed without a response.
    pub(super) fn failed(&self, span: &Span, route: &str, error: &ActixError) {
        let status = error.as_response_error().status_code();
        let code = error.as_error::<Error>().map(Error::code);
        let client = self.client.map(tracing::field::display);
        let micros = micros(self.started);
        span.in_scope(|| {
            tracing::info!(
                target: "coulomb::access",
                status = status.as_u16(), route, code, micros, client, request_bytes = self.bytes, "answered"
            );
        });
    }
}

fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

/// The length of the body, as its header says.
pub(super) fn sent_bytes(request: &ServiceRequest) -> Option<u64> {
    request.headers().get(CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

struct Line {
    span: Span,
    route: String,
    status: StatusCode,
    quiet: bool,
    started: Instant,
    micros: u64,
    code: Option<&'static str>,
    field: Option<String>,
    reason: Option<String>,
    key_id: Option<String>,
    org: Option<String>,
    client: Option<IpAddr>,
    request_bytes: Option<u64>,
    /// The answer has no body, whatever its length says.
    bodiless: bool,
    tally: Option<Tally>,
}

/// The body of an answer; writes the request's line when it is dropped.
pub struct LoggedBody {
    body: BoxBody,
    line: Option<Box<Line>>,
    bytes: u64,
    whole: bool,
}

impl MessageBody for LoggedBody {
    type Error = <BoxBody as MessageBody>::Error;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let next = Pin::new(&mut self.body).poll_next(context);
        match &next {
            Poll::Ready(Some(Ok(bytes))) => self.bytes += bytes.len() as u64,
            Poll::Ready(None) => self.whole = true,
            Poll::Ready(Some(Err(_))) | Poll::Pending => {}
        }
        next
    }
}

impl Drop for LoggedBody {
    fn drop(&mut self) {
        let Some(line) = self.line.take() else { return };
        let whole = self.whole
            || line.bodiless
            || match self.body.size() {
                BodySize::None | BodySize::Sized(0) => true,
                BodySize::Sized(size) => size == self.bytes,
                BodySize::Stream => false,
            };
        line.write(self.bytes, whole);
    }
}

impl Line {
    fn write(&self, bytes: u64, whole: bool) {
        let (status, route) = (self.status.as_u16(), &*self.route);
        let (code, field, reason) = (self.code, self.field.as_deref(), self.reason.as_deref());
        let (key_id, org) = (self.key_id.as_deref(), self.org.as_deref());
        let client = self.client.map(tracing::field::display);
        let (micros, sent_micros) = (self.micros, micros(self.started));
        let broken_off = (!whole).then_some(true);
        let of_usage = |count: fn(&Tally) -> u64| self.tally.as_ref().map(count);
        macro_rules! write {
            ($level:ident) => {
                tracing::$level!(
                    target: "coulomb::access",
                    status,
                    route,
                    code,
                    field,
                    reason,
                    micros,
                    sent_micros,
                    key_id,
                    org,
                    client,
                    request_bytes = self.request_bytes,
                    answer_bytes = bytes,
                    broken_off,
                    accepted = of_usage(|tally| tally.accepted),
                    duplicate = of_usage(|tally| tally.duplicate),
                    conflict = of_usage(|tally| tally.conflict),
                    rejected = of_usage(|tally| tally.rejected),
                    "answered"
                )
            };
        }
        self.span.in_scope(|| if self.quiet { write!(debug) } else { write!(info) });
    }
}
