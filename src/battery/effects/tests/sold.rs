//! What lines sell. The tables were computed by hand. The month is March, which has 31 days, and the plan has
//! 100 units in each period.

use serde_json::{Value, json};

use super::*;

pub(super) const MARCH: (&str, &str) = ("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z");

/// A line of a subscription item.
pub(super) fn line(
    id: &str,
    item: &str,
    amount: i64,
    quantity: i64,
    (start, end): (&str, &str),
    more: Value,
) -> Value {
    let mut line = json!({ "id": id, "item": item, "kind": "subscription", "amount": amount,
        "quantity": quantity, "start": start, "end": end,
        "price": format!("price_{item}"), "subscription": "sub_1", "proration": false,
            "mirrored": { "trial_start": null, "trial_end": null },
        "plan": { "id": "pro", "moved": 1, "by_price": true,
            "versions": [{ "version": 1, "created_at": "2026-01-01T00:00:00Z", "units": "100" }] } });
    merge(&mut line, more);
    line
}

pub(super) fn merge(into: &mut Value, more: Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (name, value) in more {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more,
    }
}

pub(super) fn of(lines: &[Value]) -> Facts {
    facts(json!({ "org_id": 1, "lines": lines,
            "invoice": { "status": "paid", "billing_reason": "subscription_cycle", "currency": "usd",
        "amount_paid": 2000, "total": 2000, "created": "2026-03-01T00:00:00Z",
            "paid_at": "2026-03-01T00:00:00Z", "lines_complete": true } }))
}

/// Grants as `key units`, then clawbacks as `key -units @grant`, then waiting lines as `key reason`.
pub(super) fn effects_of(facts: &Facts) -> Vec<String> {
    let decision = decided(facts, SourceKind::Invoice);
    let grants = decision.grants.iter().map(|grant| format!("{} {}", grant.line, grant.units.normalize()));
    let clawbacks = decision.clawbacks.iter().map(|clawback| {
        let grant = clawback.grant.map(|grant| format!(" @{grant}")).unwrap_or_default();
        format!("{} -{}{grant}", clawback.line, clawback.units.normalize())
    });
    let waits = decision.waits.iter().map(|wait| format!("{} {}", wait.line, wait.reason.name()));
    grants.chain(clawbacks).chain(waits).collect()
}

