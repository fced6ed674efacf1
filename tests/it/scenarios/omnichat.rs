//! A chat product sells a plan and packs. A purchase is told of by many Stripe events, before the product
//! knows the user: the battery is charged once. The day's allowance is burned before the month's units, those
//! before what was bought. A refund takes back its share. After the cancellation the period runs out.

use serde_json::{Value, json};

use super::{Platform, text};
use crate::support::events::event;

/// Seconds since 1970.
fn unix(time: &str) -> i64 {
    time.parse::<chrono::DateTime<chrono::Utc>>().expect("a time").timestamp()
}

const BOUGHT: &str = "2027-05-10T08:00:00Z";
const ENDS: &str = "2027-06-10T08:00:00Z";

fn subscription(status: &str, cancel_at_period_end: bool) -> Value {
    json!({ "id": "sub_mia", "object": "subscription", "created": unix(BOUGHT), "customer": "cus_mia",
        "status": status, "currency": "usd", "livemode": false,
        "cancel_at_period_end": cancel_at_period_end, "collection_method": "charge_automatically",
            "start_date": unix(BOUGHT), "metadata": {},
        "items": { "object": "list", "has_more": false,
            "data": [{ "id": "si_mia", "object": "subscription_item", "quantity": 1, "created": unix(BOUGHT),
            "metadata": {},
            "current_period_start": unix(BOUGHT), "current_period_end": unix(ENDS),
            "price": { "id": "price_power", "object": "price", "product": "prod_power", "currency": "usd",
                "unit_amount": 2000, "recurring": { "interval": "month", "interval_count": 1 } } }] } })
}

fn session(id: &str, mode: &str, more: Value) -> Value {
    let mut session = json!({ "id": id, "object": "checkout.session", "created": unix(BOUGHT),
        "customer": "cus_mia", "client_reference_id": "mia", "mode": mode,
        "status": "complete", "payment_status": "paid", "currency": "usd", "livemode": false,
            "metadata": {} });
    session.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
    session
}

fn intent(id: &str, amount: i64) -> Value {
    json!({ "id": id, "object": "payment_intent", "created": unix(BOUGHT), "customer": "cus_mia",
        "status": "succeeded", "currency": "usd", "amount": amount,
            "amount_received": amount, "livemode": false, "metadata": {},
                "latest_charge": format!("ch_{id}") })
}

fn charge(intent: &str, amount: i64, refunded: i64) -> Value {
    json!({ "id": format!("ch_{intent}"), "object": "charge", "created": unix(BOUGHT), "customer": "cus_mia",
        "payment_intent": intent, "status": "succeeded", "paid": true,
            "captured": true, "amount": amount, "amount_captured": amount, "amount_refunded": refunded,
                "refunded": refunded == amount, "currency": "usd", "livemode": false, "metadata": {} })
}

fn invoice() -> Value {
    json!({ "id": "in_mia", "object": "invoice", "created": unix(BOUGHT), "customer": "cus_mia",
        "status": "paid", "currency": "usd", "livemode": false,
        "billing_reason": "subscription_create", "collection_method": "charge_automatically",
            "number": "MIA-1", "subtotal": 2000, "total": 2000, "amount_due": 2000,
        "amount_paid": 2000, "amount_remaining": 0, "period_start": unix(BOUGHT), "period_end": unix(BOUGHT),
            "metadata": {}, "total_taxes": [], "total_discount_amounts": [],
        "status_transitions": { "finalized_at": unix(BOUGHT), "paid_at": unix(BOUGHT), "voided_at": null,
            "marked_uncollectible_at": null },
        "parent": { "type": "subscription_details", "subscription_details": { "subscription": "sub_mia" } },
        "lines": { "object": "list", "has_more": false,
            "data": [{ "id": "il_mia", "object": "line_item", "amount": 2000, "currency": "usd",
            "description": "Power",
            "quantity": 1, "livemode": false, "metadata": {},
                "period": { "start": unix(BOUGHT), "end": unix(ENDS) }, "taxes": [], "discount_amounts": [],
            "pricing": { "type": "price_details",
                "price_details": { "price": "price_power", "product": "prod_power" },
                "unit_amount_decimal": "2000" },
            "parent": { "type": "subscription_item_details",
                "subscription_item_details": { "subscription": "sub_mia", "subscription_item": "si_mia",
                "proration": false } } }] } })
}

struct Chat(Platform);

