//! Batteries as they are read: balances now and then, grants, entries, statements, exports.

use chrono::{DateTime, Utc};
use coulomb::battery::by_hand::{self, Act, ManualGrant};
use coulomb::battery::grants::GrantSource;
use coulomb::battery::reads::{balance, entries};
use coulomb::battery::upkeep;
use coulomb::billing::directory::Directory;
use coulomb::billing::org_name::OrgName;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Daemon, Database, TestClock};
use crate::usage_rows::org;

/// A platform on a turned clock, and the orgs `acme` (UTC) and `bolt` (New York).
pub(crate) struct Platform {
    /// Its database.
    pub(crate) database: Database,
    /// Its clock.
    pub(crate) clock: TestClock,
    /// A daemon on both.
    pub(crate) daemon: Daemon,
    /// A key that may do all of this.
    pub(crate) key: String,
}

impl Platform {
    pub(crate) fn at(time: &str) -> Self {
        let (database, clock) = (Database::new(), TestClock::at(time));
        org(&database, "acme", "UTC");
        org(&database, "bolt", "America/New_York");
        let daemon = Daemon::clocked(&database, &clock);
        let key = database.key("billing:write,billing:read", None);
        Self { database, clock, daemon, key }
    }

    /// `POST` that must be answered so.
    pub(crate) async fn post(&self, path: &str, body: Value, expected: u16) -> Value {
        let (status, answer) = self.daemon.post(path, &self.key, &body).await;
        assert_eq!(status.as_u16(), expected, "{path} {body}: {answer}");
        answer
    }

    /// `GET` that must be answered well.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.daemon.get(path, &self.key).await;
        assert_eq!(status.as_u16(), 200, "{path}: {answer}");
        answer
    }

    /// A grant of so many units; its id.
    pub(crate) async fn grant(&self, org: &str, amount: &str, more: Value) -> String {
        let mut body = json!({ "org": org, "amount": amount, "reason": "a test" });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        let grant = self.post("/v1/battery/grants", body, 201).await;
        grant["id"].as_str().expect("an id").to_owned()
    }

    /// An adjustment of so many units; the balance after it.
    pub(crate) async fn adjust(&self, org: &str, amount: &str) -> String {
        let body = json!({ "org": org, "amount": amount, "reason": "a test" });
        let done = self.post("/v1/battery/adjustments", body, 201).await;
        done["entry"]["balance_after"].as_str().expect("a balance").to_owned()
    }

    /// What the battery holds.
    pub(crate) async fn balance(&self, org: &str) -> String {
        text(&self.get(&format!("/v1/battery?org={org}")).await["balance"])
    }

    /// All rows of a list, page by page.
    pub(crate) async fn all(&self, path: &str, field: &str, limit: usize) -> Vec<Value> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = self.get(&format!("{path}&limit={limit}{cursor}")).await;
            let got = page[field].as_array().expect("rows");
            assert!(got.len() <= limit);
            rows.extend(got.clone());
            let Some(next) = page["next"].as_str() else { return rows };
            cursor = format!("&cursor={next}");
        }
    }

    /// A file.
    pub(crate) async fn download(&self, path: &str, key: &str) -> (Value, Vec<u8>) {
        let response = self.daemon.request(Method::GET, path, key).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let told = response.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
        let body = response.bytes().await.expect("a whole body").to_vec();
        (serde_json::from_str(&told).expect("JSON"), body)
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("{value} is no text")).to_owned()
}

fn at(time: &str) -> DateTime<Utc> {
    time.parse().expect("a time")
}

/// Fields of rows, as texts.
fn fields<const N: usize>(rows: &[Value], names: [&str; N]) -> Vec<[String; N]> {
    let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows.iter().map(|row| names.map(|name| show(&row[name]))).collect()
}

