//! What finance reads: filters, pages, look-ups, and which rows a key may see.

mod books;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::World;
use crate::support::objects::{Event, OCTOBER, Object, invoice, object, price, product, subscription};
use crate::support::requests::{plan, request};
use books::{BOOKS, intent, key_of_acme, list, platform, refund, three_books};

#[tokio::test]
async fn an_org_sees_its_own_books_and_the_platform_all() {
    let world = three_books().await;
    check_books(&world).await;
    // Tests the code without the database's row-level security.
    world.execute(
        "DO $$ DECLARE relation regclass; BEGIN
         FOR relation IN SELECT oid FROM pg_class WHERE relrowsecurity LOOP
             EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', relation);
         END LOOP; END $$",
    );
    check_books(&world).await;
}

async fn check_books(world: &World) {
    let [acme, bolt] = [world.get("/v1/orgs/acme").await.id(), world.get("/v1/orgs/bolt").await.id()];
    let key = key_of_acme(world);
    let (all, own) = (world.on(0), world.by(&key));
    for (route, prefixes) in BOOKS {
        let of = |customer: &str| {
            let mut ids: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{customer}")).collect();
            ids.sort();
            ids
        };
        assert_eq!(list(all, route).await.len(), 3 * prefixes.len(), "{route}");
        assert_eq!(list(all, &format!("{route}?org={acme}")).await, of("cus_a"), "{route} of an org");
        assert_eq!(list(all, &format!("{route}?linked=false")).await, of("cus_c"), "{route} unlinked");
        let linked = list(all, &format!("{route}?linked=true")).await;
        assert_eq!(linked.len(), 2 * prefixes.len(), "{route} linked");
        assert_eq!(list(own, route).await, of("cus_a"), "{route} with the org's key");
        own.get(&format!("/v1/{route}?org={bolt}")).await.names(404, "org");
        assert_eq!(list(own, &format!("{route}?linked=false")).await, [""; 0], "{route} of nobody");
        if route != "customers" {
            let its = list(all, &format!("{route}?customer=cus_b")).await;
            assert_eq!(its, of("cus_b"), "{route} of a customer");
        }
        for (customer, org) in [("cus_a", json!(acme)), ("cus_b", json!(bolt)), ("cus_c", Value::Null)] {
            for id in of(customer) {
                let path = format!("/v1/{route}/{id}");
                let found = all.get(&path).await.status(200);
                assert_eq!(found.pick(["id", "org"]), json!([id, org]), "{path}");
                if route != "customers" {
                    assert_eq!(found["customer_id"], customer, "{path}");
                }
                own.get(&path).await.status(if customer == "cus_a" { 200 } else { 404 });
            }
        }
    }
}

/// The database shows an org only its rows, even if the code does not filter.
#[tokio::test]
async fn row_level_security_hides_what_a_query_forgets_to() {
    let world = three_books().await;
    let acme = world.number("SELECT org_id FROM orgs WHERE external_id = 'acme'");
    let mut conn = world.owner();
    conn.batch_execute(&format!("SET ROLE coulomb_org; SET coulomb.org_id = '{acme}'"))
        .expect("takes on the org");
    let tables = [
        ("customers", 1),
        ("subscriptions", 1),
        ("subscription_items", 1),
        ("invoices", 1),
        ("invoice_lines", 1),
        ("payment_intents", 1),
        ("charges", 2),
        ("invoice_payments", 1),
        ("payments", 3),
        ("refunds", 3),
        ("disputes", 1),
        ("credit_notes", 1),
        ("credit_note_lines", 1),
        ("stripe_customer_links", 1),
        ("orgs", 1),
    ];
    for (table, own) in tables {
        let all = world.number(&format!("SELECT count(*) FROM {table}"));
        assert!(all > own, "{table} has rows of others");
        let seen: i64 = diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(&format!(
            "(SELECT count(*) FROM {table})"
        )))
        .get_result(&mut conn)
        .expect("counts");
        assert_eq!(seen, own, "{table}");
    }
    for table in ["stripe_inbox", "stripe_objects"] {
        assert!(conn.batch_execute(&format!("SELECT FROM {table}")).is_err(), "an org may not read {table}");
    }
}

