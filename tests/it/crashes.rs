//! `kill -9` of the daemon, of PostgreSQL and of both, at random moments under load: every acknowledged
//! delivery is stored, and projected once.
//!
//! The full run (20,000 deliveries, 30 kills) takes minutes: `cargo test --test it crashes -- --ignored`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use coulomb::db;
use serde_json::{Value, json};

use crate::support::events::purchase;
use crate::support::rows::{self, PlanRow};
use crate::support::stripe::signature;
use crate::support::{Daemon, Database, SECRET};

/// A daemon with its own embedded PostgreSQL. Tests kill it and start it again at the same address.
struct Embedded {
    dir: tempfile::TempDir,
    address: String,
    daemon: Option<Daemon>,
}

impl Embedded {
    fn start() -> Self {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        // As root, the server runs as another user, who must reach the directory.
        std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).expect("ours");
        let free =
            std::net::TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
        let mut embedded = Self { dir, address: free.to_string(), daemon: None };
        embedded.revive();
        embedded
    }

    fn revive(&mut self) {
        self.daemon = Some(Daemon::spawn(self.command(&["serve"])));
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_coulomb"));
        command
            .args(args)
            .env_remove("DATABASE_URL")
            .env("COULOMB_DATA_DIR", self.dir.path().join("data"))
            .env("COULOMB_RUN_DIR", self.dir.path().join("data"));
        command
            .env("STRIPE_WEBHOOK_SECRET", SECRET)
            .env("COULOMB_LISTEN", &self.address)
            .env("COULOMB_STRIPE_MODE", "test")
            .env("COULOMB_STRIPE_ACCOUNTS", accounts())
            .env("COULOMB_LOG", "off");
        command
    }

    fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("running")
    }

    fn kill_postgres(&self) {
        let pid_file = self.dir.path().join("data/pgdata/postmaster.pid");
        if let Some(pid) =
            std::fs::read_to_string(pid_file).ok().and_then(|text| text.lines().next().map(str::to_owned))
        {
            let _ = Command::new("kill").args(["-KILL", &pid]).status();
        }
    }
}

/// The deliveries of `worlds` purchases, each in its own account, every third delivery twice.
fn deliveries(worlds: usize) -> Vec<Value> {
    let mut all = Vec::new();
    for world in 0..worlds {
        for (n, mut event) in purchase().into_iter().enumerate() {
            event["account"] = json!(format!("acct_{world}"));
            if n % 3 == 0 {
                all.push(event.clone());
            }
            all.push(event);
        }
    }
    // Deliveries that follow each other are far apart in the set, so they belong to different worlds.
    let stride = 7919 % all.len().max(1);
    (0..all.len()).map(|n| all[(n * stride) % all.len()].clone()).collect()
}

/// Sends every delivery until it is acknowledged, as Stripe does. Returns the acknowledged ids.
async fn send(base: &str, deliveries: &[Value], sent: &AtomicUsize) -> BTreeSet<String> {
    let (next, acknowledged) = (AtomicUsize::new(0), Mutex::new(BTreeSet::new()));
    let http = reqwest::Client::builder().timeout(Duration::from_secs(10)).build().expect("a client");
    let sender = || async {
        while let Some(event) = deliveries.get(next.fetch_add(1, Ordering::Relaxed)) {
            let body = event.to_string();
            let request = || {
                http.post(format!("{base}/webhooks/stripe"))
                    .header("Stripe-Signature", signature(body.as_bytes()))
                    .body(body.clone())
            };
            while !request().send().await.is_ok_and(|answer| answer.status().is_success()) {
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            sent.fetch_add(1, Ordering::Relaxed);
            let id = format!(
                "{} {}",
                event["account"].as_str().expect("text"),
                event["id"].as_str().expect("text")
            );
            acknowledged.lock().expect("no panic").insert(id);
        }
    };
    futures_util::future::join_all((0..16).map(|_| sender())).await;
    acknowledged.into_inner().expect("no panic")
}

/// The org that all customers name, and the plan that their invoices pay for: each purchase charges the
/// battery once.
fn furnish(database: &Database) {
    rows::org(database, "acme", "UTC");
    let pro =
        PlanRow { id: "pro", prices: &["price_pro"], units: 100, debt_limit: Some(0), ..PlanRow::default() };
    rows::plan(database, &pro);
}

/// The connected accounts of the worlds: all act.
fn accounts() -> &'static str {
    static ACCOUNTS: std::sync::OnceLock<String> = std::sync::OnceLock::new();
    ACCOUNTS.get_or_init(|| (0..2_000).map(|n| format!("acct_{n}")).collect::<Vec<_>>().join(","))
}

