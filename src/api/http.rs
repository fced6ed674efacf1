//! What all routes have in common: request ids and the access log, bodies read within a limit and a deadline,
//! and the caller's key.

pub(crate) mod access;
pub(crate) mod address;
mod limits;

use std::future::{Future, Ready, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use actix_web::body::{EitherBody, MessageBody};
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::error::{InternalError, PayloadError};
use actix_web::http::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, HeaderName, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::web::{Bytes, BytesMut};
use actix_web::{FromRequest, HttpMessage, HttpRequest, ResponseError, web};
use diesel::pg::PgConnection;
use futures_util::future::Either;
use futures_util::{Stream, StreamExt};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::OnceCell;
use tracing::Instrument;

use self::access::{LoggedBody, StartedRequest};
use super::params;
use crate::app::App;
use crate::audit::tally::{Counted, STRANGER};
use crate::auth::{self, PLATFORM, Principal, ValidKey};
use crate::connections::Connection;
use crate::db::Scope as RowScope;
use crate::error::Error;
use crate::json;
use crate::panics;
use crate::shares::{Holder, Share, Shares};
use crate::time::ClockState;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Largest body, in bytes, whose answer is not worth compressing: an answer is about as long as its request,
/// and starting a compressor takes longer than storing an event.
const SMALL: u64 = 16 << 10;
/// Longest path that is logged whole, in bytes.
const PATH: usize = 1_000;

/// The request's id: the caller's `X-Request-Id` when it is short and plain, else a fresh one. The answer
/// repeats it.
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

    /// 64 random bits of this process and the request's number in it: random bits for each request would cost
    /// a system call each.
    fn fresh() -> String {
        static PROCESS: LazyLock<u64> =
            LazyLock::new(|| getrandom::u64().expect("the system has random numbers"));
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        format!("{:016x}{:016x}", *PROCESS, NUMBER.fetch_add(1, Ordering::Relaxed))
    }
}

/// An extension of a response: its body is the same bytes for all, so they count for no answer's memory.
pub struct Shared;

/// Gives each request an id and a span, writes one access log line for it, and answers where the handler
/// panics.
///
/// # Errors
/// Passes on what the service says; [`Error::Panicked`] as the answer to a panic.
pub async fn observe<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<LoggedBody>, actix_web::Error> {
    let app = request.app_data::<web::Data<App>>().cloned();
    let id = RequestId::choose(&request);
    // It is ASCII.
    let path = request.path().get(..PATH).unwrap_or(request.path());
    let span = tracing::info_span!("request", request_id = %id.0, method = %request.method(), path);
    let route = request.match_pattern().unwrap_or_else(|| "(none)".to_owned());
    let started = StartedRequest::new(&request);
    if request.method() == Method::POST && access::sent_bytes(&request).is_some_and(|bytes| bytes <= SMALL) {
        request.headers_mut().remove(ACCEPT_ENCODING);
    }
    let header = HeaderValue::from_str(&id.0).ok();
    request.extensions_mut().insert(id);
    let answering = async {
        panics::panic_if_test_asks("http", || request.path().to_owned());
        if let Some(app) = &app {
            limits::count_address(app, &request)?;
        }
        next.call(request).await
    };
    let answered = panics::catch_in_task(answering).instrument(span.clone()).await;
    let result = answered.unwrap_or_else(|| Err(panics::last_panic_error().into()));
    let count = |status| {
        if let Some(app) = &app {
            app.metrics.count_answer(&*route, status, started.elapsed());
        }
    };
    let count_refused = |request: &HttpRequest, error: Option<&actix_web::Error>| {
        if let Some(app) = &app {
            count_stranger(app, request, error.and_then(|error| error.as_error()));
        }
    };
    match result {
        Ok(mut response) => {
            if let Some(header) = header {
                response.headers_mut().insert(REQUEST_ID, header);
            }
            let request = response.request().clone();
            limits::tell(&request, response.headers_mut());
            count(response.status());
            if response.status() == StatusCode::UNAUTHORIZED {
                count_refused(response.request(), response.response().error());
            }
            Ok(started.answered(span, &route, response))
        }
        Err(error) => {
            count(error.as_response_error().status_code());
            started.failed(&span, &route, &error);
            let mut response = span.in_scope(|| error.error_response());
            if let Some(header) = header {
                response.headers_mut().insert(REQUEST_ID, header);
            }
            Err(InternalError::from_response(error, response).into())
        }
    }
}

