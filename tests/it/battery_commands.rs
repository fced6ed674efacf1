//! Commands of operators on batteries, and what happens to batteries with time.

use std::time::Duration;

use expect_test::expect;
use reqwest::Method;
use serde_json::{Value, json};

use crate::battery_reads::batteries;
use crate::support::daemon::answer;
use crate::support::requests::{Request, adjust, debt_limit, grant, request};
use crate::support::rows::{self, PlanRow};
use crate::support::world::until;
use crate::support::{Daemon, Database, World};

impl World {
    /// Waits until the query gives this value.
    async fn until(&self, sql: &str, wanted: &str) {
        let what = format!("{sql} gives {wanted}");
        until(&what, async || self.value(sql).as_deref() == Some(wanted)).await;
    }

    /// Another daemon on the same clock.
    fn joined_by_another(&mut self) {
        let other = Daemon::clocked(&self.database, self.clock());
        self.daemons.push(other);
    }
}

/// Voids the rest of a grant.
fn void(id: &str) -> Request {
    request(Method::POST, format!("/v1/battery/grants/{id}/void"), json!({ "reason": "mistake" }))
}

/// Puts orgs on the plan `day`, whose daily allowance is 20 units.
fn daily(database: &Database, orgs: &[&str]) {
    let day = PlanRow {
        id: "day",
        prices: &["price_day"],
        daily_units: 20,
        debt_limit: Some(100),
        ..PlanRow::default()
    };
    rows::plan(database, &day);
    for org in orgs {
        rows::subscription(database, org, "price_day");
    }
}

/// Ledgers with gaps in their numbers, with balances that do not chain, or that differ from account or
/// grants.
fn unsound(database: &Database) -> i64 {
    database.number(
        "SELECT (SELECT count(*)
             FROM (SELECT *, row_number() OVER w AS n, sum(amount) OVER w AS total, lag(at) OVER w AS before
                     FROM battery_entries WINDOW w AS (PARTITION BY org_id ORDER BY sequence)) e
                 WHERE sequence <> n OR balance_after <> total OR before > at)
              + (SELECT count(*) FROM battery_accounts a
                  WHERE balance <> (SELECT coalesce(sum(amount), 0) FROM battery_entries e
                  WHERE e.org_id = a.org_id)
                     OR greatest(balance, 0) <> (SELECT coalesce(sum(remaining), 0) FROM battery_grants g
                         WHERE g.org_id = a.org_id AND state = 'open'))",
    )
}

