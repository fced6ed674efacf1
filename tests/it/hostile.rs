//! Every operation of the API's description, with hostile values in each parameter, header and field: the
//! daemon always answers with a problem that says what is wrong.

mod description;
mod seed;
mod values;

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::StreamExt;
use reqwest::Method;
use reqwest::header::{CONTENT_TYPE, HeaderValue};
use serde_json::Value;

use self::description::{Operation, marked, operations, places, sample};
use self::seed::Seed;
use crate::support::{Daemon, Database};

/// Requests in flight at once.
const AT_ONCE: usize = 16;
/// Words of parsers, libraries and the database, which no answer may contain.
const FOREIGN_WORDS: [&str; 15] = [
    "invalid type",
    "invalid value",
    "expected ",
    "premature end",
    "input contains",
    "trailing input",
    "out of range",
    "Custom {",
    "Some(",
    "deserialize",
    "struct ",
    "DateTime",
    "invalid byte sequence",
    "did not match any variant",
    "parse",
];

/// A request that the daemon must refuse, or at least answer without an internal error.
struct Attempt {
    /// A description for people.
    told: String,
    method: String,
    url: String,
    headers: Vec<(String, Vec<u8>)>,
    body: Option<Vec<u8>>,
}

struct Sweep<'a> {
    api: &'a Value,
    seed: &'a Seed,
    daemon: &'a Daemon,
}

impl Sweep<'_> {
    fn path(&self, operation: &Operation, name: &str, value: Option<&str>) -> String {
        operation.path_params.iter().fold(operation.path.clone(), |path, param| {
            let known = || self.seed.path(&operation.path, param);
            let text = if param == name { value.map_or_else(known, str::to_owned) } else { known() };
            path.replace(&format!("{{{param}}}"), &text)
        })
    }

    /// A valid request, with this query.
    fn fitting(&self, operation: &Operation, query: &str) -> Attempt {
        let org = operation.query.iter().any(|name| name == "org") && !query.starts_with("org=");
        let currency = operation.path.ends_with("/statement") && operation.path.starts_with("/v1/orgs/");
        let query = match (org, query) {
            (_, query) if currency && !query.starts_with("currency=") => format!("?currency=usd&{query}"),
            (true, query) => format!("?org=acme&{query}"),
            (false, "") => String::new(),
            (false, query) => format!("?{query}"),
        };
        let body =
            operation.bodies.first().map(|(_, schema)| self.body(operation, schema).to_string().into_bytes());
        let mut headers =
            vec![("authorization".to_owned(), format!("Bearer {}", self.seed.key).into_bytes())];
        headers.extend(
            operation.bodies.first().map(|(kind, _)| ("content-type".to_owned(), kind.clone().into_bytes())),
        );
        Attempt {
            told: String::new(),
            method: operation.method.clone(),
            url: format!("{}{query}", self.path(operation, "", None)),
            headers,
            body,
        }
    }

    fn body(&self, operation: &Operation, schema: &Value) -> Value {
        sample(self.api, "", schema, &|name| self.seed.field(&operation.path, name))
    }

    fn attempts(&self, operation: &Operation) -> Vec<Attempt> {
        let mut attempts = Vec::new();
        let mut add = |told: String, attempt: Attempt| attempts.push(Attempt { told, ..attempt });
        let in_urls: Vec<String> = values::texts()
            .iter()
            .map(|text| encoded(text))
            .chain(values::ENCODED.map(str::to_owned))
            .collect();
        add("nothing".to_owned(), self.fitting(operation, ""));
        for name in &operation.path_params {
            for value in &in_urls {
                let url = self.path(operation, name, Some(value));
                add(format!("path {name}={}", short(value)), Attempt { url, ..self.fitting(operation, "") });
            }
        }
        for name in &operation.query {
            let cursors = if name == "cursor" { self.seed.cursors.as_slice() } else { &[] };
            for value in in_urls.iter().chain(cursors) {
                let query = format!("{name}={value}");
                add(format!("query {}", short(&query)), self.fitting(operation, &query));
            }
            add(format!("query {name} twice"), self.fitting(operation, &format!("{name}=1&{name}=2")));
        }
        add("an unknown parameter".to_owned(), self.fitting(operation, "%00=%00"));
        for name in
            operation.headers.iter().map(String::as_str).chain(["content-type", "x-request-id", "accept"])
        {
            for value in values::HEADERS {
                let mut attempt = self.fitting(operation, "");
                attempt.headers.retain(|(header, _)| header != name);
                attempt.headers.push((name.to_owned(), value.to_vec()));
                add(format!("header {name}: {value:?}"), attempt);
            }
        }
        for (kind, schema) in &operation.bodies {
            let fitting = self.body(operation, schema);
            let with = |body: Vec<u8>| {
                let mut attempt = self.fitting(operation, "");
                attempt.headers.retain(|(header, _)| header != "content-type");
                attempt.headers.push(("content-type".to_owned(), kind.clone().into_bytes()));
                attempt.body = Some(body);
                attempt
            };
            for body in values::bodies() {
                add(format!("body {}", short(&String::from_utf8_lossy(&body))), with(body));
            }
            const MARKER: &str = "@@@";
            for (n, place) in places(self.api, schema, 3).into_iter().enumerate() {
                let text = marked(fitting.clone(), &place, MARKER).to_string();
                // Below the first level each place gets every third value, starting at another one: together
                // they try all.
                let step = if place.len() == 1 { 1 } else { 3 };
                for value in values::json().into_iter().skip(n % step).step_by(step) {
                    let body = text.replace(&format!("\"{MARKER}\""), &value).into_bytes();
                    add(format!("field {} = {}", place.join("."), short(&value)), with(body));
                }
            }
        }
        attempts
    }

    /// Sends it; returns what is wrong with the answer.
    async fn send(&self, operation: &Operation, attempt: Attempt) -> Option<String> {
        let method = Method::from_bytes(attempt.method.as_bytes()).expect("a method");
        let mut request = self.daemon.http.request(method, format!("{}{}", self.daemon.base, attempt.url));
        for (name, value) in &attempt.headers {
            request = request.header(name, HeaderValue::from_bytes(value).expect("a header"));
        }
        if let Some(body) = attempt.body {
            if operation.path == "/webhooks/stripe" && attempt.told.starts_with("body") {
                request = request.header("Stripe-Signature", crate::support::stripe::signature(&body));
            }
            request = request.body(body);
        }
        let response = match request.timeout(Duration::from_secs(60)).send().await {
            Ok(response) => response,
            Err(error) => return Some(format!("{}: no answer: {error}", attempt.told)),
        };
        let status = response.status().as_u16();
        let kind =
            response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().to_owned();
        let text = response.bytes().await.map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let Ok(text) = text else { return Some(format!("{}: {status} broke off", attempt.told)) };
        let wrong = judge(operation, status, &kind, &text)?;
        Some(format!("{}: {status} {wrong}: {}", attempt.told, short(&text)))
    }
}

