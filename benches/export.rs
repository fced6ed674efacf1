//! Compares an export with `psql \copy` of the same query, and measures how much memory the daemon needs for
//! it.
//!
//! One daemon, its PostgreSQL and the client share the machine. Run it with `cargo bench --bench export`;
//! `-- 100000` sets the number of invoices. Needs `psql` in the PATH.

#[path = "support/mod.rs"]
mod support;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use coulomb::billing::exports::Kind;
use support::Postgres;

const ROUNDS: usize = 3;

fn main() {
    let rows = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(1_000_000);
    let postgres = Postgres::start();
    coulomb(&postgres.url, &["migrate"]);
    fill(&postgres.url, rows);
    let key = coulomb(&postgres.url, &["key", "create", "--scopes", "billing:read"]).trim().to_owned();
    let daemon = Daemon::start(&postgres.url);
    let dir = tempfile::tempdir().expect("a directory");
    println!("{rows} invoices, {ROUNDS} rounds, medians");

    let file = dir.path().join("copied.csv");
    let (mut copies, mut exports) = (Vec::new(), Vec::new());
    let mut growth = 0;
    for _ in 0..ROUNDS {
        copies.push(psql(&postgres.url, &same_query(), &file));
        let (elapsed, grown) = daemon.export(&key, "csv", &dir.path().join("export.csv"));
        exports.push(elapsed);
        growth = growth.max(grown);
    }
    let copied = median(&mut copies);
    print_line("psql \\copy … csv", copied, copied, &file, None);
    print_line("csv", median(&mut exports), copied, &dir.path().join("export.csv"), Some(growth));
    for format in ["jsonl", "parquet", "xlsx"] {
        let file = dir.path().join(format);
        let (elapsed, grown) = daemon.export(&key, format, &file);
        print_line(format, elapsed, copied, &file, Some(grown));
    }
}

