//! Each kind of message is written by its real cause, as the catalogue says, and never twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use coulomb::messages::kinds::{self, KINDS};
use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{billing, invoice as own_invoice, on_invoice, payment, seller, tax_rate};
use crate::support::invoicing::{refund as give_back, reversal};
use crate::support::objects::{
    DAY, Event, OCTOBER, charge, customer, invoice, object, payment_intent, refund, subscription,
};
use crate::support::requests::{
    Request, debt_limit, grant, meter, plan, request, subscribe, subscription_command, usage,
};
use crate::support::world::until;

/// Kinds that Stripe's webhooks cause.
const OF_STRIPE: &[&str] = &[
    "battery.clawed_back",
    "battery.granted",
    "dispute.closed",
    "dispute.created",
    "effect.waiting",
    "invoice.finalized",
    "invoice.paid",
    "payment.failed",
    "payment.refunded",
    "plan.changed",
    "subscription.cancelled",
    "subscription.created",
    "subscription.trial_ending",
    "subscription.updated",
];
/// Kinds of local subscriptions and own invoices.
const OF_OUR_OWN: &[&str] = &[
    "invoice.finalized",
    "invoice.paid",
    "invoice.reminder",
    "month.closed",
    "payment.refunded",
    "payment.reversed",
    "plan.changed",
    "subscription.cancelled",
    "subscription.created",
    "subscription.expired",
    "subscription.trial_ending",
    "subscription.updated",
];
/// Kinds of usage and batteries.
const OF_USAGE: &[&str] = &[
    "battery.granted",
    "battery.lapsed",
    "battery.low",
    "battery.spent",
    "drift.found",
    "quota.threshold_reached",
    "usage.unpriced",
];
/// Kinds that `org_standing` sees.
const OF_ORGS: &[&str] = &["org.resumed", "org.suspended"];
/// Kinds that `messages::retries` and `messages::standard` see.
const OF_ENDPOINTS: &[&str] = &["endpoint.disabled", "endpoint.test"];
/// Kinds that `charging::nightly` sees.
const OF_CHARGES: &[&str] = &["charge.failed"];

#[test]
fn every_kind_has_a_test_of_its_cause() {
    let lists = [OF_STRIPE, OF_OUR_OWN, OF_USAGE, OF_ORGS, OF_ENDPOINTS, OF_CHARGES];
    let tested: BTreeSet<&str> = lists.into_iter().flatten().copied().collect();
    let all: BTreeSet<&str> = KINDS.iter().map(|kind| kind.name).collect();
    assert_eq!(tested, all);
}

