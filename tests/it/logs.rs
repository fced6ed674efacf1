//! What the log and the metrics show.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Daemon, Database, SECRET};

/// A daemon with its log in a file.
struct Logged {
    daemon: Daemon,
    log: tempfile::NamedTempFile,
}

impl Logged {
    fn start(database: &Database, format: &str, level: &str) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let mut command = database.command(&["serve"]);
        command
            .env("STRIPE_WEBHOOK_SECRET", SECRET)
            .env("COULOMB_LISTEN", "127.0.0.1:0")
            .env("COULOMB_LOG", level)
            .env("COULOMB_LOG_FORMAT", format)
            .stderr(File::create(log.path()).expect("a file"));
        Self { daemon: Daemon::spawn(command), log }
    }

    /// Ends it; returns its whole log.
    fn text(mut self) -> String {
        assert_eq!(self.daemon.stop(), Some(0));
        std::fs::read_to_string(self.log.path()).expect("UTF-8")
    }

    fn lines(self) -> Vec<Value> {
        self.text()
            .lines()
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}")))
            .collect()
    }

    /// Sends bytes; returns everything until the connection closes.
    fn send_raw(&self, bytes: &[u8]) -> String {
        let mut stream =
            TcpStream::connect(self.daemon.base.trim_start_matches("http://")).expect("connects");
        stream.write_all(bytes).expect("sends");
        let mut answer = String::new();
        let _ = stream.read_to_string(&mut answer);
        answer
    }
}

/// The access line of each path.
fn by_path(lines: &[Value]) -> BTreeMap<&str, &Value> {
    let access: Vec<&Value> = lines.iter().filter(|line| line["target"] == "coulomb::access").collect();
    let by_path: BTreeMap<&str, &Value> =
        access.iter().map(|line| (line["path"].as_str().expect("a path"), *line)).collect();
    assert_eq!(by_path.len(), access.len(), "one line each");
    by_path
}

#[tokio::test]
async fn a_line_says_who_asked_for_what_and_what_came_of_it() {
    let database = Database::new();
    database.meter(1, "call", "count", "", None);
    let key = database.key("admin", None);
    let logged = Logged::start(&database, "json", "info");
    let daemon = &logged.daemon;
    let org = daemon.org(&key, "acme", "UTC").await;
    let own = database.key("usage:write,billing:read", Some(&org));
    let (status, _) = daemon.get("/v1/customers", &own).await;
    assert_eq!(status, 200);
    assert_eq!(daemon.get("/v1/meters/none", &key).await.0, 404);
    assert_eq!(daemon.get("/v1/keys", &own).await.0, 403);
    assert_eq!(daemon.get("/nowhere", "clb_live_wrong").await.0, 404);
    // Only refused requests are logged; successful ones appear at `debug`.
    let call = |id: &str, name: &str| json!({ "id": id, "source": "s", "event_name": name });
    daemon.usage(&own, &json!([call("1", "call")])).await;
    daemon.usage(&own, &json!([call("1", "call"), call("2", "call"), call("3", "unknown")])).await;
    let (status, _) = daemon.deliver_raw(b"{}".to_vec(), b"t=1,v1=00").await;
    assert_eq!(status, 400);
    let lines = logged.lines();
    let by_path = by_path(&lines);
    let paths: BTreeSet<&str> = by_path.keys().copied().collect();
    let expected = [
        "/nowhere",
        "/v1/customers",
        "/v1/keys",
        "/v1/meters/none",
        "/v1/orgs",
        "/v1/usage",
        "/webhooks/stripe",
    ];
    assert_eq!(paths, BTreeSet::from(expected));

    let line = by_path["/v1/orgs"];
    assert_eq!(
        (&line["status"], &line["method"], &line["route"]),
        (&json!(201), &json!("POST"), &json!("/v1/orgs"))
    );
    for member in ["request_id", "key_id", "client", "micros", "request_bytes", "answer_bytes"] {
        assert!(!line[member].is_null(), "{member}: {line}");
    }
    assert_eq!(
        (&line["client"], &line["org"], &line["code"]),
        (&json!("127.0.0.1"), &Value::Null, &Value::Null)
    );
    assert!(line["answer_bytes"].as_u64() > Some(50), "{line}");
    let line = by_path["/v1/customers"];
    assert_eq!((&line["org"], &line["status"]), (&json!(org), &json!(200)));
    assert!(own.contains(line["key_id"].as_str().expect("a key's id")));
    let codes = [("/v1/meters/none", "not_found"), ("/v1/keys", "missing_scope"), ("/nowhere", "no_route")];
    for (path, code) in codes {
        assert_eq!(by_path[path]["code"], code);
    }
    assert_eq!(by_path["/v1/meters/none"]["route"], "/v1/meters/{key}");
    let line = by_path["/v1/usage"];
    let counts = ["accepted", "duplicate", "conflict", "rejected"].map(|count| line[count].as_u64());
    assert_eq!(counts, [Some(1), Some(1), Some(0), Some(1)], "{line}");
    let line = by_path["/webhooks/stripe"];
    assert_eq!((&line["code"], &line["field"]), (&json!("invalid_signature"), &json!("Stripe-Signature")));
    assert!(line["reason"].as_str().is_some_and(|reason| reason.len() > 10), "{line}");
}

