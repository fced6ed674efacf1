//! What finance reads: filters, pages, look-ups, and whose rows a key may see.

mod books;

use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{event, invoice, subscription, updated};
use crate::support::{Daemon, Database};
use books::{BOOKS, Books, T0, in_realm, intent, list, new, object, refund, three_books};

#[tokio::test]
async fn an_org_sees_its_own_books_and_the_platform_all() {
    let database = Database::new();
    let books = three_books(&database).await;
    check_books(&books).await;
    // The code alone, without the database's help.
    database.execute(
        "DO $$ DECLARE relation regclass; BEGIN
         FOR relation IN SELECT oid FROM pg_class WHERE relrowsecurity LOOP
             EXECUTE format('ALTER TABLE %s DISABLE ROW LEVEL SECURITY', relation);
         END LOOP; END $$",
    );
    check_books(&books).await;
}

async fn check_books((daemon, admin, [(acme, acme_key), (bolt, _)]): &Books) {
    for (route, prefixes) in BOOKS {
        let of = |customer: &str| {
            let mut ids: Vec<String> = prefixes.iter().map(|prefix| format!("{prefix}{customer}")).collect();
            ids.sort();
            ids
        };
        assert_eq!(list(daemon, admin, route).await.len(), 3 * prefixes.len(), "{route}");
        assert_eq!(
            list(daemon, admin, &format!("{route}?org={acme}")).await,
            of("cus_a"),
            "{route} of an org"
        );
        assert_eq!(
            list(daemon, admin, &format!("{route}?linked=false")).await,
            of("cus_c"),
            "{route} unlinked"
        );
        assert_eq!(
            list(daemon, admin, &format!("{route}?linked=true")).await.len(),
            2 * prefixes.len(),
            "{route} linked"
        );
        assert_eq!(list(daemon, acme_key, route).await, of("cus_a"), "{route} with the org's key");
        let (status, problem) = daemon.get(&format!("/v1/{route}?org={bolt}"), acme_key).await;
        assert_eq!((status.as_u16(), &problem["field"]), (404, &json!("org")), "{route} of another org");
        assert_eq!(
            list(daemon, acme_key, &format!("{route}?linked=false")).await,
            [""; 0],
            "{route} of nobody"
        );
        if route != "customers" {
            assert_eq!(
                list(daemon, admin, &format!("{route}?customer=cus_b")).await,
                of("cus_b"),
                "{route} of a customer"
            );
        }
        for (customer, org) in [("cus_a", json!(acme)), ("cus_b", json!(bolt)), ("cus_c", Value::Null)] {
            for id in of(customer) {
                let path = format!("/v1/{route}/{id}");
                let (status, found) = daemon.get(&path, admin).await;
                assert_eq!((status.as_u16(), &found["id"], &found["org"]), (200, &json!(id), &org), "{path}");
                if route != "customers" {
                    assert_eq!(found["customer_id"], customer, "{path}");
                }
                let own = customer == "cus_a";
                let (status, _) = daemon.get(&path, acme_key).await;
                assert_eq!(status, if own { 200 } else { 404 }, "{path} with the key of acme");
            }
        }
    }
}

/// The database holds an org to its rows without any filter of the code's.
#[tokio::test]
async fn row_level_security_hides_what_a_query_forgets_to() {
    let database = Database::new();
    let _books = three_books(&database).await;
    let acme = database.number("SELECT org_id FROM orgs WHERE external_id = 'acme'");
    let mut conn = database.owner();
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
        let all = database.number(&format!("SELECT count(*) FROM {table}"));
        assert!(all > own, "{table} holds rows of others");
        let seen: i64 = diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(&format!(
            "(SELECT count(*) FROM {table})"
        )))
        .get_result(&mut conn)
        .expect("counts");
        assert_eq!(seen, own, "{table}");
    }
    for table in ["stripe_inbox", "stripe_objects"] {
        assert!(
            conn.batch_execute(&format!("SELECT FROM {table}")).is_err(),
            "{table} is not an org's to read"
        );
    }
}

