//! What one event shows: the life of each kind, as a table.

use serde_json::json;

use super::*;

fn status_rank(object: &str, snapshot: &Value) -> i64 {
    rank(object, "x.updated", 0, snapshot).progress
}

/// Each line is a life: `a = b` have the same rank; every step ranks above all steps before it.
#[test]
fn statuses_rank_in_the_order_of_a_life() {
    for (object, life) in [
        ("invoice", "? < draft < open < uncollectible < paid = void"),
        (
            "subscription",
            "? < incomplete < trialing < paused < active < past_due < unpaid < canceled = incomplete_expired",
        ),
        (
            "payment_intent",
            "? < requires_payment_method = requires_source < requires_confirmation < requires_action < \
                processing < requires_capture < succeeded = canceled",
        ),
        (
            "setup_intent",
            "? < requires_payment_method < requires_confirmation < requires_action < processing < succeeded \
                = canceled",
        ),
        ("charge", "? < pending < succeeded = failed"),
        ("refund", "? < pending < requires_action < succeeded < failed = canceled"),
        (
            "dispute",
            "? < warning_needs_response < warning_under_review < warning_closed < needs_response < \
                under_review < won = lost",
        ),
        ("checkout.session", "? < open < complete = expired"),
        ("payout", "? < pending < in_transit < paid < failed = canceled"),
        ("credit_note", "? < issued < void"),
        ("subscription_schedule", "? < not_started < active < completed = released = canceled"),
        ("invoice_payment", "? < open < paid = canceled"),
        ("quote", "? < draft < open < accepted = canceled"),
        ("something_new", "? = active = canceled"),
    ] {
        let mut below = None;
        for step in life.split(" < ") {
            let ranks: Vec<i64> =
                step.split(" = ").map(|s| status_rank(object, &json!({"status": s}))).collect();
            assert!(ranks.iter().all(|rank| *rank == ranks[0]), "{object}: {step}");
            assert!(below.is_none_or(|below| below < ranks[0]), "{object}: {step}");
            below = Some(ranks[0]);
        }
    }
}

#[test]
fn within_a_status_growing_amounts_rank_later() {
    for (object, life) in [
        (
            "charge",
            vec![
                json!({"status": "pending", "amount_refunded": 900}),
                json!({"status": "succeeded", "captured": false, "amount_refunded": 500}),
                json!({"status": "succeeded", "captured": true}),
                json!({"status": "succeeded", "captured": true, "amount_refunded": 1}),
                json!({"status": "succeeded", "captured": true, "amount_refunded": 999_999_999_999_i64}),
            ],
        ),
        (
            "dispute",
            vec![
                json!({"status": "lost", "balance_transactions": []}),
                json!({"status": "lost", "balance_transactions": [{}]}),
                json!({"status": "won", "balance_transactions": [{}, {}]}),
            ],
        ),
        (
            "checkout.session",
            vec![
                json!({"status": "open", "payment_status": "unpaid"}),
                json!({"status": "complete", "payment_status": "unpaid"}),
                json!({"status": "complete", "payment_status": "paid"}),
            ],
        ),
        (
            "invoice",
            vec![
                json!({"status": "draft"}),
                json!({"status": "open", "attempt_count": 0}),
                json!({"status": "open", "attempt_count": 0, "amount_paid": 999_999_999_999_i64}),
                json!({"status": "open", "attempt_count": 1}),
                json!({"status": "uncollectible"}),
            ],
        ),
        (
            "payment_intent",
            vec![
                json!({"status": "requires_payment_method", "latest_charge": null}),
                json!({"status": "requires_action", "charges": {"total_count": 0}}),
                json!({"status": "requires_payment_method", "latest_charge": "ch_1"}),
                json!({"status": "requires_action", "charges": {"total_count": 1}}),
                json!({"status": "requires_payment_method", "charges": {"total_count": 2}}),
            ],
        ),
    ] {
        let ranks: Vec<i64> = life.iter().map(|snapshot| status_rank(object, snapshot)).collect();
        assert!(ranks.is_sorted_by(|a, b| a < b), "{object}: {ranks:?}");
    }
}

