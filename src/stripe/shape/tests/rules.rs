use serde_json::{Value, json};

use super::{ObjectRef, at, fixture, read, read_live, realm, text, try_read};
use crate::billing::MirrorBatch;

/// Sets the value at a JSON pointer.
fn with(mut snapshot: Value, pointer: &str, value: Value) -> Value {
    *snapshot.pointer_mut(pointer).unwrap_or_else(|| panic!("the fixture has no {pointer}")) = value;
    snapshot
}

#[test]
fn money_is_a_whole_number_or_an_error_that_names_the_field() {
    let unreadable = [
        json!(1.5),
        json!(1000.0),
        json!("1000"),
        json!(true),
        json!([1]),
        json!({"amount": 1}),
        json!(9_223_372_036_854_775_808_u64),
        serde_json::from_str("1e3").unwrap(),
    ];
    let places: [(Value, &str, &str); 12] = [
        (fixture!("invoice_old"), "/total", "total"),
        (fixture!("invoice_old"), "/tax", "tax"),
        (fixture!("invoice_old"), "/lines/data/1/amount", "lines.amount"),
        (fixture!("invoice_new"), "/lines/data/0/taxes/1/amount", "taxes.amount"),
        (fixture!("invoice_new"), "/total_discount_amounts/0/amount", "total_discount_amounts.amount"),
        (fixture!("charge_2016"), "/refunds/data/0/amount", "refunds.amount"),
        (fixture!("customer_old"), "/account_balance", "account_balance"),
        (fixture!("checkout_session"), "/total_details/amount_tax", "total_details.amount_tax"),
        (fixture!("dispute"), "/balance_transactions/0/net", "balance_transactions.net"),
        (fixture!("credit_note_old"), "/lines/data/0/amount", "lines.amount"),
        (fixture!("invoice_payment"), "/amount_paid", "amount_paid"),
        (fixture!("price"), "/unit_amount", "unit_amount"),
    ];
    for (snapshot, pointer, field) in places {
        for value in &unreadable {
            let broken = with(snapshot.clone(), pointer, value.clone());
            let error = try_read(&broken, false).expect_err(&format!("{pointer} = {value}"));
            assert_eq!(error.field, field);
            assert_eq!(Some(&*error.id), snapshot["id"].as_str());
        }
        for value in [i64::MIN, -1, 0, i64::MAX] {
            if !pointer.contains("_amounts")
                && !pointer.contains("taxes")
                && !pointer.contains("transactions")
            {
                try_read(&with(snapshot.clone(), pointer, json!(value)), false).expect(pointer);
            }
        }
    }
}

#[test]
fn an_unreadable_object_adds_nothing() {
    let realm = realm();
    let object = ObjectRef { realm: &realm, object: "charge", id: "ch_0", deleted: false, more: None };
    let mut batch = MirrorBatch::default();
    let broken = with(fixture!("charge_2016"), "/refunds/data/0/amount", json!("300"));
    let error = read(&object, &(&broken).into(), &mut batch).unwrap_err();
    assert_eq!(batch, MirrorBatch::default());
    assert_eq!(
        error.to_string(),
        "charge ch_0: the field `refunds.amount` must be a whole number within 64 bits but is \"300\"; \
         fetch the object from Stripe again"
    );
}

#[test]
fn sums_do_not_overflow() {
    let broken = with(fixture!("invoice_new"), "/total_taxes/0/amount", json!(i64::MAX));
    assert_eq!(try_read(&broken, false).unwrap_err().field, "total_taxes.amount");
}

#[test]
fn decimals_are_exact_or_an_error() {
    for value in [
        json!("NaN"),
        json!("1,5"),
        json!(""),
        json!(0.1),
        json!("1e400"),
        json!("0.12345678901234567890123456789"),
    ] {
        let broken = with(fixture!("price"), "/unit_amount_decimal", value.clone());
        assert_eq!(try_read(&broken, false).expect_err(&value.to_string()).field, "unit_amount_decimal");
    }
    for value in ["0.000000000001", "-12.5", "79228162514264337593543950335"] {
        let price = read_live(with(fixture!("price"), "/unit_amount_decimal", json!(value)));
        assert_eq!(price.prices[0].unit_amount_decimal.unwrap().to_string(), value);
    }
    for (text, percent) in
        [("12.0", "12.0"), ("33.3", "33.3"), ("1e-7", "0.0000001"), ("7", "7"), ("1e2", "100.0")]
    {
        let value = serde_json::from_str(text).unwrap();
        let coupon = read_live(with(fixture!("coupon"), "/percent_off", value));
        assert_eq!(coupon.coupons[0].percent_off.unwrap().to_string(), percent);
    }
    let broken = with(fixture!("coupon"), "/percent_off", json!("many"));
    assert_eq!(try_read(&broken, false).unwrap_err().field, "percent_off");
}

#[test]
fn nul_characters_are_replaced() {
    let snapshot = json!({
        "object": "customer", "id": "cus_1", "name": "a\0b", "address": {"city": "\0"},
        "metadata": {"k\0": "v\0", "list": ["\0", {"deep": "\0"}]}
    });
    let customer = &read_live(snapshot).customers[0];
    assert_eq!(customer.name, text("a\u{fffd}b"));
    assert_eq!(customer.address, Some(json!({"city": "\u{fffd}"})));
    let metadata = json!({"k\u{fffd}": "v\u{fffd}", "list": ["\u{fffd}", {"deep": "\u{fffd}"}]});
    assert_eq!(customer.metadata, metadata);
}

#[test]
fn wrong_types_read_as_absent() {
    let snapshot = json!({
        "object": "subscription", "id": "sub_1", "status": 7, "customer": ["cus_1"], "schedule": "",
        "latest_invoice": {"object": "invoice"}, "default_payment_method": "x".repeat(256), "description": {},
        "cancel_at_period_end": "yes", "items": "none", "metadata": ["a"], "pause_collection": "void"
    });
    let read = &read_live(snapshot).subscriptions[0];
    let subscription = &read.subscription;
    assert_eq!((&subscription.status, &subscription.customer_id), (&None, &None));
    assert_eq!((&subscription.schedule_id, &subscription.latest_invoice_id), (&None, &None));
    assert_eq!((&subscription.default_payment_method_id, &subscription.description), (&None, &None));
    assert_eq!((subscription.cancel_at_period_end, subscription.items_complete), (None, false));
    assert_eq!((&subscription.metadata, &subscription.pause_collection), (&json!({}), &None));
    assert!(read.items.is_empty());
}

#[test]
fn times_that_postgresql_can_hold() {
    let time = |value: Value| {
        read_live(json!({"object": "customer", "id": "cus_1", "created": value})).customers[0].created
    };
    assert_eq!(time(json!(1_700_000_000)), at(1_700_000_000));
    assert_eq!(time(json!("2023-11-14T23:13:20+01:00")), at(1_700_000_000));
    assert_eq!(time(json!(-1)), at(-1));
    for value in [
        json!(1.5),
        json!("yesterday"),
        json!(true),
        json!(null),
        json!(253_402_300_800_i64),
        json!(i64::MIN),
    ] {
        assert_eq!(time(value.clone()), None, "{value}");
    }
}

#[test]
fn other_kinds_add_nothing() {
    for kind in ["plan", "payout", "invoiceitem", "v2.core.event", ""] {
        let batch = read_live(json!({"object": kind, "id": "x_1", "amount": "not ours to judge"}));
        assert_eq!(batch, MirrorBatch::default(), "{kind}");
    }
}
