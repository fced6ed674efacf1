//! Measures `coulomb verify` over many usage records, a fifth of them at one instant.
//!
//! The baseline is one query of PostgreSQL that sums one column of the same records. Memory is the largest
//! private memory of the command and of one process of the server. `cargo bench --bench verify` uses a
//! million records of 500 orgs; `-- --records N` and `--orgs N` set other numbers. Ten million records need
//! about 5 GB in the temporary directory.

#[path = "support/mod.rs"]
mod support;

use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use coulomb::db::{self, migrate};
use diesel::connection::SimpleConnection;
use support::Postgres;

/// Inserts the records and the tables derived from them.
const RECORDS: &str = include_str!("verify/records.sql");
/// Time between two measurements of memory.
const MEMORY_CHECK: Duration = Duration::from_millis(200);

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, otherwise: u64| {
        let at = args.iter().position(|arg| arg == name);
        at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(otherwise)
    };
    let (records, orgs) = (number("--records", 1_000_000), number("--orgs", 500));
    let postgres = Postgres::start();
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    migrate::run(&mut conn).expect("migrates");
    let sql = RECORDS.replace(":records", &records.to_string()).replace(":orgs", &orgs.to_string());
    // Commit each statement: one long transaction would prevent vacuum.
    for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
        conn.batch_execute(statement).expect("the records");
    }
    conn.batch_execute("VACUUM ANALYZE").expect("statistics");
    conn.batch_execute("CHECKPOINT").expect("a checkpoint");
    println!("{records} records of {orgs} orgs, a fifth of them in one instant");
    for _ in 0..2 {
        let started = Instant::now();
        conn.batch_execute("SELECT sum(quantity) FROM usage_records").expect("a pass");
        let pass = records as f64 / started.elapsed().as_secs_f64();
        let (checked, command, server) = verify(&postgres);
        let rate = records as f64 / checked.as_secs_f64();
        println!("one sum                            {pass:>9.0} records/s");
        println!("verify                             {rate:>9.0} records/s, {:.3} of one sum", rate / pass);
        println!("  memory at its highest: command {command} MiB, a process of the server {server} MiB");
    }
}

/// The duration, and the largest memory in MiB of the command and of one process of the server.
fn verify(postgres: &Postgres) -> (Duration, u64, u64) {
    let started = Instant::now();
    let mut command = Command::new(env!("CARGO_BIN_EXE_coulomb"))
        .arg("verify")
        .env("DATABASE_URL", &postgres.url)
        .env("COULOMB_LOG", "error")
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the coulomb binary runs");
    let (mut own, mut servers) = (0, 0);
    let status = loop {
        if let Some(status) = command.try_wait().expect("a child") {
            break status;
        }
        own = own.max(kib(&command.id().to_string(), "VmHWM:"));
        for pid in servers_of(postgres) {
            servers = servers.max(kib(&pid, "RssAnon:"));
        }
        std::thread::sleep(MEMORY_CHECK);
    };
    assert!(status.success(), "verify found differences, or failed: {status}");
    (started.elapsed(), own / 1024, servers / 1024)
}

/// The server's processes that serve a client.
fn servers_of(postgres: &Postgres) -> Vec<String> {
    #[derive(diesel::QueryableByName)]
    struct Pid {
        #[diesel(sql_type = diesel::sql_types::Text)]
        pid: String,
    }
    use diesel::RunQueryDsl;
    let Ok(mut conn) = db::connect_as_login(&postgres.url) else { return Vec::new() };
    let pids =
        diesel::sql_query("SELECT pid::text AS pid FROM pg_stat_activity WHERE pid <> pg_backend_pid()");
    pids.load::<Pid>(&mut conn).unwrap_or_default().into_iter().map(|row| row.pid).collect()
}

/// A value of `/proc/PID/status`, in KiB; 0 if the system does not show it.
fn kib(pid: &str, line: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let value = status.lines().find_map(|text| text.strip_prefix(line));
    value.and_then(|value| value.trim().split(' ').next()?.parse().ok()).unwrap_or(0)
}
