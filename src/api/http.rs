//! What every route shares: request ids and the access log, bodies read within a bound and a deadline, the
//! caller's key.

pub(crate) mod access;

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::{InternalError, PayloadError};
use actix_web::http::Method;
use actix_web::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpMessage, HttpRequest, ResponseError, web};
use diesel::pg::PgConnection;
use futures_util::future::Either;
use futures_util::{Stream, StreamExt};
use tokio::sync::OnceCell;
use tracing::Instrument;

use self::access::{Begun, Told};
use super::params;
use crate::app::App;
use crate::auth::{self, Principal};
use crate::connections::Connection;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::panics;
use crate::shares::{Holder, Share, Shares};
use crate::time::ClockState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Largest body, in bytes, whose answer is not worth packing: an answer is about what was sent, and to start
/// a packer takes longer than to store an event.
const SMALL: u64 = 16 << 10;
/// Longest path that is logged whole, in bytes.
const PATH: usize = 1_000;

/// The request's id: the caller's `X-Request-Id` when it is short and plain, else a fresh one. Told back in
/// the answer.
#[derive(Clone, Debug)]
pub struct RequestId(String);

impl RequestId {
    /// The id given to `request`, empty outside the server.
    #[must_use]
    pub fn of(request: &HttpRequest) -> String {
        request.extensions().get::<Self>().map(|id| id.0.clone()).unwrap_or_default()
    }

    fn choose(request: &ServiceRequest) -> Self {
        let sent = request.headers().get(&REQUEST_ID).and_then(|value| value.to_str().ok());
        let plain = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic());
        Self(sent.filter(plain).map_or_else(Self::fresh, str::to_owned))
    }

    /// 64 random bits of this process and the request's number in it: random bits for each would be a system
    /// call for each.
    fn fresh() -> String {
        static PROCESS: LazyLock<u64> =
            LazyLock::new(|| getrandom::u64().expect("the system has random numbers"));
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        format!("{:016x}{:016x}", *PROCESS, NUMBER.fetch_add(1, Ordering::Relaxed))
    }
}

/// Marks, among the extensions of a response, that its body is the same bytes for all: no answer holds them
/// for itself.
pub struct Shared;

/// Gives each request an id and a span, and writes one access log line for it. A handler that panics is
/// answered for.
///
/// # Errors
/// Passes on what the service says; [`Error::Panicked`] as the answer to a panic.
pub async fn observe<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<Told>, actix_web::Error> {
    let app = request.app_data::<web::Data<App>>().cloned();
    let id = RequestId::choose(&request);
    // It is ASCII.
    let path = request.path().get(..PATH).unwrap_or(request.path());
    let span = tracing::info_span!("request", request_id = %id.0, method = %request.method(), path);
    let route = request.match_pattern().unwrap_or_else(|| "(none)".to_owned());
    let begun = Begun::of(&request);
    if request.method() == Method::POST && access::sent_bytes(&request).is_some_and(|bytes| bytes <= SMALL) {
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    let header = HeaderValue::from_str(&id.0).ok();
    request.extensions_mut().insert(id);
    let answering = async {
        panics::panic_if_test_asks("http", || request.path().to_owned());
        next.call(request).await
    };
    let answered = panics::catch_in_task(answering).instrument(span.clone()).await;
    let result = answered.unwrap_or_else(|| Err(panics::last_panic_error().into()));
    let count = |status| {
        if let Some(app) = &app {
            app.metrics.count_answer(&*route, status, begun.elapsed());
        }
    };
    match result {
        Ok(mut response) => {
            if let Some(header) = header {
                response.headers_mut().insert(REQUEST_ID, header);
            }
            count(response.status());
            Ok(begun.answered(span, &route, response))
        }
        Err(error) => {
            count(error.as_response_error().status_code());
            begun.failed(&span, &route, &error);
            let mut response = span.in_scope(|| error.error_response());
            if let Some(header) = header {
                response.headers_mut().insert(REQUEST_ID, header);
            }
            Err(InternalError::from_response(error, response).into())
        }
    }
}

/// Lets nothing be written while the clock is doubted: entries never change, so a wrong date would stay. It
/// answers [`Error::ClockJumped`].
///
/// # Errors
/// Passes on what the service says.
pub async fn refuse_when_clock_jumped<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    if !request.method().is_safe()
        && let Some(app) = request.app_data::<web::Data<App>>()
        && let ClockState::Jumped(jump) = app.clock.state()
    {
        let refused = Error::ClockJumped(jump.num_seconds()).error_response();
        return Ok(request.into_response(refused.map_into_right_body()));
    }
    Ok(next.call(request).await?.map_into_left_body())
}

