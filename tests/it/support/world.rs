//! A world for a test: its own database, daemons on it, and a key with the rights that most tests need.

use std::future::Future;
use std::ops::Deref;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use super::answer::Answer;
use super::daemon::answer;
use super::requests::{Request, Time, Usage};
use super::usage::outcome;
use super::{Daemon, Database, TestClock, requests, stripe};

/// The default scopes of a world's key.
const SCOPES: &str = "billing:write,billing:read,usage:read,usage:write";

/// A world before it starts; [`Setup::start`] builds it.
pub struct Setup {
    database: Database,
    settings: Vec<(String, String)>,
    requests: Vec<Request>,
    clock: Option<TestClock>,
    scopes: String,
    daemons: usize,
    /// The last org and meter that were named; later quotas are for them.
    last: (String, String),
}

/// A database, daemons on it, and a key of the platform.
///
/// It derefs to its [`Database`]: `world.number("SELECT …")`, `world.run(&["verify"])`.
pub struct World {
    /// At least one.
    pub daemons: Vec<Daemon>,
    pub key: String,
    /// It is dropped last, because the daemons need it.
    pub database: Database,
    clock: Option<TestClock>,
}

/// A key and the daemon that it calls.
#[derive(Clone, Copy)]
pub struct Caller<'a> {
    daemon: &'a Daemon,
    key: &'a str,
}

impl World {
    /// An empty world to describe further: `World::new().org("acme").meter("tokens").start().await`.
    #[expect(clippy::new_ret_no_self, reason = "it reads as a sentence that ends with `start`")]
    pub fn new() -> Setup {
        Self::over(Database::new())
    }

    /// A world over a database that already has data.
    pub fn over(database: Database) -> Setup {
        Setup {
            database,
            settings: Vec::new(),
            requests: Vec::new(),
            clock: None,
            scopes: SCOPES.to_owned(),
            daemons: 1,
            last: ("acme".to_owned(), "tokens".to_owned()),
        }
    }
}

impl Setup {
    /// Adds a setting of its daemons.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Uses a test clock that shows this time. The daemons then run within this process.
    pub fn at(mut self, time: &str) -> Self {
        self.clock = Some(TestClock::at(time));
        self
    }

    /// Starts this many daemons on the database.
    pub fn daemons(mut self, number: usize) -> Self {
        self.daemons = number;
        self
    }

    /// The scopes of its key, separated by commas.
    pub fn scopes(mut self, scopes: &str) -> Self {
        scopes.clone_into(&mut self.scopes);
        self
    }

    /// A request to send at the start, which must succeed.
    pub fn with(mut self, request: Request) -> Self {
        let named = |field: &str| request.body[field].as_str().map(str::to_owned);
        match request.path.as_str() {
            "/v1/orgs" => self.last.0 = named("external_id").unwrap_or_default(),
            "/v1/meters" => self.last.1 = named("key").unwrap_or_default(),
            _ => {}
        }
        self.requests.push(request);
        self
    }

    /// An org with this external id, in UTC.
    pub fn org(self, external_id: &str) -> Self {
        self.with(requests::org(external_id))
    }

    /// A meter that sums the `value` of events of the same name.
    pub fn meter(self, key: &str) -> Self {
        self.with(requests::meter(key))
    }

    /// A quota by the day, of the last org and meter.
    pub fn quota(self, limit: impl Into<Value>) -> Self {
        let (org, meter) = self.last.clone();
        self.with(requests::quota(limit).org(&org).meter(&meter))
    }

    /// Prices of the last meter in US dollars, in force for 90 days already.
    pub fn prices(self, rates: Value) -> Self {
        let now = self.clock.as_ref().map_or_else(Utc::now, TestClock::now);
        self.prices_since(now - TimeDelta::days(90), rates)
    }

    /// Prices of the last meter in US dollars, in force since this time.
    pub fn prices_since(self, time: impl Time, rates: Value) -> Self {
        let card = requests::rate_card(&self.last.1, rates).since(time.rfc3339());
        self.with(card)
    }

