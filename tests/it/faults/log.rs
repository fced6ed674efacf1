//! A log that cannot be written makes no request fail: answers are correct, webhooks and usage are stored,
//! the metric counts dropped lines, and SIGTERM ends the daemon.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::events::{customer, event};
use crate::support::stripe::signature;
use crate::support::{Database, SECRET};

/// A daemon whose standard output and error the test chooses; so its address must be known before.
struct Server {
    child: Child,
    base: String,
    http: reqwest::Client,
}

impl Server {
    async fn start(database: &Database, set_up: impl FnOnce(&mut Command)) -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let mut command = database.command(&["serve"]);
        command
            .env("STRIPE_WEBHOOK_SECRET", SECRET)
            .env("COULOMB_LISTEN", free.to_string())
            // Every request writes a line.
            .env("COULOMB_LOG", "debug")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        set_up(&mut command);
        let child = command.spawn().expect("the coulomb binary runs");
        let server = Self { child, base: format!("http://{free}"), http: reqwest::Client::new() };
        server.ready().await;
        server
    }

    async fn ready(&self) {
        let begun = Instant::now();
        let ready =
            || async { Some(self.http.get(format!("{}/readyz", self.base)).send().await.ok()?.status()) };
        while ready().await.is_none_or(|status| status != 200) {
            assert!(begun.elapsed() < Duration::from_secs(60), "it is not ready after a minute");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    async fn post(&self, path: &str, key: &str, body: &Value) -> (u16, Value) {
        let request = self.http.post(format!("{}{path}", self.base)).bearer_auth(key).json(body);
        let answer = request.send().await.expect("an answer");
        (answer.status().as_u16(), answer.json().await.expect("JSON"))
    }

    async fn dropped(&self) -> u64 {
        let metrics = self.http.get(format!("{}/metrics", self.base)).send().await.expect("an answer");
        let text = metrics.text().await.expect("text");
        let line = text.lines().find_map(|line| line.strip_prefix("coulomb_log_lines_dropped_total "));
        line.expect("the metric is there").parse().expect("a number")
    }

    /// A webhook, usage and a command succeed; then SIGTERM ends the daemon with code 0.
    async fn works_and_ends(mut self, database: &Database, key: &str) {
        let delivery = event("evt_1", "customer.created", 1, customer("cus_1", None)).to_string();
        let sent = self.http.post(format!("{}/webhooks/stripe", self.base));
        let sent = sent.header("Stripe-Signature", signature(delivery.as_bytes())).body(delivery).send();
        assert_eq!(sent.await.expect("an answer").status(), 200);
        let (status, org) =
            self.post("/v1/orgs", key, &json!({ "name": "Acme", "external_id": "acme" })).await;
        assert_eq!((status, &org["external_id"]), (201, &json!("acme")));
        let usage = json!({ "id": "1", "source": "test", "org": "acme", "event_name": "call" });
        let (status, taken) = self.post("/v1/usage", key, &usage).await;
        assert_eq!((status, &taken["accepted"]), (200, &json!(1)), "{taken}");
        assert_eq!(database.number("SELECT count(*) FROM usage_records"), 1);
        let status = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(status.expect("kill runs").success());
        let begun = Instant::now();
        let ended = loop {
            if let Some(status) = self.child.try_wait().expect("a child") {
                break status;
            }
            assert!(begun.elapsed() < Duration::from_secs(60), "SIGTERM does not end it");
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        assert_eq!(ended.code(), Some(0));
        assert_eq!(database.number("SELECT count(*) FROM customers"), 1, "the delivery was projected");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn furnished() -> (Database, String) {
    let database = Database::new();
    database.meter(1, "call", "count", "", None);
    let key = database.key("admin", None);
    (database, key)
}

fn full() -> File {
    File::options().write(true).open("/dev/full").expect("a device that is always full")
}

#[tokio::test]
async fn the_reader_goes_away() {
    let (database, key) = furnished();
    let mut server = Server::start(&database, |command| {
        command.stderr(Stdio::piped());
    })
    .await;
    let mut log = BufReader::new(server.child.stderr.take().expect("piped"));
    let mut line = String::new();
    log.read_line(&mut line).expect("it logs");
    assert!(line.starts_with('{'), "{line}");
    drop(log);
    let begun = Instant::now();
    while server.dropped().await == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "lost lines were not counted");
    }
    server.works_and_ends(&database, &key).await;
}

#[tokio::test]
async fn the_reader_never_reads() {
    let (database, key) = furnished();
    let mut server = Server::start(&database, |command| {
        command.stderr(Stdio::piped());
    })
    .await;
    let mut log = server.child.stderr.take().expect("piped");
    // The pipe buffers 64 KiB and the daemon two mebibytes. Each request writes a line with its path.
    let long = "x".repeat(900);
    let begun = Instant::now();
    while server.dropped().await == 0 {
        let asked = (0..100).map(|_| server.http.get(format!("{}/{long}", server.base)).send());
        for answer in futures_util::future::join_all(asked).await {
            assert_eq!(answer.expect("an answer").status(), 404);
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "the buffer has no limit");
    }
    // Once a reader comes, the lines are whole, and say how many are missing.
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).expect("text");
        text
    });
    server.works_and_ends(&database, &key).await;
    let text = reader.join().expect("no panic");
    for line in text.lines() {
        let _: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    }
    assert!(text.contains("log lines were dropped"), "nothing says that lines are missing");
}

#[tokio::test]
async fn a_reader_that_never_reads_does_not_keep_it_from_ending() {
    let (database, key) = furnished();
    let mut server = Server::start(&database, |command| {
        command.stderr(Stdio::piped());
    })
    .await;
    let _kept_open = server.child.stderr.take().expect("piped");
    let long = "x".repeat(900);
    while server.dropped().await == 0 {
        let asked = (0..100).map(|_| server.http.get(format!("{}/{long}", server.base)).send());
        futures_util::future::join_all(asked).await;
    }
    server.works_and_ends(&database, &key).await;
}

#[tokio::test]
async fn a_full_disk_takes_neither_log_nor_greeting() {
    let (database, key) = furnished();
    let server = Server::start(&database, |command| {
        command.stderr(full()).stdout(full());
    })
    .await;
    assert!(server.dropped().await > 0);
    server.works_and_ends(&database, &key).await;
}

#[tokio::test]
async fn nobody_reads_the_greeting() {
    let (database, key) = furnished();
    let server = Server::start(&database, |command| {
        command.stdout(Stdio::piped());
    })
    .await;
    server.works_and_ends(&database, &key).await;
    let (database, key) = furnished();
    let mut closed = Command::new("true").stdin(Stdio::piped()).spawn().expect("true runs");
    let pipe = closed.stdin.take().expect("piped");
    closed.wait().expect("it ends");
    let server = Server::start(&database, |command| {
        command.stdout(pipe);
    })
    .await;
    server.works_and_ends(&database, &key).await;
}

/// The exit code of a command does not depend on its reader either.
#[test]
fn a_command_fails_with_its_own_exit_code() {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coulomb"));
    command.args(["key", "list"]).env("COULOMB_POOL_SIZE", "many").stderr(full());
    assert_eq!(command.status().expect("it runs").code(), Some(2));
}