/// Counts a request without a valid key, by the client's address.
fn count_stranger(app: &App, request: &HttpRequest, error: Option<&Error>) {
    app.metrics.auth_failures.inc();
    let what = Counted {
        org_id: PLATFORM,
        actor: STRANGER.to_owned(),
        action: "auth.fail",
        target: String::new(),
        address: address::client(app, request),
    };
    let reason = error.map(ToString::to_string);
    app.tallies.count(what, || json!({ "reason": reason }), app.clock.now());
}

/// Answers [`Error::ClockJumped`] to every request that writes while the clock is doubted: entries never
/// change, so a wrong date would stay.
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

/// Answers 404 to a path with the NUL character: no name in the database can have it (see [`crate::text`]).
/// [`crate::api::params`] checks queries, [`crate::json`] bodies, [`crate::page`] cursors.
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

/// Limits for reading a body.
#[derive(Clone, Copy)]
pub struct Bounds {
    /// Bytes at most.
    pub limit_bytes: usize,
    /// Time within which the whole body must arrive.
    pub deadline: Duration,
}

impl Bounds {
    /// At most `limit_bytes`, within the time that the settings give a request.
    #[must_use]
    pub fn new(app: &App, limit_bytes: u32) -> Self {
        let deadline = Duration::from_secs(u64::from(app.config.request_timeout_s));
        Self { limit_bytes: limit_bytes as usize, deadline }
    }
}

/// Memory that bodies share, in KiB. A body takes it while it arrives; no holder gets more than its share.
#[derive(Clone, Copy)]
pub struct Memory<'a> {
    pub kib: &'a Arc<Shares>,
    /// Whose the body is.
    pub holder: Holder,
    /// The error when there is not enough.
    pub full: fn(&'static str) -> Error,
}

/// Reads a whole body. Dropping the share gives its memory back.
///
/// # Errors
/// [`Error::TooLarge`], [`Error::TooSlow`], [`Error::Malformed`] when the client broke off, and
/// [`Memory::full`].
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

/// Reads a whole body. Calls `grow` with the length so far before it keeps more bytes.
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

/// Why a body broke off.
fn broken(request: &HttpRequest, error: &PayloadError) -> String {
    let encoding = request.headers().get(CONTENT_ENCODING).and_then(|value| value.to_str().ok());
    match (error, encoding) {
        // The decompressor's message is about its internals.
        (PayloadError::Io(_) | PayloadError::Incomplete(Some(_)), Some(encoding)) => {
            format!("the body is not whole or not `{}`, as Content-Encoding says", encoding.replace('`', "'"))
        }
        _ => format!("the body broke off: {error}"),
    }
}

/// A request's whole body, at most as long as the settings allow. It is read once the key is known to be
/// valid.
pub struct Body {
    pub bytes: Bytes,
    /// The memory that it takes, given back when this is dropped.
    _memory: Option<Share>,
}

impl Body {
    /// Of a request whose body does not count.
    #[must_use]
    pub fn none() -> Self {
        Self { bytes: Bytes::new(), _memory: None }
    }

    /// Reads it as JSON, whatever its `Content-Type`.
    ///
    /// # Errors
    /// [`Error::Malformed`] when it is not JSON; [`Error::Invalid`] names the field that does not fit.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Error> {
        json::read(&self.bytes)
    }

    /// As [`Self::read`], of a body that may be left out because all of its fields may.
    ///
    /// # Errors
    /// As [`Self::read`].
    pub fn read_optional<T: DeserializeOwned + Default>(&self) -> Result<T, Error> {
        // Some clients send `null` where they have no body.
        if matches!(self.bytes.trim_ascii(), b"" | b"null") { Ok(T::default()) } else { self.read() }
    }
}

