use std::collections::BTreeMap;

use coulomb::billing::MirrorBatch;
use coulomb::billing::payments::Payment;
use coulomb::schema::payments;
use diesel::prelude::*;
use serde_json::{Value, json};

use super::{add, batch, database, write};

fn stored(conn: &mut PgConnection) -> Vec<Payment> {
    payments::table
        .order((payments::account, payments::livemode, payments::id))
        .select(Payment::as_select())
        .load(conn)
        .unwrap()
}

fn only(conn: &mut PgConnection) -> Payment {
    let mut rows = stored(conn);
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows.remove(0)
}

fn failed_charge() -> Value {
    json!({
        "object": "charge", "id": "ch_1", "payment_intent": "pi_1", "amount": 900, "amount_captured": 0,
        "amount_refunded": 0, "captured": false, "created": 1_600_000_020, "currency": "usd",
            "customer": "cus_1",
        "disputed": false, "failure_code": "card_declined", "failure_message": "Your card was declined.",
        "invoice": null, "metadata": {"from": "charge"}, "payment_method_details": {"type": "sepa_debit"},
        "refunded": false, "status": "failed"
    })
}

fn charge() -> Value {
    json!({
        "object": "charge", "id": "ch_2", "payment_intent": "pi_1", "amount": 900, "amount_captured": 900,
        "amount_refunded": 200, "captured": true, "created": 1_600_000_010, "currency": "usd",
            "customer": "cus_1",
        "description": "Charge", "disputed": true, "failure_code": null, "metadata": {"from": "charge"},
        "payment_method_details": {"type": "card"}, "refunded": false, "status": "succeeded"
    })
}

fn intent() -> Value {
    json!({
        "object": "payment_intent", "id": "pi_1", "amount": 900, "amount_received": 0,
            "created": 1_600_000_000,
        "currency": "usd", "customer": "cus_1", "description": "Intent", "latest_charge": "ch_1",
        "last_payment_error": {"code": "card_declined", "message": "Your card was declined."},
        "metadata": {"from": "intent"}, "payment_method_types": ["card"], "status": "requires_payment_method"
    })
}

fn invoice_payment() -> Value {
    json!({
        "object": "invoice_payment", "id": "inpay_1", "amount_paid": 900, "amount_requested": 900,
        "created": 1_600_000_001, "currency": "usd", "invoice": "in_1", "status": "paid",
        "payment": {"type": "payment_intent", "payment_intent": "pi_1"},
        "status_transitions": {"paid_at": 1_600_000_030}
    })
}

/// An invoice of the older shapes, which names its payment.
fn invoice() -> Value {
    json!({"object": "invoice", "id": "in_2", "created": 1_600_000_000, "payment_intent": "pi_1",
        "charge": "ch_1"})
}

/// All orders of `0..n`.
fn orders(n: usize) -> Vec<Vec<usize>> {
    let Some(last) = n.checked_sub(1) else { return vec![Vec::new()] };
    let shorter = orders(last);
    let insert = |order: &Vec<usize>, at| {
        let mut order = order.clone();
        order.insert(at, last);
        order
    };
    shorter.iter().flat_map(|order| (0..=last).map(move |at| insert(order, at))).collect()
}

/// 120 orders of five objects: after each write, the payment depends on the set written so far, not on its
/// order.
#[test]
fn a_payment_depends_on_the_set_of_its_objects() {
    let (_database, conn) = &mut database();
    let objects = [failed_charge(), charge(), intent(), invoice_payment(), invoice()];
    let mut by_set: BTreeMap<usize, Option<Payment>> = BTreeMap::new();
    for (number, order) in orders(objects.len()).into_iter().enumerate() {
        let account = format!("acct_{number}");
        let mut set = 0;
        for object in order {
            set |= 1 << object;
            let mut batch = MirrorBatch::default();
            add(&mut batch, &account, &objects[object]);
            write(conn, batch);
            let found = stored(conn).into_iter().rfind(|row| row.account == account);
            let found = found.map(|row| Payment { account: String::new(), ..row });
            assert_eq!(by_set.entry(set).or_insert_with(|| found.clone()), &found, "set {set:b}");
        }
    }
    assert_eq!(by_set.len(), 31);
    assert_eq!(by_set[&0b10000], None, "an invoice alone is no payment");
    let together = by_set[&0b11111].clone().unwrap();
    let expected = Payment {
        account: String::new(),
        livemode: true,
        id: "pi_1".to_owned(),
        payment_intent_id: Some("pi_1".to_owned()),
        charge_id: Some("ch_2".to_owned()),
        invoice_payment_id: Some("inpay_1".to_owned()),
        invoice_id: Some("in_1".to_owned()),
        customer_id: Some("cus_1".to_owned()),
        status: Some("succeeded".to_owned()),
        amount: Some(900),
        amount_received: 900,
        amount_refunded: 200,
        currency: Some("usd".to_owned()),
        payment_method_type: Some("card".to_owned()),
        failure_code: None,
        failure_message: None,
        disputed: true,
        created: chrono::DateTime::from_timestamp(1_600_000_000, 0),
        paid_at: chrono::DateTime::from_timestamp(1_600_000_030, 0),
        description: Some("Intent".to_owned()),
        metadata: json!({"from": "intent"}),
        outside_stripe: false,
    };
    assert_eq!(together, expected);
}