    /// Counts the last meter for every org: a plan that no org has names it without a limit.
    pub fn counted(self, period: &str) -> Self {
        let limit = requests::limit(Value::Null).meter(&self.last.1).period(period);
        let plan = requests::plan(&format!("counts-{}-{}", self.last.1, period)).limits([limit]);
        self.with(plan)
    }

    pub async fn start(self) -> World {
        let database = self.database;
        let settings: Vec<_> = self.settings.iter().map(|(name, value)| (&**name, &**value)).collect();
        let daemon = |_| match &self.clock {
            Some(clock) => Daemon::clocked_with(&database, clock, &settings),
            None => Daemon::with(&database, &settings),
        };
        let daemons = (0..self.daemons).map(daemon).collect();
        let key = database.key(&self.scopes, None);
        let world = World { daemons, key, database, clock: self.clock };
        for request in self.requests {
            world.send(request).await.ok();
        }
        world
    }
}

impl Deref for World {
    type Target = Database;

    fn deref(&self) -> &Database {
        &self.database
    }
}

impl World {
    /// The first daemon.
    pub fn daemon(&self) -> &Daemon {
        &self.daemons[0]
    }

    /// The world's key, calling the daemon of this number.
    pub fn on(&self, number: usize) -> Caller<'_> {
        Caller { daemon: &self.daemons[number], key: &self.key }
    }

    /// Another key, calling the first daemon.
    pub fn by<'a>(&'a self, key: &'a str) -> Caller<'a> {
        Caller { daemon: self.daemon(), key }
    }

    /// A key of an org, with the scopes of [`World::key`].
    pub fn key_of(&self, org: &str) -> String {
        self.database.key(SCOPES, Some(org))
    }

    /// Turns the world's clock.
    pub fn turn(&self, time: &str) {
        self.clock().turn(time);
    }

    /// The world's test clock.
    pub fn clock(&self) -> &TestClock {
        self.clock.as_ref().expect("a test clock: use `at`")
    }

    /// The world's time, in seconds since 1970.
    pub fn now(&self) -> i64 {
        self.clock.as_ref().map_or_else(stripe::now, |clock| clock.now().timestamp())
    }

    pub async fn send(&self, request: Request) -> Answer {
        self.on(0).send(request).await
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.on(0).get(path).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.on(0).post(path, body).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.on(0).put(path, body).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.on(0).patch(path, body).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.on(0).delete(path).await
    }

    /// Reports events in one request; returns each event's outcome, see [`Daemon::usage`].
    pub async fn usage<const N: usize>(&self, events: [Usage; N]) -> Vec<String> {
        self.on(0).usage(events).await
    }

    /// Reports one event alone; returns its outcome.
    pub async fn uses(&self, event: Usage) -> String {
        self.on(0).uses(event).await
    }

    /// Reports one event, which must be accepted.
    pub async fn used(&self, event: Usage) {
        assert_eq!(self.uses(event.clone()).await, "accepted", "{event:?}");
    }

    /// The verdict on one item.
    pub async fn check(&self, check: Request) -> Answer {
        self.on(0).check(check).await
    }

    /// All rows of a list, `limit` in each page; the path must have a query already.
    pub async fn all(&self, path: &str, limit: usize) -> Vec<Value> {
        self.on(0).all(path, limit).await
    }

    /// Reserves an amount, which must succeed; returns the reservation's id.
    pub async fn reserved(&self, reserve: Request) -> String {
        self.send(reserve).await.status(201).id()
    }

    /// Delivers an event by the world's clock; it must be acknowledged.
    pub async fn deliver(&self, event: impl Into<Value>) {
        self.daemon().deliver_at(&event.into(), self.now()).await;
    }

    /// Delivers events, eight at once, and waits until the daemon has projected them.
    pub async fn tell_at_once(&self, events: impl IntoIterator<Item = impl Into<Value>>) {
        let events: Vec<Value> = events.into_iter().map(Into::into).collect();
        self.daemon().deliver_all(&events).await;
        self.daemon().projected().await;
    }

    /// Delivers events one after the other, and waits until the daemon has projected them.
    pub async fn tell(&self, events: impl IntoIterator<Item = impl Into<Value>>) {
        for event in events {
            self.deliver(event).await;
        }
        self.daemon().projected().await;
    }

    /// Waits until caches have heard of a change.
    pub async fn settles(&self) {
        tokio::time::sleep(Duration::from_millis(600)).await;
    }

    /// `used/reserved` of every counter, in the order of slot, org, subject and period.
    pub fn counters(&self) -> String {
        let sql = "SELECT string_agg(concat(trim_scale(used), '/', trim_scale(reserved)), ' '
            ORDER BY slot_id, org_id, subject, period) FROM quota_counters";
        self.value(sql).unwrap_or_default()
    }

    /// Keys, records, summaries, counters and ledgers must agree.
    #[track_caller]
    pub fn balances(&self) {
        assert_eq!(self.unbalanced(), [] as [String; 0]);
    }

    /// Like [`World::balances`]; and `coulomb verify` must find nothing.
    #[track_caller]
    pub fn is_sound(&self) {
        self.balances();
        assert_eq!(self.run(&["verify"]), "");
    }
}

