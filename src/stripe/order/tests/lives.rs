//! Whole lives within one second, as Stripe reports them: with exact links; and with ids and times rewritten
//! in each event, so that `previous_attributes` does not fit the snapshot before.

use serde_json::json;

use super::{properties::changes, *};

/// Any time, in unix seconds.
const T: i64 = 1_763_400_000;

/// Builds the events of a life. Strings that begin with `~` are ids, large numbers are times.
struct Life {
    object: &'static str,
    state: Value,
    events: Vec<Stored>,
}

impl Life {
    fn born(object: &'static str, event_type: &str, state: Value) -> Self {
        Self { object, state, events: Vec::new() }.says(event_type)
    }

    /// Adds an event that reports the state and no change.
    fn says(mut self, event_type: &str) -> Self {
        self.events.push(Stored {
            id: String::new(),
            event_type: event_type.into(),
            created: T,
            snapshot: self.state.clone(),
            previous: None,
        });
        self
    }

    /// Adds a change with its `previous_attributes`.
    fn updates(self, event_type: &str, patch: Value) -> Self {
        let before = self.state.clone();
        let mut life = self.jumps(event_type, patch);
        life.events.last_mut().unwrap().previous = changes(&before, &life.state);
        life
    }

    /// Adds a change without `previous_attributes`.
    fn jumps(mut self, event_type: &str, patch: Value) -> Self {
        merge(&mut self.state, patch);
        self.says(event_type)
    }

    /// The same life with other event ids, in another order, its ids and times rewritten in up to `batches`
    /// ways.
    fn told(&self, seed: u64, batches: u64) -> (Vec<Stored>, Vec<usize>) {
        let mut order: Vec<usize> = (0..self.events.len()).collect();
        order.sort_by_key(|at| mix(seed ^ mix(*at as u64)));
        let told = order.iter().map(|&at| {
            let mut event = self.events[at].clone();
            event.id = event_id(seed.wrapping_mul(31).wrapping_add(at as u64));
            let batch = mix(seed.wrapping_add(mix(at as u64 + 99))) % batches;
            rename(&mut event.snapshot, batch);
            event.previous.iter_mut().for_each(|previous| rename(previous, batch));
            event
        });
        (told.collect(), order)
    }

    /// How many of `tries` versions of [`Life::told`] end in another state than the true one.
    fn misses(&self, batches: u64, tries: u64) -> u64 {
        let wrong = |seed: &u64| {
            let (events, order) = self.told(*seed, batches);
            let (at, _) = winner(self.object, &events);
            self.events[order[at]].snapshot != self.state
        };
        (0..tries).filter(wrong).count() as u64
    }
}

fn merge(state: &mut Value, patch: Value) {
    match (state, patch) {
        (Value::Object(state), Value::Object(patch)) => {
            patch.into_iter().for_each(|(key, value)| merge(state.entry(key).or_insert(Value::Null), value));
        }
        (state, patch) => *state = patch,
    }
}

fn rename(value: &mut Value, batch: u64) {
    match value {
        Value::String(text) if text.starts_with('~') => *text = format!("{text}{batch}"),
        Value::Number(time) if time.as_i64().is_some_and(|time| time > 1_000_000_000) => {
            *value = json!(time.as_i64().unwrap() + i64::try_from(batch * 7 % 13).unwrap());
        }
        Value::Array(items) => items.iter_mut().for_each(|item| rename(item, batch)),
        Value::Object(fields) => fields.values_mut().for_each(|field| rename(field, batch)),
        _ => {}
    }
}

fn draft() -> Life {
    let lines = json!({"data": [], "total_count": 0});
    let state = json!({
        "id": "in_1", "object": "invoice", "customer": "~cus", "status": "draft", "amount_due": 0,
            "amount_paid": 0,
        "amount_remaining": 0, "attempt_count": 0, "attempted": false, "auto_advance": true, "charge": null,
            "number": null,
        "invoice_pdf": null, "lines": lines, "metadata": {}, "paid": false, "payment_intent": null,
            "total": 0,
        "next_payment_attempt": null, "webhooks_delivered_at": null,
        "status_transitions": {"finalized_at": null, "paid_at": null, "voided_at": null,
            "marked_uncollectible_at": null},
    });
    let lines = json!({"data": [{"id": "~il", "amount": 48000, "price": "~price"}], "total_count": 1});
    Life::born("invoice", "invoice.created", state).updates(
        "invoice.updated",
        json!({"lines": lines, "amount_due": 48000, "amount_remaining": 48000, "total": 48000}),
    )
}