#[test]
fn a_past_moment_is_the_same_whether_or_not_it_was_written() {
    let database = Database::new();
    org(&database, "acme", "UTC");
    let (mut conn, directory) = (database.platform(), Directory::default());
    let acme = OrgName::of_any("acme", "org").find(&directory, &mut conn).expect("an org");
    let new = |amount: i64, effective_at: Option<&str>, expires_at: &str| ManualGrant {
        amount: amount.into(),
        source: GrantSource::Bonus,
        priority: None,
        effective_at: effective_at.map(at),
        expires_at: Some(at(expires_at)),
        reason: "a test".to_owned(),
        key: None,
    };
    let first = at("2026-03-01T00:00:00Z");
    let grant = |new: &ManualGrant, now| {
        by_hand::grant(&mut database.platform(), acme.org_id, new, "test", now).expect("grants")
    };
    grant(&new(100, None, "2026-03-10T00:00:00Z"), first);
    grant(&new(50, Some("2026-03-05T00:00:00Z"), "2026-03-20T00:00:00Z"), first);
    let act = Act { actor: "test", reason: "a test" };
    by_hand::adjust(&mut conn, acme.org_id, (-30).into(), act, at("2026-03-02T00:00:00Z")).expect("burns");
    // Nobody comes by from then on.
    let history = [
        ("2026-02-28T23:59:59.999999Z", 0),
        ("2026-03-01T00:00:00Z", 100),
        ("2026-03-01T23:59:59.999999Z", 100),
        ("2026-03-02T00:00:00Z", 70),
        ("2026-03-04T23:59:59.999999Z", 70),
        ("2026-03-05T00:00:00Z", 120),
        ("2026-03-09T23:59:59.999999Z", 120),
        ("2026-03-10T00:00:00Z", 50),
        ("2026-03-19T23:59:59.999999Z", 50),
        ("2026-03-20T00:00:00Z", 0),
        ("2026-03-25T00:00:00Z", 0),
    ];
    let mut check = |when: &str, more: &[(&str, i64)]| {
        for (moment, units) in history.iter().chain(more) {
            let held = balance::as_of(&mut conn, &acme, at(moment)).expect("a balance");
            assert_eq!(held.balance, units.to_string(), "{moment} {when}");
        }
    };
    check("before anybody came", &[]);
    assert_eq!(database.number("SELECT count(*) FROM battery_entries"), 2);
    let mut later = database.platform();
    assert_eq!(upkeep::post_due(&mut later, at("2026-03-15T00:00:00Z")).expect("posts"), 1);
    assert_eq!(upkeep::post_due(&mut later, at("2026-03-15T00:00:00Z")).expect("posts"), 0);
    check("when some was written", &[]);
    grant(&new(10, None, "2026-04-01T00:00:00Z"), at("2026-03-26T00:00:00Z"));
    check("when all was written", &[("2026-03-26T00:00:00Z", 10), ("2026-03-31T00:00:00Z", 10)]);
    check("after that", &[("2026-04-01T00:00:00Z", 0)]);
    let all = entries::list(
        &mut later,
        acme.org_id,
        &entries::EntryFilter::default(),
        entries::Order::OldestFirst,
        None,
        100,
    );
    let told: Vec<String> = all
        .expect("entries")
        .iter()
        .map(|e| format!("{} {} {} {}", e.at.format("%d"), e.kind.name(), e.amount, e.balance_after))
        .collect();
    assert_eq!(
        told,
        [
            "01 bonus 100 100",
            "02 adjustment -30 70",
            "05 bonus 50 120",
            "10 expiry -70 50",
            "20 expiry -50 0",
            "26 bonus 10 10",
        ]
    );
}

/// A history of `acme`: debt, expiry, an activation, text that would break a careless writer.
async fn history(platform: &Platform) {
    platform
        .grant("acme", "100", json!({ "expires_at": "2026-03-10T00:00:00Z", "reason": "=1+1, \"hello\"" }))
        .await;
    platform
        .grant("acme", "0.5", json!({ "source": "purchase", "effective_at": "2026-03-05T00:00:00Z" }))
        .await;
    platform.grant("bolt", "7", json!({})).await;
    platform.clock.turn("2026-03-02T00:00:00Z");
    assert_eq!(platform.adjust("acme", "-30").await, "70");
    platform.clock.turn("2026-03-12T00:00:00Z");
    // 70 lapsed on the 10th; half a unit came on the 5th.
    assert_eq!(platform.adjust("acme", "-2.25").await, "-1.75");
    platform.clock.turn("2026-04-02T00:00:00Z");
    assert_eq!(platform.adjust("acme", "10").await, "8.25");
}

