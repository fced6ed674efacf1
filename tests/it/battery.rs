//! Batteries and usage: usage burns units, is refused, reserves units and releases them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use crate::support::World;
use crate::support::objects::{customer, subscription};
use crate::support::requests::{
    Request, Usage, amend, debt_limit, grant, meter, org, plan, quota, release, reserve, settle, usage, void,
};
use crate::support::world::Setup;

/// The orgs `acme` and `other` in New York, and the meter `tokens` over the events `llm`: each token burns 2
/// units, a cached one 0.5.
fn batteries() -> Setup {
    let rates = json!([{ "when": { "cached": "yes" }, "battery_units": "0.5" },
        { "unit_cost": "0.01", "battery_units": "2" }]);
    World::new()
        .with(org("acme").zone("America/New_York"))
        .with(org("other").zone("America/New_York"))
        .with(meter("tokens").event_name("llm").dimensions(["cached"]))
        .prices(rates)
}

/// An amount of tokens of an org.
fn tokens(id: &str, org: &str, quantity: i64) -> Usage {
    usage(org, "llm").id(id).quantity(quantity)
}

/// An amount of cached tokens.
fn cached(id: &str, org: &str, quantity: i64) -> Usage {
    tokens(id, org, quantity).dimension("cached", "yes")
}

/// Reserves an amount of cached tokens.
fn reserve_cached(amount: i64) -> Request {
    reserve(amount).dimension("cached", "yes")
}

#[tokio::test]
async fn a_batch_burns_once_per_org() {
    let world = batteries().with(grant("acme", 100)).start().await;
    let events =
        [tokens("1", "acme", 10), cached("2", "acme", 10), tokens("3", "other", 1), tokens("1", "acme", 10)];
    let told = world.usage(events.clone()).await;
    assert_eq!(told, ["accepted", "accepted", "accepted", "duplicate"]);
    // 10 × 2 + 10 × 0.5. `other` has no grant, and nothing forbids its debt.
    assert_eq!(world.ledger(1), ["bonus 100 → 100", "usage -25 → 75"]);
    assert_eq!(world.ledger(2), ["usage -2 → -2"]);
    assert_eq!(world.usage(events).await, ["duplicate"; 4]);
    assert_eq!(world.ledger(1).len(), 2);
    world.balances();
}

#[tokio::test]
async fn what_the_battery_does_not_hold_is_refused() {
    let world = batteries().with(grant("acme", 10)).with(debt_limit("acme", 0)).start().await;
    let events = [
        tokens("1", "acme", 4),
        tokens("2", "acme", 2),
        tokens("3", "acme", 1),
        cached("4", "acme", 1),
        tokens("5", "other", 7),
    ];
    // 8 of 10: 4 are too much, 2 fit exactly, half a unit does not fit any more. The other org has no limit.
    let refused = "data battery_exhausted";
    let told = world.usage(events.clone()).await;
    assert_eq!(told, ["accepted", refused, "accepted", refused, "accepted"]);
    assert_eq!(world.ledger(1), ["bonus 10 → 10", "usage -10 → 0"]);
    // A refused event may come again when there are more units.
    world.send(grant("acme", 5)).await.status(201);
    let again = world.usage(events).await;
    assert_eq!(again, ["duplicate", "accepted", "duplicate", "accepted", "duplicate"]);
    world.send(debt_limit("acme", 3)).await.ok();
    assert_eq!(world.usage([tokens("6", "acme", 2)]).await, [refused]);
    assert_eq!(world.usage([tokens("7", "acme", 1)]).await, ["accepted"]);
    assert_eq!(world.ledger(1).last().expect("entries"), "usage -2 → -1.5");
    world.balances();
}

