//! `kill -9` of two daemons while 64 clients finalise invoices and record payments, each until it is
//! acknowledged: numbers have no gap, and nothing happens twice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::requests::Request;
use crate::support::{Daemon, Database, SECRET};

use crate::support::invoicing::{billing, invoice, on_invoice, seller, tax_rate};
use crate::support::requests::org;

const CLIENTS: usize = 64;
const INVOICES: usize = 160;
const ORGS: usize = 5;
const KILLS: usize = 10;

/// A daemon that is killed and comes back at the same address.
struct Mortal {
    address: String,
    daemon: Daemon,
}

impl Mortal {
    fn start(database: &Database) -> Self {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("an address").to_string();
        drop(free);
        Self { daemon: Self::spawn(database, &address), address }
    }

    fn spawn(database: &Database, address: &str) -> Daemon {
        let mut command = database.command(&["serve"]);
        command.env("STRIPE_WEBHOOK_SECRET", SECRET).env("COULOMB_LISTEN", address);
        command.env("COULOMB_LOG", "off").env("COULOMB_POOL_WAIT_MS", "30000");
        Daemon::spawn(command)
    }

    fn dies_and_comes_back(&mut self, database: &Database) {
        self.daemon.kill();
        self.daemon = Self::spawn(database, &self.address);
    }
}

/// Sends a request until it is acknowledged, at one address and then the other.
async fn acknowledged(http: &reqwest::Client, bases: &[String; 2], key: &str, request: &Request) -> Value {
    for turn in 0.. {
        let url = format!("{}{}", bases[turn % 2], request.path);
        let mut asked = http.request(request.method.clone(), url).bearer_auth(key);
        if !request.body.is_null() {
            asked = asked.json(&request.body);
        }
        if let Ok(sent) = asked.send().await
            && sent.status().is_success()
            && let Ok(body) = sent.json().await
        {
            return body;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("it tries for ever")
}

#[tokio::test(flavor = "multi_thread")]
async fn kills_leave_no_gap_and_book_nothing_twice() {
    let database = Database::new();
    let key = database.key("admin,billing:write,billing:read", None);
    let mut daemons = [Mortal::start(&database), Mortal::start(&database)];
    let bases = [0, 1].map(|n: usize| daemons[n].daemon.base.clone());
    let http = reqwest::Client::builder().timeout(Duration::from_secs(40)).build().expect("a client");
    let mut setup = vec![tax_rate("zero", "0"), seller("blazz")];
    for n in 0..ORGS {
        setup.extend([org(&format!("org-{n}")), billing(&format!("org-{n}"))]);
    }
    for request in &setup {
        acknowledged(&http, &bases, &key, request).await;
    }
    let mut drafts = Vec::new();
    for n in 0..INVOICES {
        let draft = invoice(&format!("org-{}", n % ORGS)).item("10");
        drafts.push(acknowledged(&http, &bases, &key, &draft).await);
    }
    let (drafts, next) = (Arc::new(drafts), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (http, bases, key) = (http.clone(), bases.clone(), key.clone());
            let (drafts, next) = (Arc::clone(&drafts), Arc::clone(&next));
            tokio::spawn(async move {
                while let Some(draft) = drafts.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let id = draft["id"].as_str().expect("an id");
                    acknowledged(&http, &bases, &key, &on_invoice(id, "finalize")).await;
                    let paid = json!({ "org": draft["org"], "amount": 1000, "currency": "eur",
                        "processor": "paypal", "reference": id, "invoices": [{ "invoice": id }] });
                    let pay = crate::support::requests::request(Method::POST, "/v1/payments", paid);
                    acknowledged(&http, &bases, &key, &pay).await;
                }
            })
        })
        .collect();
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(250)).await;
        daemons[kill % 2].dies_and_comes_back(&database);
    }
    for client in clients {
        client.await.expect("no panic");
    }
    let count = i64::try_from(INVOICES).expect("small");
    for (what, sql) in [
        ("paid invoices", "SELECT count(*) FROM own_invoices WHERE status = 'paid'"),
        ("numbers", "SELECT count(DISTINCT series_number) FROM own_documents"),
        ("the highest number", "SELECT max(series_number) FROM own_documents"),
        ("the last number taken", "SELECT last FROM document_numbers"),
        ("payments", "SELECT count(*) FROM own_payments"),
        ("payment entries", "SELECT count(*) FROM account_entries WHERE kind = 'payment'"),
        ("invoice entries", "SELECT count(*) FROM account_entries WHERE kind = 'invoice'"),
    ] {
        assert_eq!(database.number(sql), count, "{what}");
    }
    assert_eq!(database.number("SELECT sum(balance) FROM accounts"), 0);
    // A last look at a daemon that was killed.
    let (status, _) = answer(daemons[0].daemon.request(Method::GET, "/v1/invoices?limit=1", &key)).await;
    assert_eq!(status, 200);
    database.run(&["verify"]);
}
