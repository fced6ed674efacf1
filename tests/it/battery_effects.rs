//! What Stripe's payments do to batteries: a table of cases with ledgers computed by hand. Each case runs in
//! every order, with repeats, over two daemons.

#[allow(unreachable_pub, reason = "a library to these tests")]
mod build;
mod cases;
mod lives;
mod locks;
mod money;
mod realms;
mod repeats;
mod skipped;
mod waits;

use std::collections::BTreeMap;

use coulomb::integrity::effects;
use futures_util::future::join_all;
use serde_json::{Value, json};

use self::build::{Run, month};
use self::cases::Case;
use crate::support::rows::{self, PlanRow};
use crate::support::world::Setup;
use crate::support::{Daemon, Database, World};

/// Every order of `things` things if there are few; else some orders and the reverse.
fn orders(things: usize) -> Vec<Vec<usize>> {
    assert!(things <= 5, "all orders of {things}");
    let mut all = vec![Vec::new()];
    for thing in 0..things {
        all = all
            .into_iter()
            .flat_map(|order: Vec<usize>| {
                (0..=order.len()).map(move |place| {
                    let mut order = order.clone();
                    order.insert(place, thing);
                    order
                })
            })
            .collect();
    }
    all
}

/// The cases of both tables.
fn cases() -> impl Iterator<Item = &'static Case> {
    cases::CASES.iter().chain(money::CASES)
}

/// Plans, a pack, and orgs of these names.
fn furnish(database: &Database, names: &[String]) {
    let basic = PlanRow {
        id: "basic",
        prices: &["price_basic", "price_over"],
        units: 1000,
        annual_units: Some(11_000),
        trial_units: Some(100),
        ..PlanRow::default()
    };
    let pro = PlanRow { id: "pro", prices: &["price_pro"], units: 3000, ..PlanRow::default() };
    let free = PlanRow { id: "free", prices: &["price_free"], ..PlanRow::default() };
    for plan in [basic, pro, free] {
        rows::plan(database, &plan);
    }
    rows::pack(database, "pack-500", "500", &["price_pack", "price_addon"]);
    orgs(database, names);
}

/// Orgs of these names.
fn orgs(database: &Database, names: &[String]) {
    let names = names.join("','");
    database.execute(&format!(
        "INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
         SELECT 'org_' || n, n, n, 'UTC', now(), '{{}}' FROM unnest(ARRAY['{names}']) n;
         INSERT INTO org_refs (ref, org_id) SELECT external_id, org_id FROM orgs UNION
         SELECT public_id, org_id FROM orgs"
    ));
}

/// A platform that sells these plans and the pack, with orgs of these names.
fn shop(names: &[&str]) -> Setup {
    let database = Database::new();
    furnish(&database, &names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>());
    World::over(database).scopes("admin,billing:read,billing:write")
}

impl World {
    /// The balance of an org; nothing if it has no battery.
    fn balance_of(&self, name: &str) -> String {
        battery(self, name).0
    }

    /// Ledgers chain and add up, and claims, mirrors and ledger agree.
    #[track_caller]
    fn effects_are_sound(&self) {
        assert_eq!((unsound(self), differences(self)), (0, Vec::new()));
    }

    /// The payments that wait for something.
    async fn waiting(&self) -> Vec<Value> {
        self.get("/v1/battery/effects/waiting").await.status(200).rows().to_vec()
    }
}

/// Balance and grants of an org.
fn battery(database: &Database, name: &str) -> (String, Vec<(String, String, String)>) {
    let text = |sql: &str| database.value(sql).unwrap_or_default();
    let org = format!("(SELECT org_id FROM orgs WHERE external_id = '{name}')");
    let balance = text(&format!("SELECT trim_scale(balance) FROM battery_accounts WHERE org_id = {org}"));
    let grants = text(&format!(
        "SELECT json_agg(json_build_array(source, trim_scale(amount)::text, trim_scale(remaining)::text)
             ORDER BY source, amount, remaining) FROM battery_grants WHERE org_id = {org}"
    ));
    let grants = if grants.is_empty() { Vec::new() } else { serde_json::from_str(&grants).expect("rows") };
    (balance, grants)
}