impl FromRequest for Body {
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self, Error>>>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, mut payload) = (request.clone(), payload.take());
        Box::pin(async move {
            let principal = Principal::extract(&request).await?;
            let app = app_of(&request)?;
            let bounds = Bounds::new(&app, app.config.body_limit);
            let memory = Memory { kib: &app.body_memory, holder: principal.holder(), full: Error::Busy };
            let (bytes, memory) = read_body(&request, &mut payload, bounds, memory).await?;
            Ok(Self { bytes, _memory: Some(memory) })
        })
    }
}

/// The running program's parts.
///
/// # Errors
/// [`Error::Internal`] outside of the server.
pub(super) fn app_of(request: &HttpRequest) -> Result<web::Data<App>, Error> {
    let app = request.app_data::<web::Data<App>>();
    app.cloned().ok_or_else(|| Error::Internal("no App in the server".to_owned()))
}

impl FromRequest for Principal {
    type Error = Error;
    type Future = Either<Ready<Result<Self, Error>>, Pin<Box<dyn Future<Output = Result<Self, Error>>>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let app = match app_of(request) {
            Ok(app) => app,
            Err(error) => return Either::Left(ready(Err(error))),
        };
        let Some(key) = bearer(request) else {
            let error = Error::Unauthorized("send an API key: `Authorization: Bearer clb_live_…`");
            return Either::Left(ready(Err(error)));
        };
        // Only bearers of a key are told. No handler sees a request with a parameter that it does not read.
        let named = params::check_names(request);
        if let Some(principal) = app.keyring.get(key, app.clock.now()) {
            known(request);
            access::note_caller(request, &principal);
            let counted = limits::count_key(&app, request, &principal);
            return Either::Left(ready(counted.and(named).map(|()| principal)));
        }
        let (key, request) = (key.to_owned(), request.clone());
        Either::Right(Box::pin(async move {
            let looked_up = looked_up(&request);
            let principal = looked_up.get_or_try_init(|| look_up(&app, &key)).await?.clone();
            known(&request);
            access::note_caller(&request, &principal);
            limits::count_key(&app, &request, &principal)?;
            named.map(|()| principal)
        }))
    }
}

/// Whose key a request carries. Looked up once, although several extractors ask for it.
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
    // Keys that were never valid share what strangers may take.
    let holder = app.keyring.last(key).map_or(Holder::Stranger, |principal| principal.holder());
    let find = move |conn: &mut PgConnection| auth::authenticate(conn, &text, now);
    let found = app.db.run_for_holder(holder, RowScope::Platform, find).await?;
    let state = app.keyring.state(found.principal.org_id(), &found.principal.key_id);
    state.set_limit(found.requests_per_minute.unwrap_or(app.config.key_requests_per_minute));
    let principal = Principal { state, ..found.principal };
    app.keyring.put(key, &principal, found.expires_at, since);
    Ok(principal)
}

/// Whose key this is, as the cache or the database says: another key than that of the request.
///
/// # Errors
/// [`Error::Unauthorized`] says what is wrong with it.
pub(crate) async fn look_up_other(app: &App, caller: &Principal, key: &str) -> Result<ValidKey, Error> {
    let (text, now) = (key.to_owned(), app.clock.now());
    auth::check_form(&text)?;
    let find = move |conn: &mut PgConnection| auth::authenticate(conn, &text, now);
    let found = app.db.run_for_holder(caller.holder(), RowScope::Platform, find).await?;
    app.keyring.state(found.principal.org_id(), &found.principal.key_id).used(now);
    Ok(found)
}

/// Notes that the client has shown who it is: its connection is kept longer than a stranger's.
pub fn known(request: &HttpRequest) {
    request.conn_data::<Rc<Connection>>().inspect(|connection| connection.mark_known());
}

fn bearer(request: &HttpRequest) -> Option<&str> {
    let value = request.headers().get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, key) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}