/// What is wrong with an answer.
fn judge(operation: &Operation, status: u16, kind: &str, text: &str) -> Option<String> {
    // A path of another shape belongs to another route.
    let other_route =
        matches!(status, 404 | 405) && (text.contains("no_route") || text.contains("method_not_allowed"));
    let Some((_, kinds)) = operation.responses.iter().find(|(known, _)| *known == status) else {
        return (!other_route).then(|| "is not described".to_owned());
    };
    // On a busy machine a readiness probe may rightly report that the database is slow.
    let probe = operation.path == "/readyz" && status == 503;
    if status >= 500 && !probe && !text.contains("not_configured") {
        return Some("is a failure".to_owned());
    }
    if status < 400 {
        let fits = text.is_empty() || kinds.iter().any(|known| known == kind);
        return (!fits).then(|| format!("has the type {kind}"));
    }
    if let Some(word) = FOREIGN_WORDS.iter().find(|word| text.contains(*word)) {
        return Some(format!("speaks of `{word}`"));
    }
    // Lago's clients get errors in Lago's form.
    let problem =
        kind == "application/problem+json" || (status == 422 && kinds.iter().any(|known| known == kind));
    let code =
        serde_json::from_str::<Value>(text).ok().and_then(|body| body["code"].as_str().map(str::to_owned));
    (!problem || code.is_none()).then(|| "is no problem".to_owned())
}

fn encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

fn short(text: &str) -> String {
    text.chars().take(160).collect()
}

