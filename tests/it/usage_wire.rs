//! Requests of OpenMeter's and Lago's clients are accepted, and answered as the clients expect. The fixtures
//! are requests that `@openmeter/sdk` 1.0.0-beta.232 and `lago-python-client` 1.55.0 sent.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use crate::support::{Daemon, Database};

const KEYS: &str = "usage:write,usage:backfill,usage:read,billing:write";

/// An org `acme`, and a meter that sums `tokens` of `prompt`.
async fn acme(database: &Database, daemon: &Daemon) -> String {
    let key = database.key(KEYS, None);
    daemon.org(&key, "acme", "UTC").await;
    let meter = json!({
        "key": "tokens", "event_name": "prompt", "aggregation": "sum", "value_field": "tokens",
            "dimensions": ["model"],
    });
    let (status, answer) = daemon.post("/v1/meters", &key, &meter).await;
    assert_eq!(status, 201, "{answer}");
    let card = json!({
        "currency": "jpy", "rates": [{ "unit_cost": 2 }],
            "valid_from": chrono::Utc::now() - chrono::TimeDelta::days(360), "backdate": true,
    });
    assert_eq!(daemon.post("/v1/meters/tokens/rate_cards", &key, &card).await.0, 201);
    key
}

/// Sends a captured request, unchanged except for its key. Returns status, content type and body.
fn replay(daemon: &Daemon, key: &str, name: &str) -> (u16, String, Value) {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/it/fixtures/usage/{name}.http"));
    let request = std::fs::read_to_string(file).expect("a fixture");
    let request = request.replacen("Bearer KEY", &format!("Bearer {key}"), 1);
    let address = daemon.base.strip_prefix("http://").expect("http");
    let mut stream = TcpStream::connect(address).expect("the daemon listens");
    stream.set_read_timeout(Some(std::time::Duration::from_secs(30))).expect("a timeout");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut answer = Vec::new();
    loop {
        let mut part = [0; 4096];
        let read = stream.read(&mut part).expect("an answer");
        assert!(read > 0, "the daemon hung up on {name}");
        answer.extend_from_slice(&part[..read]);
        let Some(end) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
        let head = String::from_utf8(answer[..end].to_vec()).expect("text");
        let Some(body) = whole_body(&head, &answer[end + 4..]) else { continue };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
        let body = if body.is_empty() { Value::Null } else { serde_json::from_slice(&body).expect("JSON") };
        return (status, header(&head, "content-type").unwrap_or_default(), body);
    }
}

/// The whole body, unpacked. The clients ask for gzip, and get it when the answer is long.
fn whole_body(head: &str, sent: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    if header(head, "transfer-encoding").is_some() {
        let mut rest = sent;
        loop {
            let line = rest.windows(2).position(|two| two == b"\r\n")?;
            let length =
                usize::from_str_radix(std::str::from_utf8(&rest[..line]).ok()?, 16).expect("a length");
            body.extend_from_slice(rest.get(line + 2..line + 2 + length)?);
            rest = rest.get(line + 4 + length..)?;
            if length == 0 {
                break;
            }
        }
    } else {
        let length = header(head, "content-length").map_or(0, |length| length.parse().expect("a length"));
        body.extend_from_slice(sent.get(..length)?);
    }
    if header(head, "content-encoding").is_none_or(|encoding| encoding != "gzip") {
        return Some(body);
    }
    let mut unpacked = Vec::new();
    flate2::read::GzDecoder::new(body.as_slice()).read_to_end(&mut unpacked).expect("gzip");
    Some(unpacked)
}

fn header(head: &str, name: &str) -> Option<String> {
    let mut lines = head.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim().to_owned())
}

