//! Limits of requests: counted here, told in the header fields `RateLimit-Policy` and `RateLimit`
//! (draft-ietf-httpapi-ratelimit-headers-10), and noted in the audit log when they are exceeded.

use std::net::IpAddr;

use actix_web::HttpMessage;
use actix_web::HttpRequest;
use actix_web::dev::ServiceRequest;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

use super::address;
use crate::app::App;
use crate::audit::tally::{Counted, STRANGER};
use crate::auth::{PLATFORM, Principal};
use crate::error::Error;
use crate::limits::{Verdict, WINDOW_S};

const POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");
const LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// The limits' names in header fields and problems.
const KEY: &str = "key";
const ADDRESS: &str = "address";
/// Paths that are never limited: Stripe and probes must get through.
const UNLIMITED: [&str; 4] = ["/webhooks/stripe", "/healthz", "/readyz", "/metrics"];

/// What the limits say of a request that they let pass.
#[derive(Clone, Copy, Default)]
struct Passed {
    key: Option<Verdict>,
    address: Option<Verdict>,
}

/// Counts a request for its address. Without that limit it costs one comparison.
///
/// # Errors
/// [`Error::RateLimited`].
pub(super) fn count_address(app: &App, request: &ServiceRequest) -> Result<(), Error> {
    let Some(limits) = &app.addresses else { return Ok(()) };
    if UNLIMITED.contains(&request.path()) {
        return Ok(());
    }
    let Some(address) = address::client(app, request.request()) else { return Ok(()) };
    let verdict = limits.check(address);
    if verdict.wait_s.is_some() {
        let route = request.match_pattern().unwrap_or_default();
        let whose = (PLATFORM, STRANGER.to_owned());
        return Err(refuse(app, ADDRESS, whose, (verdict, Some(address), route)));
    }
    let passed = Passed { address: Some(verdict), key: None };
    request.extensions_mut().insert(passed);
    Ok(())
}

/// Counts a request for its key, once although several extractors ask for the key.
///
/// # Errors
/// [`Error::RateLimited`].
pub(super) fn count_key(app: &App, request: &HttpRequest, principal: &Principal) -> Result<(), Error> {
    principal.state.used(app.clock.now());
    if !principal.state.is_limited() {
        return Ok(());
    }
    let passed = request.extensions().get::<Passed>().copied().unwrap_or_default();
    if passed.key.is_some() {
        return Ok(());
    }
    let Some(verdict) = principal.state.count_request() else { return Ok(()) };
    if verdict.wait_s.is_some() {
        let route = request.match_pattern().unwrap_or_default();
        let whose = (principal.org_id(), format!("key:{}", principal.key_id));
        return Err(refuse(app, KEY, whose, (verdict, address::client(app, request), route)));
    }
    request.extensions_mut().insert(Passed { key: Some(verdict), ..passed });
    Ok(())
}

/// Notes a request over a limit, and makes its error.
fn refuse(
    app: &App,
    of: &'static str,
    (org_id, actor): (i64, String),
    (verdict, address, route): (Verdict, Option<IpAddr>, String),
) -> Error {
    let what = Counted { org_id, actor, action: "rate_limit.exceed", target: of.to_owned(), address };
    let detail = || json!({ "limit": verdict.quota, "window_s": WINDOW_S, "endpoint": route });
    app.tallies.count(what, detail, app.clock.now());
    let (quota, reset_s) = (verdict.quota, verdict.reset_s);
    Error::RateLimited { of, quota, reset_s, wait_s: verdict.wait_s.unwrap_or(1) }
}

/// Tells in an answer what is left of the limits that its request was counted for.
pub(super) fn tell(request: &HttpRequest, headers: &mut HeaderMap) {
    let Some(passed) = request.extensions().get::<Passed>().copied() else { return };
    let verdicts = [(KEY, passed.key), (ADDRESS, passed.address)];
    let each = |show: fn(&str, &Verdict) -> String| {
        let shown: Vec<String> = verdicts
            .iter()
            .filter_map(|(of, verdict)| verdict.as_ref().map(|verdict| show(of, verdict)))
            .collect();
        HeaderValue::from_str(&shown.join(", "))
    };
    let policy = each(|of, verdict| format!("\"{of}\";q={};w={WINDOW_S}", verdict.quota));
    let limit = each(|of, verdict| format!("\"{of}\";r={};t={}", verdict.remaining, verdict.reset_s));
    if let (Ok(policy), Ok(limit)) = (policy, limit) {
        headers.insert(POLICY, policy);
        headers.insert(LIMIT, limit);
    }
}
