//! Exports that hold Stripe's objects and our own: the same columns, one order, sums over both.

mod columns;
mod filters;

use std::collections::{BTreeMap, BTreeSet};

use coulomb::billing::exports::{Definition, Kind};
use reqwest::Method;
use serde_json::{Value, json};

use super::formats::{as_excel, from_xlsx};
use super::{bytes, download, rows};
use crate::support::World;
use crate::support::invoicing::{billing, credit_note, invoice, payment, refund, tax_rate};
use crate::support::objects::{charge, credit_note as stripe_note, customer, invoice as stripe_invoice};
use crate::support::objects::{payment_intent, refund as stripe_refund};
use crate::support::requests::{Request, request};

type Row = BTreeMap<String, String>;

/// The kinds that both origins have, each with the columns that name a row.
const KINDS: [(&str, &[&str]); 7] = [
    ("invoices", &["id"]),
    ("lines", &["invoice_id", "line_number"]),
    ("payments", &["id"]),
    ("refunds", &["id"]),
    ("credit_notes", &["id"]),
    ("credit_note_lines", &["credit_note_id", "line_number"]),
    ("customers", &["id"]),
];

async fn exported(world: &World, query: &str) -> Vec<Row> {
    rows(&bytes(world.daemon(), &world.key, query).await)
}

/// A profile with all that an export shows of it.
fn profile() -> Request {
    let party = json!({ "name": "=Acme GmbH", "email": "books@acme.example", "phone": "+49 30 1",
        "vat_id": "DE811234567", "tax_number": "12/345", "address": { "line1": "Side Street 2",
        "line2": "Yard", "postal_code": "80331", "city": "Munich", "region": "BY", "country": "DE" } });
    request(
        Method::PUT,
        "/v1/orgs/acme/billing",
        json!({ "party": party, "currency": "eur", "automatic": false }),
    )
}

/// Ids of what [`books`] makes of our own.
struct Own {
    invoice: String,
    payment: String,
    note: String,
    refund: String,
}

/// At Stripe: an open invoice of 20.00 EUR with a payment of 20.00, a refund of 5.00 and a credit note of
/// 3.00, made on 10 October at 11:00.
///
/// Of our own, from 12:00 on: 3 pieces of 33.33 with 19 % VAT (99.99), and 50.00 under reverse charge: tax is
/// 19.00 (18.9981), the total 168.99. On the 11th 100.00 are paid, on the 12th 20.00 of the first line are
/// credited: tax on the remaining 79.99 is 15.20 (15.1981), so the note has 3.80 of tax and comes to 23.80.
/// On the 13th 30.00 of the payment go back.
async fn books() -> (World, Own) {
    let reverse = json!({ "name": "VAT", "category": "AE", "percent": "0",
        "exemption_reason": "Reverse charge" });
    let world = World::new()
        .at("2026-10-10T11:00:00Z")
        .invoiced("acme")
        .with(profile())
        .with(tax_rate("vat", "19"))
        .with(request(Method::PUT, "/v1/tax_rates/reverse", reverse))
        .start()
        .await;
    let at = world.now();
    let euro = |object: crate::support::objects::Object| object.with("currency", "eur").created(at);
    let told = euro(stripe_invoice("in_1").customer("cus_a").status("open").due("2026-11-01T00:00:00Z"));
    let told = told.with("lines.data.0.currency", "eur").with("status_transitions.finalized_at", at);
    world
        .tell([
            customer("cus_a").org("acme").created(at).created_event(),
            told.happened("invoice.created").at(at),
            euro(payment_intent("pi_1").customer("cus_a").paid_by("ch_1"))
                .happened("payment_intent.succeeded")
                .at(at),
            euro(charge("ch_1").customer("cus_a").with("payment_intent", "pi_1"))
                .happened("charge.succeeded")
                .at(at),
            euro(stripe_refund("re_1", "ch_1", 500)).happened("refund.created").at(at),
            euro(stripe_note("cn_1", "in_1", 300).customer("cus_a").with("number", "CN-1"))
                .happened("credit_note.created")
                .at(at),
        ])
        .await;
    world.turn("2026-10-10T12:00:00Z");
    let items = json!([
        { "description": "=work", "quantity": "3", "unit_price": "33.33", "tax_rate": "vat" },
        { "description": "abroad", "unit_price": "50", "tax_rate": "reverse" },
    ]);
    let made = invoice("acme").with("items", items).with("texts", json!({ "note": "Thank you" })).finalized();
    let invoice = world.send(made).await.status(201).id();
    world.turn("2026-10-11T12:00:00Z");
    let card = payment("acme", 10_000).for_invoices([&invoice]).reference("PAYID-1").with("fee", 250);
    let card = card.with("method", "card").with("card_brand", "visa").with("card_last4", "4242");
    let card = card.with("paid_at", "2026-10-11T09:00:00Z").with("details", json!({ "order": "7" }));
    let payment = world.send(card).await.status(201).id();
    world.turn("2026-10-12T12:00:00Z");
    let note = world.send(credit_note(&invoice).credits(1, 2000)).await.status(201).id();
    world.turn("2026-10-13T12:00:00Z");
    let refund = world.send(refund(&payment, 3000)).await.status(201).id();
    (world, Own { invoice, payment, note, refund })
}

