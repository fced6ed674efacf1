//! Exports: every format has what the database has, twice the same, only for its owner, and never a part as
//! if it were whole.

mod audit;
mod breakdown;
mod filters;
mod formats;
mod kinds;
mod origins;
mod realms;
mod returns;
mod streams;
mod usage;
mod workbooks;

use coulomb::billing::exports::Kind;
use reqwest::{Method, Response};
use serde_json::Value;

use crate::support::{Daemon, Database};

/// Two orgs with a customer each, and a customer without an org. Documents of all kinds: equal and missing
/// `created`, several currencies, accounts and modes, text that needs escaping.
const BOOKS: &str = r#"
INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata) VALUES
    ('org_a', '=acme', 'Acme', 'UTC', '2026-01-01', '{}'), ('org_b', NULL, 'Bolt', 'UTC', '2026-01-01', '{}');
INSERT INTO org_refs (ref, org_id)
SELECT public_id, org_id FROM orgs;
INSERT INTO stripe_customer_links (account, livemode, customer_id, api_ref)
VALUES ('', true, 'cus_a', 'org_a'), ('', true, 'cus_b', 'org_b');
INSERT INTO invoices (account, livemode, id, customer_id, number, status, currency, subtotal, discount_total,
    tax_total, total, amount_due,
    amount_paid, amount_remaining, finalized_at, paid_at, customer_name, description, lines_complete,
        created, deleted, metadata)
SELECT CASE WHEN n % 50 = 0 THEN 'acct_1' ELSE ''
    END, n % 40 <> 0, 'in_' || lpad((n * 7919 % 1000)::text, 4, '0'),
    (ARRAY['cus_a', 'cus_b', 'cus_c'])[1 + n % 3], 'N-' || n,
        (ARRAY['paid', 'open', 'draft', 'void', 'uncollectible'])[1 + n % 5],
    (ARRAY['eur', 'usd', 'jpy', 'kwd'])[1 + n % 4], n * 100, 0, n * 19, n * 119, n * 119, CASE WHEN n % 5 = 0
        THEN n * 119 ELSE 0 END,
    CASE WHEN n % 5 = 0 THEN 0 ELSE n * 119 END, CASE WHEN n % 5 <> 2
        THEN '2026-01-01'::timestamptz + n / 10 * interval '1 day' END,
    CASE WHEN n % 5 = 0 THEN '2026-01-02'::timestamptz + n / 10 * interval '1 day' END,
    (ARRAY['=1+1', '  @SUM(A1)', 'Müller, "Söhne"', 'plain', E'two\r\nlines'])[1 + n % 5], CASE
        WHEN n % 7 = 0 THEN '' WHEN n % 7 = 1 THEN E'\t-x' END,
    true, CASE WHEN n % 100 <> 99 THEN '2026-01-01'::timestamptz + n / 10 * interval '1 day'
        END, n % 333 = 1, jsonb_build_object('n', n::text)
FROM generate_series(0, 999) n;
INSERT INTO invoice_lines (account, livemode, invoice_id, line_number, id, type, amount, currency, quantity,
    description, unit_amount_decimal, proration, tax_amount)
SELECT account, livemode, id, line, 'il_' || line, 'subscription', (total - tax_total) / 2, currency,
    2, '+line', 0.125, line = 1, tax_total / 2
FROM invoices, generate_series(0, 1) line;
INSERT INTO payments (account, livemode, id, customer_id, invoice_id, payment_intent_id, status, amount,
    amount_received, amount_refunded, currency, disputed, created, paid_at)
SELECT account, livemode, 'pi_' || id, customer_id, id, 'pi_' || id, 'succeeded', total, total, total / 2,
    currency, false, created, paid_at FROM invoices WHERE status = 'paid';
INSERT INTO refunds (account, livemode, id, source, payment_intent_id, amount, currency, status, reason,
    created)
SELECT account, livemode, 're_' || id, 'refund', id, amount_refunded, currency, 'succeeded', '-duplicate',
    created FROM payments;
INSERT INTO customers (account, livemode, id, name, email, currency, balance, tax_exempt, country, address,
    created, deleted, metadata)
SELECT CASE WHEN n = 4 THEN 'acct_1' ELSE '' END, n <> 3, 'cus_' || substr('abcaxz', n, 1), '=Customer ' || n,
    n || '@example.org', (ARRAY['eur', 'usd', 'jpy', 'kwd', NULL, 'eur'])[n], -100 * n,
    (ARRAY['none', 'exempt', 'reverse'])[1 + n % 3], 'DE', '{"city": "Köln", "country": "DE"}',
    CASE WHEN n <> 5 THEN '2026-01-01'::timestamptz + n * interval '1 day' END, n = 6, '{}'
