//! Sellers, tax rates, coupons, payment accounts and billing profiles: what they must be.

use reqwest::Method;
use serde_json::json;

use crate::support::World;
use crate::support::invoicing::{billing, coupon, seller, tax_rate};
use crate::support::requests::{Request, request};

fn account(id: &str) -> Request {
    let body = json!({ "seller": "blazz", "name": "Bank transfer", "shown": true,
        "iban": "DE89370400440532013000" });
    request(Method::PUT, format!("/v1/payment_accounts/{id}"), body)
}

#[tokio::test]
async fn settings_are_kept_replaced_and_listed() {
    let world = World::new().invoiced("acme").with(coupon("TEN", "10")).with(account("bank")).start().await;
    for (kind, id, field, value) in [
        ("sellers", "blazz", "party.name", json!("Renamed")),
        ("tax_rates", "zero", "name", json!("PPN")),
        ("coupons", "TEN", "percent", json!("12.5")),
        ("payment_accounts", "bank", "name", json!("Our bank")),
    ] {
        let (path, key) = (format!("/v1/{kind}/{id}"), if kind == "coupons" { "code" } else { "id" });
        let before = world.get(&path).await.status(200);
        let mut body = before.body.clone();
        for shown in ["id", "code", "created_at", "updated_at", "uses"] {
            body.as_object_mut().expect("fields").remove(shown);
        }
        let changed = request(Method::PUT, &path, body).with(field, value.clone());
        let mut second = changed.clone();
        second.path = format!("/v1/{kind}/second");
        if kind == "sellers" {
            second = second.with("default", false);
        }
        let put = world.send(changed).await.status(200);
        assert_eq!((put.at(field), &put[key]), (&value, &json!(id)), "{put}");
        assert_eq!(world.get(&path).await.body, put.body);
        assert_eq!(put["created_at"], before["created_at"]);
        world.send(second).await.status(200);
        world.get(&format!("/v1/{kind}/none")).await.status(404);
    }
    let more = tax_rate("a-rate", "5");
    world.send(more).await.status(200);
    let pages = world.all("/v1/tax_rates?", 1).await;
    assert_eq!(pages.iter().map(|rate| &rate["id"]).collect::<Vec<_>>(), ["a-rate", "second", "zero"]);
}

#[tokio::test]
async fn what_is_wrong_names_its_field() {
    let world = World::new().invoiced("acme").start().await;
    for (wrong, status, field) in [
        (seller("UPPER"), 400, "id"),
        (seller("s").with("party.name", ""), 400, "name"),
        (seller("s").with("party.vat_id", "123"), 400, "vat_id"),
        (seller("s").with("party.address.country", "de"), 400, "address.country"),
        (seller("s").with("settings.time_zone", "Mars/Phobos"), 400, "settings.time_zone"),
        (seller("s").with("settings.credit_note_prefix", "INV-"), 400, "settings.credit_note_prefix"),
        (seller("s").with("settings.tax_rate", "none"), 400, "settings.tax_rate"),
        (seller("s").with("settings.terms_days", 366), 400, "settings.terms_days"),
        (seller("s").with("settings.reminder_days", json!([3, 2])), 400, "settings.reminder_days"),
        (seller("s").with("settings.colour", 1), 400, "settings.colour"),
        (tax_rate("r", "101"), 400, "percent"),
        (tax_rate("r", "-1"), 400, "percent"),
        (tax_rate("r", "0").with("category", "AE"), 400, "exemption_reason"),
        (tax_rate("r", "19").with("category", "Z"), 400, "percent"),
        (coupon("a b", "1").with("percent", "10"), 400, "code"),
        (coupon("C", "0"), 400, "percent"),
        (coupon("C", "10").with("amount", 5), 400, "percent"),
        (coupon("C", "10").with("minimum_amount", 5), 400, "currency"),
        (account("bank").with("iban", "DE89370400440532013001"), 400, "iban"),
        (account("bank").with("seller", "none"), 400, "seller"),
        (billing("acme").with("currency", "EUR"), 400, "currency"),
        (billing("acme").with("tax_rate", "none"), 400, "tax_rate"),
        (billing("acme").with("seller", "none"), 400, "seller"),
        (billing("nobody"), 404, "id"),
    ] {
        let refused = world.send(wrong).await;
        assert_eq!((refused.status, refused["field"].as_str()), (status, Some(field)), "{refused}");
    }
    world.send(seller("second")).await.refused(409, "default_taken");
}