#[tokio::test]
async fn a_statement_adds_up_and_its_pages_are_the_entries() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    history(&platform).await;
    let march = platform
        .get("/v1/battery/statement?org=acme&from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z")
        .await;
    assert_eq!((text(&march["opening"]), text(&march["closing"])), ("0".to_owned(), "-1.75".to_owned()));
    assert_eq!(
        march["kinds"],
        json!({
            "bonus": { "entries": 1, "amount": "100" }, "grant": { "entries": 1, "amount": "0.5" },
            "adjustment": { "entries": 2, "amount": "-32.25" }, "expiry": { "entries": 1, "amount": "-70" },
        })
    );
    assert_eq!(
        fields(march["entries"].as_array().expect("rows"), ["sequence", "kind", "amount", "balance_after"]),
        [
            ["1", "bonus", "100", "100"],
            ["2", "adjustment", "-30", "70"],
            ["3", "grant", "0.5", "70.5"],
            ["4", "expiry", "-70", "0.5"],
            ["5", "adjustment", "-2.25", "-1.75"],
        ]
    );
    // Half-open: what happens at the end is the next statement's.
    for (from, to, opening, closing, rows) in [
        ("2026-03-02T00:00:00Z", "2026-03-05T00:00:00Z", "100", "70", 1),
        ("2026-03-05T00:00:00Z", "2026-03-10T00:00:00Z", "70", "70.5", 1),
        ("2026-03-10T00:00:00Z", "2026-03-10T00:00:01Z", "70.5", "0.5", 1),
        ("2026-03-20T00:00:00Z", "2026-03-21T00:00:00Z", "-1.75", "-1.75", 0),
        ("2027-03-20T00:00:00Z", "2027-03-21T00:00:00Z", "8.25", "8.25", 0),
        ("2020-03-20T00:00:00Z", "2020-03-21T00:00:00Z", "0", "0", 0),
    ] {
        let told = platform.get(&format!("/v1/battery/statement?org=acme&from={from}&to={to}")).await;
        assert_eq!(
            (text(&told["opening"]), text(&told["closing"]), told["entries"].as_array().map(Vec::len)),
            (opening.to_owned(), closing.to_owned(), Some(rows)),
            "{from}"
        );
    }
    // Left out: the running month.
    let running = platform.get("/v1/battery/statement?org=acme").await;
    assert_eq!(
        [&running["from"], &running["to"], &running["opening"], &running["closing"]],
        [&json!("2026-04-01T00:00:00Z"), &json!("2026-05-01T00:00:00Z"), &json!("-1.75"), &json!("8.25")]
    );
    let whole = "/v1/battery/statement?org=acme&from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z".to_owned();
    let paged = platform.all(&whole, "entries", 2).await;
    let mut listed = platform.all("/v1/battery/entries?org=acme", "data", 4).await;
    listed.reverse();
    assert_eq!(paged, listed);
    assert_eq!(paged.len(), 6);
    let (status, problem) = platform
        .daemon
        .get(
            "/v1/battery/statement?org=acme&from=2026-03-02T00:00:00Z&to=2026-03-02T00:00:00Z",
            &platform.key,
        )
        .await;
    assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some("to")));
}

