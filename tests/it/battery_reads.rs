//! Reads of batteries: balances now and at earlier times, grants, entries, statements, exports.

use coulomb::battery::by_hand::{self, Act, ManualGrant};
use coulomb::battery::grants::GrantSource;
use coulomb::battery::reads::{balance, entries};
use coulomb::battery::upkeep;
use coulomb::billing::directory::Directory;
use coulomb::billing::org_name::OrgName;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::requests::{Request, adjust, grant, org};
use crate::support::world::{Setup, time as at};
use crate::support::{Database, World, json as fields_of, rows};

/// The orgs `acme` (UTC) and `bolt` (New York), and a key of the platform for batteries.
pub(crate) fn batteries(time: &str) -> Setup {
    let setup = World::new().at(time).scopes("billing:write,billing:read");
    setup.with(org("acme")).with(org("bolt").zone("America/New_York"))
}

impl World {
    /// Makes a grant, which must succeed; returns its id.
    pub(crate) async fn grants(&self, grant: Request) -> String {
        self.send(grant).await.status(201).id()
    }

    /// Adjusts the balance of `acme` by this many units; returns the balance after it.
    pub(crate) async fn adjusts(&self, amount: &str) -> String {
        self.send(adjust("acme", amount)).await.status(201).text("entry.balance_after")
    }

    /// The present balance of an org.
    pub(crate) async fn balance(&self, org: &str) -> String {
        self.get(&format!("/v1/battery?org={org}")).await.status(200).text("balance")
    }

    /// A file, and the totals in its header.
    async fn download(&self, path: &str, key: &str) -> (Value, Vec<u8>) {
        let response = self.daemon().request(Method::GET, path, key).send().await.expect("an answer");
        assert_eq!(response.status(), 200, "{path}");
        let told = response.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
        let body = response.bytes().await.expect("a whole body").to_vec();
        (serde_json::from_str(&told).expect("JSON"), body)
    }

    /// A file for the platform's key, and the totals in its header.
    async fn file(&self, path: &str) -> (Value, Vec<u8>) {
        self.download(path, &self.key).await
    }
}

/// Fields of rows, as text.
fn fields<const N: usize>(rows: &[Value], names: [&str; N]) -> Vec<[String; N]> {
    let show = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    rows.iter().map(|row| names.map(|name| show(fields_of::at(row, name)))).collect()
}