/// Answers that a path with the NUL character names nothing: PostgreSQL can hold it in no text. Queries are
/// looked at in [`crate::api::params`], bodies in [`crate::json`], cursors in [`crate::page`].
///
/// # Errors
/// Passes on what the service says.
pub async fn refuse_nul<B: MessageBody>(
    request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<EitherBody<B>>, actix_web::Error> {
    if request.path().contains("%00") {
        let refusal = Error::NotFound("thing").error_response();
        return Ok(request.into_response(refusal).map_into_right_body());
    }
    next.call(request).await.map(ServiceResponse::map_into_left_body)
}

/// How a body is to be read.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Bytes of it at most.
    pub limit_bytes: usize,
    /// Time within which it must have come.
    pub deadline: Duration,
}

impl Bounds {
    /// A body of at most `limit_bytes`, in the time that a request may take to come.
    #[must_use]
    pub fn new(app: &App, limit_bytes: u32) -> Self {
        let deadline = Duration::from_secs(u64::from(app.config.request_timeout_s));
        Self { limit_bytes: limit_bytes as usize, deadline }
    }
}

/// Memory that bodies share, in KiB: each takes it as it comes, and none more than the share of its holder.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    pub kib: &'a Arc<Shares>,
    /// Whose the body is.
    pub holder: Holder,
    /// What is answered where there is not enough.
    pub full: fn(&'static str) -> Error,
}

/// Reads a whole body. It gives its memory back when the share is dropped.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::TooSlow`], [`Error::Malformed`] when the client broke off, and what
/// [`Memory::full`] says.
pub async fn read_body<S>(
    request: &HttpRequest,
    payload: &mut S,
    bounds: Bounds,
    memory: Memory<'_>,
) -> Result<(Bytes, Share), Error>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let full = || (memory.full)("requests take as much memory as they may: send it again in a second");
    let mut place = memory.kib.take(memory.holder, 1).ok_or_else(full)?;
    let grow = |bytes: usize| if place.grow(bytes / 1024 + 1) { Ok(()) } else { Err(full()) };
    let body = read_growing(request, payload, bounds, grow).await?;
    Ok((body, place))
}

/// Reads a whole body, and asks `grow` for room for so many bytes before it keeps them.
///
/// # Errors
/// As [`read_body`], and what `grow` says.
pub async fn read_growing<S>(
    request: &HttpRequest,
    payload: &mut S,
    Bounds { limit_bytes, deadline }: Bounds,
    mut grow: impl FnMut(usize) -> Result<(), Error>,
) -> Result<Bytes, Error>
where
    S: Stream<Item = Result<Bytes, PayloadError>> + Unpin,
{
    let read = async {
        let mut first = Bytes::new();
        let mut rest: Option<BytesMut> = None;
        while let Some(chunk) = payload.next().await {
            let chunk = chunk.map_err(|error| Error::Malformed(broken(request, &error)))?;
            let length = first.len().max(rest.as_ref().map_or(0, BytesMut::len)) + chunk.len();
            if length > limit_bytes {
                return Err(Error::TooLarge { limit_bytes });
            }
            grow(length)?;
            match &mut rest {
                None if first.is_empty() => first = chunk,
                None => rest = Some([first.as_ref(), chunk.as_ref()].concat().as_slice().into()),
                Some(body) => body.extend_from_slice(&chunk),
            }
        }
        Ok(rest.map_or(first, BytesMut::freeze))
    };
    let connection = request.conn_data::<Rc<Connection>>();
    connection.inspect(|connection| connection.on_body_wait());
    let read = tokio::time::timeout(deadline, read).await;
    connection.inspect(|connection| connection.on_work());
    read.map_err(|_| Error::TooSlow(deadline.as_secs()))?
}