#[tokio::test]
async fn entries_and_grants_are_narrowed_and_name_each_other() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    history(&platform).await;
    let grants = platform.all("/v1/battery/grants?org=acme", "data", 2).await;
    assert_eq!(
        fields(&grants, ["source", "state", "amount", "remaining", "burned", "taken_back", "lapsed"]),
        [
            ["adjustment", "open", "10", "8.25", "1.75", "0", "0"],
            ["purchase", "closed", "0.5", "0", "0.5", "0", "0"],
            ["bonus", "closed", "100", "0", "30", "0", "70"],
        ]
    );
    let id = |n: usize| text(&grants[n]["id"]);
    let count = |query: &'static str| {
        let platform = &platform;
        async move { platform.get(&format!("/v1/battery/{query}")).await["data"].as_array().map(Vec::len) }
    };
    assert_eq!(count("grants?org=acme&state=open").await, Some(1));
    assert_eq!(count("grants?org=acme&source=purchase,bonus").await, Some(2));
    assert_eq!(count("grants?org=acme&expires_before=2026-03-10T00:00:00.000001Z").await, Some(1));
    assert_eq!(count("grants?org=acme&expires_before=2026-03-10T00:00:00Z").await, Some(0));
    assert_eq!(count("entries?org=acme&kind=adjustment").await, Some(3));
    assert_eq!(count("entries?org=acme&kind=adjustment,expiry&source=manual,bonus").await, Some(3));
    assert_eq!(count("entries?org=acme&from=2026-03-02T00:00:00Z&to=2026-03-10T00:00:00Z").await, Some(2));
    // What made the bonus, used it and ended it.
    let of_bonus = platform.get(&format!("/v1/battery/entries?org=acme&grant={}", id(2))).await;
    assert_eq!(
        fields(of_bonus["data"].as_array().expect("rows"), ["sequence", "kind", "amount"]),
        [["4", "expiry", "-70"], ["2", "adjustment", "-30"], ["1", "bonus", "100"]]
    );
    let shown = platform.get(&format!("/v1/battery/grants/{}", id(2))).await;
    assert_eq!((&shown["entries"], &shown["amount"]), (&of_bonus["data"], &json!("100")));
    // 2.25 burned of half a unit: the rest is debt, which the next grant pays.
    let burned = platform.get("/v1/battery/entries/5?org=acme").await;
    assert_eq!(burned["draws"], json!([{ "grant": id(1), "units": "0.5" }]));
    assert_eq!([&burned["reason"], &burned["source"]], [&json!("a test"), &json!("manual")]);
    assert!(text(&burned["actor"]).starts_with("key:"));
    let paid = platform.get("/v1/battery/entries/6?org=acme").await;
    assert_eq!(
        (&paid["grant"], &paid["draws"]),
        (&json!(id(0)), &json!([{ "grant": id(0), "units": "1.75" }]))
    );
    for (path, status, field) in [
        ("entries/7?org=acme", 404, None),
        ("entries/x?org=acme", 404, None),
        ("entries?org=acme&kind=gift", 400, Some("kind")),
        ("entries?org=acme&grant=grt_x", 404, None),
        ("entries?org=acme&colour=red", 400, Some("colour")),
        ("entries?org=nobody", 404, Some("org")),
        ("entries", 400, Some("org")),
        ("grants/grt_x", 404, None),
        ("grants?org=acme&state=gone", 400, Some("state")),
    ] {
        let (told, problem) = platform.daemon.get(&format!("/v1/battery/{path}"), &platform.key).await;
        assert_eq!((told.as_u16(), problem["field"].as_str()), (status, field), "{path}");
    }
    for (query, field) in [("at=2027-01-01T00:00:00Z", "at"), ("at=yesterday", "at")] {
        let (status, problem) =
            platform.daemon.get(&format!("/v1/battery?org=acme&{query}"), &platform.key).await;
        assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some(field)), "{query}");
    }
    let then = platform.get("/v1/battery?org=acme&at=2026-03-11T00:00:00Z").await;
    assert_eq!([&then["balance"], &then["available"]], [&json!("0.5"), &Value::Null]);
}

#[tokio::test]
async fn what_is_due_is_written_before_it_is_read() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    let mut ids = Vec::new();
    for day in 2..8 {
        let expires_at = format!("2026-03-{day:02}T00:00:00Z");
        ids.push(platform.grant("acme", "1", json!({ "expires_at": expires_at })).await);
    }
    // Asked at once, sooner than a worker comes by.
    let turn = |day: u32| platform.clock.turn(&format!("2026-03-{day:02}T00:00:00Z"));
    turn(2);
    let entries = platform.get("/v1/battery/entries?org=acme").await;
    assert_eq!([&entries["data"][0]["kind"], &entries["data"][0]["balance_after"]], ["expiry", "5"]);
    turn(3);
    let grants = platform.get("/v1/battery/grants?org=acme&state=closed").await;
    assert_eq!(grants["data"].as_array().map(Vec::len), Some(2));
    turn(4);
    let grant = platform.get(&format!("/v1/battery/grants/{}", ids[2])).await;
    assert_eq!([&grant["lapsed"], &grant["entries"][0]["kind"]], ["1", "expiry"]);
    turn(5);
    let statement = platform.get("/v1/battery/statement?org=acme").await;
    assert_eq!([&statement["closing"], &statement["kinds"]["expiry"]["amount"]], ["2", "-4"]);
    turn(6);
    let (told, _) = platform.download("/v1/battery/export", &platform.key).await;
    assert_eq!(told["kinds"]["expiry"], json!({ "rows": 5, "amount": "-5" }));
    turn(7);
    // The balance is reckoned without writing.
    let held = platform.get("/v1/battery?org=acme").await;
    assert_eq!([&held["balance"], &held["available"], &held["reserved"]], ["0", "0", "0"]);
}

