//! What the fake writes: idempotent answers, meters, invoice items, the life of a subscription.

use serde_json::{Value, json};

use super::{Client, MIDNIGHT, Reply, client};

const DAY: i64 = 86_400;

impl Client {
    async fn keyed(&self, path: &str, form: &str, key: &str) -> Reply {
        self.send(self.form(path, form).header("Idempotency-Key", key)).await
    }
}

#[tokio::test]
async fn an_idempotency_key_repeats_its_answer() {
    let client = client();
    let account = client.fake.account("");
    let first = client.keyed("/v1/customers", "name=Acme", "key_1").await;
    let repeat = client.keyed("/v1/customers", "name=Acme", "key_1").await;
    assert_eq!((first.status, first.header("idempotent-replayed")), (200, ""));
    assert_eq!((repeat.status, repeat.header("idempotent-replayed")), (200, "true"));
    assert_eq!(first.body, repeat.body);
    let other = client.keyed("/v1/customers", "name=Other", "key_1").await;
    assert_eq!((other.status, &other.body["error"]["type"]), (400, &json!("idempotency_error")));
    assert_eq!(account.ids("customer").len(), 1);
    // A failure of Stripe's own is kept; one in front of Stripe hides the true answer.
    for (status, repeated) in [(500, 500), (502, 200)] {
        let key = format!("key_{status}");
        client.fake.fail_next("/v1/customers", crate::support::fake_stripe::Fault::After(status));
        assert_eq!(client.keyed("/v1/customers", "name=Acme", &key).await.status, status);
        assert_eq!(client.keyed("/v1/customers", "name=Acme", &key).await.status, repeated);
    }
    assert_eq!(account.ids("customer").len(), 3);
    // Refusals are not kept.
    assert_eq!(client.keyed("/v1/prices", "currency=usd", "key_2").await.status, 400);
    let fixed = "currency=usd&unit_amount=1&product_data[name]=Pro";
    assert_eq!(client.keyed("/v1/prices", fixed, "key_2").await.body["unit_amount"], 1);
    client.fake.set_time(MIDNIGHT + DAY);
    let late = client.keyed("/v1/customers", "name=Other", "key_1").await;
    assert_eq!((late.status, late.header("idempotent-replayed")), (200, ""));
}

#[tokio::test]
async fn objects_are_changed_and_deleted_by_calls() {
    let client = client();
    let account = client.fake.account("");
    let made = client.post("/v1/customers", "name=Acme&metadata[org_id]=acme&metadata[old]=1").await.body;
    let path = format!("/v1/customers/{}", made["id"].as_str().expect("an id"));
    let changed = client.post(&path, "metadata[old]=&metadata[new]=2").await.body;
    assert_eq!(changed["metadata"], json!({ "org_id": "acme", "new": "2" }));
    let told = client.fake.requests();
    let last = account.events().pop().expect("an event");
    assert_eq!((told.len(), &last["type"]), (2, &json!("customer.updated")));
    assert!(last["request"]["id"].as_str().is_some_and(|id| id.starts_with("req_")));
    let customer = made["id"].as_str().expect("an id");
    let draft = client.post("/v1/invoices", &format!("customer={customer}&auto_advance=true")).await.body;
    assert_eq!(draft["automatically_finalizes_at"], MIDNIGHT + 3600);
    let invoice = format!("/v1/invoices/{}", draft["id"].as_str().expect("an id"));
    let delete = async |path: &str| {
        let reply = client.send(client.request("DELETE", path, crate::support::fake_stripe::TEST_KEY)).await;
        reply.status
    };
    assert_eq!(client.post(&format!("{invoice}/finalize"), "").await.body["status"], "open");
    assert_eq!(delete(&invoice).await, 400);
    assert_eq!(client.post(&format!("{invoice}/void"), "").await.body["status"], "void");
    assert_eq!(client.post(&format!("{invoice}/void"), "").await.status, 400);
    assert_eq!((delete(&path).await, delete(&path).await), (200, 404));
    let refused = client.post("/v1/invoices", "customer=cus_9").await;
    assert_eq!((refused.status, &refused.body["error"]["param"]), (400, &json!("customer")));
}

