//! `coulomb verify` beside a busy daemon: it ends, reports no momentary differences, and disturbs no request.

use std::process::Output;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use diesel::connection::SimpleConnection;
use serde_json::json;

use crate::support::events::{customer, event, invoice, purchase};
use crate::support::rows::{RecordRow, meter, org, put, record};
use crate::support::{Daemon, Database};

fn verify(database: &Database, args: &[&str]) -> Output {
    database.command(&[&["verify"], args].concat()).output().expect("runs")
}

/// The exit code, and the differences or the error.
fn told(output: &Output) -> (Option<i32>, String) {
    let code = output.status.code();
    let of = if code == Some(1) { &output.stderr } else { &output.stdout };
    (code, String::from_utf8_lossy(of).into_owned())
}

const CLEAN: (Option<i32>, String) = (Some(0), String::new());

/// Events without a time get their batch's time, so many are of one instant. Looking for each event's record
/// among all of them would read the square of their number.
#[test]
fn records_of_one_instant_are_read_a_few_times_each() {
    const RECORDS: i64 = 20_000;
    let database = Database::new();
    for name in ["a", "b", "c", "d"] {
        org(&database, name, "UTC");
    }
    meter(&database, "tokens", "sum", "");
    database.execute(&format!(
        "SELECT make_usage_partition('2026-10-01');
         INSERT INTO usage_series (org_id, series_id, meter_id, member, dimensions)
         SELECT org_id, 1, 1, NULL, '{{}}' FROM orgs;
         INSERT INTO usage_records
             (org_id, series_id, occurred_at, received_at, event_key, meter_id, rate_card_id, day,
              billing_period, correction, quantity, cost, battery_units, event_id, source, subject, value)
         SELECT 1 + n % 4, 1, CASE WHEN n / 4 % 5 = 0 THEN '2026-10-10T12:00Z'
                 ELSE '2026-10-10T00:00Z'::timestamptz + n * interval '1 ms' END,
             now(), md5(n::text)::uuid, 1, NULL, '2026-10-10', NULL, 0, 1, 0, 0, 'e' || n, 'test', NULL, NULL
         FROM generate_series(1, {RECORDS}) n;
         INSERT INTO usage_keys (org_id, event_key, occurred_at, content)
         SELECT org_id, event_key, occurred_at, 1 FROM usage_records;
         INSERT INTO daily_summaries
             (org_id, series_id, day, quantity, count, cost, battery_units, latest_at)
         SELECT org_id, 1, '2026-10-10', count(*), count(*), 0, 0, NULL FROM usage_records GROUP BY 1;
         ANALYZE usage_records; ANALYZE usage_keys"
    ));
    let read = || {
        database.number(
            "SELECT sum(coalesce(seq_tup_read, 0) + coalesce(idx_tup_fetch, 0))::bigint
             FROM pg_stat_user_tables
             WHERE schemaname = 'usage_partitions' OR relname = 'usage_keys'",
        )
    };
    // A session publishes its statistics when it ends.
    let settled = |before: i64| {
        let started = Instant::now();
        while read() == before && started.elapsed() < Duration::from_secs(20) {
            std::thread::sleep(Duration::from_millis(100));
        }
        read()
    };
    let before = settled(0);
    assert_eq!(told(&verify(&database, &[])), CLEAN);
    let each = (settled(before) - before) / RECORDS;
    assert!((1..20).contains(&each), "each record was read {each} times");
}

