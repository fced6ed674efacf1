use rust_decimal::Decimal;
use serde_json::json;

use super::{at, fixture, read_live, text};
use crate::billing::credit_notes::{CreditNote, CreditNoteLine, CreditNoteWithLines};
use crate::billing::disputes::Dispute;
use crate::billing::refunds::{FROM_CHARGE, FROM_REFUND, Refund};

#[test]
fn refunds() {
    let expected = Refund {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "re_1".to_owned(),
        source: FROM_REFUND.to_owned(),
        charge_id: text("ch_1"),
        payment_intent_id: text("pi_1"),
        amount: Some(500),
        currency: text("usd"),
        status: text("failed"),
        reason: text("duplicate"),
        failure_reason: text("lost_or_stolen_card"),
        created: at(1_600_000_050),
        metadata: json!({"ticket": "9"}),
    };
    assert_eq!(read_live(fixture!("refund")).refunds, [expected]);
}

#[test]
fn refunds_inside_a_charge() {
    let expected = Refund {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "re_0".to_owned(),
        source: FROM_CHARGE.to_owned(),
        charge_id: text("ch_0"),
        payment_intent_id: None,
        amount: Some(300),
        currency: text("usd"),
        status: text("succeeded"),
        reason: text("requested_by_customer"),
        failure_reason: None,
        created: at(1_467_800_009),
        metadata: json!({"why": "late"}),
    };
    assert_eq!(read_live(fixture!("charge_2016")).refunds, [expected]);
}

#[test]
fn disputes() {
    let expected = Dispute {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "du_1".to_owned(),
        charge_id: text("ch_1"),
        payment_intent_id: text("pi_1"),
        amount: Some(1_000),
        currency: text("usd"),
        status: text("needs_response"),
        reason: text("fraudulent"),
        evidence_due_by: at(1_600_600_000),
        is_charge_refundable: Some(false),
        funds_withdrawn: Some(500),
        funds_net: Some(-2_000),
        funds_currency: text("eur"),
        created: at(1_600_000_060),
        metadata: json!({"m": "1"}),
        funds_reinstated: Some(400),
    };
    assert_eq!(read_live(fixture!("dispute")).disputes, [expected]);
    // Transactions that are not expanded do not show the withdrawn amount.
    let ids = json!({"object": "dispute", "id": "du_2", "balance_transactions": ["txn_1"]});
    let batch = read_live(ids);
    assert_eq!((batch.disputes[0].funds_withdrawn, batch.disputes[0].funds_net), (None, None));
}

#[test]
fn credit_notes_before_basil() {
    let credit_note = CreditNote {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "cn_1".to_owned(),
        invoice_id: text("in_1"),
        customer_id: text("cus_1"),
        number: text("ABCD-0001-CN-01"),
        status: text("void"),
        type_: text("post_payment"),
        reason: text("order_change"),
        memo: text("Sorry"),
        currency: text("usd"),
        amount: Some(1_100),
        subtotal: Some(1_000),
        discount_total: Some(50),
        tax_total: Some(100),
        total: Some(1_101),
        out_of_band_amount: Some(25),
        refund_ids: json!(["re_1"]),
        pdf: text("https://pay.example.org/cn"),
        effective_at: None,
        voided_at: at(1_600_000_071),
        lines_complete: true,
        created: at(1_600_000_070),
        metadata: json!({"c": "n"}),
        pre_payment_amount: Some(0),
        post_payment_amount: Some(1_101),
        // It names a refund without an amount.
        refund_amount: None,
        balance_amount: None,
    };
    let line = CreditNoteLine {
        account: "acct_1".to_owned(),
        livemode: true,
        credit_note_id: "cn_1".to_owned(),
        line_number: 0,
        id: text("cnli_1"),
        type_: text("invoice_line_item"),
        invoice_line_id: text("il_1"),
        amount: Some(1_050),
        quantity: Some(1),
        description: text("Seat"),
        unit_amount_decimal: Some(Decimal::new(10_505, 1)),
        discount_amount: Some(50),
        tax_amount: Some(100),
        taxes: Some(json!([{ "amount": 100, "taxable_amount": null, "inclusive": null, "reason": null,
            "rate_id": null, "percentage": null }])),
    };
    let expected = CreditNoteWithLines { credit_note, lines: vec![line] };
    assert_eq!(read_live(fixture!("credit_note_old")).credit_notes, [expected]);
}

#[test]
fn credit_notes_since_basil() {
    let batch = read_live(fixture!("credit_note_new"));
    let [CreditNoteWithLines { credit_note, lines }] = &*batch.credit_notes else { panic!("{batch:?}") };
    assert_eq!(credit_note.refund_ids, json!(["re_2", "re_3"]));
    assert_eq!((credit_note.tax_total, credit_note.effective_at), (Some(100), at(1_750_000_072)));
    assert!(!credit_note.lines_complete, "has_more");
    let [line] = &**lines else { panic!("{lines:?}") };
    assert_eq!((line.tax_amount, line.discount_amount, line.quantity), (Some(100), Some(7), None));
    assert_eq!((&line.type_, line.unit_amount_decimal), (&text("custom_line_item"), None));
}

/// The refund, the balance and the outside part add up to the part after the payment.
#[test]
fn the_parts_of_a_credit_note() {
    for (note, before, after, refund, balance) in [
        (json!({"type": "pre_payment", "total": 700}), Some(700), Some(0), Some(0), Some(0)),
        (json!({"type": "post_payment", "total": 700}), Some(0), Some(700), Some(0), Some(700)),
        (
            json!({"type": "post_payment", "amount": 700, "out_of_band_amount": 200}),
            Some(0),
            Some(700),
            Some(0),
            Some(500),
        ),
        (
            json!({"type": "mixed", "total": 900, "pre_payment_amount": 400, "post_payment_amount": 500,
                "refunds": [{"refund": "re_1", "amount_refunded": 150},
                    {"refund": {"id": "re_2"}, "amount_refunded": 50}]}),
            Some(400),
            Some(500),
            Some(200),
            Some(300),
        ),
        // A payment outside Stripe is also returned outside Stripe.
        (
            json!({"type": "post_payment", "total": 600,
                "refunds": [{"refund": null, "amount_refunded": 100, "type": "payment_record_refund"}]}),
            Some(0),
            Some(600),
            Some(0),
            Some(500),
        ),
        (json!({"type": "post_payment", "total": 600, "refund": "re_1"}), Some(0), Some(600), None, None),
        (
            json!({"type": "post_payment", "total": 600, "refund": {"id": "re_1", "amount": 450}}),
            Some(0),
            Some(600),
            Some(450),
            Some(150),
        ),
        (json!({"type": "mixed", "total": 600}), None, None, Some(0), None),
        (json!({"total": 600}), None, None, Some(0), None),
    ] {
        let mut whole = json!({"object": "credit_note", "id": "cn_1"});
        for (name, value) in note.as_object().expect("an object") {
            whole[name] = value.clone();
        }
        let batch = read_live(whole);
        let read = &batch.credit_notes[0].credit_note;
        assert_eq!(
            (read.pre_payment_amount, read.post_payment_amount, read.refund_amount, read.balance_amount),
            (before, after, refund, balance),
            "{note}"
        );
    }
}
