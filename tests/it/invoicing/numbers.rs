//! Numbers of documents have no gap, and none is there twice.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::moving_in::past_invoice;
use crate::support::World;
use crate::support::invoicing::{billing, credit_note, invoice, on_invoice, seller, tax_rate};
use crate::support::requests::org;
use crate::support::world::until;

const CLIENTS: usize = 64;
const ORGS: usize = 8;

/// Each seller, kind and year counts for itself; drafts take no number.
#[tokio::test]
async fn numbers_count_by_seller_kind_and_year() {
    let other = seller("other").with("default", false).with("settings.invoice_prefix", "O-");
    let world = World::new()
        .at("2026-12-31T12:00:00Z")
        .invoiced("acme")
        .with(other)
        .org("beta")
        .with(billing("beta").with("seller", "other"))
        .start()
        .await;
    let number = async |request| world.send(request).await.status(201)["number"].clone();
    let draft = world.send(invoice("acme").item("1")).await.status(201).id();
    assert_eq!(number(invoice("acme").item("1").finalized()).await, "INV-2026-000001");
    assert_eq!(number(invoice("beta").item("1").finalized()).await, "O-2026-000001");
    world.delete(&format!("/v1/invoices/{draft}")).await.status(204);
    let second = world.send(invoice("acme").item("1").finalized()).await.status(201);
    assert_eq!(second["number"], "INV-2026-000002");
    assert_eq!(number(credit_note(&second.id())).await, "CN-2026-000001");
    world.turn("2027-01-01T00:00:00Z");
    assert_eq!(number(invoice("acme").item("1").finalized()).await, "INV-2027-000001");
    assert_eq!(number(invoice("beta").item("1").finalized()).await, "O-2027-000001");
    world.books_add_up();
}

