use chrono::{DateTime, Utc};
use proptest::prelude::*;
use serde_json::json;

use super::decide::{decide_source, repeats as found_repeats, returns};
use super::model::clawbacks::CauseAmount;
use super::model::facts::{Line, PaidAmount, ReturnedMoney};
use super::model::{CauseKind, Decision, Facts, GrantClawbacks, SaleSource, SourceKind, WaitReason};
use crate::config::Proration;
use crate::realm::Realm;

mod paid;
mod repeats;
mod single;
mod sold;

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

fn units(text: &str) -> rust_decimal::Decimal {
    text.parse().expect("a decimal")
}

fn facts(value: serde_json::Value) -> Facts {
    serde_json::from_value(value).expect("facts")
}

fn decided(facts: &Facts, kind: SourceKind) -> Decision {
    let realm = Realm { account: String::new(), livemode: true };
    let source = SaleSource { realm, kind, id: "x".to_owned() };
    decide_source(&source, facts, Proration::Prorate, at("2026-03-11T00:00:00Z")).expect("fits")
}

/// A paid invoice of March with one line.
fn invoice(line: &serde_json::Value) -> Facts {
    let mut whole = json!({ "id": "il_1", "kind": "subscription", "amount": 2000, "quantity": 1,
        "start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z",
        "price": "price_1", "subscription": "sub_1", "proration": false, "plan": { "id": "pro", "versions": [
            { "version": 1, "created_at": "2026-01-01T00:00:00Z", "units": "100", "annual": "1300",
                "trial": "7" },
            { "version": 2, "created_at": "2026-02-15T00:00:00Z", "units": "200", "annual": null,
                "trial": null }] } });
    let fields = line.as_object().expect("an object").clone();
    for (name, value) in fields {
        if name == "plan" && value.is_object() {
            for (name, value) in value.as_object().expect("an object") {
                whole["plan"][name] = value.clone();
            }
        } else {
            whole[name] = value;
        }
    }
    facts(json!({ "org_id": 1, "lines": [whole],
            "invoice": { "status": "paid", "billing_reason": "subscription_cycle", "currency": "usd",
            "amount_paid": 2000,
        "created": "2026-03-01T00:00:00Z", "paid_at": "2026-03-01T00:00:00Z", "lines_complete": true } }))
}

#[test]
fn a_line_is_worth_what_its_version_says() {
    let mirrored = json!({ "trial_start": null, "trial_end": null });
    let trial = json!({ "trial_start": "2026-03-01T00:00:00Z", "trial_end": "2026-04-01T00:00:00Z" });
    for (line, expected) in [
        // We know nothing of the subscription, and it may have been bought before version 2.
        (json!({}), None),
        (json!({ "mirrored": mirrored }), Some(("subscription", "200"))),
        (json!({ "plan": { "since": "2026-02-01T00:00:00Z" } }), Some(("subscription", "100"))),
        (json!({ "plan": { "since": "2025-02-01T00:00:00Z" } }), Some(("subscription", "100"))),
        (json!({ "plan": { "since": "2026-03-05T00:00:00Z" } }), Some(("subscription", "200"))),
        (json!({ "plan": { "since": "2026-02-01T00:00:00Z", "moved": 2 } }), Some(("subscription", "200"))),
        (json!({ "plan": { "moved": 1 }, "quantity": 3 }), Some(("subscription", "300"))),
        (json!({ "plan": { "moved": 1 }, "end": "2027-03-01T00:00:00Z" }), Some(("subscription", "1300"))),
        (json!({ "plan": { "moved": 2 }, "end": "2027-03-01T00:00:00Z" }), Some(("subscription", "200"))),
        (json!({ "plan": { "moved": 1 }, "amount": 0, "mirrored": trial }), Some(("trial", "7"))),
        (json!({ "plan": { "moved": 2 }, "amount": 0, "mirrored": trial }), Some(("trial", "200"))),
        (json!({ "plan": { "moved": 1 }, "amount": 0, "mirrored": mirrored }), Some(("subscription", "100"))),
        (json!({ "plan": { "moved": 1 }, "amount": 0 }), None),
        (json!({ "pack": { "id": "p", "units": "50" }, "quantity": 2 }), Some(("pack", "100"))),
    ] {
        let decision = decided(&invoice(&line), SourceKind::Invoice);
        let got = decision.grants.first().map(|grant| (grant.kind.name(), grant.units));
        assert_eq!(got, expected.map(|(what, text)| (what, units(text))), "{line}");
        assert_eq!(decision.waits.len(), usize::from(expected.is_none()), "{line}");
    }
}

