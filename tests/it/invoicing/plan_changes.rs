//! A change of plan sets right what was agreed for the old plan: periods that are paid, owed or bought ahead.
//! Plans cost 10.00, 30.00 and 45.00 a month. All values were computed by hand.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::answer::Answer;
use crate::support::invoicing::{billing, credit_note, invoice, on_invoice, seller, tax_rate};
use crate::support::requests::{Request, plan, subscribe, subscription_command};
use crate::support::world::{Setup, until};

fn priced(id: &str, amount: i64) -> Request {
    plan(id)
        .with("name", id)
        .with("grace_days", 20)
        .with("monthly.amount", amount)
        .with("monthly.currency", "eur")
}

/// The org `acme` with these plans.
fn acme() -> Setup {
    World::new()
        .at("2026-11-01T00:00:00Z")
        .invoiced("acme")
        .with(priced("basic", 1_000))
        .with(priced("pro", 3_000))
        .with(priced("max", 4_500))
}

fn renewal() -> Request {
    invoice("acme").with("renewal", true)
}

impl World {
    async fn changes(&self, plan: &str) -> Answer {
        self.send(subscription_command("acme", "change", json!({ "plan": plan }))).await.status(200)
    }

    /// Invoices the next period; returns the invoice's id.
    async fn renewed(&self) -> String {
        self.send(renewal().finalized()).await.status(201).id()
    }

    /// What waits, invoiced: its total.
    async fn charged(&self) -> Value {
        self.send(invoice("acme").finalized()).await.status(201)["total"].clone()
    }
}

/// `name quantity price` of the items of a change.
fn items(changed: &Answer) -> Vec<String> {
    let text = |item: &Value, name: &str| item[name].as_str().unwrap_or_default().to_owned();
    let line =
        |item: &Value| ["description", "quantity", "unit_price"].map(|name| text(item, name)).join(" ");
    changed.list("prorated").iter().map(line).collect()
}

#[tokio::test]
async fn a_period_that_is_owed_is_prorated_as_if_paid() {
    // A trial to 1 November; its first month is invoiced and not paid.
    let trial = || acme().at("2026-10-23T00:00:00Z").with(subscribe("acme", "basic").with("trial_days", 9));
    let world = trial().start().await;
    world.turn("2026-10-30T00:00:00Z");
    let owed = world.renewed().await;
    // The whole month is left.
    let changed = world.changes("pro").await;
    assert_eq!(items(&changed), ["basic -1 10", "pro 1 30"]);
    assert_eq!(changed.pick(["plan", "not_prorated"]), json!(["pro", []]));
    // 20 of 30 days are left: 30.00 x 20 / 30 = 20.00 back, 45.00 x 20 / 30 = 30.00.
    world.turn("2026-11-11T08:00:00Z");
    let changed = world.changes("max").await;
    assert_eq!(items(&changed), ["pro -1 20", "max 1 30"]);
    // The same plan again changes nothing.
    assert_eq!(items(&world.changes("max").await), [""; 0]);
    // 20.00 + 10.00; the invoice of 10.00 stays as it is.
    assert_eq!(world.charged().await, 3_000);
    assert_eq!(world.stands(&owed).await, "open 1000");
    world.is_sound();

    // A draft is computed again.
    let world = trial().start().await;
    world.turn("2026-10-30T00:00:00Z");
    let draft = world.send(renewal()).await.status(201).id();
    assert_eq!(items(&world.changes("pro").await), [""; 0]);
    let draft = world.get(&format!("/v1/invoices/{draft}")).await.ok();
    assert_eq!(draft.pick(["status", "total"]), json!(["draft", 3_000]));

    // A trial without an invoice costs nothing.
    let world = trial().start().await;
    assert_eq!(items(&world.changes("pro").await), [""; 0]);
}

#[tokio::test]
async fn periods_that_were_bought_ahead_are_prorated_as_a_whole() {
    let world = acme().with(subscribe("acme", "basic").with("paid", true)).start().await;
    for _ in 0..3 {
        world.renewed().await;
        world.paid("acme", 1_000).await;
    }
    let subscription = world.get("/v1/orgs/acme/subscription").await;
    assert_eq!(subscription.text("valid_until"), "2027-03-01T00:00:00Z");
    world.turn("2026-11-16T12:00:00Z");
    // November was paid elsewhere, at the price of the plan: 15 of 30 days are left. Three months are whole.
    let up = world.changes("pro").await;
    let whole = ["basic -1 10", "pro 1 30"];
    assert_eq!(items(&up), [["basic -1 5", "pro 1 15"], whole, whole, whole].concat());
    // And down again: what is agreed now is the price of `pro`.
    let down = world.changes("basic").await;
    let whole = ["pro -1 30", "basic 1 10"];
    assert_eq!(items(&down), [["pro -1 15", "basic 1 5"], whole, whole, whole].concat());
    assert_eq!(world.charged().await, 0);
    // 10.00 of November, and 3 x 20.00.
    world.changes("pro").await;
    assert_eq!(world.charged().await, 7_000);
    world.is_sound();
}

