//! The audit log: who did what from where, before and after, and who read money.

use chrono::{DateTime, Utc};
use coulomb::audit::partitions;
use coulomb::db::migrate;
use reqwest::Method;
use reqwest::header::{AUTHORIZATION, USER_AGENT};
use serde_json::{Value, json};

use crate::support::invoicing::{billing, payment, tax_rate};
use crate::support::requests::{limit, plan, request};
use crate::support::world::until;
use crate::support::{Database, World};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

/// The only entry of an action.
async fn entry(world: &World, action: &str) -> Value {
    let found = world.get(&format!("/v1/audit?action={action}")).await.ok();
    let [entry] = found.list("data") else { panic!("{action}: {:?}", found.list("data")) };
    entry.clone()
}

#[tokio::test]
async fn a_change_is_kept_with_what_was_before() {
    let world = World::new().org("acme").meter("tokens").quota(100).start().await;
    let id = world.get("/v1/quotas").await.text("data.0.id");
    world.patch(&format!("/v1/quotas/{id}"), json!({ "limit": 250 })).await.ok();
    let updated = entry(&world, "quota.update").await;
    assert_eq!(updated["before"]["limit_quantity"], json!(100), "{updated}");
    assert_eq!(updated["after"]["limit_quantity"], json!(250), "{updated}");
    assert_eq!(updated["before"].get("slot_id"), None, "what stayed is left out: {updated}");
    assert_eq!(updated["target"], json!(id));
    let made = entry(&world, "quota.create").await;
    assert_eq!((&made["before"], &made["after"]["limit_quantity"]), (&Value::Null, &json!(100)), "{made}");
    world.delete(&format!("/v1/quotas/{id}")).await.status(204);
    let deleted = entry(&world, "quota.delete").await;
    assert_eq!((&deleted["before"]["limit_quantity"], &deleted["after"]), (&json!(250), &Value::Null));
}

/// Each stored thing that a command changes has its fields: the one helper knows all of them.
#[tokio::test]
async fn every_stored_thing_has_its_fields() {
    let world = World::new()
        .scopes("admin,billing:write,billing:read,usage:read")
        .invoiced("acme")
        .meter("tokens")
        .with(plan("pro"))
        .with(tax_rate("vat", "19"))
        .start()
        .await;
    world.patch("/v1/orgs/acme", json!({ "name": "Acme & Sons" })).await.ok();
    world.send(plan("pro").name("Pro 2")).await.ok();
    world.send(request(Method::PUT, "/v1/plans/pro/quotas", json!({ "quotas": [limit(5).body] }))).await.ok();
    world.patch("/v1/meters/tokens", json!({ "name": "Tokens!" })).await.ok();
    world.send(tax_rate("vat", "19").with("name", "USt")).await.ok();
    world.send(billing("acme").with("party.name", "Acme GmbH")).await.ok();
    world.put("/v1/battery/settings/acme", json!({ "debt_limit": "5" })).await.ok();
    let made = world.post("/v1/keys", json!({ "name": "a", "scopes": ["usage:read"] })).await.status(201);
    world.delete(&format!("/v1/keys/{}", made.text("id"))).await.status(204);
    let newest = async |action: &str| -> Value {
        let found = world.get(&format!("/v1/audit?limit=1&action={action}")).await.ok();
        found.at("data.0").clone()
    };
    let org = newest("org.update").await;
    assert_eq!((&org["before"]["name"], &org["after"]["name"]), (&json!("acme"), &json!("Acme & Sons")));
    let put = newest("plan.put").await;
    assert_eq!(put["after"]["name"], "Pro 2", "{put}");
    let quotas = newest("plan.put_quotas").await;
    assert_eq!(quotas["before"]["quotas"], Value::Null, "{quotas}");
    assert_eq!(quotas["after"]["quotas"][0]["limit_quantity"], 5, "{quotas}");
    let meter = newest("meter.update").await;
    assert_eq!(meter["after"]["version"]["name"], "Tokens!", "{meter}");
    let rate = newest("tax_rate.put").await;
    assert_eq!((&rate["after"]["name"], &rate["before"]["percent"]), (&json!("USt"), &Value::Null), "{rate}");
    let profile = newest("billing_profile.put").await;
    assert_eq!(profile["after"]["party"]["name"], "Acme GmbH", "{profile}");
    let battery = newest("battery.set_debt_limit").await;
    assert_eq!(battery["after"]["debt_limit"], 5, "{battery}");
    let key = newest("api_key.create").await;
    assert_eq!((&key["before"], &key["after"]["name"]), (&Value::Null, &json!("a")), "{key}");
    assert!(!key.to_string().contains("secret"), "{key}");
    let revoked = newest("api_key.revoke").await;
    assert_eq!(revoked["before"], json!({ "revoked_at": null }), "{revoked}");
}