#[test]
fn what_is_missing_is_waited_for() {
    for (line, reason) in [
        (json!({ "plan": null }), WaitReason::UnknownPrice),
        (json!({}), WaitReason::UnknownSubscription),
        (
            json!({ "plan": { "moved": 1 }, "proration": true, "start": "2026-03-11T00:00:00Z" }),
            WaitReason::UnknownPeriod,
        ),
        (
            json!({ "plan": { "moved": 1 }, "proration": true, "amount": -9, "start": "2026-03-11T00:00:00Z",
                "full_period": { "start": "2026-03-01T00:00:00Z", "end": "2026-04-01T00:00:00Z" } }),
            WaitReason::NoGrant,
        ),
    ] {
        let mut facts = invoice(&line);
        let decision = decided(&facts, SourceKind::Invoice);
        assert_eq!(decision.waits.iter().map(|wait| wait.reason).collect::<Vec<_>>(), [reason], "{line}");
        assert!(decision.grants.is_empty() && decision.clawbacks.is_empty());
        // After a day the decision does not wait for it any more, where it can do without it.
        facts.waiting = serde_json::from_value(
            json!([{ "line": "il_1", "since": "2026-03-10T00:00:00Z", "dismissed": false }]),
        )
        .expect("rows");
        assert_eq!(decided(&facts, SourceKind::Invoice).waits.is_empty(), reason.ends_by_itself(), "{line}");
        facts.waiting[0].dismissed = true;
        assert!(decided(&facts, SourceKind::Invoice).waits.is_empty(), "{line}");
    }
    let mut nobody = invoice(&json!({ "plan": { "moved": 1 } }));
    nobody.org_id = None;
    let decision = decided(&nobody, SourceKind::Invoice);
    assert_eq!((decision.grants.len(), decision.waits[0].reason), (0, WaitReason::NoOrg));
    nobody.waiting = serde_json::from_value(
        json!([{ "line": "il_1", "since": "2026-03-10T00:00:00Z", "dismissed": false, "org": 5 }]),
    )
    .expect("rows");
    assert_eq!((nobody.org(), decided(&nobody, SourceKind::Invoice).grants.len()), (Some(5), 1));
}

#[test]
fn a_part_of_a_period_counts_by_time() {
    let full = json!({ "start": "2026-03-01T00:00:00Z", "end": "2026-03-31T00:00:00Z" });
    let part = |amount: i64| {
        let grant = json!({ "number": 4, "start": "2026-03-01T00:00:00Z", "end": "2026-03-31T00:00:00Z" });
        json!({ "plan": { "moved": 1 }, "proration": true, "amount": amount, "start": "2026-03-11T00:00:00Z",
            "end": "2026-03-31T00:00:00Z", "full_period": full, "overlapping_grants": [grant] })
    };
    let decision = decided(&invoice(&part(5)), SourceKind::Invoice);
    assert_eq!((decision.grants[0].units, decision.clawbacks.len()), (units("66.666666667"), 0));
    let decision = decided(&invoice(&part(-5)), SourceKind::Invoice);
    assert_eq!(
        (decision.clawbacks[0].units, decision.clawbacks[0].grant, decision.grants.len()),
        (units("66.666666667"), Some(4), 0)
    );
    // Paid after the end of the period.
    let mut late = invoice(&part(5));
    late.invoice.as_mut().expect("one").paid_at = Some(at("2026-03-31T00:00:00Z"));
    let decision = decided(&late, SourceKind::Invoice);
    assert!(decision.grants.is_empty() && decision.waits.is_empty());
}

#[test]
fn a_session_names_its_pack() {
    let pack = json!({ "id": "p", "units": "50", "days": 9 });
    let session = |metadata: serde_json::Value, found: &str| {
        let mut named = json!({ "metadata": metadata });
        named[found] = pack.clone();
        facts(json!({ "org_id": 1,
                "session": { "mode": "payment", "payment_status": "paid", "amount_total": 700,
                "currency": "usd", "named": named } }))
    };
    for (metadata, found, expected) in [
        (json!({ "battery_pack": "p" }), "by_id", Some("50")),
        (json!({ "battery_pack": "p" }), "by_link", None),
        (json!({ "battery_units": "7.5", "quantity": "2" }), "by_link", Some("15")),
        (json!({ "battery_units": 3 }), "by_link", Some("3")),
        (json!({ "battery_units": "1e3" }), "by_link", None),
        (json!({ "battery_units": "0.0000000001" }), "by_link", None),
        (json!({ "quantity": "0" }), "by_link", None),
        (json!({ "price": "price_1", "quantity": 3 }), "by_price", Some("150")),
        (json!({}), "by_link", Some("50")),
        (json!({}), "nothing", None),
    ] {
        let facts = session(metadata.clone(), found);
        let decision = decided(&facts, SourceKind::PaymentIntent);
        let got = decision.grants.first().map(|grant| grant.units);
        assert_eq!(
            (got, decision.waits.len()),
            (expected.map(units), usize::from(expected.is_none())),
            "{metadata} {found}"
        );
        assert_eq!(facts.paid(), PaidAmount { minor: 700, currency: Some("usd".to_owned()) });
    }
    let mut elsewhere = session(json!({ "battery_pack": "p" }), "by_id");
    elsewhere.owned_elsewhere = true;
    assert!(decided(&elsewhere, SourceKind::PaymentIntent).grants.is_empty());
}