#[test]
fn a_period_is_sold_once_by_the_item_whose_price_buys_the_plan() {
    let february = ("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z");
    let metered = json!({ "usage_type": "metered" });
    let by_product = json!({ "plan": { "by_price": false } });
    let metered_by_product = json!({ "price_usage": "metered", "plan": { "by_price": false } });
    for (name, lines, expected) in [
        ("a flat fee", vec![line("a", "flat", 2000, 1, MARCH, json!({}))], vec!["a 100"]),
        (
            "a flat fee and overage, both by the product",
            vec![
                line("o", "over", 5000, 5000, february, metered_by_product.clone()),
                line("a", "flat", 2000, 1, MARCH, by_product.clone()),
            ],
            vec!["a 100"],
        ),
        (
            "overage by its own price beside a licensed one",
            vec![
                line("o", "over", 5000, 5000, february, metered.clone()),
                line("a", "flat", 2000, 2, MARCH, json!({ "item_usage": "licensed" })),
            ],
            vec!["a 200"],
        ),
        (
            "overage alone, of a subscription with a licensed item",
            vec![line(
                "o",
                "over",
                5000,
                5000,
                february,
                json!({ "item_usage": "metered", "plan": { "licensed_beside": true } }),
            )],
            vec![],
        ),
        (
            "overage of the plan before an upgrade, by its own price",
            vec![
                line("o", "over", 5000, 5000, february, metered.clone()),
                line("a", "flat", 2000, 1, MARCH, json!({ "plan": { "id": "higher" } })),
            ],
            vec!["a 100"],
        ),
        (
            "a metered plan beside another plan of the same time",
            vec![
                line("o", "pay", 5000, 5000, MARCH, metered.clone()),
                line("a", "flat", 2000, 1, MARCH, json!({ "plan": { "id": "higher" } })),
            ],
            vec!["o 100", "a 100"],
        ),
        (
            "a plan that is bought by a metered price alone: the quantity is usage",
            vec![line("a", "pay", 700, 350, MARCH, metered.clone())],
            vec!["a 100"],
        ),
        (
            "the price is unknown, and the line bills a time that is over",
            vec![
                line("o", "over", 900, 9, february, by_product.clone()),
                line("a", "flat", 2000, 1, MARCH, by_product.clone()),
            ],
            vec!["a 100"],
        ),
        (
            "tiers of a licensed price: 5 and 10 seats are 15",
            vec![line("a", "seat", 5000, 5, MARCH, json!({})), line("b", "seat", 8000, 10, MARCH, json!({}))],
            vec!["a 1500"],
        ),
        (
            "tiers of a metered price that buys the plan are one sale of one",
            vec![line("a", "pay", 0, 100, MARCH, metered.clone()), line("b", "pay", 300, 30, MARCH, metered)],
            vec!["a 100"],
        ),
        (
            "two items of the plan, one of them by its price alone",
            vec![
                line("a", "base", 2000, 1, MARCH, json!({})),
                line("b", "seat", 900, 3, MARCH, by_product.clone()),
            ],
            vec!["a 100"],
        ),
        (
            "two items of the product",
            vec![
                line("a", "one", 2000, 1, MARCH, by_product.clone()),
                line("b", "two", 2000, 1, MARCH, by_product),
            ],
            vec!["a 100", "b 100"],
        ),
        ("money given back", vec![line("a", "flat", -2000, 1, MARCH, json!({}))], vec![]),
        (
            "all of it off by a discount, as some shapes tell it",
            vec![line("a", "flat", 0, 1, MARCH, json!({ "discount": 2000, "costs": true }))],
            vec!["a 100"],
        ),
        ("a free price", vec![line("a", "flat", 0, 1, MARCH, json!({ "costs": false }))], vec!["a 100"]),
        (
            "nothing asked, and no reason known",
            vec![line("a", "flat", 0, 1, MARCH, json!({ "costs": true }))],
            vec![],
        ),
        (
            "a trial",
            vec![line(
                "a",
                "flat",
                0,
                1,
                MARCH,
                json!({ "costs": true, "mirrored": { "trial_start": MARCH.0, "trial_end": MARCH.1 } }),
            )],
            vec!["a 100"],
        ),
        (
            "what another product of the account sells",
            vec![line("a", "shoes", 2000, 1, MARCH, json!({ "plan": null, "ignored": true }))],
            vec![],
        ),
        (
            "an unknown price",
            vec![line("a", "shoes", 2000, 1, MARCH, json!({ "plan": null }))],
            vec!["a unknown_price"],
        ),
        (
            "usage at an unknown price",
            vec![line("a", "calls", 2000, 7, MARCH, json!({ "plan": null, "price_usage": "metered" }))],
            vec![],
        ),
    ] {
        assert_eq!(effects_of(&of(&lines)), expected, "{name}");
    }
}