#[tokio::test]
async fn an_entry_says_who_and_from_where() {
    let world = World::new().setting("COULOMB_TRUSTED_PROXIES", "127.0.0.0/8, 10.0.0.0/8").start().await;
    let send = |name: &'static str, forwarded: &'static str| {
        let request = world.daemon().request(Method::POST, "/v1/orgs", &world.key);
        request
            .header("X-Forwarded-For", forwarded)
            .header(USER_AGENT, "ship/1.0")
            .header("X-Request-Id", name)
            .json(&json!({ "name": name }))
            .send()
    };
    // The client made the first one up; the second is what our proxy saw.
    send("one", "198.51.100.9, 203.0.113.7, 10.0.0.5").await.expect("an answer");
    let one = world.get("/v1/audit?request_id=one").await.ok();
    assert_eq!(one.rows().len(), 1);
    assert_eq!(one.at("data.0.address"), "203.0.113.7");
    assert_eq!(one.at("data.0.user_agent"), "ship/1.0");
    assert_eq!(one.at("data.0.actor_name"), "unnamed");
    send("two", "junk").await.expect("an answer");
    assert_eq!(world.get("/v1/audit?request_id=two").await.at("data.0.address"), "127.0.0.1");
    let mut command = world.command(&["key", "create", "--scopes", "usage:read"]);
    assert!(command.env("USER", "anna").output().expect("runs").status.success());
    let by_hand = world.get("/v1/audit?actor=cli:anna").await.ok();
    assert_eq!(by_hand.at("data.0.actor_name"), "anna (command line)");
    assert_eq!(by_hand.at("data.0.address"), &Value::Null);
}

#[tokio::test]
async fn the_log_is_narrowed_by_every_filter() {
    let world = World::new().at("2026-11-20T12:00:00Z").org("acme").org("globex").start().await;
    world.turn("2026-11-20T12:10:00Z");
    world.patch("/v1/orgs/acme", json!({ "name": "A" })).await.ok();
    let number = async |query: &str| world.get(&format!("/v1/audit?{query}")).await.ok().rows().len();
    assert_eq!(number("action=org.").await, 3);
    assert_eq!(number("action=org.create").await, 2);
    assert_eq!(number("action=org").await, 0);
    assert_eq!(number("org=acme").await, 2);
    assert_eq!(number("org=globex&action=org.update").await, 0);
    assert_eq!(number("action=org.&from=2026-11-20T12:05:00Z").await, 1);
    assert_eq!(number("action=org.&before=2026-11-20T12:05:00Z").await, 2);
    let actor = format!("key:{}", world.key.split('_').nth(2).expect("an id"));
    assert_eq!(number(&format!("actor={actor}&action=org.")).await, 3);
    assert_eq!(number("actor=key:nobody").await, 0);
    let target = world.get("/v1/orgs/acme").await.text("id");
    assert_eq!(number(&format!("target={target}")).await, 2);
    world.get("/v1/audit?org=nobody").await.names(404, "org");
    world.get("/v1/audit?from=yesterday").await.names(400, "from");
    assert_eq!(world.all("/v1/audit?action=org.", 1).await.len(), 3, "pages of one");
    let lines = world.run(&["audit", "--org", "acme", "--action", "org."]);
    assert_eq!(lines.lines().count(), 2, "{lines}");
}

