use serde_json::json;

use super::{at, fixture, payment_ids, read_live, text};
use crate::billing::payments::{Charge, InvoicePayment, PaymentIntent};

#[test]
fn payment_intents() {
    let old = PaymentIntent {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "pi_1".to_owned(),
        customer_id: text("cus_1"),
        invoice_id: text("in_1"),
        latest_charge_id: text("ch_1"),
        status: text("succeeded"),
        amount: Some(11_500),
        amount_received: Some(11_500),
        currency: text("usd"),
        payment_method_type: text("card"),
        failure_code: None,
        failure_message: None,
        description: text("Invoice ABCD-0001"),
        canceled_at: None,
        created: at(1_600_000_020),
        metadata: json!({"a": "b"}),
    };
    let batch = read_live(fixture!("payment_intent_old"));
    assert_eq!(batch.payment_intents, [old]);
    assert_eq!(payment_ids(&batch), ["pi_1"]);
    let new = PaymentIntent {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "pi_2".to_owned(),
        customer_id: text("cus_2"),
        invoice_id: None,
        latest_charge_id: text("ch_2"),
        status: text("canceled"),
        amount: Some(12_000),
        amount_received: Some(0),
        currency: text("eur"),
        payment_method_type: text("sepa_debit"),
        failure_code: text("card_declined"),
        failure_message: text("Your card has insufficient funds."),
        description: None,
        canceled_at: at(1_750_000_031),
        created: at(1_750_000_030),
        metadata: json!({}),
    };
    assert_eq!(read_live(fixture!("payment_intent_new")).payment_intents, [new]);
}

#[test]
fn charges() {
    let old = Charge {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "ch_0".to_owned(),
        payment_intent_id: None,
        customer_id: text("cus_1"),
        invoice_id: text("in_0"),
        status: text("succeeded"),
        amount: Some(900),
        amount_captured: None,
        amount_refunded: Some(300),
        currency: text("usd"),
        captured: Some(true),
        refunded: Some(false),
        disputed: Some(true),
        payment_method_type: text("card"),
        failure_code: None,
        failure_message: None,
        receipt_url: None,
        description: text("Gold"),
        created: at(1_467_800_003),
        metadata: json!({}),
        card_brand: text("Visa"),
        last4: text("4242"),
        balance_transaction_id: text("txn_0"),
        fee: None,
        net: None,
        net_currency: None,
    };
    let batch = read_live(fixture!("charge_2016"));
    assert_eq!(batch.charges, [old]);
    assert_eq!(payment_ids(&batch), ["ch_0"]);
    let new = Charge {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "ch_2".to_owned(),
        payment_intent_id: text("pi_2"),
        customer_id: text("cus_2"),
        invoice_id: None,
        status: text("failed"),
        amount: Some(12_000),
        amount_captured: Some(0),
        amount_refunded: Some(0),
        currency: text("eur"),
        captured: Some(false),
        refunded: Some(false),
        disputed: Some(false),
        payment_method_type: text("card"),
        failure_code: text("card_declined"),
        failure_message: text("Your card was declined."),
        receipt_url: text("https://pay.example.org/r"),
        description: None,
        created: at(1_750_000_032),
        metadata: json!({"x": "y"}),
        card_brand: text("visa"),
        last4: text("4242"),
        balance_transaction_id: text("txn_9"),
        fee: Some(378),
        net: Some(11_622),
        net_currency: text("usd"),
    };
    let batch = read_live(fixture!("charge_new"));
    assert_eq!(batch.charges, [new]);
    assert_eq!((payment_ids(&batch), batch.refunds.len()), (vec!["ch_2", "pi_2"], 0));
}

#[test]
fn last_digits_of_bank_accounts() {
    for (kind, field) in [("sepa_debit", "last4"), ("ideal", "iban_last4")] {
        let charge = json!({ "id": "py_1", "object": "charge",
            "payment_method_details": { "type": kind, kind: { field: "3000" } } });
        let batch = read_live(charge);
        assert_eq!((&batch.charges[0].last4, &batch.charges[0].card_brand), (&text("3000"), &None), "{kind}");
    }
}

#[test]
fn invoice_payments() {
    let expected = InvoicePayment {
        account: "acct_1".to_owned(),
        livemode: true,
        id: "inpay_1".to_owned(),
        invoice_id: text("in_2"),
        type_: text("payment_intent"),
        payment_intent_id: text("pi_2"),
        charge_id: None,
        payment_record_id: None,
        status: text("paid"),
        amount_requested: Some(5_000),
        amount_paid: Some(4_000),
        currency: text("eur"),
        is_default: Some(true),
        paid_at: at(1_750_000_041),
        canceled_at: at(1_750_000_042),
        created: at(1_750_000_040),
    };
    let batch = read_live(fixture!("invoice_payment"));
    assert_eq!(batch.invoice_payments, [expected]);
    assert_eq!(payment_ids(&batch), ["pi_2"]);
}

#[test]
fn the_key_is_the_one_the_row_says() {
    let payments = [
        json!({"type": "payment_intent", "payment_intent": {"id": "pi_1", "object": "payment_intent"}}),
        json!({"type": "charge", "charge": "ch_1"}),
        json!({"type": "payment_record", "payment_record": "pr_1"}),
        json!({"type": "out_of_band_payment"}),
        json!(null),
    ];
    for (payment, expected) in payments.into_iter().zip(["pi_1", "ch_1", "pr_1", "inpay_1", "inpay_1"]) {
        let batch = read_live(json!({"object": "invoice_payment", "id": "inpay_1", "payment": payment}));
        assert_eq!(payment_ids(&batch), [expected], "{payment}");
        assert_eq!(batch.invoice_payments[0].payment_id(), expected, "{payment}");
    }
    let key = read_live(fixture!("charge_new")).payment_keys.pop_first().unwrap();
    assert_eq!((&*key.account, key.livemode), ("acct_1", true));
}