fn open_invoice() -> Life {
    let finalized = json!({"finalized_at": T});
    draft()
        .updates(
            "invoice.updated",
            json!({"status": "open", "number": "~no", "invoice_pdf": "~pdf", "payment_intent": "~pi",
                "status_transitions": finalized}),
        )
        .says("invoice.finalized")
}

fn failed_invoice() -> Life {
    open_invoice()
        .updates(
            "invoice.updated",
            json!({"attempted": true, "attempt_count": 1, "charge": "~ch", "next_payment_attempt": 7}),
        )
        .says("invoice.payment_failed")
}

fn paid(life: Life) -> Life {
    life.updates(
        "invoice.updated",
        json!({
            "status": "paid", "paid": true, "attempted": true, "attempt_count": 2, "amount_paid": 48000,
                "amount_remaining": 0,
            "charge": "~ch2", "next_payment_attempt": null, "webhooks_delivered_at": 5,
                "status_transitions": {"paid_at": T},
        }),
    )
    .says("invoice.paid")
    .says("invoice.payment_succeeded")
}

fn invoices() -> Vec<Life> {
    let closed = |field: &str| json!({"auto_advance": false, "status_transitions": {field: T}});
    let mut void = closed("voided_at");
    void["status"] = json!("void");
    let mut lost = closed("marked_uncollectible_at");
    lost["status"] = json!("uncollectible");
    let lost =
        || open_invoice().updates("invoice.updated", lost.clone()).says("invoice.marked_uncollectible");
    let credited = json!({"metadata": {"note": null}, "total": 40000, "webhooks_delivered_at": 9});
    vec![
        draft(),
        open_invoice(),
        open_invoice().says("invoice.sent"),
        failed_invoice(),
        failed_invoice().says("invoice.payment_action_required"),
        paid(open_invoice()),
        paid(failed_invoice()),
        paid(open_invoice()).updates("invoice.updated", credited),
        open_invoice().updates("invoice.updated", void).says("invoice.voided"),
        lost(),
        paid(lost()),
        draft().says("invoice.deleted"),
    ]
}

fn customer() -> Life {
    let state = json!({
        "id": "cus_1", "object": "customer", "balance": 0, "currency": null, "default_source": null,
            "delinquent": false,
        "email": "a@example.com", "invoice_settings": {"default_payment_method": null},
            "metadata": {"realm": null, "name": null},
        "address": null, "discount": null, "test_clock": "~clock",
    });
    Life::born("customer", "customer.created", state)
        .updates("customer.updated", json!({"metadata": {"realm": "1", "name": "zoo"}}))
        .updates("customer.updated", json!({"invoice_settings": {"default_payment_method": "~pm1"}}))
        .updates("customer.updated", json!({"currency": "usd"}))
}

fn customers() -> Vec<Life> {
    let card = |id: &str| json!({"invoice_settings": {"default_payment_method": id}});
    let late = |life: Life, is: bool| life.updates("customer.updated", json!({"delinquent": is}));
    let discount = json!({"discount": {"id": "~di", "coupon": {"id": "half", "percent_off": 50}}});
    vec![
        customer(),
        customer()
            .updates("customer.updated", card("~pm2"))
            .updates("customer.updated", json!({"balance": -500})),
        late(late(customer(), true), false).updates("customer.updated", json!({"email": "b@example.com"})),
        late(late(late(customer(), true), false), true),
        customer()
            .updates("customer.updated", discount)
            .updates("customer.updated", json!({"discount": null, "balance": 1})),
        customer().updates("customer.updated", json!({"address": {"city": "Bonn", "line1": null}})),
        customer().says("customer.deleted"),
    ]
}

fn subscription(status: &str) -> Life {
    let state = json!({
        "id": "sub_1", "object": "subscription", "customer": "~cus", "status": status,
            "cancel_at_period_end": false,
        "cancel_at": null, "canceled_at": null, "current_period_start": T + 100,
            "current_period_end": T + 200, "quantity": 5,
        "latest_invoice": "~in1", "default_payment_method": null, "trial_end": null, "pending_update": null,
        "items": {"data": [{"id": "~si", "price": "~monthly", "quantity": 5}]},
    });
    Life::born("subscription", "customer.subscription.created", state)
}

