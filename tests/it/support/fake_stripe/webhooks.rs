//! Signs events and delivers them: in order or not, more than once, or never.

use std::sync::Arc;
use std::time::Duration;

use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;

use super::Handle;
use super::random::Random;
use super::state::{RealmName, State};

/// Where events go.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub url: String,
    pub secret: String,
}

/// What happened to a delivery. Status 0: no answer.
#[derive(Clone, Debug)]
pub struct Delivery {
    pub event: String,
    pub status: u16,
}

#[derive(Debug)]
pub struct Webhooks {
    pub endpoint: Option<Endpoint>,
    /// The share of events that are never delivered.
    pub withheld: f64,
    /// The share of events that are delivered twice.
    pub repeated: f64,
    pub shuffled: bool,
    /// Signatures have the real time, and not that of the fake's clock.
    pub real_time: bool,
    pub deliveries: Vec<Delivery>,
    /// The ids of events that were never delivered on purpose.
    pub held_back: Vec<String>,
    queue: Vec<(RealmName, String)>,
    random: Random,
}

impl Webhooks {
    pub fn new(seed: u64) -> Self {
        let random = Random::new(seed ^ 0x3eb);
        Self {
            endpoint: None,
            withheld: 0.0,
            repeated: 0.0,
            shuffled: false,
            real_time: false,
            deliveries: Vec::new(),
            held_back: Vec::new(),
            queue: Vec::new(),
            random,
        }
    }

    /// Queues an event for delivery, unless there is no endpoint or the event is withheld.
    pub fn wants(&mut self, realm: &RealmName, event: &str) -> bool {
        if self.endpoint.is_none() {
            return false;
        }
        if self.withheld > 0.0 && self.random.chance(self.withheld) {
            self.held_back.push(event.to_owned());
            return false;
        }
        self.queue.push((realm.clone(), event.to_owned()));
        true
    }

    pub fn waiting(&self) -> usize {
        self.queue.len()
    }

    /// Takes what waits, in the order of its delivery.
    fn take(&mut self) -> Vec<(RealmName, String)> {
        let mut batch = std::mem::take(&mut self.queue);
        if self.repeated > 0.0 {
            let twice: Vec<_> = batch.iter().filter(|_| self.random.chance(self.repeated)).cloned().collect();
            batch.extend(twice);
        }
        if self.shuffled {
            self.random.shuffle(&mut batch);
        }
        batch
    }
}

/// The header `Stripe-Signature` of a body at unix second `at`.
pub fn signature(secret: &str, at: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("any length");
    mac.update(format!("{at}.").as_bytes());
    mac.update(body);
    format!("t={at},v1={}", hex::encode(mac.finalize().into_bytes()))
}

impl State {
    /// The body in which the event is delivered. A connected account is named in it.
    fn delivered_body(&self, realm: &RealmName, id: &str) -> Option<Value> {
        let stored = self.realm(realm);
        if let Some(thin) = stored.thin_events.get(id) {
            let mut thin = thin.clone();
            thin.as_object_mut()?.remove("data");
            return Some(thin);
        }
        let event = stored.events.get(stored.event_ids.get(id)?)?;
        let mut body = event.json(&self.api_version, realm.livemode);
        if !realm.account.is_empty() {
            body["account"] = realm.account.clone().into();
        }
        Some(body)
    }

    fn delivered(&mut self, realm: &RealmName, id: &str, status: u16) {
        self.webhooks.deliveries.push(Delivery { event: id.to_owned(), status });
        if !(200..300).contains(&status) {
            return self.webhooks.queue.push((realm.clone(), id.to_owned()));
        }
        let stored = self.realm_mut(realm);
        if let Some(event) = stored.event_ids.get(id).and_then(|position| stored.events.get_mut(position)) {
            event.pending = false;
        }
    }
}

impl Handle {
    /// Delivers everything that waits, once. Gives how many were not answered 2xx: these wait again.
    pub async fn deliver_all(&self) -> usize {
        let (endpoint, batch) = {
            let mut state = self.lock();
            let Some(endpoint) = state.webhooks.endpoint.clone() else { return 0 };
            (endpoint, state.webhooks.take())
        };
        let client = reqwest::Client::builder().timeout(Duration::from_secs(30)).build().expect("a client");
        let mut failed = 0;
        for (realm, id) in batch {
            let (body, at) = {
                let state = self.lock();
                let Some(body) = state.delivered_body(&realm, &id) else { continue };
                let real = state.webhooks.real_time;
                let at = if real { chrono::Utc::now().timestamp() } else { state.now() };
                (body.to_string().into_bytes(), at)
            };
            let signed = signature(&endpoint.secret, at, &body);
            let request = client
                .post(&endpoint.url)
                .header("Content-Type", "application/json; charset=utf-8")
                .header("Stripe-Signature", signed)
                .body(body);
            let status = request.send().await.map_or(0, |answer| answer.status().as_u16());
            failed += usize::from(!(200..300).contains(&status));
            self.lock().delivered(&realm, &id, status);
        }
        failed
    }

    /// Delivers what waits every few milliseconds, until the fake ends.
    pub fn deliver_in_background(&self) {
        let shared = Arc::downgrade(&self.shared);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                while let Some(shared) = shared.upgrade() {
                    let failed = Handle { shared }.deliver_all().await;
                    // Stripe waits long before it repeats; a second is long for a test.
                    let pause = if failed > 0 { 1000 } else { 20 };
                    tokio::time::sleep(Duration::from_millis(pause)).await;
                }
            });
        });
    }
}