/// An org sees what concerns it, but neither addresses nor names of the platform's keys.
#[tokio::test]
async fn an_org_sees_its_own_entries() {
    let world = World::new().org("acme").org("globex").start().await;
    let own = world.key_of("acme");
    world.patch("/v1/orgs/acme", json!({ "name": "A" })).await.ok();
    world.patch("/v1/orgs/globex", json!({ "name": "G" })).await.ok();
    world.by(&own).get("/v1/invoices").await.ok();
    let seen = world.by(&own).get("/v1/audit").await.ok();
    let id = world.get("/v1/orgs/acme").await.text("id");
    for row in seen.rows() {
        assert_eq!(row["org"], json!(id), "{row}");
    }
    assert_eq!(seen.column("action"), json!(["money.list", "org.update", "api_key.create", "org.create"]));
    assert_eq!(seen.at("data.1.actor_name"), "a key of the platform");
    assert_eq!(seen.at("data.1.address"), &Value::Null);
    assert_eq!(seen.at("data.0.address"), "127.0.0.1", "of its own key");
    world.by(&own).get("/v1/audit?org=globex").await.names(404, "org");
    let file = world.daemon().request(Method::GET, "/v1/audit/export?format=jsonl", &own).send().await;
    let file = file.expect("an answer").text().await.expect("text");
    assert_eq!(file.lines().count(), 4, "{file}");
    let rows: Vec<Value> = file.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!((&rows[2]["action"], &rows[2]["address"]), (&json!("org.update"), &Value::Null));
    assert_eq!(rows[3]["address"], "127.0.0.1");
    let usage_only = world.key("usage:read", Some(&id));
    world.by(&usage_only).get("/v1/audit").await.status(403);
}

#[tokio::test]
async fn the_export_has_every_entry_and_goes_on_after_one() {
    let world = World::new().org("acme").org("globex").start().await;
    let get = async |query: &str| {
        let path = format!("/v1/audit/export?format=csv&header=false&action=org.create{query}");
        let answer = world.daemon().request(Method::GET, &path, &world.key).send().await.expect("an answer");
        let totals = answer.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
        (totals, answer.text().await.expect("text"))
    };
    let (totals, whole) = get("").await;
    assert_eq!(totals, r#"{"of":"audit","rows":2,"actions":{"org.create":{"rows":2}}}"#);
    let [first, second] = whole.lines().collect::<Vec<_>>()[..] else { panic!("{whole}") };
    let id = first.split(',').next().expect("an id");
    let (_, rest) = get(&format!("&after={id}")).await;
    assert_eq!(rest.trim_end(), second);
    for wrong in ["aud_1", "aud_x_1", "org_1"] {
        world.get(&format!("/v1/audit/export?after={wrong}")).await.names(400, "after");
    }
    let out = tempfile::tempdir().expect("a directory");
    let file = out.path().join("audit.parquet");
    world.run(&["export", "audit", "--out", file.to_str().expect("UTF-8")]);
    assert!(file.metadata().expect("a file").len() > 100);
}

/// Who reads money leaves an entry; who asks the same again in the same minute leaves no second one.
#[tokio::test]
async fn reads_of_money_leave_an_entry() {
    let world = World::new().at("2026-11-20T12:00:00Z").invoiced("acme").start().await;
    let invoice = world.invoiced("acme", "10").await;
    world.send(payment("acme", 100)).await.status(201);
    let reads = async || {
        let found = world.get("/v1/audit?org=acme").await.ok();
        let is_read = |row: &&Value| {
            let action = row["action"].as_str().expect("text");
            action.ends_with(".read") || action.ends_with(".list")
        };
        let mut told: Vec<String> = found
            .rows()
            .iter()
            .filter(is_read)
            .map(|row| {
                format!("{} {}", row["action"].as_str().expect("text"), row["target"].as_str().expect(""))
            })
            .collect();
        told.sort();
        told
    };
    for _ in 0..3 {
        world.get("/v1/orgs/acme/account/statement?currency=eur").await.ok();
        world.get("/v1/invoices?org=acme").await.ok();
        world.get("/v1/payments?org=acme").await.ok();
        let path = format!("/v1/invoices/{invoice}/document?format=json");
        world.get(&path).await.ok();
    }
    let document = format!("document.read {invoice}");
    let once = ["account.read statement", &document, "money.list invoices", "money.list payments"]
        .map(str::to_owned);
    assert_eq!(reads().await, once);
    world.get("/v1/invoices?org=acme&limit=1").await.ok();
    assert_eq!(reads().await.len(), 5, "with other parameters it is another read");
    world.turn("2026-11-20T12:01:00Z");
    world.get("/v1/invoices?org=acme").await.ok();
    assert_eq!(reads().await.len(), 6, "a minute later too");
    world.database.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'the log is full'; END $$;
         CREATE TRIGGER refuse BEFORE INSERT ON audit_log FOR EACH ROW EXECUTE FUNCTION refuse()",
    );
    world.get("/v1/invoices?org=acme&limit=2").await.status(500);
}