#[tokio::test]
async fn what_is_linked_later_appears_then() {
    let world = three_books().await;
    let key = key_of_acme(&world);
    let (all, own) = (world.on(0), world.by(&key));
    let acme = world.get("/v1/orgs/acme").await.id();
    let link = "/v1/orgs/acme/stripe_customers/cus_c";
    world.send(request(Method::PUT, link, Value::Null)).await.status(200);
    for (route, prefixes) in BOOKS {
        assert_eq!(list(own, route).await.len(), 2 * prefixes.len(), "{route}");
        assert_eq!(list(all, &format!("{route}?linked=false")).await, [""; 0], "{route}");
        let path = format!("/v1/{route}/{}cus_c", prefixes[0]);
        assert_eq!(own.get(&path).await["org"], acme, "{path}");
    }
    world.delete(link).await;
    for (route, prefixes) in BOOKS {
        assert_eq!(list(own, route).await.len(), prefixes.len(), "{route}");
    }
}

/// The event that an object was created, at the second of its creation.
fn new(object: Object) -> Event {
    object.created_event().at(OCTOBER)
}

/// Invoices, products, prices, subscriptions and a payment, each different in a field that lists filter by.
fn various() -> Vec<Event> {
    let open = invoice("in_open")
        .status("open")
        .total(300)
        .with("currency", "eur")
        .created(OCTOBER + 1000)
        .with("period_start", OCTOBER);
    let gone = invoice("in_gone").total(1).with("parent", Value::Null);
    let price = |id: &str, product: &str| price(id, product, 0).with("unit_amount_decimal", "0.25");
    vec![
        new(invoice("in_paid").status("paid").total(500)),
        new(open),
        gone.happened("invoice.deleted").at(OCTOBER + 5),
        new(product("prod_1")),
        new(product("prod_2").with("active", false)),
        new(price("price_pro", "prod_1")),
        new(price("price_old", "prod_2").with("active", false)),
        new(intent("pi_1", "cus_1", "ch_1", Some("in_paid"))),
        new(subscription("sub_pro")),
        new(subscription("sub_old").customer("cus_2").status("canceled").price("price_old")),
        new(refund("re_1", "ch_1", Some("pi_1"))),
        new(invoice("in_live").customer("cus_9").status("paid").total(7)).realm("acct_9", true),
    ]
}