FROM generate_series(1, 6) n;
INSERT INTO customer_tax_ids (account, livemode, id, customer_id, type, value, country, verification_status,
    created, deleted)
SELECT '', true, 'txi_' || n, 'cus_a', 'eu_vat', 'DE' || n, 'DE', 'verified', '2026-01-01', n = 2
FROM generate_series(1, 3) n;
INSERT INTO charges (account, livemode, id, payment_intent_id, customer_id, card_brand, last4, fee, net,
    net_currency, metadata)
SELECT account, livemode, 'ch_' || id, id, customer_id, 'visa', '0042', 30, amount - 30, 'eur', '{}'
FROM payments WHERE currency = 'eur';
UPDATE payments SET charge_id = 'ch_' || id WHERE currency = 'eur';
UPDATE invoice_lines SET taxes = '[{"amount": 1, "taxable_amount": 5, "inclusive": false, "rate_id": "txr_1",
    "percentage": "19", "reason": "standard_rated"}]' WHERE line_number = 1;
INSERT INTO credit_notes (account, livemode, id, invoice_id, customer_id, number, status, type, reason,
    currency, subtotal, tax_total, total, pre_payment_amount, post_payment_amount, refund_ids, lines_complete,
    created, metadata)
SELECT account, livemode, 'cn_' || id, id, customer_id, number || '-CN', CASE WHEN total % 3 = 0 THEN 'void'
    ELSE 'issued' END, 'pre_payment', 'order_change', currency, subtotal, tax_total, total, total, 0,
    '["re_1"]', true, created, metadata FROM invoices WHERE status = 'open' AND NOT deleted;
INSERT INTO credit_note_lines (account, livemode, credit_note_id, line_number, id, type, amount, quantity,
    description, tax_amount, taxes)
SELECT account, livemode, id, line, 'cnli_' || line, 'invoice_line_item', subtotal / 2, 1, '-line', 19,
    CASE WHEN line = 1 THEN '[{"amount": 19, "inclusive": true, "rate_id": "txr_1"}]'::jsonb END
FROM credit_notes, generate_series(0, 1) line;
INSERT INTO disputes (account, livemode, id, charge_id, payment_intent_id, amount, currency, status, reason,
    evidence_due_by, funds_withdrawn, funds_net, funds_currency, funds_reinstated, created, metadata)
SELECT account, livemode, 'du_' || id, charge_id, CASE WHEN charge_id IS NULL THEN id END, amount, currency,
    'needs_response', 'fraudulent', '2026-03-01', amount, -amount - 1500, 'eur', 0, created, '{}'
FROM payments;
"#;

fn books() -> Database {
    let mut database = Database::new();
    database.realms = ("live", "acct_1");
    database.execute(BOOKS);
    database
}

/// Starts an export; the first answer must succeed.
async fn download(daemon: &Daemon, key: &str, query: &str) -> Response {
    let response =
        daemon.request(Method::GET, &format!("/v1/invoices/export?realms=all&{query}"), key).send().await;
    let response = response.expect("an answer");
    assert_eq!(response.status(), 200, "{query}: {}", response.text().await.unwrap_or_default());
    response
}

async fn bytes(daemon: &Daemon, key: &str, query: &str) -> Vec<u8> {
    download(daemon, key, query).await.bytes().await.expect("a whole body").to_vec()
}

/// The rows of a CSV export, by the names of its columns.
fn rows(csv: &[u8]) -> Vec<std::collections::BTreeMap<String, String>> {
    csv::Reader::from_reader(csv).deserialize().collect::<Result<_, _>>().expect("CSV")
}