#[tokio::test]
async fn a_key_in_use_is_refused() {
    let client = client();
    client.fake.set_latency(std::time::Duration::from_millis(200));
    let both = tokio::join!(
        client.keyed("/v1/customers", "name=Acme", "key_1"),
        client.keyed("/v1/customers", "name=Acme", "key_1"),
    );
    let mut statuses = [both.0.status, both.1.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409]);
    // One call at once for a customer and a meter.
    let usage =
        |customer: &str| format!("event_name=tokens&payload[stripe_customer_id]={customer}&payload[value]=1");
    let path = "/v1/billing/meter_events";
    let (one, two, other) = (usage("cus_1"), usage("cus_1"), usage("cus_2"));
    let calls = tokio::join!(client.post(path, &one), client.post(path, &two), client.post(path, &other));
    let mut statuses = [calls.0.status, calls.1.status, calls.2.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 200, 429]);
    let refused = [&calls.0, &calls.1].into_iter().find(|reply| reply.status == 429).expect("one is refused");
    assert_eq!(refused.body["error"]["code"], "lock_timeout");
}

/// Creates a meter over the API, and a customer `cus_1`.
async fn meter(client: &Client, more: &str) -> String {
    client.fake.account("").create("customer", json!({ "id": "cus_1" }));
    let form = format!("display_name=Tokens&event_name=tokens&{more}");
    let made = client.post("/v1/billing/meters", &form).await;
    assert_eq!(made.status, 200, "{}", made.body);
    made.body["id"].as_str().expect("an id").to_owned()
}

async fn used(client: &Client, identifier: &str, value: &str, timestamp: i64) -> Reply {
    let form = format!(
        "event_name=tokens&identifier={identifier}&timestamp={timestamp}&payload[stripe_customer_id]=cus_1&\
         payload[value]={value}"
    );
    client.post("/v1/billing/meter_events", &form).await
}

#[tokio::test]
async fn meter_events_are_taken_once_and_within_bounds() {
    let client = client();
    meter(&client, "default_aggregation[formula]=sum").await;
    let cases = [
        ("id_1", "5", 0, "200 -"),
        ("id_1", "5", 0, "400 resource_already_exists"),
        ("id_2", "123456789012345", 0, "200 -"),
        ("id_3", "0.123456789012345", 0, "200 -"),
        ("id_4", "1234567890123456", 0, "400 meter_event_invalid_value"),
        ("id_5", "many", 0, "400 meter_event_invalid_value"),
        ("id_6", "1", 300, "200 -"),
        ("id_7", "1", 301, "400 timestamp_in_future"),
        ("id_8", "1", -35 * DAY, "200 -"),
        ("id_9", "1", -35 * DAY - 1, "400 timestamp_too_far_in_past"),
    ];
    for (identifier, value, offset, expected) in cases {
        let reply = used(&client, identifier, value, MIDNIGHT + offset).await;
        let code = reply.body["error"]["code"].as_str().unwrap_or("-");
        assert_eq!(format!("{} {code}", reply.status), expected, "{identifier} {value}");
        let retry = if reply.status == 400 { "false" } else { "" };
        assert_eq!(reply.header("stripe-should-retry"), retry);
    }
    client.fake.set_time(MIDNIGHT + DAY);
    assert_eq!(used(&client, "id_1", "5", MIDNIGHT + DAY).await.status, 200);
}