#[tokio::test]
async fn a_grant_is_what_was_asked_for_once() {
    let world = batteries("2026-03-01T00:00:00Z").start().await;
    let asked = grant("acme", "12.500000001")
        .with("source", "purchase")
        .with("priority", 7)
        .with("effective_at", "2026-03-02T00:00:00Z")
        .with("expires_at", "2026-04-01T00:00:00+02:00")
        .with("reason", "ticket 5")
        .with("key", "ticket-5");
    let made = world.send(asked.clone()).await.status(201);
    made.shows_without(
        &["actor", "entries"],
        expect![[r#"
        {
          "amount": "12.500000001", "burned": "0", "created_at": "2026-03-01T00:00:00Z",
          "effective_at": "2026-03-02T00:00:00Z", "expires_at": "2026-03-31T22:00:00Z",
          "id": "grt_…", "key": "manual:ticket-5", "lapsed": "0", "link": null, "org": "org_…",
          "priority": 7, "reason": "ticket 5", "remaining": "12.500000001", "source": "purchase",
          "state": "scheduled", "taken_back": "0"
        }"#]],
    );
    assert_eq!(world.balance("acme").await, "0");
    world.send(asked).await.refused(409, "already_granted");
    // Another org may use the same key; a repeated request gets the same answer.
    let other = grant("bolt", 3).with("reason", "ticket 5").with("key", "ticket-5");
    let by_header = || {
        let request = world.daemon().request(other.method.clone(), &other.path, &world.key);
        answer(request.header("Idempotency-Key", "one").json(&other.body))
    };
    let (first, again) = (by_header().await, by_header().await);
    assert_eq!(first, again);
    assert_eq!((first.0.as_u16(), &first.1["priority"]), (201, &json!(30)));
    assert_eq!(world.balance("bolt").await, "3");
    let logged = world.value(
        "SELECT string_agg(action || ' ' || (target = detail ->> 'id') || ' ' || (detail ->> 'reason'), ', '
             ORDER BY at, audit_id) FROM audit_log WHERE action LIKE 'battery.%'",
    );
    assert_eq!(logged.as_deref(), Some("battery.grant true ticket 5, battery.grant true ticket 5"));
    world.turn("2026-03-02T00:00:00Z");
    assert_eq!(world.balance("acme").await, "12.500000001");
    assert_eq!(unsound(&world), 0);
}

#[tokio::test]
async fn what_is_wrong_with_a_command_names_its_field() {
    let world = batteries("2026-03-01T00:00:00Z").start().await;
    let grant = || grant("acme", "1");
    let (at, later) = ("2026-03-01T00:00:00Z", "2026-03-02T00:00:00Z");
    for (command, field) in [
        (grant().amount("0"), "amount"),
        (grant().amount("-1"), "amount"),
        (grant().amount("0.0000000001"), "amount"),
        (grant().amount("1000000000000000"), "amount"),
        (grant().amount("many"), "amount"),
        (grant().with("source", "subscription"), "source"),
        (grant().with("source", "daily_allowance"), "source"),
        (grant().with("source", "gift"), "source"),
        (grant().with("priority", 1001), "priority"),
        (grant().with("priority", -1), "priority"),
        (grant().with("expires_at", at), "expires_at"),
        (grant().with("expires_at", later).with("effective_at", later), "expires_at"),
        (grant().with("expires_at", "tomorrow"), "expires_at"),
        (grant().with("reason", " "), "reason"),
        (grant().with("reason", "a\u{0}b"), "reason"),
        (grant().with("key", ""), "key"),
        (grant().with("colour", "red"), "colour"),
        (adjust("acme", "0"), "amount"),
        (adjust("acme", "0.0000000001"), "amount"),
        (adjust("acme", "1").with("reason", ""), "reason"),
        (adjust("acme", "1").without("reason"), "reason"),
        (debt_limit("acme", "-1"), "debt_limit"),
        (debt_limit("acme", "0.0000000001"), "debt_limit"),
        // A missing limit does not mean "no limit".
        (debt_limit("acme", "1").without("debt_limit"), "debt_limit"),
    ] {
        world.send(command).await.names(400, field);
    }
    world.send(grant().org("x")).await.status(404);
    world.send(void("grt_x")).await.status(404);
    assert_eq!(world.number("SELECT count(*) FROM battery_accounts"), 0);
}

#[tokio::test]
async fn the_platform_alone_commands_batteries() {
    let world = batteries("2026-03-01T00:00:00Z").start().await;
    let own = world.database.key("billing:write", Some("acme"));
    let reader = world.database.key("billing:read", None);
    let delete = request(Method::DELETE, "/v1/battery/settings/acme", json!({}));
    for command in [grant("acme", "1"), adjust("acme", "1"), void("grt_x"), debt_limit("acme", "1"), delete] {
        for key in [&own, &reader] {
            world.by(key).send(command.clone()).await.status(403);
        }
    }
    assert_eq!(world.number("SELECT count(*) FROM battery_accounts"), 0);
}

#[tokio::test]
async fn adjustments_may_bring_debt_and_voids_take_what_remains() {
    let world = batteries("2026-03-01T00:00:00Z").start().await;
    let first = world.grants(grant("acme", "10").with("expires_at", "2026-03-05T00:00:00Z")).await;
    let second = world.grants(grant("acme", "5").with("priority", 1)).await;
    let scheduled = world.grants(grant("acme", "8").with("effective_at", "2026-03-03T00:00:00Z")).await;
    // Priority 1 burns before priority 30.
    assert_eq!(world.adjusts("-7").await, "8");
    let voided = world.send(void(&first)).await.status(200);
    let told = voided.pick(["state", "remaining", "burned", "taken_back"]);
    assert_eq!(told, json!(["closed", "0", "2", "8"]));
    assert_eq!(world.balance("acme").await, "0");
    for id in [first, second] {
        world.send(void(&id)).await.refused(409, "nothing_remains");
    }
    // No balance includes a grant that is not effective yet, so no entry is written.
    let entries = world.get("/v1/battery/entries?org=acme").await;
    assert_eq!(world.send(void(&scheduled)).await.status(200)["taken_back"], "8");
    assert_eq!(world.get("/v1/battery/entries?org=acme").await, entries);
    let last = entries.part("data.0").pick(["kind", "amount", "reason", "source"]);
    assert_eq!(last, json!(["adjustment", "-8", "mistake", "manual"]));
    world.turn("2026-03-06T00:00:00Z");
    assert_eq!(world.balance("acme").await, "0");
    let done = world.send(adjust("acme", "-2.5")).await.status(201);
    let told = done.pick(["entry.balance_after", "entry.draws", "grant"]);
    assert_eq!(told, json!(["-2.5", [], null]));
    let done = world.send(adjust("acme", "4")).await.status(201);
    let told = done.pick(["entry.balance_after", "grant.remaining", "grant.burned"]);
    assert_eq!(told, json!(["1.5", "1.5", "2.5"]));
    assert_eq!(unsound(&world), 0);
    let shown = world.run(&["battery", "show", "--org", "acme", "--entries", "2"]);
    let shown: Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["balance"]["balance"], "1.5");
    assert_eq!(shown["entries"].as_array().map(Vec::len), Some(2));
    assert_eq!(shown["grants"][0]["remaining"], "1.5");
}

