//! What each filter keeps of both origins.

use super::{books, exported};
use crate::support::invoicing::{invoice, on_invoice, payment};

/// How many rows of Stripe's and of our own each filter keeps.
#[tokio::test]
async fn each_filter_narrows_both_origins() {
    let (world, _) = books().await;
    // Two more of our own: one void, and one that is paid in dollars.
    let void = world.invoiced("acme", "7").await;
    world.send(on_invoice(&void, "void")).await.ok();
    let dollars = world.send(invoice("acme").item("9").currency("usd").finalized()).await.status(201).id();
    world.send(payment("acme", 900).currency("usd").for_invoices([&dollars])).await.status(201);
    world.turn("2026-10-25T00:00:01Z");
    let count = async |query: &str| {
        let rows = exported(&world, query).await;
        let of = |origin: &str| rows.iter().filter(|row| row["origin"] == origin).count();
        (of("stripe"), of("own"))
    };
    for (query, stripe, own) in [
        ("", 1, 3),
        ("origin=all", 1, 3),
        ("origin=stripe", 1, 0),
        ("origin=own", 0, 3),
        ("status=open", 1, 1),
        ("status=paid", 0, 1),
        ("status=void,paid", 0, 2),
        ("void=exclude", 1, 2),
        ("void=only", 0, 1),
        ("currency=eur", 1, 2),
        ("currency=usd", 0, 1),
        ("number=INV-2026-000001", 0, 1),
        ("number=N-in_1", 1, 0),
        ("subscription=sub_1", 1, 0),
        ("subscription=lsub_1", 0, 0),
        ("org=acme", 1, 3),
        ("customer=cus_a", 1, 0),
        ("account=acct_1", 0, 0),
        ("livemode=true", 0, 0),
        ("livemode=false", 1, 3),
        ("created_from=2026-10-10T12:00:00Z", 0, 3),
        ("created_before=2026-10-10T12:00:00Z", 1, 0),
        ("issued_from=2026-10-10&issued_before=2026-10-11", 1, 1),
        ("issued_from=2026-10-13", 0, 2),
        ("paid_from=2026-10-13", 0, 1),
        ("paid_before=2026-10-13", 0, 0),
        ("due_from=2026-10-25&due_before=2026-10-26", 0, 1),
        ("due_from=2026-10-29", 1, 0),
        ("overdue=true", 0, 1),
        ("overdue=false", 1, 2),
        ("of=lines&status=open", 1, 2),
        ("of=lines&overdue=true", 0, 2),
        ("of=lines&number=INV-2026-000001", 0, 2),
        ("of=lines&customer=cus_a", 1, 0),
        ("of=payments&paid_from=2026-10-11", 0, 2),
        ("of=payments&paid_before=2026-10-11T09:00:01Z&origin=own", 0, 1),
        ("of=payments&number=INV-2026-000001", 0, 1),
        ("of=payments&status=succeeded", 1, 2),
        ("of=payments&status=failed", 0, 0),
        ("of=payments&currency=usd", 0, 1),
        ("of=payments&subscription=lsub_1", 0, 0),
        ("of=payments&customer=cus_a", 1, 0),
        ("of=refunds&number=INV-2026-000001", 0, 1),
        ("of=refunds&status=succeeded", 1, 1),
        ("of=refunds&status=pending", 0, 0),
        ("of=credit_notes&number=CN-2026-000001", 0, 1),
        ("of=credit_notes&issued_from=2026-10-12&issued_before=2026-10-13", 0, 1),
        ("of=credit_notes&void=only", 0, 0),
        ("of=credit_notes&void=exclude", 1, 1),
        ("of=credit_notes&status=void", 0, 0),
        ("of=credit_note_lines&number=CN-2026-000001", 0, 1),
        ("of=customers", 1, 1),
        ("of=customers&currency=eur", 0, 1),
        ("of=customers&currency=usd", 0, 0),
        ("of=customers&origin=own", 0, 1),
    ] {
        assert_eq!(count(query).await, (stripe, own), "{query}");
    }
    for (query, field) in [("origin=ours", "origin"), ("of=disputes&origin=own", "origin")] {
        world.get(&format!("/v1/invoices/export?{query}")).await.names(400, field);
    }
}