/// Status, received, refunded, invoice, failure and payment time, for some sets of objects.
#[test]
fn what_a_subset_says() {
    let merge = |mut object: Value, changes: Value| {
        object.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        object
    };
    let reserved = merge(charge(), json!({"captured": false, "amount_captured": 0, "amount_refunded": 0}));
    let released =
        merge(reserved.clone(), json!({"payment_intent": null, "refunded": true, "amount_refunded": 900}));
    let of_2016 = json!({
        "object": "charge", "id": "ch_9", "amount": 900, "amount_refunded": 0, "captured": true,
            "invoice": "in_9",
        "created": 1_400_000_000, "status": "succeeded"
    });
    let outside =
        merge(invoice_payment(), json!({"payment": {"type": "payment_record", "payment_record": "pr_1"}}));
    let open =
        merge(invoice_payment(), json!({"status": "open", "amount_paid": null, "status_transitions": {}}));
    let declined = Some("card_declined");
    let cases = [
        (vec![intent()], "pi_1", "requires_payment_method", 0, 0, None, declined, None),
        (vec![failed_charge()], "pi_1", "failed", 0, 0, None, declined, None),
        (vec![intent(), failed_charge()], "pi_1", "requires_payment_method", 0, 0, None, declined, None),
        (vec![intent(), charge()], "pi_1", "succeeded", 900, 200, None, None, Some(1_600_000_010)),
        (
            vec![intent(), invoice_payment()],
            "pi_1",
            "succeeded",
            900,
            0,
            Some("in_1"),
            None,
            Some(1_600_000_030),
        ),
        (vec![intent(), invoice()], "pi_1", "requires_payment_method", 0, 0, Some("in_2"), declined, None),
        (vec![reserved.clone()], "pi_1", "requires_capture", 0, 0, None, None, None),
        (vec![reserved, intent()], "pi_1", "requires_payment_method", 0, 0, None, declined, None),
        (vec![released], "ch_2", "canceled", 0, 0, None, None, None),
        (vec![of_2016], "ch_9", "succeeded", 900, 0, Some("in_9"), None, Some(1_400_000_000)),
        (vec![outside], "pr_1", "succeeded", 900, 0, Some("in_1"), None, Some(1_600_000_030)),
        (vec![open], "pi_1", "pending", 0, 0, Some("in_1"), None, None),
    ];
    for (objects, id, status, received, refunded, invoice, failure, paid_at) in cases {
        let (_database, conn) = &mut database();
        write(conn, batch(&objects));
        let row = only(conn);
        let found =
            (&*row.id, row.status.as_deref().unwrap(), row.amount, row.amount_received, row.amount_refunded);
        assert_eq!(found, (id, status, Some(900), received, refunded), "{objects:?}");
        let found =
            (row.invoice_id.as_deref(), row.failure_code.as_deref(), row.paid_at.map(|at| at.timestamp()));
        assert_eq!(found, (invoice, failure, paid_at), "{objects:?}");
    }
}

#[test]
fn an_object_that_changes_its_payment_leaves_the_old_one() {
    let (_database, conn) = &mut database();
    let second = json!({"object": "payment_intent", "id": "pi_2", "amount": 5, "status": "processing"});
    write(conn, batch(&[intent(), second, invoice()]));
    let mut moved = invoice();
    moved["payment_intent"] = json!("pi_2");
    write(conn, batch(&[moved]));
    let links: Vec<_> = stored(conn).into_iter().map(|row| (row.id, row.invoice_id)).collect();
    assert_eq!(links, [("pi_1".to_owned(), None), ("pi_2".to_owned(), Some("in_2".to_owned()))]);

    let mut outside = invoice_payment();
    outside["payment"] = json!({"type": "payment_record", "payment_record": "pr_1"});
    write(conn, batch(std::slice::from_ref(&outside)));
    assert_eq!(stored(conn).len(), 3);
    outside["payment"] = json!({"type": "payment_record", "payment_record": "pr_2"});
    write(conn, batch(&[outside]));
    let ids: Vec<_> = stored(conn).into_iter().map(|row| row.id).collect();
    assert_eq!(ids, ["pi_1", "pi_2", "pr_2"], "no object names pr_1 any more");
}
