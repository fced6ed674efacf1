//! Faults around the built binary: nothing acknowledged is lost or doubled, the daemon works again within ten
//! seconds of the fault's end, and SIGTERM always ends it.

mod amounts;
mod clock;
mod corrections;
mod flood;
mod full_disk;
mod log;
mod lost_commit;
mod panics;
mod silent;
mod standby;
mod stopped;
mod verify;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::events::{customer, event};
use crate::support::stripe::signature;
use crate::support::{Daemon, Database, Proxy};

/// Time within which the daemon works again after a fault's end; longer than promised, for busy machines.
const BACK_WITHIN: Duration = Duration::from_secs(20);

/// A daemon that reaches its database through a network that a test breaks, with an org `acme`, a meter and a
/// slot.
struct Place {
    database: Database,
    proxy: Proxy,
    daemon: Daemon,
    key: String,
}

impl Place {
    async fn new(settings: &[(&str, &str)]) -> Self {
        Self::on(Database::new(), settings).await
    }

    async fn on(database: Database, settings: &[(&str, &str)]) -> Self {
        let proxy = Proxy::to(&database);
        let mut all = vec![("DATABASE_URL", &*proxy.url)];
        all.extend(settings);
        let daemon = Daemon::with(&database, &all);
        let key = database.key("billing:write,billing:read,usage:read,usage:write", None);
        daemon.org(&key, "acme", "UTC").await;
        database.meter(1, "work", "sum", "model", Some(&json!([{ "unit_cost": "0.25" }])));
        database.slot(1, 1, &json!({}), false, "month");
        Self { database, proxy, daemon, key }
    }

    /// A usage event of `acme`.
    fn event(&self, id: &str, value: i64) -> Value {
        json!({ "id": id, "source": "t", "org": "acme", "event_name": "work",
            "data": { "value": value, "model": "a" } })
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, answer) = self.daemon.post(path, &self.key, body).await;
        (status.as_u16(), answer)
    }

    /// Sends a webhook, usage, a command, a check and a reservation at once; returns the statuses in this
    /// order. `n` makes their ids unique.
    async fn each(&self, n: u32) -> [u16; 5] {
        let event = event(
            &format!("evt_{n}"),
            "customer.created",
            1_760_000_000,
            customer(&format!("cus_{n}"), None),
        );
        let body = event.to_string().into_bytes();
        let header = signature(&body);
        let webhook = async { self.daemon.deliver_raw(body.clone(), header.as_bytes()).await.0.as_u16() };
        let usage = async { self.post("/v1/usage", &self.event(&format!("u{n}"), 1)).await.0 };
        let command = async { self.post("/v1/orgs", &json!({ "name": format!("fault {n}") })).await.0 };
        let ask = json!({ "org": "acme", "meter": "meter-1", "amount": 1 });
        let check = async { self.post("/v1/quota/check", &json!({ "items": [&ask] })).await.0 };
        let mut named = ask.clone();
        named["id"] = json!(format!("r{n}"));
        let reserve = async { self.post("/v1/quota/reserve", &named).await.0 };
        let (webhook, usage, command, check, reserve) = tokio::join!(webhook, usage, command, check, reserve);
        [webhook, usage, command, check, reserve]
    }

    /// Sends all of [`Place::each`] until all succeed.
    async fn until_each_done(&self, n: u32) {
        let begun = Instant::now();
        while self.each(n).await != [200, 200, 201, 200, 201] {
            assert!(begun.elapsed() < BACK_WITHIN, "not back within {BACK_WITHIN:?}");
        }
    }

    /// Sends until the answer has this status. Until then the answer must be 503, and not `outcome_unknown`.
    async fn until_done(&self, path: &str, body: &Value, status: u16) {
        loop {
            let (told, answer) = self.post(path, body).await;
            if told == status {
                return;
            }
            assert_eq!(told, 503, "{path}: {answer}");
            assert_ne!(answer["code"], "outcome_unknown", "{path}: {answer}");
        }
    }
}

/// Every request gets its answer within this time, also on a busy machine.
const ANSWERED_WITHIN: Duration = Duration::from_secs(20);

/// Waits until the condition is true.
async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < BACK_WITHIN, "not within {BACK_WITHIN:?}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
