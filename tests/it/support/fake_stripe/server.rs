//! The server: who asks, what goes wrong, what is answered.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::web::{Bytes, Data};
use actix_web::{App, HttpRequest, HttpResponse, HttpServer};
use serde_json::Value;

use super::faults::Fault;
use super::state::{Key, RealmName, Request, State, error};
use super::store::Cause;
use super::{Handle, form};

/// The message of a request that met another one on the same object.
const LOCKED: &str = "This object cannot be accessed right now because another API request or Stripe process \
    is currently accessing it.";

/// What the fake answers, before faults.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: u16,
    pub body: String,
    pub headers: Vec<(&'static str, String)>,
}

impl Answer {
    pub fn json(status: u16, body: &Value) -> Self {
        Self { status, body: body.to_string(), headers: Vec::new() }
    }

    pub fn ok(body: &Value) -> Self {
        Self::json(200, body)
    }

    /// 400: the request is wrong.
    pub fn refusal(message: &str, code: Option<&str>, param: Option<&str>) -> Self {
        Self::json(400, &error("invalid_request_error", message, code, param))
    }

    /// 404: there is no such object.
    pub fn missing(noun: &str, id: &str) -> Self {
        let message = format!("No such {noun}: '{id}'");
        Self::json(404, &error("invalid_request_error", &message, Some("resource_missing"), Some("id")))
    }

    #[must_use]
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }
}

/// A request that was let in.
pub struct Call {
    pub method: String,
    /// The path without its first slash.
    pub path: String,
    /// The parameters of the query, and of the body.
    pub params: Value,
    pub realm: RealmName,
    pub key: Key,
    pub key_name: String,
    pub cause: Cause,
}

/// Starts the server on a thread of its own. Gives its base address and what stops it.
pub fn start(port: u16, handle: Handle) -> (String, actix_web::dev::ServerHandle) {
    let (send, receive) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        actix_web::rt::System::new().block_on(async move {
            let data = Data::new(handle);
            let make = move || {
                App::new()
                    .app_data(Data::clone(&data))
                    .app_data(actix_web::web::PayloadConfig::new(16 << 20))
                    .default_service(actix_web::web::to(respond))
            };
            let server = HttpServer::new(make).workers(1).shutdown_timeout(0).disable_signals();
            let server = server.bind(("127.0.0.1", port)).expect("a free port of 127.0.0.1");
            let url = format!("http://{}", server.addrs()[0]);
            let running = server.run();
            send.send((url, running.handle())).expect("the caller waits");
            running.await.expect("the server runs");
        });
    });
    receive.recv().expect("the server starts")
}

/// What a request holds while it is open. Dropping it frees this, also when the client has gone.
struct Open {
    handle: Handle,
    realm: RealmName,
    key: Option<String>,
    request: String,
    meter: Option<(RealmName, String, String)>,
    answer: Option<Answer>,
}

impl Drop for Open {
    fn drop(&mut self) {
        let mut state = self.handle.lock();
        if let Some(meter) = &self.meter {
            state.open_meter_calls.remove(meter);
        }
        if let Some(key) = &self.key {
            let now = state.now();
            state.answers.close(&self.realm, key, &self.request, now, self.answer.as_ref());
        }
    }
}

async fn respond(request: HttpRequest, body: Bytes, handle: Data<Handle>) -> HttpResponse {
    let handle = (**handle).clone();
    let path = request.path().trim_start_matches('/').to_owned();
    let body = String::from_utf8_lossy(&body).into_owned();
    let query = request.query_string().to_owned();
    if let Some(command) = path.strip_prefix("_fake/") {
        let answer = handle.control(request.method().as_str(), command, &query, &body);
        return plain(&answer);
    }
    let headers: BTreeMap<String, String> = request
        .headers()
        .iter()
        .filter(|(name, _)| *name != "authorization")
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect();
    let received = Request {
        method: request.method().to_string(),
        path: format!("/{path}"),
        query,
        headers,
        body,
        status: 0,
    };
    let number = handle.count_request(&received);
    let key = bearer(&request).unwrap_or_default();
    let (answer, fault) = handle.answer(&received, &key, number).await;
    handle.lock().answered(number, answer.status);
    handle.send(answer, fault, number).await
}