fn subscriptions() -> Vec<Life> {
    let update = |life: Life, patch: Value| life.updates("customer.subscription.updated", patch);
    let status = |life: Life, is: &str| update(life, json!({"status": is}));
    let active = || {
        let life = status(subscription("incomplete"), "active");
        update(life, json!({"default_payment_method": "~pm"}))
    };
    let renewed = |life: Life, start: i64| {
        let invoice = format!("~in{start}");
        let patch = json!({"current_period_start": T + start, "current_period_end": T + start + 100,
            "latest_invoice": invoice});
        update(life, patch)
    };
    let cancels = |life: Life, is: bool| {
        let at = is.then_some(T + 150);
        update(life, json!({"cancel_at_period_end": is, "canceled_at": at, "cancel_at": at}))
    };
    let upgrade =
        json!({"quantity": 9, "items": {"data": [{"id": "~si", "price": "~monthly", "quantity": 9}]}});
    vec![
        active(),
        renewed(active(), 200),
        status(renewed(active(), 200), "past_due"),
        status(status(renewed(active(), 200), "past_due"), "active"),
        update(status(status(renewed(active(), 200), "past_due"), "active"), upgrade.clone()),
        status(status(renewed(active(), 200), "past_due"), "unpaid"),
        cancels(active(), true),
        cancels(cancels(active(), true), false),
        update(active(), upgrade.clone()),
        cancels(update(active(), upgrade), true),
        renewed(status(subscription("trialing"), "active"), 200),
        status(cancels(active(), true), "canceled").says("customer.subscription.deleted"),
        status(subscription("incomplete"), "incomplete_expired"),
    ]
}

fn payments() -> Vec<Life> {
    let intent = || {
        let state = json!({
            "id": "pi_1", "object": "payment_intent", "customer": "~cus", "status": "requires_payment_method",
            "amount_received": 0, "latest_charge": null, "last_payment_error": null, "payment_method": null,
                "next_action": null,
        });
        Life::born("payment_intent", "payment_intent.created", state)
    };
    let action = json!({"status": "requires_action", "payment_method": "~pm", "next_action": "~url"});
    let failure = json!({
        "status": "requires_payment_method", "latest_charge": "~ch1",
            "last_payment_error": {"code": "card_declined", "charge": "~ch1"},
        "payment_method": null, "next_action": null,
    });
    let success = json!({
        "status": "succeeded", "amount_received": 48000, "latest_charge": "~ch2", "payment_method": "~pm",
            "last_payment_error": null,
    });
    let charge = || {
        let state = json!({
            "id": "ch_1", "object": "charge", "customer": "~cus", "status": "succeeded", "captured": true,
                "amount_refunded": 0,
            "refunded": false, "balance_transaction": null, "receipt_url": "~url", "disputed": false,
        });
        Life::born("charge", "charge.succeeded", state)
    };
    let refunded = |life: Life, amount: i64| {
        life.updates(
            "charge.refunded",
            json!({"amount_refunded": amount, "refunded": amount == 900, "receipt_url": "~url"}),
        )
    };
    vec![
        intent().jumps("payment_intent.payment_failed", failure.clone()),
        intent()
            .jumps("payment_intent.requires_action", action.clone())
            .jumps("payment_intent.payment_failed", failure.clone()),
        intent()
            .jumps("payment_intent.requires_action", action)
            .jumps("payment_intent.succeeded", success.clone()),
        intent().jumps("payment_intent.payment_failed", failure).jumps("payment_intent.succeeded", success),
        intent().jumps("payment_intent.canceled", json!({"status": "canceled"})),
        charge().updates("charge.updated", json!({"balance_transaction": "~txn"})),
        refunded(
            refunded(charge().updates("charge.updated", json!({"balance_transaction": "~txn"})), 400),
            900,
        ),
        refunded(charge(), 900).updates("charge.updated", json!({"disputed": true})),
    ]
}

