//! Requests of these tests, and a month of every kind of entry.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::requests::{Request, request};
use crate::support::world::{Setup, World};

/// Deterministic: the key of RFC 8032, 7.1, test 1.
pub(super) const KEY: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

pub(super) fn put(path: impl Into<String>, body: Value) -> Request {
    request(Method::PUT, path.into(), body)
}

pub(super) fn post(path: impl Into<String>, body: Value) -> Request {
    request(Method::POST, path.into(), body)
}

/// The billing profile of an org that buys in a currency.
pub(super) fn profile(org: &str, currency: &str) -> Request {
    let party = json!({ "name": format!("{org} Śląsk; \"GmbH\""),
        "address": { "line1": "Street 2", "postal_code": "80331", "city": "Munich", "country": "DE" } });
    put(
        format!("/v1/orgs/{org}/billing"),
        json!({ "party": party, "currency": currency, "automatic": false }),
    )
}

/// A finalised invoice of lines: kind, price in major units, key of the tax rate.
pub(super) fn invoice(org: &str, lines: &[(&str, &str, &str)]) -> Request {
    let line = |&(kind, price, rate): &(&str, &str, &str)| {
        // A price below 0 is a quantity below 0.
        let (quantity, price) = price.strip_prefix('-').map_or(("1", price), |price| ("-1", price));
        json!({ "description": "work", "kind": kind, "quantity": quantity, "unit_price": price,
            "tax_rate": rate })
    };
    let items: Vec<Value> = lines.iter().map(line).collect();
    post("/v1/invoices", json!({ "org": org, "items": items, "finalize": true }))
}

pub(super) fn payment(org: &str, currency: &str, amount: i64, reference: &str) -> Request {
    let body = json!({ "org": org, "amount": amount, "currency": currency, "processor": "paypal",
        "reference": reference });
    post("/v1/payments", body)
}

/// A seller with two tax rates and reverse charge, and these orgs with their currencies.
pub(super) fn sellers(orgs: &[(&str, &str)]) -> Setup {
    let rate = |category: &str, percent: &str| {
        let reason = (category == "AE").then_some("Reverse charge");
        json!({ "name": "VAT", "category": category, "percent": percent, "exemption_reason": reason })
    };
    let seller = json!({ "party": { "name": "Blazz Ltd", "address": { "line1": "Main Street 1",
        "postal_code": "10115", "city": "Berlin", "country": "DE" }, "vat_id": "DE123456789" },
        "settings": { "tax_rate": "vat19" }, "default": true });
    let account = json!({ "seller": "blazz", "processor": "bank_transfer", "name": "Bank" });
    let mut setup = World::new()
        .at("2026-03-05T12:00:00Z")
        .scopes("billing:write,billing:read,usage:read,usage:write,usage:backfill")
        .with(put("/v1/tax_rates/vat19", rate("S", "19")))
        .with(put("/v1/tax_rates/vat7", rate("S", "7")))
        .with(put("/v1/tax_rates/reverse", rate("AE", "0")))
        .with(put("/v1/sellers/blazz", seller))
        .with(put("/v1/payment_accounts/bank", account));
    for (org, currency) in orgs {
        setup = setup.org(org).with(profile(org, currency));
    }
    setup
}

/// Ids of the month's documents.
pub(super) struct Books {
    pub(super) paid: String,
    pub(super) open: String,
    pub(super) payment: String,
}

/// March: every kind of entry, in three currencies, and usage.
pub(super) async fn march(world: &World) -> Books {
    let id = async |request: Request| world.send(request).await.status(201).id();
    let paid = id(invoice("acme", &[("item", "100.00", "vat19"), ("proration", "49.99", "vat7")])).await;
    let first = payment("acme", "eur", 20_000, "PAY-1").with("fee", 250);
    let first = id(first).await;
    let open = id(invoice("acme", &[("item", "33.33", "vat19"), ("item", "11.11", "vat19")])).await;
    let note = json!({ "invoice": paid, "reason": "too much", "lines": [{ "line": 2, "amount": 1_234 }] });
    id(post("/v1/credit_notes", note)).await;
    let body = json!({ "amount": 1_000, "reason": "asked for" });
    id(post(format!("/v1/payments/{first}/refund"), body)).await;
    let lost = id(invoice("bolt", &[("item", "80.00", "reverse"), ("item", "-30.00", "vat7")])).await;
    world.send(post(format!("/v1/invoices/{lost}/write_off"), Value::Null)).await.ok();
    let late = payment("bolt", "eur", 2_000, "PAY-2").with("processor", "bank_transfer");
    let late = id(late.with("invoices", json!([{ "invoice": lost }]))).await;
    id(post(format!("/v1/payments/{late}/reverse"), json!({ "amount": 500, "reason": "bounced" }))).await;
    let wrong = id(invoice("bolt", &[("item", "10.01", "vat19"), ("item", "5.55", "vat19")])).await;
    let note = json!({ "invoice": wrong, "reason": "part", "lines": [{ "line": 1, "amount": 333 }] });
    id(post("/v1/credit_notes", note)).await;
    world.send(post(format!("/v1/invoices/{wrong}/void"), Value::Null)).await.ok();
    id(invoice("yen", &[("item", "50000", "vat19")])).await;
    id(payment("yen", "jpy", 60_000, "PAY-3")).await;
    id(invoice("usa", &[("item", "12.00", "reverse")])).await;
    for (amount, is_opening) in [(-700, false), (4_200, true)] {
        let body = json!({ "amount": amount, "currency": "eur", "reason": "taken over",
            "opening_balance": is_opening });
        world.send(post("/v1/orgs/bolt/account/adjustments", body)).await.ok();
    }
    Books { paid, open, payment: first }
}

/// The orgs of [`march`].
pub(super) fn orgs() -> Setup {
    sellers(&[("acme", "eur"), ("bolt", "eur"), ("yen", "jpy"), ("usa", "usd")])
}

/// A file of a closed month, or a journal: its bytes.
pub(super) async fn file(world: &World, path: &str) -> Vec<u8> {
    let response = world.daemon().request(Method::GET, path, &world.key).send().await.expect("an answer");
    let (status, digest) = (response.status(), response.headers().get("Coulomb-Content-SHA256").cloned());
    let bytes = response.bytes().await.expect("a body").to_vec();
    assert!(status.is_success(), "{path}: {status} {}", String::from_utf8_lossy(&bytes));
    let digest = digest.expect("a digest").to_str().expect("text").to_owned();
    assert_eq!(digest, sha256(&bytes), "{path}");
    bytes
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    hex::encode(Sha256::digest(bytes))
}

/// What `coulomb verify` finds, line by line.
pub(super) fn differences(world: &World, settings: &[(&str, &str)]) -> Vec<String> {
    let output = world.command(&["verify"]).envs(settings.iter().copied()).output().expect("it runs");
    let found: Vec<String> = String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect();
    let wanted = if found.is_empty() { 0 } else { 3 };
    assert_eq!(output.status.code(), Some(wanted), "{}", String::from_utf8_lossy(&output.stderr));
    found
}