fn bearer(request: &HttpRequest) -> Option<String> {
    let header = request.headers().get("authorization")?.to_str().ok()?;
    if let Some(key) = header.strip_prefix("Bearer ") {
        return Some(key.trim().to_owned());
    }
    // `curl -u sk_test_…:` sends the key as the name of a user.
    use base64::Engine as _;
    let basic = base64::engine::general_purpose::STANDARD.decode(header.strip_prefix("Basic ")?).ok()?;
    String::from_utf8(basic).ok()?.split(':').next().map(str::to_owned)
}

impl Handle {
    /// Keeps the request, and calls the hook when it is its turn. Gives the request's number.
    fn count_request(&self, request: &Request) -> u64 {
        let number = {
            let mut state = self.lock();
            state.request_count += 1;
            state.requests.push(request.clone());
            state.request_count
        };
        let mut hook = self.shared.hook.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if let Some((every, hook)) = hook.as_mut()
            && number % *every == 0
        {
            hook(self);
        }
        number
    }

    async fn answer(&self, request: &Request, key: &str, number: u64) -> (Answer, Option<Fault>) {
        let admitted = self.lock().admit(request, key, number);
        let (call, fault) = match admitted {
            Ok(admitted) => admitted,
            Err(answer) => return (answer, None),
        };
        match fault {
            Some(Fault::Before(status)) => return (failure(status), fault),
            Some(Fault::Conflict) => {
                let body = error("invalid_request_error", LOCKED, Some("lock_timeout"), None);
                return (Answer::json(409, &body).with("Stripe-Should-Retry", "true"), fault);
            }
            Some(Fault::Limited(reason, seconds)) => return (limited(reason, seconds), fault),
            Some(Fault::Hang) => return (Answer::json(504, &Value::Null), fault),
            _ => {}
        }
        let mut open = match self.open(&call, request) {
            Ok(open) => open,
            Err(answer) => return (*answer, fault),
        };
        let latency = self.lock().latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let answer = self.lock().route(&call);
        let failed = matches!(fault, Some(Fault::After(500)));
        open.answer = Some(if failed { failure(500) } else { answer.clone() });
        (answer, fault)
    }

    /// Takes the idempotency key and the meter that the call needs.
    fn open(&self, call: &Call, request: &Request) -> Result<Open, Box<Answer>> {
        let mut state = self.lock();
        let now = state.now();
        let shown = format!("{} {} {}", request.method, request.path, call.params);
        let key = call.cause.idempotency_key.clone().filter(|_| call.method == "POST");
        if let Some(key) = &key
            && let Some(answer) = state.answers.open(&call.realm, key, &shown, now)
        {
            return Err(Box::new(answer));
        }
        let mut open = Open {
            handle: self.clone(),
            realm: call.realm.clone(),
            key,
            request: shown,
            meter: None,
            answer: None,
        };
        if call.path == "v1/billing/meter_events" {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            let customer = text(&call.params["payload"]["stripe_customer_id"]);
            let meter = (call.realm.clone(), customer, text(&call.params["event_name"]));
            if !state.open_meter_calls.insert(meter.clone()) {
                // `Open` locks the state when it is dropped.
                drop(state);
                let body = error("invalid_request_error", LOCKED, Some("lock_timeout"), None);
                return Err(Box::new(Answer::json(429, &body).with("Stripe-Should-Retry", "true")));
            }
            open.meter = Some(meter);
        }
        Ok(open)
    }