/// Sums by hand: Stripe's 2000 and our own, in one currency.
#[tokio::test]
async fn control_totals_sum_up_both_origins_and_equal_the_rows() {
    let (world, _) = books().await;
    for (query, expected) in [
        (
            "of=invoices",
            json!({ "rows": 2, "subtotal": 16_999, "discount_total": 0, "tax_total": 1900,
            "total": 18_899, "amount_due": 16_519, "amount_paid": 7000, "amount_remaining": 9519 }),
        ),
        ("of=invoices&origin=all", json!({ "rows": 2, "total": 18_899 })),
        ("of=invoices&origin=own", json!({ "rows": 1, "total": 16_899, "amount_paid": 7000 })),
        ("of=invoices&origin=stripe", json!({ "rows": 1, "total": 2000, "amount_paid": 0 })),
        ("of=lines", json!({ "rows": 3, "amount": 16_999, "tax_amount": 1900 })),
        ("of=payments", json!({ "rows": 2, "amount": 12_000, "amount_received": 12_000 })),
        ("of=refunds", json!({ "rows": 2, "amount": 3500 })),
        ("of=credit_notes", json!({ "rows": 2, "total": 2680 })),
        ("of=credit_note_lines", json!({ "rows": 1, "amount": 2000, "tax_amount": 380 })),
    ] {
        let response = download(world.daemon(), &world.key, query).await;
        let told = response.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let rows = rows(&response.bytes().await.expect("a body"));
        assert_eq!(told["rows"], rows.len(), "{query}");
        let euro = &told["currencies"]["eur"];
        for (name, sum) in expected.as_object().expect("sums") {
            assert_eq!(&euro[name], sum, "{query} {name}: {told}");
            if name != "rows" {
                let written = rows.iter().filter_map(|row| row[name].parse::<i64>().ok()).sum::<i64>();
                assert_eq!(euro[name], written, "{query} {name}");
            }
        }
        let (_, alone) =
            world.daemon().get(&format!("/v1/invoices/export/totals?realms=all&{query}"), &world.key).await;
        assert_eq!(alone, told, "{query}");
    }
    // Live money at Stripe is not summed up with our own, which has the mode that acts: test.
    world
        .tell([stripe_invoice("in_live")
            .status("open")
            .with("currency", "eur")
            .with("livemode", true)
            .created_event()
            .realm("", true)])
        .await;
    let all = world.get("/v1/invoices/export/totals?realms=all").await.ok();
    let realm = |place: usize| {
        let at = |name: &str| all.at(&format!("realms.{place}.{name}")).clone();
        json!([at("livemode"), at("rows"), at("currencies.eur.total")])
    };
    assert_eq!([realm(0), realm(1)], [json!([true, 1, 2000]), json!([false, 2, 18_899])]);
}