/// Bad input from outside is no error of the daemon and forges no line, and no line shows paths of the
/// machine that built the daemon.
#[tokio::test]
async fn strangers_write_no_errors_and_no_lines() {
    for format in ["json", "pretty"] {
        let database = Database::new();
        let logged = Logged::start(&database, format, "debug");
        for bytes in [
            &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..],
            b"GET / HTTP/9.9\r\n\r\n",
            b"NOT A REQUEST\r\n\r\n",
            b"POST /v1/usage HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST /v1/usage HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzzz\r\n",
            b"GET /%0a%0dERROR%1b31m HTTP/1.1\r\nX-Request-Id: a\x1bb\r\nConnection: close\r\n\r\n",
        ] {
            logged.send_raw(bytes);
        }
        let key = "clb_live_x\", \"level\": \"ERROR";
        let _ =
            logged.daemon.request(Method::GET, "/v1/orgs/a%0aERROR", "no").header("X-Key", key).send().await;
        let text = logged.text();
        assert!(!text.contains("\"level\":\"ERROR\"") && !text.contains(" ERROR "), "{text}");
        assert!(text.contains("/v1/orgs/a%0aERROR"), "a line for each request: {text}");
        assert!(!text.contains('\r'));
        for place in [env!("CARGO_MANIFEST_DIR"), ".cargo", "index.crates.io", "/rustc/"] {
            assert!(!text.contains(place), "{place}: {text}");
        }
        for line in text.lines() {
            assert!(format == "json" || line.starts_with("20"), "{line}");
            assert!(format == "pretty" || serde_json::from_str::<Value>(line).is_ok(), "{line}");
        }
    }
}

/// Every metric exists from the start, with its help; `promtool` agrees where it is installed.
#[tokio::test]
async fn metrics_exist_from_the_start() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let ask = async |accept: &str| {
        let request = daemon.http.get(format!("{}/metrics", daemon.base)).header("Accept", accept);
        let answer = request.send().await.expect("an answer");
        let content_type = answer.headers()["content-type"].to_str().expect("text").to_owned();
        (content_type, answer.text().await.expect("text"))
    };
    // An answer is counted after it is sent.
    ask("*/*").await;
    let (content_type, classic) = ask("text/plain").await;
    assert_eq!(content_type, "text/plain; version=0.0.4; charset=utf-8");
    let openmetrics = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    let (content_type, open) = ask(openmetrics).await;
    assert_eq!(content_type, openmetrics);
    assert!(open.ends_with("# EOF\n") && !classic.contains("# EOF"));

    let samples: BTreeSet<&str> = classic
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.rsplit_once(' ').expect("a value").0)
        .collect();
    let mut expected: Vec<String> = [
        "log_lines_dropped_total",
        "usage_summaries_repaired_total",
        "stripe_inbox_pending",
        "stripe_inbox_oldest_seconds",
        "stripe_inbox_quarantined",
        "battery_effects_waiting",
        "pool_connections_in_use",
        "database_up",
    ]
    .map(|name| format!("coulomb_{name}"))
    .into();
    let mut with = |name: &str, label: &str, values: &[&str]| {
        expected.extend(values.iter().map(|value| format!("coulomb_{name}{{{label}=\"{value}\"}}")));
    };
    with("stripe_deliveries_total", "outcome", &["stored", "refused"]);
    with(
        "stripe_projected_total",
        "outcome",
        &["applied", "superseded", "without_object", "failed", "repeated"],
    );
    with("usage_events_total", "outcome", &["accepted", "duplicate", "conflict", "rejected"]);
    let kinds = [
        "http",
        "blocking",
        "other",
        "usage-writer",
        "inbox-writer",
        "quota-writer",
        "quota-reader",
        "quota-overviews",
        "org-reader",
        "projector",
        "org-listener",
        "key-sweeper",
        "usage-partitions",
        "usage-refresh",
        "reservation-sweeper",
        "local-subscriptions",
        "battery-upkeep",
        "quota-cleaner",
    ];
    with("panics_total", "thread", &kinds);
    for metric in ["worker_alive", "worker_last_turn_age_seconds", "worker_turn_seconds"] {
        let threads: Vec<String> = kinds[3..].iter().map(|kind| format!("{kind}-0")).collect();
        with(metric, "worker", &threads.iter().map(String::as_str).collect::<Vec<_>>());
    }
    let missing: Vec<&String> = expected.iter().filter(|name| !samples.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "{missing:?} of {samples:#?}");
    assert!(classic.contains("coulomb_worker_alive{worker=\"projector-0\"} 1\n"));

    let described = |what: &str| -> BTreeSet<&str> {
        let names = classic.lines().filter_map(|line| line.strip_prefix(what)?.split_once(' '));
        names
            .map(|(name, text)| {
                assert!(!text.is_empty(), "{name}");
                name
            })
            .collect()
    };
    let (helped, typed) = (described("# HELP "), described("# TYPE "));
    assert_eq!(helped, typed);
    for sample in samples {
        let name = sample.split('{').next().expect("a name");
        let base =
            ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(helped.contains(name) || helped.contains(base), "{sample} has no help");
    }
    let promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut promtool) = promtool else {
        println!("skipped: no promtool");
        return;
    };
    promtool.stdin.take().expect("piped").write_all(classic.as_bytes()).expect("it reads");
    let judged = promtool.wait_with_output().expect("it ends");
    assert!(judged.status.success(), "{}", String::from_utf8_lossy(&judged.stderr));
}
