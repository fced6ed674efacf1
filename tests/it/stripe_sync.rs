//! What the daemon reads at Stripe itself: backfills, pulls, objects read one by one, comparisons. A fake
//! Stripe answers.

mod connected;
mod kept_true;
mod line_items;
mod same_state;

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::fake_stripe::{Chances, FakeStripe, Fault, TEST_KEY};
use crate::support::{Daemon, Database, SECRET};

/// The settings of a daemon that reads this fake.
pub(crate) fn settings(fake: &FakeStripe) -> Vec<(&'static str, String)> {
    vec![
        ("STRIPE_SECRET_KEY", TEST_KEY.to_owned()),
        ("COULOMB_STRIPE_MODE", "test".to_owned()),
        ("COULOMB_STRIPE_API_BASE", fake.url().to_owned()),
        ("COULOMB_STRIPE_REQUESTS_PER_SECOND", "100".to_owned()),
        ("COULOMB_STRIPE_PULL_S", "1".to_owned()),
        // A night that never comes, unless a test asks for it.
        ("COULOMB_STRIPE_COMPARE_HOUR", "23".to_owned()),
    ]
}

fn as_texts<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, &**value)).collect()
}

pub(crate) fn daemon(database: &Database, fake: &FakeStripe) -> Daemon {
    Daemon::with(database, &as_texts(&settings(fake)))
}

/// Objects of the largest account: `COULOMB_TEST_STRIPE_OBJECTS`, else few.
fn objects() -> usize {
    std::env::var("COULOMB_TEST_STRIPE_OBJECTS").ok().and_then(|text| text.parse().ok()).unwrap_or(900)
}

/// Waits, for up to two minutes; of a large account for an hour.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let began = std::time::Instant::now();
    let limit = if objects() > 10_000 { 3600 } else { 120 };
    while !is_so() {
        assert!(began.elapsed() < Duration::from_secs(limit), "not true after {limit} s: {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn run_state(database: &Database) -> String {
    let state = "SELECT coalesce((SELECT state || coalesce(': ' || error, '') FROM stripe_sync_runs
        ORDER BY run_id DESC LIMIT 1), 'none')";
    database.value(state).expect("a value")
}

/// Waits until the newest run has ended well, and everything read is projected.
#[track_caller]
pub(crate) fn wait_for_run(database: &Database) {
    wait_until("the run ends", || {
        let state = run_state(database);
        assert!(!state.starts_with("failed") && !state.starts_with("incomplete"), "{state}");
        state == "done"
    });
    wait_for_projection(database);
}

pub(crate) fn wait_for_projection(database: &Database) {
    wait_until("everything is projected", || {
        database.number(
            "SELECT (SELECT count(*) FROM stripe_inbox_queue) + (SELECT count(*) FROM stripe_arrivals)",
        ) == 0
    });
}

/// What Coulomb holds of the test mode, by kind and id.
fn held(database: &Database) -> BTreeMap<(String, String), Value> {
    let whole = |(object, id, mut json, more): (String, String, Value, Value)| {
        // A session has its line items beside itself only.
        let lists = more.as_object().into_iter().flatten().filter(|(list, _)| *list != "line_items");
        for (list, entries) in lists {
            let own = json[list]["data"].as_array_mut().expect("a list");
            own.extend(entries.as_array().cloned().unwrap_or_default());
            json[list]["has_more"] = json!(false);
        }
        leave_out_stateless(&mut json);
        ((object, id), json)
    };
    // PostgreSQL makes no array of a whole large account.
    let parts = objects() / 5_000 + 1;
    let part = |part: usize| -> Vec<(String, String, Value, Value)> {
        let rows = database.value(&format!(
            "SELECT coalesce(jsonb_agg(jsonb_build_array(o.object, o.object_id,
                 convert_from(i.body, 'UTF8')::jsonb -> 'data' -> 'object',
                 convert_from(i.body, 'UTF8')::jsonb -> 'data' -> 'more')), '[]')
             FROM stripe_objects o JOIN stripe_inbox i USING (inbox_id)
             WHERE NOT o.deleted AND abs(hashtext(o.object_id)::bigint) % {parts} = {part}"
        ));
        serde_json::from_str(&rows.expect("a value")).expect("rows")
    };
    (0..parts).flat_map(part).map(whole).collect()
}

/// Stripe counts a customer's invoices without an event. Whether a list goes on says nothing once it is
/// whole.
fn leave_out_stateless(object: &mut Value) {
    object.as_object_mut().expect("an object").remove("next_invoice_sequence");
    if object["lines"].is_object() {
        object["lines"]["has_more"] = json!(false);
    }
}