/// An event that cannot be projected leaves nothing behind, even if it was the first about its object.
#[tokio::test]
async fn what_is_quarantined_is_no_difference() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("COULOMB_PROJECTION_ATTEMPTS", "1")]);
    let mut unreadable = event("evt_bad", "invoice.paid", 20, invoice("in_1", "cus_1", "paid", 100));
    unreadable["data"]["object"]["total"] = json!(1e300);
    // A table that refuses an event: the whole event is queued again.
    database.execute("ALTER TABLE invoices ADD CONSTRAINT refused CHECK (id <> 'in_2')");
    let refused = event("evt_refused", "invoice.paid", 20, invoice("in_2", "cus_1", "paid", 100));
    daemon.deliver_all(&[unreadable, refused]).await;
    daemon.deliver(&event("evt_good", "invoice.paid", 20, invoice("in_3", "cus_1", "paid", 100))).await;
    let quarantined = |wanted: i64| {
        let (daemon, database) = (&daemon, &database);
        async move {
            let started = Instant::now();
            while database.number("SELECT count(*) FROM stripe_inbox_queue WHERE quarantined_at IS NOT NULL")
                != wanted
                || database.number("SELECT count(*) FROM stripe_objects WHERE object_id = 'in_3'") == 0
            {
                assert!(started.elapsed() < Duration::from_secs(120), "not {wanted} quarantined");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            daemon.projected().await;
        }
    };
    quarantined(2).await;
    let output = verify(&database, &[]);
    assert_eq!(told(&output), CLEAN);
    assert!(String::from_utf8_lossy(&output.stderr).contains("2 that wait or are quarantined left out"));
    // After a retry the good events are projected, and the rest is quarantined again.
    database.execute("ALTER TABLE invoices DROP CONSTRAINT refused");
    database.run(&["stripe", "inbox", "retry", "--quarantined"]);
    quarantined(1).await;
    assert_eq!(database.number("SELECT count(*) FROM invoices WHERE id = 'in_2'"), 1);
    assert_eq!(told(&verify(&database, &[])), CLEAN);
    // A later event wins the object of the failed one, which then no longer matters.
    daemon.deliver(&event("evt_later", "invoice.updated", 30, invoice("in_1", "cus_1", "paid", 100))).await;
    daemon.projected().await;
    database.run(&["stripe", "inbox", "retry", "--quarantined"]);
    quarantined(0).await;
    assert_eq!(told(&verify(&database, &[])), CLEAN);
}

