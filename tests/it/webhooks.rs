//! Deliveries: which ones the daemon accepts or refuses. It acknowledges none before the commit.

use serde_json::json;

use crate::support::objects::{Event, invoice};
use crate::support::stripe::{now, signature, v1};
use crate::support::world::until;
use crate::support::{Database, SECRET, World, recorded_events};

/// A paid invoice over this amount.
fn paid(total: i64) -> Event {
    invoice("in_1").status("paid").total(total).happened("invoice.paid").id("evt_1").at(1)
}

/// The signature table: each header with the expected result.
#[tokio::test]
async fn signatures_are_accepted_or_refused_as_documented() {
    let world = World::new().setting("STRIPE_WEBHOOK_SECRET", "whsec_old, whsec_test").start().await;
    let daemon = world.daemon();
    let body = paid(100).json().to_string();
    for Delivery { name, header, body, status } in deliveries(&body) {
        let before = stored(&world);
        let (got, answer) = daemon.deliver_raw(body.into_bytes(), &header).await;
        assert_eq!(got, status, "{name}: {answer}");
        daemon.projected().await;
        // A refused delivery is not stored.
        assert_eq!(stored(&world) - before, i64::from(status == 200), "{name}");
        if status == 400 {
            assert_eq!(answer["code"], "invalid_signature", "{name}: {answer}");
        }
    }
    let no_header = daemon.http.post(format!("{}/webhooks/stripe", daemon.base)).body(body).send().await;
    let no_header = no_header.expect("an answer");
    assert_eq!(no_header.status(), 400);
    assert_eq!(no_header.headers()["content-type"], "application/problem+json");
}

/// A header and a body, and the expected status.
struct Delivery {
    name: &'static str,
    header: Vec<u8>,
    body: String,
    status: u16,
}

/// `body` with every kind of signature header.
fn deliveries(body: &str) -> Vec<Delivery> {
    let t = now();
    let by = |secret: &str, t: i64| v1(secret, t, body.as_bytes());
    let good = |t: i64| by(SECRET, t);
    let (old, other, junk) = (by("whsec_old", t), by("whsec_other", t), "0".repeat(64));
    let non_ascii = [format!("t={t},v1={}", good(t)).as_bytes(), b",v9=\xc3\xa9"].concat();
    let taken: Vec<(&str, String)> = vec![
        ("valid", format!("t={t},v1={}", good(t))),
        ("signed with the older of two secrets", format!("t={t},v1={old}")),
        ("signed with both secrets", format!("t={t},v1={old},v1={}", good(t))),
        ("junk before good", format!("t={t},v1={junk},v0={junk},v1={}", good(t))),
        ("t twice, the same", format!("t={t},t={t},v1={}", good(t))),
        ("stale within tolerance", format!("t={},v1={}", t - 290, good(t - 290))),
        ("ahead within tolerance", format!("t={},v1={}", t + 290, good(t + 290))),
    ];
    let refused: Vec<(&str, String)> = vec![
        ("stale", format!("t={},v1={}", t - 310, good(t - 310))),
        ("future", format!("t={},v1={}", t + 310, good(t + 310))),
        ("another secret", format!("t={t},v1={other}")),
        ("t changed", format!("t={},v1={}", t + 1, good(t))),
        ("t twice, differing", format!("t={t},t={},v1={}", t + 1, good(t))),
        ("no t", format!("v1={}", good(t))),
        ("no v1", format!("t={t}")),
        ("only v0", format!("t={t},v0={}", good(t))),
        ("short v1", format!("t={t},v1={}", &good(t)[..62])),
        ("v1 not hexadecimal", format!("t={t},v1={}", "z".repeat(64))),
        ("t not a number", format!("t=soon,v1={}", good(t))),
        ("t overflowing", format!("t=99999999999999999999,v1={}", good(t))),
        ("empty", String::new()),
        ("no pairs", "garbage".to_owned()),
    ];
    let reserialised: serde_json::Value = serde_json::from_str(body).expect("json");
    let reserialised = serde_json::to_string_pretty(&reserialised).expect("json");
    let with =
        |status: u16| move |(name, header): (&'static str, String)| (name, header.into_bytes(), status);
    let headers = taken.into_iter().map(with(200)).chain(refused.into_iter().map(with(400)));
    let headers = headers.chain([("non-ASCII", non_ascii, 400)]);
    let whole =
        headers.map(|(name, header, status)| Delivery { name, header, body: body.to_owned(), status });
    let header = format!("t={t},v1={}", good(t)).into_bytes();
    whole.chain([Delivery { name: "re-serialised body", header, body: reserialised, status: 400 }]).collect()
}

/// The number of deliveries in the inbox, repeats included.
fn stored(database: &Database) -> i64 {
    database.number(
        "SELECT (SELECT count(*) FROM stripe_inbox) + (SELECT count(*) FROM stripe_inbox_redeliveries)",
    )
}

/// PyPI's package `stripe` accepts and refuses the same signatures: its `WebhookSignature` is the reference.
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
    let world = World::new().start().await;
    let delivered = world.daemon().deliver_raw(body.as_bytes().to_vec(), header.trim_ascii());
    let (status, answer) = delivered.await;
    assert_eq!(status, 200, "{answer}");
}