#[tokio::test]
async fn a_reservation_holds_battery_and_quota_in_one() {
    let world = batteries()
        .with(grant("acme", 100))
        .with(debt_limit("acme", 0))
        .with(quota("45").period("month"))
        .start()
        .await;
    let set_aside = || world.number("SELECT reserved FROM battery_accounts WHERE org_id = 1");
    let first = world.send(reserve(40)).await.status(201);
    assert_eq!(first.pick(["battery_units", "battery.available"]), json!(["80", "20"]));
    // The quota has room for 5, the battery for 20 units.
    world.send(reserve_cached(6)).await.refused(409, "quota_exceeded");
    world.send(grant("other", 1)).await.status(201);
    let items = [reserve(5).body, reserve_cached(1).body];
    let verdicts = world.post("/v1/quota/check", json!({ "items": items })).await;
    let told = verdicts.pick(["results.0.allowed", "results.0.battery.available"]);
    assert_eq!(told, json!([true, "20"]), "{verdicts}");
    let small = world.send(reserve(5)).await.status(201);
    assert_eq!(small.at("battery.available"), "10");
    // Settled with less: the rest is free.
    let settled = world.send(settle(&first.id()).amount("30")).await.status(200);
    assert_eq!(world.send(settle(&first.id()).amount("30")).await, settled, "a repeat");
    assert_eq!(world.ledger(1), ["bonus 100 → 100", "usage -60 → 40"]);
    assert_eq!(set_aside(), 10);
    world.send(release(&small.id())).await.status(200);
    assert_eq!(set_aside(), 0);
    // More than the reserved amount is burned as well, and the part without units becomes debt.
    world.execute("DELETE FROM quotas; UPDATE catalog SET version = version + 1");
    let third = world.reserved(reserve(15)).await;
    let settled = world.send(settle(&third).amount("21")).await.status(200);
    assert_eq!(settled.pick(["debt", "overage"]), json!(["2", "0"]), "{settled}");
    assert_eq!(world.send(settle(&third).amount("21")).await, settled, "a repeat");
    assert_eq!(world.ledger(1).last().expect("entries"), "usage -42 → -2");
    world.send(reserve_cached(1)).await.refused(409, "battery_exhausted");
    world.balances();
}

#[tokio::test]
async fn a_reservation_that_expires_gives_its_units_back() {
    let setup = batteries().at("2027-05-01T12:00:00Z").with(grant("acme", 10));
    let world = setup.with(debt_limit("acme", 0)).start().await;
    let for_a_minute = |amount: i64| world.send(reserve(amount).with("expires_in_s", 60));
    for_a_minute(5).await.status(201);
    for_a_minute(1).await.status(409);
    let own = tokens("1", "acme", 1);
    assert_eq!(world.usage([own.clone()]).await, ["data battery_exhausted"]);
    world.turn("2027-05-01T12:01:00Z");
    // Usage itself ends expired reservations.
    assert_eq!(world.usage([own]).await, ["accepted"]);
    for_a_minute(4).await.status(201);
    world.balances();
}

#[tokio::test]
async fn usage_taken_back_gives_its_units_back() {
    let world = batteries().with(grant("acme", 100)).start().await;
    world.usage([tokens("1", "acme", 10), tokens("2", "acme", 5)]).await;
    world.send(void("1")).await.status(200);
    world.send(amend("2", cached("", "acme", 7))).await.status(200);
    assert_eq!(
        world.ledger(1),
        ["bonus 100 → 100", "usage -30 → 70", "refund 20 → 90", "refund 10 → 100", "usage -3.5 → 96.5"]
    );
    world.balances();
}