#[tokio::test]
async fn no_more_is_given_back_than_was_agreed() {
    let world = acme().with(subscribe("acme", "basic").with("paid", true)).start().await;
    let (paid, void, credited) = (world.renewed().await, "void", credit_note);
    world.paid("acme", 1_000).await;
    // January is void; December was paid, and a credit note took 4.00 of it back.
    let january = world.renewed().await;
    world.send(on_invoice(&january, void)).await.ok();
    world.send(credited(&paid).credits(1, 400)).await.status(201);
    // Somebody moves the subscription to a dearer version: the invoice still says 10.00.
    world.send(priced("basic", 2_000)).await.ok();
    let id = world.get("/v1/orgs/acme/subscription").await.ok().id();
    world.post(&format!("/v1/subscriptions/{id}/move"), json!({ "version": 2 })).await.ok();
    world.turn("2026-11-30T12:00:00Z");
    // November: 1 of 30 days of 20.00 and 30.00. December: 6.00 are left.
    let changed = world.changes("pro").await;
    assert_eq!(items(&changed), ["basic -1 0.67", "pro 1 1", "basic -1 6", "pro 1 30"]);
    world.is_sound();
}

#[tokio::test]
async fn a_price_that_is_not_known_is_said() {
    let dollars = priced("dollars", 1_000).with("monthly.currency", "usd");
    let imported = json!({ "plan": "dollars", "started_at": "2026-10-16T00:00:00Z",
        "paid_until": "2026-11-16T00:00:00Z" });
    let world = acme().with(dollars).start().await;
    world.send(subscription_command("acme", "import", imported)).await.status(201);
    let changed = world.changes("pro").await;
    assert_eq!(items(&changed), [""; 0]);
    let unknown = json!([{ "from": "2026-10-16T00:00:00Z", "to": "2026-11-16T00:00:00Z", "plan": "dollars",
        "currency": "eur" }]);
    assert_eq!(changed["not_prorated"], unknown);
    // An import at a known price: 15 of the 31 days from 16 October on are left: 14.52 back, 21.77.
    assert_eq!(items(&world.changes("max").await), ["pro -1 14.52", "max 1 21.77"]);
    assert_eq!(world.charged().await, 725);
    world.is_sound();
}

/// A downgrade on the first day gives back 45.00 and charges 10.00; then each month costs 10.00.
#[tokio::test]
async fn credit_that_is_more_than_the_fee_waits_for_the_next_invoice() {
    let world = acme()
        .with(tax_rate("vat20", "20"))
        .with(seller("blazz").with("settings.tax_rate", "vat20"))
        .with(billing("acme").with("automatic", true))
        .with(subscribe("acme", "max").with("paid", true))
        .start()
        .await;
    world.turn("2026-11-01T10:00:00Z");
    assert_eq!(items(&world.changes("basic").await), ["max -1 45", "basic 1 10"]);
    // The clock makes the draft of December, and finalises it.
    let newest = async |status: &str| {
        until(status, async || {
            let page = world.get("/v1/invoices?org=acme&origin=own").await.ok();
            page.rows().first().is_some_and(|row| row["status"] == status)
        })
        .await;
        let page = world.get("/v1/invoices?org=acme&origin=own").await.ok();
        let id = page.rows()[0]["id"].as_str().expect("an id").to_owned();
        world.get(&format!("/v1/invoices/{id}?expand=lines")).await.ok()
    };
    let waits = async || {
        let waiting = world.get("/v1/orgs/acme/invoice_items").await.ok();
        let items = waiting.list("items").iter().map(|item| item["unit_price"].clone());
        items.collect::<Vec<Value>>()
    };
    world.turn("2026-12-01T00:00:01Z");
    let draft = newest("draft").await;
    assert_eq!(draft.pick(["total", "waits"]), json!([0, null]));
    world.turn("2026-12-02T00:00:02Z");
    let december = newest("paid").await;
    // 10.00 + 10.00 - 20.00; 25.00 of the 45.00 wait.
    let mut amounts: Vec<i64> =
        december.list("lines").iter().filter_map(|line| line["amount"].as_i64()).collect();
    amounts.sort_unstable();
    assert_eq!(amounts, [-2_000, 1_000, 1_000]);
    assert_eq!(december.pick(["net_total", "tax_total", "total"]), json!([0, 0, 0]));
    assert_eq!(waits().await, ["25"]);
    let valid = world.get("/v1/orgs/acme/subscription").await;
    assert_eq!(valid.pick(["status", "valid_until"]), json!(["active", "2027-01-01T00:00:00Z"]));
    // January and February use 10.00 each. March costs 10.00 - 5.00 = 5.00, + 20 % = 6.00.
    for (left, total) in [("15", 0), ("5", 0), ("", 600)] {
        let made = world.send(renewal().finalized()).await.status(201);
        assert_eq!(made["total"], total);
        assert_eq!(waits().await.concat_text(), left);
    }
    world.is_sound();
}

trait ConcatText {
    fn concat_text(&self) -> String;
}

impl ConcatText for Vec<Value> {
    fn concat_text(&self) -> String {
        self.iter().filter_map(Value::as_str).collect()
    }
}
