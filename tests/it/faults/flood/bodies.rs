//! Bodies that come slowly or never end: they take memory only for bytes that arrived, and only up to a
//! share.

use std::net::TcpStream;
use std::time::Duration;

use serde_json::json;

use super::connections::{connect, lives, send, wait_until_closed};
use crate::support::{Daemon, Database};

/// Begins a request with a body of four megabytes, and sends `part` of it.
fn begin(daemon: &Daemon, head: &str, part: usize) -> TcpStream {
    let socket = connect(daemon);
    let head = format!("{head}\r\nHost: a\r\nContent-Length: 4194304\r\n\r\n");
    assert!(send(&socket, head.as_bytes()));
    send(&socket, &vec![b' '; part]);
    socket
}

/// Unsigned bodies together take no more memory than deliveries may, and signed ones are accepted beside
/// them.
#[tokio::test]
async fn unsigned_deliveries_have_a_bound_together() {
    let database = Database::new();
    let settings =
        [("COULOMB_WEBHOOK_MEMORY_MIB", "8"), ("COULOMB_REQUEST_TIMEOUT_S", "600"), ("COULOMB_DRAIN_S", "3")];
    let mut daemon = Daemon::with(&database, &settings);
    lives(&daemon, "before").await;
    let before = daemon.peak_mib();
    let head = "POST /webhooks/stripe HTTP/1.1\r\nStripe-Signature: t=1,v1=00";
    let sockets: Vec<TcpStream> = (0..120).map(|_| begin(&daemon, head, 3 << 20)).collect();
    for round in 0..5 {
        lives(&daemon, &format!("round_{round}")).await;
    }
    // There is room for two of them; the others got an answer and were closed.
    wait_until_closed(&sockets, 118);
    if let (Some(before), Some(after)) = (before, daemon.peak_mib()) {
        assert!(after < before + 100, "from {before} to {after} MiB");
    }
    assert_eq!(daemon.stop(), Some(0));
}

/// Slow bodies of one org leave memory for another org. The daemon does not read bodies of unknown callers.
#[tokio::test]
async fn slow_bodies_of_one_org_leave_room_for_others() {
    let database = Database::new();
    let settings = [
        ("COULOMB_USAGE_MEMORY_MIB", "16"),
        ("COULOMB_BODY_MEMORY_MIB", "4"),
        ("COULOMB_BODY_LIMIT", "4194304"),
        ("COULOMB_REQUEST_TIMEOUT_S", "20"),
    ];
    let daemon = Daemon::with(&database, &settings);
    let admin = database.key("admin", None);
    let orgs = (daemon.org(&admin, "slow", "UTC").await, daemon.org(&admin, "other", "UTC").await);
    let key = |org: &str| database.key("usage:write,usage:read", Some(org));
    let (slow, other) = (key(&orgs.0), key(&orgs.1));
    database.meter(1, "work", "count", "", None);
    let before = daemon.peak_mib();
    let mut sockets = Vec::new();
    for route in ["/v1/usage", "/v1/quota/check"] {
        let head = format!("POST {route} HTTP/1.1\r\nAuthorization: Bearer {slow}");
        sockets.extend((0..20).map(|_| begin(&daemon, &head, 3 << 20)));
        let stranger =
            format!("POST {route} HTTP/1.1\r\nAuthorization: Bearer {}", slow.replace("live_", "live_0"));
        sockets.extend((0..20).map(|_| begin(&daemon, &stranger, 3 << 20)));
    }
    // Gives the daemon time to read what was sent.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let event = |n: usize| json!({ "id": format!("{n}"), "event_name": "work", "data": {} });
    for n in 0..5 {
        assert_eq!(daemon.usage(&other, &event(n)).await, ["accepted"]);
        let (status, answer) = daemon.post("/v1/quota/check", &other, &json!({ "items": [] })).await;
        assert_eq!((status.as_u16(), &answer["field"]), (400, &json!("items")), "{answer}");
    }
    lives(&daemon, "slow").await;
    if let (Some(before), Some(after)) = (before, daemon.peak_mib()) {
        assert!(after < before + 80, "from {before} to {after} MiB");
    }
    drop(sockets);
    assert_eq!(daemon.usage(&slow, &event(0)).await, ["accepted"]);
}
