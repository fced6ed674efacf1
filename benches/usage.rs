//! Measures how fast the daemon accepts usage, as ratios within one run.
//!
//! One daemon, its PostgreSQL (fsync on) and the load share the machine. Orgs are chosen evenly and by Zipf's
//! law. Each event has one record, one daily summary and one quota counter, and a rate card prices it.
//!
//! Baselines: raw binary COPY of the same rows by two connections into a copy of the table without indexes; a
//! route that only reads and checks the request; the same server with one transaction for each request.
//!
//! `cargo bench --bench usage` runs all. `-- ORGS EVENTS` sets the sizes. `-- --fill N` first inserts N rows
//! and keys, and compares the rate before and after. `-- --hot` burns batteries: it compares one org alone
//! with the same stream over 10,000 orgs.

#[path = "support/raw_copy.rs"]
mod raw_copy;
#[path = "support/mod.rs"]
mod support;

use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::{HttpRequest, HttpResponse, web};
use coulomb::app::App;
use coulomb::auth::{self, NewKey, Principal, Scope};
use coulomb::config::Config;
use coulomb::db::{self, Db, DbOptions, migrate};
use coulomb::error::Error;
use coulomb::server;
use coulomb::time::Clock;
use coulomb::workers::Workers;
use diesel::connection::SimpleConnection;
use support::{Load, Postgres, load};

/// Connections that send requests of 1,000 events. The usage queue has no room for many more.
const CONNECTIONS_OF_1000: usize = 96;
/// Requests of one kind before the other kind has its turn.
const SLICE: usize = 5_000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|arg| arg == "--serve") {
        return serve();
    }
    let fill = args.iter().position(|arg| arg == "--fill").and_then(|at| args.get(at + 1)?.parse().ok());
    let mut numbers = args.iter().filter_map(|arg| arg.parse::<usize>().ok());
    let sizes = match fill {
        Some(_) => (1000, 400_000),
        None => (numbers.next().unwrap_or(1000), numbers.next().unwrap_or(400_000)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        match fill {
            Some(rows) => filled(sizes, rows).await,
            None if args.iter().any(|arg| arg == "--hot") => hot(sizes.1).await,
            None => compare(sizes).await,
        }
    });
}

/// Runs the daemon with the baseline's route.
fn serve() {
    let url = std::env::var("DATABASE_URL").expect("DATABASE_URL");
    let config = Config::load(None).expect("settings");
    let db = Db::new(DbOptions {
        url,
        size: 8,
        wait: Duration::from_secs(1),
        statement_timeout: Duration::ZERO,
        lock_timeout: Duration::ZERO,
        silence: Duration::from_secs(60),
        roles: true,
    });
    let app = Arc::new(App::new(config, Clock::system(), db));
    actix_web::rt::System::new().block_on(async {
        let (server, address) = server::bind_with(&app, |config| {
            config.service(web::resource("/bench/parse").route(web::post().to(parse_only)));
        })
        .expect("binds");
        let _workers = Workers::start(&app);
        println!("{address}");
        std::io::stdout().flush().expect("prints");
        server.await.expect("serves");
    });
}

