//! Calls to Stripe's API: one client, tolerant of what it reads.
//!
//! - Every `POST` has an `Idempotency-Key` that its caller derives from a stored row, so a repetition after a
//!   crash is the same request (<https://docs.stripe.com/api/idempotent_requests>).
//! - A request is repeated as Stripe's own libraries do: the header `stripe-should-retry` decides, else a
//!   lost connection, 408, 409 and 5xx (<https://docs.stripe.com/error-low-level>).
//! - 429 makes the account's rate smaller, and waits as long as `Retry-After` says
//!   (<https://docs.stripe.com/rate-limits>).
//! - The key is never logged.

mod error;
mod rate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use hyper::{HeaderMap, Method};
use secrecy::{ExposeSecret, SecretString};
use url::form_urlencoded::Serializer;

use self::error::is_worth_repeating;
pub use self::error::{CallError, Refusal};
use self::rate::Rates;
use crate::config::Config;
use crate::egress::{AllowList, Client, ClientOptions, Outgoing, TargetRules, WholeReply};

/// The version of Stripe's shapes that a call asks for where the account's events name none.
pub const PINNED_VERSION: &str = "2026-10-28.endive";
/// How long one request may take. Stripe's libraries wait 80 seconds.
const TIMEOUT: Duration = Duration::from_secs(60);
/// How often a request is repeated, beside the waits that 429 asks for.
const REPETITIONS: u32 = 5;
/// How long a call may wait for 429 to end.
const LONGEST_WAIT: Duration = Duration::from_secs(120);
/// A page of 100 invoices with ten lines each has some megabytes.
const ANSWER_LIMIT: usize = 64 << 20;

/// Stripe's API, called with one key. Cloning shares connections and rates.
#[derive(Clone)]
pub struct StripeClient {
    http: Client,
    key: Arc<SecretString>,
    api_base: Arc<str>,
    livemode: bool,
    rates: Arc<Rates>,
}

/// One request. `GET` by default.
#[derive(Clone, Debug)]
pub struct Call {
    method: Method,
    /// Path and query, such as `/v1/customers?limit=100`.
    path: String,
    /// `acct_…` of a connected account; empty: our own.
    account: String,
    version: Option<String>,
    content: Option<(&'static str, Bytes)>,
    idempotency_key: Option<String>,
    /// Whether the client repeats it after a failure.
    repeats: bool,
}

impl Call {
    /// Reads `path` with these query parameters.
    #[must_use]
    pub fn get(path: &str, query: &[(&str, &str)]) -> Self {
        let mut path = path.to_owned();
        if !query.is_empty() {
            path.push('?');
            path.push_str(&Serializer::new(String::new()).extend_pairs(query).finish());
        }
        Self::new(Method::GET, path)
    }

    /// Writes a form to a route of `/v1`. `idempotency_key`: the same for the same intent, at most 255
    /// characters.
    #[must_use]
    pub fn post(path: &str, form: &[(&str, &str)], idempotency_key: &str) -> Self {
        let body = Serializer::new(String::new()).extend_pairs(form).finish();
        Self {
            content: Some(("application/x-www-form-urlencoded", body.into())),
            idempotency_key: Some(idempotency_key.to_owned()),
            ..Self::new(Method::POST, path.to_owned())
        }
    }

    fn new(method: Method, path: String) -> Self {
        let account = String::new();
        Self { method, path, account, version: None, content: None, idempotency_key: None, repeats: true }
    }

    /// Its caller repeats it, with another key: under the same one Stripe answers 500 again.
    #[must_use]
    pub fn once(self) -> Self {
        Self { repeats: false, ..self }
    }

    /// On behalf of this account; empty: our own.
    #[must_use]
    pub fn of(self, account: &str) -> Self {
        Self { account: account.to_owned(), ..self }
    }

    /// In this version of Stripe's shapes.
    #[must_use]
    pub fn version(self, version: &str) -> Self {
        Self { version: Some(version.to_owned()), ..self }
    }

