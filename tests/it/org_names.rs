//! Every operation that names an org takes its id and its external id, answers 404 to an unknown name, and
//! shows an org's key nothing of other orgs. The test finds these operations in the API's description, so it
//! covers new ones.

use std::collections::{BTreeMap, BTreeSet};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::{Daemon, Database};

/// An external id that must be encoded in a path.
const EXTERNAL: &str = "acme/eu 1";
const UNKNOWN: &str = "nobody";
const EVERYTHING: &str = "admin,usage:write,usage:backfill,usage:price,usage:read,billing:read,billing:write";
const OF_AN_ORG: &str = "usage:write,usage:read,billing:read";

/// Where an operation names the org.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Path,
    Query,
    Body,
}

/// An operation that names an org.
#[derive(Clone, Debug)]
struct Operation {
    method: Method,
    path: String,
    place: Place,
    /// The field that a problem names.
    field: String,
    /// The fields that the body needs beside the org.
    body: Option<Value>,
}

impl Operation {
    fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

/// Operations whose body has a field `org` with another meaning. A plan's quotas refuse it, as they belong to
/// no org. Usage rejects each event by itself, see `usage_of_an_unknown_org_is_rejected_and_no_other`.
const NO_ORG: [&str; 7] = [
    // Each digest is taken once: `keys::keys_of_other_programs_work_as_they_are` tests the org.
    "POST /v1/keys/import",
    // Its table `orgs` has names as keys: `invoicing::file` tests them.
    "POST /v1/invoicing/apply",
    "PUT /v1/plans/{id}",
    "PUT /v1/plans/{id}/quotas",
    "POST /v1/usage",
    "POST /api/v1/events",
    "POST /api/v1/events/batch",
];

fn with(mut all: Value, more: Value) -> Value {
    all.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
    all
}

/// The body of each command beside the org. Every new command that names an org needs an entry here.
fn bodies() -> BTreeMap<&'static str, Value> {
    let limit = json!({ "meter": "meter-1", "period": "day", "limit": 5 });
    let mut exemption = with(limit.clone(), json!({ "subject": "s-{n}", "reason": "why" }));
    exemption.as_object_mut().expect("an object").remove("limit");
    let imported_subscription = json!({ "plan": "pro", "started_at": "2020-01-01T00:00:00Z",
        "paid_until": "2020-02-01T00:00:00Z" });
    let lines = json!([{ "description": "work", "unit_price": "0" }]);
    let imported_invoice =
        json!({ "number": "n-{n}", "issue_date": "2020-01-01", "total": 0, "lines": lines });
    let amended = json!({ "event_name": "tokens", "data": { "value": 2 } });
    BTreeMap::from([
        ("POST /v1/message_endpoints", json!({ "url": "https://example.com/{n}" })),
        ("PATCH /v1/orgs/{id}", json!({})),
        ("POST /v1/orgs/{id}/suspend", json!({ "reason": "why" })),
        ("POST /v1/orgs/{id}/resume", json!({})),
        ("POST /v1/orgs/{id}/archive", json!({})),
        ("POST /v1/orgs/{id}/restore", json!({})),
        // Refused for its confirmation, once the org is found.
        ("POST /v1/orgs/{id}/erase", json!({ "confirm": "" })),
        ("PUT /v1/orgs/{id}/stripe_customers/{customer_id}", json!({})),
        ("DELETE /v1/orgs/{id}/stripe_customers/{customer_id}", json!({})),
        ("POST /v1/orgs/{id}/subscription", json!({ "plan": "pro", "paid": true })),
        ("POST /v1/orgs/{id}/subscription/activate", json!({})),
        ("POST /v1/orgs/{id}/subscription/cancel", json!({ "at_period_end": true })),
        ("POST /v1/orgs/{id}/subscription/change", json!({ "plan": "pro" })),
        ("POST /v1/orgs/{id}/subscription/import", imported_subscription),
        ("PUT /v1/orgs/{id}/billing", json!({ "party": { "name": "A" }, "currency": "eur" })),
        ("PUT /v1/orgs/{id}/coupons/{code}", json!({})),
        ("DELETE /v1/orgs/{id}/coupons/{code}", json!({})),
        ("POST /v1/orgs/{id}/invoice_items", json!({ "description": "work", "unit_price": "1" })),
        ("DELETE /v1/orgs/{id}/invoice_items/{item}", json!({})),
        (
            "POST /v1/orgs/{id}/account/adjustments",
            json!({ "amount": -1, "currency": "eur", "reason": "why" }),
        ),
        ("POST /v1/invoices", json!({ "items": [] })),
        ("POST /v1/invoices/import", imported_invoice),
        (
            "POST /v1/payments",
            json!({ "amount": 1, "currency": "eur", "processor": "p", "reference": "p-{n}" }),
        ),
        ("PUT /v1/battery/settings/{org}", json!({ "debt_limit": "0" })),
        ("DELETE /v1/battery/settings/{org}", json!({})),
        ("POST /v1/battery/adjustments", json!({ "amount": "1", "reason": "why" })),
        ("POST /v1/battery/grants", json!({ "amount": "1", "reason": "why" })),
        // No effect has this number: the org is looked up first.
        ("POST /v1/battery/effects/waiting/{id}/assign", json!({})),
        ("POST /v1/keys", json!({ "name": "k", "scopes": ["usage:read"] })),
        ("POST /v1/quota/check", json!({ "items": [{ "meter": "meter-1", "org": "{org}" }] })),
        ("POST /v1/quota/reserve", json!({ "meter": "meter-1", "amount": "0.1" })),
        ("POST /v1/quota/{id}/settle", json!({})),
        ("POST /v1/quota/{id}/release", json!({})),
        ("POST /v1/quota_exemptions", exemption),
        ("POST /v1/quotas", with(limit, json!({ "filter": { "model": "m-{n}" } }))),
        ("POST /v1/usage/void", json!({ "id": "e-{n}", "reason": "why" })),
        ("POST /v1/usage/amend", json!({ "id": "e-{n}", "reason": "why", "event": amended })),
        ("POST /v1/usage/closings", json!({ "month": "2020-01" })),
        ("POST /v1/meters/{key}/rate_cards", json!({ "currency": "usd", "rates": [] })),
        ("POST /v1/meters/{key}/rate_usage", json!({ "reason": "why" })),
    ])
}