/// Kinds that a walk reads.
const READ: [&str; 16] = [
    "charge",
    "checkout.session",
    "coupon",
    "credit_note",
    "customer",
    "dispute",
    "invoice",
    "invoice_payment",
    "payment_intent",
    "price",
    "product",
    "promotion_code",
    "refund",
    "subscription",
    "tax_id",
    "tax_rate",
];

/// What Stripe has of these kinds, without inline prices that no list shows.
fn at_stripe(fake: &FakeStripe) -> BTreeMap<(String, String), Value> {
    let account = fake.account("");
    let of = |kind: &str| account.all(kind).into_iter().map(|object| (kind.to_owned(), object)).collect();
    let all: Vec<Vec<(String, Value)>> = READ.iter().map(|kind| of(kind)).collect();
    let named = |(kind, mut object): (String, Value)| {
        // A session has its line items only for those who ask for them.
        object.as_object_mut().expect("an object").remove("line_items");
        leave_out_stateless(&mut object);
        let id = object["id"].as_str().expect("an id").to_owned();
        ((kind, id), object)
    };
    all.into_iter().flatten().map(named).collect()
}

/// Asserts that the mirrors hold exactly what Stripe has.
#[track_caller]
pub(crate) fn assert_same(database: &Database, fake: &FakeStripe) {
    let (held, theirs) = (held(database), at_stripe(fake));
    let of_read_kind = |key: &&(String, String)| READ.contains(&key.0.as_str());
    let extra: Vec<_> = held.keys().filter(of_read_kind).filter(|key| !theirs.contains_key(key)).collect();
    assert!(extra.is_empty(), "held, but not at Stripe: {extra:?}");
    let mut inline = 0;
    for (key, object) in &theirs {
        match held.get(key) {
            Some(own) => assert_eq!(own, object, "{key:?}"),
            // An inline price is in no list; its subscription or invoice shows it.
            None if key.0 == "price" => inline += 1,
            None => panic!("{key:?} is at Stripe, and not held"),
        }
    }
    assert!(inline * 10 < theirs.len(), "only inline prices are not held: {inline} of {}", theirs.len());
}

