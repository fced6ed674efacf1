use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{at, fixture, payment_ids, read_live, text, try_read};
use crate::billing::MirrorBatch;
use crate::billing::invoices::{Invoice, InvoiceLine, InvoiceWithLines};

fn only(batch: &MirrorBatch) -> &InvoiceWithLines {
    let [read] = &*batch.invoices else { panic!("one invoice expected: {batch:?}") };
    read
}

#[test]
fn before_basil() {
    let batch = read_live(fixture!("invoice_old"));
    let expected = Invoice {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "in_1".to_owned(),
        customer_id: text("cus_1"),
        subscription_id: text("sub_1"),
        number: text("ABCD-0001"),
        status: text("paid"),
        billing_reason: text("subscription_cycle"),
        collection_method: text("charge_automatically"),
        currency: text("usd"),
        subtotal: Some(11_000),
        discount_total: Some(500),
        tax_total: Some(1_000),
        total: Some(11_500),
        amount_due: Some(11_500),
        amount_paid: Some(11_501),
        amount_remaining: Some(7),
        starting_balance: Some(-2),
        ending_balance: Some(3),
        pre_payment_credit_notes_amount: Some(4),
        post_payment_credit_notes_amount: Some(5),
        period_start: at(1_600_000_007),
        period_end: at(1_600_000_006),
        finalized_at: at(1_600_000_008),
        due_at: at(1_600_000_001),
        paid_at: at(1_600_000_010),
        voided_at: at(1_600_000_011),
        marked_uncollectible_at: at(1_600_000_009),
        next_payment_attempt: at(1_600_000_005),
        attempt_count: Some(2),
        payment_intent_id: text("pi_1"),
        charge_id: text("ch_1"),
        paid_out_of_band: Some(false),
        hosted_invoice_url: text("https://invoice.example.org/1"),
        invoice_pdf: text("https://invoice.example.org/1.pdf"),
        description: text("Thanks"),
        customer_name: text("Ada"),
        customer_email: text("ada@example.org"),
        lines_complete: true,
        created: at(1_600_000_000),
        deleted: false,
        metadata: json!({"po": "77"}),
        customer_address: Some(json!({"city": "Köln", "country": "DE"})),
        customer_tax_exempt: text("reverse"),
        customer_tax_ids: Some(json!([{"type": "eu_vat", "value": "DE123456789"}])),
    };
    assert_eq!(only(&batch).invoice, expected);
    assert_eq!(payment_ids(&batch), ["pi_1"]);
}

#[test]
fn lines_before_basil() {
    let batch = read_live(fixture!("invoice_old"));
    let first = InvoiceLine {
        account: "acct_1".to_owned(),
        livemode: true,
        invoice_id: "in_1".to_owned(),
        line_number: 0,
        id: text("il_1"),
        type_: text("subscription"),
        amount: Some(10_000),
        currency: text("usd"),
        quantity: Some(3),
        description: text("3 seats"),
        period_start: at(1_600_000_002),
        period_end: at(1_602_600_000),
        price_id: text("price_1"),
        product_id: text("prod_1"),
        unit_amount_decimal: Some("3333.333333333333".parse().unwrap()),
        subscription_id: text("sub_1"),
        subscription_item_id: text("si_1"),
        invoice_item_id: None,
        proration: Some(true),
        discount_amount: Some(500),
        tax_amount: Some(1_000),
        metadata: json!({"seat": "yes"}),
        usage_type: None,
        taxes: Some(json!([
            { "amount": 950, "taxable_amount": 9_500, "inclusive": false, "reason": "standard_rated",
              "rate_id": "txr_1", "percentage": "10" },
            { "amount": 50, "taxable_amount": null, "inclusive": true, "reason": null, "rate_id": null,
              "percentage": null },
        ])),
    };
    let second = InvoiceLine {
        line_number: 1,
        id: text("il_2"),
        type_: text("invoiceitem"),
        amount: Some(1_000),
        quantity: Some(1),
        description: text("Setup"),
        period_start: at(1_600_000_003),
        period_end: at(1_600_000_004),
        price_id: text("price_2"),
        product_id: text("prod_2"),
        unit_amount_decimal: Some(Decimal::from(1_000)),
        subscription_id: None,
        subscription_item_id: None,
        invoice_item_id: text("ii_2"),
        proration: Some(false),
        discount_amount: Some(0),
        tax_amount: Some(0),
        metadata: json!({}),
        taxes: Some(json!([])),
        ..first.clone()
    };
    assert_eq!(only(&batch).lines, [first, second]);
}

