//! Usage on invoices of our own: every price once, late usage on the next invoice, minimums, changes of plan.
//! All values were computed by hand. The tax is 20 %.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::requests::{Request, meter, rate_card, subscribe, subscription_command, usage, void};
use crate::support::world::{Setup, until};

const SCOPES: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read,admin";

/// An org `acme` that buys the plan `basic` for 10.00 a month, paid for October.
async fn billed(world: Setup) -> World {
    let world = world.at("2026-10-01T00:00:00Z").scopes(SCOPES).org("acme").start().await;
    let tax = json!({ "name": "VAT", "category": "S", "percent": "20" });
    world.put("/v1/tax_rates/vat20", tax).await.ok();
    let seller = json!({
        "party": { "name": "Shop Ltd", "vat_id": "GB123456789", "address": { "country": "GB" } },
        "settings": { "tax_rate": "vat20" }, "default": true
    });
    world.put("/v1/sellers/shop", seller).await.ok();
    for (id, price) in [("basic", 1000), ("pro", 3000)] {
        let plan = json!({ "name": id, "grace_days": 10, "monthly": { "amount": price, "currency": "usd" } });
        world.put(&format!("/v1/plans/{id}"), plan).await.ok();
    }
    let billing = json!({ "party": { "name": "Acme Inc" }, "currency": "usd" });
    world.put("/v1/orgs/acme/billing", billing).await.ok();
    world.send(subscribe("acme", "basic").with("paid", true)).await.status(201);
    world.settles().await;
    world
}

/// A card that is valid since before all usage.
fn card(meter: &str, rates: Value) -> Request {
    rate_card(meter, rates).since("2026-01-01T00:00:00Z")
}

impl World {
    /// Waits until the newest of so many invoices has this status; returns it with its lines.
    async fn billing_run(&self, count: usize, status: &str) -> Value {
        let path = "/v1/invoices?org=acme&origin=own&expand=lines";
        until(&format!("invoice {count} is {status}"), async || {
            let page = self.get(path).await.ok();
            page.rows().len() == count && page.rows()[0]["status"] == status
        })
        .await;
        let newest = self.get(path).await.ok().rows()[0]["id"].as_str().expect("an id").to_owned();
        self.get(&format!("/v1/invoices/{newest}?expand=lines")).await.ok().body
    }

    async fn pays_bank(&self, amount: i64) {
        let payment = json!({ "org": "acme", "amount": amount, "currency": "usd", "processor": "bank",
            "reference": format!("{}-{amount}", self.now()) });
        self.post("/v1/payments", payment).await.status(201);
    }
}

/// `kind description quantity amount` of each line.
fn lines(invoice: &Value) -> Vec<String> {
    let lines = invoice["lines"].as_array().expect("lines");
    let text =
        |line: &Value, name: &str| line[name].as_str().map_or_else(|| line[name].to_string(), str::to_owned);
    lines
        .iter()
        .map(|line| ["kind", "description", "quantity", "amount"].map(|name| text(line, name)).join(" "))
        .collect()
}

