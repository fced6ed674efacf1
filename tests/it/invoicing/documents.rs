//! What was issued never changes.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{billing, invoice, item, on_invoice, seller};

async fn world() -> World {
    World::new().at("2026-10-10T12:00:00Z").invoiced("acme").start().await
}

#[tokio::test]
async fn a_finalised_invoice_cannot_be_changed_or_deleted() {
    let world = world().await;
    let id = world.send(invoice("acme").item("100").finalized()).await.status(201).id();
    let path = format!("/v1/invoices/{id}");
    let document = world.get(&format!("{path}/document?format=json")).await.status(200);
    world.patch(&path, json!({ "texts": { "note": "no" } })).await.refused(409, "invoice_finalized");
    world.delete(&path).await.refused(409, "invoice_finalized");
    world.send(item("acme", "5").with("invoice", &*id)).await.refused(409, "invoice_finalized");
    let own_item = world.value("SELECT item_id FROM invoice_items").expect("an item");
    world.delete(&format!("/v1/orgs/acme/invoice_items/{own_item}")).await.refused(409, "invoice_finalized");
    // What it was made of may change: the document stays.
    world.send(seller("blazz").with("party.name", "Other Ltd")).await.status(200);
    world.send(billing("acme").with("party.name", "New name")).await.status(200);
    let later = world.get(&format!("{path}/document?format=json")).await.status(200);
    assert_eq!(later.body, document.body);
    assert_eq!(
        document.pick(["seller.name", "buyer.name", "number"]),
        json!(["blazz Ltd", "acme", "INV-2026-000001"])
    );
    // The daemon's own role cannot change it either.
    let denied = "UPDATE own_documents SET content = '{}'";
    assert!(diesel::connection::SimpleConnection::batch_execute(&mut world.platform(), denied).is_err());
    let digest = "SELECT count(*) FROM own_documents
        WHERE content_sha256 = sha256(convert_to(content, 'UTF8')) AND content::jsonb ->> 'id' = document_id";
    assert_eq!(world.number(digest), 1);
    world.books_add_up();
}

/// Finalising twice is finalising once.
#[tokio::test]
async fn a_finalised_invoice_stays_as_it_is() {
    let world = world().await;
    let draft = world.send(invoice("acme").item("100")).await.status(201);
    assert_eq!(draft.pick(["status", "number", "issue_date"]), json!(["draft", null, null]));
    let once = world.send(on_invoice(&draft.id(), "finalize")).await.status(200);
    let twice = world.send(on_invoice(&draft.id(), "finalize")).await.status(200);
    assert_eq!(once.body, twice.body);
    assert_eq!(world.number("SELECT count(*) FROM account_entries"), 1);
}

/// A draft can be looked at, changed and deleted; its items wait for the next one.
#[tokio::test]
async fn a_draft_is_changed_until_it_is_finalised() {
    let world = world().await;
    world.send(item("acme", "5")).await.status(201);
    let waiting = world.get("/v1/orgs/acme/invoice_items").await.status(200);
    assert_eq!(waiting.pick(["items.0.unit_price", "items.0.invoice"]), json!(["5", null]));
    let draft = world.send(invoice("acme").item("10")).await.status(201);
    let path = format!("/v1/invoices/{}", draft.id());
    assert_eq!(draft["total"], 1500);
    assert_eq!(world.get("/v1/orgs/acme/invoice_items").await["items"], json!([]));
    let more = item("acme", "1.005").with("quantity", "3").with("invoice", draft.id());
    let added = world.send(more).await.status(201);
    // 3 × 1.005 = 3.015, rounded half up.
    assert_eq!(world.get(&path).await.status(200)["total"], 1802);
    world.delete(&format!("/v1/orgs/acme/invoice_items/{}", added.id())).await.status(204);
    assert_eq!(world.get(&path).await["total"], 1500);
    let texts = json!({ "texts": { "note": "Thank you", "purchase_order": "PO-7" } });
    world.patch(&path, texts).await.status(200);
    let document = world.get(&format!("{path}/document?format=json")).await.status(200);
    assert_eq!(
        document.pick(["number", "note", "purchase_order", "totals.total"]),
        json!([null, "Thank you", "PO-7", 1500])
    );
    world
        .patch(&path, json!({ "by_hand": true, "finalize_at": "2026-10-11T00:00:00Z" }))
        .await
        .names(400, "by_hand");
    world.patch(&path, json!({ "texts": { "note": "\u{1}" } })).await.names(400, "note");
    world.delete(&path).await.status(204);
    world.get(&path).await.status(404);
    assert_eq!(world.get("/v1/orgs/acme/invoice_items").await.list("items").len(), 2);
    world.books_add_up();
}