impl Caller<'_> {
    pub async fn send(&self, request: Request) -> Answer {
        let asked = format!("{} {} {}", request.method, request.path, request.body);
        let sent = self.daemon.request(request.method, &request.path, self.key);
        let sent = if request.body.is_null() { sent } else { sent.json(&request.body) };
        Answer::new(asked, answer(sent).await)
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(requests::request(Method::GET, path, Value::Null)).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.send(requests::request(Method::POST, path, body)).await
    }

    pub async fn put(&self, path: &str, body: Value) -> Answer {
        self.send(requests::request(Method::PUT, path, body)).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.send(requests::request(Method::PATCH, path, body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(requests::request(Method::DELETE, path, Value::Null)).await
    }

    /// `POST` of a text, unchanged.
    pub async fn post_text(&self, path: &str, content_type: &str, text: &str) -> Answer {
        let request = self.daemon.request(Method::POST, path, self.key).header("Content-Type", content_type);
        Answer::new(format!("POST {path} {text}"), answer(request.body(text.to_owned())).await)
    }

    /// Reports one event, written exactly so; returns its outcome.
    pub async fn uses_text(&self, text: &str) -> String {
        outcome(self.post_text("/v1/usage", "application/json", text).await.at("results.0"))
    }

    /// Reports events in one request; returns each event's outcome, see [`Daemon::usage`].
    pub async fn usage(&self, events: impl IntoIterator<Item = Usage>) -> Vec<String> {
        let events: Vec<Value> = events.into_iter().map(Usage::json).collect();
        self.daemon.usage(self.key, &json!(events)).await
    }

    /// Reports one event alone; returns its outcome.
    pub async fn uses(&self, event: Usage) -> String {
        self.daemon.usage(self.key, &event.json()).await.remove(0)
    }

    /// All rows of a list, `limit` in each page; the path must have a query already.
    pub async fn all(&self, path: &str, limit: usize) -> Vec<Value> {
        self.all_of(path, "data", limit).await
    }

    /// Like [`Caller::all`], with the rows in another field.
    pub async fn all_of(&self, path: &str, field: &str, limit: usize) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}&limit={limit}{cursor}")).await.status(200);
            assert!(page.list(field).len() <= limit, "{page}");
            rows.extend(page.list(field).to_vec());
            let Some(next) = page["next"].as_str() else { return rows };
            cursor = format!("&cursor={next}");
        }
    }

    /// The verdict on one item.
    pub async fn check(&self, check: Request) -> Answer {
        self.send(check).await.status(200).part("results.0")
    }
}

/// Asks again until the condition is true, for two minutes at most: a machine may be busy.
pub async fn until<F: Future<Output = bool>>(what: &str, mut is_so: impl FnMut() -> F) {
    let started = Instant::now();
    while !is_so().await {
        assert!(started.elapsed() < Duration::from_secs(120), "not true after two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap_or_else(|_| panic!("no time: {text}"))
}