fn stored(database: &Database) -> String {
    let sql = "SELECT string_agg(source || '/' || event_id || '=' || trim_scale(quantity), ' '
        ORDER BY source, event_id) FROM usage_records";
    database.value(sql).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn openmeters_requests_are_answered_as_openmeter_does() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    for name in ["openmeter-single", "openmeter-batch", "openmeter-single", "openmeter-batch"] {
        assert_eq!(replay(&daemon, &key, name), (204, String::new(), Value::Null), "{name}");
    }
    assert_eq!(stored(&database), "my-app/om-1=100 my-app/om-2=20 my-app/om-3=3.5");
    let (status, kind, problem) = replay(&daemon, &key, "openmeter-unknown");
    assert_eq!((status, kind.as_str()), (400, "application/problem+json"));
    assert_eq!(problem["field"], "event_name", "{problem}");
    // Of several events the good ones are stored, and the problem names the bad one.
    let event = |id: &str, tokens: Value| {
        json!({ "specversion": "1.0", "id": id, "source": "s", "type": "prompt",
        "subject": "acme", "data": { "tokens": tokens } })
    };
    let mixed = json!([event("1", json!(1)), event("2", json!("many")), event("3", json!(3))]);
    let (status, problem) = daemon.post("/api/v1/events", &key, &mixed).await;
    assert_eq!(
        (status.as_u16(), problem["field"].as_str()),
        (400, Some("events[1].data.tokens")),
        "{problem}"
    );
    assert!(problem["detail"].as_str().is_some_and(|detail| detail.contains("the other events are stored")));
    assert_eq!(database.number("SELECT count(*) FROM usage_records WHERE source = 's'"), 2);
    // OpenMeter accepts the same key with other content; it changes nothing.
    let again = daemon.request(reqwest::Method::POST, "/api/v1/events", &key).json(&event("1", json!(7)));
    assert_eq!(again.send().await.expect("an answer").status().as_u16(), 204);
    assert_eq!(database.number("SELECT sum(quantity) FROM usage_records WHERE source = 's'"), 4);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn lagos_requests_are_answered_as_lago_does() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let (status, kind, answer) = replay(&daemon, &key, "lago-single");
    assert_eq!((status, kind.as_str()), (200, "application/json"), "{answer}");
    let event = &answer["event"];
    for (field, value) in [
        ("transaction_id", json!("lago-1")),
        ("external_subscription_id", json!("acme")),
        ("code", json!("prompt")),
        ("timestamp", json!("2026-01-15T10:00:00.000Z")),
        ("properties", json!({ "tokens": 100, "model": "gpt-4-turbo" })),
    ] {
        assert_eq!(event[field], value, "{field}");
    }
    assert!(event["lago_id"].is_string() && event["created_at"].is_string(), "{event}");
    let taken = |details: Value| {
        json!({ "status": 422, "error": "Unprocessable \
        Entity", "code": "validation_errors", "error_details": details })
    };
    let refused = |name: &str| {
        let (status, _, mut answer) = replay(&daemon, &key, name);
        assert_eq!(status, 422, "{name}: {answer}");
        answer.as_object_mut().expect("an object").remove("detail").expect("a sentence for people");
        answer
    };
    assert_eq!(refused("lago-single"), taken(json!({ "transaction_id": ["value_already_exist"] })));
    assert_eq!(refused("lago-unknown"), taken(json!({ "code": ["metric_not_found"] })));
    let (status, _, answer) = replay(&daemon, &key, "lago-batch");
    assert_eq!((status, answer["events"].as_array().map(Vec::len)), (200, Some(2)), "{answer}");
    assert_eq!(answer["events"][1]["transaction_id"], "lago-3");
    // One event is known, so the other is not stored either.
    let known = taken(json!({ "1": { "transaction_id": ["value_already_exist"] } }));
    assert_eq!(refused("lago-batch-duplicate"), known);
    assert_eq!(stored(&database), "lago/lago-1=100 lago/lago-2=20 lago/lago-3=3.5");
    assert_eq!(replay(&daemon, &key, "lago-defaults").0, 200);
    assert_eq!(database.number("SELECT count(*) FROM usage_keys"), 4);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
}

#[tokio::test]
async fn lagos_rules_are_told_in_lagos_words() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let good = json!({ "transaction_id": "1", "external_subscription_id": "acme", "code": "prompt",
        "properties": { "tokens": "1" } });
    let with = |field: &str, value: Value| {
        let mut event = good.clone();
        event[field] = value;
        event
    };
    for (event, details) in [
        (with("transaction_id", Value::Null), json!({ "transaction_id": ["value_is_mandatory"] })),
        (with("code", json!("")), json!({ "code": ["value_is_mandatory"] })),
        (
            with("external_subscription_id", json!("beta")),
            json!({ "external_subscription_id": ["subscription_not_found"] }),
        ),
        (
            with("external_subscription_id", Value::Null),
            json!({ "external_subscription_id": ["value_is_mandatory"] }),
        ),
        (with("timestamp", json!("today")), json!({ "timestamp": ["invalid_format"] })),
        (with("timestamp", json!(95_617_584_000_i64)), json!({ "timestamp": ["in_the_future"] })),
        (with("properties", json!({ "tokens": "x" })), json!({ "properties.tokens": ["not_a_number"] })),
        (with("properties", json!([1])), json!({ "properties": ["not_an_object"] })),
        (
            with("precise_total_amount_cents", json!("5")),
            json!({ "precise_total_amount_cents": ["missing_scope"] }),
        ),
    ] {
        let (status, answer) = daemon.post("/api/v1/events", &key, &json!({ "event": event })).await;
        assert_eq!((status.as_u16(), &answer["error_details"]), (422, &details), "{event}");
        let batch = json!({ "events": [with("transaction_id", json!("2")), event] });
        let (status, answer) = daemon.post("/api/v1/events/batch", &key, &batch).await;
        assert_eq!((status.as_u16(), &answer["error_details"]), (422, &json!({ "1": details })), "{event}");
    }
    let twice = json!({ "events": [good, good] });
    let many = json!({ "events": vec![&good; 101] });
    for (body, details) in [
        (json!({ "events": [] }), json!({ "events": ["no_events"] })),
        (many, json!({ "events": ["too_many_events"] })),
        (twice, json!({ "1": { "transaction_id": ["value_already_exist"] } })),
    ] {
        let (status, answer) = daemon.post("/api/v1/events/batch", &key, &body).await;
        assert_eq!((status.as_u16(), &answer["error_details"]), (422, &details));
    }
    assert_eq!(database.number("SELECT count(*) FROM usage_keys"), 0);
    assert_eq!(daemon.post("/api/v1/events", &key, &json!({ "event": 7 })).await.0, 400);
    assert_eq!(daemon.post("/api/v1/events/batch", &key, &json!({})).await.0, 400);
    let reader = database.key("usage:read", None);
    assert_eq!(daemon.post("/api/v1/events", &reader, &json!({ "event": good })).await.0, 403);
    // The meter is priced in yen, which has no cents: 500 minor units are 500.
    let pricer = database.key("usage:write,usage:price", None);
    let priced = with("precise_total_amount_cents", json!("500"));
    assert_eq!(daemon.post("/api/v1/events", &pricer, &json!({ "event": priced })).await.0, 200);
    assert_eq!(database.value("SELECT trim_scale(cost) FROM usage_records").as_deref(), Some("500"));
}

