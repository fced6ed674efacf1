//! Measures how many invoices of 20 lines a daemon drafts and finalises in a second, from usage records.
//!
//! The baseline is a durable transaction with one row, on the same server. `cargo bench --bench invoices`
//! makes 10,000 invoices; `-- --invoices N` sets another number.

#[path = "support/mod.rs"]
mod support;

use std::time::Instant;

use coulomb::billing::directory::Directory;
use coulomb::db::{self, migrate};
use coulomb::invoicing::run;
use coulomb::time::Clock;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use support::Postgres;

const USAGE: &str = include_str!("invoices/usage.sql");
/// Transactions of the baseline.
const BASELINE: u32 = 2000;

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let at = args.iter().position(|arg| arg == "--invoices");
    let invoices: u32 = at.and_then(|at| args.get(at + 1)?.parse().ok()).unwrap_or(10_000);
    let postgres = Postgres::start();
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    migrate::run(&mut conn).expect("migrates");
    let sql = USAGE.replace(":orgs", &invoices.to_string());
    for statement in sql.split(";\n").filter(|statement| !statement.trim().is_empty()) {
        conn.batch_execute(statement).expect("the usage");
    }
    conn.batch_execute("VACUUM ANALYZE").expect("statistics");
    println!("{invoices} orgs, usage of 19 meters each, 5 records a meter");
    let commits = baseline(&mut conn);
    println!("transactions of one row            {commits:>9.0} /s");

    let clock = Clock::system();
    let directory = Directory::new(clock.clone(), 7);
    let rate = |what: &str, started: Instant| {
        let rate = f64::from(invoices) / started.elapsed().as_secs_f64();
        println!("{what:<35}{rate:>9.0} /s, {:.3} of one row", rate / commits);
    };
    let started = Instant::now();
    let mut after = 0;
    while run::make_drafts(&mut conn, &directory, &mut after, clock.now()).expect("drafts") {}
    rate("invoices drafted", started);
    let started = Instant::now();
    while run::finalise_due(&mut conn, &directory, clock.now()).expect("finalised") {}
    rate("invoices finalised", started);
    conn.batch_execute(&format!(
        "DO $$ BEGIN IF (SELECT count(*) FROM own_invoices WHERE status = 'open') <> {invoices}
            OR (SELECT count(*) FROM own_invoice_lines) <> {invoices} * 20 THEN
            RAISE EXCEPTION 'not every invoice is finalised with 20 lines'; END IF; END $$"
    ))
    .expect("all are finalised");
}

/// Durable transactions of one row in a second.
fn baseline(conn: &mut PgConnection) -> f64 {
    conn.batch_execute("CREATE TABLE one_row (n bigint)").expect("a table");
    let started = Instant::now();
    for n in 0..BASELINE {
        conn.batch_execute(&format!("INSERT INTO one_row VALUES ({n})")).expect("a row");
    }
    f64::from(BASELINE) / started.elapsed().as_secs_f64()
}
