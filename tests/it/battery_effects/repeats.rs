//! Two invoices that sold the same period: it is granted once, whichever comes first. The results were
//! computed by hand.

use std::collections::BTreeMap;

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::build::{DAY, Line, Run, month, part};
use super::{battery, differences, furnish, orders, shop, unsound};
use crate::support::{Daemon, Database};

/// Invoices, and the result in any order of their events.
struct Situation {
    name: &'static str,
    events: fn(&Run) -> Vec<Value>,
    balance: &'static str,
    /// Invoices that wait, each with the one that granted its period.
    waits: &'static [(&'static str, &'static str)],
}

/// A paid invoice of one line, paid on this day.
fn paid(run: &Run, name: &str, day: i64, line: Line) -> Value {
    run.paid(name, "subscription_cycle", day, &[line])
}

fn voided(run: &Run, name: &str, day: i64, line: Line) -> Value {
    let object = run.invoice(name, "subscription_cycle", "void", day, &[line]);
    run.event(&format!("{name}_void"), "invoice.voided", 15 * DAY, object)
}

/// A credit note that returns this amount of the invoice to the balance.
fn credited(run: &Run, of: &str, amount: i64) -> Value {
    let mut note = run.note(of, amount, &json!({ "post_payment_amount": amount, "pre_payment_amount": 0 }));
    note["id"] = run.id(&format!("evt_cn_{of}")).into();
    note["data"]["object"]["id"] = run.id(&format!("cn_{of}")).into();
    note
}

fn basic() -> Line {
    month("price_basic", 2000)
}

fn year() -> Line {
    Line { days: (0, 365), ..month("price_pro", 20_000) }
}

/// A change to the plan with 3000 units, after ten of thirty days.
fn upgrade(run: &Run) -> Value {
    let lines = [part("price_basic", -1333, 10), part("price_pro", 3333, 10)];
    run.paid("c", "subscription_update", 10, &lines)
}

