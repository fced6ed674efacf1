//! Credit notes.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::invoicing::{credit_note, invoice, item, tax_rate};

/// A credit of 100 pays 10 of one invoice, and 90 of the next one of 200, which asks for 110
/// (odoo #3648).
#[tokio::test]
async fn unused_credit_pays_invoice_after_invoice() {
    let world = World::new().invoiced("acme").start().await;
    let first = world.invoiced("acme", "100").await;
    world.paid("acme", 10_000).await;
    world.send(credit_note(&first)).await.status(201);
    assert_eq!(world.stands(&first).await, "paid 0");
    assert_eq!(world.account("acme").await, "-10000/0/10000");
    let second = world.invoiced("acme", "10").await;
    assert_eq!(
        (world.stands(&second).await.as_str(), &*world.account("acme").await),
        ("paid 0", "-9000/0/9000")
    );
    let third = world.invoiced("acme", "200").await;
    assert_eq!(world.stands(&third).await, "open 11000");
    let document = world.get(&format!("/v1/invoices/{third}/document?format=json")).await;
    let totals = ["totals.total", "totals.credited", "totals.due", "credits.0.amount"];
    assert_eq!(document.pick(totals), json!([20_000, 9000, 11_000, 9000]));
    assert_eq!(world.account("acme").await, "11000/11000/0");
    world.books_add_up();
}

/// Three notes of a third each: their tax adds up to the invoice's. 10.00 + 19 % = 11.90; thirds of the
/// tax of 1.90 are 0.63, 0.64 and 0.63 (lago-api #2643, #4553).
#[tokio::test]
async fn part_notes_add_up_to_the_invoice_to_the_cent() {
    let world = World::new().invoiced("acme").with(tax_rate("vat", "19")).start().await;
    let made = invoice("acme")
        .with("items", json!([{ "description": "work", "unit_price": "10", "tax_rate": "vat" }]));
    let id = world.send(made.finalized()).await.status(201).id();
    let mut notes = Vec::new();
    for amount in [333, 333] {
        let note = world.send(credit_note(&id).credits(1, amount)).await.status(201);
        notes.push(note.pick(["net_total", "tax_total"]));
    }
    world.send(credit_note(&id).credits(1, 335)).await.names(400, "amount");
    let last = world.send(credit_note(&id)).await.status(201);
    notes.push(last.pick(["net_total", "tax_total"]));
    // 19 % of 10.00, 6.67, 3.34 and 0: 1.90, 1.27 (1.2673), 0.63 (0.6346), 0.
    assert_eq!(notes, [json!([333, 63]), json!([333, 64]), json!([334, 63])]);
    assert_eq!(world.stands(&id).await, "paid 0");
    assert_eq!(world.account("acme").await, "0/0/0");
    world.books_add_up();
}

#[tokio::test]
async fn a_note_names_lines_that_the_invoice_has() {
    let world = World::new().invoiced("acme").start().await;
    let id = world.send(invoice("acme").item("10").item("20").finalized()).await.status(201).id();
    for (what, wrong, field) in [
        ("a line that is not there", credit_note(&id).credits(3, 100), "lines"),
        ("a line twice", credit_note(&id).credits(1, 100).credits(1, 100), "lines"),
        ("more than the line", credit_note(&id).credits(1, 1001), "amount"),
        ("less than nothing", credit_note(&id).credits(1, -1), "amount"),
        ("nothing", credit_note(&id).with("lines", json!([])), "lines"),
        ("no reason", credit_note(&id).with("reason", ""), "reason"),
        ("no invoice", credit_note("inv_none"), "invoice"),
    ] {
        let refused = world.send(wrong).await;
        assert_eq!((refused.status, refused["field"].as_str()), (400, Some(field)), "{what}: {refused}");
    }
    let note = world.send(credit_note(&id).credits(2, 500)).await.status(201);
    let shown = world.get(&format!("/v1/credit_notes/{}", note.id())).await.status(200);
    assert_eq!(
        shown.pick(["origin", "total", "lines.0.line_number", "lines.0.amount", "memo", "status"]),
        json!(["own", 500, 1, 500, "a test", "issued"])
    );
    let document = world.get(&format!("/v1/credit_notes/{}/document?format=json", note.id())).await;
    assert_eq!(
        document.pick(["kind", "invoice.id", "lines.0.number", "totals.total"]),
        json!(["credit_note", id, 2, 500])
    );
    // A draft has nothing to take back.
    world.send(item("acme", "5")).await.status(201);
    let draft = world.send(invoice("acme")).await.status(201).id();
    world.send(credit_note(&draft)).await.refused(409, "invoice_is_draft");
    world.books_add_up();
}