#[test]
fn a_backfill_brings_in_a_whole_account() {
    let fake = FakeStripe::start();
    let account = fake.account("");
    account.populate(900, 7);
    // A list within an object shows the first ten.
    account.create("customer", json!({ "id": "cus_many" }));
    for number in 0..12 {
        let value = format!("DE{:09}", 500_000_000 + number);
        account.create("tax_id", json!({ "customer": "cus_many", "value": value }));
    }
    // An idle connection is answered so.
    fake.fail_next("/v1/products", Fault::Before(408));
    let database = Database::new();
    let daemon = daemon(&database, &fake);
    wait_for_run(&database);
    assert_same(&database, &fake);
    let lines = database.number("SELECT count(*) FROM invoices WHERE NOT lines_complete");
    assert_eq!(lines, 0, "long invoices have all lines");
    assert!(
        fake.account("")
            .all("invoice")
            .iter()
            .any(|invoice| { invoice["lines"]["data"].as_array().is_some_and(|lines| lines.len() > 10) })
    );
    drop(daemon);
    assert_eq!(database.run(&["verify"]).lines().filter(|line| line.contains("differ")).count(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backfill_that_failed_says_so_and_begins_again_with_the_daemon() {
    let fake = FakeStripe::start();
    fake.account("").populate(60, 4);
    fake.fail_next("/v1/products", Fault::Before(400));
    let database = Database::new();
    let first = daemon(&database, &fake);
    wait_until("the run fails", || run_state(&database).starts_with("failed: "));
    assert_eq!(first.metric("coulomb_stripe_runs_failed").await, Some(1));
    let pulls = "SELECT extract(epoch FROM max(pulled_at))::bigint FROM stripe_accounts";
    let before = database.number(pulls);
    wait_until("it goes on without the run", || database.number(pulls) > before + 2);
    let runs = "SELECT count(*) FROM stripe_sync_runs";
    assert_eq!(database.number(runs), 1, "the same day it is not tried again by itself");
    drop(first);
    let _second = daemon(&database, &fake);
    wait_until("another run begins", || database.number(runs) == 2);
    wait_for_run(&database);
    assert_same(&database, &fake);
}

#[test]
fn faults_changes_and_kills_lose_nothing() {
    let fake = FakeStripe::start();
    let account = fake.account("");
    account.populate(objects(), 8);
    fake.limit_requests(Some(60.0));
    let kills = if objects() > 10_000 { 30 } else { 6 };
    let chances =
        Chances { before: 0.02, after: 0.02, cut_headers: 0.01, cut_body: 0.01, ..Chances::default() };
    fake.set_faults(3, chances);
    let mut seed = 100;
    fake.on_every(15, move |handle| {
        seed += 1;
        handle.account("").mutate(1, seed);
    });
    let database = Database::new();
    let began = std::time::Instant::now();
    for kill in 0..kills {
        let mut daemons = [daemon(&database, &fake), daemon(&database, &fake)];
        std::thread::sleep(Duration::from_millis(300 + 250 * (kill % 8)));
        daemons.iter_mut().for_each(Daemon::kill);
    }
    let daemons = [daemon(&database, &fake), daemon(&database, &fake)];
    wait_for_run(&database);
    println!(
        "{} objects read in {:?} with {} requests and {kills} kills; peaks of {:?} MiB",
        at_stripe(&fake).len(),
        began.elapsed(),
        fake.requests().len(),
        daemons.iter().map(Daemon::peak_mib).collect::<Vec<_>>()
    );
    fake.on_every(1_000_000, |_| {});
    fake.set_faults(3, Chances::default());
    // One more pull, after the last change.
    let last_pull =
        || database.number("SELECT extract(epoch FROM max(pulled_at))::bigint FROM stripe_accounts");
    let before = last_pull();
    wait_until("two pulls", || last_pull() > before + 2);
    wait_for_projection(&database);
    assert_same(&database, &fake);
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_events_are_found_by_the_next_pull() {
    let fake = FakeStripe::start_at(now() - 3600);
    fake.account("").populate(150, 9);
    let database = Database::new();
    let daemon = daemon(&database, &fake);
    wait_for_run(&database);
    fake.set_endpoint(&format!("{}/webhooks/stripe", daemon.base), SECRET);
    fake.set_deliveries(0.2, 0.1, true);
    let account = fake.account("");
    account.mutate(60, 9);
    // Older than what counts as late.
    fake.set_time(now() - 3600 + 120);
    fake.deliver_all().await;
    let withheld = fake.withheld();
    assert!(withheld.len() > 5, "some are withheld");
    let is_there = |id: &String| {
        database.number(&format!("SELECT count(*) FROM stripe_inbox WHERE event_id = '{id}'")) == 1
    };
    wait_until("every withheld event is in the inbox", || withheld.iter().all(is_there));
    let told = database.number(
        "SELECT count(DISTINCT inbox_id) FROM stripe_drift
         WHERE kind = 'missed_event' AND inbox_id IS NOT NULL",
    );
    assert!(told >= withheld.len() as i64, "{told} differences, {} events withheld", withheld.len());
    wait_for_projection(&database);
    let ours = held(&database);
    for object in account.all("subscription") {
        let id = object["id"].as_str().expect("an id").to_owned();
        assert_eq!(ours.get(&("subscription".to_owned(), id)), Some(&object));
    }
}

pub(crate) fn now() -> i64 {
    crate::support::stripe::now()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_may_not_read_a_kind_reads_the_others() {
    let fake = FakeStripe::start();
    fake.account("").populate(60, 3);
    let most: Vec<&str> = READ
        .into_iter()
        .filter(|kind| *kind != "coupon")
        .chain(["event", "plan", "checkout_session", "test_clock"])
        .collect();
    fake.restricted_key("rk_test_most", &most);
    let database = Database::new();
    let mut settings = settings(&fake);
    settings[0].1 = "rk_test_most".to_owned();
    let _daemon = Daemon::with(&database, &as_texts(&settings));
    wait_until("the run ends", || run_state(&database).starts_with("incomplete"));
    assert_eq!(run_state(&database), "incomplete: the key may not read coupon");
    wait_for_projection(&database);
    let held = held(&database);
    let customers = fake.account("").all("customer");
    assert!(customers.iter().all(|one| {
        held.contains_key(&("customer".to_owned(), one["id"].as_str().expect("an id").to_owned()))
    }));
}

#[test]
fn doctor_tells_the_rest_while_stripe_hangs_and_does_not_wait_long() {
    let fake = FakeStripe::start();
    fake.set_faults(1, Chances { hang: 1.0, ..Chances::default() });
    let database = Database::new();
    let mut command = database.command(&["doctor"]);
    command.envs(settings(&fake)).stdout(std::process::Stdio::piped());
    let began = std::time::Instant::now();
    let mut doctor = command.spawn().expect("runs");
    let out = std::io::BufReader::new(doctor.stdout.take().expect("a pipe"));
    let told: Vec<(String, Duration)> =
        std::io::BufRead::lines(out).map(|line| (line.expect("text"), began.elapsed())).collect();
    doctor.wait().expect("it ends");
    let of = |name: &str| told.iter().find(|(line, _)| line[4..].starts_with(name)).expect("a line");
    let (stripe, told_at) = of(" stripe: ");
    assert!(stripe.contains("Stripe did not answer: no answer within 10 s"), "{stripe}");
    assert!(*told_at < Duration::from_secs(60), "{told_at:?}");
    assert!(*told_at - of(" charges: ").1 > Duration::from_secs(5), "{told:?}");
}
