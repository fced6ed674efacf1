//! Single decisions of [`choose`], each with the fewest events that show it.

use serde_json::json;

use super::*;

fn event(id: &str, event_type: &str, snapshot: Value, previous: Option<Value>) -> Stored {
    Stored { id: id.into(), event_type: event_type.into(), created: 100, snapshot, previous }
}

/// The id of the winner, and whether it was a guess; it is the same for both orders of the events.
fn verdict(object: &str, mut events: Vec<Stored>) -> (String, bool) {
    let (at, ambiguous) = winner(object, &events);
    let id = events[at].id.clone();
    events.reverse();
    let (at, again) = winner(object, &events);
    assert_eq!((&events[at].id, again), (&id, ambiguous));
    (id, ambiguous)
}

fn guessed(id: &str) -> (String, bool) {
    (id.into(), true)
}

fn known(id: &str) -> (String, bool) {
    (id.into(), false)
}

#[test]
fn the_event_id_decides_last_and_says_so() {
    let named = |id: &str, name: &str| event(id, "product.updated", json!({"name": name}), None);
    assert_eq!(verdict("product", vec![named("evt_b", "x"), named("evt_a", "y")]), guessed("evt_b"));
    assert_eq!(verdict("product", vec![named("evt_b", "x"), named("evt_a", "x")]), known("evt_b"));
    let grown = event("evt_a", "product.updated", json!({"name": "y", "url": "z"}), None);
    assert_eq!(verdict("product", vec![named("evt_b", "x"), grown]), guessed("evt_a"));
}

#[test]
fn what_only_nulls_tell_apart_is_one_state() {
    let bare = event("evt_b", "product.updated", json!({"name": "x"}), None);
    let nulls = event("evt_a", "product.updated", json!({"name": "x", "url": null, "metadata": {}}), None);
    assert_eq!(verdict("product", vec![bare, nulls]), known("evt_b"));
}

#[test]
fn a_circle_without_its_beginning_is_a_guess() {
    let is = |id: &str, now: &str, before: &str| {
        event(id, "customer.subscription.updated", json!({"status": now}), Some(json!({"status": before})))
    };
    let circle = || vec![is("evt_b", "active", "trialing"), is("evt_a", "trialing", "active")];
    assert_eq!(verdict("subscription", circle()), guessed("evt_b"));
    let mut whole = circle();
    whole.push(event("evt_c", "customer.subscription.created", json!({"status": "trialing"}), None));
    assert_eq!(verdict("subscription", whole), known("evt_a"));
    let mut again = circle();
    again.push(is("evt_0", "trialing", "active"));
    assert_eq!(verdict("subscription", again), known("evt_a"));
}

#[test]
fn a_deletion_wins_its_second_and_a_new_creation_the_next() {
    let plan = json!({"id": "gold", "amount": 5});
    let gone = || event("evt_a", "plan.deleted", plan.clone(), None);
    let raised =
        event("evt_b", "plan.updated", json!({"id": "gold", "amount": 6}), Some(json!({"amount": 5})));
    assert_eq!(verdict("plan", vec![gone(), raised]), known("evt_a"));
    let mut born = event("evt_b", "plan.created", plan.clone(), None);
    assert_eq!(verdict("plan", vec![gone(), born.clone()]), known("evt_a"));
    born.created += 1;
    assert_eq!(verdict("plan", vec![gone(), born.clone()]), known("evt_b"));
    assert_eq!(
        verdict("customer", vec![event("evt_a", "customer.deleted", plan.clone(), None), born]),
        known("evt_a")
    );
}

#[test]
fn the_winning_snapshot_is_told_by_its_latest_report() {
    let paid = |id: &str, event_type: &str, delivered: Option<i64>| {
        event(id, event_type, json!({"status": "paid", "webhooks_delivered_at": delivered}), None)
    };
    let reports = vec![paid("evt_c", "invoice.paid", None), paid("evt_a", "invoice.updated", Some(7))];
    assert_eq!(verdict("invoice", reports), known("evt_a"));
    let born = vec![paid("evt_c", "invoice.created", Some(9)), paid("evt_a", "invoice.paid", None)];
    assert_eq!(verdict("invoice", born), known("evt_a"));
}

#[test]
fn without_told_changes_the_snapshot_furthest_from_the_creation_is_last() {
    let says = |id: &str, event_type: &str, snapshot: Value| event(id, event_type, snapshot, None);
    let born = says("evt_c", "product.created", json!({"id": "p", "url": "u"}));
    let near = says("evt_b", "product.updated", json!({"id": "p", "url": "u", "name": "x"}));
    let far = says("evt_a", "product.updated", json!({"id": "p", "name": "x"}));
    assert_eq!(verdict("product", vec![born, near, far]), known("evt_a"));
}

/// Many changes and one broken link: the two exact pieces are joined.
#[test]
fn long_chains_with_a_broken_link_are_still_put_together() {
    let step = |at: i64| {
        let note = if at < 20 { "A" } else { "B" };
        let id = event_id(at.unsigned_abs());
        event(&id, "customer.updated", json!({"balance": at, "note": note}), Some(json!({"balance": at - 1})))
    };
    assert_eq!(verdict("customer", (1..=40).map(step).collect()), known(&event_id(40)));
}

#[test]
#[should_panic(expected = "at least one event")]
fn nothing_cannot_win() {
    choose("invoice", &[] as &[Stored]);
}