#[tokio::test]
async fn every_price_is_a_line_and_late_usage_is_on_the_next_invoice() {
    let world = World::new()
        .with(meter("tokens").dimensions(["model"]))
        .with(meter("calls"))
        .with(meter("jobs"))
        .with(meter("seats").aggregation("level").value_field("set"))
        .with(card(
            "tokens",
            json!([{ "when": { "model": "large" }, "unit_cost": "0.00002" },
            { "unit_cost": "0.000001" }]),
        ))
        .with(card(
            "calls",
            json!([{ "tiers": { "mode": "graduated", "tiers": [
            { "up_to": "10", "unit_cost": "0" }, { "unit_cost": "0.5" }] } }]),
        ))
        .with(card(
            "jobs",
            json!([{ "tiers": { "mode": "package", "tiers": [
            { "unit_cost": "1.25", "package_size": "10" }] } }]),
        ))
        .with(card("seats", json!([{ "unit_cost": "2" }])).with("price_by", "average"));
    let world = billed(world).await;
    let at = |day: &str| format!("2026-10-{day}T12:00:00Z");
    world.turn("2026-10-31T23:00:00Z");
    for event in [
        usage("acme", "seats").data(json!({ "set": 10 })).at("2026-10-01T00:00:00Z"),
        usage("acme", "tokens").quantity(100_000).dimension("model", "large").at(&*at("02")),
        usage("acme", "tokens").quantity(1_000_000).dimension("model", "small").at(&*at("03")),
        usage("acme", "calls").quantity(13).at(&*at("04")),
        usage("acme", "jobs").quantity(20).at(&*at("05")),
        usage("acme", "jobs").id("one").quantity(1).at(&*at("06")),
    ] {
        world.used(event).await;
    }

    // October ends: its usage, and the fee of November.
    world.turn("2026-11-01T00:00:01Z");
    let draft = world.billing_run(1, "draft").await;
    assert_eq!(
        lines(&draft),
        [
            "fee basic 1 1000",
            "usage calls 13 150",       // 10 free, 3 x 0.50
            "usage jobs 21 375",        // 3 packages of 1.25
            "usage tokens 100000 200",  // 100,000 x 0.00002
            "usage tokens 1000000 100", // 1,000,000 x 0.000001
            "usage seats 10 2000",      // 10 all the month x 2.00
        ]
    );
    // 38.25 + 20 % = 45.90
    assert_eq!([&draft["net_total"], &draft["tax_total"], &draft["total"]], [3825, 765, 4590]);

    // What comes while it is a draft is on it: 0.50 more.
    world.used(usage("acme", "tokens").quantity(500_000).dimension("model", "small").at(&*at("31"))).await;
    world.turn("2026-11-02T00:00:02Z");
    let first = world.billing_run(1, "open").await;
    assert_eq!([&first["net_total"], &first["tax_total"], &first["total"]], [3875, 775, 4650]);
    world.pays_bank(4650).await;

    // What comes later, or is taken back, is on the next one.
    world.used(usage("acme", "tokens").quantity(50_000).dimension("model", "large").at(&*at("31"))).await;
    world.send(void("one").org("acme")).await.ok();
    world.turn("2026-12-01T00:00:01Z");
    let second = world.billing_run(2, "draft").await;
    assert_eq!(
        lines(&second),
        [
            "fee basic 1 1000",
            "usage jobs -1 -125",     // a package less
            "usage tokens 50000 100", // 50,000 x 0.00002
            "usage seats 10 2000",    // of November
        ]
    );
    assert_eq!([&second["net_total"], &second["total"]], [2975, 3570]);
    world.turn("2026-12-02T00:00:02Z");
    world.billing_run(2, "open").await;

    // Nobody pays, so the subscription ends. What comes then is on an invoice that somebody makes.
    world.used(usage("acme", "tokens").quantity(25_000).dimension("model", "large").at(&*at("31"))).await;
    let late = json!({ "org": "acme", "late_usage": true, "finalize": true });
    let third = world.post("/v1/invoices", late.clone()).await.status(201);
    assert_eq!(lines(&third.body), ["usage tokens 25000 50"]); // 25,000 x 0.00002
    assert_eq!(third.pick(["reason", "net_total"]), json!(["late_usage", 50]));
    world.post("/v1/invoices", late).await.refused(409, "invoice_is_empty");
    world.is_sound();
}

#[tokio::test]
async fn what_lacks_to_the_minimum_is_a_line() {
    let world = World::new().with(meter("calls")).with(card("calls", json!([{ "unit_cost": "0.5" }])));
    let world = billed(world).await;
    let plan = json!({ "name": "basic", "grace_days": 10, "monthly": { "amount": 1000, "currency": "usd" },
        "prices": { "usd": { "usage_minimum": 300 } } });
    world.put("/v1/plans/basic", plan).await.ok();
    let id = world.get("/v1/orgs/acme/subscription").await.ok().id();
    world.post(&format!("/v1/subscriptions/{id}/move"), json!({ "version": 2 })).await.ok();
    world.turn("2026-10-20T00:00:00Z");
    world.used(usage("acme", "calls").quantity(2).at("2026-10-19T00:00:00Z")).await;
    world.turn("2026-11-01T00:00:01Z");
    let draft = world.billing_run(1, "draft").await;
    assert_eq!(lines(&draft), ["fee basic 1 1000", "usage calls 2 100", "minimum basic 1 200"]);
}