const SITUATIONS: &[Situation] = &[
    Situation {
        name: "a replacement is paid beside the original",
        events: |run| vec![paid(run, "a", 0, basic()), paid(run, "b", 3, basic())],
        balance: "1000",
        waits: &[("b", "a")],
    },
    Situation {
        name: "three times, the first made last",
        events: |run| {
            vec![paid(run, "a", 9, basic()), paid(run, "b", 3, basic()), paid(run, "c", 5, basic())]
        },
        balance: "1000",
        waits: &[("a", "b"), ("c", "b")],
    },
    Situation {
        name: "the original is voided",
        events: |run| {
            vec![paid(run, "a", 0, basic()), paid(run, "b", 3, basic()), voided(run, "a", 0, basic())]
        },
        balance: "1000",
        waits: &[],
    },
    Situation {
        name: "the replacement is voided",
        events: |run| {
            vec![paid(run, "a", 0, basic()), paid(run, "b", 3, basic()), voided(run, "b", 3, basic())]
        },
        balance: "1000",
        waits: &[],
    },
    Situation {
        name: "all of the original is refunded",
        events: |run| {
            vec![
                paid(run, "a", 0, basic()),
                run.invoice_payment("a", 2000),
                run.refund("1", "a", 2000, "succeeded", 0),
                paid(run, "b", 3, basic()),
            ]
        },
        balance: "1000",
        waits: &[],
    },
    Situation {
        name: "that refund fails",
        events: |run| {
            vec![
                paid(run, "a", 0, basic()),
                run.invoice_payment("a", 2000),
                run.refund("1", "a", 2000, "pending", 0),
                run.refund("1", "a", 2000, "failed", 1),
                paid(run, "b", 3, basic()),
            ]
        },
        balance: "1000",
        waits: &[("b", "a")],
    },
    Situation {
        name: "a quarter of one came back, half of the other: three quarters are held",
        events: |run| {
            vec![
                paid(run, "a", 0, basic()),
                credited(run, "a", 1000),
                paid(run, "b", 3, basic()),
                credited(run, "b", 500),
            ]
        },
        balance: "750",
        waits: &[("a", "b")],
    },
    Situation {
        name: "credit notes empty the replacement before it is paid",
        events: |run| {
            let empty = json!({ "amount_paid": 0, "pre_payment_credit_notes_amount": 2000 });
            vec![paid(run, "a", 0, basic()), run.settled("b", &[basic()], 3, &empty)]
        },
        balance: "1000",
        waits: &[],
    },
    Situation {
        name: "the replacement was paid from the balance",
        events: |run| {
            let balance = json!({ "amount_paid": 0, "amount_due": 0 });
            vec![paid(run, "a", 0, basic()), run.settled("b", &[basic()], 3, &balance)]
        },
        balance: "1000",
        waits: &[("b", "a")],
    },
    Situation {
        name: "one seat, and three more bought additionally",
        events: |run| vec![paid(run, "a", 0, basic()), paid(run, "b", 3, Line { quantity: 3, ..basic() })],
        balance: "4000",
        waits: &[],
    },
    Situation {
        name: "two items of the same price",
        events: |run| {
            let mut other = paid(run, "b", 3, basic());
            let parent = &mut other["data"]["object"]["lines"]["data"][0]["parent"];
            parent["subscription_item_details"]["subscription_item"] = "si_2".into();
            vec![paid(run, "a", 0, basic()), other]
        },
        balance: "2000",
        waits: &[],
    },
    Situation {
        name: "two subscriptions of one customer",
        events: |run| {
            let mut other = paid(run, "b", 3, basic());
            let object = &mut other["data"]["object"];
            object["parent"]["subscription_details"]["subscription"] = run.id("sub_other").into();
            let parent = &mut object["lines"]["data"][0]["parent"];
            parent["subscription_item_details"]["subscription"] = run.id("sub_other").into();
            vec![paid(run, "a", 0, basic()), other]
        },
        balance: "2000",
        waits: &[],
    },
    Situation {
        name: "the cycle begins anew after ten days, and nothing is prorated: both were paid in full",
        events: |run| {
            vec![paid(run, "a", 0, basic()), paid(run, "b", 10, Line { days: (10, 40), ..basic() })]
        },
        balance: "2000",
        waits: &[],
    },
    Situation {
        name: "a recurring pack, sold twice",
        events: |run| {
            let pack = || month("price_addon", 1000);
            vec![paid(run, "a", 0, pack()), paid(run, "b", 3, pack())]
        },
        balance: "500",
        waits: &[("b", "a")],
    },
    Situation {
        name: "a pack bought twice is bought twice",
        events: |run| {
            let pack = || month("price_pack", 1000);
            vec![paid(run, "a", 0, pack()), paid(run, "b", 3, pack())]
        },
        balance: "1000",
        waits: &[],
    },
    Situation {
        name: "an upgrade takes the unused time from the one that counts",
        // Of 1000 of basic, 20/30 are unused; of 3000 of pro, 20/30 are new.
        events: |run| vec![paid(run, "a", 0, basic()), paid(run, "b", 3, basic()), upgrade(run)],
        balance: "2333.333333333",
        waits: &[("b", "a")],
    },
    Situation {
        name: "an upgrade, and the one that counted is voided",
        events: |run| {
            vec![
                paid(run, "a", 0, basic()),
                paid(run, "b", 3, basic()),
                upgrade(run),
                voided(run, "a", 0, basic()),
            ]
        },
        balance: "2333.333333333",
        waits: &[],
    },
    Situation {
        name: "an upgrade, and all of the one that counted is credited",
        events: |run| {
            vec![
                paid(run, "a", 0, basic()),
                paid(run, "b", 3, basic()),
                upgrade(run),
                credited(run, "a", 2000),
            ]
        },
        balance: "2333.333333333",
        waits: &[],
    },
    Situation {
        name: "an upgrade that is voided after it was paid gives the unused time back",
        events: |run| {
            let lines = [part("price_basic", -1333, 10), part("price_pro", 3333, 10)];
            let object = run.invoice("c", "subscription_update", "void", 10, &lines);
            vec![
                paid(run, "a", 0, basic()),
                paid(run, "b", 3, basic()),
                upgrade(run),
                run.event("c_void", "invoice.voided", 15 * DAY, object),
            ]
        },
        balance: "1000",
        waits: &[("b", "a")],
    },
    Situation {
        name: "a year of monthly units, and the first invoice voided",
        // The second month is still to come.
        events: |run| vec![paid(run, "a", 0, year()), paid(run, "b", 3, year()), voided(run, "a", 0, year())],
        balance: "3000",
        waits: &[],
    },
    Situation {
        name: "a year of monthly units, twice",
        events: |run| vec![paid(run, "a", 0, year()), paid(run, "b", 3, year())],
        balance: "3000",
        waits: &[("b", "a")],
    },
];

/// Invoices of this org that wait, and the invoice for which each waits.
fn waiting(database: &Database, tag: &str) -> Vec<(String, String)> {
    let rows = database.value(&format!(
        "SELECT json_agg(json_build_array(source_id,
             substring(detail FROM 'period already granted by invoice ([^:]+):')) ORDER BY source_id)
         FROM battery_effects_waiting
         WHERE reason = 'already_granted' AND dismissed_at IS NULL AND customer_id = 'cus_{tag}'"
    ));
    let rows = rows.filter(|rows| !rows.is_empty());
    rows.map(|rows| serde_json::from_str(&rows).expect("rows")).unwrap_or_default()
}

