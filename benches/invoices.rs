//! Measures how many invoices of 20 lines a daemon drafts and finalises in a second, from usage records.
//!
//! The baseline is a durable transaction with one row, on the same server. Then it says where the time goes:
//! the statements that take most of it, each with how often an invoice executes it, and what is left for the
//! daemon itself. `cargo bench --bench invoices` makes 10,000 invoices; `-- --invoices N` sets another
//! number.

#[path = "support/mod.rs"]
mod support;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use coulomb::billing::directory::Directory;
use coulomb::db::{self, migrate};
use coulomb::invoicing::run;
use coulomb::time::Clock;
use diesel::connection::{Connection, InstrumentationEvent, SimpleConnection};
use diesel::pg::PgConnection;
use support::Postgres;

const USAGE: &str = include_str!("invoices/usage.sql");
/// Transactions of the baseline.
const BASELINE: u32 = 2000;
/// Statements that are named.
const NAMED: usize = 12;

/// How often statements were executed, and how long that took, by the beginning of their text.
#[derive(Clone, Default)]
struct Statements(Arc<Mutex<HashMap<String, (u32, Duration)>>>);

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
    let statements = Statements::default();
    statements.watch(&mut conn);
    let rate = |what: &str, started: Instant| {
        let elapsed = started.elapsed();
        let rate = f64::from(invoices) / elapsed.as_secs_f64();
        println!("{what:<35}{rate:>9.0} /s, {:.3} of one row", rate / commits);
        statements.tell(invoices, elapsed);
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

impl Statements {
    fn watch(&self, conn: &mut PgConnection) {
        let (statements, mut running) = (self.clone(), None);
        conn.set_instrumentation(move |event: InstrumentationEvent<'_>| match event {
            InstrumentationEvent::StartQuery { .. } => running = Some(Instant::now()),
            InstrumentationEvent::FinishQuery { query, .. } => {
                let Some(started) = running.take() else { return };
                let text = query.to_string();
                let text = text.split(" -- binds").next().unwrap_or_default();
                let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
                let mut statements = statements.0.lock().unwrap_or_else(PoisonError::into_inner);
                let statement = statements.entry(text.chars().take(80).collect()).or_default();
                statement.0 += 1;
                statement.1 += started.elapsed();
            }
            _ => {}
        });
    }

    /// Prints the statements that took most of the time, and forgets all.
    fn tell(&self, invoices: u32, elapsed: Duration) {
        let all = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let waited: Duration = all.values().map(|(_, took)| *took).sum();
        let share = |took: Duration| 100.0 * took.as_secs_f64() / elapsed.as_secs_f64();
        let executed: u32 = all.values().map(|(count, _)| count).sum();
        println!(
            "  {:.1} statements an invoice, {:.0} % of the time; the daemon itself: {:.0} %",
            f64::from(executed) / f64::from(invoices),
            share(waited),
            100.0 - share(waited)
        );
        let mut all: Vec<_> = all.into_iter().collect();
        all.sort_by_key(|(_, (_, took))| std::cmp::Reverse(*took));
        for (text, (count, took)) in all.into_iter().take(NAMED) {
            println!("  {:>5.1} % {:>5.2} x {text}", share(took), f64::from(count) / f64::from(invoices));
        }
    }
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
