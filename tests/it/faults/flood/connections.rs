//! Clients that keep connections busy: with heads that never end, or by not reading answers.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::events::{customer, event};
use crate::support::{Daemon, Database};

/// How long a test waits for an event that must come.
const LONG: Duration = Duration::from_secs(60);

/// A client socket to which the test writes by hand.
pub(super) fn connect(daemon: &Daemon) -> TcpStream {
    let address: SocketAddr = daemon.base.trim_start_matches("http://").parse().expect("an address");
    let socket = TcpStream::connect(address).expect("it listens");
    socket.set_read_timeout(Some(LONG)).expect("a time-out");
    socket.set_write_timeout(Some(LONG)).expect("a time-out");
    socket
}

/// Sends as much as the system accepts. It is no failure if the server has closed the connection.
pub(super) fn send(mut socket: &TcpStream, bytes: &[u8]) -> bool {
    socket.write_all(bytes).is_ok()
}

/// Whether the server has closed the connection, after reading everything that it sent.
pub(super) fn is_closed(mut socket: &TcpStream) -> bool {
    socket.set_nonblocking(true).expect("it can");
    let mut buffer = vec![0; 64 << 10];
    let closed = loop {
        match socket.read(&mut buffer) {
            Ok(0) => break true,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => break false,
            Err(_) => break true,
        }
    };
    socket.set_nonblocking(false).expect("it can");
    closed
}