#[test]
fn returned_money_counts_once() {
    for (object, minor) in [
        (json!({ "cause": "refund", "amount": 5, "status": "succeeded" }), 5),
        (json!({ "cause": "refund", "amount": 5, "status": "pending" }), 5),
        (json!({ "cause": "refund", "amount": 5 }), 5),
        (json!({ "cause": "refund", "amount": 5, "status": "failed" }), 0),
        (json!({ "cause": "refund", "amount": 5, "status": "canceled" }), 0),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "warning_needs_response",
                "funds_withdrawn": 5 }),
            0,
        ),
        (json!({ "cause": "dispute", "amount": 5, "status": "needs_response" }), 0),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "needs_response", "currency": "usd",
                "funds_currency": "usd", "funds_withdrawn": 4 }),
            4,
        ),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "under_review", "currency": "usd",
                "funds_currency": "eur", "funds_withdrawn": 9 }),
            5,
        ),
        (json!({ "cause": "dispute", "amount": 5, "status": "needs_response", "funds_withdrawn": 0 }), 0),
        // The disputed amount: 3 of another currency cannot be compared with 5.
        (
            json!({ "cause": "dispute", "amount": 5, "status": "under_review", "currency": "usd",
                "funds_currency": "eur", "funds_withdrawn": 3 }),
            5,
        ),
        (
            json!({ "cause": "dispute", "amount": 5, "status": "prevented", "currency": "usd",
                "funds_currency": "usd", "funds_withdrawn": 5 }),
            0,
        ),
        (json!({ "cause": "dispute", "amount": 5, "status": "won", "funds_withdrawn": 5 }), 0),
        (json!({ "cause": "dispute", "amount": 5, "status": "lost", "funds_withdrawn": 0 }), 5),
        (json!({ "cause": "credit_note", "amount": 5, "status": "issued", "type": "post_payment" }), 5),
        (
            json!({ "cause": "credit_note", "amount": 5, "status": "issued", "type": "post_payment",
                "refunds": 1, "out_of_band": 2 }),
            2,
        ),
        (json!({ "cause": "credit_note", "amount": 5, "status": "issued", "type": "pre_payment" }), 0),
        (json!({ "cause": "credit_note", "amount": 5, "status": "void", "type": "post_payment" }), 0),
    ] {
        let returned: ReturnedMoney = serde_json::from_value(object.clone()).expect("an object");
        assert_eq!(returned.cause().minor, minor, "{object}");
    }
}

#[test]
fn lines_without_an_id_of_their_own_are_told_apart() {
    let line = |id: Option<&str>| Line { id: id.map(str::to_owned), ..Line::default() };
    let lines = vec![line(Some("a")), line(Some("a")), line(None), line(None), line(Some("b"))];
    let facts = Facts { lines, ..Facts::default() };
    let keys: Vec<String> = facts.keyed_lines().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["a", "a#2", "line#1", "line#2", "b"]);
}

proptest! {
    /// In any order, the clawbacks have the same sum, and never more than the grant.
    #[test]
    fn clawbacks_do_not_depend_on_order(
        paid in 0_i64..5000,
        amount in 1_i64..1_000_000,
        mut steps in prop::collection::vec((0_usize..4, 0_i64..3000, 0_i64..500_000), 1..12),
        rotate in 0_usize..12,
    ) {
        let kinds = [CauseKind::Refund, CauseKind::Dispute, CauseKind::CreditNote, CauseKind::Proration];
        let run = |steps: &[(usize, i64, i64)]| {
            let mut clawbacks = GrantClawbacks::new(amount.into(), paid);
            let mut sum = rust_decimal::Decimal::ZERO;
            for (n, (kind, minor, units)) in steps.iter().enumerate() {
                let kind = kinds[*kind];
                let amount_of_cause = if kind == CauseKind::Proration {
                    CauseAmount::from_units((*units).into())
                } else {
                    CauseAmount::from_money(*minor)
                };
                // The same two objects repeatedly: only the last state of each counts.
                let id = format!("id_{}", n % 2);
                sum += clawbacks.set_cause(kind, &id, amount_of_cause).expect("small").unwrap_or_default();
                assert!(clawbacks.units().expect("small") <= amount.into());
            }
            assert_eq!(sum, clawbacks.units().expect("small"));
            clawbacks
        };
        let first = run(&steps);
        // Only the last states, in another order.
        let rest = steps.len();
        steps.rotate_left(rotate % rest);
        let mut other = run(&steps);
        for ((kind, id), amount) in first.causes.iter().rev() {
            other.set_cause(*kind, id, *amount).expect("small");
        }
        let is_gone = |key: &&_| !first.causes.contains_key(*key);
        let gone: Vec<_> = other.causes.keys().filter(is_gone).cloned().collect();
        for (kind, id) in gone {
            other.set_cause(kind, &id, CauseAmount::default()).expect("small");
        }
        prop_assert_eq!(first.units().expect("small"), other.units().expect("small"));
    }
}
