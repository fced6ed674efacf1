//! Measures how fast messages are sent, as ratios within one run.
//!
//! One daemon, its PostgreSQL (fsync on) and the receivers share the machine. All endpoints get every
//! message. Compared are: the bare client, which sends as many requests without a database; several fast
//! endpoints alone; and the same beside one endpoint that takes two seconds for each answer and one that is
//! dead.
//!
//! `cargo bench --bench messages` runs it. `-- MESSAGES ENDPOINTS` sets the sizes.

#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use coulomb::app::App;
use coulomb::auth::PLATFORM;
use coulomb::config::Config;
use coulomb::db::{self, Db, DbOptions, migrate};
use coulomb::egress::{AllowList, Client, ClientOptions, TargetRules};
use coulomb::messages::endpoints::{self, NewEndpoint};
use coulomb::messages::secrets::Signature;
use coulomb::messages::{self, NewMessage};
use coulomb::time::Clock;
use coulomb::workers::Workers;
use diesel::connection::SimpleConnection;
use diesel::pg::PgConnection;
use serde_json::json;
use support::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Messages that one transaction writes.
const TOGETHER: usize = 50;

fn main() {
    let mut numbers = std::env::args().filter_map(|arg| arg.parse::<usize>().ok());
    let (count, fast) = (numbers.next().unwrap_or(5000), numbers.next().unwrap_or(4));
    let postgres = Postgres::start();
    let mut conn = db::connect_as_login(&postgres.url).expect("connects");
    migrate::run(&mut conn).expect("migrates");
    let rules =
        TargetRules { allow_http: true, allowed: AllowList::parse("127.0.0.0/8").expect("a network") };
    let receivers: Vec<Receiver> = (0..fast).map(|_| Receiver::start(Duration::ZERO)).collect();
    let bare = bare_client(&receivers, &rules, count);
    println!("bare client: {bare:.0} requests/s");

    let settings = |name: &str| {
        let value = match name {
            "COULOMB_MESSAGE_ALLOW_HTTP" => "true",
            "COULOMB_MESSAGE_ALLOW" => "127.0.0.0/8",
            "COULOMB_LOG" => "error",
            _ => return None,
        };
        Some(value.to_owned())
    };
    let config = Config::from_sources(&settings, &std::collections::BTreeMap::new()).expect("settings");
    let db = Db::new(DbOptions {
        url: postgres.url.clone(),
        size: 4,
        wait: Duration::from_secs(1),
        statement_timeout: Duration::ZERO,
        lock_timeout: Duration::ZERO,
        silence: Duration::from_secs(60),
        roles: true,
    });
    let app = Arc::new(App::new(config, Clock::system(), db));
    let workers = Workers::start(&app);
    let none = messages_per_s(&mut conn, &[], count, 0);
    println!("writing alone, no endpoint: {none:.0} messages/s");
    for receiver in &receivers {
        add(&mut conn, &rules, &receiver.url);
    }
    let alone = messages_per_s(&mut conn, &receivers, count, 1);
    let deliveries = alone * fast as f64;
    println!("{fast} fast endpoints alone: {alone:.0} messages/s, {deliveries:.0} deliveries/s");
    let slow = Receiver::start(Duration::from_secs(2));
    add(&mut conn, &rules, &slow.url);
    add(&mut conn, &rules, "http://127.0.0.1:9/");
    let beside = messages_per_s(&mut conn, &receivers, count, 2);
    println!("beside a slow and a dead endpoint: {beside:.0} messages/s; the slow one got {}", slow.count());
    println!("deliveries / bare client: {:.2}", deliveries / bare);
    println!("beside a slow and a dead one / alone: {:.2}", beside / alone);
    workers.stop();
}

/// Makes an endpoint of the platform.
fn add(conn: &mut PgConnection, rules: &TargetRules, url: &str) {
    let new = NewEndpoint {
        org: None,
        url: url.to_owned(),
        description: String::new(),
        kinds: Vec::new(),
        ordered: false,
        with_object: false,
        signature: Signature::V1,
    };
    endpoints::create(conn, rules, PLATFORM, &new, chrono::Utc::now()).expect("made");
}

/// Writes messages, and waits until every receiver has got all of them.
fn messages_per_s(conn: &mut PgConnection, receivers: &[Receiver], count: usize, run: usize) -> f64 {
    let before: Vec<usize> = receivers.iter().map(Receiver::count).collect();
    let started = Instant::now();
    let numbers: Vec<usize> = (0..count).collect();
    for part in numbers.chunks(TOGETHER) {
        let new = part.iter().map(|n| NewMessage {
            org_id: PLATFORM,
            kind: "month.closed",
            dedupe_key: format!("bench:{run}:{n}"),
            data: json!({ "month": "2026-10", "sha256": "0".repeat(64), "signed": false }),
            object: None,
        });
        conn.batch_execute("BEGIN").expect("begins");
        messages::write(conn, new.collect(), chrono::Utc::now()).expect("written");
        conn.batch_execute("COMMIT").expect("commits");
    }
    while receivers.iter().zip(&before).any(|(receiver, before)| receiver.count() < before + count) {
        assert!(started.elapsed() < Duration::from_secs(300), "messages do not come");
        std::thread::sleep(Duration::from_millis(5));
    }
    count as f64 / started.elapsed().as_secs_f64()
}

/// The same number of requests by the client alone, 16 to a receiver at once.
fn bare_client(receivers: &[Receiver], rules: &TargetRules, count: usize) -> f64 {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let options = ClientOptions { rules: rules.clone(), timeout: Duration::from_secs(15) };
    let client = Client::new(options);
    let body = Bytes::from(vec![b' '; 250]);
    let started = Instant::now();
    runtime.block_on(async {
        let each = receivers.iter().flat_map(|receiver| std::iter::repeat_n(receiver, 16));
        let senders = each.map(|receiver| {
            let (client, body) = (client.clone(), body.clone());
            async move {
                for _ in 0..count / 16 {
                    let headers = [("webhook-signature", "v1,".to_owned() + &"A".repeat(44))];
                    client.post(&receiver.url, &headers, body.clone()).await.expect("an answer");
                }
            }
        });
        futures_util::future::join_all(senders).await;
    });
    (count / 16 * 16 * receivers.len()) as f64 / started.elapsed().as_secs_f64()
}

/// A server on a thread of its own that answers 200.
struct Receiver {
    url: String,
    count: Arc<AtomicUsize>,
}

impl Receiver {
    fn start(after: Duration) -> Self {
        let (told, address) = std::sync::mpsc::channel();
        let count: Arc<AtomicUsize> = Arc::default();
        let counted = Arc::clone(&count);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async move {
                let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
                told.send(listener.local_addr().expect("an address")).expect("somebody waits");
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::spawn(serve(stream, Arc::clone(&counted), after));
                }
            });
        });
        Self { url: format!("http://{}/", address.recv().expect("it listens")), count }
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Answers each request. A request ends with its body, which comes together with its head.
async fn serve(mut stream: TcpStream, count: Arc<AtomicUsize>, after: Duration) {
    let mut buffer = vec![0; 16 << 10];
    let mut filled = 0;
    while let Ok(n @ 1..) = stream.read(&mut buffer[filled..]).await {
        filled += n;
        let head = buffer[..filled].windows(4).position(|part| part == b"\r\n\r\n").map(|at| at + 4);
        let Some(head) = head else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split('\r').next());
        let length: usize = length.and_then(|length| length.parse().ok()).unwrap_or(0);
        if filled < head + length {
            continue;
        }
        filled = 0;
        count.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(after).await;
        if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.is_err() {
            return;
        }
    }
}
