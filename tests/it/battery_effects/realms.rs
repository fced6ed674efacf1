//! Which realms act, which sales are ignored, how many packs were bought, and what payments show.

use serde_json::{Value, json};

use super::build::{DAY, Line, Run, month};
use super::{battery, furnish, shop};
use crate::support::objects::price;
use crate::support::{Daemon, Database, World};

const TEST_ONLY: &[(&str, &str)] = &[("COULOMB_STRIPE_ACCOUNTS", "")];

fn of_account(mut event: Value, account: &str) -> Value {
    event["account"] = account.into();
    event
}

/// A database with a purchase of `ours` in test mode and one of `theirs` in a connected account. Neither
/// realm acts: the daemon acts in live mode.
async fn foreign_purchases() -> World {
    let database = Database::new();
    furnish(&database, &["ours".to_owned(), "theirs".to_owned()]);
    let live = [("COULOMB_STRIPE_MODE", "live"), ("COULOMB_STRIPE_ACCOUNTS", "")];
    let setup = World::over(database).scopes("admin,billing:read,billing:write");
    let world = live.iter().fold(setup, |setup, (name, value)| setup.setting(name, value)).start().await;
    let (ours, theirs) = (Run::of("ours"), Run::of("theirs"));
    world
        .tell([
            ours.customer(),
            ours.subscription("active", "price_basic"),
            ours.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
            ours.invoice_payment("a", 2000),
        ])
        .await;
    let credit = json!({ "battery_units": "1000000", "org_id": "theirs" });
    let far =
        [theirs.customer(), theirs.subscription("active", "price_basic"), theirs.intent("x", 50, &credit)];
    world.tell(far.map(|event| of_account(event, "acct_far"))).await;
    world
}

/// Only live mode acts, so purchases in test mode and in an unnamed connected account do nothing. Lists, sums
/// and exports leave them out.
#[tokio::test]
async fn what_is_not_named_is_mirrored_and_does_nothing() {
    let world = foreign_purchases().await;
    for name in ["ours", "theirs"] {
        assert_eq!(battery(&world, name), (String::new(), Vec::new()), "{name}");
        let entitled = world.get(&format!("/v1/orgs/{name}/entitlements")).await;
        assert_eq!(entitled["plan"], Value::Null, "{name}");
    }
    assert_eq!(world.run(&["battery", "waiting"]), "", "no payment of a realm that does not act waits");
    // Left out, unless the request asks for them.
    for (path, rows) in [
        ("/v1/invoices", 0),
        ("/v1/invoices?livemode=false", 1),
        ("/v1/invoices?realms=all", 1),
        ("/v1/customers?realms=all", 2),
        ("/v1/customers?livemode=false", 1),
        ("/v1/customers?livemode=false&account=acct_far", 1),
        ("/v1/customers?account=acct_far", 0),
        ("/v1/payments", 0),
    ] {
        assert_eq!(world.get(path).await.status(200).rows().len(), rows, "{path}");
    }
    for (query, rows) in
        [("", 0), ("&realms=all", 2), ("&livemode=false", 1), ("&livemode=false&account=acct_far", 1)]
    {
        let totals = world.get(&format!("/v1/invoices/export/totals?of=payments{query}")).await;
        assert_eq!(totals["rows"], rows, "{query}: {totals}");
    }
    world.get("/v1/invoices?realms=some").await.status(400);
    let mut doctor = world.command(&["doctor"]);
    doctor.env("COULOMB_STRIPE_MODE", "live").env("COULOMB_STRIPE_ACCOUNTS", "");
    let told = String::from_utf8(doctor.output().expect("runs").stdout).expect("UTF-8");
    let line = told.lines().find(|line| line.contains("realms:")).expect("a line").to_owned();
    for part in ["note", "acct_far in test mode", "our own account in test mode"] {
        assert!(line.contains(part), "{line}");
    }
    assert!(line.starts_with("note"), "{line}");
}

/// Ends the world's daemon and starts one with other settings. Waits until that one has an empty inbox.
async fn restarted(world: &mut World, settings: &[(&str, &str)]) {
    assert_eq!(world.daemons[0].stop(), Some(0));
    world.daemons[0] = Daemon::with(&world.database, settings);
    world.daemon().projected().await;
}

/// A realm that the settings name acts, also for earlier payments. Its grants stay when it no longer acts.
#[tokio::test]
async fn a_realm_that_is_named_acts_for_what_came_before() {
    let mut world = foreign_purchases().await;
    let balances = |world: &World| [world.balance_of("ours"), world.balance_of("theirs")];
    restarted(&mut world, TEST_ONLY).await;
    assert_eq!(balances(&world), ["1000", ""]);
    let entitled = world.get("/v1/orgs/ours/entitlements").await;
    assert_eq!(entitled.at("plan.id"), "basic", "{entitled}");
    // The connected account too, once the settings name it.
    restarted(&mut world, &[("COULOMB_STRIPE_ACCOUNTS", "acct_far")]).await;
    assert_eq!(balances(&world), ["1000", "1000000"]);
    // A refund of a granted payment still counts.
    restarted(&mut world, TEST_ONLY).await;
    let refund = Run::of("theirs").refund("1", "x", 25, "succeeded", 0);
    world.tell([of_account(refund, "acct_far")]).await;
    assert_eq!(world.balance_of("theirs"), "500000");
    world.effects_are_sound();
    let mut verify = world.command(&["verify"]);
    assert!(verify.env("COULOMB_STRIPE_ACCOUNTS", "").output().expect("runs").status.success());
}