#[tokio::test]
async fn a_period_is_granted_once_whichever_invoice_comes_first() {
    let database = Database::new();
    let mut runs: Vec<(&Situation, String, Vec<usize>)> = Vec::new();
    for (n, situation) in SITUATIONS.iter().enumerate() {
        let events = (situation.events)(&Run::of("count")).len();
        let orders = orders(events).into_iter().enumerate();
        runs.extend(orders.map(|(k, order)| (situation, format!("r{n}x{k}"), order)));
    }
    furnish(&database, &runs.iter().map(|run| run.1.clone()).collect::<Vec<_>>());
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let mut steps: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    for (situation, tag, order) in &runs {
        let run = Run::of(tag);
        let events = (situation.events)(&run);
        steps.entry(0).or_default().push(run.customer());
        for (place, event) in order.iter().enumerate() {
            steps.entry(place + 1).or_default().push(events[*event].clone());
        }
    }
    for events in steps.values() {
        for chunk in events.chunks(16) {
            join_all(chunk.iter().flat_map(|event| daemons.iter().map(move |daemon| daemon.deliver(event))))
                .await;
        }
        daemons[0].projected().await;
    }
    for (situation, tag, order) in &runs {
        let id = |name: &str| format!("in_{name}_{tag}");
        let waits: Vec<_> = situation.waits.iter().map(|(name, by)| (id(name), id(by))).collect();
        assert_eq!(
            (battery(&database, tag).0.as_str(), waiting(&database, tag)),
            (situation.balance, waits),
            "{} in the order {order:?}",
            situation.name
        );
    }
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
    let others =
        database.number("SELECT count(*) FROM battery_effects_waiting WHERE reason <> 'already_granted'");
    assert_eq!(others, 0);
}

/// Two daemons handle two invoices of one period at once.
#[tokio::test]
async fn two_invoices_at_once_grant_one_period() {
    let database = Database::new();
    let tags: Vec<String> = (0..60).map(|n| format!("m{n}")).collect();
    furnish(&database, &tags);
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let mut events = Vec::new();
    for tag in &tags {
        let run = Run::of(tag);
        daemons[0].deliver(&run.customer()).await;
        events.push((paid(&run, "a", 0, basic()), paid(&run, "b", 3, basic())));
    }
    daemons[0].projected().await;
    for chunk in events.chunks(12) {
        join_all(chunk.iter().flat_map(|(a, b)| [daemons[0].deliver(a), daemons[1].deliver(b)])).await;
    }
    daemons[0].projected().await;
    for tag in &tags {
        let waits = vec![(format!("in_b_{tag}"), format!("in_a_{tag}"))];
        assert_eq!((battery(&database, tag).0.as_str(), waiting(&database, tag)), ("1000", waits), "{tag}");
    }
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}

/// The period is over and its units have ended or were used: refunding one of the two invoices takes nothing
/// else.
#[tokio::test]
async fn the_refund_of_one_of_two_costs_no_other_credit() {
    for days in [(-40, -10), (0, 30)] {
        let world = shop(&["one"]).start().await;
        let run = Run::of("one");
        let line = || Line { days, ..basic() };
        let running = days.1 > 21;
        for (event, balance) in [
            (run.customer(), ""),
            (paid(&run, "p", 0, month("price_pack", 1000)), "500"),
            (paid(&run, "a", days.0, line()), if running { "1500" } else { "500" }),
            (run.invoice_payment("a", 2000), if running { "1500" } else { "500" }),
            (paid(&run, "b", days.0 + 3, line()), if running { "1500" } else { "500" }),
            (run.refund("1", "a", 2000, "pending", 0), if running { "1500" } else { "500" }),
            (run.refund("1", "a", 2000, "failed", 1), if running { "1500" } else { "500" }),
        ] {
            world.tell([event.clone()]).await;
            assert_eq!(world.balance_of("one"), balance, "{days:?} {}", event["id"]);
        }
        // The grant of the pack is untouched.
        let pack = ("purchase".to_owned(), "500".to_owned(), "500".to_owned());
        assert!(battery(&world, "one").1.contains(&pack), "{days:?}");
        world.effects_are_sound();
    }
}

/// A dismissed line never counts; `verify` reports it if it does.
#[tokio::test]
async fn a_dismissed_repetition_never_counts() {
    for first in ["a", "b"] {
        let world = shop(&["one"]).start().await;
        let run = Run::of("one");
        world.deliver(run.customer()).await;
        // With "b" first, "b" granted the period.
        let (a, b) = (paid(&run, "a", 0, basic()), paid(&run, "b", 3, basic()));
        for event in if first == "a" { [&a, &b] } else { [&b, &a] } {
            world.tell([event.clone()]).await;
        }
        let expected = vec![("in_b_one".to_owned(), "in_a_one".to_owned())];
        assert_eq!((world.balance_of("one").as_str(), waiting(&world, "one")), ("1000", expected));
        let id = world.number("SELECT waiting_id FROM battery_effects_waiting");
        let path = format!("/v1/battery/effects/waiting/{id}/dismiss");
        world.post(&path, json!({ "reason": "is refunded tomorrow" })).await.status(200);
        world.tell([voided(&run, "a", 0, basic())]).await;
        assert_eq!(world.balance_of("one"), "0", "{first} first");
        assert_eq!((unsound(&world), differences(&world)), (0, Vec::new()), "{first} first");
        if first == "b" {
            world.execute("UPDATE battery_returns SET units = 0 WHERE cause_id = 'in_b_one:period'");
            let found = differences(&world).join("\n");
            assert!(found.contains("whether another invoice stands for its period"), "{found}");
        }
    }
}