/// One grant for each local day. It is made when first needed, ends with the day, and burns before all
/// others.
#[tokio::test]
async fn the_days_allowance_is_there_when_it_is_needed() {
    let daily = plan("daily").prices(["price_daily"]).with("daily_battery", 8).with("battery_debt_limit", 0);
    let world = batteries().at("2027-03-13T15:00:00Z").with(daily).start().await;
    let march =
        subscription("sub_1").price("price_daily").period("2027-03-01T00:00:00Z", "2027-04-01T00:00:00Z");
    world.tell([customer("cus_1").org("acme").created_event(), march.created_event()]).await;
    world.settles().await;
    let used =
        async |id: &str, tokens_used: i64| world.usage([tokens(id, "acme", tokens_used)]).await.remove(0);
    assert_eq!(used("1", 3).await, "accepted");
    assert_eq!(used("2", 2).await, "data battery_exhausted");
    assert_eq!(used("3", 1).await, "accepted");
    assert_eq!(world.ledger(1), ["grant 8 → 8", "usage -6 → 2", "usage -2 → 0"]);
    // The day of the change to summer time has 23 hours: it ends at four o'clock UTC.
    world.turn("2027-03-14T05:00:00Z");
    assert_eq!(used("4", 1).await, "accepted");
    world.turn("2027-03-15T03:59:59Z");
    assert_eq!(used("5", 4).await, "data battery_exhausted");
    world.turn("2027-03-15T04:00:00Z");
    assert_eq!(used("5", 4).await, "accepted");
    assert_eq!(
        world.ledger(1)[3..],
        ["grant 8 → 8", "usage -2 → 6", "expiry -6 → 0", "grant 8 → 8", "usage -8 → 0"]
    );
    let lapsed = world.value("SELECT at AT TIME ZONE 'UTC' FROM battery_entries WHERE kind = 'expiry'");
    assert_eq!(lapsed.as_deref(), Some("2027-03-15 04:00:00"));
    world.balances();
}

/// Clients burn a battery until it is empty through two daemons, by usage and by reservations: together they
/// get exactly the granted units.
async fn to_the_last_unit(clients: u64, granted: i64) {
    let setup = batteries().daemons(2).with(grant("acme", granted));
    let world = setup.with(debt_limit("acme", 0)).start().await;
    let bases: [String; 2] = [0, 1].map(|n: usize| world.daemons[n].base.clone());
    let http = world.daemon().http.clone();
    let (next, admitted) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let client = |n: u64| {
        let (next, admitted) = (Arc::clone(&next), Arc::clone(&admitted));
        let (bases, http, key) = (bases.clone(), http.clone(), world.key.clone());
        async move {
            let mut dice = n * 7919 + 1;
            let mut refused_small = 0;
            // When the smallest amount is refused a few times and nothing is reserved, nothing is left.
            while refused_small < 5 {
                dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let id = next.fetch_add(1, Ordering::Relaxed);
                let value = if refused_small > 0 { 1 } else { 1 + (dice >> 33) % 9 };
                let base = &bases[usize::try_from((dice >> 40) % 2).expect("small")];
                let post = async |path: String, body: Value| {
                    let sent = http.post(format!("{base}{path}")).bearer_auth(&key).json(&body);
                    let response = sent.send().await.expect("an answer");
                    let status = response.status().as_u16();
                    (status, response.json::<Value>().await.expect("JSON"))
                };
                if (dice >> 50).is_multiple_of(3) {
                    let path = "/v1/quota/reserve".to_owned();
                    let (status, reservation) = post(path, reserve(value).body).await;
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
                let used = usage("acme", "llm").id(&id.to_string()).quantity(value);
                let (status, answer) = post("/v1/usage".to_owned(), json!([used.json()])).await;
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
    assert_eq!(world.number("SELECT balance FROM battery_accounts WHERE org_id = 1"), 0);
    assert_eq!(world.number("SELECT reserved FROM battery_accounts WHERE org_id = 1"), 0);
    world.balances();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_battery_is_burned_to_its_last_unit_and_no_further() {
    to_the_last_unit(64, 20_000).await;
}

#[tokio::test]
async fn verify_finds_what_does_not_add_up() {
    let world = batteries().with(grant("acme", 100)).start().await;
    world.usage([tokens("1", "acme", 10)]).await;
    let verify = || {
        let output = world.command(&["verify"]).output().expect("runs");
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
        world.execute(wrong);
        let (status, lines) = verify();
        let tables: Vec<&str> = lines.lines().filter_map(|line| line.split(':').next()).collect();
        assert_eq!((status, tables.as_slice()), (Some(3), told), "{wrong}: {lines}");
        world.execute(right);
    }
    assert_eq!(verify(), (Some(0), String::new()));
}