/// Why payments wait, sorted: the daemon handles deliveries in any order.
async fn reasons(world: &World) -> Vec<String> {
    let rows = world.waiting().await;
    let mut reasons: Vec<_> =
        rows.iter().map(|row| row["reason"].as_str().expect("one").to_owned()).collect();
    reasons.sort();
    reasons
}

/// A rule ignores another product of the account, so none of its payments wait. Without the rule they do.
#[tokio::test]
async fn what_another_product_sells_is_ignored_by_rule() {
    let world = shop(&["i", "j"]).start().await;
    let both: [Line; 2] = [month("price_shirts", 900), month("price_basic", 2000)];
    let bought = |tag: &str| {
        let run = Run::of(tag);
        [run.paid("a", "subscription_create", 0, &both), run.linked("plink_shirts")]
    };
    world.tell_at_once([Run::of("i").customer(), Run::of("j").customer()]).await;
    world.tell(bought("i")).await;
    assert_eq!(reasons(&world).await, ["unknown_pack", "unknown_price"]);
    let rules = "/v1/battery/effects/ignored";
    let rule = |what: &str| {
        let path = format!("{rules}/{what}");
        let world = &world;
        async move { world.put(&path, json!({ "reason": "the shop" })).await }
    };
    rule("colour/x").await.names(400, "kind");
    for what in ["product/prod_price_shirts", "payment_link/plink_shirts", "product/prod_price_basic"] {
        assert_eq!(rule(what).await.status(200)["reason"], "the shop");
    }
    // Payments that wait already, and later ones. A payment that buys something here is never ignored.
    world.tell(bought("j")).await;
    assert_eq!(reasons(&world).await, Vec::<String>::new());
    assert_eq!([world.balance_of("i"), world.balance_of("j")], ["1000", "1000"]);
    assert_eq!(world.get(&format!("{rules}?limit=2")).await.rows().len(), 2);
    let audited = world.number("SELECT count(*) FROM audit_log WHERE action = 'battery_effect.ignore'");
    assert_eq!(audited, 3);
    let shirts = format!("{rules}/product/prod_price_shirts");
    world.delete(&shirts).await.status(200);
    world.delete(&shirts).await.status(404);
    world.daemon().projected().await;
    assert_eq!(reasons(&world).await, ["unknown_price", "unknown_price"]);
    let own = world.database.key("billing:read", Some("org_i"));
    world.by(&own).get(rules).await.status(403);
    world.effects_are_sound();
}

/// Five packs by payment link: the price says how many once it is known; else the payment waits for an
/// operator.
#[tokio::test]
async fn as_many_packs_are_granted_as_were_bought() {
    let world = shop(&["u", "v", "w"]).start().await;
    world.execute(
        "INSERT INTO battery_pack_payment_links (payment_link_id, pack_id) VALUES ('plink_5', 'pack-500')",
    );
    let sold = |tag: &str, subtotal: i64| {
        let run = Run::of(tag);
        let mut session = run.linked("plink_5");
        let object = &mut session["data"]["object"];
        (object["amount_subtotal"], object["amount_total"]) = (subtotal.into(), subtotal.into());
        [run.customer(), session]
    };
    world.tell_at_once(sold("u", 5000)).await;
    let rows = world.waiting().await;
    assert_eq!((rows[0]["reason"].as_str(), rows.len()), (Some("unknown_quantity"), 1), "{rows:?}");
    let once = price("price_pack", "prod_pack", 1000).with("type", "one_time").with("recurring", Value::Null);
    world.deliver(once.created_event()).await;
    world.tell_at_once([sold("v", 3000), sold("w", 2500)].concat()).await;
    let rows = world.waiting().await;
    assert_eq!((rows[0]["customer_id"].as_str(), rows.len()), (Some("cus_w"), 1), "{rows:?}");
    let path = format!("/v1/battery/effects/waiting/{}/assign", rows[0]["id"]);
    for quantity in [0, -2, 5_000_000] {
        world.post(&path, json!({ "quantity": quantity })).await.names(400, "quantity");
    }
    world.post(&path, json!({ "quantity": 2 })).await.status(202);
    world.daemon().projected().await;
    for (name, balance) in [("u", "2500"), ("v", "1500"), ("w", "1000")] {
        assert_eq!(world.balance_of(name), balance, "{name}");
    }
    world.effects_are_sound();
}

type Events = fn(&Run) -> Vec<Value>;