#[tokio::test]
async fn filters_narrow_a_list() {
    let world = platform().await;
    for event in various() {
        world.deliver(event).await;
    }
    world.daemon().projected().await;
    world.send(plan("pro").prices(["price_pro"])).await.status(200);
    let (paid, before) = ("2025-10-09T08:55:00Z", "2025-10-09T08:55:01Z");
    for (path, expected) in [
        ("invoices?status=open", "in_open"),
        ("invoices?currency=usd&realms=all", "in_live in_paid"),
        ("invoices?currency=usd", "in_paid"),
        ("invoices?number=N-in_open", "in_open"),
        ("invoices?subscription=sub_1&livemode=false", "in_open in_paid"),
        ("invoices?account=acct_9", ""),
        ("invoices?account=acct_9&livemode=true", "in_live"),
        ("invoices?account=", "in_open in_paid"),
        ("invoices?livemode=true", "in_live"),
        ("invoices?deleted=true", "in_gone"),
        ("invoices?customer=cus_9&realms=all", "in_live"),
        ("invoices?created_from=2025-10-09T09:00:00Z", "in_open"),
        ("invoices?created_before=2025-10-09T08:53:20Z", ""),
        (
            &*format!("invoices?realms=all&issued_from={paid}&issued_before={before}"),
            "in_live in_open in_paid",
        ),
        (&*format!("invoices?issued_before={paid}"), ""),
        (&*format!("invoices?realms=all&paid_from={paid}&paid_before={before}"), "in_live in_paid"),
        (&*format!("invoices?paid_from={before}"), ""),
        ("invoices?period_from=2025-10-01T00:00:00Z", "in_open"),
        ("invoices?period_before=2025-10-01T02:00:00%2B02:00&realms=all", "in_live in_paid"),
        ("subscriptions?price=price_old", "sub_old"),
        ("subscriptions?plan=pro", "sub_pro"),
        ("subscriptions?plan=none", ""),
        ("subscriptions?status=canceled", "sub_old"),
        ("payments?invoice=in_paid", "pi_1"),
        ("payments?charge=ch_1&status=succeeded", "pi_1"),
        ("refunds?invoice=in_paid", "re_1"),
        ("refunds?invoice=in_open", ""),
        ("refunds?payment_intent=pi_1&status=succeeded", "re_1"),
        ("products?active=true", "prod_1"),
        ("prices?product=prod_2", "price_old"),
        ("prices?active=true&currency=usd", "price_pro"),
    ] {
        assert_eq!(list(world.on(0), path).await.join(" "), expected, "{path}");
    }
    let found = world.get("/v1/prices/price_pro").await;
    assert_eq!(found.pick(["unit_amount_decimal", "type"]), json!(["0.25", "recurring"]));
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let world = platform().await;
    for (path, field) in [
        ("invoices?colour=red", "colour"),
        ("invoices?livemode=1", "livemode"),
        ("invoices?limit=0", "limit"),
        ("invoices?limit=501", "limit"),
        ("invoices?limit=101&expand=lines", "limit"),
        ("invoices?issued_from=2025-01-01", "issued_from"),
        ("invoices?expand=raw", "expand"),
        ("invoices?status=open&status=paid", "status"),
        ("invoices?status=%00", "status"),
        ("invoices?cursor=WzFd", "cursor"),
        ("customers?customer=cus_1", "customer"),
        ("products?org=org_1", "org"),
        ("refunds?linked=", "linked"),
        ("payments?price=x", "price"),
        ("invoices/in_1?expand=everything", "expand"),
        ("customers/cus_1?expand=lines", "expand"),
        ("disputes/dp_1?status=won", "status"),
        ("prices/price_1?account=%00", "account"),
    ] {
        world.get(&format!("/v1/{path}")).await.names(400, field);
    }
}