#[tokio::test]
async fn usage_is_summed_by_the_rules_of_the_meter() {
    // Hour 0: 10 at second 5, then 7 at second 9, which arrived first; hour 1: 4. Then 3 the day before.
    let events = [("a", "7", 9), ("b", "10", 5), ("c", "4", 3600), ("d", "3", -60)];
    let cases = [
        ("default_aggregation[formula]=sum", "24.0 hours: 4.0 17.0 3.0"),
        ("default_aggregation[formula]=count", "4.0 hours: 1.0 2.0 1.0"),
        ("default_aggregation[formula]=last", "4.0 hours: 4.0 7.0 3.0"),
        // The most recent event of a window is the whole usage of the window.
        ("default_aggregation[formula]=sum&event_time_window=hour", "14.0 hours: 4.0 7.0 3.0"),
        ("default_aggregation[formula]=sum&event_time_window=day", "7.0 hours: 4.0 7.0 3.0"),
    ];
    for (form, expected) in cases {
        let client = client();
        client.fake.set_time(MIDNIGHT + 7200);
        let meter = meter(&client, form).await;
        for (identifier, value, offset) in events {
            assert_eq!(used(&client, identifier, value, MIDNIGHT + offset).await.status, 200);
        }
        let sums = async |more: &str| {
            let (start, end) = (MIDNIGHT - 3600, MIDNIGHT + 7200);
            let path = format!(
                "/v1/billing/meters/{meter}/event_summaries?customer=cus_1&start_time={start}&\
                 end_time={end}{more}"
            );
            let body = client.get(&path).await.body;
            let data = body["data"].as_array().expect("a list").clone();
            data.iter().map(|sum| sum["aggregated_value"].to_string()).collect::<Vec<_>>().join(" ")
        };
        let seen = format!("{} hours: {}", sums("").await, sums("&value_grouping_window=hour").await);
        assert_eq!(seen, expected, "{form}");
        let total = client.fake.account("").meter_total(&meter, "cus_1", MIDNIGHT - 3600, MIDNIGHT + 7200);
        assert_eq!(format!("{total}.0 "), format!("{} ", expected.split(' ').next().expect("a sum")));
        let form = "event_name=tokens&type=cancel&cancel[identifier]=c";
        assert_eq!(client.post("/v1/billing/meter_event_adjustments", form).await.status, 200);
        let later = client.fake.account("").meter_total(&meter, "cus_1", MIDNIGHT + 3600, MIDNIGHT + 7200);
        assert_eq!(later, rust_decimal::Decimal::ZERO);
    }
}

#[tokio::test]
async fn errors_of_meter_events_come_later_as_thin_events() {
    let client = client();
    let receiver = crate::support::receiver::Receiver::start();
    client.fake.set_endpoint(&receiver.url, "whsec_1");
    let form = |name: &str, customer: &str| {
        format!("event_name={name}&payload[stripe_customer_id]={customer}&payload[value]=1")
    };
    let meter = meter(&client, "default_aggregation[formula]=sum").await;
    client.fake.deliver_all().await;
    let before = receiver.count();
    for (name, customer) in [("tokens", "cus_1"), ("tokens", "cus_9"), ("bytes", "cus_1")] {
        assert_eq!(client.post("/v1/billing/meter_events", &form(name, customer)).await.status, 200);
    }
    client.fake.deliver_all().await;
    let thin: Vec<Value> = receiver.received()[before..].iter().map(|one| one.json()).collect();
    let kinds: Vec<&Value> = thin.iter().map(|event| &event["type"]).collect();
    assert_eq!(kinds, ["v1.billing.meter.error_report_triggered", "v1.billing.meter.no_meter_found"]);
    assert_eq!(thin[0]["related_object"]["id"], meter.as_str());
    assert!(thin[0].get("data").is_none());
    let id = thin[0]["id"].as_str().expect("an id");
    let whole = client.get(&format!("/v2/core/events/{id}")).await.body;
    let reason = &whole["data"]["reason"]["error_types"][0];
    assert_eq!(
        (&whole["object"], &reason["code"]),
        (&json!("v2.core.event"), &json!("meter_event_customer_not_found"))
    );
}