#[tokio::test]
async fn what_is_linked_later_appears_then() {
    let database = Database::new();
    let (daemon, admin, [(acme, acme_key), _]) = three_books(&database).await;
    let link = format!("/v1/orgs/{acme}/stripe_customers/cus_c");
    let (status, _) = answer(daemon.request(Method::PUT, &link, &admin)).await;
    assert_eq!(status, 200);
    for (route, prefixes) in BOOKS {
        assert_eq!(list(&daemon, &acme_key, route).await.len(), 2 * prefixes.len(), "{route}");
        assert_eq!(list(&daemon, &admin, &format!("{route}?linked=false")).await, [""; 0], "{route}");
        let path = format!("/v1/{route}/{}cus_c", prefixes[0]);
        assert_eq!(daemon.get(&path, &acme_key).await.1["org"], json!(acme), "{path}");
    }
    answer(daemon.request(Method::DELETE, &link, &admin)).await;
    for (route, prefixes) in BOOKS {
        assert_eq!(list(&daemon, &acme_key, route).await.len(), prefixes.len(), "{route}");
    }
}

#[tokio::test]
async fn filters_narrow_a_list() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let admin = database.key("admin", None);
    let mut open = invoice("in_open", "cus_1", "open", 300);
    open["currency"] = json!("eur");
    open["created"] = json!(T0 + 1000);
    open["period_start"] = json!(T0);
    let mut gone = invoice("in_gone", "cus_1", "draft", 1);
    gone["parent"] = Value::Null;
    let deleted = event("evt_gone", "invoice.deleted", T0 + 5, gone);
    let product =
        |id: &str, active: bool| new(object("product", id, json!({ "name": id, "active": active })));
    let price = |id: &str, product: &str, active: bool| {
        new(object(
            "price",
            id,
            json!({ "product": product, "active": active, "currency": "usd", "unit_amount_decimal": "0.25",
                "type": "recurring" }),
        ))
    };
    let events = [
        new(invoice("in_paid", "cus_1", "paid", 500)),
        new(open),
        deleted,
        product("prod_1", true),
        product("prod_2", false),
        price("price_pro", "prod_1", true),
        price("price_old", "prod_2", false),
        new(intent("pi_1", "cus_1", "ch_1", Some("in_paid"))),
        new(subscription("sub_pro", "cus_1", "active", "price_pro")),
        new(subscription("sub_old", "cus_2", "canceled", "price_old")),
        new(refund("re_1", "ch_1", Some("pi_1"))),
        in_realm(new(invoice("in_live", "cus_9", "paid", 7)), "acct_9", true),
    ];
    daemon.deliver_all(&events).await;
    daemon.projected().await;
    let plan = json!({ "name": "Pro", "active": true, "stripe_prices": ["price_pro"], "metadata": {} });
    let (status, problem) = answer(daemon.request(Method::PUT, "/v1/plans/pro", &admin).json(&plan)).await;
    assert_eq!(status, 200, "{problem}");
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
        assert_eq!(list(&daemon, &admin, path).await.join(" "), expected, "{path}");
    }
    let (_, found) = daemon.get("/v1/prices/price_pro", &admin).await;
    assert_eq!((&found["unit_amount_decimal"], &found["type"]), (&json!("0.25"), &json!("recurring")));
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let admin = database.key("admin", None);
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
        let (status, problem) = daemon.get(&format!("/v1/{path}"), &admin).await;
        assert_eq!((status.as_u16(), &problem["field"]), (400, &json!(field)), "{path}: {problem}");
    }
}

/// Equal times, ids that exist twice, objects without a time, and rows that come between two pages.
#[tokio::test]
async fn pages_meet_every_row_once() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let admin = database.key("admin", None);
    let mut events = Vec::new();
    for n in 0..7 {
        events.push(new(invoice(&format!("in_{n}"), "cus_1", "paid", 1)));
        let mut timeless = invoice(&format!("in_timeless_{n}"), "cus_1", "paid", 1);
        timeless.as_object_mut().expect("an object").remove("created");
        events.push(new(timeless));
    }
    events.push(in_realm(new(invoice("in_3", "cus_1", "paid", 1)), "acct_2", false));
    events.push(in_realm(new(invoice("in_3", "cus_1", "paid", 1)), "", true));
    daemon.deliver_all(&events).await;
    daemon.projected().await;
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
            let (status, page) =
                daemon.get(&format!("/v1/invoices?realms=all&limit={limit}{filter}{cursor}"), &admin).await;
            assert_eq!(status, 200, "{page}");
            let rows = page["data"].as_array().expect("rows");
            met.extend(
                rows.iter().map(|row| format!("{} {} {}", row["id"], row["account"], row["livemode"])),
            );
            pages += 1;
            // Newer than everything: it belongs before the pages already read.
            let id = format!("in_new_{limit}_{}_{pages}", filter.len());
            let mut late = invoice(&id, "cus_1", "paid", 1);
            late["created"] = json!(T0 + 100_000 + pages);
            daemon.deliver(&new(late)).await;
            daemon.projected().await;
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
        assert!(
            met[8].contains("in_0") && met[9].contains("timeless_6"),
            "newest first, without a time last: {met:?}"
        );
    }
}