/// 64 clients finalise the drafts of 8 orgs through two daemons, several clients the same draft.
#[tokio::test(flavor = "multi_thread")]
async fn a_race_leaves_no_gap_and_no_number_twice() {
    let mut setup = World::new().daemons(2).setting("COULOMB_POOL_WAIT_MS", "30000").invoiced("org-0");
    for n in 1..ORGS {
        let name = format!("org-{n}");
        setup = setup.with(org(&name)).with(billing(&name));
    }
    let world = Arc::new(setup.start().await);
    let mut drafts = Vec::new();
    for n in 0..192 {
        let name = format!("org-{}", n % ORGS);
        drafts.push(world.send(invoice(&name).item("10")).await.status(201).id());
    }
    let (drafts, next) = (Arc::new(drafts), Arc::new(AtomicUsize::new(0)));
    let clients = (0..CLIENTS).map(|_| {
        let (world, drafts, next) = (Arc::clone(&world), Arc::clone(&drafts), Arc::clone(&next));
        tokio::spawn(async move {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                // Each draft comes twice, from clients of both daemons.
                let Some(draft) = drafts.get(n / 2) else { return };
                let answer = world.on(n % 2).send(on_invoice(draft, "finalize")).await;
                assert!(matches!(answer.status, 200 | 503), "{answer}");
                if answer.status == 503 {
                    world.on(n % 2).send(on_invoice(draft, "finalize")).await.status(200);
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.expect("a client");
    }
    let mut numbers = BTreeSet::new();
    for draft in drafts.iter() {
        let shown = world.get(&format!("/v1/invoices/{draft}")).await.status(200);
        assert!(numbers.insert(shown.text("number")), "twice: {shown}");
    }
    let year = numbers.first().expect("one").split('-').nth(1).expect("a year").to_owned();
    let expected: BTreeSet<String> = (1..=drafts.len()).map(|n| format!("INV-{year}-{n:06}")).collect();
    assert_eq!(numbers, expected);
    world.books_add_up();
}

/// What fails while it is finalised takes no number.
#[tokio::test]
async fn a_failure_takes_no_number() {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").start().await;
    let below = json!([{ "description": "back", "unit_price": "5", "quantity": "-1" }]);
    let draft = world.send(invoice("acme").with("items", below)).await.status(201);
    assert_eq!(draft["waits"], "total_below_zero");
    world.send(on_invoice(&draft.id(), "finalize")).await.refused(409, "invoice_waits");
    world.execute(
        "CREATE FUNCTION pg_temp_fail() RETURNS trigger LANGUAGE plpgsql AS
             $$ BEGIN RAISE EXCEPTION 'a test' USING ERRCODE = '23514'; END $$;
         CREATE TRIGGER fail BEFORE INSERT ON account_entries FOR EACH ROW EXECUTE FUNCTION pg_temp_fail();",
    );
    let broken = world.send(invoice("acme").item("1").finalized()).await;
    assert!(broken.status >= 400, "{broken}");
    world.execute("DROP TRIGGER fail ON account_entries");
    let made = world.send(invoice("acme").item("1").finalized()).await.status(201);
    assert_eq!(made["number"], "INV-2026-000001");
    assert_eq!(made["lines"].as_array().map(Vec::len), Some(1));
    assert_eq!(Value::Null, draft["number"]);
    world.books_add_up();
}

/// A number that a series is still to give belongs to it alone: else finalising would come to a number that
/// is taken. A year that is over gives none.
#[tokio::test]
async fn an_import_takes_no_number_that_lies_ahead() {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").with(tax_rate("vat19", "19"));
    let world = world.start().await;
    world.invoiced("acme", "1").await;
    let import = async |number: &str| world.send(past_invoice(number, "2026-10-01")).await;
    for (number, stands) in [
        ("INV-2026-000002", "the last number of which is INV-2026-000001"),
        ("INV-2026-099999", "the last number of which is INV-2026-000001"),
        ("CN-2026-000001", "which has issued none in 2026"),
        ("INV-2027-000001", "which has issued none in 2027"),
    ] {
        let refused = import(number).await.names(400, "number");
        assert!(refused.text("detail").contains(stands), "{number}: {refused}");
    }
    let taken = import("INV-2026-000001").await.refused(409, "number_taken");
    assert!(taken.text("detail").contains("INV-2026-000001"), "{taken}");
    for number in ["INV-2025-000007", "INV-2026-2", "R-2026-000005", "R-2025-000001"] {
        import(number).await.status(201);
    }
    let next = world.send(invoice("acme").item("1").finalized()).await.status(201);
    assert_eq!(next["number"], "INV-2026-000002");

    // A new prefix goes on with 3, and would come to 5.
    let prefixes = |invoices: &str, notes: &str| {
        let names = seller("blazz").with("settings.invoice_prefix", invoices);
        names.with("settings.credit_note_prefix", notes)
    };
    let refused = world.send(prefixes("R-", "CN-")).await.names(400, "settings.invoice_prefix");
    assert!(refused.text("detail").contains("R-2026-000005"), "{refused}");
    // Credit notes would come to the numbers of the two invoices.
    world.send(prefixes("X-", "INV-")).await.names(400, "settings.credit_note_prefix");
    world.send(prefixes("X-", "CN-")).await.ok();
    let next = world.send(invoice("acme").item("1").finalized()).await.status(201);
    assert_eq!(next["number"], "X-2026-000003");
    world.books_add_up();
}

/// What the clock cannot finalise says why, and `doctor` lists it: a number that was taken before imports of
/// such numbers were refused, and a draft without a line.
#[tokio::test]
async fn a_draft_that_the_clock_cannot_finalise_says_why() {
    let world = World::new().at("2026-10-10T12:00:00Z").invoiced("acme").start().await;
    world.execute(
        "INSERT INTO issued_numbers (seller_id, number, org_id, document_id)
         SELECT 'blazz', 'INV-2026-000001', org_id, 'inv_old' FROM billing_profiles",
    );
    let at_one = async |draft: String| {
        let at = json!({ "finalize_at": "2026-10-10T13:00:00Z" });
        world.patch(&format!("/v1/invoices/{draft}"), at).await.ok();
        draft
    };
    let taken = at_one(world.send(invoice("acme").item("1")).await.status(201).id()).await;
    let empty = at_one(world.send(invoice("acme")).await.status(201).id()).await;
    world.turn("2026-10-10T13:00:01Z");
    for (draft, why) in [(&taken, "number_taken"), (&empty, "invoice_is_empty")] {
        until("the clock tried it", async || {
            let found = world.get(&format!("/v1/invoices/{draft}")).await.ok();
            found["finalize_at"] != "2026-10-10T13:00:00Z"
        })
        .await;
        let found = world.get(&format!("/v1/invoices/{draft}")).await.ok();
        assert_eq!(found.pick(["status", "waits"]), json!(["draft", why]));
    }
    let doctor = world.command(&["doctor"]).output().expect("it runs");
    let told = String::from_utf8_lossy(&doctor.stdout);
    assert!(told.contains("1 for `invoice_is_empty`, 1 for `number_taken`"), "{told}");
    let by_hand = world.send(on_invoice(&taken, "finalize")).await.refused(409, "number_taken");
    assert!(by_hand.text("detail").contains("INV-2026-000001"), "{by_hand}");
    world.execute("DELETE FROM issued_numbers");
    assert_eq!(world.send(on_invoice(&taken, "finalize")).await.ok()["waits"], Value::Null);
}
