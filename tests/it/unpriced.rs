//! Usage without a price: reported, refused if the meter says so, priced later. Values were computed by hand.

use expect_test::expect;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::answer::Answer;
use crate::support::requests::{
    Request, Usage, amend, close, grant, meter, rate_card, request, reserve, usage, void,
};
use crate::support::world::Setup;

/// An org `acme`, on 26 November.
fn platform() -> Setup {
    let scopes = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read,admin";
    World::new().at("2026-11-26T12:00:00Z").scopes(scopes).org("acme")
}

/// A meter by model.
fn by_model(key: &str) -> Request {
    meter(key).dimensions(["model"])
}

/// A card from the start of the year.
fn card(meter: &str, rates: Value) -> Request {
    rate_card(meter, rates).since("2026-01-01T00:00:00Z")
}

/// Prices only for the model `large`.
fn large_alone() -> Request {
    card("tokens", json!([{ "when": { "model": "large" }, "unit_cost": "0.01" }]))
}

/// Usage of a model, on the morning of that day.
fn used(id: &str, name: &str, model: &str, quantity: &str, day: &str) -> Usage {
    let at = format!("{day}T10:00:00Z");
    usage("acme", name).id(id).at(&*at).quantity(quantity).dimension("model", model)
}

/// An amount of tokens of a model, without a time.
fn instead(quantity: i64, model: &str) -> Usage {
    usage("acme", "tokens").quantity(quantity).dimension("model", model)
}

/// Prices all usage that has no price yet.
async fn rate(world: &World) -> Answer {
    let body = json!({ "org": "acme", "reason": "a new model" });
    world.send(request(reqwest::Method::POST, "/v1/meters/tokens/rate_usage", body)).await.status(200)
}

async fn unpriced(world: &World) -> Answer {
    world.get("/v1/usage/unpriced").await.status(200)
}

/// `cost quantity count` of a month.
async fn cost(world: &World, meter: &str, month: &str) -> String {
    let next = if month == "2026-10" { "2026-11" } else { "2026-12" };
    let path = format!("/v1/usage/daily?org=acme&meter={meter}&from={month}-01&to={next}-01&group_by=month");
    let row = world.get(&path).await.part("data.0");
    format!("{} {} {}", row.text("cost"), row.text("quantity"), row["count"])
}

