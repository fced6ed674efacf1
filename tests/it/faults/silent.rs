//! Connections to the database on which nothing arrives any more, and which no side closes.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{BACK_WITHIN, Place, eventually};
use crate::support::events::{customer, event};
use crate::support::stripe::signature;

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fall_silent_are_given_up() {
    let mut place = Place::new(&[("COULOMB_DRAIN_S", "5")]).await;
    // Every connection of the daemon has been used.
    let work = |n: u32| {
        let place = &place;
        async move {
            let usage = async {
                place.until_done("/v1/usage", &json!(place.event(&format!("u{n}"), 1)), 200).await;
            };
            let command = async {
                place.until_done("/v1/orgs", &json!({ "name": format!("silent {n}") }), 201).await;
            };
            let quota = async {
                let ask = json!({ "org": "acme", "meter": "meter-1", "amount": 1 });
                place.until_done("/v1/quota/check", &json!({ "items": [&ask] }), 200).await;
                place.until_done("/v1/quota/reserve", &ask, 201).await;
            };
            let webhook = async {
                let event = event(
                    &format!("evt_{n}"),
                    "customer.created",
                    1_760_000_000,
                    customer(&format!("cus_{n}"), None),
                );
                let body = event.to_string().into_bytes();
                let header = signature(&body);
                while place.daemon.deliver_raw(body.clone(), header.as_bytes()).await.0 != 200 {}
            };
            let ((), (), (), ()) = tokio::join!(usage, command, quota, webhook);
        }
    };
    work(0).await;
    for n in 1..3 {
        place.proxy.silence();
        let begun = Instant::now();
        work(n).await;
        place.daemon.projected().await;
        assert!(begun.elapsed() < BACK_WITHIN, "back after {:?}", begun.elapsed());
    }
    let database = &place.database;
    assert_eq!(database.number("SELECT count(*) FROM orgs WHERE name LIKE 'silent %'"), 3);
    assert_eq!(database.number("SELECT count(*) FROM usage_records"), 3);
    assert_eq!(database.number("SELECT count(*) FROM stripe_inbox"), 3);
    assert_eq!(database.number("SELECT count(*) FROM quota_reservations"), 3);
    assert_eq!(database.unbalanced(), [] as [String; 0]);
    // Sessions that the daemon has given up do not stay on the server.
    let idle =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    eventually("no transaction is left open", || database.number(idle) == 0).await;
    assert_eq!(place.daemon.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_database_is_told_and_does_not_keep_the_daemon() {
    let mut place = Place::new(&[("COULOMB_DRAIN_S", "3")]).await;
    place.proxy.silence_all(true);
    let begun = Instant::now();
    let event = json!(place.event("1", 1));
    let usage = place.post("/v1/usage", &event);
    let body = json!({ "name": "Nobody" });
    let command = place.post("/v1/orgs", &body);
    let ask = json!({ "org": "acme", "meter": "meter-1", "amount": 1 });
    let items = json!({ "items": [&ask] });
    let quota = place.post("/v1/quota/check", &items);
    let ready = place.daemon.get_text("/readyz");
    let (usage, command, quota, ready) = tokio::join!(usage, command, quota, ready);
    assert_eq!((usage.0, command.0, quota.0, ready.0), (503, 503, 503, 503), "{usage:?} {command:?}");
    assert!(begun.elapsed() < BACK_WITHIN, "answered after {:?}", begun.elapsed());
    let begun = Instant::now();
    place.daemon.stop();
    assert!(begun.elapsed() < Duration::from_secs(30), "ended after {:?}", begun.elapsed());
    place.proxy.silence_all(false);
    assert_eq!(place.database.number("SELECT count(*) FROM orgs WHERE name = 'Nobody'"), 0);
}