#[tokio::test]
async fn an_orgs_key_reports_for_its_own_org_alone() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let platform = acme(&database, &daemon).await;
    let beta = daemon.org(&platform, "beta", "UTC").await;
    let key = database.key("usage:write", Some(&beta));
    let lago = |org: &str| {
        json!({ "event": { "transaction_id": org, "external_subscription_id": org,
        "code": "prompt", "properties": { "tokens": 1 } } })
    };
    assert_eq!(daemon.post("/api/v1/events", &key, &lago("acme")).await.0, 422);
    assert_eq!(daemon.post("/api/v1/events", &key, &lago("beta")).await.0, 200);
    let cloud = json!([{ "specversion": "1.0", "id": "1", "source": "s", "type": "prompt", "subject": "acme",
        "data": { "tokens": 1 } }]);
    assert_eq!(daemon.post("/api/v1/events", &key, &cloud).await.0, 204);
    // With an org's own key, `subject` names a subject and not the org.
    let orgs = "SELECT string_agg(DISTINCT external_id, ',') FROM usage_records JOIN orgs USING (org_id)";
    assert_eq!(database.value(orgs).as_deref(), Some("beta"));
    assert_eq!(database.number("SELECT count(*) FROM usage_records WHERE subject = 'acme'"), 1);
}

/// The output of a script, run against the daemon.
fn run(mut command: Command, daemon: &Daemon, key: &str) -> String {
    let output =
        command.env("BASE", &daemon.base).env("KEY", key).env("ORG", "acme").output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[tokio::test(flavor = "multi_thread")]
async fn openmeters_own_sdk_reports_usage() {
    let Some(dir) = std::env::var_os("COULOMB_TEST_OPENMETER_SDK") else {
        println!("skipped: COULOMB_TEST_OPENMETER_SDK names no directory with node_modules/@openmeter/sdk");
        return;
    };
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let mut node = Command::new("node");
    // Node resolves modules of inline code from the working directory.
    node.current_dir(dir).args(["--input-type=module", "-e", include_str!("fixtures/usage/openmeter.mjs")]);
    let said = run(node, &daemon, &key);
    let expected = [
        "single ok",
        "batch ok",
        "duplicate ok",
        "conflict ok",
        "defaults ok",
        "unknown HTTPError 400 invalid_request",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    let own = "SELECT count(*) FROM usage_records WHERE source = '@openmeter/sdk' AND quantity = 1";
    assert_eq!(database.number(own), 1);
    assert_eq!(
        database.value("SELECT trim_scale(sum(quantity)) FROM daily_summaries").as_deref(),
        Some("124.5")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn lagos_own_client_reports_usage() {
    let python = std::env::var("COULOMB_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let has = Command::new(&python).args(["-c", "import lago_python_client"]).output();
    if !has.is_ok_and(|output| output.status.success()) {
        println!("skipped: no python3 with the lago-python-client package (COULOMB_TEST_PYTHON names one)");
        return;
    }
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let key = acme(&database, &daemon).await;
    let mut script = Command::new(python);
    script.args(["-c", include_str!("fixtures/usage/lago.py")]);
    let said = run(script, &daemon, &key);
    let expected = [
        "single ('lago-1', 'prompt', '2026-01-15T10:00:00.000Z', {'tokens': 100, 'model': 'gpt-4-turbo'})",
        "batch None",
        "duplicate 422 validation_errors {'transaction_id': ['value_already_exist']}",
        "batch_duplicate 422 validation_errors {'1': {'transaction_id': ['value_already_exist']}}",
        "defaults None",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), expected);
    assert_eq!(stored(&database), "lago/lago-1=100 lago/lago-2=20 lago/lago-3=3.5 lago/lago-5=1");
}