    /// Path and query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }
}

/// What Stripe answered, with 2xx.
#[derive(Clone, Debug)]
pub struct Answer {
    pub body: Bytes,
    /// Stripe's clock when it certainly had not read the object yet: its `Date`, less the time that the
    /// request took, less a second because `Date` has no fraction.
    pub observed: DateTime<Utc>,
    /// The version of the shapes.
    pub version: Option<String>,
    /// `req_…`, for Stripe's support.
    pub request_id: Option<String>,
}

impl Answer {
    /// The body as JSON of this form.
    ///
    /// # Errors
    /// [`CallError::Unreadable`] when it is not.
    pub fn read<'a, T: serde::Deserialize<'a>>(&'a self) -> Result<T, CallError> {
        super::json::read(&self.body).map_err(|error| CallError::Unreadable(error.to_string()))
    }
}

impl StripeClient {
    /// A client with the key of the settings; `None` if there is none.
    #[must_use]
    pub fn from_config(config: &Config) -> Option<Self> {
        let key = config.stripe_secret_key.as_ref()?;
        let base = &config.stripe_api_base;
        let host = url::Url::parse(base).ok().and_then(|base| base.host_str().map(str::to_owned));
        // The operator chose this host, so it may be inside.
        let allowed = AllowList::parse(&host.unwrap_or_default()).unwrap_or_default();
        let rules = TargetRules { allow_http: base.starts_with("http://"), allowed };
        Some(Self {
            http: Client::new(ClientOptions { rules, timeout: TIMEOUT }),
            key: Arc::new(key.clone()),
            api_base: base.trim_end_matches('/').into(),
            livemode: is_live(key),
            rates: Arc::new(Rates::new(config.stripe_requests_per_second)),
        })
    }

    /// Whether the key is of the live mode.
    #[must_use]
    pub fn livemode(&self) -> bool {
        self.livemode
    }

    /// Sends a request, and repeats it as the module's rules say.
    ///
    /// # Errors
    /// [`CallError`]. After [`CallError::Unknown`] a `POST` may have had its effect: send it again with the
    /// same key.
    pub async fn send(&self, call: &Call) -> Result<Answer, CallError> {
        let (began, mut repeated) = (Instant::now(), 0);
        loop {
            self.rates.wait(&call.account).await;
            let sent = Instant::now();
            let reply = self.http.exchange(self.outgoing(call, &self.headers(call))).await;
            let failed = match reply {
                Ok(reply) if (200..300).contains(&reply.status) => {
                    self.rates.succeeded(&call.account);
                    return Ok(answer(reply, sent.elapsed()));
                }
                Ok(reply) if reply.status == 429 => {
                    let after = retry_after(&reply.headers);
                    self.rates.limited(&call.account, after);
                    let refusal = Refusal::of(&reply);
                    tracing::debug!(path = call.path, reason = refusal.limit_reason, "Stripe asks to wait");
                    if began.elapsed() < LONGEST_WAIT && may_repeat(&reply) != Some(false) {
                        continue;
                    }
                    CallError::Refused(Box::new(refusal))
                }
                Ok(reply) => {
                    let failed = CallError::Refused(Box::new(Refusal::of(&reply)));
                    let repeat = may_repeat(&reply).unwrap_or(is_worth_repeating(reply.status));
                    if !repeat {
                        return Err(failed);
                    }
                    failed
                }
                Err(error) => CallError::Unknown(error.to_string()),
            };
            repeated += 1;
            if !call.repeats || repeated > REPETITIONS || began.elapsed() > LONGEST_WAIT {
                return Err(failed);
            }
            tokio::time::sleep(pause(repeated)).await;
        }
    }

    fn headers(&self, call: &Call) -> Vec<(&'static str, String)> {
        let mut headers = vec![("authorization", format!("Bearer {}", self.key.expose_secret()))];
        let version = call.version.as_deref().unwrap_or(PINNED_VERSION);
        headers.push(("stripe-version", version.to_owned()));
        if !call.account.is_empty() {
            headers.push(("stripe-account", call.account.clone()));
        }
        if let Some(key) = &call.idempotency_key {
            headers.push(("idempotency-key", key.clone()));
        }
        if let Some((content_type, _)) = &call.content {
            headers.push(("content-type", (*content_type).to_owned()));
        }
        headers
    }

