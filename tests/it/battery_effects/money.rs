//! More of the table: what sells, how a sale was settled, and what came back. Computed by hand.

use serde_json::json;

use super::build::{self, Line, month, part};
use super::cases::Case;

const BASIC: &[(&str, &str, &str)] = &[("subscription", "1000", "1000")];
const PACK: &[(&str, &str, &str)] = &[("purchase", "500", "500")];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "a flat fee and the overage of the month before",
        events: |run| {
            let over = Line { quantity: 5000, days: (-30, 0), ..month("price_over", 5000) };
            vec![
                run.customer(),
                run.price("price_over", "metered"),
                run.paid("a", "subscription_cycle", 0, &[over, month("price_basic", 2000)]),
            ]
        },
        balance: "1000",
        grants: BASIC,
    },
    Case {
        name: "two tiers of one price are one sale of 4",
        events: |run| {
            let tier = |quantity, amount| Line { quantity, ..month("price_basic", amount) };
            vec![run.customer(), run.paid("a", "subscription_cycle", 0, &[tier(3, 3000), tier(1, 500)])]
        },
        balance: "4000",
        grants: &[("subscription", "4000", "4000")],
    },
    Case {
        name: "a recurring pack, 1 to 3 after a third",
        // Of one pack, 500 × 20/30 are unused; of three packs, 1500 × 20/30 are new.
        events: |run| {
            let three = Line { quantity: 3, ..part("price_addon", 4000, 10) };
            vec![
                run.customer(),
                run.paid("a", "subscription_create", 0, &[month("price_addon", 2000)]),
                run.paid("b", "subscription_update", 10, &[part("price_addon", -1333, 10), three]),
            ]
        },
        balance: "1166.666666667",
        grants: &[("purchase", "500", "166.666666667"), ("purchase", "1000", "1000")],
    },
    Case {
        name: "a recurring pack that ends after two thirds",
        events: |run| {
            vec![
                run.customer(),
                run.paid("a", "subscription_create", 0, &[month("price_addon", 2000)]),
                run.paid("b", "subscription_update", 20, &[part("price_addon", -667, 20)]),
            ]
        },
        balance: "333.333333333",
        grants: &[("purchase", "500", "333.333333333")],
    },
    Case {
        name: "a recurring pack in a trial, and a pack given back on an invoice",
        events: |run| {
            vec![
                run.customer(),
                run.subscription("trialing", "price_addon"),
                run.paid("a", "subscription_create", 0, &[month("price_addon", 0)]),
                run.paid("b", "manual", 0, &[month("price_pack", -2000)]),
            ]
        },
        balance: "",
        grants: &[],
    },
    Case {
        name: "paid from the balance, and credited back to it",
        events: |run| {
            vec![
                run.customer(),
                run.settled(
                    "a",
                    &[month("price_basic", 2000)],
                    2,
                    &json!({ "amount_paid": 0, "amount_due": 0 }),
                ),
                run.note("a", 500, &json!({ "post_payment_amount": 500, "pre_payment_amount": 0 })),
            ]
        },
        balance: "750",
        grants: &[("subscription", "1000", "750")],
    },
    Case {
        name: "15 from the balance, 5 by card, and those refunded",
        events: |run| {
            vec![
                run.settled(
                    "a",
                    &[month("price_basic", 2000)],
                    2,
                    &json!({ "amount_paid": 500, "amount_due": 500 }),
                ),
                run.invoice_payment("a", 500),
                run.refund("1", "a", 500, "succeeded", 0),
            ]
        },
        balance: "750",
        grants: &[("subscription", "1000", "750")],
    },
    Case {
        name: "8 refunded, 7 to the balance, 3 outside Stripe",
        events: |run| {
            vec![
                run.settled("a", &[month("price_basic", 2000)], 2, &json!({})),
                run.invoice_payment("a", 2000),
                run.refund("1", "a", 800, "succeeded", 0),
                run.note(
                    "a",
                    1800,
                    &json!({ "post_payment_amount": 1800, "out_of_band_amount": 300,
                    "refunds": [{ "refund": run.id("re_1"), "amount_refunded": 800 }] }),
                ),
            ]
        },
        balance: "100",
        grants: &[("subscription", "1000", "100")],
    },
    Case {
        name: "a credit note over 10: 5 of what was due, 5 of the 15 that were paid",
        events: |run| {
            vec![
                run.settled(
                    "a",
                    &[month("price_basic", 2000)],
                    2,
                    &json!({ "amount_paid": 1500, "amount_due": 1500 }),
                ),
                run.note(
                    "a",
                    1000,
                    &json!({ "type": "mixed", "pre_payment_amount": 500, "post_payment_amount": 500 }),
                ),
            ]
        },
        balance: "666.666666667",
        grants: &[("subscription", "1000", "666.666666667")],
    },
    Case {
        name: "emptied by a credit note before it was paid",
        events: |run| {
            vec![
                run.customer(),
                run.settled(
                    "a",
                    &[month("price_basic", 2000)],
                    2,
                    &json!({ "amount_paid": 0, "pre_payment_credit_notes_amount": 2000 }),
                ),
            ]
        },
        balance: "",
        grants: &[],
    },
    Case {
        name: "a lost dispute under appeal, and won by it",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.dispute("a", "lost", &[-2000], 1),
                run.dispute("a", "appeal_under_review", &[], 2),
                run.dispute("a", "won", &[-2000, 2000], 3),
            ]
        },
        balance: "1000",
        grants: BASIC,
    },
    Case {
        name: "a lost dispute under appeal",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.dispute("a", "lost", &[-2000], 1),
                run.dispute("a", "appeal_needs_response", &[], 2),
            ]
        },
        balance: "0",
        grants: &[("subscription", "1000", "0")],
    },
    Case {
        name: "a session with manual capture",
        events: |run| {
            let pack = json!({ "battery_pack": "pack-500" });
            vec![run.customer(), run.session("unpaid", None, &pack, 0), run.intent("x", 2000, &json!({}))]
        },
        balance: "500",
        grants: PACK,
    },
    Case {
        name: "captured in part, and half of that refunded",
        events: |run| {
            let pack = json!({ "battery_pack": "pack-500" });
            vec![
                run.customer(),
                run.session("unpaid", None, &pack, 0),
                run.intent("x", 1200, &json!({})),
                run.refund("1", "x", 600, "succeeded", 0),
            ]
        },
        balance: "250",
        grants: &[("purchase", "500", "250")],
    },
    Case {
        name: "a session that a coupon left nothing to pay of",
        events: |run| {
            let mut session =
                run.session("no_payment_required", None, &json!({ "battery_pack": "pack-500" }), 0);
            session["data"]["object"]["payment_intent"] = json!(null);
            session["data"]["object"]["amount_total"] = 0.into();
            vec![run.customer(), session]
        },
        balance: "500",
        grants: PACK,
    },
    Case {
        name: "test credit of somebody else's account",
        events: |run| {
            let elsewhere = |mut event: serde_json::Value| {
                event["account"] = json!("acct_stranger");
                event
            };
            let names_us = json!({ "battery_units": "1000000", "org_id": run.tag });
            vec![elsewhere(run.customer()), elsewhere(run.intent("x", 50, &names_us))]
        },
        balance: "",
        grants: &[],
    },
    Case {
        name: "live credit where test mode acts",
        events: |run| {
            let pack = json!({ "battery_pack": "pack-500" });
            let live = |mut event: serde_json::Value| {
                (event["livemode"], event["data"]["object"]["livemode"]) = (true.into(), true.into());
                event
            };
            vec![
                live(run.customer()),
                live(run.session("paid", None, &pack, 0)),
                live(run.intent("x", build::DAY, &pack)),
            ]
        },
        balance: "",
        grants: &[],
    },
];