#[test]
fn a_year_with_monthly_units_is_granted_month_by_month() {
    let year = ("2026-01-31T00:00:00Z", "2027-01-31T00:00:00Z");
    let facts = of(&[line("a", "flat", 20_000, 2, year, json!({}))]);
    let decision = decided(&facts, SourceKind::Invoice);
    assert_eq!(decision.grants.len(), 12);
    let of = |n: usize| {
        let grant = &decision.grants[n];
        let (start, end) = grant.period.expect("a period");
        (grant.line.as_str(), grant.units, start, end, grant.effective_at)
    };
    // It is 11 March.
    assert_eq!(of(0), ("a", units("200"), at(year.0), at("2026-02-28T00:00:00Z"), None));
    assert_eq!(of(1), ("a~2", units("200"), at("2026-02-28T00:00:00Z"), at("2026-03-31T00:00:00Z"), None));
    let april = at("2026-03-31T00:00:00Z");
    assert_eq!(of(2), ("a~3", units("200"), april, at("2026-04-30T00:00:00Z"), Some(april)));
    assert_eq!(of(11).3, at(year.1));
    // The plan's units for a year are granted at once, and a quarter is an ordinary period.
    let annual = json!({ "plan": { "versions": [{ "version": 1, "created_at": "2026-01-01T00:00:00Z",
        "units": "100", "annual": "1300" }] } });
    assert_eq!(effects_of(&super::sold::of(&[line("a", "flat", 20_000, 1, year, annual)])), ["a 1300"]);
    let quarter = ("2026-01-01T00:00:00Z", "2026-04-01T00:00:00Z");
    assert_eq!(effects_of(&super::sold::of(&[line("a", "flat", 6000, 1, quarter, json!({}))])), ["a 100"]);
    // Months that have a grant already get no second one.
    let mut facts = facts;
    facts.effects = serde_json::from_value(
        json!([{ "line": "a", "org_id": 1, "grant": 1, "units": "200", "what": "subscription" }]),
    )
    .expect("a claim");
    assert_eq!(effects_of(&facts), Vec::<String>::new());
}

#[test]
fn unused_time_of_a_year_is_taken_month_by_month() {
    // From 16 March, the middle of a month of 31 days that begins on the 1st: 15.5 days of March (rounded to
    // hours), then April and later.
    let year = json!({ "start": "2026-03-01T00:00:00Z", "end": "2027-03-01T00:00:00Z" });
    let rest = ("2026-12-16T12:00:00Z", "2027-03-01T00:00:00Z");
    let holders = json!([
        { "number": 12, "start": "2027-02-01T00:00:00Z", "end": "2027-03-01T00:00:00Z" },
        { "number": 11, "start": "2027-01-01T00:00:00Z", "end": "2027-02-01T00:00:00Z" },
        { "number": 10, "start": "2026-12-01T00:00:00Z", "end": "2027-01-01T00:00:00Z" } ]);
    let part = json!({ "proration": true, "full_period": year, "overlapping_grants": holders });
    assert_eq!(
        effects_of(&of(&[line("a", "flat", -5000, 1, rest, part.clone())])),
        ["a -50 @10", "a~2 -100 @11", "a~3 -100 @12"]
    );
    let facts = of(&[line("a", "flat", 5000, 3, rest, part)]);
    assert_eq!(effects_of(&facts), ["a 150", "a~2 300", "a~3 300"]);
    // The running month's units may be used now, those of later months when they begin.
    let decision = decided(&facts, SourceKind::Invoice);
    let from: Vec<_> = decision.grants.iter().map(|grant| grant.effective_at).collect();
    let (january, february) = (at("2027-01-01T00:00:00Z"), at("2027-02-01T00:00:00Z"));
    assert_eq!(from, [None, Some(january), Some(february)]);
}