/// A customer with a card, subscribed to 20.00 each month and to tokens at 0.25 cents each.
async fn subscribed(client: &Client) -> String {
    let meter = meter(client, "default_aggregation[formula]=sum").await;
    let account = client.fake.account("");
    account.update("customer", "cus_1", json!({ "invoice_settings": { "default_payment_method": "pm_1" } }));
    account.create("product", json!({ "id": "prod_1", "name": "Pro" }));
    let monthly = json!({ "id": "price_1", "product": "prod_1", "unit_amount": 2000,
        "recurring": { "interval": "month" } });
    account.create("price", monthly);
    let metered = json!({ "id": "price_2", "product": "prod_1", "unit_amount_decimal": "0.25",
        "recurring": { "interval": "month", "usage_type": "metered", "meter": meter } });
    account.create("price", metered);
    let form = "customer=cus_1&items[0][price]=price_1&items[0][quantity]=3&items[1][price]=price_2";
    let made = client.post("/v1/subscriptions", form).await;
    assert_eq!((made.status, &made.body["status"]), (200, &json!("active")), "{}", made.body);
    made.body["id"].as_str().expect("an id").to_owned()
}

/// Status, total and lines of all invoices, oldest first.
fn invoices(client: &Client) -> Vec<String> {
    let amounts = |invoice: &Value| {
        let lines = invoice["lines"]["data"].as_array().expect("lines").clone();
        lines.iter().map(|line| line["amount"].to_string()).collect::<Vec<_>>().join("+")
    };
    let text = |invoice: &Value| {
        format!(
            "{} {} = {}",
            invoice["status"].as_str().expect("a status"),
            amounts(invoice),
            invoice["total"]
        )
    };
    client.fake.account("").all("invoice").iter().map(text).collect()
}

#[tokio::test]
async fn periods_are_charged_as_time_passes() {
    let client = client();
    let id = subscribed(&client).await;
    let account = client.fake.account("");
    assert_eq!(invoices(&client), ["paid 6000 = 6000"]);
    // The period ends on 10 November. 1,000 × 0.25 = 250; with 402 that come in the hour of the draft it is
    // 350.5, that is 351.
    let end = 1_762_732_800;
    assert_eq!(used(&client, "a", "1000", MIDNIGHT + 60).await.status, 200);
    let pending = client.post("/v1/invoiceitems", "customer=cus_1&amount=77&currency=usd").await.body;
    assert_eq!(pending["invoice"], Value::Null);
    client.fake.advance_to(end + 1800);
    assert_eq!(invoices(&client), ["paid 6000 = 6000", "draft 250+6000+77 = 6327"]);
    let draft = account.all("invoice")[1].clone();
    assert_eq!(draft["automatically_finalizes_at"], end + 3600);
    let invoice = draft["id"].as_str().expect("an id").to_owned();
    let form = format!("customer=cus_1&amount=23&currency=usd&invoice={invoice}");
    assert_eq!(client.post("/v1/invoiceitems", &form).await.status, 200);
    assert_eq!(used(&client, "b", "402", end - 1).await.status, 200);
    client.fake.advance_to(end + 3600);
    assert_eq!(invoices(&client)[1], "paid 351+6000+77+23 = 6451");
    let late = client.post("/v1/invoiceitems", &form).await;
    assert_eq!((late.status, &late.body["error"]["code"]), (400, &json!("invoice_not_editable")));
    let subscription = account.find("subscription", &id).expect("it is there");
    let item = &subscription["items"]["data"][0];
    // 10 November to 10 December.
    assert_eq!(
        (&item["current_period_start"], &item["current_period_end"]),
        (&json!(end), &json!(end + 30 * DAY))
    );
    assert_eq!(subscription["latest_invoice"], invoice.as_str());
    let told: Vec<String> = account
        .events()
        .iter()
        .filter(|event| event["created"].as_i64() == Some(end + 3600))
        .map(|event| event["type"].as_str().expect("a type").to_owned())
        .collect();
    assert_eq!(
        told,
        [
            "invoice.updated",
            "invoice.finalized",
            "payment_intent.created",
            "invoice_payment.paid",
            "charge.succeeded",
            "payment_intent.succeeded",
            "invoice.updated",
            "invoice.paid",
            "invoice.payment_succeeded"
        ]
    );
}

