//! The books of usage are counted again from the records: by `rebuild summaries`, by `verify`, and by the
//! worker.

use std::time::{Duration, Instant};

use crate::support::rows::{RecordRow, meter, org, put, record};
use crate::support::{Daemon, Database};

/// Usage of every kind of meter, priced by tiers and counted for quotas; in the running month and the two
/// before.
fn usage(database: &Database) {
    org(database, "acme", "America/New_York");
    org(database, "other", "UTC");
    meter(database, "tokens", "sum", "model");
    meter(database, "calls", "count", "");
    meter(database, "seats", "max", "");
    meter(database, "users", "unique", "");
    meter(database, "level", "latest", "");
    database.execute(
        r#"INSERT INTO rate_cards (rate_card_id, meter_id, version, valid_from, currency, rates, created_at)
            VALUES (7, 1, 1, '2020-01-01', 'eur',
             '[{"when":{"model":"y"},"unit_cost":"1"},
             {"when":{},"tiers":{"mode":"graduated","tiers":[{"unit_cost":"1"}]}}]', now());
           UPDATE meters SET currency = 'eur' WHERE meter_id = 1;
           INSERT INTO quota_slots (slot_id, meter_id, filter, per_subject, period, everywhere, created_at)
           VALUES (1, 1, '{}', false, 'month', true, now() - interval '70 days'), (2, 1, '{"model":"y"}',
               true, 'day', true, now() - interval '70 days'),
             (3, 2, '{}', false, 'billing', false, now()), (4, 1, '{}', false, 'day', false,
                 now() - interval '70 days');
           INSERT INTO quota_slot_orgs (slot_id, org_id)
           SELECT 3, org_id FROM orgs WHERE external_id = 'acme'"#,
    );
    let now = chrono::Utc::now();
    for (n, days) in [0, 0, 1, 2, 40, 70].into_iter().enumerate() {
        let at =
            |hours| (now - chrono::TimeDelta::days(days) - chrono::TimeDelta::minutes(hours)).to_rfc3339();
        let id = |kind: &str| format!("{kind}{n}");
        for record in [
            RecordRow { card: Some(7), cost: "1.5", ..record("acme", "tokens", &id("t"), &at(1), "10") },
            RecordRow {
                card: Some(7),
                dimensions: r#"{"model":"y"}"#,
                subject: Some("s1"),
                ..record("acme", "tokens", &id("y"), &at(2), "3")
            },
            record("acme", "calls", &id("c"), &at(1), "1"),
            record("acme", "seats", &id("m"), &at(1), "-5"),
            record("acme", "seats", &id("n"), &at(2), "7"),
            RecordRow { correction: 1, ..record("acme", "seats", &id("n"), &at(2), "-7") },
            RecordRow { correction: 2, ..record("acme", "seats", &id("n"), &at(2), "6") },
            RecordRow { value: Some("ann"), ..record("acme", "users", &id("u"), &at(1), "1") },
            RecordRow { value: Some("bob"), ..record("acme", "users", &id("v"), &at(2), "1") },
            RecordRow {
                value: Some("bob"),
                correction: 1,
                ..record("acme", "users", &id("v"), &at(2), "-1")
            },
            record("acme", "level", &id("l"), &at(1), "50"),
            record("acme", "level", &id("k"), &at(3), "60"),
            record("other", "tokens", &id("t"), &at(1), "1000"),
        ] {
            put(database, &record);
        }
    }
    // Its month was closed when it came: it counts on a day far from its own.
    let day: &'static str = now.format("%Y-%m-%d").to_string().leak();
    put(
        database,
        &RecordRow {
            day: Some(day),
            ..record("acme", "tokens", "late", &(now - chrono::TimeDelta::days(70)).to_rfc3339(), "0.5")
        },
    );
}

fn verify(database: &Database) -> (Option<i32>, String) {
    let output = database.command(&["verify"]).output().expect("runs");
    (output.status.code(), String::from_utf8(output.stdout).expect("UTF-8"))
}