#[tokio::test]
async fn usage_without_a_price_keeps_its_invoice_waiting() {
    let large = json!([{ "when": { "model": "large" }, "unit_cost": "0.5" }]);
    let world = World::new().with(meter("calls").dimensions(["model"])).with(card("calls", large));
    let world = billed(world).await;
    world.turn("2026-10-20T00:00:00Z");
    let event = usage("acme", "calls").quantity(2).dimension("model", "new").at("2026-10-19T00:00:00Z");
    world.used(event).await;
    world.turn("2026-11-02T00:00:02Z");
    let draft = world.billing_run(1, "draft").await;
    assert_eq!(draft["waits"], "usage_unpriced");
    let finalize = format!("/v1/invoices/{}/finalize", draft["id"].as_str().expect("an id"));
    world.post(&finalize, json!({})).await.refused(409, "invoice_waits");

    // The clock cannot finalise it either. It tries again in an hour, and the reason stays.
    world.turn("2026-11-03T00:00:03Z");
    let path = format!("/v1/invoices/{}", draft["id"].as_str().expect("an id"));
    until("the clock has tried", async || {
        world.get(&path).await.ok()["finalize_at"] == "2026-11-03T01:00:03Z"
    })
    .await;
    assert_eq!(world.get(&path).await.ok()["waits"], "usage_unpriced");

    // Somebody adds the price and prices what was used.
    let all = json!([{ "when": { "model": "large" }, "unit_cost": "0.5" }, { "unit_cost": "0.25" }]);
    world.send(card("calls", all).since("2026-10-02T00:00:00Z")).await.status(201);
    world.post("/v1/meters/calls/rate_usage", json!({ "reason": "new price" })).await.ok();
    let priced = world.post(&finalize, json!({})).await.ok();
    // 10.00 + 2 x 0.25 = 10.50; + 20 % = 12.60
    assert_eq!(priced.pick(["status", "total", "waits"]), json!(["open", 1260, null]));
    world.is_sound();
}

#[tokio::test]
async fn a_change_of_plan_charges_the_days_that_are_left() {
    let world = billed(World::new()).await;
    world.turn("2026-11-01T00:00:01Z");
    world.billing_run(1, "draft").await;
    world.turn("2026-11-02T00:00:02Z");
    world.billing_run(1, "open").await;
    world.pays_bank(1200).await;
    // 20 of 30 days are left: 10.00 x 20 / 30 = 6.67 back, 30.00 x 20 / 30 = 20.00.
    world.turn("2026-11-11T08:00:00Z");
    world.send(subscription_command("acme", "change", json!({ "plan": "pro" }))).await.ok();
    world.turn("2026-12-01T00:00:01Z");
    let draft = world.billing_run(2, "draft").await;
    assert_eq!(lines(&draft), ["fee pro 1 3000", "proration basic -1 -667", "proration pro 1 2000"]);
    // 43.33 + 8.67 (8.666)
    assert_eq!([&draft["net_total"], &draft["total"]], [4333, 5200]);
    world.is_sound();
}

/// A contract has one minimum. Usage in another currency is on an invoice of its own, without one.
#[tokio::test]
async fn a_minimum_is_in_the_currency_of_the_billing_profile_alone() {
    let euro = card("images", json!([{ "unit_cost": "0.5" }])).with("currency", "eur");
    let world = World::new()
        .with(meter("calls"))
        .with(card("calls", json!([{ "unit_cost": "0.5" }])))
        .with(meter("images"))
        .with(euro);
    let world = billed(world).await;
    let plan = json!({ "name": "basic", "grace_days": 10, "monthly": { "amount": 1000, "currency": "usd" },
        "prices": { "usd": { "usage_minimum": 300 }, "eur": { "usage_minimum": 500 } } });
    world.put("/v1/plans/basic", plan).await.ok();
    let id = world.get("/v1/orgs/acme/subscription").await.ok().id();
    world.post(&format!("/v1/subscriptions/{id}/move"), json!({ "version": 2 })).await.ok();
    world.turn("2026-10-20T00:00:00Z");
    world.used(usage("acme", "calls").quantity(2).at("2026-10-19T00:00:00Z")).await;
    world.used(usage("acme", "images").quantity(2).at("2026-10-19T00:00:00Z")).await;
    world.turn("2026-11-01T00:00:01Z");
    world.billing_run(2, "draft").await;
    let page = world.get("/v1/invoices?org=acme&origin=own").await.ok();
    let mut all = Vec::new();
    for row in page.rows() {
        let id = row["id"].as_str().expect("an id");
        all.push(lines(&world.get(&format!("/v1/invoices/{id}?expand=lines")).await.ok().body));
    }
    all.sort();
    // 3.00 - 1.00 in dollars; nothing is added in euro.
    assert_eq!(
        all,
        [vec!["fee basic 1 1000", "usage calls 2 100", "minimum basic 1 200"], vec!["usage images 2 100"]]
    );
}