/// Why a body ended before its end.
fn broken(request: &HttpRequest, error: &PayloadError) -> String {
    let encoding = request.headers().get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    match (error, encoding) {
        // What the unpacker says is about its own insides.
        (PayloadError::Io(_) | PayloadError::Incomplete(Some(_)), Some(encoding)) => {
            format!("the body is not whole or not `{}`, as Content-Encoding says", encoding.replace('`', "'"))
        }
        _ => format!("the body broke off: {error}"),
    }
}

/// A command's whole body, within the limits of the settings. It is read once the key is known to be valid.
pub struct Body(pub Bytes, #[allow(dead_code, reason = "its drop gives the memory back")] Share);

impl FromRequest for Body {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, mut payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let principal = Principal::from_request(&request, &mut Payload::None).await?;
            let app = request.app_data::<web::Data<App>>();
            let app = app.ok_or_else(|| Error::Internal("no App in the server".to_owned()))?;
            let bounds = Bounds::new(app, app.config.body_limit);
            let memory = Memory { kib: &app.body_memory, holder: principal.holder(), full: Error::Busy };
            let (body, share) = read_body(&request, &mut payload, bounds, memory).await?;
            Ok(Self(body, share))
        })
    }
}

impl FromRequest for Principal {
    type Error = Error;
    type Future = Either<Ready<Result<Self, Error>>, Pin<Box<dyn Future<Output = Result<Self, Error>>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(app) = request.app_data::<web::Data<App>>() else {
            return Either::Left(ready(Err(Error::Internal("no App in the server".to_owned()))));
        };
        let Some(key) = bearer(request) else {
            let error = Error::Unauthorized("send an API key: `Authorization: Bearer clb_live_…`");
            return Either::Left(ready(Err(error)));
        };
        // Told to those who have a key: no handler sees a request with a parameter that nobody reads.
        let named = params::check_names(request);
        if let Some(principal) = app.keyring.get(key, app.clock.now()) {
            known(request);
            access::note_caller(request, &principal);
            return Either::Left(ready(named.map(|()| principal)));
        }
        let (app, key, request) = (app.clone(), key.to_owned(), request.clone());
        Either::Right(Box::pin(async move {
            let looked_up = looked_up(&request);
            let principal = looked_up.get_or_try_init(|| look_up(&app, &key)).await?.clone();
            known(&request);
            access::note_caller(&request, &principal);
            named.map(|()| principal)
        }))
    }
}

/// Whose key a request carries: asked once, also when its body waits for the answer.
type LookedUp = Rc<OnceCell<Principal>>;

fn looked_up(request: &HttpRequest) -> LookedUp {
    let mut held = request.extensions_mut();
    if let Some(cell) = held.get::<LookedUp>() {
        return Rc::clone(cell);
    }
    let cell = LookedUp::default();
    held.insert(Rc::clone(&cell));
    cell
}

async fn look_up(app: &App, key: &str) -> Result<Principal, Error> {
    auth::check_form(key)?;
    let (text, since, now) = (key.to_owned(), Instant::now(), app.clock.now());
    // All who were never known share what strangers may take.
    let holder = app.keyring.last(key).map_or(Holder::Stranger, |principal| principal.holder());
    let find = move |conn: &mut PgConnection| auth::authenticate(conn, &text, now);
    let (principal, expires_at) = app.db.run_for_holder(holder, RowScope::Platform, find).await?;
    app.keyring.put(key, &principal, expires_at, since);
    Ok(principal)
}

/// The client has shown who it is: its connection is kept longer than a stranger's.
pub fn known(request: &HttpRequest) {
    request.conn_data::<Rc<Connection>>().inspect(|connection| connection.mark_known());
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