async fn campaign(worlds: usize, kills: usize) {
    let deliveries = deliveries(worlds);
    let calm = {
        let mut database = Database::new();
        database.realms = ("test", accounts());
        furnish(&database);
        let daemon = Daemon::with(&database, &[("COULOMB_LOG", "off")]);
        send(&daemon.base, &deliveries, &AtomicUsize::new(0)).await;
        daemon.projected().await;
        database.run(&["dump"])
    };

    let mut embedded = Embedded::start();
    let base = embedded.daemon().base.clone();
    let url = db::embedded::running_url(&embedded.dir.path().join("data")).expect("it runs");
    furnish(&Database::at(&url));
    let sent = AtomicUsize::new(0);
    let storm = async {
        let mut random = 0x9e37_79b9_u64;
        for kill in 0..kills {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // The kills are spread over the deliveries, so that each hits a busy daemon.
            let until = deliveries.len() * (kill + 1) / (kills + 2);
            while sent.load(Ordering::Relaxed) < until {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            tokio::time::sleep(Duration::from_millis((random >> 33) % 40)).await;
            match kill % 3 {
                0 => embedded.daemon().kill(),
                1 => embedded.kill_postgres(),
                _ => {
                    embedded.kill_postgres();
                    embedded.daemon().kill();
                }
            }
            if kill % 3 != 1 {
                tokio::task::block_in_place(|| embedded.revive());
            }
        }
    };
    let (acknowledged, ()) = futures_util::future::join(send(&base, &deliveries, &sent), storm).await;
    let started = Instant::now();
    while embedded.daemon().metric("coulomb_stripe_inbox_pending").await != Some(0)
        || embedded.daemon().metric("coulomb_database_up").await != Some(1)
    {
        assert!(started.elapsed() < Duration::from_secs(180), "not projected");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let run = |args: &[&str]| {
        let output = embedded.command(args).output().expect("runs");
        assert!(
            output.status.success(),
            "{args:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("UTF-8")
    };
    assert_eq!(acknowledged.len(), worlds * 8);
    let stored: BTreeSet<String> = run(&["stripe", "inbox", "list", "--limit", "1000000"])
        .lines()
        .map(|line| {
            let entry: Value = serde_json::from_str(line).expect("JSON");
            assert_eq!(entry["state"], "done", "{entry}");
            format!(
                "{} {}",
                entry["account"].as_str().expect("text"),
                entry["event_id"].as_str().expect("text")
            )
        })
        .collect();
    assert_eq!(stored, acknowledged, "every acknowledged event is in the inbox and projected");
    let end = run(&["dump"]);
    assert!(end == calm, "the result differs from that of a run without kills");
    let granted =
        |line: &&str| line.contains(r#""kind":"battery_grant""#) && line.contains(r#""amount":"100""#);
    assert_eq!(end.lines().filter(granted).count(), worlds, "each purchase charges the battery once");
    assert_eq!(run(&["verify"]), "");
    assert!(is_gone_after_stop(&mut embedded));
}

/// When the daemon stops, its PostgreSQL stops too.
fn is_gone_after_stop(embedded: &mut Embedded) -> bool {
    let pid_file = embedded.dir.path().join("data/pgdata/postmaster.pid");
    embedded.daemon().stop() == Some(0) && !Path::new(&pid_file).exists()
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_nothing() {
    campaign(60, 6).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "the campaign of full size takes minutes"]
async fn kills_lose_nothing_at_full_size() {
    campaign(1_850, 33).await;
}