fn print_line(what: &str, elapsed: Duration, copied: Duration, file: &Path, growth: Option<u64>) {
    let ratio = elapsed.as_secs_f64() / copied.as_secs_f64();
    let megabytes = file.metadata().expect("a file").len() / 1_000_000;
    let growth = growth
        .map_or_else(String::new, |bytes| format!(", daemon grew {:.1} MiB", bytes as f64 / 1_048_576.0));
    println!("{what:>16}: {:6.2} s, {ratio:.2} × psql, {megabytes} MB{growth}", elapsed.as_secs_f64());
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn coulomb(url: &str, args: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_coulomb"))
        .args(args)
        .env("DATABASE_URL", url)
        .output()
        .expect("it runs");
    assert!(output.status.success(), "coulomb {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

fn psql(url: &str, query: &str, file: &Path) -> Duration {
    let started = Instant::now();
    let copy = format!("\\copy ({query}) to '{}' csv header", file.display());
    let status = Command::new("psql").args(["-q", "-X", "-d", url, "-c", &copy]).status().expect("psql runs");
    assert!(status.success());
    started.elapsed()
}

/// The export's columns from the same tables in the same order. Amounts are in minor units, as stored.
fn same_query() -> String {
    let kind = Kind::Invoices;
    let columns: Vec<String> =
        kind.columns().iter().map(|column| format!("{} AS {}", column.sql, column.name)).collect();
    let query = format!(
        "SELECT {} FROM {} WHERE NOT d.deleted ORDER BY {}",
        columns.join(", "),
        kind.definition().from,
        kind.definition().order
    );
    query.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Inserts typical invoices of subscriptions, of 20,000 customers with one org each.
fn fill(url: &str, rows: u32) {
    let sql = format!(
        "INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
           SELECT 'org_' || md5(n::text), 'tenant-' || n, 'Org ' || n, 'UTC', '2024-01-01', '{{}}'
           FROM generate_series(0, 19999) n;
         INSERT INTO org_refs SELECT external_id, org_id FROM orgs;
         INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
           SELECT '', true, 'cus_' || n, 'tenant-' || n FROM generate_series(0, 19999) n;
         INSERT INTO invoices (account, livemode, id, customer_id, subscription_id, number, status,
             billing_reason, collection_method, currency,
             subtotal, discount_total, tax_total, total, amount_due, amount_paid, amount_remaining,
                 starting_balance, ending_balance,
             period_start, period_end, finalized_at, paid_at, payment_intent_id, hosted_invoice_url,
                 invoice_pdf, customer_name,
             customer_email, lines_complete, created, deleted, metadata)
           SELECT '', true, 'in_1' || substr(md5(n::text), 1,
               23), 'cus_' || n % 20000, 'sub_1' || substr(md5((n % 20000)::text), 1, 23),
             'ACME-' || lpad(n::text, 8, '0'), CASE WHEN n % 10 = 0 THEN 'open' ELSE 'paid'
                 END, 'subscription_cycle', 'charge_automatically',
             (ARRAY['eur', 'usd', 'jpy'])[1 + n % 3], a, 0, a / 5, a + a / 5, a + a / 5, CASE WHEN n % 10 = 0
                 THEN 0 ELSE a + a / 5 END,
             CASE WHEN n % 10 = 0 THEN a + a / 5 ELSE 0
                 END, 0, 0, t - interval '1 month', t, t + interval '1 hour',
             CASE WHEN n % 10 <> 0 THEN t + interval '1 hour 5 seconds'
                 END, 'pi_3' || substr(md5(n::text), 5, 23),
             'https://invoice.stripe.com/i/acct_1/live_' ||
                 md5(n::text), 'https://pay.stripe.com/invoice/acct_1/live_' || md5(n::text) || '/pdf',
             'Customer, Inc. ' || n % 20000, 'billing' || n % 20000 || '@example.com', true, t,
                 false, '{{\"order_id\": \"12345\"}}'
           FROM generate_series(1, {rows}) n,
               LATERAL (SELECT n * 37 % 100000 AS a, '2024-01-01'::timestamptz + n * interval '1 minute' AS
               t) v;
         ANALYZE"
    );
    let started = Instant::now();
    let mut command = Command::new("psql")
        .args(["-q", "-X", "-d", url, "-f", "-"])
        .stdin(Stdio::piped())
        .spawn()
        .expect("psql runs");
    command.stdin.take().expect("piped").write_all(sql.as_bytes()).expect("psql reads");
    assert!(command.wait().expect("psql ends").success());
    println!("filled in {:.0} s", started.elapsed().as_secs_f64());
}

struct Daemon {
    child: Child,
    base: String,
    runtime: tokio::runtime::Runtime,
}

impl Daemon {
    fn start(url: &str) -> Self {
        let mut child = Command::new(env!("CARGO_BIN_EXE_coulomb"))
            .arg("serve")
            .envs([("DATABASE_URL", url), ("COULOMB_LISTEN", "127.0.0.1:0"), ("COULOMB_LOG", "warn")])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the coulomb binary runs");
        let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        let base = lines
            .find_map(|line| {
                line.ok()?.strip_prefix("Coulomb listens on ")?.split(' ').next().map(str::to_owned)
            })
            .expect("the daemon listens");
        std::thread::spawn(move || lines.for_each(drop));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        Self { child, base, runtime }
    }

    /// Downloads an export to `file`. Returns the duration, and by how many bytes the daemon's memory grew.
    fn export(&self, key: &str, format: &str, file: &Path) -> (Duration, u64) {
        let proc = Path::new("/proc").join(self.child.id().to_string());
        // Linux: sets the peak to the present memory.
        std::fs::write(proc.join("clear_refs"), "5").expect("resets the peak");
        let before = resident(&proc, "VmRSS:");
        let started = Instant::now();
        self.runtime.block_on(async {
            let url = format!("{}/v1/invoices/export?format={format}", self.base);
            let mut response =
                reqwest::Client::new().get(url).bearer_auth(key).send().await.expect("an answer");
            assert_eq!(response.status(), 200);
            let mut out = BufWriter::with_capacity(1 << 20, File::create(file).expect("a file"));
            while let Some(part) = response.chunk().await.expect("a whole body") {
                out.write_all(&part).expect("writes");
            }
            out.flush().expect("writes");
        });
        (started.elapsed(), resident(&proc, "VmHWM:").saturating_sub(before))
    }
}

/// A value of `/proc/PID/status`, in bytes.
fn resident(proc: &Path, line: &str) -> u64 {
    let status = std::fs::read_to_string(proc.join("status")).expect("readable");
    let value = status.lines().find_map(|text| text.strip_prefix(line)).expect("the line");
    value.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