#[tokio::test]
async fn the_command_line_grants() {
    let world = batteries("2026-03-01T00:00:00Z").start().await;
    let bolt = world.get("/v1/orgs/bolt").await.id();
    let what = ["battery", "grant", "--reason", "by hand", "--amount", "2.5"];
    let made = world.run(&[&what[..], &["--org", &bolt, "--expires-at", "2999-01-01T00:00:00Z"]].concat());
    let made: Value = serde_json::from_str(&made).expect("JSON");
    assert_eq!([&made["amount"], &made["source"], &made["org"]], ["2.5", "bonus", bolt.as_str()]);
    for wrong in ["0", "-1", "x", "0.0000000001", "1000000000000000"] {
        let args = ["battery", "grant", "--org", "bolt", "--reason", "x", &format!("--amount={wrong}")];
        let output = world.command(&args).output().expect("runs");
        assert_eq!(output.status.code(), Some(2), "{wrong}");
    }
}

#[tokio::test]
async fn an_orgs_own_debt_limit_comes_before_its_plans() {
    let world = batteries("2026-03-01T00:00:00Z").start().await;
    daily(&world, &["acme"]);
    let acme = world.get("/v1/orgs/acme").await.id();
    let limit = async || world.get("/v1/battery?org=acme").await["debt_limit"].clone();
    let plans = || world.get("/v1/battery?org=acme");
    until("the plan's limit is known", async || plans().await["debt_limit"] == "100").await;
    let version = || world.number("SELECT version FROM catalog");
    let before = version();
    for own in [json!("0"), json!("7.5"), Value::Null] {
        let told = world.send(debt_limit("acme", own.clone())).await.status(200);
        assert_eq!(told.pick(["debt_limit", "org"]), json!([own, acme]));
        assert_eq!(limit().await, own);
    }
    // Every replica now has an older version of the terms.
    assert_eq!(version(), before + 3);
    world.delete("/v1/battery/settings/acme").await.status(204);
    assert_eq!(limit().await, "100");
    world.delete("/v1/battery/settings/acme").await.status(404);
    assert_eq!(version(), before + 4);
}

#[tokio::test]
async fn what_is_due_is_written_though_nobody_comes() {
    let mut world = batteries("2026-03-01T00:00:00Z").start().await;
    // Two daemons, and more orgs than fit one batch.
    world.joined_by_another();
    world.execute(
        "INSERT INTO orgs (public_id, name, time_zone, created_at, metadata)
         SELECT 'org_' || n, 'x', 'UTC', now(), '{}' FROM generate_series(1, 450) n;
         INSERT INTO org_refs (ref, org_id)
         SELECT public_id, org_id FROM orgs ON CONFLICT DO NOTHING;
         INSERT INTO battery_accounts (org_id, balance, reserved, entries, grants, last_at, daily)
         SELECT org_id, 0, 0, 0, 1, NULL, NULL FROM orgs;
         INSERT INTO battery_grants
             (org_id, grant_number, grant_id, source, source_key, state, priority, created_at,
              effective_at, expires_at, amount, remaining, burned, clawed, lapsed)
         SELECT org_id, 1, 'grt_' || org_id, 'bonus', 'k', 'scheduled',
             30, '2026-03-01', '2026-03-02', '2026-03-03', 10, 10, 0, 0, 0 FROM orgs",
    );
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(world.number("SELECT count(*) FROM battery_entries"), 0);
    world.turn("2026-03-02T00:00:00Z");
    world.until("SELECT count(*) FROM battery_accounts WHERE balance = 10", "452").await;
    world.turn("2026-03-03T00:00:00Z");
    world.until("SELECT count(*) FROM battery_accounts WHERE balance = 0 AND entries = 2", "452").await;
    assert_eq!(world.number("SELECT count(*) FROM battery_entries"), 904);
    assert_eq!(unsound(&world), 0);
    let lapsed =
        "SELECT count(*) FROM battery_entries WHERE (kind, amount, at) = ('expiry', -10, '2026-03-03')";
    assert_eq!(world.number(lapsed), 452);
}