/// Goods of 100.00, a gift of −40.00, 19 % of tax: 119.00 − 47.60 = 71.40. No more goes back.
#[tokio::test]
async fn credit_notes_never_come_to_more_than_their_invoice() {
    let world = World::new().invoiced("acme").with(tax_rate("vat19", "19")).with(tax_rate("vat7", "7"));
    let world = world.start().await;
    let sold = async |lines: Value| {
        world.send(invoice("acme").with("items", lines).finalized()).await.status(201).id()
    };
    let goods = json!({ "description": "goods", "unit_price": "100", "tax_rate": "vat19" });
    let gift = json!({ "description": "gift", "unit_price": "40", "quantity": "-1", "tax_rate": "vat19" });
    let id = sold(json!([goods, gift])).await;
    world.paid("acme", 7140).await;
    let too_much = world.send(credit_note(&id).credits(1, 10_000)).await.names(400, "lines");
    assert!(too_much.text("detail").contains("at most 7140"), "{too_much}");
    world.send(credit_note(&id).credits(1, 6001)).await.names(400, "lines");
    // 20.00 + 19 % = 23.80 goes back; 71.40 − 23.80 = 47.60 is left, and is one credit note.
    assert_eq!(world.send(credit_note(&id).credits(1, 2000)).await.status(201)["total"], 2380);
    let too_much = world.send(credit_note(&id).credits(1, 4001)).await.names(400, "lines");
    assert!(too_much.text("detail").contains("at most 4760"), "{too_much}");
    let rest = world.send(credit_note(&id)).await.status(201);
    assert_eq!(rest.pick(["net_total", "tax_total", "total"]), json!([4000, 760, 4760]));
    let nothing = world.send(credit_note(&id)).await.names(400, "lines");
    assert!(nothing.text("detail").contains("nothing is left"), "{nothing}");
    assert_eq!(world.account("acme").await, "-7140/0/7140");

    // 100.00 at 19 % and −40.00 at 7 %: 119.00 − 42.80 = 76.20. A note on line 1 alone stops there.
    let cheap = json!({ "description": "back", "unit_price": "40", "quantity": "-1", "tax_rate": "vat7" });
    let id = sold(json!([goods, cheap])).await;
    world.send(credit_note(&id).credits(1, 10_000)).await.names(400, "lines");
    assert_eq!(world.send(credit_note(&id).credits(1, 5000)).await.status(201)["total"], 5950);
    assert_eq!(world.send(credit_note(&id)).await.status(201)["total"], 7620 - 5950);

    // 10.00 and −30.00 at 7 %, 100.00 at 19 %: nothing of the 7 % was charged that could go back.
    let small = json!({ "description": "small", "unit_price": "10", "tax_rate": "vat7" });
    let back = json!({ "description": "back", "unit_price": "30", "quantity": "-1", "tax_rate": "vat7" });
    let id = sold(json!([small, back, goods])).await;
    let refused = world.send(credit_note(&id).credits(1, 1000)).await.names(400, "lines");
    assert!(refused.text("detail").contains("tax rate of 7 %: -2000 is left"), "{refused}");
    let all = world.send(credit_note(&id)).await.status(201);
    assert_eq!(all.pick(["net_total", "tax_total", "total"]), json!([8000, 1760, 9760]));
    world.books_add_up();
}
