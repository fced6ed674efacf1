//! Batteries under usage: what is burned, refused, set aside and given back.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::{Daemon, Database, TestClock};

/// A platform with a meter whose usage burns 2 units each, 0.5 where it is cached, and two orgs.
struct Place {
    database: Database,
    daemon: Daemon,
    key: String,
}

fn tokens(database: &Database) {
    let rates = json!([{ "when": { "cached": "yes" }, "battery_units": "0.5" },
        { "unit_cost": "0.01", "battery_units": "2" }]);
    database.meter(1, "llm", "sum", "cached", Some(&rates));
}

impl Place {
    async fn new() -> Self {
        let database = Database::new();
        tokens(&database);
        let daemon = Daemon::start(&database);
        Self::over(database, daemon).await
    }

    async fn clocked(clock: &TestClock) -> Self {
        let database = Database::new();
        tokens(&database);
        let daemon = Daemon::clocked(&database, clock);
        Self::over(database, daemon).await
    }

    async fn over(database: Database, daemon: Daemon) -> Self {
        let key = database.key("billing:write,billing:read,usage:read,usage:write", None);
        for name in ["acme", "other"] {
            daemon.org(&key, name, "America/New_York").await;
        }
        Self { database, daemon, key }
    }

    async fn post(&self, path: &str, body: Value) -> (u16, Value) {
        let (status, answer) = self.daemon.post(path, &self.key, &body).await;
        (status.as_u16(), answer)
    }

    fn check(&self) {
        assert_eq!(self.database.unbalanced(), [] as [String; 0]);
    }
}

fn event(id: &str, org: &str, value: i64, cached: &str) -> Value {
    json!({ "id": id, "source": "t", "org": org, "event_name": "llm",
        "data": { "value": value, "cached": cached } })
}

#[tokio::test]
async fn a_batch_burns_once_per_org() {
    let place = Place::new().await;
    place.database.grant(1, "one", "100");
    let events = json!([
        event("1", "acme", 10, "no"),
        event("2", "acme", 10, "yes"),
        event("3", "other", 1, "no"),
        event("1", "acme", 10, "no")
    ]);
    assert_eq!(
        place.daemon.usage(&place.key, &events).await,
        ["accepted", "accepted", "accepted", "duplicate"]
    );
    // 10 × 2 + 10 × 0.5; nobody granted `other` anything, and nothing forbids its debt.
    assert_eq!(place.database.ledger(1), ["bonus 100 → 100", "usage -25 → 75"]);
    assert_eq!(place.database.ledger(2), ["usage -2 → -2"]);
    assert_eq!(place.daemon.usage(&place.key, &events).await, ["duplicate"; 4]);
    assert_eq!(place.database.ledger(1).len(), 2);
    place.check();
}

#[tokio::test]
async fn what_the_battery_does_not_hold_is_refused() {
    let place = Place::new().await;
    place.database.grant(1, "one", "10");
    place.database.debt_limit(1, "0");
    let events = json!([
        event("1", "acme", 4, "no"),
        event("2", "acme", 2, "no"),
        event("3", "acme", 1, "no"),
        event("4", "acme", 1, "yes"),
        event("5", "other", 7, "no")
    ]);
    // 8 of 10; 4 are too much, 2 fit exactly, nothing is left for half a unit; the other org has no limit.
    let refused = "data battery_exhausted";
    let told = place.daemon.usage(&place.key, &events).await;
    assert_eq!(told, ["accepted", refused, "accepted", refused, "accepted"]);
    assert_eq!(place.database.ledger(1), ["bonus 10 → 10", "usage -10 → 0"]);
    // What was refused may come again when there is more.
    place.database.grant(1, "two", "5");
    let again = place.daemon.usage(&place.key, &events).await;
    assert_eq!(again, ["duplicate", "accepted", "duplicate", "accepted", "duplicate"]);
    place.database.debt_limit(1, "3");
    assert_eq!(place.daemon.usage(&place.key, &json!([event("6", "acme", 2, "no")])).await, [refused]);
    assert_eq!(place.daemon.usage(&place.key, &json!([event("7", "acme", 1, "no")])).await, ["accepted"]);
    assert_eq!(place.database.ledger(1).last().expect("entries"), "usage -2 → -1.5");
    place.check();
}