#[tokio::test]
async fn a_local_day_has_its_allowance_once() {
    // 08:00 in New York, on the day before the clocks go back.
    let mut world = batteries("2026-10-31T12:00:00Z").start().await;
    world.joined_by_another();
    daily(&world, &["bolt"]);
    // The days that have a grant, and when each grant ends.
    let granted = async |days: &[&str]| {
        let granted = "SELECT string_agg(concat(source_key, ' ', to_char(expires_at, 'DD HH24:MI')), ', '
            ORDER BY grant_number) FROM battery_grants WHERE source = 'daily_allowance'";
        world.until(granted, &days.join(", ")).await;
    };
    let days = [
        "daily:2026-10-31 01 04:00",
        // The day of 25 hours.
        "daily:2026-11-01 02 05:00",
        "daily:2026-11-02 03 05:00",
        "daily:2026-11-05 06 05:00",
    ];
    let a_while = || tokio::time::sleep(Duration::from_millis(1300));
    granted(&days[..1]).await;
    let used = world.send(adjust("bolt", "-5")).await.status(201);
    assert_eq!(used.at("entry.balance_after"), "15");
    let day =
        json!({ "day": "2026-10-31", "units": "20", "granted": true, "lapses_at": "2026-11-01T04:00:00Z" });
    assert_eq!(world.get("/v1/battery?org=bolt").await["daily_allowance"], day);
    world.turn("2026-11-01T03:59:59.999999Z");
    a_while().await;
    assert_eq!(world.balance("bolt").await, "15");
    world.turn("2026-11-01T04:00:00Z");
    granted(&days[..2]).await;
    assert_eq!(world.balance("bolt").await, "20");
    world.turn("2026-11-02T04:30:00Z");
    a_while().await;
    granted(&days[..2]).await;
    world.turn("2026-11-02T05:00:00Z");
    granted(&days[..3]).await;
    // Nothing ran for three days: only the running day gets a grant.
    world.turn("2026-11-05T12:00:00Z");
    granted(&days).await;
    a_while().await;
    let entries = world.all("/v1/battery/entries?org=bolt", 3).await;
    let told = entries
        .iter()
        .rev()
        .map(|entry| ["at", "kind", "amount"].map(|field| entry[field].as_str().expect("text")).join(" "));
    let told: Vec<String> = told.collect();
    assert_eq!(
        told[1..5],
        [
            "2026-10-31T12:00:00Z adjustment -5",
            "2026-11-01T04:00:00Z expiry -15",
            "2026-11-01T04:00:00Z grant 20",
            "2026-11-02T05:00:00Z expiry -20",
        ]
    );
    assert_eq!(told.len(), 8);
    assert_eq!(unsound(&world), 0);
    // An org without such a plan has no battery from it.
    assert_eq!(world.number("SELECT count(*) FROM battery_accounts"), 1);
    let acme = world.get("/v1/battery?org=acme").await;
    assert_eq!(acme.pick(["balance", "daily_allowance"]), json!(["0", null]));
}

#[test]
fn eight_at_once_grant_each_org_its_day_once() {
    use coulomb::battery::terms::AllTerms;
    use coulomb::battery::upkeep::{self, Allowances};
    use coulomb::billing::directory::Directory;
    let database = Database::new();
    let names: Vec<String> = (0..230).map(|n| format!("o{n}")).collect();
    for name in &names {
        crate::support::rows::org(&database, name, "Asia/Tokyo");
    }
    let entitled: Vec<&str> = names.iter().skip(3).map(String::as_str).collect();
    daily(&database, &entitled);
    // A day later in Tokyo: 2 March.
    for now in ["2026-02-28T18:00:00Z", "2026-03-01T15:00:00Z"] {
        let now = now.parse().expect("a time");
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let (mut conn, allowances) = (database.platform(), Allowances::default());
                    let terms = AllTerms::load(&mut conn).expect("terms");
                    while let Some(step) = allowances.next(&mut conn, now).expect("a step") {
                        let reached = coulomb::db::run_with_retries(&mut conn, |conn| {
                            upkeep::grant(conn, &Directory::default(), &terms, step, now)
                        });
                        allowances.done(step, reached.expect("grants"));
                    }
                });
            }
        });
    }
    let granted = "SELECT string_agg(source_key || ' ' || count, ', ' ORDER BY source_key)
        FROM (SELECT source_key, count(*) FROM battery_grants GROUP BY 1) k";
    assert_eq!(database.value(granted).as_deref(), Some("daily:2026-03-01 227, daily:2026-03-02 227"));
    assert_eq!(
        database.number("SELECT count(*) FROM battery_accounts WHERE balance = 20 AND entries = 3"),
        227
    );
    assert_eq!(unsound(&database), 0);
}
