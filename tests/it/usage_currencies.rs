//! Prices in several currencies: which of them an org pays, and what its reads, corrections and invoices make
//! of that. All values were computed by hand.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::requests::{Request, amend, meter, plan, rate_card, subscribe, usage, void};
use crate::support::world::{Setup, until};

const SCOPES: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read,admin";

/// The meter `tokens` in 1 October, with a price in USD, which is the meter's currency, and one in EUR.
fn platform() -> Setup {
    World::new()
        .at("2026-10-01T00:00:00Z")
        .scopes(SCOPES)
        .with(meter("tokens").dimensions(["model"]))
        .with(card("usd", json!([{ "unit_cost": "2" }])))
        .with(card("eur", json!([{ "unit_cost": "3" }])))
}

/// A card of `tokens` in a currency, valid since before all usage.
fn card(currency: &str, rates: Value) -> Request {
    rate_card("tokens", rates).with("currency", currency).since("2026-01-01T00:00:00Z")
}

impl World {
    async fn has_currency(&self, org: &str, currency: &str) {
        self.patch(&format!("/v1/orgs/{org}"), json!({ "currency": currency })).await.ok();
    }

    /// `currency cost quantity` of what October's usage of an org is, by currency.
    async fn october(&self, org: &str) -> Vec<String> {
        let path = format!("/v1/usage/daily?org={org}&from=2026-10-01&to=2026-10-31&group_by=meter");
        let answer = self.get(&path).await.ok();
        let text = |row: &Value| {
            let [currency, cost, quantity] =
                ["currency", "cost", "quantity"].map(|name| row[name].as_str().unwrap_or("-").to_owned());
            format!("{currency} {cost} for {quantity}")
        };
        answer.rows().iter().map(text).collect()
    }
}

#[tokio::test]
async fn an_org_pays_in_its_currency_where_there_is_a_price_in_it() {
    let world = platform()
        .with(plan("pro"))
        .with(card("usd", json!([{ "unit_cost": "5" }])).with("plan", "pro"))
        .with(card("gbp", json!([{ "unit_cost": "7" }])).with("plan", "pro"));
    let world =
        ["plain", "euro", "rupiah", "own", "euro_pro", "pound_pro"].into_iter().fold(world, Setup::org);
    let world = world.start().await;
    for (org, currency) in
        [("euro", "eur"), ("rupiah", "idr"), ("own", "eur"), ("euro_pro", "eur"), ("pound_pro", "gbp")]
    {
        world.has_currency(org, currency).await;
    }
    for org in ["euro_pro", "pound_pro"] {
        world.send(subscribe(org, "pro").with("paid", true)).await.status(201);
    }
    // A price of one org counts in whatever currency it is.
    world.send(card("jpy", json!([{ "unit_cost": "11" }])).with("org", "own")).await.status(201);
    world.turn("2026-10-05T00:00:00Z");
    for (org, found) in [
        ("plain", "usd 20 for 10"),
        ("euro", "eur 30 for 10"),
        ("rupiah", "usd 20 for 10"),
        ("own", "jpy 110 for 10"),
        // The plan's prices come before the meter's: it has none in EUR, so that in the meter's currency.
        ("euro_pro", "usd 50 for 10"),
        ("pound_pro", "gbp 70 for 10"),
    ] {
        world.used(usage(org, "tokens").quantity(10)).await;
        assert_eq!(world.october(org).await, [found], "{org}");
        let record = world.get(&format!("/v1/usage/records?org={org}")).await.ok();
        assert_eq!(record.rows()[0]["currency"], found[..3], "{org}");
    }
    world.is_sound();
}

#[tokio::test]
async fn a_change_of_currency_counts_from_then_on_and_corrections_keep_theirs() {
    let world = platform().org("acme").start().await;
    world.turn("2026-10-05T00:00:00Z");
    let event = |id: &str| usage("acme", "tokens").id(id).quantity(10).at("2026-10-04T00:00:00Z");
    world.used(event("one")).await;
    world.used(event("two")).await;
    world.has_currency("acme", "eur").await;
    world.used(event("three")).await;
    assert_eq!(world.october("acme").await, ["eur 30 for 10", "usd 40 for 20"]);
    // The same usage event again is a duplicate, though it would cost something else by now.
    assert_eq!(world.uses(event("one")).await, "duplicate");

    world.send(void("one").org("acme")).await.ok();
    let four = usage("acme", "tokens").quantity(4);
    world.send(amend("two", four).org("acme")).await.ok();
    assert_eq!(world.october("acme").await, ["eur 30 for 10", "usd 8 for 4"]);
    // By pages of one row.
    let path = "/v1/usage/daily?org=acme&from=2026-10-01&to=2026-10-31";
    let rows = world.all(path, 1).await;
    assert_eq!(rows.iter().map(|row| &row["cost"]).collect::<Vec<_>>(), ["30", "8"]);
    let export = "/v1/usage/export?format=jsonl&from=2026-10-01&before=2026-11-01";
    let export =
        world.daemon().request(reqwest::Method::GET, export, &world.key).send().await.expect("an answer");
    let export = export.text().await.expect("a whole body");
    let mut costs: Vec<[String; 2]> = export
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).expect("a row"))
        .map(|row| ["currency", "cost"].map(|name| row[name].as_str().unwrap_or_default().to_owned()))
        .collect();
    costs.sort();
    assert_eq!(costs, [["eur", "30"], ["usd", "8"]]);
    world.is_sound();
}

