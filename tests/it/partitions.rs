//! A partition for each month: made in advance and on demand, removed by the retention.

use chrono::{DateTime, Utc};
use coulomb::config::Config;
use coulomb::metering::partitions::{self, KnownPartitions};

use crate::support::rows::{meter, org, put, record};
use crate::support::{Daemon, Database};

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

fn names(database: &Database) -> String {
    let sql = "SELECT string_agg(right(c.relname, 7), ' ' ORDER BY c.relname) FROM pg_inherits
        JOIN pg_class c ON c.oid = inhrelid
        WHERE inhparent = 'usage_records'::regclass AND c.relname <> 'usage_records_default'";
    database.value(sql).unwrap_or_default()
}

fn retention(months: &str, mode: &str) -> Config {
    let (months, mode) = (months.to_owned(), mode.to_owned());
    let env = move |name: &str| match name {
        "COULOMB_USAGE_RETENTION_MONTHS" => Some(months.clone()),
        "COULOMB_USAGE_RETENTION_MODE" => Some(mode.clone()),
        _ => None,
    };
    Config::from_sources(&env, &std::collections::BTreeMap::new()).expect("loads")
}

#[test]
fn the_worker_keeps_three_months_ahead() {
    let database = Database::new();
    let mut conn = database.platform();
    let now = at("2026-11-21T00:00:00Z");
    assert_eq!(partitions::create_ahead(&mut conn, now, 35).expect("made"), 5);
    assert_eq!(names(&database), "2026_10 2026_11 2026_12 2027_01 2027_02");
    assert_eq!(partitions::create_ahead(&mut conn, now, 35).expect("nothing to do"), 0);
    assert_eq!(partitions::state(&mut conn, now, 35).expect("known"), (0, false));
    let next = at("2026-12-01T00:00:00Z");
    assert_eq!(partitions::state(&mut conn, next, 35).expect("known"), (1, false));
    assert_eq!(partitions::create_ahead(&mut conn, next, 35).expect("made"), 1);
    assert_eq!(names(&database), "2026_10 2026_11 2026_12 2027_01 2027_02 2027_03");
}

/// Many writers at once make each partition once, and the record goes into it.
#[test]
fn a_missing_partition_is_made_on_demand() {
    let database = Database::new();
    let months = ["2025-01-31", "2025-02-01", "2025-01-01"].map(|day| day.parse().expect("a day"));
    let known = KnownPartitions::default();
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| known.ensure(&months, || Ok(database.platform())).expect("made"));
        }
    });
    assert_eq!(names(&database), "2025_01 2025_02");
    known.ensure(&months, || panic!("a known partition needs no connection")).expect("known");
    known.forget();
    let mut asked = false;
    known
        .ensure(&months, || {
            asked = true;
            Ok(database.platform())
        })
        .expect("there");
    assert!(asked);
    org(&database, "acme", "UTC");
    meter(&database, "tokens", "sum", "");
    put(&database, &record("acme", "tokens", "a", "2025-01-31T23:59:59.999999Z", "1"));
    put(&database, &record("acme", "tokens", "b", "2025-02-01T00:00:00Z", "1"));
    for month in ["2025_01", "2025_02"] {
        assert_eq!(
            database.number(&format!("SELECT count(*) FROM usage_partitions.usage_records_{month}")),
            1
        );
    }
}

/// A long reader delays neither usage nor other readers for longer than the limit.
#[test]
fn making_one_gives_way_to_readers() {
    use diesel::connection::SimpleConnection;
    let database = Database::new();
    let mut reader = database.owner();
    reader
        .batch_execute("BEGIN; LOCK TABLE usage_partitions.usage_records_default IN ACCESS SHARE MODE")
        .expect("reads");
    let started = std::time::Instant::now();
    let month = "2025-01-01".parse().expect("a day");
    let refused = partitions::ensure(&mut database.platform(), &[month]).expect_err("is held up");
    assert!(refused.is_transient() && started.elapsed().as_secs() < 20, "{refused}");
    reader.batch_execute("COMMIT").expect("ends");
    partitions::ensure(&mut database.platform(), &[month]).expect("made");
    assert_eq!(names(&database), "2025_01");
}

fn three_months(database: &Database) {
    org(database, "acme", "UTC");
    meter(database, "tokens", "sum", "");
    for (id, time) in
        [("a", "2026-01-15T00:00:00Z"), ("b", "2026-02-15T00:00:00Z"), ("c", "2026-03-15T00:00:00Z")]
    {
        put(database, &record("acme", "tokens", id, time, "1"));
    }
    // January was closed when this event came.
    put(
        database,
        &crate::support::rows::RecordRow {
            day: Some("2026-02-20"),
            ..record("acme", "tokens", "d", "2026-01-20T00:00:00Z", "5")
        },
    );
    database.run(&["rebuild", "summaries"]);
}