#[test]
fn packs_are_sold_by_sign_quantity_and_share() {
    let pack = json!({ "id": "p", "units": "500" });
    let month = json!({ "start": "2026-03-01T00:00:00Z", "end": "2026-03-31T00:00:00Z" });
    let (after_10, after_20) =
        (("2026-03-11T00:00:00Z", "2026-03-31T00:00:00Z"), ("2026-03-21T00:00:00Z", "2026-03-31T00:00:00Z"));
    let first = json!([{ "number": 1, "start": "2026-03-01T00:00:00Z", "end": "2026-03-31T00:00:00Z" }]);
    let sold = |amount: i64, quantity: i64, time: (&str, &str), more: Value| {
        let mut all = json!({ "plan": null, "pack": pack });
        merge(&mut all, more);
        line(if amount < 0 { "unused" } else { "new" }, "pack", amount, quantity, time, all)
    };
    let part =
        |holders: &Value| json!({ "proration": true, "full_period": month, "overlapping_grants": holders });
    let once = json!({ "kind": "invoiceitem", "subscription": null });
    for (name, lines, expected) in [
        ("once", vec![sold(2000, 3, MARCH, once.clone())], vec!["new 1500"]),
        (
            "once, on the invoice of a subscription",
            vec![sold(2000, 1, MARCH, json!({ "kind": "invoiceitem" }))],
            vec!["new 500"],
        ),
        ("given back", vec![sold(-2000, 3, MARCH, once.clone())], vec![]),
        ("given away", vec![sold(0, 1, MARCH, once.clone())], vec![]),
        (
            "all of it off by a coupon",
            vec![sold(
                2000,
                1,
                MARCH,
                json!({ "kind": "invoiceitem", "subscription": null, "discount": 2000 }),
            )],
            vec!["new 500"],
        ),
        ("a recurring one, each month", vec![sold(2000, 2, MARCH, json!({}))], vec!["new 1000"]),
        ("a recurring one in a trial", vec![sold(0, 2, MARCH, json!({}))], vec![]),
        (
            "1 to 3 after a third: 3 x 500 x 2/3 less 500 x 2/3",
            vec![sold(-1333, 1, after_10, part(&first)), sold(4000, 3, after_10, part(&first))],
            vec!["new 1000", "unused -333.333333333 @1"],
        ),
        (
            "3 to 1 after two thirds: a net credit adds nothing",
            vec![sold(-2000, 3, after_20, part(&first)), sold(667, 1, after_20, part(&first))],
            vec!["unused -500 @1"],
        ),
        (
            "canceled after a third",
            vec![sold(-1333, 1, after_10, part(&first))],
            vec!["unused -333.333333333 @1"],
        ),
        ("added after a third", vec![sold(1333, 1, after_10, part(&json!([])))], vec!["new 333.333333333"]),
        (
            "canceled a minute before a third was over: what lies within an hour is no share",
            vec![sold(-1333, 1, ("2026-03-10T23:59:00Z", "2026-03-31T00:00:00Z"), part(&first))],
            vec!["unused -333.333333333 @1"],
        ),
        (
            "canceled before its purchase is known",
            vec![sold(-1333, 1, after_10, part(&json!([])))],
            vec!["unused no_grant"],
        ),
    ] {
        assert_eq!(effects_of(&of(&lines)), expected, "{name}");
    }
}

/// A session about a pack of 50 units. Its event has this amount and metadata.
#[test]
fn a_session_sells_as_many_as_its_amount_says() {
    for (prices, subtotal, metadata, expected) in [
        (json!([1000]), json!(5000), json!({}), Ok("250")),
        (json!([1000]), json!(1000), json!({}), Ok("50")),
        // Ten packs for the price of two would be a guess.
        (json!([1000]), json!(2500), json!({}), Err("unknown_quantity")),
        (json!([1000, 500]), json!(1000), json!({}), Err("unknown_quantity")),
        (json!([1000, 500]), json!(1000), json!({ "quantity": 2 }), Ok("100")),
        (json!([1000, 700]), json!(1400), json!({}), Ok("100")),
        // The buyer changed the quantity that the link had.
        (json!([1000]), json!(3000), json!({ "quantity": "1" }), Ok("150")),
        (json!(null), json!(3000), json!({}), Err("unknown_quantity")),
        (json!(null), json!(3000), json!({ "quantity": "3" }), Ok("150")),
        (json!(null), json!(3000), json!({ "battery_pack": "p" }), Ok("50")),
        (json!([1000]), json!(null), json!({}), Ok("50")),
    ] {
        let pack = json!({ "id": "p", "units": "50", "prices": prices, "has_price": true });
        let found = if metadata["battery_pack"].is_null() { "by_link" } else { "by_id" };
        let facts = facts(json!({ "org_id": 1,
                "session": { "mode": "payment", "payment_status": "paid", "amount_subtotal": subtotal,
            "amount_total": 3000, "currency": "usd", "named": { "metadata": metadata, found: pack } } }));
        let decision = decided(&facts, SourceKind::CheckoutSession);
        let got =
            decision.grants.first().map(|grant| grant.units).ok_or_else(|| decision.waits[0].reason.name());
        assert_eq!(got, expected.map(units), "{prices} {subtotal} {metadata}");
    }
}

