//! A fake Stripe that keeps Stripe's contract, for tests and for a demo: lists with cursors and windows,
//! default filters, deleted objects, cut lines, idempotent answers, rate limits, failures, webhooks, meters,
//! billing.
//!
//! It stands on its own: nothing here uses the crate that it tests. Start at [`FakeStripe::start_at`], make
//! objects with [`Account::create`], and point the program at [`FakeStripe::url`].

#![allow(dead_code, reason = "the tests and the demo program use different parts")]

mod amounts;
mod arrange;
mod change;
mod control;
mod faults;
mod form;
mod idempotency;
mod kinds;
mod life;
mod lists;
mod meter_reads;
mod meters;
mod mutate;
mod populate;
mod purchase;
mod random;
mod reads;
mod server;
mod shapes;
mod state;
mod store;
mod webhooks;
mod writes;

use std::collections::BTreeMap;
use std::ops::Deref;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use serde_json::Value;

pub use faults::{Chances, Fault};
pub use meters::MeterEvent;
pub use state::{PLATFORM, Request};
pub use webhooks::{Delivery, Endpoint};

use state::{Clock, Key, RealmName, State};
use store::Cause;

/// The keys that every fake knows.
pub const TEST_KEY: &str = "sk_test_fake";
pub const LIVE_KEY: &str = "sk_live_fake";

type Hook = Box<dyn FnMut(&Handle) + Send>;

/// What the server's threads and the test share.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Called before every n-th request.
    hook: Mutex<Option<(u64, Hook)>>,
}

/// A running fake. It stops when it is dropped.
pub struct FakeStripe {
    handle: Handle,
    url: String,
    stop: actix_web::dev::ServerHandle,
}

/// Steers a fake.
#[derive(Clone)]
pub struct Handle {
    shared: Arc<Shared>,
}

/// An account in one mode.
#[derive(Clone)]
pub struct Account {
    handle: Handle,
    realm: RealmName,
}

impl FakeStripe {
    /// A fake whose clock stands at this unix second until a test moves it.
    pub fn start_at(second: i64) -> Self {
        Self::start_on(0, Clock::Fixed(second))
    }

    /// A fake whose clock is the real one.
    pub fn start() -> Self {
        Self::start_on(0, Clock::Real)
    }

    /// A fake on this port of 127.0.0.1, with the real clock. Port 0: any free one.
    pub fn start_at_port(port: u16) -> Self {
        Self::start_on(port, Clock::Real)
    }

    fn start_on(port: u16, clock: Clock) -> Self {
        let state = Mutex::new(State::new(clock, 1));
        let handle = Handle { shared: Arc::new(Shared { state, hook: Mutex::new(None) }) };
        let (url, stop) = server::start(port, handle.clone());
        Self { handle, url, stop }
    }

    /// The base of its addresses, without `/v1`.
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for FakeStripe {
    fn drop(&mut self) {
        // The server stops when it reads the message; nobody waits for that.
        drop(self.stop.stop(false));
    }
}

impl Deref for FakeStripe {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.handle
    }
}

impl Handle {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// The account of this name in test mode; the platform's own account has the empty name.
    pub fn account(&self, account: &str) -> Account {
        self.account_in(account, false)
    }

    pub fn account_in(&self, account: &str, livemode: bool) -> Account {
        let realm = RealmName { account: account.to_owned(), livemode };
        Account { handle: self.clone(), realm }
    }

    /// Adds a connected account, in both modes.
    pub fn connect(&self, account: &str) {
        for livemode in [false, true] {
            let platform = RealmName { account: String::new(), livemode };
            let given = serde_json::json!({ "id": account });
            self.lock().create(&platform, "account", given, &Cause::default());
        }
    }

    /// Adds a restricted key with these permissions, for example `customer` or `invoice`.
    pub fn restricted_key(&self, key: &str, permissions: &[&str]) {
        let livemode = key.starts_with("rk_live_");
        let permissions = permissions.iter().map(|name| (*name).to_owned()).collect();
        self.lock().keys.insert(key.to_owned(), Key { livemode, permissions: Some(permissions) });
    }

    /// The unix second of the fake's clock.
    pub fn now(&self) -> i64 {
        self.lock().now()
    }

    /// Sets the clock. Nothing happens meanwhile: [`Handle::advance_to`] lets it happen.
    pub fn set_time(&self, second: i64) {
        self.lock().clock = Clock::Fixed(second);
    }

    /// The API version of the accounts.
    pub fn set_api_version(&self, version: &str) {
        version.clone_into(&mut self.lock().api_version);
    }

    /// Every request takes so long before its effect.
    pub fn set_latency(&self, latency: Duration) {
        self.lock().latency = latency;
    }

    /// Whether `starting_after` in a window of `created` skips the rest of the cursor's second. It does, at
    /// first: programs must not rely on more.
    pub fn set_lossy_windows(&self, lossy: bool) {
        self.lock().lossy_windows = lossy;
    }

    /// At most so many requests a second for each account and mode; `None`: any number.
    pub fn limit_requests(&self, per_second: Option<f64>) {
        self.lock().faults.limit(per_second);
    }

    /// Faults by chance. The same seed and the same requests give the same faults.
    pub fn set_faults(&self, seed: u64, chances: Chances) {
        let mut state = self.lock();
        state.faults.set_seed(seed);
        state.faults.chances = chances;
    }

    /// The fault of the next request whose path contains the text. Several calls queue up.
    pub fn fail_next(&self, path: &str, fault: Fault) {
        self.lock().faults.next.push_back((path.to_owned(), fault));
    }