#[tokio::test]
async fn a_repeat_is_counted_and_answered_alike() {
    let world = World::new().start().await;
    world.deliver(paid(100)).await;
    // Stripe changes the body between deliveries: the first one is kept.
    let again = paid(100).with("pending_webhooks", 0);
    world.tell([again.clone()]).await;
    world.tell([again]).await;
    assert_eq!(world.number("SELECT count(*) FROM stripe_inbox"), 1);
    assert_eq!(world.number("SELECT count(*) FROM stripe_inbox_redeliveries"), 2);
    let kept = "SELECT convert_from(body, 'UTF8')::json ->> 'pending_webhooks' FROM stripe_inbox";
    assert_eq!(world.value(kept).as_deref(), Some("1"));
}

#[tokio::test]
async fn accounts_and_modes_never_mix() {
    let world = World::new().start().await;
    let of = |account: &str, livemode: bool, total: i64| {
        paid(total).with("account", account).with("livemode", livemode)
    };
    let own = [paid(1), paid(2).with("livemode", true)];
    let [test, live] = own;
    world.tell([test, live, of("acct_a", false, 3), of("acct_b", true, 4)]).await;
    let rows = world.value(
        "SELECT string_agg(account || ' ' || livemode || ' ' || total, ', ' ORDER BY total) FROM invoices",
    );
    assert_eq!(rows.as_deref(), Some(" false 1,  true 2, acct_a false 3, acct_b true 4"));
}

/// A body that is not a JSON object is refused; one that only looks like it is stored, and set aside.
async fn refuse_what_is_no_event(world: &World) {
    let deliver = async |body: &str| {
        let signature = signature(body.as_bytes());
        world.daemon().deliver_raw(body.into(), signature.as_bytes()).await
    };
    for body in ["", "[]", "null", "not json", "{\"a\":"] {
        let (status, answer) = deliver(body).await;
        assert_eq!((status.as_u16(), answer["code"].as_str()), (400, Some("malformed_body")), "{body}");
    }
    // A body that only looks like JSON is stored, and set aside when it is read.
    assert_eq!(deliver("{\"id\":}").await.0, 200);
    let set_aside =
        "SELECT count(*) FROM stripe_inbox_queue WHERE last_error LIKE 'the body cannot be read%'";
    until("it is set aside", async || world.number(set_aside) == 1).await;
    world.execute("DELETE FROM stripe_inbox_queue");
}