#[tokio::test]
async fn a_reservation_holds_battery_and_quota_in_one() {
    let place = Place::new().await;
    place.database.grant(1, "one", "100");
    place.database.debt_limit(1, "0");
    let quota =
        json!({ "org": "acme", "meter": "meter-1", "period": "month", "limit": "45", "enforcement": "hard" });
    assert_eq!(place.post("/v1/quotas", quota).await.0, 201);
    let reserve = |amount: i64, cached: &str| {
        json!({ "org": "acme", "meter": "meter-1", "amount": amount,
        "dimensions": { "cached": cached } })
    };
    let (status, first) = place.post("/v1/quota/reserve", reserve(40, "no")).await;
    assert_eq!(
        (status, &first["battery_units"], &first["battery"]["available"]),
        (201, &json!("80"), &json!("20"))
    );
    // The quota has room for 5, the battery for 20 units.
    let (status, full) = place.post("/v1/quota/reserve", reserve(6, "yes")).await;
    assert_eq!((status, &full["code"]), (409, &json!("quota_exceeded")));
    place.database.grant(2, "one", "1");
    let check = json!({ "items": [reserve(5, "no"), reserve(1, "yes")] });
    let (_, verdicts) = place.post("/v1/quota/check", check).await;
    assert_eq!(verdicts["results"][0]["allowed"], true, "{verdicts}");
    assert_eq!(verdicts["results"][0]["battery"]["available"], "20");
    let (status, small) = place.post("/v1/quota/reserve", reserve(5, "no")).await;
    assert_eq!((status, &small["battery"]["available"]), (201, &json!("10")));
    // Settled by less, the rest is free; the quota is what is left of it.
    let settle = format!("/v1/quota/{}/settle", first["id"].as_str().expect("an id"));
    assert_eq!(place.post(&settle, json!({ "amount": "30" })).await.0, 200);
    assert_eq!(place.post(&settle, json!({ "amount": "30" })).await.0, 200, "a repeat");
    assert_eq!(place.database.ledger(1), ["bonus 100 → 100", "usage -60 → 40"]);
    assert_eq!(place.database.number("SELECT reserved FROM battery_accounts WHERE org_id = 1"), 10);
    let release = format!("/v1/quota/{}/release", small["id"].as_str().expect("an id"));
    assert_eq!(place.post(&release, json!({})).await.0, 200);
    assert_eq!(place.database.number("SELECT reserved FROM battery_accounts WHERE org_id = 1"), 0);
    // More than was set aside is burned as well, and what the battery does not hold is owed.
    place.database.execute("DELETE FROM quotas; UPDATE catalog SET version = version + 1");
    let (_, third) = place.post("/v1/quota/reserve", reserve(15, "no")).await;
    let settle = format!("/v1/quota/{}/settle", third["id"].as_str().expect("an id"));
    let (status, settled) = place.post(&settle, json!({ "amount": "21" })).await;
    assert_eq!((status, &settled["debt"], &settled["overage"]), (200, &json!("2"), &json!("0")), "{settled}");
    assert_eq!(place.post(&settle, json!({ "amount": "21" })).await.1, settled, "a repeat");
    assert_eq!(place.database.ledger(1).last().expect("entries"), "usage -42 → -2");
    let (status, over) = place.post("/v1/quota/reserve", reserve(1, "yes")).await;
    assert_eq!((status, &over["code"]), (409, &json!("battery_exhausted")), "{over}");
    place.check();
}

#[tokio::test]
async fn a_reservation_that_expires_gives_its_units_back() {
    let clock = TestClock::at("2027-05-01T12:00:00Z");
    let place = Place::clocked(&clock).await;
    place.database.grant(1, "one", "10");
    place.database.debt_limit(1, "0");
    let reserve = |n: i64| json!({ "org": "acme", "meter": "meter-1", "amount": n, "expires_in_s": 60 });
    assert_eq!(place.post("/v1/quota/reserve", reserve(5)).await.0, 201);
    assert_eq!(place.post("/v1/quota/reserve", reserve(1)).await.0, 409);
    let own = event("1", "acme", 1, "no");
    assert_eq!(place.daemon.usage(&place.key, &json!([own])).await, ["data battery_exhausted"]);
    clock.turn("2027-05-01T12:01:00Z");
    // The usage itself ends what is overdue.
    assert_eq!(place.daemon.usage(&place.key, &json!([own])).await, ["accepted"]);
    assert_eq!(place.post("/v1/quota/reserve", reserve(4)).await.0, 201);
    place.check();
}

