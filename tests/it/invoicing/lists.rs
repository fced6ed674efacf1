//! Lists that show Stripe's objects and our own side by side.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{billing, credit_note, invoice, payment, refund};
use crate::support::objects::{customer, invoice as stripe_invoice};
use crate::support::requests::request;

/// `id` of rows, with the first of the origin before it.
fn ids(rows: &[Value]) -> Vec<String> {
    rows.iter()
        .map(|row| {
            format!("{} {}", row["origin"].as_str().expect("an origin"), row["id"].as_str().expect("an id"))
        })
        .collect()
}

/// Four of Stripe's invoices and four of our own, made by turns.
async fn mixed() -> (World, Vec<String>) {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").org("beta").with(billing("beta"));
    let world = world.start().await;
    world.tell([customer("cus_a").org("acme").created_event()]).await;
    let mut newest_last = Vec::new();
    for n in 0..4 {
        world.turn(&format!("2026-10-1{n}T12:00:00Z"));
        let id = format!("in_{n}");
        let at = world.now();
        let told = stripe_invoice(&id).customer("cus_a").status("open").total(500).created(at);
        world.tell([told.happened("invoice.created").at(at)]).await;
        newest_last.push(format!("stripe {id}"));
        world.turn(&format!("2026-10-1{n}T18:00:00.000001Z"));
        let org = if n == 3 { "beta" } else { "acme" };
        let own = world.send(invoice(org).item("5").finalized()).await.status(201).id();
        newest_last.push(format!("own {own}"));
    }
    (world, newest_last.into_iter().rev().collect())
}

#[tokio::test]
async fn both_origins_are_in_one_list_from_the_newest_on() {
    let (world, all) = mixed().await;
    for limit in [1, 2, 3, 5, 8] {
        assert_eq!(ids(&world.all("/v1/invoices?", limit).await), all, "{limit} a page");
    }
    let only = |origin: &str| all.iter().filter(|id| id.starts_with(origin)).cloned().collect::<Vec<_>>();
    for origin in ["stripe", "own"] {
        for limit in [1, 3] {
            let rows = world.all(&format!("/v1/invoices?origin={origin}"), limit).await;
            assert_eq!(ids(&rows), only(origin));
        }
    }
    // With its lines, in the shape of Stripe's.
    let lines = world.get("/v1/invoices?expand=lines&limit=1").await.status(200);
    assert_eq!(
        lines.pick([
            "data.0.lines.0.amount",
            "data.0.lines.0.unit_amount_decimal",
            "data.0.lines.0.quantity"
        ]),
        json!([500, "500", 1])
    );
    world.get("/v1/invoices?expand=lines&limit=101&origin=own").await.names(400, "limit");
    world.get("/v1/invoices?origin=other").await.names(400, "origin");
}

/// How many of our own rows and of Stripe's a filter keeps.
#[tokio::test]
async fn filters_narrow_both_origins() {
    let (world, all) = mixed().await;
    let own =
        all[1..].iter().find(|id| id.starts_with("own")).expect("one").trim_start_matches("own ").to_owned();
    world.send(payment("acme", 500).for_invoices([&own])).await.status(201);
    world.send(invoice("acme").item("9").currency("usd")).await.status(201);
    for (filter, stripe, ours) in [
        ("status=open", 4, 3),
        ("status=paid", 0, 1),
        ("status=draft", 0, 1),
        ("currency=usd", 4, 1),
        ("currency=eur", 0, 4),
        ("number=INV-2026-000002", 0, 1),
        ("org=acme", 4, 4),
        ("org=beta", 0, 1),
        ("linked=true", 4, 5),
        ("linked=false", 0, 0),
        ("customer=cus_a", 4, 0),
        ("deleted=true", 0, 0),
        ("deleted=false", 4, 5),
        ("account=acct_1", 0, 0),
        ("account=", 4, 5),
        ("livemode=true", 0, 0),
        ("livemode=false", 4, 5),
        ("realms=all", 4, 5),
        ("created_from=2026-10-12T18:00:00.000001Z", 1, 3),
        ("created_before=2026-10-12T18:00:00.000001Z", 3, 2),
        ("issued_from=2026-10-12T00:00:00Z&issued_before=2026-10-13T00:00:00Z", 0, 1),
        ("paid_from=2026-10-13T00:00:00Z", 0, 1),
        ("paid_before=2026-10-13T00:00:00Z", 0, 0),
        ("period_from=2020-01-01T00:00:00Z", 4, 0),
        ("subscription=lsub_none", 0, 0),
    ] {
        let rows = world.all(&format!("/v1/invoices?{filter}"), 2).await;
        let count = |origin: &str| rows.iter().filter(|row| row["origin"] == origin).count();
        assert_eq!((count("stripe"), count("own")), (stripe, ours), "{filter}");
    }
}