/// Stripe's and our own by turns, and two at one instant; each download continues after each row.
#[tokio::test]
async fn both_origins_are_in_one_order_in_which_downloads_go_on() {
    let (world, own) = books().await;
    let at = world.now();
    let told = stripe_invoice("in_2").customer("cus_a").status("open").created(at);
    world.tell([told.happened("invoice.created").at(at)]).await;
    let later = world.invoiced("acme", "5").await;
    let ids: Vec<String> = exported(&world, "").await.into_iter().map(|row| row["id"].clone()).collect();
    assert_eq!(ids, ["in_1", &own.invoice, "in_2", &later], "bytes of ids decide at one instant");
    for (of, columns) in KINDS {
        let whole = bytes(world.daemon(), &world.key, &format!("of={of}&format=jsonl")).await;
        let again = bytes(world.daemon(), &world.key, &format!("of={of}&format=jsonl")).await;
        assert_eq!(whole, again, "{of}");
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        let origins = |lines: &[&[u8]]| {
            let origin =
                |line: &&[u8]| serde_json::from_slice::<Value>(line).expect("JSON")["origin"].to_string();
            lines.iter().map(origin).collect::<BTreeSet<_>>().len()
        };
        assert!(origins(&lines) == 2 || of == "credit_note_lines", "{of} tests nothing");
        for cut in 1..=lines.len() {
            let last: Value = serde_json::from_slice(lines[cut - 1]).expect("JSON");
            let after: Vec<String> =
                columns.iter().map(|name| last[name].to_string().trim_matches('"').to_owned()).collect();
            let query = format!("of={of}&format=jsonl&after={}", after.join("/"));
            let rest = bytes(world.daemon(), &world.key, &query).await;
            assert_eq!([&lines[..cut].concat()[..], &rest].concat(), whole, "{query}");
        }
    }
    // A row of the other origin is no place.
    world.get("/v1/invoices/export?origin=own&after=in_1").await.names(400, "after");
    world.get(&format!("/v1/invoices/export?origin=stripe&after={later}")).await.names(400, "after");
}

/// More rows than a page of the cursor, in turns and in blocks.
#[tokio::test]
async fn pages_of_both_origins_are_merged() {
    let world = World::new().invoiced("acme").start().await;
    world.execute(
        "INSERT INTO invoices (account, livemode, id, currency, total, lines_complete, created, deleted)
         SELECT '', false, 'in_' || n, 'eur', n, true,
             CASE WHEN n < 900 THEN '2026-01-01'::timestamptz + n * interval '2 seconds' END, false
         FROM generate_series(1, 903) n;
         INSERT INTO own_invoices (org_id, invoice_id, seller_id, currency, reason, created_at, draft,
             subtotal, discount_total, net_total, tax_total, total)
         SELECT org_id, 'inv_' || n, 'blazz', 'eur', 'manual', '2026-01-01'::timestamptz + CASE WHEN n < 600
                 THEN n * interval '2 seconds' + interval '1 second' ELSE n * interval '1 hour' END,
             '{}', n, 0, n, 0, n
         FROM generate_series(1, 1200) n, orgs WHERE external_id = 'acme'",
    );
    let all = exported(&world, "").await;
    assert_eq!(all.len(), 903 + 1200);
    let expected = world.value(
        "SELECT string_agg(id, ' ' ORDER BY created, id) FROM (SELECT id, created FROM invoices
         UNION ALL SELECT invoice_id, created_at FROM own_invoices) s",
    );
    let ids: Vec<&str> = all.iter().map(|row| &*row["id"]).collect();
    assert_eq!(Some(ids.join(" ")), expected);
}