/// Of each card the first 10 are free.
#[tokio::test]
async fn tiers_go_on_in_the_other_currency() {
    let tiers = |price: &str| {
        let tiers = json!([{ "up_to": "10", "unit_cost": "0" }, { "unit_cost": price }]);
        json!([{ "tiers": { "mode": "graduated", "tiers": tiers } }])
    };
    let world =
        platform().with(card("usd", tiers("2"))).with(card("eur", tiers("3"))).org("acme").start().await;
    world.turn("2026-10-05T00:00:00Z");
    world.used(usage("acme", "tokens").quantity(8)).await;
    world.has_currency("acme", "eur").await;
    world.used(usage("acme", "tokens").quantity(8)).await;
    // 2 of the second 8 are free, and 6 cost 3 each.
    assert_eq!(world.october("acme").await, ["eur 18 for 8", "usd 0 for 8"]);
    world.is_sound();
}

/// A price list in the org's currency that lacks a model: the usage waits for a price, and gets it later.
#[tokio::test]
async fn a_missing_price_is_not_taken_from_another_currency() {
    let world = platform().with(card("eur", json!([{ "when": { "model": "small" }, "unit_cost": "3" }])));
    let world = world.org("acme").start().await;
    world.has_currency("acme", "eur").await;
    world.turn("2026-10-05T00:00:00Z");
    world.used(usage("acme", "tokens").quantity(10).dimension("model", "large")).await;
    let unpriced = world.get("/v1/usage/unpriced?org=acme").await.ok();
    assert_eq!(unpriced.rows().len(), 1, "{}", unpriced.body);
    let rates = json!([{ "when": { "model": "large" }, "unit_cost": "4" }]);
    world.send(card("eur", rates).with("backdate", true)).await.status(201);
    let rate = json!({ "org": "acme", "reason": "the price was missing" });
    let rated = world.post("/v1/meters/tokens/rate_usage", rate).await.ok();
    assert_eq!(rated.pick(["events", "cost"]), json!([1, "40"]));
    assert_eq!(world.october("acme").await, ["eur 40 for 10"]);
    world.is_sound();
}

#[tokio::test]
async fn an_invoice_in_the_orgs_currency_has_its_usage_in_it() {
    let world = platform().org("acme").start().await;
    world
        .put(
            "/v1/tax_rates/none",
            json!({ "name": "No tax", "category": "O", "percent": "0",
        "exemption_reason": "Not taxed" }),
        )
        .await
        .ok();
    let party = json!({ "name": "Shop Ltd", "vat_id": "GB123456789", "address": { "country": "GB" } });
    let seller = json!({ "party": party,
        "settings": { "tax_rate": "none" }, "default": true });
    world.put("/v1/sellers/shop", seller).await.ok();
    world.put("/v1/orgs/acme/billing", json!({ "party": { "name": "Acme" }, "currency": "eur" })).await.ok();
    let price = json!({ "amount": 1000, "currency": "eur" });
    world.put("/v1/plans/basic", json!({ "name": "Basic", "grace_days": 10, "monthly": price })).await.ok();
    world.send(subscribe("acme", "basic").with("paid", true)).await.status(201);
    // A meter whose only price is in USD gets an invoice of its own.
    world.send(meter("calls")).await.status(201);
    world.send(rate_card("calls", json!([{ "unit_cost": "1" }]))).await.status(201);
    world.turn("2026-10-05T00:00:00Z");
    world.used(usage("acme", "tokens").quantity(10)).await;
    world.used(usage("acme", "calls").quantity(6)).await;
    assert_eq!(world.get("/v1/orgs/acme").await.ok().body["currency"], "eur");
    world.turn("2026-11-01T00:00:01Z");
    let path = "/v1/invoices?org=acme&origin=own&expand=lines";
    until("both invoices are there", async || world.get(path).await.ok().rows().len() == 2).await;
    let mut found: Vec<String> = Vec::new();
    for row in world.get(path).await.ok().rows() {
        let invoice = world.get(&format!("/v1/invoices/{}", row["id"].as_str().expect("an id"))).await.ok();
        found.push(format!("{} {}", invoice.body["currency"].as_str().expect("one"), invoice.body["total"]));
    }
    found.sort();
    // 10.00 for November and 10 x 3.00; 6 x 1.00.
    assert_eq!(found, ["eur 4000", "usd 600"]);
    world.is_sound();
}