/// `verify` sends no notification, waits for no lock and blocks no transaction.
#[tokio::test]
async fn nobody_notices() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    daemon.deliver_all(&purchase()).await;
    daemon.deliver(&event("evt_link", "customer.updated", 99, customer("cus_1", Some("acme")))).await;
    daemon.projected().await;
    drop(daemon);
    let mut listener = database.owner();
    listener.batch_execute("LISTEN coulomb_orgs").expect("listens");
    let catalog = "SELECT string_agg(name || version, ',') FROM catalog";
    let before = database.value(catalog);
    let mut holder = database.owner();
    holder
        .batch_execute(
            "SELECT pg_advisory_lock(hashtextextended(format('payment %s %s %s', account, livemode, id), 0))
             FROM payments",
        )
        .expect("locks");
    let mut child = database.command(&["verify"]).stdout(std::process::Stdio::piped()).spawn().expect("runs");
    let started = Instant::now();
    while child.try_wait().expect("a child").is_none() {
        if started.elapsed() > Duration::from_secs(60) {
            let _ = child.kill();
            panic!("verify waits for a lock of projectors");
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(told(&child.wait_with_output().expect("ended")), CLEAN);
    let heard: Vec<String> =
        listener.notifications_iter().map(|heard| heard.expect("a message").payload).collect();
    assert!(heard.is_empty(), "{heard:?}");
    assert_eq!(database.value(catalog), before);
}

/// Usage, payments and corrections continue all the time: `verify` reports no momentary difference.
#[tokio::test]
async fn what_goes_on_is_no_difference() {
    let database = Database::new();
    database.meter(1, "call", "sum", "model", None);
    database.meter(2, "seen", "unique", "", None);
    database.slot(1, 1, &json!({}), false, "month");
    let daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    for name in ["acme", "beta"] {
        daemon.org(&key, name, "America/New_York").await;
    }
    let stop = AtomicBool::new(false);
    let load = async {
        let mut n = 0;
        while !stop.load(Ordering::SeqCst) {
            n += 1;
            let events: Vec<serde_json::Value> = (0..20)
                .map(|e| {
                    let (org, name) = if e % 2 == 0 { ("acme", "call") } else { ("beta", "seen") };
                    json!({ "id": format!("{n}-{e}"), "source": "s", "org": org, "event_name": name,
                            "data": { "value": format!("{}", e % 7), "model": format!("m{}", e % 3) } })
                })
                .collect();
            let (status, answer) = daemon.post("/v1/usage", &key, &json!(events)).await;
            assert!(status.is_success(), "{answer}");
            let mut events = purchase();
            for event in &mut events {
                event["account"] = json!(format!("acct_{n}"));
            }
            daemon.deliver_all(&events).await;
        }
        n
    };
    let check = async {
        let mut found = Vec::new();
        for _ in 0..4 {
            let mut command = database.command(&["verify"]);
            let output = tokio::task::spawn_blocking(move || command.output().expect("runs"));
            found.push(told(&output.await.expect("no panic")));
        }
        stop.store(true, Ordering::SeqCst);
        found
    };
    let (sent, found) = tokio::join!(load, check);
    assert!(sent > 3, "only {sent} rounds of load");
    assert_eq!(found, vec![CLEAN; 4]);
}

/// For one org or one range of time, each difference is listed by row and field.
#[test]
fn an_org_or_a_range_is_looked_at_alone() {
    let database = Database::new();
    for name in ["acme", "beta"] {
        org(&database, name, "UTC");
    }
    meter(&database, "tokens", "sum", "model");
    for (n, org) in ["acme", "beta"].into_iter().enumerate() {
        for (m, at) in ["2026-09-10T12:00:00Z", "2026-10-10T12:00:00Z"].into_iter().enumerate() {
            put(
                &database,
                &RecordRow {
                    dimensions: r#"{"model":"m"}"#,
                    ..record(org, "tokens", &format!("e{n}{m}"), at, "7")
                },
            );
        }
    }
    database.run(&["rebuild", "summaries"]);
    assert_eq!(told(&verify(&database, &[])), CLEAN);
    database.execute("UPDATE daily_summaries SET quantity = 5");
    let lines = |args: &[&str]| {
        let (code, out) = told(&verify(&database, args));
        assert_eq!(code, Some(if out.is_empty() { 0 } else { 3 }), "{args:?}");
        out.lines().map(str::to_owned).collect::<Vec<_>>()
    };
    let line = |org: &str, day: &str| {
        format!(r#"daily_summaries org_{org} tokens {{"model": "m"}} {day}: quantity is 5, records say 7"#)
    };
    assert_eq!(lines(&[]).len(), 4);
    let both = [line("acme", "2026-09-10"), line("acme", "2026-10-10")];
    assert_eq!(lines(&["--org", "acme"]), both);
    assert_eq!(lines(&["--org", "org_acme"]), both);
    assert_eq!(
        lines(&["--from", "2026-10", "--to", "2026-11"]),
        [line("acme", "2026-10-10"), line("beta", "2026-10-10")]
    );
    assert_eq!(
        lines(&["--org", "beta", "--from", "2026-10-10", "--to", "2026-10-11"]),
        [line("beta", "2026-10-10")]
    );
    assert_eq!(lines(&["--from", "2026-10-11"]), Vec::<String>::new());
    assert_eq!(lines(&["--to", "2026-09-10"]), Vec::<String>::new());
    let unknown = verify(&database, &["--org", "nobody"]);
    assert_eq!(unknown.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&unknown.stderr).contains("--org: there is no org here"));
    let wrong = verify(&database, &["--from", "2026-13"]);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("2026-10"), "it shows how to write it");
}

/// A key without its record, and a record without its key.
#[test]
fn keys_and_records_must_match() {
    let database = Database::new();
    org(&database, "acme", "UTC");
    meter(&database, "tokens", "sum", "");
    for id in ["a", "b"] {
        put(&database, &record("acme", "tokens", id, "2026-10-10T12:00:00Z", "7"));
    }
    database.run(&["rebuild", "summaries"]);
    assert_eq!(told(&verify(&database, &[])), CLEAN);
    database.execute(
        "UPDATE usage_keys SET occurred_at = occurred_at + interval '1 s'
        WHERE event_key IN (SELECT event_key FROM usage_records WHERE event_id = 'a')",
    );
    let (code, lines) = told(&verify(&database, &[]));
    assert_eq!(code, Some(3));
    assert!(lines.contains("of 2026-10-10T12:00:01.000000Z, but there is no record of it"), "{lines}");
    assert!(
        lines.contains(
            "usage_records org_acme event 'a' of source 'test': of \
        2026-10-10T12:00:00.000000Z, but there is no key of it"
        ),
        "{lines}"
    );
    assert_eq!(lines.lines().count(), 2, "{lines}");
}
