//! Deliveries: what is accepted, what is refused, and that an acknowledgement is a commit.

use serde_json::json;

use crate::support::events::{event, invoice};
use crate::support::stripe::{now, signature, v1};
use crate::support::{Daemon, Database, SECRET, recorded_events};

/// The signature table: each header against what must come of it.
#[tokio::test]
async fn signatures_are_accepted_or_refused_as_documented() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("STRIPE_WEBHOOK_SECRET", "whsec_old, whsec_test")]);
    let body = event("evt_1", "invoice.paid", 1, invoice("in_1", "cus_1", "paid", 100)).to_string();
    let reserialised =
        serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(&body).expect("json"))
            .expect("json");
    let t = now();
    let good = |t: i64| v1(SECRET, t, body.as_bytes());
    let junk = "0".repeat(64);
    let cases: Vec<(&str, Vec<u8>, &str, u16)> = vec![
        ("valid", format!("t={t},v1={}", good(t)).into(), &body, 200),
        (
            "signed with the older of two secrets",
            format!("t={t},v1={}", v1("whsec_old", t, body.as_bytes())).into(),
            &body,
            200,
        ),
        (
            "signed with both secrets",
            format!("t={t},v1={},v1={}", v1("whsec_old", t, body.as_bytes()), good(t)).into(),
            &body,
            200,
        ),
        ("junk before good", format!("t={t},v1={junk},v0={junk},v1={}", good(t)).into(), &body, 200),
        ("t twice, the same", format!("t={t},t={t},v1={}", good(t)).into(), &body, 200),
        ("stale within tolerance", format!("t={},v1={}", t - 290, good(t - 290)).into(), &body, 200),
        ("ahead within tolerance", format!("t={},v1={}", t + 290, good(t + 290)).into(), &body, 200),
        ("stale", format!("t={},v1={}", t - 310, good(t - 310)).into(), &body, 400),
        ("future", format!("t={},v1={}", t + 310, good(t + 310)).into(), &body, 400),
        ("another secret", format!("t={t},v1={}", v1("whsec_other", t, body.as_bytes())).into(), &body, 400),
        ("re-serialised body", format!("t={t},v1={}", good(t)).into(), &reserialised, 400),
        ("t changed", format!("t={},v1={}", t + 1, good(t)).into(), &body, 400),
        ("t twice, differing", format!("t={t},t={},v1={}", t + 1, good(t)).into(), &body, 400),
        ("no t", format!("v1={}", good(t)).into(), &body, 400),
        ("no v1", format!("t={t}").into(), &body, 400),
        ("only v0", format!("t={t},v0={}", good(t)).into(), &body, 400),
        ("short v1", format!("t={t},v1={}", &good(t)[..62]).into(), &body, 400),
        ("v1 not hexadecimal", format!("t={t},v1={}", "z".repeat(64)).into(), &body, 400),
        ("t not a number", format!("t=soon,v1={}", good(t)).into(), &body, 400),
        ("t overflowing", format!("t=99999999999999999999,v1={}", good(t)).into(), &body, 400),
        ("empty", Vec::new(), &body, 400),
        ("no pairs", b"garbage".to_vec(), &body, 400),
        ("non-ASCII", [format!("t={t},v1={}", good(t)).as_bytes(), b",v9=\xc3\xa9"].concat(), &body, 400),
    ];
    for (name, header, body, status) in cases {
        let before = stored(&database);
        let (got, answer) = daemon.deliver_raw(body.as_bytes().to_vec(), &header).await;
        assert_eq!(got, status, "{name}: {answer}");
        daemon.projected().await;
        assert_eq!(
            stored(&database) - before,
            i64::from(status == 200),
            "{name}: what is refused is not stored"
        );
        if status == 400 {
            assert_eq!(answer["code"], "invalid_signature", "{name}: {answer}");
        }
    }
    let no_header = daemon
        .http
        .post(format!("{}/webhooks/stripe", daemon.base))
        .body(body)
        .send()
        .await
        .expect("an answer");
    assert_eq!(no_header.status(), 400);
    assert_eq!(no_header.headers()["content-type"], "application/problem+json");
}

/// Deliveries in the inbox, repeats too.
fn stored(database: &Database) -> i64 {
    database.number(
        "SELECT (SELECT count(*) FROM stripe_inbox) + (SELECT count(*) FROM stripe_inbox_redeliveries)",
    )
}