#[tokio::test]
async fn files_hold_what_the_lists_show() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    history(&platform).await;
    let mut listed = platform.all("/v1/battery/entries?org=acme", "data", 100).await;
    listed.reverse();
    let names = ["sequence", "at", "kind", "amount", "balance_after", "source", "draws", "reason", "actor"];
    let (told, body) = platform.download("/v1/battery/export?format=jsonl", &platform.key).await;
    let rows: Vec<Value> = String::from_utf8(body)
        .expect("UTF-8")
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let (acme, bolt): (Vec<Value>, Vec<Value>) =
        rows.into_iter().partition(|row| row["org_id"] == "org_acme");
    assert_eq!(fields(&acme, names), fields(&listed, names));
    assert_eq!(acme[0]["grant_id"], listed[0]["grant"]);
    assert_eq!(
        (bolt.len(), &bolt[0]["org_external_id"], &bolt[0]["amount"]),
        (1, &json!("bolt"), &json!("7"))
    );
    assert_eq!(
        told,
        json!({ "of": "battery", "rows": 7, "kinds": {
            "adjustment": { "rows": 3, "amount": "-22.25" }, "bonus": { "rows": 2, "amount": "107" },
            "expiry": { "rows": 1, "amount": "-70" }, "grant": { "rows": 1, "amount": "0.5" },
        } })
    );
    assert_eq!(platform.get("/v1/battery/export/totals").await, told);
    // The list as CSV is the export of the org; text that starts a formula is none.
    let (_, csv) = platform.download("/v1/battery/entries?org=acme&format=csv", &platform.key).await;
    let (_, export) = platform.download("/v1/battery/export?org=acme", &platform.key).await;
    assert_eq!(csv, export);
    let text = String::from_utf8(csv).expect("UTF-8");
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    let records: Vec<std::collections::BTreeMap<String, String>> =
        reader.deserialize().collect::<Result<_, _>>().expect("CSV");
    assert_eq!(records[0]["reason"], "'=1+1, \"hello\"");
    assert_eq!(records.len(), listed.len());
    for (record, entry) in records.iter().zip(&listed) {
        assert_eq!(record["amount"], entry["amount"].as_str().expect("text"));
        assert_eq!(record["grant_id"], entry["grant"].as_str().unwrap_or_default());
        assert_eq!(serde_json::from_str::<Value>(&record["draws"]).expect("JSON"), entry["draws"]);
    }
    // Filters are those of the list; a broken download goes on.
    let (told, _) = platform
        .download("/v1/battery/export?kind=adjustment&from=2026-03-02&to=2026-03-13", &platform.key)
        .await;
    assert_eq!(told["kinds"], json!({ "adjustment": { "rows": 2, "amount": "-32.25" } }));
    let grant = listed[0]["grant"].as_str().expect("a grant");
    let (told, _) = platform
        .download(
            &format!("/v1/battery/entries?org=acme&format=csv&grant={grant}&kind=expiry"),
            &platform.key,
        )
        .await;
    assert_eq!(told["rows"], 1);
    let (_, rest) =
        platform.download("/v1/battery/export?org=acme&header=false&after=org_acme/4", &platform.key).await;
    assert_eq!(text.lines().skip(5).map(|line| format!("{line}\r\n")).collect::<String>().into_bytes(), rest);
    for format in ["xlsx", "parquet"] {
        let (told, file) =
            platform.download(&format!("/v1/battery/export?format={format}"), &platform.key).await;
        assert_eq!(told["rows"], 7);
        assert!(file.starts_with(if format == "xlsx" { b"PK" } else { b"PA" }), "{format}");
    }
    for (query, field) in [
        ("colour=red", "colour"),
        ("kind=gift", "kind"),
        ("from=2026-03-02&to=2026-03-02", "to"),
        ("after=1", "after"),
        ("after=org_x/1", "after"),
        ("format=parquet&after=org_acme/1", "after"),
        ("of=invoices", "of"),
    ] {
        let (status, problem) =
            platform.daemon.get(&format!("/v1/battery/export?{query}"), &platform.key).await;
        assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some(field)), "{query}: {problem}");
    }
    // The command writes the same file.
    let printed = platform.database.run(&["export", "battery", "--org", "acme"]);
    assert_eq!(printed.into_bytes(), export);
}

