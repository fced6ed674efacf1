//! Which of several sales of one period counts. The tables were computed by hand.

use serde_json::{Value, json};

use super::*;

const MARCH: (&str, &str) = ("2026-03-01T00:00:00Z", "2026-04-01T00:00:00Z");

/// An invoice that has granted 100 units for March, with these fields of its line, invoice and claim.
fn sold(line: Value, invoice: Value, claim: Value) -> Facts {
    let mut whole = json!({ "org_id": 1,
        "lines": [{ "id": "il", "amount": 2000, "quantity": 1, "start": MARCH.0, "end": MARCH.1,
            "price": "p", "subscription": "sub", "item": "si" }],
        "invoice": { "status": "paid", "total": 2000, "created": MARCH.0, "paid_at": MARCH.0,
            "lines_complete": true },
        "effects": [{ "line": "il", "org_id": 1, "grant": 1, "units": "100", "what": "subscription",
            "quantity": 1, "start": MARCH.0, "end": MARCH.1 }] });
    for (at, more) in [("/lines/0", line), ("/invoice", invoice), ("/effects/0", claim)] {
        let Value::Object(more) = more else { continue };
        let fields = whole.pointer_mut(at).and_then(Value::as_object_mut).expect("an object");
        fields.extend(more);
    }
    facts(whole)
}

/// Names of the sales that do not count, each with the sale that counts.
fn losers(all: &[(&str, &Facts)]) -> Vec<(String, Option<String>)> {
    let source = |id: &str| SaleSource {
        realm: Realm { account: String::new(), livemode: true },
        kind: SourceKind::Invoice,
        id: id.to_owned(),
    };
    let sources: Vec<(SaleSource, &Facts)> = all.iter().map(|(id, facts)| (source(id), *facts)).collect();
    let found = found_repeats::find(sources.iter().map(|(source, facts)| (source, *facts, None)));
    found
        .into_iter()
        .flat_map(|(source, lines)| lines.into_values().map(move |by| (source.id.clone(), by)))
        .collect()
}

#[test]
fn what_differs_in_one_fact_is_another_sale() {
    let none = || Value::Null;
    let one = sold(none(), none(), none());
    for (name, other, same) in [
        ("the same", sold(none(), none(), none()), true),
        ("paid with less", sold(none(), json!({ "total": 900 }), none()), true),
        ("of another item", sold(json!({ "item": "other" }), none(), none()), false),
        ("at another price", sold(json!({ "price": "other" }), none(), none()), false),
        ("of another subscription", sold(json!({ "subscription": "other" }), none(), none()), false),
        ("once, and of no subscription", sold(json!({ "subscription": null }), none(), none()), false),
        ("of another org", sold(none(), none(), json!({ "org_id": 2 })), false),
        ("of another quantity", sold(none(), none(), json!({ "quantity": 2 })), false),
        ("that begins later", sold(none(), none(), json!({ "start": "2026-03-02T00:00:00Z" })), false),
        ("that ends earlier", sold(none(), none(), json!({ "end": "2026-03-31T00:00:00Z" })), false),
        ("a part", sold(json!({ "proration": true }), none(), none()), false),
        ("without units", sold(none(), none(), json!({ "units": "0" })), false),
        ("voided", sold(none(), json!({ "status": "void" }), none()), false),
        ("emptied before it was paid", sold(none(), json!({ "reduced": 2000 }), none()), false),
    ] {
        let expected = if same { vec![("y".to_owned(), Some("x".to_owned()))] } else { Vec::new() };
        assert_eq!(losers(&[("x", &one), ("y", &other)]), expected, "{name}");
        assert_eq!(losers(&[("y", &other), ("x", &one)]), expected, "{name}");
    }
}

#[test]
fn the_one_of_which_most_is_held_counts_and_then_the_one_that_was_paid_first() {
    let at = |day: u32| format!("2026-03-{day:02}T00:00:00Z");
    let returned = |mut facts: Facts, minor: i64| {
        facts.returned = vec![ReturnedMoney {
            cause: "refund".to_owned(),
            amount: Some(minor),
            ..ReturnedMoney::default()
        }];
        facts
    };
    let paid = |day: u32| sold(Value::Null, json!({ "paid_at": at(day) }), Value::Null);
    let lost = |name: &str, by: &str| vec![(name.to_owned(), Some(by.to_owned()))];
    assert_eq!(losers(&[("x", &paid(5)), ("y", &paid(4))]), lost("x", "y"));
    assert_eq!(losers(&[("x", &paid(5)), ("y", &paid(5))]), lost("y", "x"));
    // Half of the 100 units is left: less than three quarters, more than a quarter.
    let half = returned(paid(5), 1000);
    assert_eq!(losers(&[("x", &half), ("y", &returned(paid(6), 500))]), lost("x", "y"));
    assert_eq!(losers(&[("x", &half), ("y", &returned(paid(4), 1500))]), lost("y", "x"));
    // It has nothing left, so no unused time is taken from it, and no operator needs to know.
    assert_eq!(losers(&[("x", &half), ("y", &returned(paid(4), 2000))]), vec![("y".to_owned(), None)]);
    // A paid sale counts before a trial.
    let trial = sold(Value::Null, json!({ "total": 0 }), json!({ "units": "10" }));
    assert_eq!(losers(&[("x", &trial), ("y", &half)]), lost("x", "y"));
    // A dismissed sale loses, even when it is alone.
    let mut dismissed = paid(1);
    dismissed.waiting =
        serde_json::from_value(json!([{ "line": "il", "since": at(2), "dismissed": true }])).expect("rows");
    assert_eq!(losers(&[("x", &dismissed)]), vec![("x".to_owned(), None)]);
    assert_eq!(losers(&[("x", &dismissed), ("y", &paid(9))]), vec![("x".to_owned(), None)]);
}