/// Does the work of `POST /v1/usage` before storing, with an answer of the same size.
async fn parse_only(
    app: web::Data<App>,
    principal: Principal,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Error> {
    coulomb::api::usage::events::parse_only(&app, &principal, &request, payload).await
}

struct Server {
    child: std::process::Child,
    address: String,
}

impl Server {
    fn start(postgres: &Postgres, settings: &[(&str, &str)]) -> Self {
        let mut child = Command::new(std::env::current_exe().expect("a path"))
            .arg("--serve")
            .env("DATABASE_URL", &postgres.url)
            .env("COULOMB_LISTEN", "127.0.0.1:0")
            .env("COULOMB_LOG", "error")
            .envs(settings.iter().copied())
            .stdout(Stdio::piped())
            .spawn()
            .expect("runs itself");
        let mut address = String::new();
        BufReader::new(child.stdout.take().expect("piped")).read_line(&mut address).expect("it listens");
        Self { child, address: address.trim().to_owned() }
    }

    /// Peak resident memory of the daemon, in MiB.
    fn peak_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        line.and_then(|line| line.trim().split(' ').next()?.parse::<u64>().ok()).unwrap_or(0) / 1024
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A migrated database with orgs, a priced meter, a quota slot and a key.
fn prepare(postgres: &Postgres, orgs: usize) -> String {
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    migrate::run(&mut conn).expect("migrates");
    conn.batch_execute(&format!(
        r#"INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
               SELECT 'org_' || n, 'customer-' || n, 'Customer ' || n, 'Europe/Berlin', now(), '{{}}'
               FROM generate_series(0, {orgs} - 1) n;
           INSERT INTO org_refs SELECT external_id, org_id FROM orgs;
           INSERT INTO meters VALUES (1, 'tokens', 'sum', 'tokens', now(), NULL, 'usd');
           INSERT INTO meter_versions VALUES (1, 1, 'Tokens', 'api.request', 'tokens', '{{model}}', now());
           INSERT INTO rate_cards VALUES (1, 1, 1, '2020-01-01', 'usd',
               '[{{"when":{{"model":"m-1"}},"unit_cost":"0.000003"}},
                 {{"when":{{"model":"m-2"}},"unit_cost":"0.000015"}},
                 {{"unit_cost":"0.000001"}}]', now());
           INSERT INTO quota_slots VALUES (1, 1, '{{}}', false, 'month', true, now());
           UPDATE catalog SET version = version + 1"#
    ))
    .expect("the catalogue");
    let new = NewKey {
        org_id: auth::PLATFORM,
        name: "bench".to_owned(),
        scopes: vec![Scope::UsageWrite, Scope::UsageRead, Scope::UsageBackfill],
        expires_at: None,
        requests_per_minute: None,
    };
    auth::create(&mut conn, &new, chrono::Utc::now()).expect("a key").1
}

/// How to choose the org of an event.
#[derive(Clone, Copy)]
enum Orgs {
    Even,
    /// The n-th org has a share of 1/n.
    Zipf,
}

/// Requests of `size` events each, `events` events in all.
fn requests(path: &str, key: &str, orgs: (Orgs, usize), events: usize, size: usize) -> Vec<Vec<u8>> {
    let mut draw = Draw::new(orgs);
    let now = chrono::Utc::now();
    (0..events / size)
        .map(|_| {
            let mut body = String::with_capacity(size * 200);
            for n in 0..size {
                let (org, model, tokens) = (draw.org(), draw.below(4), draw.below(4000));
                body.push(if n > 0 {
                    ','
                } else if size > 1 {
                    '['
                } else {
                    ' '
                });
                let before = i64::try_from(draw.below(60_000)).expect("small");
                let at = (now - chrono::Duration::milliseconds(before))
                    .to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                write!(
                    body,
                    concat!(
                        r#"{{"specversion":"1.0","type":"api.request","id":"{}","source":"gateway","#,
                        r#""time":"{at}","subject":"customer-{org}","#,
                        r#""data":{{"tokens":{tokens},"model":"m-{model}","path":"/v1/x"}}}}"#
                    ),
                    uuid::Uuid::now_v7(),
                    at = at,
                    org = org,
                    tokens = tokens,
                    model = model,
                )
                .expect("a String takes it");
            }
            if size > 1 {
                body.push(']');
            }
            post(path, key, &body)
        })
        .collect()
}

fn post(path: &str, key: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\nContent-Type: \
            application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into_bytes()
}

/// Pseudo-random numbers, the same in every run.
struct Draw {
    state: u64,
    /// Cumulative shares of the orgs.
    shares: Vec<f64>,
}

impl Draw {
    fn new((kind, orgs): (Orgs, usize)) -> Self {
        let share = |n: usize| match kind {
            Orgs::Even => 1.0,
            Orgs::Zipf => 1.0 / (n + 1) as f64,
        };
        let mut sum = 0.0;
        let shares = (0..orgs)
            .map(|n| {
                sum += share(n);
                sum
            })
            .collect();
        Self { state: 7, shares }
    }

    fn next(&mut self) -> u64 {
        self.state =
            self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 33
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn org(&mut self) -> usize {
        let at = self.next() as f64 / f64::from(1_u32 << 31) * self.shares.last().expect("orgs");
        self.shares.partition_point(|sum| *sum <= at).min(self.shares.len() - 1)
    }
}

async fn compare((orgs, events): (usize, usize)) {
    let postgres = Postgres::start();
    let key = prepare(&postgres, orgs);
    let server = Server::start(&postgres, &[]);
    println!("{orgs} orgs, {events} events a phase, 4 models; one priced meter and one quota slot");
    for (name, kind) in [("evenly", Orgs::Even), ("by Zipf's law", Orgs::Zipf)] {
        println!("\nOrgs drawn {name}");
        let draw = (kind, orgs);
        load(&server.address, &requests("/v1/usage", &key, draw, 50_000, 1000), 8, None).await;
        checkpoint(&postgres);
        let raw = raw_copy::rate(&postgres, events);
        println!("raw COPY, 2 connections             {raw:>9.0} rows/s");
        for (size, connections) in [(10_000, 9), (1000, CONNECTIONS_OF_1000), (100, 64)] {
            let sent = requests("/v1/usage", &key, draw, events, size);
            let taken = load(&server.address, &sent, connections, None).await;
            print(&format!("requests of {size}"), &taken, size);
            println!("  of raw COPY: {:.2}", taken.rate() * size as f64 / raw);
            checkpoint(&postgres);
        }
        singles(&postgres, &server, &key, draw, events / 4).await;
    }
    checks(&postgres, &server, &key, orgs).await;
    println!("\nDaemon's memory at its highest: {} MiB", server.peak_mib());
}

/// Compares the latency of a quota check with that of `/healthz`, at the same rate.
async fn checks(postgres: &Postgres, server: &Server, key: &str, orgs: usize) {
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    conn.batch_execute(
        "INSERT INTO quotas SELECT org_id, 'quo_' || org_id, 1, 1000000000, 'hard', false, '{}', now(), now()
         FROM orgs;
         UPDATE catalog SET version = version + 1",
    )
    .expect("quotas");
    let mut draw = Draw::new((Orgs::Even, orgs));
    let check = |_| {
        let body =
            format!(r#"{{"items":[{{"org":"customer-{}","meter":"tokens","amount":1}}]}}"#, draw.org());
        post("/v1/quota/check", key, &body)
    };
    let checks: Vec<Vec<u8>> = (0..40_000).map(check).collect();
    let health = vec![b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(); 40_000];
    println!();
    load(&server.address, &checks[..5_000], 64, None).await;
    let fastest = load(&server.address, &checks, 64, None).await;
    print("quota checks, as fast as may be", &fastest, 1);
    for share in [0.25, 0.5, 0.75] {
        let rate = fastest.rate() * share;
        // Take turns, so that a disturbance of the machine affects both.
        let (mut alive, mut asked) = (Load::default(), Load::default());
        for (health, checks) in health.chunks(SLICE).zip(checks.chunks(SLICE)) {
            alive.add(load(&server.address, health, 64, Some(rate)).await);
            asked.add(load(&server.address, checks, 64, Some(rate)).await);
        }
        print(&format!("/healthz at {rate:.0}/s"), &alive, 1);
        print("quota checks at the same rate", &asked, 1);
        println!(
            "  p99 of a check to that of /healthz: {:.2}",
            asked.quantile_ms(0.99) / alive.quantile_ms(0.99)
        );
    }
}

async fn singles(postgres: &Postgres, server: &Server, key: &str, draw: (Orgs, usize), events: usize) {
    const CONNECTIONS: usize = 256;
    let parsed =
        load(&server.address, &requests("/bench/parse", key, draw, events, 1), CONNECTIONS, None).await;
    print("single events, parsed only", &parsed, 1);
    let taken = load(&server.address, &requests("/v1/usage", key, draw, events, 1), CONNECTIONS, None).await;
    print("single events", &taken, 1);
    println!("  of parsed only: {:.2}", taken.rate() / parsed.rate());
    checkpoint(postgres);
    let unbatched = Server::start(postgres, &[("COULOMB_USAGE_BATCH", "1"), ("COULOMB_USAGE_WRITERS", "8")]);
    load(&unbatched.address, &requests("/v1/usage", key, draw, 500, 1), CONNECTIONS, None).await;
    let alone =
        load(&unbatched.address, &requests("/v1/usage", key, draw, events / 5, 1), CONNECTIONS, None).await;
    print("a transaction for each", &alone, 1);
    println!("  together they are {:.2} x as fast", taken.rate() / alone.rate());
    checkpoint(postgres);
}

/// Compares the rate of one org alone with that of 10,000 orgs together: first with batteries that may go
/// below zero, then with batteries that may not.
async fn hot(events: usize) {
    const SPREAD: usize = 10_000;
    let postgres = Postgres::start();
    let key = prepare(&postgres, SPREAD);
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    conn.batch_execute(
        r#"UPDATE rate_cards SET rates
             = '[{"when":{"model":"m-1"},"unit_cost":"0.000003","battery_units":"0.1"},
                 {"unit_cost":"0.000001","battery_units":"0.05"}]';
           INSERT INTO battery_accounts SELECT org_id, 2000000000, 0, 2, 2, now(), NULL FROM orgs;
           INSERT INTO battery_grants
           SELECT org_id, n, 'grt_' || n, 'bonus', 'b' || n, 'open', 30, now(), now(), NULL, 1000000000,
               1000000000, 0, 0, 0, NULL, NULL
               FROM orgs, generate_series(1, 2) n;
           INSERT INTO battery_entries
           SELECT org_id, n, now(), 'bonus', 1000000000, n * 1000000000, 'bonus', n, NULL, '[]', NULL, NULL,
               NULL FROM orgs, generate_series(1, 2) n;
           UPDATE catalog SET version = version + 1; ANALYZE"#,
    )
    .expect("batteries");
    let server = Server::start(&postgres, &[]);
    println!("{events} events a phase; one priced meter, one quota slot, one battery an org");
    for (name, setting) in [
        ("batteries that may be overdrawn", "DELETE FROM battery_settings"),
        ("batteries that refuse", "INSERT INTO battery_settings SELECT org_id, 0, now() FROM orgs"),
    ] {
        conn.batch_execute(&format!("{setting}; UPDATE catalog SET version = version + 1"))
            .expect("settings");
        println!("\nWith {name}");
        let spread = (Orgs::Even, SPREAD);
        load(&server.address, &requests("/v1/usage", &key, spread, 50_000, 1000), 8, None).await;
        for (size, connections) in [(1000, CONNECTIONS_OF_1000), (100, 64), (1, 256)] {
            let events = if size == 1 { events / 4 } else { events };
            checkpoint(&postgres);
            let even =
                load(&server.address, &requests("/v1/usage", &key, spread, events, size), connections, None)
                    .await;
            print(&format!("over {SPREAD} orgs, requests of {size}"), &even, size);
            checkpoint(&postgres);
            let one = (Orgs::Even, 1);
            let alone =
                load(&server.address, &requests("/v1/usage", &key, one, events, size), connections, None)
                    .await;
            print(&format!("one org, requests of {size}"), &alone, size);
            println!("  one org to {SPREAD}: {:.2}", alone.rate() / even.rate());
        }
    }
    println!("Daemon's memory at its highest: {} MiB", server.peak_mib());
}

/// Measures requests of 1,000 events and of one event: first with 1,000,000 stored rows and keys, then with
/// `rows`.
async fn filled((orgs, events): (usize, usize), rows: u64) {
    let mut before = Vec::new();
    for there in [1_000_000, rows] {
        let postgres = Postgres::start();
        let key = prepare(&postgres, orgs);
        fill(&postgres, there);
        let server = Server::start(&postgres, &[]);
        let draw = (Orgs::Even, orgs);
        load(&server.address, &requests("/v1/usage", &key, draw, 100_000, 1000), 8, None).await;
        checkpoint(&postgres);
        for (n, (size, connections)) in [(1000, CONNECTIONS_OF_1000), (1, 256)].into_iter().enumerate() {
            let sent = requests("/v1/usage", &key, draw, if size == 1 { events / 4 } else { events }, size);
            let taken = load(&server.address, &sent, connections, None).await;
            print(&format!("{there} rows, requests of {size}"), &taken, size);
            match before.get(n) {
                None => before.push(taken.rate()),
                Some(rate) => println!("  of the rate over 1000000 rows: {:.2}", taken.rate() / rate),
            }
            checkpoint(&postgres);
        }
        println!("Daemon's memory at its highest: {} MiB", server.peak_mib());
    }
}

/// Inserts rows, keys, summaries and counters, spread over the orgs and the running month; then builds
/// indexes.
fn fill(postgres: &Postgres, rows: u64) {
    let started = Instant::now();
    let month = chrono::Utc::now().format("%Y_%m");
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    conn.batch_execute(&format!(
        "CREATE TABLE usage_partitions.usage_records_{month} (LIKE usage_records INCLUDING DEFAULTS
             INCLUDING CONSTRAINTS);
         ALTER TABLE usage_keys DROP CONSTRAINT usage_keys_pkey"
    ))
    .expect("tables");
    let half = |n: u64| {
        let (url, month) = (postgres.url.clone(), month.to_string());
        std::thread::spawn(move || {
            let numbers = format!(
                "SELECT n, 1 + n % (SELECT count(*) FROM orgs) AS org_id,
                     n / (SELECT count(*) FROM orgs) % 4 AS model, md5(n::text)::uuid AS key,
                     date_trunc('month', now()) + (now() - date_trunc('month', now()))
                         * (n::float8 / {rows}) AS at
                 FROM generate_series({} , {} - 1) n",
                rows / 2 * n,
                rows / 2 * (n + 1)
            );
            let mut conn = db::connect_as_login(&url).expect("connects");
            conn.batch_execute(&format!(
                "SET synchronous_commit = off;
                 INSERT INTO usage_partitions.usage_records_{month}
                 SELECT org_id, org_id * 10 + model, at, at, key, 1, 1, at::date, NULL, 0, n % 4000, 0.001,
                     1, 'e' || n, 'g', NULL, NULL, false, NULL
                     FROM ({numbers}) n;
                 INSERT INTO usage_keys SELECT org_id, key, at, n FROM ({numbers}) n"
            ))
            .expect("fills");
        })
    };
    [half(0), half(1)].into_iter().for_each(|half| half.join().expect("fills"));
    conn.batch_execute(&format!(
        "SET maintenance_work_mem = '1GB'; SET synchronous_commit = off;
         ALTER TABLE usage_keys ADD PRIMARY KEY (org_id, event_key);
         CREATE INDEX ON usage_partitions.usage_records_{month} (org_id, occurred_at, event_key);
         ALTER TABLE usage_records ATTACH PARTITION usage_partitions.usage_records_{month}
             FOR VALUES FROM ('{first}') TO ('{next}');
         GRANT SELECT, INSERT ON usage_partitions.usage_records_{month} TO coulomb_platform;
         INSERT INTO usage_series
         SELECT org_id, org_id * 10 + model, 1, NULL, jsonb_build_object('model', 'f-' || model)
         FROM orgs, generate_series(0, 3) model;
         INSERT INTO daily_summaries
         SELECT org_id, series_id, day, sum(quantity), count(*), sum(cost), sum(battery_units), NULL
         FROM usage_records GROUP BY 1, 2, 3;
         INSERT INTO quota_counters SELECT org_id, 1, '', date_trunc('month', day)::date, sum(quantity), 0
         FROM daily_summaries GROUP BY 1, 4;
         ANALYZE; CHECKPOINT",
        first = chrono::Utc::now().format("%Y-%m-01T00:00:00Z"),
        next = chrono::Utc::now()
            .date_naive()
            .checked_add_months(chrono::Months::new(1))
            .expect("a month")
            .format("%Y-%m-01T00:00:00Z"),
    ))
    .expect("indexes");
    println!("{rows} rows and keys after {:.0} s", started.elapsed().as_secs_f64());
}

fn checkpoint(postgres: &Postgres) {
    db::connect_as_login(&postgres.url).expect("connects").batch_execute("CHECKPOINT").expect("a checkpoint");
}

fn print(name: &str, load: &Load, size: usize) {
    println!(
        "{name:<35} {:>9.0} events/s  p50 {:>7.2} ms  p99 {:>7.2} ms{}",
        load.rate() * size as f64,
        load.quantile_ms(0.5),
        load.quantile_ms(0.99),
        if load.bad > 0 { format!("  {} REFUSED", load.bad) } else { String::new() }
    );
}