#[tokio::test]
async fn the_totals_are_those_of_the_database_and_of_the_rows() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for (query, table, amount) in [
        ("of=invoices", "invoices WHERE NOT deleted", "total"),
        (
            "of=lines",
            "invoice_lines l JOIN invoices i
                 ON (i.account, i.livemode, i.id) = (l.account, l.livemode, l.invoice_id) WHERE NOT deleted",
            "amount",
        ),
        ("of=payments", "payments", "amount_received"),
        ("of=refunds", "refunds", "amount"),
        ("of=credit_notes", "credit_notes", "total"),
        ("of=credit_notes&void=only", "credit_notes WHERE status = 'void'", "total"),
        ("of=disputes", "disputes", "amount"),
        ("of=customers", "customers", "balance"),
        (
            "status=paid,void&currency=EUR",
            "invoices WHERE NOT deleted AND status IN ('paid', 'void') AND currency = 'eur'",
            "amount_paid",
        ),
        (
            "issued_from=2026-02-01&issued_before=2026-03-01T00:00:00Z",
            "invoices WHERE NOT deleted AND finalized_at >= '2026-02-01' AND finalized_at < '2026-03-01'",
            "total",
        ),
        ("of=payments&paid_from=2026-02-01", "payments WHERE paid_at >= '2026-02-01'", "amount_received"),
        ("of=refunds&created_before=2026-02-01", "refunds WHERE created < '2026-02-01'", "amount"),
        (
            "customer=cus_b&livemode=false",
            "invoices WHERE NOT deleted AND customer_id = 'cus_b' AND NOT livemode",
            "total",
        ),
        ("account=acct_1", "invoices WHERE NOT deleted AND account = 'acct_1'", "total"),
        (
            "org=org_a",
            "invoices WHERE NOT deleted AND customer_id = 'cus_a' AND livemode AND account = ''",
            "total",
        ),
        (
            "of=refunds&org=org_b",
            "refunds r WHERE livemode AND account = ''
                 AND EXISTS (SELECT FROM payments WHERE id = r.payment_intent_id AND customer_id = 'cus_b')",
            "amount",
        ),
    ] {
        let response = download(&daemon, &key, query).await;
        let told = response.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let rows = rows(&response.bytes().await.expect("a body"));
        let count = |filter: &str| database.number(&format!("SELECT count(*) FROM {table} {filter}"));
        assert!(count("") > 0, "{query} tests nothing");
        assert_eq!(told["rows"], count(""), "{query}");
        assert_eq!(rows.len() as i64, count(""), "{query}");
        for currency in ["eur", "usd", "jpy", "kwd"] {
            let column = if query == "of=lines" { format!("l.{amount}") } else { amount.to_owned() };
            let of = if query == "of=lines" { "l.currency" } else { "currency" };
            let sum = database.number(&format!(
                "SELECT coalesce(sum({column}), 0) FROM {table}{} {of} = '{currency}'",
                if table.contains("WHERE") { " AND" } else { " WHERE" }
            ));
            let told = told["realms"].as_array().map_or(std::slice::from_ref(&told), Vec::as_slice);
            let told = told.iter().map(|realm| realm["currencies"][currency][amount].as_i64().unwrap_or(0));
            assert_eq!(told.sum::<i64>(), sum, "{query} {currency}");
            let written: i64 = rows
                .iter()
                .filter(|row| row["currency"] == currency)
                .map(|row| row[amount].parse::<i64>().expect("a number"))
                .sum();
            assert_eq!(written, sum, "{query} {currency}");
        }
        let (status, alone) =
            daemon.get(&format!("/v1/invoices/export/totals?realms=all&{query}"), &key).await;
        assert_eq!((status.as_u16(), alone), (200, told), "{query}");
    }
}

#[tokio::test]
async fn an_org_sees_its_own_and_nothing_else() {
    let database = books();
    let daemon = Daemon::start(&database);
    let own = database.key("billing:read", Some("org_a"));
    let platform = database.key("billing:read", None);
    for of in Kind::ALL.map(Kind::name) {
        let customer = if of == "customers" { "id" } else { "customer_id" };
        let seen = rows(&bytes(&daemon, &own, &format!("of={of}")).await);
        assert!(
            !seen.is_empty() && seen.iter().all(|row| row["org_id"] == "org_a" && row[customer] == "cus_a"),
            "{of}"
        );
        let asked = bytes(&daemon, &platform, &format!("of={of}&org=org_a")).await;
        assert_eq!(rows(&asked), seen, "{of}");
        let all = rows(&bytes(&daemon, &platform, &format!("of={of}")).await);
        assert!(all.len() > 2 * seen.len(), "{of}");
        assert!(
            bytes(&daemon, &own, &format!("of={of}&customer=cus_b&header=false")).await.is_empty(),
            "{of}"
        );
    }
    let status = |key: String, path: &'static str| {
        let daemon = &daemon;
        async move { daemon.get(path, &key).await.0.as_u16() }
    };
    assert_eq!(status(own.clone(), "/v1/invoices/export?org=org_b").await, 404);
    assert_eq!(status(platform, "/v1/invoices/export?org=org_x").await, 404);
    assert_eq!(status(database.key("usage:read", None), "/v1/invoices/export").await, 403);
    assert_eq!(status(database.key("usage:read", None), "/v1/invoices/export/totals").await, 403);
    // A row of another org is no place from which to continue.
    let foreign = database
        .value("SELECT id FROM invoices WHERE customer_id = 'cus_b' AND livemode AND NOT deleted LIMIT 1");
    let (status, problem) =
        daemon.get(&format!("/v1/invoices/export?after={}", foreign.expect("one")), &own).await;
    assert_eq!((status.as_u16(), problem["field"].as_str()), (400, Some("after")));
}