/// A thousand failures are one entry with their number.
#[tokio::test]
async fn failed_authentications_are_counted_by_address_and_minute() {
    let world = World::new().at("2026-11-20T12:00:10Z").start().await;
    for n in 0..40 {
        let key =
            if n % 2 == 0 { "clb_live_x".to_owned() } else { world.key.replace("clb_live_", "clb_live_0") };
        world.by(&key).get("/v1/orgs").await.status(401);
    }
    let bare = world.daemon().http.get(format!("{}/v1/orgs", world.daemon().base)).send().await;
    assert_eq!(bare.expect("an answer").status(), 401);
    assert_eq!(world.daemon().metric("coulomb_auth_failures_total").await, Some(41));
    assert_eq!(world.number("SELECT count(*) FROM audit_log WHERE action = 'auth.fail'"), 0);
    world.turn("2026-11-20T12:01:00Z");
    until("the entry", async || {
        world.number("SELECT count(*) FROM audit_log WHERE action = 'auth.fail'") == 1
    })
    .await;
    let entry = entry(&world, "auth.fail").await;
    assert_eq!((&entry["detail"]["count"], &entry["address"]), (&json!(41), &json!("127.0.0.1")), "{entry}");
    assert_eq!((&entry["actor"], &entry["at"]), (&json!("stranger"), &json!("2026-11-20T12:00:10Z")));
    assert!(entry["detail"]["reason"].as_str().expect("a reason").contains("API key"), "{entry}");
}

/// What was counted in the last minute is not lost when the daemon stops.
#[tokio::test]
async fn a_stop_writes_what_was_counted() {
    let mut world = World::new().start().await;
    let answer = world.daemon().http.get(format!("{}/v1/orgs", world.daemon().base));
    let answer = answer.header(AUTHORIZATION, "Bearer x").send().await.expect("an answer");
    assert_eq!(answer.status(), 401);
    assert_eq!(world.daemons[0].stop(), Some(0));
    assert_eq!(world.number("SELECT (detail ->> 'count')::int FROM audit_log WHERE action = 'auth.fail'"), 1);
}

/// The months of the log that have a partition.
fn months(database: &Database) -> String {
    let sql = "SELECT string_agg(right(c.relname, 7), ' ' ORDER BY c.relname) FROM pg_inherits
        JOIN pg_class c ON c.oid = inhrelid
        WHERE inhparent = 'audit_log'::regclass AND c.relname <> 'audit_log_default'";
    database.value(sql).unwrap_or_default()
}

