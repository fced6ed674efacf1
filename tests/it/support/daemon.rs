//! A running daemon, started as a user starts it.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use actix_web::dev::ServerHandle;
use chrono::{DateTime, Utc};
use coulomb::app::App;
use coulomb::billing::acting_realms;
use coulomb::config::Config;
use coulomb::db::{Db, DbOptions};
use coulomb::time::Clock;
use coulomb::workers::Workers;

use reqwest::{Method, RequestBuilder, StatusCode};
use serde_json::Value;

use super::{Database, SECRET};

/// A clock that the test sets.
pub struct TestClock(Arc<Mutex<DateTime<Utc>>>);

impl TestClock {
    /// A clock that shows this time (RFC 3339) until the test turns it.
    pub fn at(time: &str) -> Self {
        Self(Arc::new(Mutex::new(time.parse().expect("a time"))))
    }

    /// Sets it to this time.
    pub fn turn(&self, time: &str) {
        *self.0.lock().expect("no panic") = time.parse().expect("a time");
    }

    pub fn now(&self) -> DateTime<Utc> {
        *self.0.lock().expect("no panic")
    }

    fn clock(&self) -> Clock {
        let now = Arc::clone(&self.0);
        Clock::from_fn(move || *now.lock().expect("no panic"))
    }
}

/// A daemon in its own process or in this one; it ends when this is dropped.
pub struct Daemon {
    child: Option<Child>,
    /// Only of a daemon in this process.
    server: Option<ServerHandle>,
    /// `http://127.0.0.1:…`
    pub base: String,
    pub http: reqwest::Client,
}

impl Daemon {
    /// A daemon over `database`, with the tests' signing secret.
    pub fn start(database: &Database) -> Self {
        Self::with(database, &[])
    }

    /// Like [`Daemon::start`], with further settings.
    pub fn with(database: &Database, settings: &[(&str, &str)]) -> Self {
        let mut command = database.command(&["serve"]);
        command.env("STRIPE_WEBHOOK_SECRET", SECRET).env("COULOMB_LISTEN", "127.0.0.1:0");
        command.envs(settings.iter().copied());
        Self::spawn(command)
    }

    /// Runs `command` and waits until it listens.
    pub fn spawn(command: Command) -> Self {
        Self::try_spawn(command).expect("the daemon listens")
    }

    /// Like [`Daemon::spawn`]; `None` if the daemon ends instead, as it does while its database is away.
    pub fn try_spawn(mut command: Command) -> Option<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("the coulomb binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let Some(listens) =
            lines.find_map(|line| line.ok()?.strip_prefix("Coulomb listens on ").map(str::to_owned))
        else {
            let _ = child.wait();
            return None;
        };
        let base = listens.split(' ').next().expect("an address").to_owned();
        // Read the rest of the output, so that the pipe never fills.
        std::thread::spawn(move || lines.for_each(drop));
        Some(Self { child: Some(child), server: None, base, http: reqwest::Client::new() })
    }