/// Usage that no subscription covers is on no invoice: it is shown.
#[tokio::test]
async fn usage_that_no_subscription_covers_is_shown() {
    let world = World::new()
        .at("2026-10-03T00:00:00Z")
        .scopes(SCOPES)
        .with(meter("calls"))
        .with(card("calls", json!([{ "unit_cost": "0.5" }])))
        .invoiced("acme")
        .org("beta")
        .start()
        .await;
    let plan = json!({ "name": "basic", "grace_days": 0, "monthly": { "amount": 1000, "currency": "eur" } });
    world.put("/v1/plans/basic", plan).await.ok();
    let uncharged = async || world.get("/v1/usage/uncharged").await.ok();
    assert_eq!(uncharged().await["data"], json!([]));
    // Before the first subscription: 2.00. An org without a billing profile is billed elsewhere.
    world.used(usage("acme", "calls").quantity(4).at("2026-10-02T00:00:00Z")).await;
    world.used(usage("beta", "calls").quantity(2).at("2026-10-02T00:00:00Z")).await;
    // A trial from 5 to 10 October is free; a month from then on is charged.
    world.turn("2026-10-05T00:00:00Z");
    world.send(subscribe("acme", "basic").with("trial_days", 5)).await.status(201);
    world.send(subscription_command("acme", "activate", json!({}))).await.ok();
    world.turn("2026-10-13T00:00:00Z");
    world.used(usage("acme", "calls").quantity(10).at("2026-10-06T00:00:00Z")).await;
    world.used(usage("acme", "calls").quantity(20).at("2026-10-12T00:00:00Z")).await;
    assert_eq!(uncharged().await.column("cost"), json!(["2"]));
    // After its end: 3.00 more.
    world.turn("2026-11-15T00:00:00Z");
    world.used(usage("acme", "calls").quantity(6).at("2026-11-12T00:00:00Z")).await;
    let acme = world.get("/v1/orgs/acme").await.ok().id();
    let row = json!({ "org": acme, "currency": "usd", "events": 2, "cost": "5",
        "first_at": "2026-10-02T00:00:00Z", "last_at": "2026-11-12T00:00:00Z" });
    assert_eq!(uncharged().await["data"], json!([row]));
    assert_eq!(world.get("/v1/usage/uncharged?org=beta").await.ok()["data"], json!([]));
}

#[tokio::test]
async fn the_doctor_tells_usage_that_no_subscription_covers() {
    let text = |at: chrono::DateTime<chrono::Utc>| at.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    // The doctor's clock is the machine's.
    let now = chrono::Utc::now();
    let world = World::new()
        .at(&text(now))
        .scopes(SCOPES)
        .with(meter("calls"))
        .with(card("calls", json!([{ "unit_cost": "0.5" }])))
        .invoiced("acme")
        .start()
        .await;
    let doctor = || {
        let output = world.command(&["doctor"]).output().expect("it runs");
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    assert!(doctor().contains("lies in periods that are charged"), "{}", doctor());
    let before = text(now - chrono::TimeDelta::hours(1));
    world.used(usage("acme", "calls").quantity(4).at(&*before)).await;
    let said = doctor();
    assert!(said.contains("1 event(s), 2 usd; `GET /v1/usage/uncharged`"), "{said}");
}