/// The `stripe` package of PyPI signs, or refuses, as we do: its `WebhookSignature` is the reference.
#[tokio::test]
async fn the_stripe_package_signs_what_is_accepted() {
    let sign = "import stripe,sys,time\nbody=sys.argv[1]\nt=int(time.time())\n\
        s=stripe.WebhookSignature._compute_signature('%d.%s'%(t,body),'whsec_test')\n\
        stripe.WebhookSignature.verify_header(body,'t=%d,v1=%s'%(t,s),'whsec_test',300)\n\
        print('t=%d,v1=%s'%(t,s))";
    let body = r#"{"id":"evt_py","type":"invoice.paid","created":1,
        "data":{"object":{"id":"in_é","object":"invoice"}}}"#;
    let python = std::env::var("COULOMB_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let header = match std::process::Command::new(python).args(["-c", sign, body]).output() {
        Ok(output) if output.status.success() => output.stdout,
        _ => return println!("skipped: no python3 with the stripe package (COULOMB_TEST_PYTHON names one)"),
    };
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let (status, answer) = daemon.deliver_raw(body.as_bytes().to_vec(), header.trim_ascii()).await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_repeat_is_counted_and_answered_alike() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let mut first = event("evt_1", "invoice.paid", 1, invoice("in_1", "cus_1", "paid", 100));
    daemon.deliver(&first).await;
    // Stripe changes the body between deliveries: the first one is kept.
    first["pending_webhooks"] = json!(0);
    daemon.deliver(&first).await;
    daemon.projected().await;
    daemon.deliver(&first).await;
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox"), 1);
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox_redeliveries"), 2);
    assert_eq!(
        database
            .value("SELECT convert_from(body, 'UTF8')::json ->> 'pending_webhooks' FROM stripe_inbox")
            .as_deref(),
        Some("1")
    );
}

#[tokio::test]
async fn accounts_and_modes_never_mix() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    for (account, livemode, total) in
        [(None, false, 1), (None, true, 2), (Some("acct_a"), false, 3), (Some("acct_b"), true, 4)]
    {
        let mut one = event("evt_1", "invoice.paid", 1, invoice("in_1", "cus_1", "paid", total));
        one["livemode"] = json!(livemode);
        if let Some(account) = account {
            one["account"] = json!(account);
        }
        daemon.deliver(&one).await;
    }
    daemon.projected().await;
    let rows = database.value(
        "SELECT string_agg(account || ' ' || livemode || ' ' || total, ', ' ORDER BY total) FROM invoices",
    );
    assert_eq!(rows.as_deref(), Some(" false 1,  true 2, acct_a false 3, acct_b true 4"));
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused_and_an_odd_event_is_kept() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    for body in ["", "[]", "null", "not json", "{\"a\":"] {
        let (status, answer) = daemon.deliver_raw(body.into(), signature(body.as_bytes()).as_bytes()).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (400, Some("malformed_body")), "{body}");
    }
    // What is no JSON inside is stored, and set aside when it is read.
    let (broken, sql) = (
        b"{\"id\":}",
        "SELECT count(*) FROM stripe_inbox_queue WHERE last_error LIKE 'the body cannot be read%'",
    );
    assert_eq!(daemon.deliver_raw(broken.to_vec(), signature(broken).as_bytes()).await.0, 200);
    let started = std::time::Instant::now();
    while database.number(sql) != 1 {
        assert!(started.elapsed().as_secs() < 30, "not set aside");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    database.execute("DELETE FROM stripe_inbox_queue");
    let odd = [
        json!({}),
        json!({ "id": "evt_a", "type": "invoice.paid" }),
        json!({ "id": "evt_b", "type": "invoice.upcoming", "created": 1,
            "data": { "object": { "object": "invoice" } } }),
        json!({ "id": "evt_c", "type": "x.y.z", "created": "2026-01-01T00:00:00Z",
            "data": { "object": { "id": "x\u{0}1", "object": "x\u{0}" } } }),
        json!({ "id": "evt_d", "type": 5, "created": 1e300, "livemode": "no", "data": "text",
            "request": "req_1" }),
        json!({ "id": "evt_e", "object": "v2.core.event", "type": "v1.invoice.paid",
            "created": "2026-01-01T00:00:00Z", "related_object": { "id": "in_1" },
            "snapshot_event": "evt_1" }),
    ];
    for event in &odd {
        daemon.deliver(event).await;
    }
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox"), 7);
    assert_eq!(daemon.metric("coulomb_stripe_inbox_quarantined").await, Some(0));
    let fetch = database.run(&["stripe", "inbox", "list", "--state", "needs_fetch"]);
    assert!(fetch.contains("evt_e"), "{fetch}");
    daemon.deliver(&event("evt_1", "invoice.paid", 1, invoice("in_1", "cus_1", "paid", 100))).await;
    daemon.projected().await;
    assert_eq!(database.run(&["stripe", "inbox", "list", "--state", "needs_fetch"]), "", "its twin has come");
}