fn others() -> Vec<Life> {
    let setup = json!({"id": "seti_1", "customer": "~cus", "status": "requires_payment_method",
        "payment_method": null});
    let method = json!({"id": "pm_1", "customer": "~cus", "card": {"exp_year": 2030},
        "billing_details": {"name": null}});
    let refund = json!({"id": "re_1", "charge": "~ch", "status": "pending",
        "destination_details": {"reference": null}});
    let dispute = json!({"id": "dp_1", "charge": "~ch", "status": "needs_response",
        "balance_transactions": [], "evidence": {"text": null}});
    let session = json!({"id": "cs_1", "customer": "~cus", "status": "complete", "payment_status": "unpaid"});
    let product =
        json!({"id": "prod_1", "active": true, "name": "a", "metadata": {"k": null}, "default_price": null});
    let refunded = || Life::born("refund", "refund.created", refund.clone());
    let withdrawn = json!({"balance_transactions": [{"id": "~txn", "amount": -900}]});
    vec![
        Life::born("setup_intent", "setup_intent.created", setup)
            .jumps("setup_intent.succeeded", json!({"status": "succeeded", "payment_method": "~pm"})),
        Life::born("payment_method", "payment_method.attached", method.clone())
            .updates("payment_method.automatically_updated", json!({"card": {"exp_year": 2034}})),
        Life::born("payment_method", "payment_method.attached", method)
            .updates("payment_method.updated", json!({"billing_details": {"name": "A"}}))
            .updates("payment_method.detached", json!({"customer": null})),
        refunded().updates("refund.updated", json!({"status": "succeeded"})),
        refunded()
            .updates("refund.updated", json!({"status": "succeeded"}))
            .updates("refund.updated", json!({"destination_details": {"reference": "~arn"}}))
            .updates("refund.failed", json!({"status": "failed"})),
        Life::born("dispute", "charge.dispute.created", dispute.clone())
            .jumps("charge.dispute.funds_withdrawn", withdrawn.clone()),
        Life::born("dispute", "charge.dispute.created", dispute)
            .jumps("charge.dispute.funds_withdrawn", withdrawn)
            .updates(
                "charge.dispute.updated",
                json!({"evidence": {"text": "~file"}, "status": "under_review"}),
            )
            .jumps("charge.dispute.closed", json!({"status": "lost"})),
        Life::born("checkout.session", "checkout.session.completed", session)
            .jumps("checkout.session.async_payment_succeeded", json!({"payment_status": "paid"})),
        Life::born("product", "product.created", product)
            .updates("product.updated", json!({"default_price": "~price"}))
            .updates("product.updated", json!({"name": "b"}))
            .updates("product.updated", json!({"active": false, "metadata": {"k": "v"}})),
    ]
}

fn all() -> Vec<Life> {
    [invoices(), customers(), subscriptions(), payments(), others()].into_iter().flatten().collect()
}

fn name(life: &Life) -> String {
    life.events.iter().map(|event| event.event_type.as_str()).collect::<Vec<_>>().join(" ")
}

#[test]
fn exact_links_always_find_the_true_end() {
    for life in all() {
        assert_eq!(life.misses(1, 25), 0, "{}", name(&life));
    }
    // Only times distinguish these states, so this life is not tested with rewritten times.
    let mut renewals = subscription("active");
    for month in 1..6 {
        let patch = json!({"current_period_start": T + month, "current_period_end": T + month + 1,
            "latest_invoice": "~in"});
        renewals = renewals.updates("customer.subscription.updated", patch);
        renewals = renewals.updates("customer.subscription.updated", json!({"status": "past_due"}));
        renewals = renewals.updates("customer.subscription.updated", json!({"status": "active"}));
        assert_eq!(renewals.misses(1, 3), 0, "{month} months");
    }
}

#[test]
fn rewritten_ids_and_times_do_not_hide_the_true_end() {
    for batches in [2, 3, 1000] {
        for life in all() {
            let misses = life.misses(batches, 25);
            assert_eq!(misses, 0, "of 25 rewritten in {batches} ways: {}", name(&life));
        }
    }
}

/// Every order of eight events of an invoice and its subscription gives the same state of both.
#[test]
fn eight_events_in_any_of_40320_orders_give_one_result() {
    let invoice = json!({"status": "draft", "customer": "cus_1", "total": 0});
    let bill = Life::born("invoice", "invoice.created", invoice)
        .updates("invoice.updated", json!({"status": "open", "total": 900}))
        .updates("invoice.updated", json!({"status": "paid"}))
        .says("invoice.paid");
    let plan = json!({"status": "incomplete", "quantity": 1});
    let plan = Life::born("subscription", "customer.subscription.created", plan)
        .updates("customer.subscription.updated", json!({"status": "active"}))
        .updates("customer.subscription.updated", json!({"status": "past_due"}))
        .updates("customer.subscription.updated", json!({"status": "active", "quantity": 2}));
    let (bills, _) = bill.told(1, 1);
    let (plans, _) = plan.told(2, 1);
    let mut orders = 0;
    let mut results = std::collections::BTreeSet::new();
    every_order(8, |order| {
        orders += 1;
        let bills: Vec<&Stored> = order.iter().filter(|&&at| at < 4).map(|&at| &bills[at]).collect();
        let plans: Vec<&Stored> = order.iter().filter(|&&at| at >= 4).map(|&at| &plans[at - 4]).collect();
        let (bill, plan) = (choose("invoice", &bills), choose("subscription", &plans));
        let (bill, plan) = (bills[bill.winner], plans[plan.winner]);
        results.insert((bill.id.clone(), plan.id.clone()));
        assert_eq!(
            (bill.snapshot["status"].as_str(), plan.snapshot["quantity"].as_i64()),
            (Some("paid"), Some(2))
        );
    });
    assert_eq!((orders, results.len()), (40_320, 1));
}