/// A name, the events beside the payment, and what the payment then shows: refunded amount, disputed.
const COMES_BACK: [(&str, Events, (i64, bool)); 9] = [
    ("a refund alone", |run| vec![run.refund("1", "x", 500, "succeeded", 0)], (500, false)),
    ("one that is under way", |run| vec![run.refund("1", "x", 500, "pending", 0)], (500, false)),
    (
        "one that failed",
        |run| vec![run.refund("1", "x", 500, "pending", 0), run.refund("1", "x", 500, "failed", 3)],
        (0, false),
    ),
    (
        "the charge tells of one that has failed since",
        |run| {
            let failed = run.refund("1", "x", 500, "failed", 3);
            vec![run.charge("x", 2000), run.refunded("x", 2000, 500), failed]
        },
        (0, false),
    ),
    (
        "the charge tells of two, one of which is known",
        |run| {
            let known = run.refund("1", "x", 500, "succeeded", 0);
            vec![run.charge("x", 2000), run.refunded("x", 2000, 700), known]
        },
        (700, false),
    ),
    ("the charge alone", |run| vec![run.charge("x", 2000), run.refunded("x", 2000, 700)], (700, false)),
    ("a dispute alone", |run| vec![run.dispute("x", "needs_response", &[-2000], 1)], (0, true)),
    ("one that is won", |run| vec![run.dispute("x", "won", &[-2000, 2000], 1)], (0, true)),
    ("an inquiry", |run| vec![run.dispute("x", "warning_needs_response", &[], 1)], (0, false)),
];

/// The payment of this run shows this.
async fn payment_says(world: &World, tag: &str, (refunded, disputed): (i64, bool)) {
    let payment = world.get(&format!("/v1/payments/pi_x_{tag}")).await.status(200);
    assert_eq!(payment.pick(["amount_refunded", "disputed"]), json!([refunded, disputed]), "{payment}");
}

async fn total_in_dollars(world: &World, of: &str, field: &str) -> Value {
    let totals = world.get(&format!("/v1/invoices/export/totals?of={of}")).await;
    totals.at(&format!("currencies.usd.{field}")).clone()
}

/// How much of a payment was refunded and disputed, with and without events of its charge.
#[tokio::test]
async fn payments_know_what_came_back_by_refunds_and_disputes() {
    let world = World::new().scopes("billing:read").start().await;
    let charge_alone = |run: &Run| {
        let mut refund = run.refund("1", "x", 300, "succeeded", 0);
        refund["data"]["object"]["payment_intent"] = Value::Null;
        refund
    };
    for (n, (_, events, _)) in COMES_BACK.iter().enumerate() {
        let run = Run::of(&format!("y{n}"));
        let mut events = events(&run);
        events.push(run.intent("x", 2000, &json!({})));
        // For half of them the payment comes first.
        if n % 2 == 0 {
            events.reverse();
        }
        for event in events {
            world.deliver(event).await;
        }
    }
    // A refund that names only its charge, before and after the charge.
    let (before, after) = (Run::of("before"), Run::of("after"));
    world.tell([charge_alone(&before)]).await;
    let paid = |run: &Run| [run.intent("x", 2000, &json!({})), run.charge("x", 2000)];
    world.tell_at_once([paid(&before), paid(&after)].concat()).await;
    world.tell([charge_alone(&after)]).await;
    let mut sum = 0;
    for (n, (_, _, expected)) in COMES_BACK.iter().enumerate() {
        payment_says(&world, &format!("y{n}"), *expected).await;
        sum += expected.0;
    }
    for tag in ["before", "after"] {
        payment_says(&world, tag, (300, false)).await;
        sum += 300;
    }
    assert_eq!(total_in_dollars(&world, "payments", "amount_refunded").await, sum);
    assert_eq!(total_in_dollars(&world, "refunds", "amount").await, 500 + 500 + 500 + 300 + 300);
    assert!(world.run(&["verify"]).is_empty());
}

/// A payment outside Stripe, and the invoice that it pays. A preview is not an invoice.
#[tokio::test]
async fn payments_outside_stripe_pay_their_invoice() {
    let world = World::new().scopes("billing:read").start().await;
    let run = Run::of("cash");
    let mut record = run.invoice_payment("a", 2000);
    record["data"]["object"]["payment"] = json!({ "type": "payment_record", "payment_record": "pr_cash" });
    let mut preview = run.paid("b", "upcoming", 0, &[month("price_basic", 2000)]);
    preview["type"] = "invoice.upcoming".into();
    preview["data"]["object"]["id"] = "upcoming_in_cash".into();
    world.tell_at_once([run.paid("a", "manual", 0, &[]), record, preview]).await;
    let payment = world.get("/v1/payments/pr_cash").await;
    assert_eq!(payment.pick(["outside_stripe", "amount_received"]), json!([true, 2000]), "{payment}");
    assert_eq!(world.get("/v1/invoices/in_a_cash").await["paid_out_of_band"], true);
    let from = chrono::DateTime::from_timestamp(super::build::start() - DAY, 0).expect("a time");
    let path = format!("/v1/invoices?created_from={}", from.format("%Y-%m-%dT%H:%M:%SZ"));
    assert_eq!(world.get(&path).await.rows().len(), 1);
    assert!(world.run(&["verify"]).is_empty());
}
