//! A stream of usage, retried, repeated, mixed, cut into batches in different ways, through two daemons. The
//! test kills them again and again, and their PostgreSQL too. Acknowledged usage is in the books once, and
//! nothing else is.
//!
//! The full run (1,000,000 events, 50 kills of daemons, 10 of PostgreSQL) takes minutes:
//! `cargo test --test it usage_storm -- --ignored`.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use coulomb::db::{self, embedded};
use diesel::prelude::*;
use serde_json::{Value, json};

use crate::support::{Daemon, Database};

const CLIENTS: usize = 16;
const ORGS: usize = 40;

/// A daemon that runs PostgreSQL and one that uses it, both at fixed addresses.
struct Pair {
    dir: tempfile::TempDir,
    addresses: [String; 2],
    daemons: [Option<Daemon>; 2],
}

impl Pair {
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
        let free = || {
            let socket = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
            socket.local_addr().expect("an address").to_string()
        };
        let mut pair = Self { dir, addresses: [free(), free()], daemons: [None, None] };
        pair.revive(0);
        pair.revive(1);
        pair
    }

    fn data(&self) -> std::path::PathBuf {
        self.dir.path().join("data")
    }

    /// Starts a daemon again, as its supervisor would: repeatedly while its database is away.
    fn revive(&mut self, n: usize) {
        self.daemons[n] = std::iter::repeat_with(|| {
            let daemon = self.command(n).and_then(Daemon::try_spawn);
            if daemon.is_none() {
                std::thread::sleep(Duration::from_millis(100));
            }
            daemon
        })
        .take(300)
        .flatten()
        .next();
        assert!(self.daemons[n].is_some(), "daemon {n} does not come back");
    }

    fn command(&self, n: usize) -> Option<Command> {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coulomb"));
        command
            .arg("serve")
            .env_remove("DATABASE_URL")
            .env("COULOMB_DATA_DIR", self.data())
            .env("COULOMB_RUN_DIR", self.data());
        command.env("COULOMB_LISTEN", &self.addresses[n]).env("COULOMB_LOG", "off");
        // The stream is months old, and the test compares its counters.
        command.env("COULOMB_QUOTA_SUBJECT_RETENTION_DAYS", "400");
        if n == 1 {
            command.env("DATABASE_URL", embedded::running_url(&self.data())?);
        }
        Some(command)
    }

    fn kill(&mut self, n: usize) {
        if let Some(daemon) = &mut self.daemons[n] {
            daemon.kill();
        }
    }

    fn kill_postgres(&self) {
        let pid = std::fs::read_to_string(self.data().join("pgdata/postmaster.pid")).unwrap_or_default();
        if let Some(pid) = pid.lines().next() {
            let _ = Command::new("kill").args(["-KILL", pid]).status();
        }
    }
}

/// One event of the stream. From number `distinct` on, events repeat an earlier one, every third with other
/// content.
struct Stream {
    distinct: usize,
    start: DateTime<Utc>,
}

impl Stream {
    /// Which event the n-th of the stream is, and whether its content differs.
    fn which(&self, n: usize) -> (usize, bool) {
        if n < self.distinct {
            (n, false)
        } else {
            ((n - self.distinct) * 7919 % self.distinct, (n - self.distinct).is_multiple_of(3))
        }
    }

    fn event(&self, n: usize) -> Value {
        let (n, other) = self.which(n);
        // Five days around the end of a month, many in its first and last seconds.
        let offset =
            if n.is_multiple_of(10) { 172_799 + (n / 10 % 3) as i64 } else { (n as i64 * 7919) % 432_000 };
        let at = self.start + chrono::Duration::seconds(offset);
        json!({ "id": format!("e{n}"), "source": "storm", "org": format!("org-{}", n * 31 % ORGS),
            "event_name": "work", "occurred_at": at,
                "member": format!("m{}", n % 3), "subject": format!("s{}", n % 5),
                "data": { "value": if other { 1_000_000 } else { n % 100 + 1 },
                    "model": format!("m{}", n % 4) } })
    }

    fn value(n: usize) -> i64 {
        n as i64 % 100 + 1
    }
}