    /// Calls `hook` before every n-th request, for example to change objects between two pages.
    pub fn on_every(&self, requests: u64, hook: impl FnMut(&Self) + Send + 'static) {
        *self.shared.hook.lock().expect("no panic") = Some((requests.max(1), Box::new(hook)));
    }

    /// All requests of `/v1` and `/v2` so far.
    pub fn requests(&self) -> Vec<Request> {
        self.lock().requests.clone()
    }

    pub fn forget_requests(&self) {
        self.lock().requests.clear();
    }

    /// Where events go from now on.
    pub fn set_endpoint(&self, url: &str, secret: &str) {
        let endpoint = Endpoint { url: url.to_owned(), secret: secret.to_owned() };
        self.lock().webhooks.endpoint = Some(endpoint);
    }

    /// Signs deliveries with the real time, for a receiver that does not share the fake's clock.
    pub fn sign_in_real_time(&self) {
        self.lock().webhooks.real_time = true;
    }

    /// How events are delivered: the share that never is, the share that is twice, and whether out of order.
    pub fn set_deliveries(&self, withheld: f64, repeated: f64, shuffled: bool) {
        let mut state = self.lock();
        let webhooks = &mut state.webhooks;
        (webhooks.withheld, webhooks.repeated, webhooks.shuffled) = (withheld, repeated, shuffled);
    }

    pub fn deliveries(&self) -> Vec<Delivery> {
        self.lock().webhooks.deliveries.clone()
    }

    /// The events that were withheld on purpose.
    pub fn withheld(&self) -> Vec<String> {
        self.lock().webhooks.held_back.clone()
    }

    /// How many events wait for their delivery.
    pub fn waiting(&self) -> usize {
        self.lock().webhooks.waiting()
    }
}

impl Account {
    /// Creates an object with these fields over neutral ones, and tells it. Gives the object.
    pub fn create(&self, kind: &str, fields: Value) -> Value {
        (*self.handle.lock().create(&self.realm, kind, fields, &Cause::default())).clone()
    }

    /// Changes fields of an object, and tells it. Gives the object. Panics if there is none.
    pub fn update(&self, kind: &str, id: &str, changes: Value) -> Value {
        let changed = self.handle.lock().update(&self.realm, kind, id, &changes, &Cause::default());
        (*changed.unwrap_or_else(|| panic!("there is no {kind} {id}"))).clone()
    }

    /// Changes fields of an object, and tells nobody.
    pub fn change_silently(&self, kind: &str, id: &str, changes: Value) {
        let changed = self.handle.lock().change_silently(&self.realm, kind, id, &changes);
        assert!(changed, "there is no {kind} {id}");
    }

    /// Deletes an object, and tells it. Panics if there is none.
    pub fn delete(&self, kind: &str, id: &str) {
        assert!(
            self.handle.lock().delete(&self.realm, kind, id, &Cause::default()),
            "there is no {kind} {id}"
        );
    }

    /// The object with all its lines. `None`: there is none, or it is deleted.
    pub fn find(&self, kind: &str, id: &str) -> Option<Value> {
        self.handle.lock().realm(&self.realm).find(kind, id).map(change::whole)
    }

    /// All objects of a kind, oldest first, with all their lines.
    pub fn all(&self, kind: &str) -> Vec<Value> {
        let state = self.handle.lock();
        let table = state.realm(&self.realm).table(kind);
        table.into_iter().flat_map(|table| table.living().map(change::whole)).collect()
    }

    /// The ids of all objects of a kind, oldest first.
    pub fn ids(&self, kind: &str) -> Vec<String> {
        let id = |object: &Value| object["id"].as_str().unwrap_or_default().to_owned();
        let state = self.handle.lock();
        let table = state.realm(&self.realm).table(kind);
        table.into_iter().flat_map(|table| table.living().map(|entry| id(&entry.value))).collect()
    }

    /// Every object that is not deleted, with all its lines, by id.
    pub fn state(&self) -> BTreeMap<String, Value> {
        let state = self.handle.lock();
        let of = |entry| {
            let whole = change::whole(entry);
            (whole["id"].as_str().unwrap_or_default().to_owned(), whole)
        };
        state.realm(&self.realm).all().map(|(_, entry)| of(entry)).collect()
    }

    /// How many objects of each kind there are.
    pub fn counts(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        let state = self.handle.lock();
        for (kind, _) in state.realm(&self.realm).all() {
            *counts.entry(kind).or_default() += 1;
        }
        counts
    }

    /// All events, oldest first, also those that `GET /v1/events` shows no longer.
    pub fn events(&self) -> Vec<Value> {
        let state = self.handle.lock();
        let events = state.realm(&self.realm).events.values();
        events.map(|event| event.json(&state.api_version, self.realm.livemode)).collect()
    }

    /// All thin events with their data.
    pub fn thin_events(&self) -> Vec<Value> {
        self.handle.lock().realm(&self.realm).thin_events.values().cloned().collect()
    }

    /// All meter events, in the order of their arrival.
    pub fn meter_events(&self) -> Vec<MeterEvent> {
        self.handle.lock().realm(&self.realm).meters.events.clone()
    }

    /// The usage of a customer from `start` until before `end`, by the rules of the meter.
    pub fn meter_total(&self, meter: &str, customer: &str, start: i64, end: i64) -> rust_decimal::Decimal {
        let state = self.handle.lock();
        let realm = state.realm(&self.realm);
        let meter = realm.find("billing.meter", meter).map(|entry| entry.value.clone());
        let total = meter.and_then(|meter| realm.meters.total(&meter, customer, start, end));
        total.unwrap_or_default()
    }
}