#[tokio::test]
async fn usage_taken_back_gives_its_units_back() {
    let place = Place::new().await;
    place.database.grant(1, "one", "100");
    place.daemon.usage(&place.key, &json!([event("1", "acme", 10, "no"), event("2", "acme", 5, "no")])).await;
    let void = json!({ "org": "acme", "source": "t", "id": "1", "reason": "a mistake" });
    let (status, answer) = place.post("/v1/usage/void", void).await;
    assert_eq!(status, 200, "{answer}");
    let event = json!({ "event_name": "llm", "data": { "value": 7, "cached": "yes" } });
    let amended = json!({ "org": "acme", "source": "t", "id": "2", "reason": "a mistake", "event": event });
    let (status, answer) = place.post("/v1/usage/amend", amended).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(
        place.database.ledger(1),
        ["bonus 100 → 100", "usage -30 → 70", "refund 20 → 90", "refund 10 → 100", "usage -3.5 → 96.5"]
    );
    place.check();
}

/// One grant per local day, made when it is first needed, gone with the day; burned before everything else.
#[tokio::test]
async fn the_days_allowance_is_there_when_it_is_needed() {
    let clock = TestClock::at("2027-03-13T15:00:00Z");
    let place = Place::clocked(&clock).await;
    place.database.execute(
        "INSERT INTO plans (plan_id, name, description, active, metadata, created_at)
         VALUES ('daily', 'Daily', NULL, true, '{}', now());
         INSERT INTO plan_versions
             (plan_id, version, created_at, currency, monthly_amount, annual_amount, trial_days, features,
              battery_units, annual_battery_units, trial_battery_units, daily_battery, battery_debt_limit)
         VALUES ('daily', 1, now(), NULL, NULL, NULL, 0, '{}', 0, NULL, NULL, 8, 0);
         INSERT INTO plan_stripe_prices (price_id, plan_id)
         VALUES ('price_daily', 'daily');
         INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
         VALUES ('', false, 'cus_1', 'acme');
         INSERT INTO subscriptions (account, livemode, id, customer_id, status, items_complete,
             current_period_start, current_period_end)
             VALUES ('', false, 'sub_1', 'cus_1', 'active', true, '2027-03-01', '2027-04-01');
         INSERT INTO subscription_items (account, livemode, subscription_id, item_number, id, price_id)
         VALUES ('', false, 'sub_1', 0, 'si_1', 'price_daily');
         UPDATE catalog SET version = version + 1; NOTIFY coulomb_orgs",
    );
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    let used = async |id: &str, value: i64| {
        place.daemon.usage(&place.key, &json!([event(id, "acme", value, "no")])).await.remove(0)
    };
    assert_eq!(used("1", 3).await, "accepted");
    assert_eq!(used("2", 2).await, "data battery_exhausted");
    assert_eq!(used("3", 1).await, "accepted");
    assert_eq!(place.database.ledger(1), ["grant 8 → 8", "usage -6 → 2", "usage -2 → 0"]);
    // The day of the change to summer time has 23 hours: it ends at four.
    clock.turn("2027-03-14T05:00:00Z");
    assert_eq!(used("4", 1).await, "accepted");
    clock.turn("2027-03-15T03:59:59Z");
    assert_eq!(used("5", 4).await, "data battery_exhausted");
    clock.turn("2027-03-15T04:00:00Z");
    assert_eq!(used("5", 4).await, "accepted");
    let ledger = place.database.ledger(1);
    assert_eq!(ledger[3..], ["grant 8 → 8", "usage -2 → 6", "expiry -6 → 0", "grant 8 → 8", "usage -8 → 0"]);
    let lapsed =
        place.database.value("SELECT at AT TIME ZONE 'UTC' FROM battery_entries WHERE kind = 'expiry'");
    assert_eq!(lapsed.as_deref(), Some("2027-03-15 04:00:00"));
    place.check();
}