#[tokio::test]
async fn a_body_that_is_no_event_is_refused_and_an_odd_event_is_kept() {
    let world = World::new().start().await;
    refuse_what_is_no_event(&world).await;
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
    for event in odd {
        world.deliver(event).await;
    }
    world.daemon().projected().await;
    assert_eq!(world.number("SELECT count(*) FROM stripe_inbox"), 7);
    assert_eq!(world.daemon().metric("coulomb_stripe_inbox_quarantined").await, Some(0));
    let needs_fetch = || world.run(&["stripe", "inbox", "list", "--state", "needs_fetch"]);
    assert!(needs_fetch().contains("evt_e"), "{}", needs_fetch());
    world.tell([paid(100)]).await;
    assert_eq!(needs_fetch(), "", "the full event has arrived");
}

#[tokio::test]
async fn limits_are_told_before_anything_is_read() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let setup = World::new().setting("COULOMB_WEBHOOK_BODY_LIMIT", "1000");
    let world = setup.setting("COULOMB_REQUEST_TIMEOUT_S", "1").start().await;
    let body = vec![b' '; 2000];
    let (status, answer) = world.daemon().deliver_raw(body.clone(), signature(&body).as_bytes()).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (413, Some("body_too_large")));
    // A client that announces a body and does not send it.
    let address = world.daemon().base.strip_prefix("http://").expect("an address");
    let mut slow = tokio::net::TcpStream::connect(address).await.expect("connects");
    let head = "POST /webhooks/stripe HTTP/1.1\r\nHost: x\r\nStripe-Signature: t=1,v1=00\r\nContent-Length: \
        900\r\n\r\n{";
    slow.write_all(head.as_bytes()).await.expect("sends");
    let mut answer = vec![0; 200];
    let read = tokio::time::timeout(std::time::Duration::from_secs(10), slow.read(&mut answer));
    let length = read.await.expect("ends the slow client").expect("reads");
    let answer = String::from_utf8_lossy(&answer[..length]);
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn without_a_secret_nothing_is_taken() {
    let world = World::new().setting("STRIPE_WEBHOOK_SECRET", "").start().await;
    let (status, answer) = world.daemon().deliver_raw(b"{}".to_vec(), signature(b"{}").as_bytes()).await;
    assert_eq!((status.as_u16(), answer["code"].as_str()), (503, Some("not_configured")));
}

/// Recorded events of real Stripe accounts, in both generations of shapes: all are accepted, none is
/// quarantined, and the purchase is right.
#[tokio::test]
async fn recorded_events_are_all_taken() {
    let Some(dir) = recorded_events() else { return };
    let world = World::new().start().await;
    let mut taken = 0;
    for (n, file) in files(&dir).iter().enumerate() {
        let text = std::fs::read_to_string(file).expect("readable");
        let mut event: serde_json::Value =
            serde_json::from_str(text.trim_start_matches('\u{feff}')).expect("JSON");
        event["id"] = json!(format!("evt_recorded_{n}"));
        world.deliver(event).await;
        taken += 1;
    }
    world.daemon().projected().await;
    assert_eq!(world.number("SELECT count(*) FROM stripe_inbox"), taken);
    assert_eq!(world.number("SELECT count(*) FROM stripe_inbox_queue"), 0);
    let invoice = world.value(
        "SELECT status || ' ' || total || ' ' || amount_paid || ' ' || currency || ' ' || customer_id || ' '
             || (SELECT count(*) || ' ' || sum(amount) || ' ' || min(price_id)
         FROM invoice_lines l WHERE l.invoice_id = i.id) FROM invoices i
         WHERE id = 'in_1f39a697106e476cc1b2a57c'",
    );
    assert_eq!(invoice.as_deref(), Some("paid 48000 48000 usd cus_07240605e6902a 1 48000 price_NORMALIZED"));
    let payment = world.value(
        "SELECT status || ' ' || amount || ' ' || amount_received FROM payments
        WHERE id = 'pi_32c921987006ff8913482f0f'",
    );
    assert_eq!(payment.as_deref(), Some("succeeded 48000 48000"));
    let customer = world.value(
        "SELECT currency || ' ' || default_payment_method_id FROM customers WHERE id = 'cus_256e0c5410aa50'",
    );
    assert_eq!(customer.as_deref(), Some("usd pm_NORMALIZED"));
    assert!(world.run(&["verify"]).is_empty());
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