#[test]
fn months_are_made_ahead_and_dropped_by_the_retention() {
    let database = Database::new();
    let mut conn = database.platform();
    database.execute(
        "INSERT INTO audit_log (org_id, at, actor, action, target, detail)
         SELECT 0, t::timestamptz, 'a', 'x.y', '', '{}'
         FROM unnest(ARRAY['2025-01-31T23:59:59Z', '2025-02-01T00:00:00Z', '2025-03-15T00:00:00Z']) AS t",
    );
    let strays = "SELECT count(*) FROM usage_partitions.audit_log_default";
    assert_eq!(database.number(strays), 3, "without a partition they have a place too");
    assert_eq!(partitions::create_ahead(&mut conn, at("2025-01-20T00:00:00Z")).expect("made"), 4);
    assert_eq!(months(&database), "2025_01 2025_02 2025_03 2025_04");
    assert_eq!(database.number(strays), 0, "they moved");
    assert_eq!(partitions::create_ahead(&mut conn, at("2025-02-20T00:00:00Z")).expect("made"), 1);
    let mut drop = |months, now: &str| {
        let dropped = partitions::drop_oldest(&mut conn, months, at(now)).expect("works");
        dropped.map(|month| month.to_string())
    };
    assert_eq!(drop(0, "2026-01-01T00:00:00Z"), None, "0: for ever");
    assert_eq!(drop(2, "2025-03-31T00:00:00Z"), None);
    assert_eq!(drop(2, "2025-04-01T00:00:00Z").as_deref(), Some("2025-01-01"));
    assert_eq!(drop(2, "2025-04-01T00:00:00Z"), None);
    assert_eq!(database.number("SELECT count(*) FROM audit_log"), 2);
    // The clock of a daemon does not decide alone: the database keeps what ended less than four weeks ago.
    let this_month = "SELECT make_audit_partition(now()::date); SELECT drop_audit_partition(now()::date)";
    let refused = diesel::connection::SimpleConnection::batch_execute(&mut database.platform(), this_month);
    assert!(refused.expect_err("refused").to_string().contains("less than four weeks ago"));
}

#[test]
fn entries_of_the_one_table_are_kept_by_the_migration() {
    let database = Database::empty();
    let mut conn = database.owner();
    migrate::run(&mut conn).expect("migrates");
    drop(conn);
    database.run(&["migrate", "--revert", &later_migrations()]);
    database.execute(
        "INSERT INTO audit_log (org_id, at, actor, action, target, detail, request_id)
         SELECT n, make_timestamptz(2026, 1 + n, 1, 0, 0, 0, 'UTC'), 'cli:a', 'x.y', n::text, '{}', 'r'
         FROM generate_series(0, 5) AS n",
    );
    let entries =
        "SELECT string_agg(concat_ws(' ', org_id, audit_id, at AT TIME ZONE 'UTC', target, detail), ', '
        ORDER BY audit_id) FROM audit_log";
    let before = database.value(entries);
    database.run(&["migrate"]);
    assert_eq!(database.value(entries), before);
    assert_eq!(months(&database), "2026_01 2026_02 2026_03 2026_04 2026_05 2026_06");
    database.execute(
        "INSERT INTO audit_log (org_id, at, actor, action, target, detail)
         VALUES (0, now(), '', '', '', '{}')",
    );
    assert_eq!(database.number("SELECT max(audit_id) FROM audit_log"), 7, "numbers go on");
    database.run(&["migrate", "--revert", &later_migrations(), "--destroy-data-of", &name(&database)]);
    assert_eq!(database.number("SELECT count(*) FROM audit_log"), 7, "and back");
}

fn name(database: &Database) -> String {
    database.value("SELECT current_database()").expect("a name")
}

/// How many migrations there are from that of the months on.
fn later_migrations() -> String {
    let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations");
    let names =
        std::fs::read_dir(dir).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    names.filter(|name| **name >= *"2026-11-28-001100").count().to_string()
}