#[tokio::test]
async fn subscriptions_end_and_payments_fail() {
    let client = client();
    let id = subscribed(&client).await;
    let account = client.fake.account("");
    account.update("customer", "cus_1", json!({ "invoice_settings": { "default_payment_method": null } }));
    let end = 1_762_732_800;
    client.fake.advance_to(end + 3600);
    assert_eq!(invoices(&client)[1], "open 0+6000 = 6000");
    assert_eq!(account.find("subscription", &id).expect("it is there")["status"], "past_due");
    let failed = client.get("/v1/events?type=invoice.payment_failed").await;
    assert_eq!(failed.body["data"][0]["data"]["object"]["attempt_count"], 1);
    // At the end of the period only its usage is charged: 2,000 × 0.25.
    assert_eq!(used(&client, "a", "2000", end + 3600).await.status, 200);
    let path = format!("/v1/subscriptions/{id}");
    assert_eq!(client.post(&path, "cancel_at_period_end=true").await.status, 200);
    client.fake.advance_to(end + 30 * DAY);
    assert_eq!(invoices(&client)[2], "draft 500 = 500");
    let ended = client.get(&path).await.body;
    assert_eq!((&ended["status"], &ended["ended_at"]), (&json!("canceled"), &json!(end + 30 * DAY)));
    assert_eq!(client.get("/v1/events?type=customer.subscription.deleted").await.ids().len(), 1);
    client.fake.advance_to(end + 90 * DAY);
    assert_eq!(invoices(&client).len(), 3);
}

#[tokio::test]
async fn test_clocks_move_alone() {
    let client = client();
    let form = format!("frozen_time={MIDNIGHT}");
    let clock = client.post("/v1/test_helpers/test_clocks", &form).await.body["id"].clone();
    let clock = clock.as_str().expect("an id");
    let account = client.fake.account("");
    account.create("product", json!({ "id": "prod_1" }));
    account.create(
        "price",
        json!({ "id": "price_1", "product": "prod_1", "unit_amount": 100,
        "recurring": { "interval": "day" } }),
    );
    account.create(
        "customer",
        json!({ "id": "cus_1", "test_clock": clock,
        "invoice_settings": { "default_payment_method": "pm_1" } }),
    );
    let items = json!([{ "price": "price_1" }]);
    account.subscribe(json!({ "customer": "cus_1", "items": items }));
    client.fake.advance_to(MIDNIGHT + 5 * DAY);
    assert_eq!(invoices(&client).len(), 1);
    let form = format!("frozen_time={}", MIDNIGHT + 2 * DAY + 3600);
    let advanced = client.post(&format!("/v1/test_helpers/test_clocks/{clock}/advance"), &form).await;
    assert_eq!(advanced.body["status"], "ready");
    assert_eq!(invoices(&client), ["paid 100 = 100"; 3]);
    assert_eq!(account.all("invoice")[2]["created"], MIDNIGHT + 2 * DAY);
}

#[tokio::test]
async fn a_trial_ends_with_the_first_invoice() {
    let client = client();
    let account = client.fake.account("");
    account.create("customer", json!({ "id": "cus_1" }));
    let price = json!({ "id": "price_1", "product": "prod_1", "unit_amount": 100,
        "recurring": { "interval": "month" } });
    account.create("price", price);
    let form = "customer=cus_1&items[0][price]=price_1&trial_period_days=14";
    let made = client.post("/v1/subscriptions", form).await.body;
    // 24 October, and a month later.
    let (trial_end, end) = (1_761_264_000, 1_763_942_400);
    assert_eq!((&made["status"], &made["trial_end"]), (&json!("trialing"), &json!(trial_end)));
    client.fake.advance_to(trial_end - 1);
    assert_eq!(invoices(&client), [""; 0]);
    client.fake.advance_to(trial_end);
    assert_eq!(invoices(&client), ["draft 100 = 100"]);
    let subscription = account.all("subscription")[0].clone();
    assert_eq!(
        (&subscription["status"], &subscription["billing_cycle_anchor"]),
        (&json!("active"), &json!(trial_end))
    );
    assert_eq!(subscription["items"]["data"][0]["current_period_end"], end);
}