/// The path of a schema's field `org`, in the form that a problem uses.
fn field_of(api: &Value, schema: &Value, at: &str, seen: &BTreeSet<String>) -> Option<String> {
    let mut seen = seen.clone();
    let schema = match schema["$ref"].as_str() {
        None => schema,
        Some(path) if !seen.insert(path.to_owned()) => return None,
        Some(path) => api.pointer(path.trim_start_matches('#')).expect("a schema"),
    };
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        if name == "org" {
            return Some(format!("{at}org"));
        }
        assert!(!name.contains("org"), "a field {at}{name} of a body: does it name an org?");
        if let Some(found) = field_of(api, inner, &format!("{at}{name}."), &seen) {
            return Some(found);
        }
    }
    let variants = ["oneOf", "anyOf", "allOf"].into_iter().flat_map(|of| schema[of].as_array()).flatten();
    let mut inner: Vec<(&Value, String)> = variants.map(|schema| (schema, at.to_owned())).collect();
    if schema["items"].is_object() {
        inner.push((&schema["items"], format!("{at}0.")));
    }
    inner.into_iter().find_map(|(schema, at)| field_of(api, schema, &at, &seen))
}

/// Every operation that names an org.
fn operations(api: &Value) -> Vec<Operation> {
    let (mut found, mut bodies) = (Vec::new(), bodies());
    for (path, operations) in api["paths"].as_object().expect("paths") {
        for (method, described) in operations.as_object().expect("operations") {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let name = format!("{method} {path}");
            let mut places = Vec::new();
            if path.starts_with("/v1/orgs/{id}") {
                places.push((Place::Path, "id".to_owned()));
            }
            for param in described["parameters"].as_array().into_iter().flatten() {
                let (param, within) = (param["name"].as_str().expect("named"), &param["in"]);
                match (param, within.as_str()) {
                    ("org", Some("query")) => places.push((Place::Query, "org".to_owned())),
                    ("org", Some("path")) => places.push((Place::Path, "org".to_owned())),
                    (param, _) => assert!(!param.contains("org"), "{name} has {param}: does it name an org?"),
                }
            }
            let schema = &described["requestBody"]["content"]["application/json"]["schema"];
            let field =
                (!NO_ORG.contains(&name.as_str())).then(|| field_of(api, schema, "", &BTreeSet::new()));
            places.extend(field.flatten().map(|field| (Place::Body, field)));
            assert!(places.len() < 2, "{name} names several orgs");
            let Some((place, field)) = places.pop() else { continue };
            let body = bodies.remove(name.as_str());
            assert!(body.is_some() || method == Method::GET, "{name} names an org: add its body to `bodies`");
            found.push(Operation { method, path: path.clone(), place, field, body });
        }
    }
    assert!(bodies.is_empty(), "no operation names an org here: {:?}", bodies.keys());
    found
}