/// The balance of a case. An org that never got a grant may have an account or none.
fn balance_of(told: &str) -> &str {
    if told.is_empty() { "0" } else { told }
}

/// Ledgers that do not chain, or do not add up to their balance.
fn unsound(database: &Database) -> i64 {
    database.number(
        "SELECT count(*) FROM battery_accounts a LEFT JOIN LATERAL (
             SELECT count(*) AS entries, max(sequence) AS last, coalesce(sum(amount), 0) AS total,
                 coalesce(bool_and(balance_after = running), true) AS chained
             FROM (SELECT *, sum(amount) OVER (ORDER BY sequence) AS running FROM battery_entries e
                 WHERE e.org_id = a.org_id) e) e ON true
         LEFT JOIN LATERAL (SELECT coalesce(sum(remaining), 0) AS remaining FROM battery_grants g
             WHERE g.org_id = a.org_id AND state <> 'scheduled') g ON true
         WHERE e.entries <> a.entries OR coalesce(e.last, 0) <> a.entries OR e.total <> a.balance
             OR NOT e.chained
            OR g.remaining <> greatest(a.balance, 0)",
    )
}

/// Differences between claims, mirrors and ledger.
fn differences(database: &Database) -> Vec<String> {
    effects::verify(&mut database.platform(), |_| {}).expect("verifies").differences
}

#[tokio::test]
async fn effects_are_the_same_in_every_order() {
    let database = Database::new();
    // All runs deliver and project their first event, then all their second, and so on.
    let mut runs: Vec<(&Case, String, Vec<usize>)> = Vec::new();
    for (n, case) in cases().enumerate() {
        let events = (case.events)(&Run::of("count")).len();
        runs.extend(
            orders(events).into_iter().enumerate().map(|(k, order)| (case, format!("o{n}x{k}"), order)),
        );
    }
    furnish(&database, &runs.iter().map(|run| run.1.clone()).collect::<Vec<_>>());
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let mut steps: BTreeMap<usize, Vec<Value>> = BTreeMap::new();
    for (case, tag, order) in &runs {
        let run = Run { tag: tag.clone() };
        let events = (case.events)(&run);
        for (place, event) in order.iter().enumerate() {
            steps.entry(place + 1).or_default().push(events[*event].clone());
        }
        // Where the case does not include the link as an event, it exists before.
        if !events.iter().any(|event| event["type"] == "customer.created") {
            steps.entry(0).or_default().push(run.customer());
        }
    }
    for events in steps.values() {
        for chunk in events.chunks(16) {
            join_all(chunk.iter().flat_map(|event| daemons.iter().map(move |daemon| daemon.deliver(event))))
                .await;
        }
        daemons[0].projected().await;
    }
    for (case, tag, order) in &runs {
        let (balance, grants) = battery(&database, tag);
        let expected: Vec<_> =
            case.grants.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect();
        assert_eq!(
            (balance_of(&balance), &grants),
            (balance_of(case.balance), &expected),
            "{} in the order {order:?}",
            case.name
        );
    }
    assert_eq!(unsound(&database), 0);
    assert_eq!(differences(&database), Vec::<String>::new());
    assert_eq!(database.run(&["battery", "waiting"]), "");
}

/// The same events, all at once: the test does not wait for the projection between them.
#[tokio::test]
async fn effects_are_the_same_when_all_comes_at_once() {
    let database = Database::new();
    let runs: Vec<(&Case, String)> =
        (0..8).flat_map(|k| cases().enumerate().map(move |(n, case)| (case, format!("s{n}x{k}")))).collect();
    furnish(&database, &runs.iter().map(|run| run.1.clone()).collect::<Vec<_>>());
    let daemons = [Daemon::start(&database), Daemon::start(&database)];
    let mut events: Vec<Value> = runs
        .iter()
        .flat_map(|(case, tag)| {
            let run = Run { tag: tag.clone() };
            let mut events = (case.events)(&run);
            events.push(run.customer());
            events
        })
        .collect();
    // Mixed, in the same way in every run.
    events.sort_by_key(|event| {
        let id = event["id"].as_str().expect("an id");
        id.bytes().fold(7_u32, |hash, byte| hash.wrapping_mul(31).wrapping_add(u32::from(byte)))
    });
    for chunk in events.chunks(16) {
        join_all(chunk.iter().flat_map(|event| daemons.iter().map(move |daemon| daemon.deliver(event))))
            .await;
    }
    daemons[1].projected().await;
    for (case, tag) in &runs {
        let (balance, grants) = battery(&database, tag);
        let expected: Vec<_> =
            case.grants.iter().map(|(a, b, c)| ((*a).to_owned(), (*b).to_owned(), (*c).to_owned())).collect();
        assert_eq!(
            (balance_of(&balance), &grants),
            (balance_of(case.balance), &expected),
            "{} as {tag}",
            case.name
        );
    }
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
}