/// Cursors of every list as the daemon gives them, and forged ones made from them.
async fn cursors(daemon: &Daemon, seed: &Seed, operations: &[Operation]) -> Vec<String> {
    let mut found = Vec::new();
    for operation in
        operations.iter().filter(|one| one.method == "GET" && one.query.iter().any(|name| name == "cursor"))
    {
        let org = if operation.query.iter().any(|name| name == "org") { "&org=acme" } else { "" };
        let path = operation.path.replace("{id}", &seed.path(&operation.path, "id"));
        let path = path.replace("{key}", "tokens").replace("{sequence}", "1");
        for more in ["", "&group_by=month,member", "&group_by=meter"] {
            if !more.is_empty() && operation.path != "/v1/usage/daily" {
                continue;
            }
            let currency = if path.ends_with("/account/statement") { "&currency=usd" } else { "" };
            let (status, page) = daemon.get(&format!("{path}?limit=1{org}{more}{currency}"), &seed.key).await;
            assert_eq!(status, 200, "{path}: {page}");
            let Some(cursor) = page["next"].as_str() else { continue };
            found.push(cursor.to_owned());
            let Ok(bytes) = BASE64_URL_SAFE_NO_PAD.decode(cursor) else { continue };
            let key: Value = serde_json::from_slice(&bytes).expect("JSON");
            for value in [
                "\"-200000-01-01T00:00:00Z\"",
                "\"+262142-01-01\"",
                "\"\\u0000\"",
                "9223372036854775807",
                "null",
                "[]",
            ] {
                found.extend(forged(&key, value));
            }
        }
    }
    assert!(found.len() > 100, "the lists have cursors: {}", found.len());
    found
}

/// The cursor's key, with the value in place of each leaf in turn.
fn forged(key: &Value, value: &str) -> Vec<String> {
    fn leaves(value: &Value, at: &mut Vec<String>, found: &mut Vec<String>) {
        match value {
            Value::Array(items) => items.iter().enumerate().for_each(|(n, item)| {
                at.push(n.to_string());
                leaves(item, at, found);
                at.pop();
            }),
            Value::Object(fields) => fields.iter().for_each(|(name, item)| {
                at.push(name.clone());
                leaves(item, at, found);
                at.pop();
            }),
            _ => found.push(format!("/{}", at.join("/"))),
        }
    }
    let mut places = Vec::new();
    leaves(key, &mut Vec::new(), &mut places);
    // The first leaf is the name of the list.
    let forge = |place: &String| {
        let mut forged = key.clone();
        *forged.pointer_mut(place).expect("a leaf") = "@@@".into();
        BASE64_URL_SAFE_NO_PAD.encode(forged.to_string().replace("\"@@@\"", value))
    };
    places.iter().skip(1).map(forge).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_hostile_value_is_a_failure_of_ours() {
    let database = Database::new();
    let settings = [("COULOMB_POOL_WAIT_MS", "30000"), ("COULOMB_EXPORTS", "32"), ("COULOMB_LOG", "error")];
    let daemon = Daemon::with(&database, &settings);
    let mut seed = Seed::make(&database, &daemon).await;
    let api: Value = serde_json::from_str(&database.run(&["openapi"])).expect("JSON");
    let operations = operations(&api);
    seed.cursors = cursors(&daemon, &seed, &operations).await;
    let sweep = Sweep { api: &api, seed: &seed, daemon: &daemon };
    let (mut sent, mut faults) = (0, BTreeMap::<String, Vec<String>>::new());
    for operation in &operations {
        let attempts = sweep.attempts(operation);
        sent += attempts.len();
        let wrong: Vec<String> = futures_util::stream::iter(attempts)
            .map(|attempt| sweep.send(operation, attempt))
            .buffer_unordered(AT_ONCE)
            .filter_map(|wrong| async { wrong })
            .collect()
            .await;
        if !wrong.is_empty() {
            faults.insert(format!("{} {}", operation.method, operation.path), wrong);
        }
    }
    let count: usize = faults.values().map(Vec::len).sum();
    let told: Vec<String> = faults
        .iter()
        .map(|(operation, wrong)| {
            format!("{operation}: {}\n    {}", wrong.len(), wrong[..wrong.len().min(40)].join("\n    "))
        })
        .collect();
    assert!(count == 0, "{count} of {sent} requests:\n{}", told.join("\n"));
    println!("{sent} requests over {} operations", operations.len());
}