    /// Sends the answer, or breaks it.
    async fn send(&self, answer: Answer, fault: Option<Fault>, number: u64) -> HttpResponse {
        if matches!(fault, Some(Fault::Hang | Fault::HangAfter)) {
            std::future::pending::<()>().await;
        }
        let answer = match fault {
            Some(Fault::After(status)) => failure(status),
            _ => answer,
        };
        let (now, version) = {
            let state = self.lock();
            (state.now(), state.api_version.clone())
        };
        let status = StatusCode::from_u16(answer.status).expect("a status");
        let mut response = HttpResponse::build(status);
        let time = chrono::DateTime::from_timestamp(now, 0).expect("a time");
        response
            .insert_header(("Content-Type", "application/json"))
            .insert_header(("Date", time.format("%a, %d %b %Y %H:%M:%S GMT").to_string()))
            .insert_header(("Request-Id", request_id(number)))
            .insert_header(("Stripe-Version", version));
        for (name, value) in answer.headers {
            response.insert_header((name, value));
        }
        let body = Bytes::from(answer.body);
        let sent = match fault {
            Some(Fault::CutHeaders) => 0,
            Some(Fault::CutBody) => body.len() / 2,
            _ => return response.body(body),
        };
        let parts: [Result<Bytes, std::io::Error>; 2] =
            [Ok(body.slice(..sent)), Err(std::io::Error::other("the connection is cut"))];
        response.no_chunking(body.len() as u64).streaming(futures_util::stream::iter(parts))
    }
}

/// The id of the request with this number.
pub fn request_id(number: u64) -> String {
    format!("req_{}", super::random::token(number ^ 0x4e90, 14))
}

fn plain(answer: &Answer) -> HttpResponse {
    let status = StatusCode::from_u16(answer.status).expect("a status");
    HttpResponse::build(status).insert_header(("Content-Type", "application/json")).body(answer.body.clone())
}

fn failure(status: u16) -> Answer {
    let body = error("api_error", "An unknown error occurred", None, None);
    let answer = Answer::json(status, &body);
    // Only Stripe's own failures say that they may be repeated.
    if status >= 500 { answer.with("Stripe-Should-Retry", "true") } else { answer }
}

fn limited(reason: &str, seconds: u64) -> Answer {
    let message = "Request rate limit exceeded. You can learn more about rate limits here \
        https://stripe.com/docs/rate-limits.";
    let body = error("invalid_request_error", message, Some("rate_limit"), None);
    Answer::json(429, &body)
        .with("Stripe-Rate-Limited-Reason", reason)
        .with("Retry-After", &seconds.to_string())
        .with("Stripe-Should-Retry", "true")
}

impl State {
    /// Who asks, whether he may now, and what goes wrong.
    fn admit(&mut self, request: &Request, key: &str, number: u64) -> Result<(Call, Option<Fault>), Answer> {
        let Some(known) = self.keys.get(key).cloned() else {
            let shown: String = key.chars().take(8).collect();
            let message = if key.is_empty() {
                "You did not provide an API key.".to_owned()
            } else {
                format!("Invalid API Key provided: {shown}***")
            };
            let body = error("invalid_request_error", &message, None, None);
            return Err(Answer::json(401, &body));
        };
        let account = request.headers.get("stripe-account").cloned().unwrap_or_default();
        let account = if account == super::PLATFORM { String::new() } else { account };
        let realm = RealmName { account, livemode: known.livemode };
        let platform = RealmName { account: String::new(), livemode: known.livemode };
        if !realm.account.is_empty() && self.realm(&platform).find("account", &realm.account).is_none() {
            let message = format!(
                "The provided key does not have access to account '{}' (or that account does not exist). \
                 Application access may have been revoked.",
                realm.account
            );
            let body = error("invalid_request_error", &message, Some("account_invalid"), None);
            return Err(Answer::json(403, &body));
        }
        if !self.faults.admits(&realm) {
            return Err(limited("global-rate", 1));
        }
        let fault = self.faults.choose(&request.path);
        let mut params = form::parse(&request.query);
        if request.method == "POST" {
            super::shapes::merge(&mut params, &form::parse(&request.body));
        }
        let cause = Cause {
            id: Some(request_id(number)),
            idempotency_key: request.headers.get("idempotency-key").cloned(),
        };
        let path = request.path.trim_matches('/').to_owned();
        let method = request.method.clone();
        let key_name = key.to_owned();
        Ok((Call { method, path, params, realm, key: known, key_name, cause }, fault))
    }

    fn answered(&mut self, number: u64, status: u16) {
        // Tests may have forgotten requests meanwhile.
        let back = usize::try_from(self.request_count - number).expect("a small number");
        let length = self.requests.len();
        if let Some(request) = length.checked_sub(back + 1).and_then(|at| self.requests.get_mut(at)) {
            request.status = status;
        }
    }
}