fn retire_all(database: &Database, config: &Config, now: &str) -> usize {
    let mut conn = database.platform();
    (0..100)
        .take_while(|_| partitions::remove_oldest(&mut conn, config, at(now)).expect("retires").is_some())
        .count()
}

#[test]
fn old_months_are_dropped_with_their_keys_and_the_books_stay() {
    let database = Database::new();
    three_months(&database);
    let books = database.run(&["dump"]);
    assert_eq!(books.matches("daily_summary").count(), 4, "{books}");
    let config = retention("2", "drop");
    // On the first of the month a clock may still be in the old month.
    assert_eq!(retire_all(&database, &config, "2026-04-01T12:00:00Z"), 0);
    // An open month can still be corrected: a clock that is months ahead drops nothing.
    let close = |month: &str| {
        database.execute(&format!(
            "INSERT INTO usage_closings (org_id, month, closed_at, actor)
            VALUES (1, '{month}', now(), 'test')"
        ));
    };
    close("2025-12-01");
    assert_eq!(retire_all(&database, &config, "2027-12-01T12:00:00Z"), 0);
    assert_eq!(
        partitions::month_waiting_for_closing(&mut database.platform(), &config, at("2026-04-02T12:00:00Z"))
            .expect("told"),
        Some("2026-01-01".parse().expect("a day"))
    );
    close("2026-01-01");
    assert_eq!(retire_all(&database, &config, "2026-04-02T12:00:00Z"), 1);
    assert_eq!(names(&database), "2026_02 2026_03");
    assert_eq!(database.number("SELECT count(*) FROM usage_keys"), 2);
    assert_eq!(
        database.value("SELECT records || ' ' || last_day FROM usage_months_gone").as_deref(),
        Some("2 2026-02-20")
    );
    let horizon = partitions::horizon(config.usage_retention_months, at("2026-04-02T12:00:00Z"));
    assert_eq!(horizon, Some(at("2026-02-01T00:00:00Z")));
    // The counted values of dropped records stay, and `verify` does not report them.
    assert_eq!(database.run(&["verify"]), "");
    database.run(&["rebuild", "summaries"]);
    assert_eq!(database.run(&["dump"]), books);
}

#[test]
fn detached_months_are_kept_where_nothing_is_written_to_them() {
    let database = Database::new();
    three_months(&database);
    assert_eq!(retire_all(&database, &retention("2", "detach"), "2026-05-15T12:00:00Z"), 2);
    assert_eq!(names(&database), "2026_03");
    assert_eq!(database.number("SELECT count(*) FROM usage_partitions.usage_records_2026_01_detached"), 2);
    assert_eq!(database.value("SELECT to_regclass('usage_partitions.usage_records_2026_01')"), None);
    assert_eq!(database.number("SELECT count(*) FROM usage_keys"), 4);
    assert_eq!(database.run(&["verify"]), "");
    assert_eq!(retire_all(&database, &retention("0", "drop"), "2036-01-01T00:00:00Z"), 0);
}

#[test]
fn a_retention_shorter_than_the_window_is_refused() {
    let database = Database::new();
    let output =
        database.command(&["doctor"]).env("COULOMB_USAGE_RETENTION_MONTHS", "1").output().expect("runs");
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(
        told.contains("COULOMB_USAGE_RETENTION_MONTHS is shorter than COULOMB_USAGE_WINDOW_BACK_DAYS"),
        "{told}"
    );
}

#[tokio::test]
async fn doctor_looks_at_partitions() {
    let database = Database::new();
    let doctor = |database: &Database| {
        let output = database.command(&["doctor"]).output().expect("runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        told.lines().find(|line| line.contains(" usage: ")).expect("a line").to_owned()
    };
    assert!(
        doctor(&database).starts_with("note usage: 5 month(s)")
            || doctor(&database).starts_with("note usage: 6 month(s)"),
        "{}",
        doctor(&database)
    );
    let _daemon = Daemon::start(&database);
    let started = std::time::Instant::now();
    while !doctor(&database).starts_with("ok ") {
        assert!(started.elapsed().as_secs() < 120, "{}", doctor(&database));
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    database.execute(
        "INSERT INTO usage_records
             (org_id, series_id, occurred_at, received_at, event_key, meter_id, rate_card_id, day,
              billing_period, correction, quantity, cost, battery_units, event_id, source, subject, value)
         SELECT 1, 1, '1999-01-01', now(), gen_random_uuid(), 1, NULL, '1999-01-01', NULL, 0, 1, 0,
        0, 'x', '', NULL, NULL",
    );
    assert!(doctor(&database).starts_with("BAD  usage: usage_partitions.usage_records_default holds rows"));
}