/// A look-up shows what the command answered, and the fields that Stripe's objects have.
#[tokio::test]
async fn a_look_up_shows_all_fields_of_our_own() {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").start().await;
    let made = world.send(invoice("acme").item("100").finalized()).await.status(201);
    let paid = world.send(payment("acme", 10_000).with("method", "wallet")).await.status(201);
    let note = world.send(credit_note(&made.id())).await.status(201);
    let back = world.send(refund(&paid.id(), 4000)).await.status(201);
    let org = world.get("/v1/orgs/acme").await.id();
    for (kind, answered, more) in [
        (
            "invoices",
            &made,
            json!({ "collection_method": "send_invoice", "created": "2026-10-10T12:00:00Z",
            "due_at": "2026-10-25T00:00:00Z", "livemode": false, "account": "" }),
        ),
        (
            "payments",
            &paid,
            json!({ "amount_received": 10_000, "outside_stripe": true,
            "payment_method_type": "wallet", "invoice_id": made.id() }),
        ),
        ("credit_notes", &note, json!({ "org": org, "memo": "a test", "invoice_id": made.id() })),
        ("refunds", &back, json!({ "org": org, "kind": "refund", "status": "succeeded" })),
    ] {
        let shown = world.get(&format!("/v1/{kind}/{}", answered.id())).await.status(200);
        let fields = answered.body.as_object().expect("fields");
        // What changed since the answer.
        let later =
            ["status", "amount_paid", "amount_remaining", "paid_at", "amount_refunded", "amount_unused"];
        for (field, value) in fields.iter().filter(|(field, _)| !later.contains(&field.as_str())) {
            assert_eq!(&shown[field.as_str()], value, "{kind} {field}");
        }
        for (field, value) in more.as_object().expect("fields") {
            assert_eq!(&shown[field.as_str()], value, "{kind} {field}: {shown}");
        }
        let listed = world.get(&format!("/v1/{kind}?origin=own")).await.status(200);
        for (field, value) in listed.rows()[0].as_object().expect("fields") {
            if !matches!(field.as_str(), "lines" | "raw" | "customer_id" | "amount_refunded") {
                assert_eq!(&shown[field.as_str()], value, "{kind} {field} in the list");
            }
        }
        for (realm, status) in
            [("account=acct_1", 404), ("livemode=true", 404), ("livemode=false&account=", 200)]
        {
            world.get(&format!("/v1/{kind}/{}?{realm}", answered.id())).await.status(status);
        }
    }
}

/// Payments and refunds are found by the invoice that they are of.
#[tokio::test]
async fn payments_and_returns_are_found_by_their_invoice() {
    let world = World::new().invoiced("acme").start().await;
    let [first, second] = [world.invoiced("acme", "10").await, world.invoiced("acme", "20").await];
    let one = world.send(payment("acme", 1000).for_invoices([&first])).await.status(201).id();
    let two = world.send(payment("acme", 2000).for_invoices([&second])).await.status(201).id();
    let back = world.send(refund(&one, 1000)).await.status(201).id();
    let note = world.send(credit_note(&second)).await.status(201).id();
    for (path, expected) in [
        (format!("/v1/payments?invoice={first}"), json!([])),
        (format!("/v1/payments?invoice={second}"), json!([two])),
        (format!("/v1/refunds?invoice={first}"), json!([back])),
        (format!("/v1/refunds?invoice={second}"), json!([])),
        (format!("/v1/credit_notes?invoice={second}"), json!([note])),
        (format!("/v1/credit_notes?invoice={first}"), json!([])),
        ("/v1/payments?status=succeeded".to_owned(), json!([two, one])),
        ("/v1/payments?status=failed".to_owned(), json!([])),
        ("/v1/payments?charge=ch_1".to_owned(), json!([])),
        ("/v1/refunds?status=pending".to_owned(), json!([])),
        ("/v1/refunds?payment_intent=pi_1".to_owned(), json!([])),
        ("/v1/credit_notes?status=void".to_owned(), json!([])),
    ] {
        assert_eq!(world.get(&path).await.status(200).column("id"), expected, "{path}");
    }
}

/// The pages of a statement go on where the last one ended, whatever the order in which it was booked.
#[tokio::test]
async fn a_statement_is_in_the_order_of_days() {
    let world = World::new().at("2026-10-20T12:00:00Z").invoiced("acme").start().await;
    world.invoiced("acme", "100").await;
    // Recorded today, paid in September and earlier this month.
    for (amount, at) in
        [(1000, "2026-09-30T23:59:59Z"), (2000, "2026-10-05T00:00:00Z"), (500, "2026-10-05T09:00:00Z")]
    {
        world.send(payment("acme", amount).with("paid_at", at)).await.status(201);
    }
    let path = "/v1/orgs/acme/account/statement?currency=eur&from=2026-10-01&before=2026-11-01";
    let whole = world.get(path).await.status(200);
    assert_eq!(
        whole.pick(["from", "before", "opening_balance", "closing_balance"]),
        json!(["2026-10-01", "2026-11-01", -1000, 6500])
    );
    let told = |rows: &[Value]| -> Vec<Value> {
        rows.iter().map(|row| json!([row["day"], row["amount"], row["balance_after"]])).collect()
    };
    let expected = [
        json!(["2026-10-05", -2000, -3000]),
        json!(["2026-10-05", -500, -3500]),
        json!(["2026-10-20", 10_000, 6500]),
    ];
    assert_eq!(told(whole.list("entries")), expected);
    for limit in [1, 2] {
        assert_eq!(told(&world.on(0).all_of(path, "entries", limit).await), expected);
    }
    let none = world.get("/v1/orgs/acme/account/statement?currency=usd").await.status(200);
    assert_eq!(none.pick(["opening_balance", "closing_balance", "entries"]), json!([0, 0, []]));
    // Without days it is the whole account.
    let path = "/v1/orgs/acme/account/statement?currency=eur";
    let all = world.get(path).await.status(200);
    assert_eq!(all.pick(["from", "opening_balance", "closing_balance"]), json!([null, 0, 6500]));
    assert_eq!(all.list("entries").len(), 4, "{all}");
    assert_eq!(all.at("entries.0.balance_after"), -1000);
    world.get(&format!("{path}&from=2026-10-02&before=2026-10-02")).await.names(400, "before");
    world.get("/v1/orgs/acme/account/statement").await.names(400, "currency");
    world
        .send(request(reqwest::Method::GET, format!("{path}&from=yesterday"), Value::Null))
        .await
        .names(400, "from");
}