/// Percent-encoded, as a segment of a path or a value of a query.
fn encoded(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    text.bytes().map(letter).collect()
}

/// A daemon with two orgs that have some of everything.
struct House {
    _database: Database,
    daemon: Daemon,
    platform: String,
    of_org: String,
    api: Value,
    org: String,
    number: std::cell::Cell<u32>,
}

impl House {
    async fn new() -> Self {
        let database = Database::new();
        database.meter(1, "tokens", "sum", "model", None);
        let daemon = Daemon::start(&database);
        let platform = database.key(EVERYTHING, None);
        let org = daemon.org(&platform, EXTERNAL, "UTC").await;
        daemon.org(&platform, "other", "UTC").await;
        // The command line takes both names too.
        let of_org = database.key(OF_AN_ORG, Some(EXTERNAL));
        let text = daemon.http.get(format!("{}/openapi.json", daemon.base)).send().await.expect("an answer");
        let api = serde_json::from_str(&text.text().await.expect("a body")).expect("JSON");
        let house =
            Self { _database: database, daemon, platform, of_org, api, org, number: std::cell::Cell::new(0) };
        for (path, body) in [
            ("/v1/tax_rates/zero", json!({ "name": "VAT", "category": "Z", "percent": "0" })),
            (
                "/v1/sellers/shop",
                json!({ "party": { "name": "Shop" }, "settings": { "tax_rate": "zero" }, "default": true }),
            ),
            ("/v1/coupons/C", json!({ "name": "C", "percent": "10" })),
        ] {
            house.put(path, body).await;
        }
        for org in [EXTERNAL, "other"] {
            let billing = json!({ "party": { "name": org }, "currency": "eur", "automatic": false });
            house.put(&format!("/v1/orgs/{}/billing", encoded(org)), billing).await;
        }
        house.done("/v1/battery/grants", json!({ "org": house.org, "amount": "5", "reason": "why" })).await;
        let limit = json!({ "org": house.org, "meter": "meter-1", "period": "day", "limit": 1000 });
        house.done("/v1/quotas", limit).await;
        for org in [EXTERNAL, "other"] {
            let body = json!({ "plan": "pro", "paid": true });
            let price = json!({ "amount": 1000, "currency": "eur" });
            house.put("/v1/plans/pro", json!({ "name": "Pro", "monthly": price })).await;
            house.done(&format!("/v1/orgs/{}/subscription", encoded(org)), body).await;
        }
        house
    }

    async fn put(&self, path: &str, body: Value) {
        let put = self.daemon.request(Method::PUT, path, &self.platform).json(&body);
        let (status, answered) = crate::support::daemon::answer(put).await;
        assert!(status.is_success(), "{path}: {answered}");
    }

    async fn done(&self, path: &str, body: Value) -> Value {
        let (status, answered) = self.daemon.post(path, &self.platform, &body).await;
        assert!(status.is_success(), "{path}: {answered}");
        answered
    }

    /// Sends an operation with this name of an org; returns status and text.
    async fn send(&self, operation: &Operation, key: &str, name: &str) -> (StatusCode, String) {
        let n = self.number.get() + 1;
        self.number.set(n);
        let wanted = operation.name();
        if wanted.starts_with("POST /v1/usage/") {
            let event = json!({ "id": format!("e-{n}"), "org": self.org, "event_name": "tokens" });
            let event = with(event, json!({ "data": { "value": 1 } }));
            self.done("/v1/usage", event).await;
        }
        if operation.path.starts_with("/v1/quota/{id}/") {
            let body =
                json!({ "id": format!("r-{n}"), "org": self.org, "meter": "meter-1", "amount": "0.1" });
            self.done("/v1/quota/reserve", body).await;
        }
        if wanted.starts_with("DELETE /v1/battery/settings") {
            let path = format!("/v1/battery/settings/{}", self.org);
            let put = self.daemon.request(Method::PUT, &path, &self.platform);
            let put = put.json(&json!({ "debt_limit": "0" })).send().await.expect("an answer");
            assert!(put.status().is_success());
        }
        if wanted.starts_with("DELETE /v1/orgs/{id}/coupons") {
            self.put(&format!("/v1/orgs/{}/coupons/C", self.org), json!({})).await;
        }
        if wanted.starts_with("DELETE /v1/orgs/{id}/stripe_customers") {
            let path = format!("/v1/orgs/{}/stripe_customers/cus_1?livemode=false", self.org);
            let put =
                self.daemon.request(Method::PUT, &path, &self.platform).send().await.expect("an answer");
            assert!(put.status().is_success());
        }
        let of_org = if operation.place == Place::Path { encoded(name) } else { format!("r-{n}") };
        let mut path = operation.path.replace("{id}", &of_org).replace("{org}", &of_org);
        if path.starts_with("/v1/battery/effects") {
            path = operation.path.replace("{id}", "1");
        }
        path = path
            .replace("{key}", "meter-1")
            .replace("{code}", "C")
            .replace("{item}", "item_1")
            .replace("{customer_id}", "cus_1?livemode=false")
            .replace("{sequence}", "1");
        if operation.place == Place::Query {
            path = format!("{path}?org={}", encoded(name));
        }
        if path.ends_with("/account/statement") {
            path += "?currency=eur";
        }
        let mut request = self.daemon.request(operation.method.clone(), &path, key);
        if let Some(body) = &operation.body {
            let text = body.to_string().replace("{n}", &n.to_string());
            let mut body: Value = serde_json::from_str(&text).expect("JSON");
            if operation.place == Place::Body {
                match operation.field.strip_prefix("items.0.") {
                    Some(field) => body["items"][0][field] = json!(name),
                    None => body["org"] = json!(name),
                }
            }
            request = request.json(&body);
        }
        let answered = request.send().await.expect("an answer");
        if wanted.ends_with("/suspend") {
            // Later operations want an org that may use something.
            self.done(&format!("/v1/orgs/{}/resume", self.org), json!({})).await;
        }
        (answered.status(), answered.text().await.expect("a body"))
    }
}