    /// Kills it at once, like a crash.
    pub fn kill(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A daemon in this process, on a test clock.
    pub fn clocked(database: &Database, clock: &TestClock) -> Self {
        Self::clocked_with(database, clock, &[])
    }

    /// Like [`Daemon::clocked`], with further settings.
    pub fn clocked_with(database: &Database, clock: &TestClock, settings: &[(&str, &str)]) -> Self {
        Self::on_clock(database, clock.clock(), settings)
    }

    /// Like [`Daemon::clocked`], but the daemon watches the clock for jumps, like that of a machine.
    pub fn watching(database: &Database, clock: &TestClock) -> Self {
        Self::on_clock(database, clock.clock().watched_for_jumps(), &[])
    }

    fn on_clock(database: &Database, clock: Clock, further: &[(&str, &str)]) -> Self {
        let mut settings = BTreeMap::from([
            ("COULOMB_LISTEN".to_owned(), "127.0.0.1:0".to_owned()),
            ("COULOMB_HTTP_WORKERS".to_owned(), "1".to_owned()),
            ("STRIPE_WEBHOOK_SECRET".to_owned(), SECRET.to_owned()),
            ("COULOMB_STRIPE_MODE".to_owned(), "test".to_owned()),
            ("COULOMB_MESSAGE_ALLOW_HTTP".to_owned(), "true".to_owned()),
            ("COULOMB_MESSAGE_ALLOW".to_owned(), "127.0.0.0/8".to_owned()),
        ]);
        settings.extend(further.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let config =
            Config::from_sources(&|name| settings.get(name).cloned(), &BTreeMap::new()).expect("settings");
        acting_realms::establish(&mut database.owner(), &config.acting_realms(), clock.now())
            .expect("one mode acts");
        let db = Db::new(DbOptions {
            url: database.url.clone(),
            size: 4,
            wait: Duration::from_secs(5),
            statement_timeout: Duration::ZERO,
            lock_timeout: Duration::ZERO,
            silence: Duration::from_secs(60),
            roles: true,
        });
        let (told, address) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            actix_web::rt::System::new().block_on(async move {
                let app = Arc::new(App::new(config, clock, db));
                let (server, address) = coulomb::server::bind(&app).expect("binds");
                let workers = Workers::start(&app);
                told.send((address, server.handle())).expect("the test waits");
                server.await.expect("serves");
                // Workers of a finished test would ask for their dropped database again and again.
                workers.stop();
                app.inbox.stop();
                app.usage.stop();
                app.quotas.stop();
            });
        });
        let (address, server) = address.recv().expect("it listens");
        Self {
            child: None,
            server: Some(server),
            base: format!("http://{address}"),
            http: reqwest::Client::new(),
        }
    }

    /// Peak memory of its process in MiB, where the system shows it.
    pub fn peak_mib(&self) -> Option<u64> {
        let pid = self.child.as_ref()?.id();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
        Some(line.trim().split(' ').next()?.parse::<u64>().ok()? / 1024)
    }

    /// Asks it to stop and waits; returns the exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let child = self.child.as_mut().expect("a process of its own");
        let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        child.wait().expect("it ends").code()
    }

    pub fn request(&self, method: Method, path: &str, key: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.base)).bearer_auth(key)
    }

    /// `GET` with `key`: status and JSON.
    pub async fn get(&self, path: &str, key: &str) -> (StatusCode, Value) {
        answer(self.request(Method::GET, path, key)).await
    }

    /// `GET` without a key: status and text.
    pub async fn get_text(&self, path: &str) -> (u16, String) {
        let response = self.http.get(format!("{}{path}", self.base)).send().await.expect("an answer");
        (response.status().as_u16(), response.text().await.expect("a body"))
    }

    /// `POST` of JSON with `key`: status and JSON.
    pub async fn post(&self, path: &str, key: &str, body: &Value) -> (StatusCode, Value) {
        answer(self.request(Method::POST, path, key).json(body)).await
    }

    /// The value of a metric, named with its labels.
    pub async fn metric(&self, name: &str) -> Option<i64> {
        let text = self.http.get(format!("{}/metrics", self.base)).send().await.ok()?.text().await.ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Waits until every event of the inbox is projected.
    pub async fn projected(&self) {
        let started = Instant::now();
        while self.metric("coulomb_database_up").await != Some(1)
            || self.metric("coulomb_stripe_inbox_pending").await != Some(0)
        {
            assert!(
                started.elapsed() < Duration::from_secs(120),
                "the inbox is not projected after two minutes"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sends a request; returns status and JSON (null without a body).
pub async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.expect("an answer");
    let status = response.status();
    let text = response.text().await.expect("a body");
    let body = if text.is_empty() {
        Value::Null
    } else {
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("not JSON: {text}"))
    };
    (status, body)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.kill();
        // The server gets the command at once. Only awaiting the future would wait for the end.
        drop(self.server.take().map(|server| server.stop(false)));
    }
}

impl Database {
    /// A key with `scopes`, of the platform or of an org.
    pub fn key(&self, scopes: &str, org: Option<&str>) -> String {
        let mut args = vec!["key", "create", "--scopes", scopes];
        args.extend(org.map(|org| ["--org", org]).into_iter().flatten());
        self.run(&args).trim().to_owned()
    }
}
