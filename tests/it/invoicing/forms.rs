//! The forms of a document: page, PDF, e-invoices.

use reqwest::Method;
use reqwest::header::{CONTENT_DISPOSITION, CONTENT_TYPE};
use serde_json::json;

use crate::support::World;
use crate::support::invoicing::{billing, credit_note, invoice, seller, tax_rate};

/// A form as it was answered: status, content type, content disposition, and the body.
struct Form {
    status: u16,
    kind: String,
    disposition: String,
    body: Vec<u8>,
}

impl Form {
    fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

async fn form(world: &World, path: &str) -> Form {
    let response = world.daemon().request(Method::GET, path, &world.key).send().await.expect("an answer");
    let header = |name| {
        response.headers().get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let (status, kind) = (response.status().as_u16(), header(CONTENT_TYPE));
    let disposition = header(CONTENT_DISPOSITION);
    Form { status, kind, disposition, body: response.bytes().await.expect("a body").to_vec() }
}

/// An invoice of 100.00 euro and 19 % of tax, from a German seller to a German buyer.
async fn world() -> (World, String) {
    let contact = seller("blazz")
        .with("settings.tax_rate", "vat")
        .with("party.email", "billing@blazz.example")
        .with("party.phone", "+49 30 1")
        .with("party.contact", "Billing")
        .with("party.electronic_address", json!({ "scheme": "9930", "id": "DE123456789" }));
    let buyer = billing("acme")
        .with("party.electronic_address", json!({ "scheme": "9930", "id": "DE987654321" }))
        .with("buyer_reference", "04011000-12345-34");
    let account = crate::support::requests::request(
        Method::PUT,
        "/v1/payment_accounts/bank",
        json!({ "seller": "blazz", "name": "Bank", "shown": true, "iban": "DE89370400440532013000" }),
    );
    let world = World::new().at("2026-10-10T12:00:00Z").with(tax_rate("vat", "19")).with(contact);
    let world = world.org("acme").with(buyer).with(account).start().await;
    let id = world.send(invoice("acme").item("100").finalized()).await.status(201).id();
    (world, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_document_has_every_form() {
    let (world, id) = world().await;
    let path = format!("/v1/invoices/{id}/document");
    for (query, kind, ending, begins, has) in [
        ("", "text/html; charset=utf-8", "html", "<!", "INV-2026-000001"),
        ("?format=html&language=de", "text/html; charset=utf-8", "html", "<!", "Rechnung"),
        ("?format=pdf", "application/pdf", "pdf", "%PDF-", ""),
        ("?format=facturx", "application/pdf", "pdf", "%PDF-", "factur-x.xml"),
        ("?format=ubl", "application/xml", "xml", "<?xml", "INV-2026-000001"),
        ("?format=ubl&profile=xrechnung", "application/xml", "xml", "<?xml", "xrechnung_3.0"),
        ("?format=cii&profile=peppol", "application/xml", "xml", "<?xml", "INV-2026-000001"),
        ("?format=json", "application/json", "json", "{", "\"total\":11900"),
    ] {
        let made = form(&world, &format!("{path}{query}")).await;
        let text = made.text();
        let told: String = text.chars().take(400).collect();
        assert_eq!((made.status, made.kind.as_str()), (200, kind), "{query}: {told}");
        assert_eq!(made.disposition, format!("inline; filename=\"INV-2026-000001.{ending}\""), "{query}");
        assert!(text.starts_with(begins) && text.contains(has), "{query}: {told}");
        assert!(
            form(&world, &format!("{path}{query}")).await.body == made.body,
            "{query} differs when made again"
        );
    }
    let note = world.send(credit_note(&id)).await.status(201).id();
    let note = form(&world, &format!("/v1/credit_notes/{note}/document?format=ubl")).await;
    assert_eq!((note.status, note.text().contains("CreditNote")), (200, true), "{}", note.text());
    let draft = world.send(invoice("acme").item("1")).await.status(201).id();
    let draft = form(&world, &format!("/v1/invoices/{draft}/document?format=json")).await;
    assert_eq!(draft.disposition, "inline; filename=\"draft.json\"");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_form_lacks_is_named() {
    let (world, id) = world().await;
    let path = format!("/v1/invoices/{id}/document");
    for (query, field) in [
        ("format=word", "format"),
        ("format=pdf&profile=peppol", "profile"),
        ("format=ubl&profile=other", "profile"),
        ("language=xx", "language"),
        ("format=ubl&language=xx", "language"),
    ] {
        world.get(&format!("{path}?{query}")).await.names(400, field);
    }
    // Without an electronic address Peppol cannot deliver it.
    let bare = billing("acme");
    world.send(bare).await.status(200);
    let id = world.send(invoice("acme").item("1").finalized()).await.status(201).id();
    let refused = world.get(&format!("/v1/invoices/{id}/document?format=ubl&profile=peppol")).await;
    let told = refused.clone().refused(409, "no_e_invoice").text("detail");
    assert!(told.contains("buyer.electronic_address"), "{told}");
}

/// The template of the settings is used, and one that is wrong stops the start with a sentence.
#[tokio::test(flavor = "multi_thread")]
async fn operators_may_have_a_template_of_their_own() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("invoice.html");
    std::fs::write(&file, "<!doctype html><p>Ours: {{ number or \"draft\" }}</p>").expect("written");
    let path = file.to_str().expect("text").to_owned();
    let world = World::new().setting("COULOMB_INVOICE_TEMPLATE", &path).invoiced("acme").start().await;
    let id = world.invoiced("acme", "5").await;
    let page = form(&world, &format!("/v1/invoices/{id}/document")).await;
    assert!(page.text().contains("Ours: INV-"), "{}", page.text());

    for (text, why) in [(Some("{{ seler.name }}"), "seler"), (None, "No such file")] {
        match text {
            Some(text) => std::fs::write(&file, text).expect("written"),
            None => std::fs::remove_file(&file).expect("removed"),
        }
        let mut serve = world.command(&["serve"]);
        let done = serve.env("COULOMB_LISTEN", "127.0.0.1:0").env("COULOMB_INVOICE_TEMPLATE", &path).output();
        let done = done.expect("it runs");
        let told = String::from_utf8_lossy(&done.stderr).into_owned();
        assert_eq!(done.status.code(), Some(2), "{told}");
        let last = told.lines().last().unwrap_or_default().to_owned();
        assert!(last.contains("COULOMB_INVOICE_TEMPLATE names") && last.contains(why), "{last}");
    }
}