#[test]
fn a_session_sells_when_it_is_paid() {
    let pack = json!({ "id": "p", "units": "50" });
    for (mode, status, intent, expected) in [
        ("payment", "paid", None, Some((50, 2000))),
        ("payment", "no_payment_required", None, Some((50, 2000))),
        ("payment", "unpaid", None, None),
        ("payment", "unpaid", Some(("requires_capture", 0)), None),
        ("payment", "unpaid", Some(("succeeded", 2000)), Some((50, 2000))),
        // Captured in part: only that part is paid.
        ("payment", "unpaid", Some(("succeeded", 1200)), Some((50, 1200))),
        ("payment", "unpaid", Some(("canceled", 0)), None),
        ("subscription", "paid", None, None),
        ("setup", "no_payment_required", None, None),
    ] {
        let intent = intent.map(
            |(status, received)| json!({ "status": status, "amount_received": received, "currency": "usd" }),
        );
        let facts = facts(json!({ "org_id": 1, "intent": intent,
                "session": { "mode": mode, "payment_status": status, "amount_total": 2000,
            "currency": "usd", "named": { "metadata": { "battery_pack": "p" }, "by_id": pack } } }));
        let got = decided(&facts, SourceKind::PaymentIntent)
            .grants
            .first()
            .map(|grant| (grant.units, facts.paid().minor));
        assert_eq!(
            got,
            expected.map(|(n, paid)| (rust_decimal::Decimal::from(n), paid)),
            "{mode} {status} {intent:?}"
        );
    }
}