/// The ledger of one sale, in the order of the events.
#[tokio::test]
async fn entries_name_what_caused_them() {
    let world = shop(&["one"]).start().await;
    let run = Run::of("one");
    for event in [
        run.customer(),
        run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
        run.invoice_payment("a", 2000),
        run.refund("1", "a", 500, "succeeded", 0),
        run.refund("1", "a", 500, "failed", 1),
        // The charge shows another refund first; the refund's own event then changes nothing.
        run.refunded("a", 2000, 900),
        run.refund("2", "a", 400, "succeeded", 0),
        run.dispute("a", "lost", &[-2000], 2),
    ] {
        world.tell([event]).await;
    }
    let entries = world.value(
        "SELECT json_agg(json_build_array(kind, trim_scale(amount)::text, source,
        link) ORDER BY sequence) FROM battery_entries",
    );
    let entries: Value = serde_json::from_str(&entries.expect("entries")).expect("JSON");
    let of = |object: &str, id: &str| json!({ "object": object, "id": id, "livemode": false });
    assert_eq!(
        entries,
        json!([
            ["grant", "1000", "subscription", of("invoice", "in_a_one")],
            ["clawback", "-250", "refund", of("refund", "re_1_one")],
            ["clawback", "250", "refund", of("refund", "re_1_one")],
            ["clawback", "-200", "charge", of("charge", "ch_a_one")],
            ["clawback", "-800", "dispute", of("dispute", "du_one")],
        ])
    );
    let key = world.value(
        "SELECT source_key || ' '
        || (expires_at = to_timestamp(0) + interval '1 second' * (SELECT extract(epoch FROM period_end)
        FROM battery_effects)) FROM battery_grants",
    );
    assert_eq!(key.as_deref(), Some("test/invoice:in_a_one:il_0_in_a_one true"));
}

/// A sale of 1,000 units for 20.00, of which 5.00 came back: 250 units. Each wrong row is found, and named.
#[tokio::test]
async fn effects_that_differ_from_the_mirrors_are_found() {
    // The change, how it is undone, and the difference that `verify` reports.
    const CHANGES: [(&str, &str, &str); 8] = [
        (
            "UPDATE battery_effects SET paid_minor = 1999",
            "UPDATE battery_effects SET paid_minor = 2000",
            "1999 is counted as settled, the mirror says 2000",
        ),
        (
            "UPDATE battery_effects SET grant_number = NULL",
            "UPDATE battery_effects SET grant_number = 1",
            "it names no grant",
        ),
        (
            "UPDATE battery_effects SET grant_number = 7",
            "UPDATE battery_effects SET grant_number = 1",
            "its grant is not there",
        ),
        (
            "UPDATE battery_effects SET units = 999",
            "UPDATE battery_effects SET units = 1000",
            "its grant is not of 999 units",
        ),
        (
            "UPDATE battery_returns SET minor = 400",
            "UPDATE battery_returns SET minor = 500",
            "refund re_1_one is counted with 400, the mirror says 500",
        ),
        (
            "UPDATE battery_entries SET amount = -249 WHERE kind = 'clawback'",
            "UPDATE battery_entries SET amount = -250 WHERE kind = 'clawback'",
            "250 units are taken back, the ledger says 249",
        ),
        (
            "INSERT INTO battery_returns (org_id, grant_number, cause_kind, cause_id, minor, units)
             SELECT org_id, 1, 'invoice', 'in_a_one', 0, 1000 FROM battery_effects",
            "DELETE FROM battery_returns WHERE cause_kind = 'invoice'",
            "whether anything of the sale is left is not counted as the mirror says",
        ),
        (
            "INSERT INTO battery_returns (org_id, grant_number, cause_kind, cause_id, minor, units)
             SELECT org_id, 1, 'invoice', 'in_a_one:period', 0, 1000 FROM battery_effects",
            "DELETE FROM battery_returns WHERE cause_kind = 'invoice'",
            "whether another invoice stands for its period is not counted as the mirror says",
        ),
    ];
    let world = shop(&["one"]).start().await;
    let run = Run::of("one");
    for event in [
        run.customer(),
        run.paid("a", "subscription_create", 0, &[month("price_basic", 2000)]),
        run.invoice_payment("a", 2000),
        run.refund("1", "a", 500, "succeeded", 0),
    ] {
        world.tell([event]).await;
    }
    assert_eq!(differences(&world), Vec::<String>::new());
    for (change, undo, difference) in CHANGES {
        world.execute(change);
        let found = differences(&world);
        let sentence = format!("battery effect of invoice in_a_one il_0_in_a_one: {difference}");
        assert!(found.contains(&sentence), "{change}: {found:?}");
        world.execute(undo);
        assert_eq!(differences(&world), Vec::<String>::new(), "{undo}");
    }
}