    fn outgoing<'a>(&self, call: &Call, headers: &'a [(&'static str, String)]) -> Outgoing<'a> {
        Outgoing {
            method: call.method.clone(),
            url: format!("{}{}", self.api_base, call.path),
            headers,
            body: call.content.as_ref().map(|(_, body)| body.clone()).unwrap_or_default(),
            answer_limit: ANSWER_LIMIT,
        }
    }
}

/// Waits for calls, at most so long. For people who wait: [`StripeClient::send`] alone goes on for minutes.
///
/// # Errors
/// [`CallError::Unknown`] when there is no answer by then; else the calls' own.
pub async fn within<T>(
    limit: Duration,
    calls: impl Future<Output = Result<T, CallError>>,
) -> Result<T, CallError> {
    let late = |_| Err(CallError::Unknown(format!("no answer within {} s", limit.as_secs())));
    tokio::time::timeout(limit, calls).await.unwrap_or_else(late)
}

/// Whether a key is of the live mode: `sk_live_…`, `rk_live_…` (<https://docs.stripe.com/keys>).
fn is_live(key: &SecretString) -> bool {
    !key.expose_secret().contains("_test_")
}

/// What Stripe itself says of a repetition.
fn may_repeat(reply: &WholeReply) -> Option<bool> {
    match reply.headers.get("stripe-should-retry")?.to_str().ok()? {
        "true" => Some(true),
        "false" => Some(false),
        _ => None,
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get("retry-after")?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(60)))
}

/// 0.5, 1, 2, 4, 8 seconds, of which a random half is left out: many daemons must not come back together.
fn pause(repeated: u32) -> Duration {
    let full = Duration::from_millis(500 << repeated.min(5).saturating_sub(1));
    let mut random = [0_u8; 1];
    // Without randomness the pause is the full one.
    let _ = getrandom::fill(&mut random);
    full.mul_f64(1.0 - f64::from(random[0]) / 512.0)
}

fn answer(reply: WholeReply, took: Duration) -> Answer {
    let text = |name: &str| reply.headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let date = text("date").and_then(|date| DateTime::parse_from_rfc2822(&date).ok());
    let date = date.map_or_else(Utc::now, |date| date.to_utc());
    let took = TimeDelta::from_std(took).unwrap_or_default();
    Answer {
        observed: date - took - TimeDelta::seconds(1),
        version: text("stripe-version"),
        request_id: text("request-id"),
        body: reply.body,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_tells_its_mode() {
        for (key, live) in
            [("sk_live_1", true), ("rk_live_1", true), ("sk_test_1", false), ("rk_test_a", false)]
        {
            assert_eq!(is_live(&SecretString::from(key)), live, "{key}");
        }
    }

    #[test]
    fn a_call_encodes_what_it_sends() {
        let call = Call::get("/v1/events", &[("created[gte]", "5"), ("limit", "100")]);
        assert_eq!(call.path(), "/v1/events?created%5Bgte%5D=5&limit=100");
        let call = Call::post("/v1/invoiceitems", &[("description", "a & b")], "key");
        assert_eq!(call.content.map(|(_, body)| body), Some("description=a+%26+b".into()));
    }

    #[tokio::test]
    async fn nobody_waits_longer_than_allowed() {
        let limit = Duration::from_secs(1);
        let late = within(limit, std::future::pending::<Result<(), CallError>>()).await;
        assert_eq!(late.expect_err("late").to_string(), "Stripe did not answer: no answer within 1 s");
        assert_eq!(within(limit, async { Ok(5) }).await.expect("an answer"), 5);
    }

    #[test]
    fn pauses_grow() {
        for (repeated, least, most) in [(1, 250, 500), (2, 500, 1000), (5, 4000, 8000), (9, 4000, 8000)] {
            let pause = pause(repeated).as_millis();
            assert!((least..=most).contains(&pause), "{repeated}: {pause}");
        }
    }
}