/// Whether the answer says that the org is unknown, in the form that all operations share.
fn is_unknown(operation: &Operation, (status, text): &(StatusCode, String)) -> bool {
    let problem: Value = serde_json::from_str(text).unwrap_or_default();
    *status == 404 && problem["code"] == "not_found" && problem["field"] == operation.field.as_str()
}

#[tokio::test]
async fn every_operation_takes_both_names_of_an_org_and_no_other() {
    let house = House::new().await;
    let operations = operations(&house.api);
    assert!(operations.len() > 40, "{} were found", operations.len());
    let mut wrong = Vec::new();
    for operation in &operations {
        let wanted = operation.name();
        for name in [house.org.as_str(), EXTERNAL] {
            let answer = house.send(operation, &house.platform, name).await;
            // A conflict with existing data is fine too: the org was found. There is no effect to assign, and
            // no item to delete.
            let is_of_nothing =
                wanted.contains("effects") || wanted.contains("{item}") || wanted.ends_with("/erasure");
            let fine = answer.0.is_success()
                || answer.0 == 409 && wanted.starts_with("POST /v1/orgs")
                || answer.0 == 400 && wanted.ends_with("/erase") && answer.1.contains("confirm")
                || answer.0 == 404 && is_of_nothing && !is_unknown(operation, &answer);
            wrong.extend((!fine).then(|| format!("{wanted} of {name}: {answer:?}")));
        }
        for name in [UNKNOWN, "org_0000000000000000"] {
            let answer = house.send(operation, &house.platform, name).await;
            wrong
                .extend((!is_unknown(operation, &answer)).then(|| format!("{wanted} of {name}: {answer:?}")));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A key of an org may name its org by both names. It learns neither the names of other orgs nor whether they
/// exist.
#[tokio::test]
async fn a_key_of_an_org_is_told_nothing_of_other_names() {
    let house = House::new().await;
    let mut wrong = Vec::new();
    let mut asked = 0;
    for operation in &operations(&house.api) {
        let wanted = operation.name();
        let own = house.send(operation, &house.of_org, &house.org).await;
        if own.0 == StatusCode::FORBIDDEN {
            continue;
        }
        asked += 1;
        let by_external_id = house.send(operation, &house.of_org, EXTERNAL).await;
        for answer in [&own, &by_external_id] {
            let fine = answer.0.is_success() || answer.0 == 409 && wanted.starts_with("POST /v1/orgs");
            wrong.extend((!fine).then(|| format!("{wanted} of its own: {answer:?}")));
        }
        let (other, nobody) = (
            house.send(operation, &house.of_org, "other").await,
            house.send(operation, &house.of_org, UNKNOWN).await,
        );
        let same = is_unknown(operation, &other) && other == nobody;
        wrong.extend((!same).then(|| format!("{wanted} of another: {other:?}, of nobody: {nobody:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(asked > 20, "{asked} were asked");
}

/// Usage of an unknown org is rejected for each event, in the form of the wire format.
#[tokio::test]
async fn usage_of_an_unknown_org_is_rejected_and_no_other() {
    let house = House::new().await;
    let keys = [&house.platform, &house.of_org];
    for (n, (key, name, taken)) in [
        (0, house.org.as_str(), true),
        (0, EXTERNAL, true),
        (0, UNKNOWN, false),
        (1, house.org.as_str(), true),
        (1, EXTERNAL, true),
        (1, UNKNOWN, false),
        (1, "other", false),
    ]
    .into_iter()
    .enumerate()
    {
        let (key, source) = (keys[key], format!("s-{n}"));
        let event = json!({ "id": "1", "source": source, "org": name, "event_name": "tokens" });
        let event = with(event, json!({ "data": { "value": 1 } }));
        let mut own = event.clone();
        (own["id"], own["org"]) = (json!("2"), json!(house.org));
        let (status, answered) = house.daemon.post("/v1/usage", key, &json!([event, own])).await;
        let result = (&answered["results"][0]["status"], &answered["results"][0]["rule"]);
        let wanted =
            if taken { (json!("accepted"), json!(null)) } else { (json!("rejected"), json!("unknown_org")) };
        assert_eq!((status.as_u16(), result), (200, (&wanted.0, &wanted.1)), "{name}: {answered}");
        assert_eq!(answered["results"][1]["status"], "accepted", "{answered}");
        let lago = json!({ "event": { "transaction_id": format!("t-{n}"), "external_subscription_id": name,
            "code": "tokens",
            "properties": { "value": 1 } } });
        let (status, answered) = house.daemon.post("/api/v1/events", key, &lago).await;
        assert_eq!(status.as_u16(), if taken { 200 } else { 422 }, "{name}: {answered}");
    }
}

/// The daemon refuses unknown parameters, and parameters that come twice.
#[tokio::test]
async fn no_operation_takes_an_unknown_parameter_or_one_twice() {
    let house = House::new().await;
    let mut wrong = Vec::new();
    for (path, operations) in house.api["paths"].as_object().expect("paths") {
        if !path.starts_with("/v1/") {
            continue;
        }
        for (method, described) in operations.as_object().expect("operations") {
            let method: Method = method.to_uppercase().parse().expect("a method");
            let path = path.replace(['{', '}'], "");
            let known = described["parameters"].as_array().into_iter().flatten();
            let known = known.filter(|param| param["in"] == "query").map(|param| &param["name"]);
            let twice =
                known.clone().next().map(|name| format!("{0}=1&{0}=1", name.as_str().expect("a name")));
            for query in std::iter::once("colour=red".to_owned()).chain(twice) {
                let field = query.split('=').next().expect("a name").to_owned();
                let request =
                    house.daemon.request(method.clone(), &format!("{path}?{query}"), &house.platform);
                let answered = request.json(&json!({})).send().await.expect("an answer");
                let (status, text) = (answered.status(), answered.text().await.expect("a body"));
                let problem: Value = serde_json::from_str(&text).unwrap_or_default();
                let detail = problem["detail"].as_str().unwrap_or_default();
                let says = known.clone().all(|name| detail.contains(name.as_str().expect("a name")));
                if status != 400 || problem["field"] != field.as_str() || field == "colour" && !says {
                    wrong.push(format!("{method} {path}?{query}: {status} {text}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // Parameters with a known prefix are accepted.
    let path = format!("/v1/usage/daily?org={}&dimension.model=m", house.org);
    assert_eq!(house.daemon.get(&path, &house.platform).await.0, 200);
}

/// The commands that name an org.
#[test]
fn commands_take_both_names_of_an_org_and_no_other() {
    let database = Database::new();
    crate::support::rows::org(&database, "acme", "UTC");
    let id = database.value("SELECT public_id AS value FROM orgs").expect("an org");
    let commands: [&[&str]; 5] = [
        &["battery", "show", "--org", "{org}"],
        &["battery", "grant", "--org", "{org}", "--amount", "1", "--reason", "why"],
        &["key", "create", "--scopes", "usage:read", "--org", "{org}"],
        &["export", "invoices", "--org", "{org}"],
        &["export", "battery", "--org", "{org}"],
    ];
    for command in commands {
        for (name, there) in [(id.as_str(), true), ("acme", true), (UNKNOWN, false)] {
            let args: Vec<&str> =
                command.iter().map(|word| if *word == "{org}" { name } else { word }).collect();
            let done = database.command(&args).output().expect("it runs");
            let told = String::from_utf8_lossy(&done.stderr).into_owned();
            assert_eq!(done.status.code(), Some(if there { 0 } else { 1 }), "{args:?}: {told}");
            assert_eq!(told.contains("there is no org here"), !there, "{args:?}: {told}");
        }
    }
}