/// An index gives our own rows their order, so that they stream. Of the lines of one invoice only some are
/// sorted at a time.
#[tokio::test]
async fn own_rows_are_streamed_without_a_sort() {
    let database = crate::support::Database::new();
    database.execute(
        "CREATE FUNCTION plan(query text) RETURNS text LANGUAGE plpgsql AS $$
         DECLARE line text; plan text := '';
         BEGIN
             PERFORM set_config('enable_seqscan', 'off', true), set_config('enable_sort', 'off', true);
             FOR line IN EXECUTE 'EXPLAIN (COSTS off) ' || query
             LOOP plan := plan || line || E'\n'; END LOOP;
             RETURN plan;
         END $$",
    );
    for (kind, index) in [
        (Kind::Invoices, "own_invoices_created"),
        (Kind::Lines, "own_invoices_created"),
        (Kind::Payments, "own_payments_created"),
        (Kind::Refunds, "own_refunds_created"),
        (Kind::CreditNotes, "own_credit_notes_created"),
        (Kind::CreditNoteLines, "own_credit_notes_created"),
    ] {
        let Definition { columns, from, order, .. } =
            coulomb::invoicing::exports::definition(kind).expect("own rows");
        let columns: Vec<&str> = columns.iter().map(|column| column.sql).collect();
        let sql = format!("SELECT {} FROM {from} ORDER BY {order}", columns.join(", "));
        let plan = database.value(&format!("SELECT plan($sql${sql}$sql$)")).expect("a plan");
        assert!(plan.contains(&format!("using {index} on")), "{}: {plan}", kind.name());
        assert!(!plan.starts_with("Sort"), "{}: {plan}", kind.name());
    }
}

/// A workbook has what CSV has, and the command writes the same file.
#[tokio::test]
async fn a_workbook_holds_both_origins() {
    let (world, _) = books().await;
    for (of, _) in KINDS {
        let csv = bytes(world.daemon(), &world.key, &format!("of={of}")).await;
        let written: Vec<Vec<String>> = csv::ReaderBuilder::new()
            .has_headers(false)
            .from_reader(&*csv)
            .deserialize()
            .collect::<Result<_, _>>()
            .expect("CSV");
        let sheet = from_xlsx(bytes(world.daemon(), &world.key, &format!("of={of}&format=xlsx")).await, of);
        assert_eq!(sheet, as_excel(&written), "{of}");
        let own = bytes(world.daemon(), &world.key, &format!("of={of}&origin=own")).await;
        assert_eq!(
            world.run(&["export", "invoices", "--realms", "all", "--of", of, "--origin", "own"]).into_bytes(),
            own,
            "{of}"
        );
    }
    let sheet = from_xlsx(bytes(world.daemon(), &world.key, "format=xlsx").await, "invoices");
    let place = |name: &str| sheet[0].iter().position(|known| known == name).expect(name);
    let cells = ["origin", "total", "total_major", "amount_remaining", "reverse_charge"].map(place);
    let row = |row: usize| cells.map(|place| sheet[row][place].as_str());
    assert_eq!(row(1), ["stripe", "2000", "20", "2000", ""]);
    assert_eq!(row(2), ["own", "16899", "168.99", "7519", "true"]);
}

#[tokio::test]
async fn an_org_exports_its_own_rows_of_both_origins() {
    let (world, own) = books().await;
    for request in [crate::support::requests::org("beta"), billing("beta")] {
        world.send(request).await.ok();
    }
    let other = world.invoiced("beta", "40").await;
    let paid = world.send(payment("beta", 4000)).await.status(201).id();
    world.send(credit_note(&other)).await.status(201);
    world.send(refund(&paid, 1000)).await.status(201);
    let keys = [world.key_of("acme"), world.key_of("beta")];
    for (of, _) in KINDS {
        let all = exported(&world, &format!("of={of}")).await;
        for (key, org) in keys.iter().zip(["acme", "beta"]) {
            let seen = rows(&bytes(world.daemon(), key, &format!("of={of}")).await);
            let expected: Vec<Row> =
                all.iter().filter(|row| row["org_external_id"] == org).cloned().collect();
            assert!(seen.iter().any(|row| row["origin"] == "own"), "{of} {org}");
            assert_eq!(seen, expected, "{of} {org}");
        }
    }
    let beta = world.by(&keys[1]);
    beta.get("/v1/invoices/export?org=acme").await.status(404);
    beta.get(&format!("/v1/invoices/export?after={}", own.invoice)).await.names(400, "after");
}