/// All messages of a world, by kind. Each must have the fields of its example.
async fn told(world: &World) -> BTreeMap<String, Vec<Value>> {
    let examples: BTreeMap<&str, Value> =
        kinds::shown().into_iter().map(|kind| (kind.r#type, kind.example)).collect();
    let mut told: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for message in world.get("/v1/messages?after=start&limit=500").await.ok().rows() {
        let kind = message["type"].as_str().expect("a type").to_owned();
        let fields = |data: &Value| -> BTreeSet<String> {
            data.as_object().expect("an object").keys().cloned().collect()
        };
        let (has, mut expected) = (fields(&message["data"]), fields(&examples[&*kind]));
        match (&*kind, message["data"]["origin"].as_str()) {
            ("subscription.created" | "subscription.updated", Some("local")) => {
                expected.extend(["plan".to_owned(), "version".to_owned()]);
            }
            ("subscription.cancelled", Some("stripe")) => {
                expected = fields(&examples["subscription.updated"]);
            }
            _ => {}
        }
        assert_eq!(has, expected, "{message}");
        told.entry(kind).or_default().push(message.clone());
    }
    told
}

/// Waits until all these kinds were told, and no others.
async fn tells(world: &World, expected: &[&str]) -> BTreeMap<String, Vec<Value>> {
    let expected: BTreeSet<&str> = expected.iter().copied().collect();
    let started = Instant::now();
    loop {
        let written = world.value("SELECT string_agg(DISTINCT type, ' ') FROM outbox_messages");
        let waiting = world.number("SELECT count(*) FROM outbox_messages WHERE position IS NULL");
        let written = written.unwrap_or_default();
        let missing: Vec<_> =
            expected.iter().filter(|kind| !written.split(' ').any(|one| one == **kind)).collect();
        if waiting == 0 && missing.is_empty() {
            break;
        }
        assert!(started.elapsed() < Duration::from_secs(120), "{missing:?} are missing in {written}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let told = told(world).await;
    assert_eq!(told.keys().map(String::as_str).collect::<BTreeSet<_>>(), expected);
    told
}

fn data<'a>(told: &'a BTreeMap<String, Vec<Value>>, kind: &str) -> &'a Value {
    &told[kind][0]["data"]
}

/// A month of a paying customer: trial, payment, a failed one, a refund, a dispute that is lost, the end; and
/// a customer without an org.
fn months_events() -> Vec<Event> {
    let paid = invoice("in_1").status("paid").issued(OCTOBER + 100);
    let dispute = |status: &str| {
        object("dispute", "du_1")
            .status(status)
            .amount(700)
            .with("charge", "ch_1")
            .with("reason", "fraudulent")
            .with("payment_intent", "pi_1")
    };
    let trial = |status: &str| {
        subscription("sub_1").status(status).with("trial_start", OCTOBER).with("trial_end", OCTOBER + 2 * DAY)
    };
    let failed = charge("ch_2").status("failed").with("failure_code", "card_declined");
    vec![
        customer("cus_1").org("acme").created_event(),
        trial("trialing").created_event(),
        invoice("in_1").status("open").happened("invoice.finalized"),
        paid.happened("invoice.paid").at(OCTOBER + 2),
        payment_intent("pi_1").paid_by("ch_1").happened("payment_intent.succeeded"),
        charge("ch_1").with("payment_intent", "pi_1").created_event(),
        object("invoice_payment", "inpay_1")
            .status("paid")
            .with("invoice", "in_1")
            .with("amount_paid", 2000)
            .with("payment", json!({ "type": "payment_intent", "payment_intent": "pi_1" }))
            .happened("invoice_payment.paid"),
        failed.happened("charge.failed"),
        refund("re_1", "ch_1", 500).with("payment_intent", "pi_1").created_event(),
        dispute("needs_response").created_event(),
        dispute("lost").happened("charge.dispute.closed").at(OCTOBER + 3),
        trial("active").happened("customer.subscription.updated").at(OCTOBER + 4),
        customer("cus_2").created_event(),
        invoice("in_2").customer("cus_2").status("paid").bills("sub_2").happened("invoice.paid"),
    ]
}

async fn shop() -> World {
    let pro = plan("pro").prices(["price_pro"]).with("battery_units", "1000");
    World::new()
        .at("2025-10-09T10:00:00Z")
        .scopes("admin,billing:read,billing:write,usage:read")
        .org("acme")
        .with(pro)
        .start()
        .await
}

async fn is_told(world: &World, kind: &str) {
    let sql = format!("SELECT count(*) FROM outbox_messages WHERE type = '{kind}'");
    until(kind, || async { world.number(&sql) == 1 }).await;
}

#[tokio::test]
async fn stripes_webhooks_cause_messages_in_any_order_and_once() {
    let mut keys = Vec::new();
    for backwards in [false, true] {
        let world = shop().await;
        let mut events = months_events();
        if backwards {
            events.reverse();
        }
        if backwards {
            world.tell(events.clone()).await;
        } else {
            // A message tells the state that the worker finds, so it must see each.
            let (begin, rest) = events.split_at(2);
            world.tell(begin.to_vec()).await;
            is_told(&world, "subscription.created").await;
            world.tell(rest.to_vec()).await;
            is_told(&world, "subscription.updated").await;
        }
        let ended = subscription("sub_1")
            .status("canceled")
            .with("ended_at", OCTOBER + 5)
            .happened("customer.subscription.deleted")
            .at(OCTOBER + 5);
        if !backwards {
            // A worker looks for trials once a minute; here it has not looked before.
            world.execute("UPDATE subscriptions SET status = 'trialing'");
            coulomb::billing::told::write_trial_endings(&mut world.platform(), world.clock().now())
                .expect("written");
            world.execute("UPDATE subscriptions SET status = 'active'");
            world.tell([ended]).await;
            let told = tells(&world, OF_STRIPE).await;
            assert_eq!(data(&told, "payment.refunded")["amount"], 500);
            assert_eq!(data(&told, "dispute.closed")["status"], "lost");
            assert_eq!(data(&told, "payment.failed")["failure_code"], "card_declined");
            assert_eq!(data(&told, "invoice.paid")["invoice"], "in_1");
            assert_eq!(data(&told, "effect.waiting")["id"], "in_2");
            assert_eq!(data(&told, "battery.granted")["amount"], "1000");
            let plans: Vec<_> = told["plan.changed"].iter().map(|one| &one["data"]["plan"]).collect();
            assert_eq!(plans, [&json!("pro"), &Value::Null]);
            // The same events again, and everything projected anew: nothing more is written.
            let count = world.number("SELECT count(*) FROM outbox_messages");
            world
                .tell(events.into_iter().enumerate().map(|(n, event)| event.id(&format!("evt_again_{n}"))))
                .await;
            world.run(&["rebuild", "mirrors", "--yes"]);
            world.daemon().projected().await;
            tokio::time::sleep(Duration::from_millis(300)).await;
            let kinds = "SELECT string_agg(concat(type, ' ', dedupe_key), '\n') FROM outbox_messages";
            let after = world.number("SELECT count(*) FROM outbox_messages");
            assert_eq!(after, count, "{}", world.value(kinds).unwrap_or_default());
            // A customer that gets its org later: what happened in these days is told then.
            world.put("/v1/orgs/acme/stripe_customers/cus_2", json!({})).await.ok();
            world.daemon().projected().await;
            until("the late link is told", || async {
                world
                    .number("SELECT count(*) FROM outbox_messages WHERE dedupe_key LIKE '%in_2:invoice.paid'")
                    == 1
            })
            .await;
        }
        is_told(&world, "dispute.closed").await;
        is_told(&world, "payment.refunded").await;
        let of_objects = "SELECT string_agg(dedupe_key, ' ' ORDER BY dedupe_key) FROM outbox_messages
            WHERE dedupe_key LIKE 'stripe:%' AND dedupe_key NOT LIKE 'stripe:subscription:%'
                AND dedupe_key NOT LIKE '%in_2%'";
        keys.push(world.value(of_objects).expect("messages"));
    }
    assert_eq!(keys[0], keys[1]);
}

fn command(command: &str, body: Value) -> Request {
    subscription_command("acme", command, body)
}

#[tokio::test]
async fn local_subscriptions_and_own_invoices_cause_messages() {
    let reminding = seller("blazz").with("settings.reminder_days", json!([1]));
    let world = World::new()
        .at("2026-03-01T10:00:00Z")
        .scopes("admin,billing:read,billing:write,usage:read")
        .org("acme")
        .with(tax_rate("zero", "0"))
        .with(reminding)
        .with(billing("acme"))
        .with(plan("pro").with("trial_days", 2))
        .with(plan("max"))
        .start()
        .await;
    world.send(subscribe("acme", "pro")).await.status(201);
    // Within three days of its end, and so at once.
    let mut conn = world.platform();
    coulomb::billing::told::write_trial_endings(&mut conn, world.clock().now()).expect("written");
    coulomb::billing::told::write_trial_endings(&mut conn, world.clock().now()).expect("nothing new");
    world.turn("2026-03-01T10:00:01Z");
    world.send(command("activate", json!({}))).await.ok();
    world.turn("2026-03-01T10:00:02Z");
    world.send(command("change", json!({ "plan": "max" }))).await.ok();
    world.turn("2026-03-01T10:00:03Z");
    world.send(command("cancel", json!({ "at_period_end": false }))).await.ok();
    let open = world.send(own_invoice("acme").item("10")).await.status(201).id();
    world.send(on_invoice(&open, "finalize")).await.ok();
    let paid = world.send(own_invoice("acme").item("10").finalized()).await.status(201).id();
    let money = world.send(payment("acme", 1000).for_invoices([&paid])).await.status(201).id();
    world.send(give_back(&money, 100)).await.status(201);
    world.send(reversal(&money, 200)).await.status(201);
    world.turn("2026-03-01T10:00:04Z");
    world.send(subscribe("acme", "pro").with("paid", true)).await.status(201);
    world.turn("2026-05-20T10:00:00Z");
    let mut ended = 0;
    until("the subscription has ended", || {
        // The worker looks once a minute of real time.
        let as_of = coulomb::billing::org_plan::AsOf { now: world.clock().now(), grace_days: 14 };
        ended += coulomb::plans::subscriptions::end_due(&mut world.platform(), as_of).expect("ended");
        let is_told =
            world.number("SELECT count(*) FROM outbox_messages WHERE type = 'subscription.expired'");
        async move { is_told == 1 }
    })
    .await;
    world.post("/v1/closings", json!({ "month": "2026-03" })).await.status(200);
    let told = tells(&world, OF_OUR_OWN).await;
    let plans: Vec<_> = told["plan.changed"].iter().map(|one| one["data"]["plan"].clone()).collect();
    assert_eq!(plans, [json!("pro"), json!("max"), Value::Null, json!("pro"), Value::Null]);
    assert_eq!(told["subscription.trial_ending"].len(), 1);
    assert_eq!(data(&told, "subscription.created")["status"], "trial");
    assert_eq!(data(&told, "invoice.paid")["invoice"], json!(paid));
    assert_eq!(data(&told, "payment.reversed")["amount"], 200);
    assert_eq!(
        (&told["month.closed"][0]["org"], &data(&told, "month.closed")["month"]),
        (&Value::Null, &json!("2026-03"))
    );
    let object = world.value(
        "SELECT concat_ws(' ', object ->> 'id', jsonb_array_length(object -> 'lines')) FROM outbox_messages
         WHERE type = 'invoice.paid'",
    );
    assert_eq!(object, Some(format!("{paid} 1")));
}

#[tokio::test]
async fn usage_and_batteries_cause_messages() {
    let rates = json!([{ "when": { "model": "old" }, "unit_cost": "0.01", "battery_units": "1" }]);
    let world = World::new()
        .scopes("admin,billing:read,billing:write,usage:read,usage:write")
        .org("acme")
        .with(meter("tokens").dimensions(["model"]))
        .prices(rates)
        .quota(1000)
        .with(debt_limit("acme", 50))
        .start()
        .await;
    let day = chrono::Utc::now() + chrono::TimeDelta::seconds(3);
    world.send(grant("acme", 7).with("expires_at", day.to_rfc3339())).await.status(201);
    world.send(grant("acme", 100)).await.status(201);
    until("what expired is posted", || async {
        world.number("SELECT count(*) FROM outbox_messages WHERE type = 'battery.lapsed'") == 1
    })
    .await;
    let spend = |n| usage("acme", "tokens").dimension("model", "old").quantity(n);
    world.used(spend(75)).await;
    let low = "SELECT count(*) FROM outbox_messages WHERE type IN ('battery.low', 'battery.spent')";
    assert_eq!(world.number(low), 0);
    world.used(spend(10)).await;
    assert_eq!(world.number(low), 1);
    world.used(spend(5)).await;
    assert_eq!(world.number(low), 1, "low is told once");
    world.used(spend(12)).await;
    assert_eq!(world.number(low), 2);
    world.used(usage("acme", "tokens").dimension("model", "new").quantity(900)).await;
    let quota = request(
        reqwest::Method::POST,
        "/v1/quotas",
        json!({ "org": "acme", "meter": "tokens",
        "period": "month", "limit": "100", "thresholds": ["80"] }),
    );
    world.send(quota).await.status(201);
    world.used(spend(1)).await;
    world.execute("UPDATE daily_summaries SET quantity = quantity + 1");
    for _ in 0..2 {
        let found = world.command(&["verify"]).output().expect("it runs");
        assert!(!found.status.success());
    }
    let told = tells(&world, OF_USAGE).await;
    assert_eq!(data(&told, "battery.low")["balance"], "15");
    assert_eq!(data(&told, "battery.spent")["balance"], "-2");
    assert_eq!(data(&told, "battery.lapsed")["amount"], "7");
    assert_eq!(told["battery.granted"].len(), 2);
    assert!(told["drift.found"].iter().any(|one| one["data"]["check"] == "usage"), "{told:?}");
    let of_verify = told["drift.found"].iter().filter(|one| one["data"]["check"] == "usage").count();
    assert_eq!(of_verify, 1, "the same differences are told once");
}

/// `docs/messages.md` lists the catalogue. Run it with `UPDATE_EXPECT=1` to write the list again.
#[tokio::test]
async fn the_documents_and_the_route_show_the_catalogue() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/messages.md");
    let text = std::fs::read_to_string(&path).expect("readable");
    let (start, end) = ("<!-- kinds: written by a test -->\n", "<!-- end of kinds -->\n");
    let (before, rest) = text.split_once(start).expect("the beginning of the list");
    let (listed, after) = rest.split_once(end).expect("the end of the list");
    let list: String = kinds::shown()
        .iter()
        .map(|kind| {
            let example = serde_json::to_string_pretty(&kind.example).expect("JSON");
            let object = kind.object.map_or(String::new(), |object| format!(" `object`: {object}."));
            format!("\n### `{}`\n\n{}{object}\n\n```json\n{example}\n```\n", kind.r#type, kind.meaning)
        })
        .collect();
    let list = format!("{list}\n");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, format!("{before}{start}{list}{end}{after}")).expect("written");
    } else {
        assert_eq!(listed, list, "run this test with UPDATE_EXPECT=1");
    }
    let world = World::new().start().await;
    let shown = world.get("/v1/message_kinds").await.ok();
    let names: Vec<Value> = KINDS.iter().map(|kind| kind.name.into()).collect();
    assert_eq!(shown.column("type"), json!(names));
}