#[tokio::test]
async fn limits_are_told_before_anything_is_read() {
    let database = Database::new();
    let daemon = Daemon::with(
        &database,
        &[("COULOMB_WEBHOOK_BODY_LIMIT", "1000"), ("COULOMB_REQUEST_TIMEOUT_S", "1")],
    );
    let body = vec![b' '; 2000];
    let (status, answer) = daemon.deliver_raw(body.clone(), signature(&body).as_bytes()).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (413, Some("body_too_large")));
    // A client that announces a body and does not send it.
    let address = daemon.base.strip_prefix("http://").expect("an address");
    let mut slow = tokio::net::TcpStream::connect(address).await.expect("connects");
    let head = "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: t=1,v1=00\r\nContent-Length: \
        900\r\n\r\n{";
    tokio::io::AsyncWriteExt::write_all(&mut slow, head.as_bytes()).await.expect("sends");
    let mut answer = vec![0; 200];
    let read = tokio::io::AsyncReadExt::read(&mut slow, &mut answer);
    let n = tokio::time::timeout(std::time::Duration::from_secs(10), read)
        .await
        .expect("ends the slow client")
        .expect("reads");
    assert!(
        String::from_utf8_lossy(&answer[..n]).starts_with("HTTP/1.1 408"),
        "{}",
        String::from_utf8_lossy(&answer[..n])
    );
}

#[tokio::test]
async fn without_a_secret_nothing_is_taken() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("STRIPE_WEBHOOK_SECRET", "")]);
    let (status, answer) = daemon.deliver_raw(b"{}".to_vec(), signature(b"{}").as_bytes()).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (503, Some("not_configured")));
}

/// Recorded events of real Stripe accounts, in both generations of shapes: all taken, none quarantined, and
/// the purchase is right.
#[tokio::test]
async fn recorded_events_are_all_taken() {
    let Some(dir) = recorded_events() else { return };
    let database = Database::new();
    let daemon = Daemon::start(&database);
    let mut taken = 0;
    for (n, file) in files(&dir).iter().enumerate() {
        let text = std::fs::read_to_string(file).expect("readable");
        let mut event: serde_json::Value =
            serde_json::from_str(text.trim_start_matches('\u{feff}')).expect("JSON");
        event["id"] = json!(format!("evt_recorded_{n}"));
        daemon.deliver(&event).await;
        taken += 1;
    }
    daemon.projected().await;
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox"), taken);
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox_queue"), 0);
    let invoice = database.value(
        "SELECT status || ' ' || total || ' ' || amount_paid || ' ' || currency || ' ' || customer_id || ' '
             || (SELECT count(*) || ' ' || sum(amount) || ' ' || min(price_id)
         FROM invoice_lines l WHERE l.invoice_id = i.id) FROM invoices i
         WHERE id = 'in_1f39a697106e476cc1b2a57c'",
    );
    assert_eq!(invoice.as_deref(), Some("paid 48000 48000 usd cus_07240605e6902a 1 48000 price_NORMALIZED"));
    let payment = database.value(
        "SELECT status || ' ' || amount || ' ' || amount_received FROM payments
        WHERE id = 'pi_32c921987006ff8913482f0f'",
    );
    assert_eq!(payment.as_deref(), Some("succeeded 48000 48000"));
    let customer = database.value(
        "SELECT currency || ' ' || default_payment_method_id FROM customers WHERE id = 'cus_256e0c5410aa50'",
    );
    assert_eq!(customer.as_deref(), Some("usd pm_NORMALIZED"));
    assert!(database.run(&["verify"]).is_empty());
}

fn files(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(self::files(&path));
        } else if path.extension().is_some_and(|extension| extension == "json") {
            files.push(path);
        }
    }
    files.sort();
    files
}