#[test]
fn a_past_moment_is_the_same_whether_or_not_it_was_written() {
    let database = Database::new();
    rows::org(&database, "acme", "UTC");
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
    // No worker runs from then on.
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

/// A history of `acme`: debt, expiry, an activation, and text that needs escaping.
async fn history() -> World {
    let odd = grant("acme", "100").with("expires_at", "2026-03-10T00:00:00Z");
    let bought = grant("acme", "0.5").with("source", "purchase").with("effective_at", "2026-03-05T00:00:00Z");
    let world = batteries("2026-03-01T00:00:00Z")
        .with(odd.with("reason", "=1+1, \"hello\""))
        .with(bought)
        .with(grant("bolt", "7"))
        .start()
        .await;
    world.turn("2026-03-02T00:00:00Z");
    assert_eq!(world.adjusts("-30").await, "70");
    world.turn("2026-03-12T00:00:00Z");
    // 70 expired on the 10th; half a unit came on the 5th.
    assert_eq!(world.adjusts("-2.25").await, "-1.75");
    world.turn("2026-04-02T00:00:00Z");
    assert_eq!(world.adjusts("10").await, "8.25");
    world
}

#[tokio::test]
async fn a_statement_adds_up_and_its_pages_are_the_entries() {
    let world = history().await;
    let statement =
        async |query: &str| world.get(&format!("/v1/battery/statement?org=acme{query}")).await.status(200);
    let march = statement("&from=2026-03-01T00:00:00Z&to=2026-04-01T00:00:00Z").await;
    assert_eq!(march.pick(["opening", "closing"]), json!(["0", "-1.75"]));
    assert_eq!(
        march["kinds"],
        json!({
            "bonus": { "entries": 1, "amount": "100" }, "grant": { "entries": 1, "amount": "0.5" },
            "adjustment": { "entries": 2, "amount": "-32.25" }, "expiry": { "entries": 1, "amount": "-70" },
        })
    );
    assert_eq!(
        fields(march.list("entries"), ["sequence", "kind", "amount", "balance_after"]),
        [
            ["1", "bonus", "100", "100"],
            ["2", "adjustment", "-30", "70"],
            ["3", "grant", "0.5", "70.5"],
            ["4", "expiry", "-70", "0.5"],
            ["5", "adjustment", "-2.25", "-1.75"],
        ]
    );
    // Half-open: an entry at the end belongs to the next statement.
    for (from, to, opening, closing, rows) in [
        ("2026-03-02T00:00:00Z", "2026-03-05T00:00:00Z", "100", "70", 1),
        ("2026-03-05T00:00:00Z", "2026-03-10T00:00:00Z", "70", "70.5", 1),
        ("2026-03-10T00:00:00Z", "2026-03-10T00:00:01Z", "70.5", "0.5", 1),
        ("2026-03-20T00:00:00Z", "2026-03-21T00:00:00Z", "-1.75", "-1.75", 0),
        ("2027-03-20T00:00:00Z", "2027-03-21T00:00:00Z", "8.25", "8.25", 0),
        ("2020-03-20T00:00:00Z", "2020-03-21T00:00:00Z", "0", "0", 0),
    ] {
        let told = statement(&format!("&from={from}&to={to}")).await;
        assert_eq!(told.pick(["opening", "closing"]), json!([opening, closing]), "{from}");
        assert_eq!(told.list("entries").len(), rows, "{from}");
    }
    // The running month is left out.
    let running = statement("").await.pick(["from", "to", "opening", "closing"]);
    assert_eq!(running, json!(["2026-04-01T00:00:00Z", "2026-05-01T00:00:00Z", "-1.75", "8.25"]));
    let year = "/v1/battery/statement?org=acme&from=2026-01-01T00:00:00Z&to=2027-01-01T00:00:00Z";
    let paged = world.on(0).all_of(year, "entries", 2).await;
    let mut listed = world.all("/v1/battery/entries?org=acme", 4).await;
    listed.reverse();
    assert_eq!(paged, listed);
    assert_eq!(paged.len(), 6);
    let empty = "?org=acme&from=2026-03-02T00:00:00Z&to=2026-03-02T00:00:00Z";
    world.get(&format!("/v1/battery/statement{empty}")).await.names(400, "to");
}

#[tokio::test]
async fn entries_and_grants_are_narrowed_and_name_each_other() {
    let world = history().await;
    let get = async |path: &str| world.get(&format!("/v1/battery/{path}")).await.status(200);
    let grants = world.all("/v1/battery/grants?org=acme", 2).await;
    assert_eq!(
        fields(&grants, ["source", "state", "amount", "remaining", "burned", "taken_back", "lapsed"]),
        [
            ["adjustment", "open", "10", "8.25", "1.75", "0", "0"],
            ["purchase", "closed", "0.5", "0", "0.5", "0", "0"],
            ["bonus", "closed", "100", "0", "30", "0", "70"],
        ]
    );
    for (query, rows) in [
        ("grants?org=acme&state=open", 1),
        ("grants?org=acme&source=purchase,bonus", 2),
        ("grants?org=acme&expires_before=2026-03-10T00:00:00.000001Z", 1),
        ("grants?org=acme&expires_before=2026-03-10T00:00:00Z", 0),
        ("entries?org=acme&kind=adjustment", 3),
        ("entries?org=acme&kind=adjustment,expiry&source=manual,bonus", 3),
        ("entries?org=acme&from=2026-03-02T00:00:00Z&to=2026-03-10T00:00:00Z", 2),
    ] {
        assert_eq!(get(query).await.rows().len(), rows, "{query}");
    }
    // The entries that made the bonus, used it and ended it.
    let [adjustment, purchase, bonus] = [0, 1, 2].map(|n: usize| grants[n]["id"].as_str().expect("an id"));
    let of_bonus = get(&format!("entries?org=acme&grant={bonus}")).await;
    assert_eq!(
        fields(of_bonus.rows(), ["sequence", "kind", "amount"]),
        [["4", "expiry", "-70"], ["2", "adjustment", "-30"], ["1", "bonus", "100"]]
    );
    let shown = get(&format!("grants/{bonus}")).await;
    assert_eq!(shown.pick(["entries", "amount"]), json!([of_bonus["data"], "100"]));
    // 2.25 burned with half a unit left: the rest is debt, which the next grant pays.
    let burned = get("entries/5?org=acme").await;
    let draws = json!([{ "grant": purchase, "units": "0.5" }]);
    assert_eq!(burned.pick(["draws", "reason", "source"]), json!([draws, "a test", "manual"]));
    assert!(burned.text("actor").starts_with("key:"));
    let paid = get("entries/6?org=acme").await;
    let draws = json!([{ "grant": adjustment, "units": "1.75" }]);
    assert_eq!(paid.pick(["grant", "draws"]), json!([adjustment, draws]));
}

#[tokio::test]
async fn what_is_wrong_with_a_question_about_batteries_is_named() {
    let world = history().await;
    for (path, status, field) in [
        ("/entries/7?org=acme", 404, ""),
        ("/entries/x?org=acme", 404, ""),
        ("/entries?org=acme&kind=gift", 400, "kind"),
        ("/entries?org=acme&grant=grt_x", 404, ""),
        ("/entries?org=acme&colour=red", 400, "colour"),
        ("/entries?org=nobody", 404, "org"),
        ("/entries", 400, "org"),
        ("/grants/grt_x", 404, ""),
        ("/grants?org=acme&state=gone", 400, "state"),
        ("?org=acme&at=2027-01-01T00:00:00Z", 400, "at"),
        ("?org=acme&at=yesterday", 400, "at"),
        ("/export?colour=red", 400, "colour"),
        ("/export?kind=gift", 400, "kind"),
        ("/export?from=2026-03-02&to=2026-03-02", 400, "to"),
        ("/export?after=1", 400, "after"),
        ("/export?after=org_x/1", 400, "after"),
        ("/export?format=parquet&after=org_acme/1", 400, "after"),
        ("/export?of=invoices", 400, "of"),
    ] {
        world.get(&format!("/v1/battery{path}")).await.names(status, field);
    }
    let then = world.get("/v1/battery?org=acme&at=2026-03-11T00:00:00Z").await;
    assert_eq!(then.pick(["balance", "available"]), json!(["0.5", null]));
}

#[tokio::test]
async fn what_is_due_is_written_before_it_is_read() {
    let world = batteries("2026-03-01T00:00:00Z").start().await;
    let mut ids = Vec::new();
    for day in 2..8 {
        let lapses = grant("acme", "1").with("expires_at", format!("2026-03-{day:02}T00:00:00Z"));
        ids.push(world.grants(lapses).await);
    }
    // Ask at once, before a worker runs.
    let turn = |day: u32| world.turn(&format!("2026-03-{day:02}T00:00:00Z"));
    turn(2);
    let entries = world.get("/v1/battery/entries?org=acme").await;
    assert_eq!(entries.pick(["data.0.kind", "data.0.balance_after"]), json!(["expiry", "5"]));
    turn(3);
    assert_eq!(world.get("/v1/battery/grants?org=acme&state=closed").await.rows().len(), 2);
    turn(4);
    let grant = world.get(&format!("/v1/battery/grants/{}", ids[2])).await;
    assert_eq!(grant.pick(["lapsed", "entries.0.kind"]), json!(["1", "expiry"]));
    turn(5);
    let statement = world.get("/v1/battery/statement?org=acme").await;
    assert_eq!(statement.pick(["closing", "kinds.expiry.amount"]), json!(["2", "-4"]));
    turn(6);
    let (told, _) = world.file("/v1/battery/export").await;
    assert_eq!(told["kinds"]["expiry"], json!({ "rows": 5, "amount": "-5" }));
    turn(7);
    // The balance is computed without writing.
    let held = world.get("/v1/battery?org=acme").await;
    assert_eq!(held.pick(["balance", "available", "reserved"]), json!(["0", "0", "0"]));
}

/// The entries of `acme`, oldest first.
async fn entries_of_acme(world: &World) -> Vec<Value> {
    let mut entries = world.all("/v1/battery/entries?org=acme", 100).await;
    entries.reverse();
    entries
}

#[tokio::test]
async fn files_hold_what_the_lists_show() {
    let world = history().await;
    let listed = entries_of_acme(&world).await;
    let names = ["sequence", "at", "kind", "amount", "balance_after", "source", "draws", "reason", "actor"];
    let (told, body) = world.file("/v1/battery/export?format=jsonl").await;
    let lines = String::from_utf8(body).expect("UTF-8");
    let rows = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let acme = &world.get("/v1/orgs/acme").await["id"].clone();
    let (acme, bolt): (Vec<Value>, Vec<Value>) = rows.partition(|row| row["org_id"] == *acme);
    assert_eq!(fields(&acme, names), fields(&listed, names));
    assert_eq!(acme[0]["grant_id"], listed[0]["grant"]);
    assert_eq!(fields(&bolt, ["org_external_id", "amount"]), [["bolt", "7"]]);
    assert_eq!(
        told,
        json!({ "of": "battery", "rows": 7, "kinds": {
            "adjustment": { "rows": 3, "amount": "-22.25" }, "bonus": { "rows": 2, "amount": "107" },
            "expiry": { "rows": 1, "amount": "-70" }, "grant": { "rows": 1, "amount": "0.5" },
        } })
    );
    assert_eq!(world.get("/v1/battery/export/totals").await.body, told);
    for format in ["xlsx", "parquet"] {
        let (told, file) = world.file(&format!("/v1/battery/export?format={format}")).await;
        assert_eq!(told["rows"], 7);
        assert!(file.starts_with(if format == "xlsx" { b"PK" } else { b"PA" }), "{format}");
    }
}

/// The list as CSV equals the org's export; text that would start a formula is escaped.
#[tokio::test]
async fn the_list_as_csv_is_the_export() {
    let world = history().await;
    let listed = entries_of_acme(&world).await;
    let (_, csv) = world.file("/v1/battery/entries?org=acme&format=csv").await;
    let (_, export) = world.file("/v1/battery/export?org=acme").await;
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
    // The filters are those of the list; a broken download can continue.
    let (told, _) = world.file("/v1/battery/export?kind=adjustment&from=2026-03-02&to=2026-03-13").await;
    assert_eq!(told["kinds"], json!({ "adjustment": { "rows": 2, "amount": "-32.25" } }));
    let grant = listed[0]["grant"].as_str().expect("a grant");
    let path = format!("/v1/battery/entries?org=acme&format=csv&grant={grant}&kind=expiry");
    assert_eq!(world.file(&path).await.0["rows"], 1);
    let acme = world.get("/v1/orgs/acme").await.id();
    let path = format!("/v1/battery/export?org=acme&header=false&after={acme}/4");
    let rest: String = text.lines().skip(5).map(|line| format!("{line}\r\n")).collect();
    assert_eq!(rest.into_bytes(), world.file(&path).await.1);
    // The command writes the same file.
    let printed = world.run(&["export", "battery", "--org", "acme"]);
    assert_eq!(printed.into_bytes(), export);
}

#[tokio::test]
async fn an_org_reads_its_own_battery_and_no_other() {
    let world = history().await;
    let grant = world.get("/v1/battery/grants?org=acme").await.text("data.0.id");
    let grant = format!("/v1/battery/grants/{grant}");
    let orgs = [world.get("/v1/orgs/acme").await.id(), world.get("/v1/orgs/bolt").await.id()];
    let keys = [("usage:read", "acme"), ("billing:read", "bolt"), ("usage:write", "acme")]
        .map(|(scope, org)| world.database.key(scope, Some(org)));
    let [acme, bolt, wrong] = keys.each_ref().map(|key| world.by(key));
    let own = acme.get("/v1/battery").await.status(200);
    assert_eq!(own.pick(["balance", "org"]), json!(["8.25", orgs[0]]));
    assert_eq!(acme.get("/v1/battery?org=acme").await, own);
    for path in ["?", "/grants?", "/entries?", "/statement?"] {
        bolt.get(&format!("/v1/battery{path}")).await.status(200);
        bolt.get(&format!("/v1/battery{path}org=acme")).await.status(404);
        wrong.get(&format!("/v1/battery{path}")).await.status(403);
    }
    acme.get(&grant).await.status(200);
    bolt.get(&grant).await.status(404);
    bolt.get("/v1/battery/entries/2").await.status(404);
    assert_eq!(bolt.get("/v1/battery/entries").await.column("amount"), json!(["7"]));
    let (told, body) = world.download("/v1/battery/export?header=false", &keys[1]).await;
    assert_eq!((&told["rows"], String::from_utf8_lossy(&body).lines().count()), (&json!(1), 1));
    bolt.get("/v1/battery/export?org=acme").await.status(404);
    bolt.get(&format!("/v1/battery/export?after={}/1", orgs[0])).await.status(400);
    acme.get("/v1/battery/export").await.status(403);
}

/// Even if a handler forgets to filter, the database hides other orgs' rows.
#[tokio::test]
async fn the_database_shows_an_org_its_own_battery_alone() {
    use diesel::prelude::*;
    let world = history().await;
    let mut conn = world.platform();
    let bolt = world.number("SELECT org_id FROM orgs WHERE external_id = 'bolt'");
    for table in ["battery_accounts", "battery_grants", "battery_entries"] {
        let seen: i64 = coulomb::db::run_in_scope(&mut conn, coulomb::db::Scope::Org(bolt), true, &|conn| {
            let count = diesel::dsl::sql::<diesel::sql_types::BigInt>(&format!("count(*) FROM {table}"));
            Ok(diesel::select(count).get_result(conn)?)
        })
        .expect("counts");
        assert_eq!(seen, 1, "{table}");
    }
}
