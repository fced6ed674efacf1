//! What the parameters keep: by due date, number, subscription, void documents, and days of a time zone.

use std::collections::BTreeSet;

use coulomb::billing::exports::Kind;

use super::{books, bytes, rows};
use crate::support::objects::invoice;
use crate::support::{Daemon, World};

/// Five invoices of 15 November 2026, at noon of the 20th.
async fn five_invoices() -> World {
    let world = World::new().at("2026-11-20T12:00:00Z").start().await;
    let issued = |id: &str, status: &str| invoice(id).status(status).issued("2026-11-15T10:00:00Z");
    world
        .tell([
            issued("in_late", "open").due("2026-11-20T11:59:59Z").created_event(),
            issued("in_now", "open").due("2026-11-20T12:00:00Z").created_event(),
            issued("in_paid", "paid").due("2026-11-16T00:00:00Z").bills("sub_2").created_event(),
            issued("in_void", "void").due("2026-11-16T00:00:00Z").created_event(),
            issued("in_open", "open").created_event(),
        ])
        .await;
    world
}

/// The cells of one column.
async fn column(world: &World, query: &str, name: &str) -> Vec<String> {
    let csv = bytes(world.daemon(), &world.key, query).await;
    rows(&csv).iter().map(|row| row[name].clone()).collect()
}

#[tokio::test]
async fn each_filter_keeps_what_it_names() {
    let world = five_invoices().await;
    for (query, expected) in [
        ("", &["in_late", "in_now", "in_open", "in_paid", "in_void"][..]),
        ("overdue=true", &["in_late"]),
        ("overdue=false", &["in_now", "in_open", "in_paid", "in_void"]),
        ("due_from=2026-11-17", &["in_late", "in_now"]),
        ("due_before=2026-11-17", &["in_paid", "in_void"]),
        ("due_from=2026-11-20T12:00:00Z", &["in_now"]),
        ("void=include", &["in_late", "in_now", "in_open", "in_paid", "in_void"]),
        ("void=exclude", &["in_late", "in_now", "in_open", "in_paid"]),
        ("void=only", &["in_void"]),
        ("number=N-in_open", &["in_open"]),
        ("number=n-in_open", &[]),
        ("subscription=sub_2", &["in_paid"]),
        ("subscription=sub_1&void=exclude&due_from=2026-11-20", &["in_late", "in_now"]),
    ] {
        assert_eq!(column(&world, query, "id").await, expected, "{query}");
        let of_lines = column(&world, &format!("of=lines&{query}"), "invoice_id").await;
        if query != "subscription=sub_2" {
            assert_eq!(of_lines, expected, "lines {query}");
        }
    }
    world.turn("2026-11-20T12:00:01Z");
    assert_eq!(column(&world, "overdue=true", "id").await, ["in_late", "in_now"]);
}

#[tokio::test]
async fn days_and_times_are_those_of_the_zone() {
    let world = World::new().at("2026-11-20T12:00:00Z").start().await;
    // In Berlin the first one belongs to March, the others to 1 April. Summer time has begun.
    for (id, at) in [
        ("in_1", "2026-03-31T21:59:59Z"),
        ("in_2", "2026-03-31T22:00:00Z"),
        ("in_3", "2026-04-01T21:59:59Z"),
        ("in_4", "2026-04-01T22:00:00Z"),
    ] {
        world.tell([invoice(id).status("open").issued(at).created_event()]).await;
    }
    let day = "issued_from=2026-04-01&issued_before=2026-04-02";
    assert_eq!(column(&world, day, "id").await, ["in_3", "in_4"]);
    let day = format!("{day}&time_zone=Europe/Berlin");
    assert_eq!(column(&world, &day, "id").await, ["in_2", "in_3"]);
    let told = ["2026-04-01T00:00:00+02:00", "2026-04-01T23:59:59+02:00"];
    assert_eq!(column(&world, &day, "finalized_at").await, told);
    let lines = bytes(world.daemon(), &world.key, &format!("{day}&format=jsonl")).await;
    assert!(
        String::from_utf8(lines).expect("UTF-8").contains(r#""finalized_at":"2026-04-01T00:00:00+02:00""#)
    );
    // An instant needs no zone, and 46113 is 1 April 2026 in a spreadsheet.
    let instant = "issued_from=2026-03-31T22:00:00Z&issued_before=2026-03-31T22:00:01Z";
    assert_eq!(column(&world, &format!("{instant}&time_zone=Asia/Tokyo"), "id").await, ["in_2"]);
    let book = bytes(world.daemon(), &world.key, &format!("{day}&format=xlsx")).await;
    let sheet = super::formats::from_xlsx(book, "invoices");
    let at = sheet[0].iter().position(|name| name == "finalized_at").expect("a column");
    assert_eq!([&*sheet[1][at], &*sheet[2][at]], ["46113.00000", "46113.99999"]);
}

#[tokio::test]
async fn every_bad_value_is_named() {
    let world = five_invoices().await;
    for (query, field) in [
        ("time_zone=Berlin", "time_zone"),
        ("time_zone=", "time_zone"),
        ("due_from=soon", "due_from"),
        ("due_from=2026-02-01&due_before=2026-02-01", "due_before"),
        ("overdue=yes", "overdue"),
        ("void=both", "void"),
        ("number=", "number"),
        ("subscription=", "subscription"),
        ("of=refunds&overdue=true", "overdue"),
        ("of=payments&due_from=2026-01-01", "due_from"),
        ("of=refunds&void=only", "void"),
        ("of=customers&subscription=sub_1", "subscription"),
        ("of=customers&number=N-1", "number"),
    ] {
        let path = format!("/v1/invoices/export?{query}");
        world.get(&path).await.names(400, field);
    }
    world.get("/v1/battery/export?time_zone=CEST").await.names(400, "time_zone");
}

#[tokio::test]
async fn the_name_of_the_org_stands_beside_its_ids() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for of in Kind::ALL.map(Kind::name) {
        let all = rows(&bytes(&daemon, &key, &format!("of={of}")).await);
        let names: BTreeSet<_> = all.iter().map(|row| (&*row["org_id"], &*row["org_name"])).collect();
        assert_eq!(Vec::from_iter(names), [("", ""), ("org_a", "Acme"), ("org_b", "Bolt")], "{of}");
    }
}