/// Adds seconds to every time in an event.
fn shift(value: &mut Value, by: i64) {
    match value {
        Value::Number(number) => {
            if let Some(at) = number.as_i64().filter(|at| (1_750_000_000..1_770_000_000).contains(at)) {
                *value = (at + by).into();
            }
        }
        Value::Array(list) => list.iter_mut().for_each(|one| shift(one, by)),
        Value::Object(fields) => fields.values_mut().for_each(|one| shift(one, by)),
        _ => {}
    }
}

/// The eight events of a purchase, twice each over two daemons, in forty orders: one grant, one entry.
#[tokio::test]
async fn a_whole_purchase_charges_once_in_any_order() {
    const ORDERS: usize = 40;
    let database = Database::new();
    let tags: Vec<String> = (0..ORDERS).map(|n| format!("p{n}")).collect();
    furnish(&database, &tags);
    let accounts: Vec<String> = (0..ORDERS).map(|n| format!("acct_{n}")).collect();
    let settings = [("COULOMB_STRIPE_ACCOUNTS", accounts.join(","))];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    let daemons = [Daemon::with(&database, &settings), Daemon::with(&database, &settings)];
    let by = crate::support::stripe::now() - 1_760_000_000 - 5 * 86_400;
    let mut random = 0x9e37_79b9_u64;
    let mut purchases: Vec<Vec<Value>> = Vec::new();
    for (n, tag) in tags.iter().enumerate() {
        let mut events = crate::support::events::purchase();
        for event in &mut events {
            shift(event, by);
            // Each purchase is in its own account, so the ids may be the same.
            event["account"] = json!(format!("acct_{n}"));
            if event["type"] == "customer.created" {
                event["data"]["object"]["metadata"]["org_id"] = json!(tag);
            }
        }
        let mut twice: Vec<Value> = events.iter().chain(&events).cloned().collect();
        match n {
            0 => {}
            1 => twice.reverse(),
            _ => {
                for last in (1..twice.len()).rev() {
                    random = random
                        .wrapping_mul(6_364_136_223_846_793_005)
                        .wrapping_add(1_442_695_040_888_963_407);
                    twice.swap(last, usize::try_from(random >> 33).expect("small") % (last + 1));
                }
            }
        }
        purchases.push(twice);
    }
    for step in 0..purchases[0].len() {
        let deliver = |(n, events): (usize, &Vec<Value>)| {
            let (daemon, event) = (&daemons[(n + step) % 2], events[step].clone());
            async move { daemon.deliver(&event).await }
        };
        join_all(purchases.iter().enumerate().map(deliver)).await;
        daemons[0].projected().await;
    }
    for tag in &tags {
        let one = ("subscription".to_owned(), "3000".to_owned(), "3000".to_owned());
        assert_eq!(battery(&database, tag), ("3000".to_owned(), vec![one]), "{tag}");
    }
    assert_eq!(database.number("SELECT count(*) FROM battery_entries"), i64::try_from(ORDERS).expect("few"));
    assert_eq!((unsound(&database), differences(&database)), (0, Vec::new()));
    assert_eq!(database.run(&["battery", "waiting"]), "");
}
