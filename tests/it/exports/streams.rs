//! Long downloads: how they continue, how they break off, which connections they use.

use std::time::{Duration, Instant};

use reqwest::Method;

use super::{books, bytes, download};
use crate::support::{Daemon, Database};

/// About 60 MB of invoices, more than the sockets and channels buffer.
pub(super) fn heavy_books() -> Database {
    let mut database = Database::new();
    database.realms = ("live", "");
    database.execute(
        "INSERT INTO invoices (account, livemode, id, currency, total, lines_complete, created, deleted,
             description)
         SELECT '', true, 'in_' || n, 'eur', n, true, '2026-01-01'::timestamptz + n * interval '1 second',
             false, repeat('text ', 3000)
         FROM generate_series(1, 4000) n",
    );
    database
}

const RUNNING: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE '%coulomb_export%' AND pid <> pg_backend_pid()";

pub(super) async fn until(what: &str, holds: impl Fn() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < Duration::from_secs(120), "not within two minutes: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_download_goes_on_where_it_broke_off() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for (of, columns) in [
        ("invoices", &["id"][..]),
        ("lines", &["invoice_id", "line_number"]),
        ("payments", &["id"]),
        ("refunds", &["id"]),
        ("credit_notes", &["id"]),
        ("credit_note_lines", &["credit_note_id", "line_number"]),
        ("disputes", &["id"]),
    ] {
        let whole = bytes(&daemon, &key, &format!("of={of}&format=jsonl")).await;
        let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
        for cut in [1, 2, 3, lines.len() / 2, lines.len() - 12, lines.len() - 1, lines.len()] {
            let last: serde_json::Value = serde_json::from_slice(lines[cut - 1]).expect("JSON");
            let after: Vec<String> =
                columns.iter().map(|name| last[name].to_string().trim_matches('"').to_owned()).collect();
            let after = after.join("/");
            let query = format!("of={of}&format=jsonl&after={after}");
            let rest = download(&daemon, &key, &query).await;
            let told = rest.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
            assert!(told.contains(&format!("\"rows\":{},", lines.len() - cut)), "{query}: {told}");
            let rest = rest.bytes().await.expect("a body");
            assert_eq!([&lines[..cut].concat(), &*rest].concat(), whole, "{query}");
        }
    }
    let whole = bytes(&daemon, &key, "status=paid").await;
    let start = csv_until_row(&whole, 50);
    let id = super::rows(&whole)[49]["id"].clone();
    let rest = bytes(&daemon, &key, &format!("status=paid&header=false&after={id}")).await;
    assert_eq!([&whole[..start], &rest].concat(), whole);
}

/// The length of the header and the first `rows` rows; a row ends at a CRLF outside quotes.
fn csv_until_row(csv: &[u8], rows: usize) -> usize {
    let mut quoted = false;
    let ends = csv.iter().enumerate().filter(|(at, byte)| {
        quoted ^= **byte == b'"';
        !quoted && csv[..=*at].ends_with(b"\r\n")
    });
    ends.map(|(at, _)| at + 1).nth(rows).expect("so many rows")
}

#[tokio::test]
async fn the_same_id_in_two_modes_needs_to_be_told_apart() {
    let database = books();
    database.execute(
        "INSERT INTO refunds (account, livemode, id, source, created)
        VALUES ('', true, 're_1', 'refund', '2025-01-01'), ('', false, 're_1', 'refund', '2025-01-01')",
    );
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let (status, problem) = daemon.get("/v1/invoices/export?realms=all&of=refunds&after=re_1", &key).await;
    assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some("after")));
    assert!(!bytes(&daemon, &key, "of=refunds&after=re_1&livemode=true").await.is_empty());
}

#[tokio::test]
async fn exports_beyond_the_limit_wait_their_turn_and_a_lost_client_frees_its_place() {
    let database = heavy_books();
    let daemon = Daemon::with(&database, &[("COULOMB_EXPORTS", "1")]);
    let key = database.key("billing:read", None);
    let mut running = download(&daemon, &key, "").await;
    assert!(running.chunk().await.expect("a part").is_some());
    let refused = daemon.request(Method::GET, "/v1/invoices/export", &key).send().await.expect("an answer");
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(daemon.get("/v1/invoices/export/totals", &key).await.0, 503);
    assert_eq!(database.number(RUNNING), 1);
    drop(running);
    until("the query of a client that left ends", || database.number(RUNNING) == 0).await;
    assert_eq!(download(&daemon, &key, "").await.bytes().await.expect("a whole body").len() / 1_000_000, 60);
}

#[tokio::test]
async fn an_export_that_loses_its_database_does_not_end_as_if_it_were_whole() {
    let database = heavy_books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for query in ["format=csv", "format=jsonl", "format=parquet"] {
        let mut response = download(&daemon, &key, query).await;
        assert!(response.chunk().await.expect("a part").is_some());
        database.execute(&RUNNING.replace("count(*)", "pg_terminate_backend(pid)"));
        let end = loop {
            match response.chunk().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        };
        assert!(end.is_err(), "{query} ended like a complete file");
    }
}

#[tokio::test]
async fn an_export_sees_one_moment() {
    let database = heavy_books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let mut response = download(&daemon, &key, "format=jsonl").await;
    let mut body = response.chunk().await.expect("a part").expect("a part").to_vec();
    database.execute("UPDATE invoices SET total = 0; DELETE FROM invoices WHERE id = 'in_3999'");
    while let Some(part) = response.chunk().await.expect("a whole body") {
        body.extend_from_slice(&part);
    }
    let sum: i64 = body
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
        .map(|line| {
            serde_json::from_slice::<serde_json::Value>(line).expect("JSON")["total"]
                .as_i64()
                .expect("a total")
        })
        .sum();
    assert_eq!(sum, 4000 * 4001 / 2);
}
