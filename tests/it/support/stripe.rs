//! Stripe's side: signs and delivers events.

use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit, Mac};
use reqwest::StatusCode;
use serde_json::Value;
use sha2::Sha256;

use super::{Daemon, SECRET};

/// Seconds since 1970.
pub fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
        .expect("in range")
}

/// The `v1` signature of `body` at `t`.
pub fn v1(secret: &str, t: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(format!("{t}.").as_bytes());
    mac.update(body);
    hex::encode(mac.finalize().into_bytes())
}

/// The header that Stripe sends with `body` now.
pub fn signature(body: &[u8]) -> String {
    signature_at(body, now())
}

/// The header that Stripe sends with `body` at unix second `t`.
pub fn signature_at(body: &[u8], t: i64) -> String {
    format!("t={t},v1={}", v1(SECRET, t, body))
}

impl Daemon {
    /// Delivers raw bytes with this signature header.
    pub async fn deliver_raw(&self, body: Vec<u8>, signature: &[u8]) -> (StatusCode, Value) {
        let header = reqwest::header::HeaderValue::from_bytes(signature).expect("a header");
        let request = self
            .http
            .post(format!("{}/webhooks/stripe", self.base))
            .header("Stripe-Signature", header)
            .body(body);
        super::daemon::answer(request).await
    }

    /// Delivers an event as Stripe does; the answer must be 200.
    pub async fn deliver(&self, event: &Value) {
        let body = event.to_string().into_bytes();
        let header = signature(&body);
        let (status, answer) = self.deliver_raw(body, header.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Like [`Daemon::deliver`], at unix second `at` of a test clock.
    pub async fn deliver_at(&self, event: &Value, at: i64) {
        let body = event.to_string().into_bytes();
        let header = signature_at(&body, at);
        let (status, answer) = self.deliver_raw(body, header.as_bytes()).await;
        assert_eq!(status, 200, "{answer}");
    }

    /// Delivers events, at most eight at once.
    pub async fn deliver_all(&self, events: &[Value]) {
        for chunk in events.chunks(8) {
            futures_util::future::join_all(chunk.iter().map(|event| self.deliver(event))).await;
        }
    }
}