impl Chat {
    /// Delivers events about these objects, each twice, the last first.
    async fn deliver(&self, at: &str, objects: &[(&str, Value)]) {
        for (n, (kind, object)) in objects.iter().enumerate().rev() {
            let event = event(&format!("evt_{kind}_{at}_{n}"), kind, unix(at), object.clone());
            self.0.daemon.deliver_at(&event, unix(at)).await;
            self.0.daemon.deliver_at(&event, unix(at)).await;
        }
        self.0.daemon.projected().await;
    }

    /// Uses tokens of a model; what became of each.
    async fn use_tokens(&self, events: &[(&str, i64, &str)]) -> Vec<String> {
        let event = |(id, tokens, cached): &(&str, i64, &str)| {
            json!({ "id": id, "source": "chat", "org": "mia", "event_name": "api.usage", "member": "u1",
                    "data": { "tokens": tokens, "model": "gpt", "cached": cached } })
        };
        let events: Vec<Value> = events.iter().map(event).collect();
        self.0.daemon.usage(&self.0.key, &json!(events)).await
    }

    async fn balance(&self) -> String {
        text(&self.0.get("/v1/battery?org=mia").await, "balance").to_owned()
    }

    fn ledger(&self) -> Vec<String> {
        self.0.database.ledger(self.0.database.number("SELECT org_id FROM orgs WHERE external_id = 'mia'"))
    }
}