async fn campaign(events: usize, daemon_kills: usize, postgres_kills: usize) {
    let mut pair = Pair::start();
    let url = embedded::running_url(&pair.data()).expect("it runs");
    let database = Database::at(&url);
    database.meter(
        1,
        "work",
        "sum",
        "model",
        Some(&json!([{ "when": { "model": "m1" }, "unit_cost": "0.003", "battery_units": "2" },
        { "unit_cost": "0.001" }])),
    );
    database.slot(1, 1, &json!({}), false, "month");
    database.slot(2, 1, &json!({ "model": "m2" }), true, "day");
    database.execute(&format!(
        "INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
             SELECT 'org_' || n, 'org-' || n, 'Org',
                 (ARRAY['UTC', 'America/New_York', 'Asia/Kolkata'])[1 + n % 3], now(), '{{}}'
             FROM generate_series(0, {ORGS} - 1) n;
         INSERT INTO org_refs (ref, org_id)
         SELECT external_id, org_id FROM orgs;
         INSERT INTO battery_settings (org_id, debt_limit, updated_at)
         SELECT org_id, 0, now() FROM orgs WHERE org_id % 2 = 0"
    ));
    // Half of the orgs may use only what they were granted, which is enough: so the daemon checks each of
    // their batteries.
    for org_id in (2..=ORGS as i64).step_by(2) {
        database.grant(org_id, "first", "1000");
        database.grant(org_id, "second", "1000000000");
    }
    let key = database.key("usage:write,usage:backfill", None);
    let distinct = events * 9 / 10;
    let stream = Stream { distinct, start: "2026-03-30T00:00:00Z".parse().expect("a time") };
    let (next, done, over) = (AtomicUsize::new(0), AtomicUsize::new(0), AtomicBool::new(false));
    // For each event: how often the answer was "stored", and how often "conflict".
    let told: Mutex<HashMap<usize, (u32, u32)>> = Mutex::new(HashMap::new());
    let addresses = pair.addresses.clone();
    let client = |client: usize| {
        let (stream, next, done, told, key, addresses) = (&stream, &next, &done, &told, &key, &addresses);
        async move {
            let http = reqwest::Client::builder().timeout(Duration::from_secs(20)).build().expect("a client");
            let mut random = client as u64 + 1;
            loop {
                random =
                    random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let size = [1, 7, 100, 1000][(random >> 40) as usize % 4].min(events / 50 + 1);
                let from = next.fetch_add(size, Ordering::Relaxed);
                if from >= events {
                    return;
                }
                // Events sent together are far apart in the stream: they come in any order, repeats also
                // before the event that they repeat.
                let places: Vec<usize> =
                    (from..(from + size).min(events)).map(|n| n * 104_729 % events).collect();
                let body =
                    Value::Array(places.iter().map(|place| stream.event(*place)).collect()).to_string();
                let answer = loop {
                    random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                    let address = &addresses[(random >> 33) as usize % 2];
                    let request =
                        http.post(format!("http://{address}/v1/usage")).bearer_auth(key).body(body.clone());
                    match request.send().await {
                        // One answer in twenty is lost, and the request is sent again, to either daemon.
                        Ok(answer) if answer.status() == 200 && !(random >> 50).is_multiple_of(20) => {
                            if let Ok(answer) = answer.json::<Value>().await {
                                break answer;
                            }
                        }
                        Ok(answer) => {
                            assert!(matches!(answer.status().as_u16(), 200 | 429 | 503), "{answer:?}")
                        }
                        Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                };
                let mut told = told.lock().expect("no panic");
                for (place, result) in places.iter().zip(answer["results"].as_array().expect("results")) {
                    let count = told.entry(*place).or_default();
                    match result["status"].as_str() {
                        Some("accepted" | "duplicate") => count.0 += 1,
                        Some("conflict") => count.1 += 1,
                        _ => panic!("{result}"),
                    }
                }
                done.fetch_add(places.len(), Ordering::Relaxed);
            }
        }
    };
    let kills = daemon_kills + postgres_kills;
    let storm = async {
        let mut random = 0x9e37_79b9_u64;
        for kill in 0..kills {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            while done.load(Ordering::Relaxed) < events * (kill + 1) / (kills + 2)
                && !over.load(Ordering::Relaxed)
            {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            tokio::time::sleep(Duration::from_millis((random >> 33) % 60)).await;
            if kill * postgres_kills / kills != (kill + 1) * postgres_kills / kills {
                pair.kill_postgres();
            } else {
                // When the first daemon is killed, its PostgreSQL goes too.
                let n = usize::from(kill % 4 != 0);
                pair.kill(n);
                tokio::task::block_in_place(|| pair.revive(n));
            }
        }
    };
    let clients = async {
        futures_util::future::join_all((0..CLIENTS).map(client)).await;
        over.store(true, Ordering::Relaxed);
    };
    let started = Instant::now();
    futures_util::future::join(clients, storm).await;
    println!(
        "{events} events, {daemon_kills} kills of daemons, {postgres_kills} of PostgreSQL, in {:?}",
        started.elapsed()
    );
    while db::connect_as_login(&url).is_err() {
        assert!(started.elapsed() < Duration::from_secs(1200), "PostgreSQL does not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    check(&database, &stream, events, &told.into_inner().expect("no panic"));
}

/// Every event of the stream has an answer; each key is stored once, with content that an answer called
/// stored.
fn check(database: &Database, stream: &Stream, events: usize, told: &HashMap<usize, (u32, u32)>) {
    assert_eq!(told.len(), events, "every event was answered");
    assert_eq!(database.number("SELECT count(*) FROM usage_keys"), stream.distinct as i64);
    assert_eq!(database.number("SELECT count(*) FROM usage_records"), stream.distinct as i64);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    let units = database.number("SELECT -sum(amount)::bigint FROM battery_entries WHERE kind = 'usage'");
    assert_eq!(units, database.number("SELECT sum(battery_units)::bigint FROM daily_summaries"));
    assert!(units > 0);
    println!("{units} battery units burned");
    let mut conn = database.owner();
    let stored: Vec<(String, rust_decimal::Decimal)> = coulomb::schema::usage_records::table
        .select((coulomb::schema::usage_records::event_id, coulomb::schema::usage_records::quantity))
        .load(&mut conn)
        .expect("records");
    let stored: HashMap<&str, i64> =
        stored.iter().map(|(id, quantity)| (id.as_str(), i64::try_from(*quantity).expect("whole"))).collect();
    let mut conflicts = 0;
    for (place, (kept, refused)) in told {
        let (n, other) = stream.which(*place);
        let value = if other { 1_000_000 } else { Stream::value(n) };
        let ours = stored[format!("e{n}").as_str()] == value;
        assert_eq!((*kept > 0, *refused > 0), (ours, !ours), "event {n}, place {place} of the stream");
        conflicts += usize::from(!ours);
    }
    println!("{} stored, {conflicts} conflicts", stored.len());
    assert!(conflicts > events / 100, "the stream has conflicts");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_and_double_nothing() {
    campaign(20_000, 4, 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes"]
async fn a_million_events_under_sixty_kills() {
    campaign(1_000_000, 50, 10).await;
}