/// A session whose line items are known. The pack p has 50 units, q has 200, each by a price of its own; one
/// p costs 1000, one q 3000. The amount is 5000: five of p, if it were guessed.
#[test]
fn line_items_tell_which_packs_a_session_sold() {
    let p = json!({ "id": "p", "units": "50" });
    let priced = json!({ "id": "p", "units": "50", "prices": [1000], "has_price": true });
    let q = json!({ "id": "q", "units": "200" });
    let item = |id: &str, pack: &Value, quantity: Value| {
        json!({ "id": id, "price": format!("price_{id}"), "quantity": quantity,
            "pack": pack, "ignored": id.starts_with("ignored") })
    };
    let shirt = item("shirt", &Value::Null, json!(9));
    let by_id = json!({ "metadata": { "battery_pack": "p" }, "by_id": priced });
    let by_link = json!({ "by_link": priced, "metadata": {} });
    let waiting = |line: &str, more: Value| {
        let mut row = json!({ "line": line, "since": "2026-03-10T00:00:00Z", "dismissed": false });
        merge(&mut row, more);
        row
    };
    let nothing = json!({ "metadata": {} });
    let none: Vec<Value> = vec![];
    for (name, items, named, waits, expected) in [
        ("3 of p", json!([item("a", &p, json!(3))]), &nothing, none.clone(), vec![" 150"]),
        // 2 x 50 + 1 x 50 of one pack by two prices: one grant.
        (
            "one pack, two prices",
            json!([item("a", &p, json!(2)), item("b", &p, json!(1))]),
            &nothing,
            none.clone(),
            vec![" 150"],
        ),
        (
            "3 of p and 1 of q",
            json!([item("a", &p, json!(3)), item("b", &q, json!(1))]),
            &nothing,
            none.clone(),
            vec!["a 150", "b 200"],
        ),
        ("p beside a shirt", json!([shirt, item("a", &p, json!(2))]), &nothing, none.clone(), vec![" 100"]),
        ("a shirt alone waits as before", json!([shirt]), &nothing, none.clone(), vec![" unknown_pack"]),
        (
            "what is ignored waits no more",
            json!([item("ignored", &Value::Null, json!(1))]),
            &nothing,
            none.clone(),
            vec![],
        ),
        (
            "ignored beside a shirt",
            json!([item("ignored", &Value::Null, json!(1)), shirt]),
            &nothing,
            none.clone(),
            vec![" unknown_pack"],
        ),
        // The buyer took 2 of p and 1 of q; the amount alone would say 5 of p.
        (
            "the items count before the link",
            json!([item("a", &p, json!(2)), item("b", &q, json!(1))]),
            &by_link,
            none.clone(),
            vec!["a 100", "b 200"],
        ),
        ("the items buy no pack: the link", json!([shirt]), &by_link, none.clone(), vec![" 250"]),
        ("the items are not known: the link", json!(null), &by_link, none.clone(), vec![" 250"]),
        ("no items at all: the link", json!([]), &by_link, none.clone(), vec![" 250"]),
        ("by its id, 2", json!([item("a", &p, json!(2))]), &by_id, none.clone(), vec![" 100"]),
        (
            "by its id, with another pack",
            json!([item("a", &p, json!(2)), item("b", &q, json!(1))]),
            &by_id,
            none.clone(),
            vec!["a 100", "b 200"],
        ),
        // The price of q was made to sell p.
        ("by its id, only q is bought", json!([item("b", &q, json!(7))]), &by_id, none.clone(), vec![" 250"]),
        (
            "by units",
            json!([item("a", &p, json!(2))]),
            &json!({ "metadata": { "battery_units": "7" } }),
            none.clone(),
            vec![" 7"],
        ),
        (
            "the metadata's quantity is older than the items",
            json!([item("a", &p, json!(2))]),
            &json!({ "metadata": { "price": "price_a", "quantity": "9" }, "by_price": priced }),
            none.clone(),
            vec![" 100"],
        ),
        (
            "no quantity",
            json!([item("a", &p, json!(null))]),
            &nothing,
            none.clone(),
            vec![" unknown_quantity"],
        ),
        (
            "one of two without a quantity: nothing is granted yet",
            json!([item("a", &p, json!(null)), item("b", &q, json!(1))]),
            &nothing,
            none.clone(),
            vec![" unknown_quantity"],
        ),
        (
            "a quantity of zero buys nothing",
            json!([item("a", &p, json!(0)), item("b", &q, json!(2))]),
            &nothing,
            none.clone(),
            vec![" 400"],
        ),
        (
            "an operator assigned the pack: 3 were bought",
            json!([item("a", &p, json!(3)), item("b", &q, json!(1))]),
            &nothing,
            vec![waiting("", json!({ "pack": p }))],
            vec![" 150"],
        ),
        (
            "an operator assigned the quantity",
            json!([item("a", &p, json!(3))]),
            &nothing,
            vec![waiting("", json!({ "quantity": 4 }))],
            vec![" 200"],
        ),
        (
            "dismissed as a whole",
            json!([item("a", &p, json!(3))]),
            &nothing,
            vec![waiting("", json!({ "dismissed": true }))],
            vec![],
        ),
        (
            "one item dismissed",
            json!([item("a", &p, json!(3)), item("b", &q, json!(1))]),
            &nothing,
            vec![waiting("a", json!({ "dismissed": true }))],
            vec!["b 200"],
        ),
    ] {
        let mut facts = facts(json!({ "org_id": 1, "session": { "mode": "payment",
            "payment_status": "paid", "amount_subtotal": 5000, "amount_total": 5000, "currency": "usd",
            "named": named, "items": items } }));
        facts.waiting = serde_json::from_value(json!(waits)).expect("rows");
        assert_eq!(effects_of_session(&facts), expected, "{name}");
        // What was granted before stays, whatever the items tell later.
        for line in ["", "a"] {
            facts.effects = serde_json::from_value(
                json!([{ "line": line, "org_id": 1, "grant": 1, "units": "50", "what": "pack" }]),
            )
            .expect("an effect");
            assert_eq!(effects_of_session(&facts), Vec::<String>::new(), "{name}, granted before");
        }
    }
}

fn effects_of_session(facts: &Facts) -> Vec<String> {
    let decision = decided(facts, SourceKind::PaymentIntent);
    let grants = decision.grants.iter().map(|grant| format!("{} {}", grant.line, grant.units.normalize()));
    grants.chain(decision.waits.iter().map(|wait| format!("{} {}", wait.line, wait.reason.name()))).collect()
}