#[tokio::test]
async fn a_purchase_charges_the_battery_once_and_usage_burns_it_in_order() {
    let chat = Chat(Platform::at(BOUGHT));
    // Five and more events tell of one payment, and the product has not made the user yet.
    let purchase = [
        (
            "checkout.session.completed",
            session(
                "cs_plan",
                "subscription",
                json!({ "subscription": "sub_mia", "invoice": "in_mia", "amount_total": 2000 }),
            ),
        ),
        ("customer.subscription.created", subscription("active", false)),
        ("invoice.payment_succeeded", invoice()),
        ("invoice.paid", invoice()),
        ("payment_intent.succeeded", intent("pi_plan", 2000)),
        ("charge.succeeded", charge("pi_plan", 2000, 0)),
    ];
    chat.deliver(BOUGHT, &purchase).await;
    // Nothing is sold, so nothing waits.
    let waiting = chat.0.get("/v1/battery/effects/waiting").await;
    assert_eq!(waiting["data"].as_array().map(Vec::len), Some(0), "{waiting}");

    let meter = json!({ "key": "tokens", "event_name": "api.usage", "aggregation": "sum",
        "value_field": "tokens", "unit": "tokens", "dimensions": ["model", "cached"] });
    chat.0.post("/v1/meters", meter, 201).await;
    let card = json!({ "currency": "usd",
        "rates": [{ "when": { "cached": "yes" }, "battery_units": "0.002" }, { "battery_units": "0.01" }] });
    chat.0.post("/v1/meters/tokens/rate_cards", card, 201).await;
    let plan = json!({ "name": "Power",
        "monthly": { "amount": 2000, "currency": "usd", "stripe_price": "price_power" },
                       "battery_units": "1000", "daily_battery": "50", "battery_debt_limit": "0",
                           "features": { "voice": true } });
    chat.0.put("/v1/plans/power", plan).await;
    chat.0.put("/v1/battery/packs/boost", json!({ "name": "Boost", "units": "500" })).await;
    chat.0.daemon.org(&chat.0.key, "mia", "Europe/Berlin").await;
    chat.0.daemon.projected().await;
    let waiting = chat.0.get("/v1/battery/effects/waiting").await;
    assert_eq!(waiting["data"].as_array().map(Vec::len), Some(0), "{waiting}");
    chat.0.plan_of("mia", Some("power")).await;
    // What the workers did about the day may be there already.
    let grants: Vec<String> =
        chat.ledger().into_iter().filter(|line| line.starts_with("grant 1000")).collect();
    assert_eq!(grants.len(), 1, "{:?}", chat.ledger());
    chat.deliver(BOUGHT, &purchase).await;

    // 3,000 × 0.01 = 30 of the day's 50.
    assert_eq!(chat.use_tokens(&[("a", 3_000, "no")]).await, ["accepted"]);
    assert_eq!(chat.balance().await, "1020");
    // 40 + 5,000 × 0.002 = 50: the day's last 20, and 30 of the month's.
    assert_eq!(chat.use_tokens(&[("b", 4_000, "no"), ("c", 5_000, "yes")]).await, ["accepted"; 2]);
    assert_eq!(chat.balance().await, "970");
    let month = chat.0.get("/v1/battery/grants?org=mia&source=subscription").await;
    assert_eq!((text(&month["data"][0], "remaining"), text(&month["data"][0], "burned")), ("970", "30"));
    assert_eq!(text(&month["data"][0], "expires_at"), ENDS);

    // The next day has its own 50; 920 of 1,020 go.
    chat.0.clock.turn("2027-05-11T10:00:00Z");
    assert_eq!(chat.use_tokens(&[("d", 92_000, "no")]).await, ["accepted"]);
    assert_eq!(chat.balance().await, "100");
    assert_eq!(chat.use_tokens(&[("e", 10_100, "no")]).await, ["data battery_exhausted"]);

    // A pack, told of by three events, twice each.
    let at = "2027-05-11T11:00:00Z";
    let bought = session(
        "cs_boost",
        "payment",
        json!({ "payment_intent": "pi_boost", "amount_total": 500, "metadata": { "battery_pack": "boost" } }),
    );
    let pack = [
        ("checkout.session.completed", bought),
        ("payment_intent.succeeded", intent("pi_boost", 500)),
        ("charge.succeeded", charge("pi_boost", 500, 0)),
    ];
    chat.0.clock.turn(at);
    chat.deliver(at, &pack).await;
    assert_eq!(chat.balance().await, "600");
    // 60 of the month's 100, not of the pack.
    assert_eq!(chat.use_tokens(&[("f", 6_000, "no")]).await, ["accepted"]);
    // Half of the money goes back, and half of the units.
    let at = "2027-05-11T12:00:00Z";
    chat.0.clock.turn(at);
    let refund = json!({ "id": "re_boost", "object": "refund", "created": unix(at), "amount": 250,
        "currency": "usd", "charge": "ch_pi_boost",
                         "payment_intent": "pi_boost", "status": "succeeded",
                             "reason": "requested_by_customer", "metadata": {} });
    chat.deliver(at, &[("refund.created", refund), ("charge.refunded", charge("pi_boost", 500, 250))]).await;
    let mut ledger = chat.ledger();
    // The plan gives the day's allowance from the moment at which it is known; the payment's grant follows it
    // or not.
    if ledger[..2] == ["grant 50 → 50", "grant 1000 → 1050"] {
        ledger.splice(..2, ["grant 1000 → 1000", "grant 50 → 1050"].map(str::to_owned));
    }
    assert_eq!(
        ledger,
        [
            "grant 1000 → 1000",
            "grant 50 → 1050",
            "usage -30 → 1020",
            "usage -50 → 970",
            "grant 50 → 1020",
            "usage -920 → 100",
            "grant 500 → 600",
            "usage -60 → 540",
            "clawback -250 → 290",
        ]
    );

    // Cancelled, the plan stays to the end of its period.
    let at = "2027-05-11T13:00:00Z";
    chat.0.clock.turn(at);
    chat.deliver(at, &[("customer.subscription.updated", subscription("active", true))]).await;
    chat.0.plan_of("mia", Some("power")).await;
    chat.0.clock.turn(ENDS);
    chat.deliver(ENDS, &[("customer.subscription.deleted", subscription("canceled", true))]).await;
    chat.0.plan_of("mia", None).await;
    // The month's last 40 are gone with it, and so is the day's allowance in time; the pack's 250 stay.
    let entries = chat.0.get("/v1/battery/entries?org=mia&kind=expiry&source=subscription").await;
    assert_eq!(text(&entries["data"][0], "amount"), "-40", "{entries}");
    assert_eq!(text(&entries["data"][0], "at"), ENDS);
    chat.0.clock.turn("2027-06-11T08:00:00Z");
    assert_eq!(chat.balance().await, "250");
    assert_eq!(chat.use_tokens(&[("g", 25_000, "no")]).await, ["accepted"]);
    assert_eq!(chat.balance().await, "0");

    // What was used on the first day: 80 units in three messages of one model.
    let day = chat.0.get("/v1/usage/daily?org=mia&from=2027-05-10&to=2027-05-11&group_by=day").await;
    assert_eq!(text(&day["data"][0], "battery_units"), "80", "{day}");
    assert_eq!(day["data"][0]["count"], 3);
    assert_eq!(chat.0.database.unbalanced(), [] as [String; 0]);
}