#[tokio::test]
async fn an_org_reads_its_own_battery_and_no_other() {
    let platform = Platform::at("2026-03-01T00:00:00Z");
    history(&platform).await;
    let grant = platform.get("/v1/battery/grants?org=acme").await["data"][0]["id"].clone();
    let (acme, bolt) = (
        platform.database.key("usage:read", Some("org_acme")),
        platform.database.key("billing:read", Some("org_bolt")),
    );
    let ask = |key: String, path: String| {
        let daemon = &platform.daemon;
        async move {
            let (status, answer) = daemon.get(&path, &key).await;
            (status.as_u16(), answer)
        }
    };
    let own = ask(acme.clone(), "/v1/battery".to_owned()).await;
    assert_eq!((own.0, &own.1["balance"], &own.1["org"]), (200, &json!("8.25"), &json!("org_acme")));
    assert_eq!(ask(acme.clone(), "/v1/battery?org=acme".to_owned()).await, own);
    for path in ["?", "/grants?", "/entries?", "/statement?"] {
        assert_eq!(ask(bolt.clone(), format!("/v1/battery{path}")).await.0, 200, "{path}");
        assert_eq!(ask(bolt.clone(), format!("/v1/battery{path}org=acme")).await.0, 404, "{path}");
        let wrong = platform.database.key("usage:write", Some("org_acme"));
        assert_eq!(ask(wrong, format!("/v1/battery{path}")).await.0, 403, "{path}");
    }
    let grant = format!("/v1/battery/grants/{}", text(&grant));
    assert_eq!(ask(acme.clone(), grant.clone()).await.0, 200);
    assert_eq!(ask(bolt.clone(), grant).await.0, 404);
    assert_eq!(ask(bolt.clone(), "/v1/battery/entries/2".to_owned()).await.0, 404);
    let entries = ask(bolt.clone(), "/v1/battery/entries".to_owned()).await.1;
    assert_eq!(fields(entries["data"].as_array().expect("rows"), ["amount"]), [["7"]]);
    let (told, body) = platform.download("/v1/battery/export?header=false", &bolt).await;
    assert_eq!((&told["rows"], String::from_utf8_lossy(&body).lines().count()), (&json!(1), 1));
    assert_eq!(ask(bolt.clone(), "/v1/battery/export?org=acme".to_owned()).await.0, 404);
    assert_eq!(ask(bolt, "/v1/battery/export?after=org_acme/1".to_owned()).await.0, 400);
    assert_eq!(ask(acme, "/v1/battery/export".to_owned()).await.0, 403);
    // What a handler forgets to narrow is hidden by the database.
    let mut conn = platform.database.platform();
    let bolt = platform.database.number("SELECT org_id FROM orgs WHERE external_id = 'bolt'");
    for table in ["battery_accounts", "battery_grants", "battery_entries"] {
        use diesel::prelude::*;
        let seen: i64 = coulomb::db::run_in_scope(&mut conn, coulomb::db::Scope::Org(bolt), true, &|conn| {
            let count = diesel::dsl::sql::<diesel::sql_types::BigInt>(&format!("count(*) FROM {table}"));
            Ok(diesel::select(count).get_result(conn)?)
        })
        .expect("counts");
        assert_eq!(seen, 1, "{table}");
    }
}