/// Clients burn one battery to nothing through two daemons, by usage and by reservations: not a unit more
/// than was granted.
async fn to_the_last_unit(clients: u64, granted: i64) {
    let place = Arc::new(Place::new().await);
    let second = Daemon::start(&place.database);
    place.database.grant(1, "one", &granted.to_string());
    place.database.debt_limit(1, "0");
    let (next, admitted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let client = |n: u64| {
        let (place, next, admitted) = (Arc::clone(&place), Arc::clone(&next), Arc::clone(&admitted));
        let bases = [place.daemon.base.clone(), second.base.clone()];
        let http = place.daemon.http.clone();
        async move {
            let mut dice = n * 7919 + 1;
            let mut refused_small = 0;
            // The smallest amount being refused a few times over, with nothing set aside, means that nothing
            // is left.
            while refused_small < 5 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let id = next.fetch_add(1, Ordering::Relaxed);
                let value = if refused_small > 0 { 1 } else { 1 + (dice >> 33) % 9 };
                let base = &bases[usize::try_from((dice >> 40) % 2).expect("small")];
                let post = async |path: String, body: Value| {
                    let sent = http.post(format!("{base}{path}")).bearer_auth(&place.key).json(&body);
                    let response = sent.send().await.expect("an answer");
                    let status = response.status().as_u16();
                    (status, response.json::<Value>().await.expect("JSON"))
                };
                if (dice >> 50).is_multiple_of(3) {
                    let body = json!({ "org": "acme", "meter": "meter-1", "amount": value });
                    let (status, reservation) = post("/v1/quota/reserve".to_owned(), body).await;
                    if status == 201 {
                        let id = reservation["id"].as_str().expect("an id");
                        let less = value - value / 3;
                        let settle = post(format!("/v1/quota/{id}/settle"), json!({ "amount": less })).await;
                        assert_eq!(settle.0, 200, "{}", settle.1);
                        admitted.fetch_add(less * 2, Ordering::Relaxed);
                    } else {
                        assert_eq!(reservation["code"], "battery_exhausted", "{reservation}");
                    }
                    continue;
                }
                let body =
                    json!([event(&id.to_string(), "acme", i64::try_from(value).expect("small"), "no")]);
                let (status, answer) = post("/v1/usage".to_owned(), body).await;
                assert_eq!(status, 200, "{answer}");
                match answer["results"][0]["status"].as_str() {
                    Some("accepted") => {
                        admitted.fetch_add(value * 2, Ordering::Relaxed);
                        refused_small = 0;
                    }
                    _ => refused_small += i32::from(value == 1) + i32::from(refused_small == 0),
                }
            }
        }
    };
    futures_util::future::join_all((0..clients).map(client)).await;
    assert_eq!(i64::try_from(admitted.load(Ordering::Relaxed)).expect("small"), granted);
    assert_eq!(place.database.number("SELECT balance FROM battery_accounts WHERE org_id = 1"), 0);
    assert_eq!(place.database.number("SELECT reserved FROM battery_accounts WHERE org_id = 1"), 0);
    place.check();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_battery_is_burned_to_its_last_unit_and_no_further() {
    to_the_last_unit(64, 20_000).await;
}

#[tokio::test]
async fn verify_finds_what_does_not_add_up() {
    let place = Place::new().await;
    place.database.grant(1, "one", "100");
    place.daemon.usage(&place.key, &json!([event("1", "acme", 10, "no")])).await;
    let verify = || {
        let output = place.database.command(&["verify"]).output().expect("runs");
        (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
    };
    assert_eq!(verify(), (Some(0), String::new()));
    for (wrong, right, told) in [
        (
            "UPDATE battery_accounts SET balance = 81",
            "UPDATE battery_accounts SET balance = 80",
            ["battery_accounts", "battery_grants"].as_slice(),
        ),
        (
            "UPDATE battery_grants SET remaining = 79, burned = 21",
            "UPDATE battery_grants SET remaining = 80, burned = 20",
            &["battery_grants", "battery_grants"],
        ),
        (
            "UPDATE battery_entries SET batch = batch + 1 WHERE kind = 'usage'",
            "UPDATE battery_entries SET batch = batch - 1 WHERE kind = 'usage'",
            &["battery_entries", "battery_entries"],
        ),
        (
            "UPDATE battery_accounts SET reserved = 1",
            "UPDATE battery_accounts SET reserved = 0",
            &["battery_accounts"],
        ),
        (
            "UPDATE battery_entries SET sequence = 3 WHERE sequence = 2",
            "UPDATE battery_entries SET sequence = 2 WHERE sequence = 3",
            &["battery_entries"],
        ),
    ] {
        place.database.execute(wrong);
        let (status, lines) = verify();
        let tables: Vec<&str> = lines.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!((status, tables.as_slice()), (Some(3), told), "{wrong}: {lines}");
        place.database.execute(right);
    }
    assert_eq!(verify(), (Some(0), String::new()));
}
