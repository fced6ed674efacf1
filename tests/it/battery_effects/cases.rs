//! The table of cases with their expected results, computed by hand.

use serde_json::{Value, json};

use super::build::{self, Line, Run, month, part};

/// A case, and its result in any order of the events.
pub(super) struct Case {
    pub(super) name: &'static str,
    pub(super) events: fn(&Run) -> Vec<Value>,
    pub(super) balance: &'static str,
    /// Source, amount and remaining units, sorted.
    pub(super) grants: &'static [(&'static str, &'static str, &'static str)],
}

const BASIC: &[(&str, &str, &str)] = &[("subscription", "1000", "1000")];
const PACK: &[(&str, &str, &str)] = &[("purchase", "500", "500")];

pub(super) const CASES: &[Case] = &[
    Case {
        name: "purchase",
        events: |run| {
            let open = run.invoice("a", "subscription_create", "open", 0, &[month("price_basic", 2000)]);
            vec![
                run.customer(),
                run.subscription("active", "price_basic"),
                run.event("open", "invoice.finalized", 1, open),
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
            ]
        },
        balance: "1000",
        grants: BASIC,
    },
    Case {
        name: "quantity and two lines",
        events: |run| {
            let lines = [Line { quantity: 3, ..month("price_basic", 6000) }, month("price_pack", 900)];
            vec![
                run.customer(),
                run.paid("a", "subscription_create", 0, &lines),
                run.invoice_payment("a", 6900),
            ]
        },
        balance: "3500",
        grants: &[("purchase", "500", "500"), ("subscription", "3000", "3000")],
    },
    Case {
        name: "cycles",
        events: |run| {
            let earlier = Line { days: (-30, 0), ..month("price_basic", 2000) };
            vec![
                run.customer(),
                run.paid("a", "subscription_create", -30, &[earlier]),
                run.paid("b", "subscription_cycle", 0, &[month("price_basic", 2000)]),
            ]
        },
        balance: "1000",
        grants: &[("subscription", "1000", "0"), ("subscription", "1000", "1000")],
    },
    Case {
        name: "a year",
        events: |run| {
            let year = Line { days: (0, 365), ..month("price_basic", 20_000) };
            vec![run.customer(), run.paid("a", "subscription_create", 0, &[year])]
        },
        balance: "11000",
        grants: &[("subscription", "11000", "11000")],
    },
    Case {
        name: "trial",
        events: |run| {
            vec![
                run.customer(),
                run.subscription("trialing", "price_basic"),
                run.paid("a", "subscription_create", 0, &[month("price_basic", 0)]),
            ]
        },
        balance: "100",
        grants: &[("subscription", "100", "100")],
    },
    Case {
        name: "pack by session, with opt-in on the intent too",
        events: |run| {
            let pack = json!({ "battery_pack": "pack-500" });
            vec![
                run.customer(),
                run.session("paid", None, &pack, 0),
                run.intent("x", 2000, &pack),
                run.charge("x", 2000),
            ]
        },
        balance: "500",
        grants: PACK,
    },
    Case {
        name: "pack paid later, named by its price",
        events: |run| {
            let price = json!({ "price": "price_pack", "quantity": "2" });
            vec![run.customer(), run.session("unpaid", None, &price, 0), run.session("paid", None, &price, 1)]
        },
        balance: "1000",
        grants: &[("purchase", "1000", "1000")],
    },
    Case {
        name: "pack with an invoice",
        events: |run| {
            let lines = [Line { quantity: 2, ..month("price_pack", 2000) }];
            vec![
                run.customer(),
                run.session("paid", Some("x"), &json!({ "battery_pack": "pack-500" }), 0),
                run.paid("x", "manual", 0, &lines),
                run.invoice_payment("x", 2000),
                run.intent("x", 2000, &json!({})),
            ]
        },
        balance: "1000",
        grants: &[("purchase", "1000", "1000")],
    },
    Case {
        name: "pack with an invoice whose line says nothing",
        events: |run| {
            vec![
                run.customer(),
                run.session("paid", Some("x"), &json!({ "battery_units": "12.5", "quantity": 2 }), 0),
                run.paid("x", "manual", 0, &[month("price_other", 2000)]),
                run.invoice_payment("x", 2000),
            ]
        },
        balance: "25",
        grants: &[("purchase", "25", "25")],
    },
    Case {
        name: "a bare intent with opt-in",
        events: |run| {
            vec![
                run.customer(),
                run.intent("x", 2000, &json!({ "battery_units": "70" })),
                run.refund("r", "x", 500, "succeeded", 0),
            ]
        },
        balance: "52.5",
        grants: &[("purchase", "70", "52.5")],
    },
    Case {
        name: "a bare intent without it",
        events: |run| {
            vec![run.customer(), run.intent("x", 2000, &json!({})), run.refund("r", "x", 500, "succeeded", 0)]
        },
        balance: "",
        grants: &[],
    },
    Case {
        name: "upgrade after ten days of thirty",
        // Of basic, 1000 × 20/30 are unused; of pro, 3000 × 20/30 are new.
        events: |run| {
            vec![
                run.customer(),
                run.subscription("active", "price_pro"),
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.paid(
                    "b",
                    "subscription_update",
                    10,
                    &[part("price_basic", -1333, 10), part("price_pro", 3333, 10)],
                ),
            ]
        },
        balance: "2333.333333333",
        grants: &[("subscription", "1000", "333.333333333"), ("subscription", "2000", "2000")],
    },
    Case {
        name: "more seats, and more again",
        // First 1000. Then a third in all is unused of one seat and new of two. Then a sixth is unused of two
        // seats and new of four.
        events: |run| {
            let two = |amount, from| Line { quantity: 2, ..part("price_basic", amount, from) };
            let four = |amount, from| Line { quantity: 4, ..part("price_basic", amount, from) };
            vec![
                run.customer(),
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.paid("b", "subscription_update", 10, &[part("price_basic", -1333, 10), two(2666, 10)]),
                run.paid("c", "subscription_update", 20, &[two(-1333, 20), four(2666, 20)]),
                run.invoice_payment("c", 1333),
            ]
        },
        balance: "2333.333333332",
        grants: &[
            ("subscription", "1000", "333.333333333"),
            ("subscription", "1333.333333333", "666.666666666"),
            ("subscription", "1333.333333333", "1333.333333333"),
        ],
    },
    Case {
        name: "refund in three parts",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.refund("1", "a", 333, "succeeded", 0),
                run.refund("2", "a", 667, "succeeded", 0),
                run.refund("3", "a", 999, "pending", 0),
            ]
        },
        // One minor unit of 2000 remains.
        balance: "0.5",
        grants: &[("subscription", "1000", "0.5")],
    },
    Case {
        name: "refund of an upgraded period",
        // 666.666666667 are unused time. The whole payment for basic came back, but no more than the grant is
        // taken.
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.paid(
                    "b",
                    "subscription_update",
                    10,
                    &[part("price_basic", -1333, 10), part("price_pro", 3333, 10)],
                ),
                run.refund("1", "a", 1000, "succeeded", 0),
                run.refund("2", "a", 1000, "succeeded", 0),
            ]
        },
        balance: "2000",
        grants: &[("subscription", "1000", "0"), ("subscription", "2000", "2000")],
    },
    Case {
        name: "failed refund",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.refund("1", "a", 800, "succeeded", 0),
                run.refund("2", "a", 1000, "pending", 0),
                run.refund("2", "a", 1000, "failed", 1),
            ]
        },
        balance: "600",
        grants: &[("subscription", "1000", "600")],
    },
    Case {
        name: "dispute won",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.charge("a", 2000),
                run.dispute("a", "needs_response", &[-2000], 1),
                run.dispute("a", "won", &[-2000, 2000], 2),
            ]
        },
        balance: "1000",
        grants: BASIC,
    },
    Case {
        name: "dispute lost",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.dispute("a", "needs_response", &[], 0),
                run.dispute("a", "under_review", &[-2000], 1),
                run.dispute("a", "lost", &[-2000], 2),
            ]
        },
        balance: "0",
        grants: &[("subscription", "1000", "0")],
    },
    Case {
        name: "dispute under way",
        events: |run| {
            vec![
                run.customer(),
                run.session("paid", None, &json!({ "battery_pack": "pack-500" }), 0),
                run.charge("x", 2000),
                run.dispute("x", "needs_response", &[-2000], 1),
            ]
        },
        balance: "0",
        grants: &[("purchase", "500", "0")],
    },
    Case {
        name: "an inquiry",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.dispute("a", "warning_needs_response", &[], 0),
                run.dispute("a", "warning_closed", &[], 2),
            ]
        },
        balance: "1000",
        grants: BASIC,
    },
    Case {
        name: "credit note with its refund, and more outside Stripe",
        // 800 with the refund, 200 outside it.
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.refund("1", "a", 800, "succeeded", 0),
                run.credit_note("a", 1000, 200, &["1"]),
            ]
        },
        balance: "500",
        grants: &[("subscription", "1000", "500")],
    },
    Case {
        name: "credit note alone",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.credit_note("a", 500, 0, &[]),
            ]
        },
        balance: "750",
        grants: &[("subscription", "1000", "750")],
    },
    Case {
        name: "a charge tells of a refund that nobody lists",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.charge("a", 2000),
                run.refunded("a", 2000, 500),
            ]
        },
        balance: "750",
        grants: &[("subscription", "1000", "750")],
    },
    Case {
        name: "a charge tells of a refund, and so does the refund",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.refunded("a", 2000, 500),
                run.refund("1", "a", 500, "succeeded", 0),
            ]
        },
        balance: "750",
        grants: &[("subscription", "1000", "750")],
    },
    Case {
        name: "a charge tells of a refund that has failed since",
        events: |run| {
            vec![
                run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
                run.invoice_payment("a", 2000),
                run.refunded("a", 2000, 500),
                run.refund("1", "a", 500, "failed", 1),
            ]
        },
        balance: "1000",
        grants: &[("subscription", "1000", "1000")],
    },
    Case {
        name: "the older shapes",
        events: |run| {
            let mut invoice = run.invoice("a", "subscription", "paid", 0, &[]);
            (invoice["charge"], invoice["subscription"]) = (run.id("ch_a").into(), run.id("sub").into());
            (invoice["total"], invoice["amount_paid"], invoice["amount_due"]) =
                (2000.into(), 2000.into(), 2000.into());
            invoice["lines"]["data"] = json!([{ "id": run.id("sub"), "object": "line_item",
                "type": "subscription", "amount": 2000, "currency": "usd", "quantity": 1,
                "proration": false,
                    "period": { "start": build::start(), "end": build::start() + 30 * build::DAY },
                    "plan": { "id": "price_basic", "product": "prod_1" } }]);
            let mut charge = run.charge("a", 2000)["data"]["object"].clone();
            charge["payment_intent"] = Value::Null;
            charge["refunds"] = json!({ "object": "list", "has_more": false, "data": [
                { "id": run.id("re_1"), "object": "refund", "amount": 500, "currency": "usd",
                    "created": build::start(), "status": "succeeded", "charge": run.id("ch_a") }] });
            vec![
                run.event("paid", "invoice.payment_succeeded", 2, invoice),
                run.charge("a", 2000),
                run.event("refunded", "charge.refunded", 9, charge),
            ]
        },
        balance: "750",
        grants: &[("subscription", "1000", "750")],
    },
];
