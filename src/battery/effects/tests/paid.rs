//! What was paid for a sale, and how much of it came back. The tables were computed by hand.

use serde_json::{Value, json};

use super::*;

#[test]
fn paid_is_what_the_buyer_gave_in_any_form() {
    for (invoice, amount, is_reversed) in [
        // By card; from the balance; half and half.
        (json!({ "status": "paid", "total": 2000, "amount_paid": 2000 }), 2000, false),
        (json!({ "status": "paid", "total": 2000, "amount_paid": 0 }), 2000, false),
        (json!({ "status": "paid", "total": 2000, "amount_paid": 500 }), 2000, false),
        // 5.00 were taken off before the payment: the invoice says so, the credit note says so, both do.
        (json!({ "status": "paid", "total": 2000, "amount_paid": 1500, "reduced": 500 }), 1500, false),
        (
            json!({ "status": "paid", "total": 2000, "amount_paid": 1500, "reduced": 0,
                "reduced_by_notes": 500 }),
            1500,
            false,
        ),
        (
            json!({ "status": "paid", "total": 2000, "amount_paid": 1500, "reduced": 500,
                "reduced_by_notes": 500 }),
            1500,
            false,
        ),
        // All of it was taken off: nothing was sold. Free by a coupon: something was sold.
        (json!({ "status": "paid", "total": 2000, "amount_paid": 0, "reduced": 2000 }), 0, true),
        (json!({ "status": "paid", "total": 0, "amount_paid": 0 }), 0, false),
        // The invoice is negative.
        (json!({ "status": "paid", "total": -1333, "amount_paid": 0 }), 0, false),
        (json!({ "status": "void", "total": 2000, "amount_paid": 2000 }), 2000, true),
        // Shapes without a total.
        (json!({ "status": "paid", "amount_paid": 700 }), 700, false),
    ] {
        let mut whole = json!({ "lines_complete": true });
        for (name, value) in invoice.as_object().expect("an object") {
            whole[name] = value.clone();
        }
        let facts = facts(json!({ "invoice": whole }));
        assert_eq!((facts.paid().minor, facts.is_reversed()), (amount, is_reversed), "{invoice}");
    }
}

#[test]
fn money_that_came_back_counts_once() {
    let note = |after: i64, refunded: Value, known: i64| {
        json!({ "cause": "credit_note", "id": "cn_1", "status": "issued", "type": "post_payment",
            "amount": after, "after": after, "refunded": refunded, "known": known,
            "refunds": i64::from(refunded != json!(0)) })
    };
    let refund = |amount: i64, status: &str| {
        json!({ "cause": "refund", "id": "re_1", "amount": amount,
            "status": status })
    };
    for (name, returned, total) in [
        ("to the balance alone", vec![note(1500, json!(0), 0)], 1500),
        ("refund and balance", vec![note(2000, json!(800), 800), refund(800, "succeeded")], 2000),
        // The credit note counts instead of its refund until the refund is mirrored.
        ("the refund is not known", vec![note(2000, json!(800), 0)], 2000),
        (
            "only the charge reports the refund",
            vec![note(2000, json!(800), 0), json!({ "cause": "charge", "id": "ch_1", "amount": 800 })],
            2000,
        ),
        (
            "the charge reports more than the credit note",
            vec![note(1000, json!(800), 0), json!({ "cause": "charge", "id": "ch_1", "amount": 900 })],
            1100,
        ),
        ("the refund has failed since", vec![note(2000, json!(800), 800), refund(800, "failed")], 1200),
        // Older notes name a refund without its amount. They count with the refund's amount once it is known.
        ("an older note", vec![note(2000, json!(null), 800), refund(800, "succeeded")], 2000),
        (
            "mixed: 5 of what was due, 5 of what was paid",
            vec![json!({ "cause": "credit_note", "id": "cn_1", "status": "issued", "type": "mixed",
                    "amount": 1000, "after": 500, "refunded": 0 })],
            500,
        ),
        (
            "before the payment",
            vec![json!({ "cause": "credit_note", "id": "cn_1", "status": "issued", "type": "pre_payment",
                    "amount": 700, "after": 0, "refunded": 0 })],
            0,
        ),
        (
            "voided",
            vec![json!({ "cause": "credit_note", "id": "cn_1", "status": "void", "type": "post_payment",
                    "amount": 700, "after": 700, "refunded": 300 })],
            0,
        ),
        ("a refund that was canceled", vec![refund(500, "canceled")], 0),
        (
            "a lost dispute under appeal",
            vec![
                json!({ "cause": "dispute", "id": "du_1", "amount": 900, "status": "appeal_needs_response" }),
            ],
            900,
        ),
        (
            "a lost dispute with an appeal under review, without a list of movements",
            vec![json!({ "cause": "dispute", "id": "du_1", "amount": 900, "status": "appeal_under_review",
                    "funds_withdrawn": 0 })],
            900,
        ),
    ] {
        let returned: Vec<ReturnedMoney> =
            returned.into_iter().map(|one| serde_json::from_value(one).expect("one")).collect();
        let sum: i64 = returns::causes(&returned).iter().map(|cause| cause.minor).sum();
        assert_eq!(sum, total, "{name}");
    }
}

#[test]
fn a_share_is_of_what_was_paid() {
    for (paid, returned, taken) in [
        (2000, 500, "125"),
        (2000, 2000, "500"),
        (1500, 500, "166.666666667"),
        (2000, 9999, "500"),
        (0, 500, "0"),
    ] {
        let mut clawbacks = GrantClawbacks::new(500.into(), 1);
        clawbacks.set_cause(CauseKind::Refund, "re_1", CauseAmount::from_money(returned)).expect("small");
        clawbacks.set_paid(paid).expect("small");
        assert_eq!(clawbacks.units().expect("small"), units(taken), "{returned} of {paid}");
    }
}