#[tokio::test]
async fn expansions_show_what_was_asked_for() {
    let database = Database::new();
    let (daemon, admin, [(_, acme_key), _]) = three_books(&database).await;
    let (_, plain) = daemon.get("/v1/invoices/in_cus_a", &admin).await;
    assert_eq!((&plain["lines"], &plain["raw"]), (&Value::Null, &Value::Null));
    let (_, page) = daemon.get("/v1/invoices?expand=lines", &acme_key).await;
    let line = &page["data"][0]["lines"][0];
    assert_eq!(
        (&line["id"], &line["amount"], &line["unit_amount_decimal"]),
        (&json!("il_in_cus_a"), &json!(500), &json!("500")),
        "{page}"
    );
    let (_, page) = daemon.get("/v1/credit_notes?expand=lines", &admin).await;
    for note in page["data"].as_array().expect("rows") {
        assert_eq!(note["lines"][0]["credit_note_id"], note["id"]);
        assert_eq!(note["lines"][0]["unit_amount_decimal"], "99.5");
    }
    let (_, found) = daemon.get("/v1/subscriptions/sub_cus_a", &admin).await;
    assert_eq!(found["items"][0]["price_id"], "price_pro");

    // The winning snapshot, not the last delivered.
    let paid = invoice("in_cus_a", "cus_a", "paid", 500);
    let mut later = paid.clone();
    later["description"] = json!("1.10");
    daemon
        .deliver(&updated(
            "evt_later",
            "invoice.updated",
            T0 + 9,
            later.clone(),
            json!({ "description": null }),
        ))
        .await;
    daemon
        .deliver(&updated("evt_older", "invoice.updated", T0 - 9, paid, json!({ "description": "x" })))
        .await;
    daemon.projected().await;
    let (_, found) = daemon.get("/v1/invoices/in_cus_a?expand=raw,lines", &admin).await;
    assert_eq!(found["raw"], later);
    assert_eq!(found["lines"][0]["id"], "il_in_cus_a");
    for (path, kind) in [
        ("payments/pi_cus_a", "payment_intent"),
        ("payments/bare_cus_a", "charge"),
        ("refunds/re_bare_cus_a", "refund"),
        ("disputes/dp_cus_a", "dispute"),
    ] {
        let (_, found) = daemon.get(&format!("/v1/{path}?expand=raw"), &admin).await;
        assert_eq!(found["raw"]["object"], kind, "{path}");
    }
    let (status, problem) = daemon.get("/v1/invoices/in_cus_a?expand=raw", &acme_key).await;
    assert_eq!(status, 403, "{problem}");
}

#[tokio::test]
async fn an_id_in_several_realms_is_told_apart() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let admin = database.key("admin", None);
    let price =
        || new(object("price", "basic", json!({ "product": "prod_1", "active": true, "currency": "usd" })));
    let realms = [("acct_1", false), ("acct_1", true), ("", false), ("", true)];
    for (known, (account, livemode)) in realms.into_iter().enumerate() {
        daemon.deliver(&in_realm(price(), account, livemode)).await;
        daemon.projected().await;
        // Each realm delivered is preferred to those before.
        let (_, found) = daemon.get("/v1/prices/basic", &admin).await;
        assert_eq!(
            (&found["account"], &found["livemode"]),
            (&json!(account), &json!(livemode)),
            "of {} realms",
            known + 1
        );
    }
    for (account, livemode) in realms {
        let (_, found) =
            daemon.get(&format!("/v1/prices/basic?account={account}&livemode={livemode}"), &admin).await;
        assert_eq!((&found["account"], &found["livemode"]), (&json!(account), &json!(livemode)));
    }
    let (status, _) = daemon.get("/v1/prices/basic?account=acct_2", &admin).await;
    assert_eq!(status, 404);
}