#[tokio::test]
async fn what_cannot_be_an_invoice_is_refused() {
    let world = world().await;
    world.send(invoice("acme").finalized()).await.refused(409, "invoice_is_empty");
    let below = json!([{ "description": "back", "unit_price": "5", "quantity": "-1" }]);
    world.send(invoice("acme").with("items", below).finalized()).await.refused(409, "invoice_waits");
    world.send(invoice("acme").with("renewal", true)).await.refused(409, "no_subscription");
    for (what, wrong, field) in [
        ("an org that there is not", invoice("nobody"), "org"),
        ("no currency", invoice("acme").with("currency", "EUR"), "currency"),
        ("a price below 0", invoice("acme").item("-1"), "unit_price"),
        ("a rate that there is not", invoice("acme").with("items", with_rate("none")), "tax_rate"),
    ] {
        let refused = world.send(wrong).await;
        let named = refused["field"].as_str().unwrap_or_default();
        assert!(matches!(refused.status, 400 | 404) && named.ends_with(field), "{what}: {refused}");
    }
    assert_eq!(world.number("SELECT count(*) FROM own_invoices"), 0);
    // An org without a billing profile cannot be invoiced.
    world.send(crate::support::requests::org("beta")).await.status(201);
    world.send(invoice("beta").item("1")).await.refused(409, "no_billing_profile");
    world.get("/v1/orgs/beta/invoices/preview").await.refused(409, "no_billing_profile");
    world.get("/v1/orgs/beta/billing").await.status(404);
}

fn with_rate(rate: &str) -> Value {
    json!([{ "description": "work", "unit_price": "1", "tax_rate": rate }])
}

/// An item of an org never gets on the draft of another one.
#[tokio::test]
async fn an_item_is_of_the_org_of_its_invoice() {
    let world = World::new().invoiced("acme").org("beta").with(billing("beta")).start().await;
    let draft = world.send(invoice("acme").item("10")).await.status(201).id();
    let foreign = item("beta", "5").with("invoice", &*draft);
    world.send(foreign).await.status(404);
    assert_eq!(world.number("SELECT count(*) FROM invoice_items"), 1);
    assert_eq!(world.get(&format!("/v1/invoices/{draft}")).await["total"], 1000);
}

/// The preview has the fee of the next period, usage so far at its price, and the items that wait. 40 tokens
/// at 0.25 are 10.00.
#[tokio::test]
async fn a_preview_shows_the_next_invoice_with_usage() {
    let pro =
        crate::support::requests::plan("pro").with("monthly.amount", 3000).with("monthly.currency", "usd");
    let world = World::new()
        .at("2026-10-10T12:00:00Z")
        .invoiced("acme")
        .with(billing("acme").currency("usd"))
        .with(pro)
        .with(crate::support::requests::subscribe("acme", "pro").with("paid", true))
        .meter("tokens")
        .prices(json!([{ "unit_cost": "0.25" }]))
        .with(item("acme", "7"))
        .start()
        .await;
    world.turn("2026-10-11T12:00:00Z");
    world
        .used(crate::support::requests::usage("acme", "tokens").quantity(40).at("2026-10-11T00:00:00Z"))
        .await;
    let preview = world.get("/v1/orgs/acme/invoices/preview").await.status(200);
    let told: Vec<Value> = preview
        .list("lines")
        .iter()
        .map(|line| json!([line["kind"], line["quantity"], line["unit_price"], line["amount"]]))
        .collect();
    assert_eq!(
        told,
        [
            json!(["fee", "1", "30", 3000]),
            json!(["item", "1", "7", 700]),
            json!(["usage", "40", "0.25", 1000]),
        ]
    );
    assert_eq!(preview.pick(["totals.total", "number"]), json!([4700, null]));
    assert_eq!(world.number("SELECT count(*) FROM own_invoices"), 0);
}