#[tokio::test]
async fn a_wrong_parameter_is_named() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    for (query, field) in [
        ("colour=red", "colour"),
        ("status=payed", "status"),
        ("of=refunds&issued_from=2026-01-01", "issued_from"),
        ("format=xlsx&after=in_0001", "after"),
        ("after=in_nowhere", "after"),
        ("of=lines&after=in_0001", "after"),
        ("bom=1", "bom"),
    ] {
        for path in ["/v1/invoices/export", "/v1/invoices/export/totals"] {
            let (status, problem) = daemon.get(&format!("{path}?{query}"), &key).await;
            assert_eq!(
                (status.as_u16(), problem["field"].as_str()),
                (400, Some(field)),
                "{query}: {problem}"
            );
        }
    }
}

#[tokio::test]
async fn the_command_writes_the_same_file_and_its_totals() {
    let database = books();
    let daemon = Daemon::start(&database);
    let key = database.key("billing:read", None);
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("paid.jsonl");
    let file = path.to_str().expect("UTF-8");
    database.run(&["export", "invoices", "--realms", "all", "--status", "paid", "--out", file]);
    let written = std::fs::read(&path).expect("the file");
    let response = download(&daemon, &key, "status=paid&format=jsonl").await;
    let told = response.headers()["coulomb-control-totals"].to_str().expect("text").to_owned();
    assert_eq!(written, response.bytes().await.expect("a body"));
    let totals = std::fs::read_to_string(dir.path().join("paid.jsonl.totals.json")).expect("the totals");
    assert_eq!(totals.trim_end(), told);
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 2, "nothing else is left");
    let printed = database.run(&["export", "invoices", "--realms", "all", "--of", "refunds", "--bom"]);
    assert_eq!(printed.into_bytes(), bytes(&daemon, &key, "of=refunds&bom=true").await);
    let wrong = database.command(&["export", "invoices", "--status", "payed"]).output().expect("runs");
    assert_eq!(
        String::from_utf8_lossy(&wrong.stderr),
        "coulomb: status: must be of draft, open, paid, void, uncollectible\n"
    );
    assert_eq!(wrong.status.code(), Some(2));
    assert_eq!(std::fs::read_dir(dir.path()).expect("a directory").count(), 2, "nothing else is left");
}

/// An existing file is replaced and keeps its permissions; the command writes to anything else, or refuses
/// it.
#[test]
fn an_export_goes_to_what_its_name_names() {
    use std::os::unix::fs::{PermissionsExt, symlink};
    let database = books();
    let dir = tempfile::tempdir().expect("a directory");
    let at = |name: &str| dir.path().join(name);
    let export = |name: &str| {
        let mut command = database.command(&["export", "invoices", "--realms", "all", "--format", "csv"]);
        command.arg("--out").arg(at(name)).output().expect("runs")
    };
    assert!(export("whole.csv").status.success());
    let whole = std::fs::read(at("whole.csv")).expect("the file");
    std::fs::write(at("kept"), "before").expect("written");
    std::fs::set_permissions(at("kept"), PermissionsExt::from_mode(0o640)).expect("set");
    symlink("kept", at("link")).expect("a link");
    assert!(export("link").status.success());
    assert_eq!(std::fs::read(at("kept")).expect("the file"), whole);
    assert!(std::fs::symlink_metadata(at("link")).expect("there").is_symlink());
    assert_eq!(std::fs::metadata(at("kept")).expect("there").permissions().mode() & 0o777, 0o640);
    // A pipe gets the rows, and stays a pipe.
    let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().expect("mkfifo runs");
    assert!(made.success());
    let reader = std::thread::spawn({
        let path = at("pipe");
        move || std::fs::read(path).expect("the rows")
    });
    assert!(export("pipe").status.success());
    assert_eq!(reader.join().expect("reads"), whole);
    std::fs::create_dir(at("dir")).expect("a directory");
    let refused = export("dir");
    assert_eq!(refused.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&refused.stderr).contains("is a directory: --out names a file"));
    let left = std::fs::read_dir(dir.path()).expect("a directory").flatten();
    let left: std::collections::BTreeSet<_> = left.map(|entry| entry.file_name()).collect();
    let names = ["dir", "kept", "kept.totals.json", "link", "pipe", "whole.csv", "whole.csv.totals.json"];
    assert!(left.iter().eq(names), "{left:?}");
}