/// Equal times, ids that exist twice, objects without a time, and rows that arrive between two pages.
#[tokio::test]
async fn pages_meet_every_row_once() {
    let world = platform().await;
    let paid = |id: &str| invoice(id).status("paid").total(1);
    for n in 0..7 {
        world.deliver(new(paid(&format!("in_{n}")))).await;
        world.deliver(new(paid(&format!("in_timeless_{n}")).without("created"))).await;
    }
    let twins = [new(paid("in_3")).realm("acct_2", false), new(paid("in_3")).realm("", true)];
    world.tell(twins).await;
    for (limit, filter) in [
        (1, ""),
        (2, ""),
        (3, "&status=paid&customer=cus_1"),
        (8, ""),
        (16, ""),
        (5, "&issued_from=2020-01-01T00:00:00Z&issued_before=2030-01-01T00:00:00Z"),
    ] {
        let (mut met, mut cursor, mut pages) = (Vec::new(), String::new(), 0);
        loop {
            let path = format!("/v1/invoices?realms=all&limit={limit}{filter}{cursor}");
            let page = world.get(&path).await.status(200);
            let rows = page.rows().iter();
            met.extend(rows.map(|row| format!("{} {} {}", row["id"], row["account"], row["livemode"])));
            pages += 1;
            // Newer than everything: it belongs before the pages that were read.
            let late = paid(&format!("in_new_{limit}_{}_{pages}", filter.len()));
            world.tell([new(late.created(OCTOBER + 100_000 + pages))]).await;
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let met: Vec<_> = met.iter().filter(|row| !row.contains("in_new")).collect();
        let mut distinct = met.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!((met.len(), distinct.len()), (16, 16), "limit {limit}{filter}: {met:?}");
        // Newest first, and those without a time last.
        assert!(met[8].contains("in_0") && met[9].contains("timeless_6"), "{met:?}");
    }
}

#[tokio::test]
async fn expansions_show_what_was_asked_for() {
    let world = three_books().await;
    let key = key_of_acme(&world);
    let own = world.by(&key);
    let plain = world.get("/v1/invoices/in_cus_a").await;
    assert_eq!(plain.pick(["lines", "raw"]), json!([null, null]));
    let page = own.get("/v1/invoices?expand=lines").await;
    let line = ["id", "amount", "unit_amount_decimal"].map(|name| page.at(&format!("data.0.lines.0.{name}")));
    assert_eq!(json!(line), json!(["il_in_cus_a", 500, "500"]), "{page}");
    let notes = world.get("/v1/credit_notes?expand=lines").await;
    assert_eq!(notes.column("lines.0.credit_note_id"), notes.column("id"));
    assert_eq!(notes.column("lines.0.unit_amount_decimal"), json!(["99.5", "99.5", "99.5"]));
    let found = world.get("/v1/subscriptions/sub_cus_a").await;
    assert_eq!(found.at("items.0.price_id"), "price_pro");
}

/// The winning snapshot, not the one that was delivered last.
#[tokio::test]
async fn the_raw_object_is_the_winning_snapshot() {
    let world = three_books().await;
    let paid = invoice("in_cus_a").customer("cus_a").status("paid").total(500);
    let later = paid.clone().with("description", "1.10");
    let updated = |object: Object, second: i64, id: &str, before: Value| {
        object.happened("invoice.updated").id(id).at(second).before(json!({ "description": before }))
    };
    world.tell([updated(later.clone(), OCTOBER + 9, "evt_later", Value::Null)]).await;
    world.tell([updated(paid, OCTOBER - 9, "evt_older", json!("x"))]).await;
    let found = world.get("/v1/invoices/in_cus_a?expand=raw,lines").await;
    assert_eq!(found["raw"], later.json());
    assert_eq!(found.at("lines.0.id"), "il_in_cus_a");
    for (path, kind) in [
        ("payments/pi_cus_a", "payment_intent"),
        ("payments/bare_cus_a", "charge"),
        ("refunds/re_bare_cus_a", "refund"),
        ("disputes/dp_cus_a", "dispute"),
    ] {
        let found = world.get(&format!("/v1/{path}?expand=raw")).await;
        assert_eq!(found.at("raw.object"), kind, "{path}");
    }
    let key = key_of_acme(&world);
    world.by(&key).get("/v1/invoices/in_cus_a?expand=raw").await.status(403);
}

#[tokio::test]
async fn an_id_in_several_realms_is_told_apart() {
    let world = platform().await;
    let basic = || {
        let basic = object("price", "basic").with("product", "prod_1").with("active", true);
        new(basic.with("currency", "usd"))
    };
    let realms = [("acct_1", false), ("acct_1", true), ("", false), ("", true)];
    let of = |query: String| {
        let world = &world;
        async move { world.get(&format!("/v1/prices/basic{query}")).await.pick(["account", "livemode"]) }
    };
    for (known, (account, livemode)) in (1..).zip(realms) {
        world.tell([basic().realm(account, livemode)]).await;
        // Each realm in turn comes before those delivered earlier.
        assert_eq!(of(String::new()).await, json!([account, livemode]), "of {known} realms");
    }
    for (account, livemode) in realms {
        let query = format!("?account={account}&livemode={livemode}");
        assert_eq!(of(query).await, json!([account, livemode]));
    }
    world.get("/v1/prices/basic?account=acct_2").await.status(404);
}