/// No amount, whoever wrote it, may move a snapshot to another stage.
#[test]
fn absurd_numbers_stay_within_their_status() {
    for amount in
        [json!(i64::MAX), json!(u64::MAX), json!(-1), json!(i64::MIN), json!(1e300), json!("7"), json!({})]
    {
        let charge = |status: &str| json!({"status": status, "captured": true, "amount_refunded": amount});
        assert!(
            status_rank("charge", &charge("pending")) < status_rank("charge", &json!({"status": "failed"}))
        );
        let invoice = json!({"status": "draft", "attempt_count": amount, "amount_paid": amount});
        assert!(status_rank("invoice", &invoice) < status_rank("invoice", &json!({"status": "open"})));
        let intent = json!({"status": "processing", "charges": {"total_count": amount}});
        assert!(status_rank("payment_intent", &intent) >= 0);
    }
    for odd in [json!(null), json!([]), json!("x"), json!({"status": 5})] {
        assert_eq!(status_rank("invoice", &odd), 0);
    }
}

#[test]
fn terminal_statuses_beat_the_clock() {
    for (object, terminal, open) in [
        ("invoice", vec!["paid", "void"], vec!["draft", "open", "uncollectible"]),
        (
            "subscription",
            vec!["canceled", "incomplete_expired"],
            vec!["active", "past_due", "unpaid", "paused"],
        ),
        ("payment_intent", vec!["succeeded", "canceled"], vec!["requires_capture", "processing"]),
        ("setup_intent", vec!["succeeded", "canceled"], vec!["requires_payment_method"]),
    ] {
        for end in &terminal {
            for before in &open {
                let late = rank(object, "x.updated", 900, &json!({"status": before}));
                assert!(
                    rank(object, "x.updated", 100, &json!({"status": end})) > late,
                    "{object}: {end} {before}"
                );
            }
        }
    }
    let refund = |created, status| rank("refund", "refund.updated", created, &json!({"status": status}));
    assert!(refund(100, "succeeded") < refund(101, "pending"), "a refund that succeeded may still fail");
}

#[test]
fn invoices_without_a_status_are_read_by_their_flags() {
    let flags = |paid, closed, forgiven| {
        let snapshot = json!({"paid": paid, "closed": closed, "forgiven": forgiven});
        rank("invoice", "invoice.updated", 0, &snapshot)
    };
    let life = [flags(false, false, false), flags(false, true, false), flags(true, true, false)];
    assert!(life.is_sorted_by(|a, b| a < b), "{life:?}");
    assert_eq!(life.map(|rank| rank.standing), [0, 0, 1]);
    assert_eq!(flags(false, true, true), flags(false, true, false));
    let later = rank("invoice", "invoice.updated", 9, &json!({"status": "open", "paid": true}));
    assert_eq!(later.standing, 0, "the status counts where there is one");
}

#[test]
fn a_deletion_absorbs_unless_the_id_may_return() {
    let gone = json!({"id": "x"});
    for (object, event_type, returns) in [
        ("customer", "customer.deleted", false),
        ("invoice", "invoice.deleted", false),
        ("invoiceitem", "invoiceitem.deleted", false),
        ("tax_id", "customer.tax_id.deleted", false),
        ("card", "customer.source.deleted", false),
        ("plan", "plan.deleted", true),
        ("coupon", "coupon.deleted", true),
        ("product", "product.deleted", true),
        ("price", "price.deleted", true),
    ] {
        let deletion = rank(object, event_type, 100, &gone);
        let at = |created| rank(object, "x.updated", created, &gone);
        assert!(at(100) < deletion, "{object}");
        assert_eq!(at(101) > deletion, returns, "{object}");
    }
    let fetched = rank("customer", "", 100, &json!({"id": "cus_1", "deleted": true}));
    assert_eq!((fetched.standing, fetched.deleted), (2, true));
    let canceled = rank("subscription", "customer.subscription.deleted", 100, &json!({"status": "canceled"}));
    assert_eq!((canceled.standing, canceled.deleted), (1, false));
}

#[test]
fn types_rank_from_creation_to_deletion() {
    let types = [
        "x.created",
        "payment_method.attached",
        "payment_method.updated",
        "payment_method.detached",
        "x.deleted",
    ];
    let ranks = types.map(|event_type| rank("x", event_type, 0, &json!({})).type_rank);
    assert!(ranks.is_sorted_by(|a, b| a < b), "{ranks:?}");
}
