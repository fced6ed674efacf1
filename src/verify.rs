//! Promise kept: everything derived can be rebuilt. The whole inbox is projected again into a shadow of the mirrors, by the very
//! code that projects it live, and shadow and mirrors are compared row by row.
//!
//! The shadow is made of temporary tables of the same names: they come first in the search path of this one connection.
//!
//! The books of usage are compared with its records by [`usage`].

pub mod usage;

use chrono::Utc;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Text};

use crate::config::Config;
use crate::error::Error;
use crate::stripe::project;

/// Tables that the projection writes.
pub const DERIVED: &[&str] = &[
    "charges",
    "checkout_sessions",
    "coupons",
    "credit_note_lines",
    "credit_notes",
    "customer_tax_ids",
    "customers",
    "discounts",
    "disputes",
    "invoice_lines",
    "invoice_payments",
    "invoices",
    "payment_intents",
    "payments",
    "prices",
    "products",
    "promotion_codes",
    "refunds",
    "stripe_objects",
    "subscription_items",
    "subscription_prices",
    "subscriptions",
    "tax_rates",
];
/// Differences told per table, at most.
const TOLD: i64 = 20;

/// What the comparison found.
#[derive(Debug)]
pub struct Report {
    /// Stripe events replayed.
    pub events: u64,
    /// Rows compared.
    pub rows: i64,
    /// One line each: table, on which side, the row.
    pub differences: Vec<String>,
}

#[derive(QueryableByName)]
struct Count {
    #[diesel(sql_type = BigInt)]
    count: i64,
}

#[derive(QueryableByName)]
struct Difference {
    #[diesel(sql_type = Text)]
    side: String,
    #[diesel(sql_type = Text)]
    row: String,
}

/// Replays and compares. Events that are quarantined or still wait are left out on both sides; run it while nothing waits for an
/// exact answer.
///
/// # Errors
/// When the database fails, or the replay itself does.
pub fn run(conn: &mut PgConnection, config: &Config) -> Result<Report, Error> {
    shadow(conn)?;
    let options = project::Options {
        batch: config.projection_batch,
        attempts: 1,
        // Orgs made for customers are there already; making them again would change what is compared.
        org_per_customer: false,
    };
    let mut events = 0;
    loop {
        let step = project::step(conn, &options, Utc::now())?;
        events += step.taken();
        if step.taken() == 0 {
            break;
        }
    }
    let mut report = Report { events, rows: 0, differences: Vec::new() };
    for table in DERIVED {
        compare(conn, table, "*", "true", &mut report)?;
    }
    // What the API linked is an input, the rest of a link is derived. Of a link that only the API made
    // nothing is.
    let derived = "account, livemode, customer_id, metadata_ref, session_ref, session_key";
    let meant = "coalesce(metadata_ref, session_ref, session_key) IS NOT NULL";
    compare(conn, "stripe_customer_links", derived, meant, &mut report)?;
    Ok(report)
}

fn shadow(conn: &mut PgConnection) -> Result<(), Error> {
    for table in DERIVED.iter().chain(&[
        "stripe_arrivals",
        "stripe_inbox_queue",
        "stripe_customer_links",
        "battery_effects_queue",
    ]) {
        conn.batch_execute(&format!("CREATE TEMPORARY TABLE {table} (LIKE public.{table} INCLUDING ALL)"))?;
    }
    conn.batch_execute(
        "INSERT INTO pg_temp.stripe_inbox_queue (inbox_id) SELECT inbox_id FROM stripe_inbox i
         WHERE NOT EXISTS (SELECT FROM public.stripe_inbox_queue q WHERE q.inbox_id = i.inbox_id);
         ANALYZE pg_temp.stripe_inbox_queue",
    )?;
    Ok(())
}

/// Compares these columns of the rows that `meant` is true of.
fn compare(
    conn: &mut PgConnection,
    table: &str,
    columns: &str,
    meant: &str,
    report: &mut Report,
) -> Result<(), Error> {
    let (stored, rebuilt) = (
        format!("SELECT {columns} FROM public.{table} WHERE {meant}"),
        format!("SELECT {columns} FROM pg_temp.{table} WHERE {meant}"),
    );
    let count: Count =
        diesel::sql_query(format!("SELECT count(*) AS count FROM public.{table}")).get_result(conn)?;
    report.rows += count.count;
    let rows: Vec<Difference> = diesel::sql_query(format!(
        "(SELECT 'stored' AS side, to_jsonb(t)::text AS row FROM ({stored} EXCEPT {rebuilt}) t LIMIT {TOLD})
         UNION ALL
         (SELECT 'rebuilt', to_jsonb(t)::text FROM ({rebuilt} EXCEPT {stored}) t LIMIT {TOLD})
         ORDER BY 1, 2"
    ))
    .load(conn)?;
    report.differences.extend(rows.into_iter().map(|row| format!("{table}: only {}: {}", row.side, row.row)));
    Ok(())
}

/// Stripe events in the inbox.
///
/// # Errors
/// When the database fails.
pub fn stored_events(conn: &mut PgConnection) -> Result<i64, Error> {
    let count: Count = diesel::sql_query("SELECT count(*) AS count FROM stripe_inbox").get_result(conn)?;
    Ok(count.count)
}

/// Empties the mirrors and puts every stored event back on the queue, in one transaction; returns how many.
///
/// # Errors
/// When the database fails; nothing has changed then.
pub fn rebuild(conn: &mut PgConnection) -> Result<usize, Error> {
    conn.transaction(|conn| {
        for table in DERIVED {
            conn.batch_execute(&format!("DELETE FROM {table}"))?;
        }
        project::requeue_everything(conn)
    })
}