#[test]
fn since_basil() {
    let batch = read_live(fixture!("invoice_new"));
    let InvoiceWithLines { invoice, lines } = only(&batch);
    assert_eq!(invoice.subscription_id, text("sub_2"));
    assert_eq!(
        (invoice.discount_total, invoice.tax_total, invoice.total),
        (Some(100), Some(2_001), Some(12_000))
    );
    assert_eq!((invoice.amount_paid, invoice.amount_remaining), (Some(0), Some(12_000)));
    assert_eq!((&invoice.payment_intent_id, &invoice.charge_id), (&None, &None));
    assert_eq!((invoice.finalized_at, invoice.due_at), (at(1_750_000_009), at(1_752_600_000)));
    assert!(!invoice.lines_complete, "has_more");
    assert_eq!((&invoice.customer_address, &invoice.customer_tax_ids), (&None, &None));
    let taxes = lines[0].taxes.as_ref().expect("taxes");
    let first = json!({ "amount": 2_000, "taxable_amount": 10_000, "inclusive": false,
        "reason": "standard_rated", "rate_id": "txr_2", "percentage": null });
    assert_eq!((&taxes[0], &taxes[1]["inclusive"]), (&first, &json!(true)));
    assert_eq!(payment_ids(&batch), [] as [&str; 0]);

    let [tokens, setup] = &**lines else { panic!("{lines:?}") };
    assert_eq!(
        (&tokens.type_, &tokens.price_id, &tokens.product_id),
        (&text("subscription"), &text("price_3"), &text("prod_3"))
    );
    assert_eq!((&tokens.subscription_id, &tokens.subscription_item_id), (&text("sub_2"), &text("si_3")));
    assert_eq!((tokens.unit_amount_decimal, tokens.quantity), (Some(Decimal::new(381, 6)), Some(26_246_719)));
    assert_eq!(
        (tokens.discount_amount, tokens.tax_amount, tokens.proration),
        (Some(100), Some(2_001), Some(true))
    );
    assert_eq!((&setup.type_, &setup.invoice_item_id), (&text("invoiceitem"), &text("ii_4")));
    assert_eq!((&setup.subscription_id, &setup.subscription_item_id), (&text("sub_2"), &None));
    assert_eq!(
        (setup.price_id.clone(), setup.unit_amount_decimal, setup.proration),
        (None, None, Some(false))
    );
}

#[test]
fn of_2016() {
    let batch = read_live(fixture!("invoice_2016"));
    let InvoiceWithLines { invoice, lines } = only(&batch);
    assert_eq!((&invoice.status, invoice.created), (&text("paid"), at(1_467_800_000)));
    assert_eq!(
        (invoice.amount_due, invoice.amount_paid, invoice.amount_remaining),
        (Some(900), Some(900), Some(0))
    );
    assert_eq!(payment_ids(&batch), ["ch_0"], "no intent: the charge is the payment");
    let [plan, item] = &**lines else { panic!("{lines:?}") };
    assert_eq!((&plan.subscription_id, &plan.price_id), (&text("sub_0"), &text("gold")));
    assert_eq!((plan.unit_amount_decimal, plan.discount_amount), (Some(Decimal::from(450)), None));
    assert_eq!((&item.invoice_item_id, &item.subscription_id, &item.price_id), (&text("ii_0"), &None, &None));
}

#[test]
fn flags_instead_of_a_status() {
    let cases = [
        (json!({"paid": true, "closed": true, "forgiven": true}), "paid", Some(0)),
        (json!({"paid": false, "closed": true, "forgiven": true}), "uncollectible", Some(900)),
        (json!({"paid": false, "closed": true, "forgiven": false}), "void", Some(900)),
        (json!({"paid": false, "closed": false, "forgiven": false, "attempted": true}), "open", Some(900)),
        (json!({"paid": false, "closed": false, "forgiven": false, "attempted": false}), "draft", Some(900)),
        (json!({"paid": false, "closed": true, "status": "open"}), "open", None),
    ];
    for (mut snapshot, status, remaining) in cases {
        snapshot.as_object_mut().unwrap().extend([
            ("object".to_owned(), json!("invoice")),
            ("id".to_owned(), json!("in_1")),
            ("amount_due".to_owned(), json!(900)),
        ]);
        let batch = read_live(snapshot.clone());
        let invoice = &only(&batch).invoice;
        assert_eq!((&invoice.status, invoice.amount_remaining), (&text(status), remaining), "{snapshot}");
    }
}

#[test]
fn a_deleted_draft_keeps_its_row() {
    let snapshot: Value = fixture!("invoice_new");
    let read = try_read(&snapshot, true).unwrap();
    assert!(only(&read).invoice.deleted);
    assert_eq!(only(&read).invoice.total, Some(12_000));
    let stub = try_read(&json!({"id": "in_1", "object": "invoice", "deleted": true}), true).unwrap();
    let InvoiceWithLines { invoice, lines } = only(&stub);
    assert_eq!((invoice.deleted, invoice.lines_complete, lines.len()), (true, false, 0));
}
