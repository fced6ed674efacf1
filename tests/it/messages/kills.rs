//! `kill -9` of two daemons while messages are written and sent: every committed message arrives at least
//! once at every endpoint, and nothing else does.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::net::TcpListener;
use std::time::{Duration, Instant};

use chrono::Utc;
use coulomb::messages::NewMessage;
use serde_json::json;

use super::{acme, message, write};
use crate::support::receiver::{Receiver, Reply};
use crate::support::{Daemon, Database};

/// Kills in the suite; `COULOMB_TEST_KILLS` names another number.
const KILLS: usize = 4;
const BETWEEN_KILLS: usize = 60;

fn daemon(database: &Database) -> Daemon {
    let mut command = database.command(&["serve"]);
    command.env("COULOMB_LISTEN", "127.0.0.1:0").env("COULOMB_LOG", "off");
    command.env("COULOMB_MESSAGE_ALLOW_HTTP", "true").env("COULOMB_MESSAGE_ALLOW", "127.0.0.0/8");
    Daemon::spawn(command)
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_lose_no_message_and_leave_no_gap() {
    let kills = std::env::var("COULOMB_TEST_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(KILLS);
    let database = Database::new();
    let key = database.key("admin,billing:write,billing:read", None);
    let mut daemons = [daemon(&database), daemon(&database)];
    let org = json!({ "name": "acme", "external_id": "acme" });
    daemons[0].post("/v1/orgs", &key, &org).await;
    let receivers = [Receiver::start(), Receiver::start(), Receiver::start()];
    for (n, receiver) in receivers.iter().enumerate() {
        let body = json!({ "url": receiver.url, "ordered": n == 2 });
        let (status, made) = daemons[0].post("/v1/message_endpoints", &key, &body).await;
        assert_eq!(status, 201, "{made}");
    }
    receivers[1].answers(|_| Reply { after: Duration::from_millis(30), ..Reply::status(200) });
    let org_id = acme(&database);
    for kill in 0..kills {
        let first = kill * BETWEEN_KILLS;
        write(&database, (first..first + BETWEEN_KILLS).map(|n| message(org_id, n)), Utc::now());
        tokio::time::sleep(Duration::from_millis(u64::try_from(kill * 37 % 200).expect("small"))).await;
        daemons[kill % 2].kill();
        daemons[kill % 2] = daemon(&database);
    }
    let count = kills * BETWEEN_KILLS;
    let started = Instant::now();
    while database.number("SELECT count(*) FROM message_deliveries WHERE state = 'delivered'")
        < i64::try_from(3 * count).expect("small")
    {
        let waits = database.value(
            "SELECT string_agg(concat_ws(' ', endpoint_id, sequence, state, attempts), ', ')
             FROM (SELECT * FROM message_deliveries WHERE state <> 'delivered' LIMIT 5) d",
        );
        assert!(started.elapsed() < Duration::from_secs(120), "waits: {waits:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut repeated = 0;
    for receiver in &receivers {
        let got = receiver.received();
        let by_number: BTreeMap<i64, String> =
            got.iter().map(|one| (one.sequence(), one.header("webhook-id").to_owned())).collect();
        let numbers: Vec<i64> = by_number.keys().copied().collect();
        assert_eq!(numbers, (1..=i64::try_from(count).expect("small")).collect::<Vec<_>>());
        assert_eq!(by_number.values().collect::<BTreeSet<_>>().len(), count, "each number is one message");
        repeated += got.len() - count;
    }
    // The first arrivals at the ordered endpoint are in order, whatever is repeated.
    let mut highest = 0;
    for one in receivers[2].received() {
        assert!(one.sequence() <= highest + 1, "{} after {highest}", one.sequence());
        highest = highest.max(one.sequence());
    }
    println!("{kills} kills: {repeated} of {} deliveries came more than once", 3 * count);
}

/// The receiver has a small buffer and does not read. After the kill it reads what has come: the kernel must
/// not send the rest of the request, or the receiver would get it after its repetition.
#[tokio::test]
async fn the_request_of_a_killed_daemon_does_not_come_late() {
    let database = Database::new();
    let key = database.key("admin,billing:write,billing:read", None);
    let mut daemon = daemon(&database);
    daemon.post("/v1/orgs", &key, &json!({ "name": "acme", "external_id": "acme" })).await;
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(16 * 1024).expect("set");
    socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).expect("a port");
    socket.listen(8).expect("listens");
    let listener = TcpListener::from(socket);
    let url = format!("http://{}/", listener.local_addr().expect("an address"));
    let body = json!({ "url": url, "with_object": true, "ordered": true });
    let (status, made) = daemon.post("/v1/message_endpoints", &key, &body).await;
    assert_eq!(status, 201, "{made}");
    let object = Some(json!({ "text": "x".repeat(200 * 1024) }));
    write(&database, [NewMessage { object, ..message(acme(&database), 1) }], Utc::now());
    let accepted = std::thread::spawn(move || listener.accept().expect("a connection").0);
    while !accepted.is_finished() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    daemon.kill();
    let mut stream = accepted.join().expect("no panic");
    stream.set_read_timeout(Some(Duration::from_secs(5))).expect("set");
    let mut got = Vec::new();
    let end = stream.read_to_end(&mut got);
    assert!(end.is_err() && !got.is_empty(), "{} bytes, then {end:?}", got.len());
    assert!(got.len() < 200 * 1024, "{} bytes", got.len());
}
