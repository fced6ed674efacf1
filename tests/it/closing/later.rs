//! What comes after a month is closed: its files stay, and what corrects it stands in the open month.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::books::{differences, file, invoice, march, orgs, payment, post, sha256};
use crate::support::requests::{rate_card, usage};
use crate::support::world::World;

const FILES: [&str; 6] = [
    "/v1/closings/2026-03/export?of=usage",
    "/v1/closings/2026-03/export?of=documents",
    "/v1/closings/2026-03/export?of=entries",
    "/v1/journals/2026-03?format=hledger",
    "/v1/journals/2026-03?format=beancount",
    "/v1/journals/2026-03?format=csv",
];

async fn digests(world: &World) -> Vec<String> {
    let mut digests = Vec::new();
    for path in FILES {
        digests.push(sha256(&file(world, path).await));
    }
    digests
}

#[tokio::test]
async fn a_closed_months_files_stay_and_corrections_name_it() {
    let world = orgs().meter("tokens").start().await;
    world.send(rate_card("tokens", json!([{ "unit_cost": "0.25" }]))).await.ok();
    let books = march(&world).await;
    let early = "2026-03-05T12:00:01Z";
    world.turn("2026-03-05T12:00:10Z");
    world.used(usage("acme", "tokens").with("id", "=1+1").quantity(8).at(early)).await;
    world.used(usage("bolt", "tokens").quantity("2.5").at(early)).await;
    world.turn("2026-04-02T12:00:00Z");
    let closed = world.post("/v1/closings", json!({ "month": "2026-03" })).await.status(200);
    let before = digests(&world).await;
    for (place, part) in ["usage", "documents", "entries"].into_iter().enumerate() {
        assert_eq!(closed.text(&format!("manifest.{part}.sha256")), before[place], "{part}");
    }
    assert_eq!(closed.at("manifest.usage.meters.0.quantity"), "10.5");
    assert_eq!(closed.at("manifest.usage.meters.0.cost"), "2.625");

    world.used(usage("acme", "tokens").quantity(100).at(early)).await;
    let void = json!({ "org": "acme", "id": "=1+1", "source": "t", "reason": "wrong" });
    world.post("/v1/usage/void", void).await.ok();
    world.post(&format!("/v1/invoices/{}/void", books.open), Value::Null).await.ok();
    let refund = json!({ "amount": 500, "reason": "late", "at": "2026-03-20T00:00:00Z" });
    world.post(&format!("/v1/payments/{}/refund", books.payment), refund).await.ok();
    world.send(post("/v1/credit_notes", json!({ "invoice": books.paid, "reason": "late" }))).await.ok();
    // This one is of April, and of a payment of March.
    let refund = json!({ "amount": 100, "reason": "later", "reference": "later" });
    world.post(&format!("/v1/payments/{}/refund", books.payment), refund).await.ok();
    let paid_before = payment("acme", "eur", 1_000, "LATE").with("paid_at", "2026-03-31T10:00:00Z");
    world.send(paid_before).await.status(201);
    // What belongs to April names no month.
    world.send(invoice("acme", &[("item", "1.00", "vat19")])).await.status(201);
    // Names of orgs may change; those in the files do not.
    world.execute("UPDATE orgs SET name = 'another'");
    assert_eq!(digests(&world).await, before);

    world.turn("2026-05-02T12:00:00Z");
    world.post("/v1/closings", json!({ "month": "2026-04" })).await.status(200);
    let april = |of: &str| format!("/v1/closings/2026-04/export?of={of}");
    let entries = String::from_utf8(file(&world, &april("entries")).await).expect("UTF-8");
    let column = |line: &str, place: usize| line.split(',').nth(place).expect("a column").to_owned();
    let mut kinds: Vec<String> =
        entries.lines().skip(1).map(|line| format!("{} {}", column(line, 5), column(line, 9))).collect();
    kinds.sort();
    let expected = [
        "credit_note 2026-03",
        "invoice ",
        "payment 2026-03",
        "refund 2026-03",
        "refund 2026-03",
        "void 2026-03",
    ];
    assert_eq!(kinds, expected);
    let records = String::from_utf8(file(&world, &april("usage")).await).expect("UTF-8");
    let late: Vec<&str> = records.lines().skip(1).filter(|line| line.contains(",2026-03-05,")).collect();
    assert_eq!(late.len(), 2, "{records}");
    assert!(late[1].contains(",'=1+1,tokens,1,") || late[0].contains(",'=1+1,tokens,1,"), "{records}");
    let journal = file(&world, "/v1/journals/2026-04?format=csv").await;
    let journal = String::from_utf8(journal).expect("UTF-8");
    let of_march = journal.lines().filter(|line| line.contains(",2026-03,"));
    let of_march: BTreeSet<&str> = of_march.filter_map(|line| line.split(',').next()).collect();
    assert_eq!(of_march.len(), 5, "{journal}");
    assert_eq!(digests(&world).await, before);
    assert_eq!(differences(&world, &[]), [] as [String; 0]);
}