#[test]
fn the_books_are_what_the_records_say() {
    let database = Database::new();
    usage(&database);
    assert_eq!(verify(&database).0, Some(3), "nothing was counted yet");
    database.run(&["rebuild", "summaries"]);
    assert_eq!(verify(&database), (Some(0), String::new()));
    let of = |meter: &str, what: &str| {
        let sql = format!(
            "SELECT string_agg(DISTINCT {what}, ' ') FROM daily_summaries d JOIN usage_series
                 USING (org_id, series_id) JOIN meters m USING (meter_id)
             WHERE m.key = '{meter}' AND d.org_id = 1 AND d.day < (SELECT max(day) FROM daily_summaries) - 10"
        );
        database.value(&sql).unwrap_or_default()
    };
    assert_eq!(of("seats", "quantity::text || '/' || count"), "6/2");
    assert_eq!(of("users", "quantity::text || '/' || count"), "1/1");
    assert_eq!(of("level", "quantity::text || '/' || (latest_at IS NULL)"), "50/false");
    assert_eq!(of("calls", "quantity::text || '/' || (latest_at IS NULL)"), "1/true");
    assert_eq!(database.number("SELECT count(DISTINCT value_digest) FROM usage_uniques"), 1);
    // Six times 10 by the second rate; the first has no tiers.
    assert_eq!(
        database
            .value(
                "SELECT sum(quantity) || ' ' || min(rate) || ' ' || max(rate)
        FROM rating_counters WHERE org_id = 1"
            )
            .as_deref(),
        Some("60 1 1")
    );
    let used = |slot: i32| {
        database.value(&format!(
            "SELECT trim_scale(sum(used)) FROM quota_counters WHERE org_id = 1 AND slot_id = {slot}"
        ))
    };
    // Past periods are counted from when the slot was made; for subjects, the last week; nothing if no org
    // uses the slot.
    assert_eq!((used(1).as_deref(), used(2).as_deref()), (Some("78.5"), Some("12")));
    assert_eq!(used(4), None);
    assert_eq!(
        database
            .value(
                "SELECT string_agg(DISTINCT subject, ' ') FROM quota_counters
        WHERE slot_id = 2 AND org_id = 1 AND used = 3"
            )
            .as_deref(),
        Some("s1")
    );
    assert_eq!(database.number("SELECT count(*) FROM quota_counters WHERE slot_id = 3 AND org_id <> 1"), 0);
    let dump = database.run(&["dump"]);
    for kind in ["daily_summary", "usage_unique", "rating_counter", "quota_counter"] {
        assert!(dump.contains(&format!(r#""kind":"{kind}""#)), "{kind} is not in the dump");
    }
}

#[test]
fn every_difference_is_found_and_mended() {
    let database = Database::new();
    usage(&database);
    database.run(&["rebuild", "summaries"]);
    let before = database.run(&["dump"]);
    for (damage, table) in [
        ("UPDATE daily_summaries SET quantity = quantity + 1", "daily_summaries"),
        (
            "UPDATE daily_summaries SET count = count - 1
             WHERE day < (SELECT max(day) FROM daily_summaries) - 30",
            "daily_summaries",
        ),
        ("UPDATE daily_summaries SET cost = cost + 0.000000001 WHERE cost <> 0", "daily_summaries"),
        (
            "UPDATE daily_summaries SET latest_at = latest_at + interval '1 s' WHERE latest_at IS NOT NULL",
            "daily_summaries",
        ),
        ("DELETE FROM daily_summaries", "daily_summaries"),
        (
            "INSERT INTO daily_summaries
                 (org_id, series_id, day, quantity, count, cost, battery_units, latest_at)
             SELECT org_id, series_id, day - 300, 1, 1, 0, 0, NULL
             FROM daily_summaries",
            "daily_summaries",
        ),
        ("DELETE FROM usage_uniques", "usage_uniques"),
        (
            "INSERT INTO usage_uniques (org_id, series_id, day, value_digest)
             SELECT org_id, series_id, day, gen_random_uuid() FROM usage_uniques",
            "usage_uniques",
        ),
        ("UPDATE rating_counters SET quantity = -quantity", "rating_counters"),
        ("DELETE FROM rating_counters", "rating_counters"),
        (
            "INSERT INTO rating_counters (org_id, meter_id, rate_card_id, rate, period, quantity)
             SELECT org_id, meter_id, rate_card_id, 0, period, 1
             FROM rating_counters",
            "rating_counters",
        ),
        ("UPDATE quota_counters SET used = used * 2", "quota_counters"),
        (
            "DELETE FROM quota_counters
             WHERE period >= date_trunc('month', now() - interval '5 hours')::date AND slot_id = 1",
            "quota_counters",
        ),
    ] {
        database.execute(damage);
        let (code, told) = verify(&database);
        assert_eq!(code, Some(3), "{damage}");
        assert!(told.lines().all(|line| line.starts_with(table)), "{damage}: {told}");
        assert!(
            told.contains(&format!("{table} org_acme ")) && told.contains("records say"),
            "{damage}: {told}"
        );
        database.run(&["rebuild", "summaries"]);
        assert_eq!(verify(&database), (Some(0), String::new()), "after {damage}");
        assert_eq!(database.run(&["dump"]), before, "after {damage}");
    }
    // Reserved amounts are not rebuilt here.
    database.execute("UPDATE quota_counters SET reserved = 4, used = used + 1");
    database.run(&["rebuild", "summaries"]);
    assert_eq!(database.number("SELECT count(*) FROM quota_counters WHERE reserved <> 4"), 0);
}

#[test]
fn keys_and_records_agree_one_to_one() {
    let database = Database::new();
    usage(&database);
    database.run(&["rebuild", "summaries"]);
    for (damage, told) in [
        (
            "DELETE FROM usage_keys
             WHERE (org_id, event_key) IN (SELECT org_id, event_key FROM usage_records
                 WHERE event_id = 't0' AND org_id = 1)",
            "but there is no key of it",
        ),
        (
            "INSERT INTO usage_keys (org_id, event_key, occurred_at, content)
            VALUES (1, gen_random_uuid(), now(), 1)",
            "but there is no record of it",
        ),
        (
            "UPDATE usage_keys SET occurred_at = occurred_at + interval '1 s' WHERE org_id = 2",
            "but there is no record of it",
        ),
    ] {
        database.execute("CREATE TABLE IF NOT EXISTS keys AS TABLE usage_keys");
        database.execute(damage);
        let (code, lines) = verify(&database);
        assert_eq!(code, Some(3), "{damage}");
        assert!(lines.contains(told), "{damage}: {lines}");
        database.execute("TRUNCATE usage_keys; INSERT INTO usage_keys TABLE keys");
        assert_eq!(verify(&database), (Some(0), String::new()));
    }
    // No read shows records without their series, so no comparison of what reads show would find them.
    database.execute("DELETE FROM usage_series WHERE org_id = 1");
    database.run(&["rebuild", "summaries"]);
    let (code, lines) = verify(&database);
    assert_eq!(code, Some(3));
    assert!(lines.contains("which is not stored"), "{lines}");
}

/// The worker checks, logs what it found, and counts it.
#[tokio::test]
async fn the_worker_repairs_what_is_wrong() {
    let database = Database::new();
    usage(&database);
    database.run(&["rebuild", "summaries"]);
    let before = database.run(&["dump"]);
    database.execute(
        "UPDATE daily_summaries SET quantity = 99
         WHERE org_id = 1 AND day = (SELECT max(day) FROM daily_summaries WHERE org_id = 1);
         DELETE FROM daily_summaries
         WHERE org_id = 2 AND day = (SELECT max(day) FROM daily_summaries WHERE org_id = 2)",
    );
    let wrong = database.number("SELECT count(*) FROM daily_summaries WHERE quantity = 99") + 1;
    let daemon = Daemon::start(&database);
    let started = Instant::now();
    while database.run(&["dump"]) != before {
        assert!(started.elapsed() < Duration::from_secs(120), "not repaired");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert_eq!(daemon.metric("coulomb_usage_summaries_repaired_total").await, Some(wrong));
    assert_eq!(verify(&database), (Some(0), String::new()));
}

/// Usage is written all the time: the repair changes nothing that is right, and repairs what is wrong without
/// losing new usage.
#[test]
fn mending_does_not_race_with_usage() {
    use coulomb::billing::org_plan::AsOf;
    use coulomb::integrity::derived_tables::parts::{Orgs, Part};
    use coulomb::integrity::derived_tables::{self, CountingRules, CountingSettings, DerivedTable};
    use coulomb::metering::periods::CountedDays;
    use diesel::prelude::*;
    let database = Database::new();
    org(&database, "acme", "UTC");
    meter(&database, "tokens", "sum", "");
    database.execute(
        "SELECT make_usage_partition('2026-10-01'); INSERT INTO usage_series
                 (org_id, series_id, meter_id, member, dimensions)
             VALUES (1, 1, 1, NULL, '{}'), (1, 2, 1, 'm', '{}')",
    );
    let day = "2026-10-10".parse::<chrono::NaiveDate>().expect("a day");
    let part = Part { orgs: Orgs::one(1), from: day, before: day.succ_opt().expect("a day") };
    let stop = std::sync::atomic::AtomicBool::new(false);
    let ordering = std::sync::atomic::Ordering::SeqCst;
    /// Stops the writers, also when the test fails.
    struct Ends<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::SeqCst);
        }
    }
    std::thread::scope(|scope| {
        let _ends = Ends(&stop);
        for writer in 0..3 {
            let (database, stop) = (&database, &stop);
            scope.spawn(move || {
                let mut conn = database.owner();
                let mut n = 0;
                while !stop.load(ordering) {
                    n += 1;
                    let series = n % 2 + 1;
                    // Like the daemon: the record, then the summary, in one transaction.
                    conn.transaction(|conn| {
                        diesel::sql_query(format!(
                            "INSERT INTO usage_records
                                 (org_id, series_id, occurred_at, received_at, event_key, meter_id,
                                  rate_card_id, day, billing_period, correction, quantity, cost,
                                  battery_units, event_id, source, subject, value)
                             VALUES (1, {series}, '2026-10-10T12:00:00Z', now(), gen_random_uuid(), 1,
                                 NULL, '2026-10-10', NULL, 0, {n}, 1, 0, 'w{writer}-{n}', '', NULL, NULL)"
                        ))
                        .execute(conn)?;
                        diesel::sql_query(format!(
                            "INSERT INTO daily_summaries AS d
                                 (org_id, series_id, day, quantity, count, cost, battery_units, latest_at)
                             VALUES (1, {series}, '2026-10-10', {n}, 1, 1, 0, NULL)
                             ON CONFLICT (org_id, series_id, day)
                             DO UPDATE SET quantity = d.quantity + excluded.quantity, count = d.count + 1,
                                 cost = d.cost + 1"
                        ))
                        .execute(conn)
                    })
                    .expect("written");
                }
            });
        }
        let mut conn = database.platform();
        let as_of = AsOf { now: chrono::Utc::now(), grace_days: 14 };
        let settings = CountingSettings { as_of, kept: CountedDays { org: 400, subject: 7 } };
        let rules = CountingRules::load(&mut conn, settings).expect("rules");
        let mut damage = database.owner();
        let started = Instant::now();
        for n in 0.. {
            let found = derived_tables::differences(&mut conn, &rules, DerivedTable::Summaries, part, 100)
                .expect("compared");
            assert!(found.is_empty(), "found differences without damage: {found:?}");
            let sql = if n % 2 == 0 {
                "UPDATE daily_summaries SET quantity = quantity + 1"
            } else {
                "DELETE FROM daily_summaries WHERE series_id = 2"
            };
            diesel::sql_query(sql).execute(&mut damage).expect("damaged");
            let found = derived_tables::differences(&mut conn, &rules, DerivedTable::Summaries, part, 100)
                .expect("compared");
            derived_tables::repair(&mut conn, &rules, DerivedTable::Summaries, part, &found).expect("mended");
            if started.elapsed() > Duration::from_secs(3) {
                break;
            }
        }
    });
    assert_eq!(
        database.value("SELECT sum(quantity) || ' ' || sum(count) || ' ' || sum(cost) FROM daily_summaries"),
        database.value("SELECT sum(quantity) || ' ' || count(*) || ' ' || sum(cost) FROM usage_records")
    );
}