/// Three events of models without a rate: two of `v2`, one of `v3`.
async fn new_models() -> World {
    let world = platform()
        .with(by_model("tokens"))
        .with(by_model("free"))
        .with(by_model("plain"))
        .with(large_alone())
        .with(card("free", json!([])))
        .start()
        .await;
    // Usage that is free on purpose, or of a meter that never had a price, is not reported.
    for (name, model) in [("tokens", "large"), ("free", "x"), ("plain", "x")] {
        world.used(used(name, name, model, "1000", "2026-11-20")).await;
    }
    assert_eq!(unpriced(&world).await["data"], json!([]));
    assert_eq!(world.daemon().metric("coulomb_usage_unpriced_events").await, Some(0));
    for (id, model, quantity, day) in
        [("a", "v2", "5", "2026-11-20"), ("b", "v2", "2.5", "2026-11-18"), ("c", "v3", "1", "2026-11-21")]
    {
        world.used(used(id, "tokens", model, quantity, day).with("member", id)).await;
    }
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_that_no_rate_fits_is_seen() {
    let world = new_models().await;
    unpriced(&world).await.shows(expect![[r#"
        {
          "data": [
            {
              "dimensions": { "model": "v2" }, "events": 2, "first_seen": "2026-11-18T10:00:00Z",
              "last_seen": "2026-11-20T10:00:00Z", "meter": "tokens", "org": "org_…",
              "quantity": "7.5"
            },
            {
              "dimensions": { "model": "v3" }, "events": 1, "first_seen": "2026-11-21T10:00:00Z",
              "last_seen": "2026-11-21T10:00:00Z", "meter": "tokens", "org": "org_…",
              "quantity": "1"
            }
          ],
          "next": null
        }"#]]);
    assert_eq!(world.daemon().metric("coulomb_usage_unpriced_events").await, Some(3));
    // One message for each kind, whatever the number of members and events.
    let messages = world.get("/v1/messages").await;
    let told = messages.rows().iter().filter(|message| message["type"] == "usage.unpriced");
    let mut models: Vec<&str> =
        told.map(|one| one["data"]["dimensions"]["model"].as_str().expect("a model")).collect();
    models.sort_unstable();
    assert_eq!(models, ["v2", "v3"], "{messages}");
    let records = world.get("/v1/usage/records?org=acme&meter=tokens").await;
    let marked = records.rows().iter().filter(|record| record["unpriced"] == true).count();
    assert_eq!(marked, 3, "{records}");
    let doctor = world.command(&["doctor"]).output().expect("runs");
    let told = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(told.contains("BAD  prices: 3 usage event(s) of tokens"), "{told}");
    // Voided usage is not counted.
    world.send(void("c")).await.status(200);
    assert_eq!(unpriced(&world).await.rows().len(), 1);
    world.is_sound();
    world.execute("UPDATE unpriced_usage SET events = events + 1");
    let verified = world.command(&["verify"]).output().expect("runs");
    assert!(!verified.status.success(), "verify does not find it");
    world.run(&["rebuild", "summaries"]);
    world.is_sound();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_org_sees_nothing_of_what_another_has_unpriced() {
    let world = new_models().await;
    world.send(crate::support::requests::org("beta")).await.status(201);
    let beta = world.database.key("usage:read", Some("beta"));
    assert_eq!(world.by(&beta).get("/v1/usage/unpriced").await.status(200)["data"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_meter_may_refuse_what_no_rate_fits() {
    let world = platform().with(by_model("tokens").with("unpriced", "refuse")).start().await;
    let tokens = |id: &str, model: &str| used(id, "tokens", model, "1", "2026-11-20");
    // There is no card yet, so no rate can be missing.
    assert_eq!(world.uses(tokens("0", "v2")).await, "accepted");
    world.send(large_alone()).await.status(201);
    assert_eq!(world.uses(tokens("1", "large")).await, "accepted");
    assert_eq!(world.uses(tokens("2", "v2")).await, "data unpriced");
    // The caller gives the cost.
    assert_eq!(world.uses(tokens("3", "v2").with("cost", "7")).await, "accepted");
    // An amendment cannot remove a price; an event without a price can be amended without one.
    world.send(amend("1", instead(1, "v2"))).await.names(400, "event.data");
    world.send(amend("1", instead(2, "large"))).await.status(200);
    world.send(amend("0", instead(3, "v2"))).await.status(200);
    // 2 at 0.01, the caller's cost, and 3 at zero.
    assert_eq!(cost(&world, "tokens", "2026-11").await, "7.02 6 3");
    world.send(reserve("5").dimension("model", "v2")).await.names(400, "dimensions");
    let meter = world.patch("/v1/meters/tokens", json!({ "unpriced": "record" })).await.status(200);
    assert_eq!(meter["unpriced"], "record");
    assert_eq!(world.uses(tokens("2", "v2")).await, "accepted");
    assert_eq!(unpriced(&world).await.rows().len(), 1);
    world.is_sound();
}

/// Usage priced later costs once what it would have cost at first, in the tiers of its month.
#[tokio::test(flavor = "multi_thread")]
async fn usage_is_priced_later() {
    let calls = by_model("calls").event_name("tokens").aggregation("count");
    let setup = platform().with(by_model("tokens")).with(calls).with(large_alone());
    let world = setup.with(grant("acme", "1000")).start().await;
    for (id, model, quantity, day) in [
        ("1", "large", "10", "2026-10-05"),
        ("2", "v2", "80", "2026-10-06"),
        ("3", "v2", "50", "2026-10-07"),
        ("4", "v3", "5", "2026-10-08"),
        ("5", "v2", "30", "2026-11-10"),
    ] {
        world.used(used(id, "tokens", model, quantity, day)).await;
    }
    world.send(close("2026-10").org("acme")).await.status(200);
    assert_eq!(cost(&world, "tokens", "2026-10").await, "0.1 145 4");
    // 1 each for the first 100 of a month, then 0.5; half a unit of the battery each.
    let tiers = json!([{ "up_to": "100", "unit_cost": "1" }, { "unit_cost": "0.5" }]);
    let v2 = json!({ "when": { "model": "v2" }, "battery_units": "0.5",
        "tiers": { "mode": "graduated", "tiers": tiers } });
    let rates = json!([{ "when": { "model": "large" }, "unit_cost": "5" }, v2]);
    world.send(card("tokens", rates)).await.status(201);
    let rated = rate(&world).await;
    // October: 100 + 30 × 0.5 = 115, posted to November; November's own 30. v3 has no price yet. 160 × 0.5
    // units.
    let told = rated.pick(["events", "cost", "battery_units", "more"]);
    assert_eq!(told, json!([3, "145", "80", false]), "{rated}");
    assert_eq!(cost(&world, "tokens", "2026-10").await, "0.1 145 4");
    assert_eq!(cost(&world, "tokens", "2026-11").await, "145 30 1");
    assert_eq!(world.get("/v1/battery?org=acme").await["balance"], "920");
    assert_eq!(unpriced(&world).await.rows().len(), 1);
    assert_eq!(rate(&world).await["events"], 0);
    // A void gives back the later price, also on the other meter.
    for id in ["3", "2"] {
        world.send(void(id)).await.status(200);
    }
    world.send(void("2")).await.status(409);
    assert_eq!(cost(&world, "tokens", "2026-11").await, "30 -100 -1");
    assert_eq!(cost(&world, "calls", "2026-11").await, "0 -1 -1");
    world.send(amend("5", instead(110, "v2"))).await.status(200);
    assert_eq!(cost(&world, "tokens", "2026-11").await, "105 -20 -1");
    world.is_sound();
    // On the command line, for all orgs: v3 has a price now.
    world.send(card("tokens", json!([{ "unit_cost": "2" }]))).await.status(201);
    world.run(&["meter", "rate-usage", "tokens", "--reason", "v3 has a price"]);
    assert_eq!(cost(&world, "tokens", "2026-11").await, "115 -20 -1");
    world.is_sound();
}

/// A meter's first card may begin in the past, and earlier usage can then be priced.
#[tokio::test(flavor = "multi_thread")]
async fn what_came_before_the_first_card_is_priced_later() {
    let world = platform().with(by_model("tokens")).start().await;
    let event = |n: usize| used(&n.to_string(), "tokens", "a", "3", "2026-11-02");
    let mut events: Vec<Usage> = (0..1_100).map(event).collect();
    events[7] = event(7).with("cost", "9");
    let outcomes = world.on(0).usage(events).await;
    assert!(outcomes.iter().all(|outcome| outcome == "accepted"));
    assert_eq!(rate(&world).await["events"], 0);
    world.send(card("tokens", json!([{ "unit_cost": "0.0000000004" }]))).await.status(201);
    assert_eq!(rate(&world).await.pick(["events", "more"]), json!([1000, true]));
    assert_eq!(rate(&world).await.pick(["events", "more"]), json!([99, false]));
    // 9, and 1,099 × 3 × 4 × 10^-10
    assert_eq!(cost(&world, "tokens", "2026-11").await, "9.0000013188 3300 1100");
    world.is_sound();
}