/// Waits until at least this many of the sockets are closed.
pub(super) fn wait_until_closed(sockets: &[TcpStream], at_least: usize) {
    let started = Instant::now();
    loop {
        let closed = sockets.iter().filter(|socket| is_closed(socket)).count();
        if closed >= at_least {
            return;
        }
        assert!(started.elapsed() < LONG, "{closed} of {} are closed, not {at_least}", sockets.len());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Probes and a delivery, which must succeed at any time, on connections of their own.
pub(super) async fn lives(daemon: &Daemon, round: &str) {
    let fresh = reqwest::Client::builder().timeout(LONG).build().expect("a client");
    for probe in ["healthz", "readyz", "metrics"] {
        let begun = Instant::now();
        loop {
            let answer = fresh.get(format!("{}/{probe}", daemon.base)).send().await.expect(probe);
            // On a busy machine the database may answer late. Then `/readyz` says so for a moment.
            if probe != "readyz" || answer.status() != 503 || begun.elapsed() > LONG {
                assert_eq!(answer.status(), 200, "{probe}");
                break;
            }
        }
    }
    let event = event(&format!("evt_{round}"), "customer.created", 1, customer("cus_1", None));
    let body = event.to_string().into_bytes();
    let signature = crate::support::stripe::signature(&body);
    let delivery =
        fresh.post(format!("{}/webhooks/stripe", daemon.base)).header("Stripe-Signature", signature);
    assert_eq!(delivery.body(body).send().await.expect("an answer").status(), 200);
}

const HEALTH: &[u8] = b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n";

/// More sockets than the limit. Each sends one request, begins a second, and waits.
#[tokio::test]
async fn nobody_is_shut_out_by_connections_that_are_held() {
    let database = Database::new();
    let settings =
        [("COULOMB_MAX_CONNECTIONS", "50"), ("COULOMB_HTTP_WORKERS", "2"), ("COULOMB_DRAIN_S", "3")];
    let mut daemon = Daemon::with(&database, &settings);
    let sockets: Vec<TcpStream> = (0..200)
        .map(|_| {
            let socket = connect(&daemon);
            send(&socket, HEALTH);
            send(&socket, &HEALTH[..20]);
            socket
        })
        .collect();
    // The limit is for the process, not for a thread. While four times as many connections arrive, a new
    // client may find no place; once they have arrived, it always does.
    wait_until_closed(&sockets, sockets.len() - 50);
    lives(&daemon, "held").await;
    // Each new client takes the place of one of them.
    for round in 0..5 {
        lives(&daemon, &format!("round_{round}")).await;
    }
    drop(sockets);
    lives(&daemon, "after").await;
    let _held: Vec<TcpStream> =
        (0..60).map(|_| connect(&daemon)).inspect(|one| assert!(send(one, b"GET"))).collect();
    assert_eq!(daemon.stop(), Some(0));
}

/// If the head of a second request comes a byte at a time, it times out like that of a first one.
#[tokio::test]
async fn a_head_that_drips_ends_on_every_request() {
    let database = Database::new();
    let daemon = Daemon::with(&database, &[("COULOMB_REQUEST_TIMEOUT_S", "1")]);
    for before in [&b""[..], HEALTH] {
        let socket = connect(&daemon);
        assert!(send(&socket, before) && send(&socket, b"GET /healthz HTTP/1.1\r\nX: "));
        let started = Instant::now();
        while !is_closed(&socket) {
            assert!(started.elapsed() < LONG, "the head never times out");
            send(&socket, b"a");
            std::thread::sleep(Duration::from_millis(100));
        }
    }
}

/// Answers that the client does not read: their copies stay small, and their connections end.
#[tokio::test]
async fn answers_that_nobody_takes_end() {
    let database = Database::new();
    let mut daemon = Daemon::with(&database, &[("COULOMB_ANSWER_TIMEOUT_S", "2"), ("COULOMB_DRAIN_S", "3")]);
    lives(&daemon, "before").await;
    let first = daemon.http.get(format!("{}/openapi.json", daemon.base)).send().await.expect("an answer");
    let length = first.bytes().await.expect("a body").len();
    let before = daemon.peak_mib();
    let request = b"GET /openapi.json HTTP/1.1\r\nHost: a\r\n\r\n".repeat(8);
    let sockets: Vec<TcpStream> = (0..250).map(|_| connect(&daemon)).collect();
    sockets.iter().for_each(|socket| assert!(send(socket, &request)));
    lives(&daemon, "untaken").await;
    // The server has closed all of them, and none got all of its answers.
    std::thread::sleep(Duration::from_secs(5));
    for mut socket in sockets {
        let mut taken = Vec::new();
        let _ = socket.read_to_end(&mut taken);
        assert!(taken.len() < 8 * length, "{} of {length} bytes each", taken.len());
    }
    if let (Some(before), Some(after)) = (before, daemon.peak_mib()) {
        assert!(after < before + 100, "from {before} to {after} MiB");
    }
    lives(&daemon, "after").await;
    let untaken: Vec<TcpStream> = (0..20).map(|_| connect(&daemon)).collect();
    untaken.iter().for_each(|socket| assert!(send(socket, &request)));
    assert_eq!(daemon.stop(), Some(0));
}

/// Different answers for each client: together they have a bound, whatever the time limit of each.
#[tokio::test]
async fn untaken_answers_have_a_bound_together() {
    let database = Database::new();
    let settings = [("COULOMB_ANSWER_TIMEOUT_S", "600"), ("COULOMB_ANSWER_MEMORY_MIB", "4")];
    let daemon = Daemon::with(&database, &settings);
    let key = database.key("usage:write", None);
    // Each event is refused with a sentence or two, over a megabyte in all.
    let body = json!(vec![json!({ "id": "a".repeat(200) }); 5_000]).to_string();
    let head = format!(
        "POST /v1/usage HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let sockets: Vec<TcpStream> = (0..24).map(|_| connect(&daemon)).collect();
    for socket in &sockets {
        assert!(send(socket, head.as_bytes()));
        send(socket, body.as_bytes());
        // Waits for the first byte of the answer.
        let mut byte = [0];
        assert!(socket.peek(&mut byte).is_ok());
    }
    let closed = sockets.iter().filter(|socket| is_closed(socket)).count();
    assert!(closed >= 12, "{closed} are closed");
    lives(&daemon, "after").await;
}

/// The description is made once: it is the same at the next request, compressed on request, and not sent to a
/// client that has it.
#[tokio::test]
async fn the_description_is_made_once_and_shown_in_no_frame() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    for path in ["openapi.json", "docs"] {
        let ask = |headers: &[(&str, &str)]| {
            let request = daemon.http.get(format!("{}/{path}", daemon.base));
            headers.iter().fold(request, |request, (name, value)| request.header(*name, *value)).send()
        };
        let plain = ask(&[]).await.expect("an answer");
        let tag = plain.headers()["etag"].to_str().expect("text").to_owned();
        assert_eq!(plain.headers()["x-frame-options"], "DENY");
        assert_eq!(plain.headers()["content-security-policy"], "frame-ancestors 'none'");
        assert!(plain.headers().contains_key("cache-control"));
        let text = plain.bytes().await.expect("a body");
        for packed in ["gzip", "zstd, gzip", "br;q=1.0, gzip;q=0.8"] {
            let answer = ask(&[("Accept-Encoding", packed)]).await.expect("an answer");
            assert_eq!(answer.headers()["content-encoding"], "gzip", "{packed}");
            assert_eq!(answer.headers()["etag"], tag);
            let bytes = answer.bytes().await.expect("a body");
            let mut unpacked = Vec::new();
            flate2::read::GzDecoder::new(&bytes[..]).read_to_end(&mut unpacked).expect("gzip");
            assert_eq!(unpacked, text);
        }
        for refused in ["identity", "gzip;q=0", "zstd"] {
            let answer = ask(&[("Accept-Encoding", refused)]).await.expect("an answer");
            assert_eq!(answer.bytes().await.expect("a body"), text, "{refused}");
        }
        let known = ask(&[("If-None-Match", &format!("\"other\", {tag}"))]).await.expect("an answer");
        assert_eq!((known.status().as_u16(), known.bytes().await.expect("a body").len()), (304, 0));
    }
}
