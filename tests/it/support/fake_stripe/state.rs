//! Everything that the fake knows: accounts, keys, the clock, requests, and what is due.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};

use super::faults::Faults;
use super::idempotency::StoredAnswers;
use super::store::Realm;
use super::webhooks::Webhooks;

/// An account in one mode. The platform's account has the empty name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RealmName {
    pub account: String,
    pub livemode: bool,
}

/// The id of the platform's account.
pub const PLATFORM: &str = "acct_1FakePlatform";

/// What a key may do.
#[derive(Clone, Debug)]
pub struct Key {
    pub livemode: bool,
    /// The permissions of a restricted key; `None`: everything.
    pub permissions: Option<BTreeSet<String>>,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub path: String,
    pub query: String,
    /// Names in lower case. The key is not among them.
    pub headers: BTreeMap<String, String>,
    pub body: String,
    /// What the fake answered. 0: nothing yet, or it never will.
    pub status: u16,
}

#[derive(Clone, Copy, Debug)]
pub enum Clock {
    Real,
    Fixed(i64),
}

/// Something that happens by itself at a time: the second, the realm, the object's id.
pub type Due = (i64, RealmName, String);

pub struct State {
    pub seed: u64,
    pub clock: Clock,
    pub api_version: String,
    pub keys: HashMap<String, Key>,
    pub requests: Vec<Request>,
    pub request_count: u64,
    pub faults: Faults,
    pub webhooks: Webhooks,
    pub answers: StoredAnswers,
    /// How long each request takes before its effect.
    pub latency: std::time::Duration,
    /// With a `created` window, `starting_after` skips the rest of the cursor's second.
    pub lossy_windows: bool,
    /// Calls of meter events that are not answered yet: realm, customer, event name.
    pub open_meter_calls: BTreeSet<(RealmName, String, String)>,
    pub realms: BTreeMap<RealmName, Realm>,
    /// Since when an item charges usage, where its price was exchanged.
    pub usage_since: HashMap<String, i64>,
    /// What is due, by test clock; the clock of the fake has the empty name.
    agenda: BTreeMap<String, BTreeSet<Due>>,
    due: HashMap<(RealmName, String), (String, i64)>,
    numbers: u64,
    /// The object of the last event, and its text.
    pub last_told: Option<(Arc<Value>, Arc<str>)>,
}

impl State {
    pub fn new(clock: Clock, seed: u64) -> Self {
        let key = |livemode| Key { livemode, permissions: None };
        let keys = [("sk_test_fake", false), ("sk_live_fake", true)];
        let realms = [false, true].map(|livemode| RealmName { account: String::new(), livemode });
        Self {
            seed,
            clock,
            api_version: "2025-11-17.clover".to_owned(),
            keys: keys.into_iter().map(|(name, livemode)| (name.to_owned(), key(livemode))).collect(),
            requests: Vec::new(),
            request_count: 0,
            faults: Faults::new(seed),
            webhooks: Webhooks::new(seed),
            answers: StoredAnswers::default(),
            latency: std::time::Duration::ZERO,
            lossy_windows: true,
            open_meter_calls: BTreeSet::new(),
            realms: realms.into_iter().map(|name| (name, Realm::default())).collect(),
            usage_since: HashMap::new(),
            agenda: BTreeMap::new(),
            due: HashMap::new(),
            numbers: 0,
            last_told: None,
        }
    }

    /// The unix second of the fake's clock.
    pub fn now(&self) -> i64 {
        match self.clock {
            Clock::Real => chrono::Utc::now().timestamp(),
            Clock::Fixed(second) => second,
        }
    }

    /// The time for an object: that of its test clock, if it or its customer has one.
    pub fn now_for(&self, realm: &RealmName, value: &Value) -> i64 {
        let frozen = |clock: &str| {
            self.realm(realm).find("test_helpers.test_clock", clock)?.value["frozen_time"].as_i64()
        };
        self.test_clock_of(realm, value).and_then(|clock| frozen(&clock)).unwrap_or_else(|| self.now())
    }

    pub fn test_clock_of(&self, realm: &RealmName, value: &Value) -> Option<String> {
        if let Some(clock) = value["test_clock"].as_str() {
            return Some(clock.to_owned());
        }
        let customer = self.realm(realm).find("customer", value["customer"].as_str()?)?;
        customer.value["test_clock"].as_str().map(str::to_owned)
    }

    /// A number that was not given before.
    pub fn number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    pub fn realm(&self, name: &RealmName) -> &Realm {
        static NOTHING: OnceLock<Realm> = OnceLock::new();
        self.realms.get(name).unwrap_or_else(|| NOTHING.get_or_init(Realm::default))
    }

    pub fn realm_mut(&mut self, name: &RealmName) -> &mut Realm {
        if !self.realms.contains_key(name) {
            self.realms.insert(name.clone(), Realm::default());
        }
        self.realms.get_mut(name).expect("it was just made")
    }

    /// The account as `GET /v1/account` shows it.
    pub fn account(&self, name: &RealmName) -> Value {
        let platform = RealmName { account: String::new(), livemode: name.livemode };
        if name.account.is_empty() {
            return super::shapes::template("account", PLATFORM, 1_500_000_000, name.livemode);
        }
        let known = self.realm(&platform).find("account", &name.account);
        known.map_or(Value::Null, |entry| (*entry.value).clone())
    }

    /// Keeps in mind when the next thing happens to this object.
    pub fn schedule(&mut self, realm: &RealmName, value: &Arc<Value>) {
        self.unschedule(realm, value);
        let Some(second) = next_time(value) else { return };
        let clock = self.test_clock_of(realm, value).unwrap_or_default();
        let id = value["id"].as_str().unwrap_or_default().to_owned();
        self.agenda.entry(clock.clone()).or_default().insert((second, realm.clone(), id.clone()));
        self.due.insert((realm.clone(), id), (clock, second));
    }

    pub fn unschedule(&mut self, realm: &RealmName, value: &Arc<Value>) {
        let id = value["id"].as_str().unwrap_or_default().to_owned();
        let key = (realm.clone(), id);
        if let Some((clock, second)) = self.due.remove(&key)
            && let Some(agenda) = self.agenda.get_mut(&clock)
        {
            agenda.remove(&(second, key.0, key.1));
        }
    }

    /// The next thing that is due by this clock until `until`.
    pub fn next_due(&self, clock: &str, until: i64) -> Option<Due> {
        self.agenda.get(clock)?.first().filter(|due| due.0 <= until).cloned()
    }
}

/// When something happens to the object by itself: a draft is finalised, a period or a trial ends.
fn next_time(value: &Value) -> Option<i64> {
    let status = value["status"].as_str()?;
    match value["object"].as_str()? {
        "invoice" if status == "draft" => value["automatically_finalizes_at"].as_i64(),
        "subscription" if matches!(status, "active" | "past_due" | "trialing") => {
            let items = value["items"]["data"].as_array()?;
            let ends = items.iter().filter_map(|item| item["current_period_end"].as_i64());
            ends.chain(value["cancel_at"].as_i64()).min()
        }
        _ => None,
    }
}

/// An error as Stripe writes it.
pub fn error(kind: &str, message: &str, code: Option<&str>, param: Option<&str>) -> Value {
    let mut error = json!({ "message": message, "type": kind });
    if let Some(code) = code {
        error["code"] = json!(code);
        error["doc_url"] = json!(format!("https://stripe.com/docs/error-codes/{}", code.replace('_', "-")));
    }
    if let Some(param) = param {
        error["param"] = json!(param);
    }
    json!({ "error": error })
}
