//! The answer to a commit is lost with the connection: the client still learns the outcome.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use serde_json::{Value, json};

use super::Place;
use crate::support::Database;
use crate::support::stripe::signature;

/// Lost commits of a thousand.
const LOST: u32 = 150;

/// How often each name occurs in a query that returns names.
fn counts(database: &Database, sql: &str) -> BTreeMap<String, i64> {
    let all = format!(
        "SELECT coalesce(json_object_agg(name, times), '{{}}') FROM ({sql} GROUP BY 1) AS t (name, times)"
    );
    serde_json::from_str(&database.value(&all).expect("a value")).expect("JSON")
}

/// A careful client: it sends again what the daemon says it has not done. Returns the last answer, or `None`
/// when the outcome is unknown.
async fn insist(place: &Place, path: &str, body: &Value, doubts: &AtomicU64) -> Option<(u16, Value)> {
    loop {
        let (status, answer) = place.post(path, body).await;
        match (status, answer["code"].as_str()) {
            (503, Some("outcome_unknown")) => {
                doubts.fetch_add(1, Ordering::SeqCst);
                return None;
            }
            (503, _) => {}
            _ => return Some((status, answer)),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_are_told_as_they_ended() {
    let place = Place::new(&[]).await;
    place.proxy.lose_commits(LOST);
    let doubts = AtomicU64::new(0);
    let client = |n: u64| {
        let (place, doubts) = (&place, &doubts);
        async move {
            let mut told = Vec::new();
            for i in 0..50 {
                let name = format!("org {n} {i}");
                let made = insist(place, "/v1/orgs", &json!({ "name": name }), doubts).await;
                if let Some((status, answer)) = &made {
                    assert_eq!(*status, 201, "{answer}");
                }
                told.push((name, made.is_some()));
            }
            told
        }
    };
    let told: Vec<_> =
        futures_util::future::join_all((0..6).map(client)).await.into_iter().flatten().collect();
    place.proxy.lose_commits(0);
    let (done, undone) = place.proxy.lost();
    assert!(done > 5 && undone > 5, "{done} done commits lost their answer, {undone} never arrived");
    let there = counts(&place.database, "SELECT name, count(*) FROM orgs WHERE name LIKE 'org %'");
    for (name, certain) in told {
        let times = there.get(&name).copied().unwrap_or_default();
        assert!(
            if certain { times == 1 } else { times <= 1 },
            "{name} is stored {times} times, reported {certain}"
        );
    }
    assert_eq!(doubts.into_inner(), 0, "the daemon could ask the database each time");
    let entries = "SELECT count(*) FROM audit_log WHERE action = 'org.create'";
    assert_eq!(place.database.number(entries), place.database.number("SELECT count(*) FROM orgs"));
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_told_as_it_was_stored() {
    let place = Place::new(&[]).await;
    place.proxy.lose_commits(LOST);
    let doubts = AtomicU64::new(0);
    let client = |n: u64| {
        let (place, doubts) = (&place, &doubts);
        async move {
            for i in 0..25 {
                let events: Vec<_> = (0..20).map(|k| place.event(&format!("{n}-{i}-{k}"), 1)).collect();
                let path = if i % 3 == 0 { "/v1/usage?all_or_nothing=true" } else { "/v1/usage" };
                let Some((status, answer)) = insist(place, path, &json!(events), doubts).await else {
                    continue;
                };
                assert_eq!(status, 200, "{answer}");
                let all = answer["results"].as_array().expect("results");
                assert!(
                    all.iter().all(|one| one["status"] == "accepted"),
                    "sent once, reported as new: {answer}"
                );
            }
            for i in 0..10 {
                // A repeat of these commands would be refused.
                let event = json!({ "event": {
                    "transaction_id": format!("lago-{n}-{i}"), "external_subscription_id": "acme",
                        "code": "work",
                    "properties": { "value": 1, "model": "a" },
                } });
                if let Some((status, answer)) = insist(place, "/api/v1/events", &event, doubts).await {
                    assert_eq!(status, 200, "{answer}");
                }
            }
        }
    };
    futures_util::future::join_all((0..4).map(client)).await;
    place.proxy.lose_commits(0);
    let (done, undone) = place.proxy.lost();
    assert!(done > 2 && undone > 2, "{done} done commits lost their answer, {undone} never arrived");
    assert_eq!(doubts.into_inner(), 0, "the daemon could ask the database each time");
    assert_eq!(place.database.number("SELECT count(*) FROM usage_records"), 4 * (25 * 20 + 10));
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_stored_once_for_each_delivery() {
    let place = Place::new(&[("COULOMB_INBOX_WRITERS", "3")]).await;
    place.proxy.lose_commits(LOST);
    let again = AtomicU64::new(0);
    let client = |n: u64| {
        let (place, again) = (&place, &again);
        async move {
            for i in 0..40 {
                let id = format!("evt_{n}_{i}");
                let customer = crate::support::events::customer(&format!("cus_{n}_{i}"), None);
                let event = crate::support::events::event(&id, "customer.created", 1_760_000_000, customer);
                let body = event.to_string().into_bytes();
                let header = signature(&body);
                while place.daemon.deliver_raw(body.clone(), header.as_bytes()).await.0 != 200 {
                    again.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    };
    futures_util::future::join_all((0..6).map(client)).await;
    place.proxy.lose_commits(0);
    let (done, undone) = place.proxy.lost();
    assert!(done > 2 && undone > 2, "{done} done commits lost their answer, {undone} never arrived");
    place.daemon.projected().await;
    assert_eq!(place.database.number("SELECT count(*) FROM stripe_inbox"), 240);
    let (repeats, again) =
        (place.database.number("SELECT count(*) FROM stripe_inbox_redeliveries"), again.into_inner());
    assert!(
        repeats <= i64::try_from(again).expect("few"),
        "{repeats} repeats of {again} that were sent again"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_are_told_as_they_are() {
    let place = Place::new(&[]).await;
    let quota = json!({ "org": "acme", "meter": "meter-1", "limit": "1000000", "period": "month" });
    let (status, made) = place.post("/v1/quotas", &quota).await;
    assert_eq!(status, 201, "{made}");
    place.proxy.lose_commits(LOST);
    let doubts = AtomicU64::new(0);
    let client = |_| {
        let (place, doubts) = (&place, &doubts);
        async move {
            let mut held = 0;
            for i in 0..30 {
                let ask = json!({ "org": "acme", "meter": "meter-1", "amount": 1 });
                let Some((status, made)) = insist(place, "/v1/quota/reserve", &ask, doubts).await else {
                    continue;
                };
                assert_eq!(status, 201, "{made}");
                let id = made["id"].as_str().expect("an id");
                let end = match i % 3 {
                    0 => "settle",
                    1 => "release",
                    _ => {
                        held += 1;
                        continue;
                    }
                };
                if let Some((status, ended)) =
                    insist(place, &format!("/v1/quota/{id}/{end}"), &json!({}), doubts).await
                {
                    let state = if end == "settle" { "settled" } else { "released" };
                    assert_eq!((status, &ended["state"]), (200, &json!(state)), "{ended}");
                }
            }
            held
        }
    };
    let held: i64 = futures_util::future::join_all((0..4).map(client)).await.into_iter().sum();
    place.proxy.lose_commits(0);
    let (done, undone) = place.proxy.lost();
    assert!(done > 2 && undone > 2, "{done} done commits lost their answer, {undone} never arrived");
    assert_eq!(doubts.into_inner(), 0, "a repeat always finds the first result");
    let open = place.database.number("SELECT count(*) FROM quota_reservations WHERE state = 'open'");
    assert_eq!(open, held, "exactly the reported reservations exist");
    assert_eq!(place.database.number("SELECT count(*) FROM quota_reservations"), 120);
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);
}

/// If the database cannot be asked, the answer says that the outcome is unknown, and how to find out.
#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_can_find_out_is_said_to_be_unknown() {
    let place = Place::new(&[("COULOMB_DATABASE_SILENCE_MS", "1000")]).await;
    place.until_each_done(0).await;
    for round in 0..2 {
        let name = format!("unknown-{round}");
        let (path, body, there) = match round {
            0 => (
                "/v1/orgs",
                json!({ "name": name, "external_id": name }),
                format!("SELECT count(*) FROM orgs WHERE external_id = '{name}'"),
            ),
            _ => (
                "/v1/usage",
                place.event(&name, 1),
                format!("SELECT count(*) FROM usage_records WHERE event_id = '{name}'"),
            ),
        };
        place.proxy.vanish_with(&name);
        let (status, answer) = place.post(path, &body).await;
        place.proxy.silence_all(false);
        assert_eq!((status, &answer["code"]), (503, &json!("outcome_unknown")), "{answer}");
        assert!(answer["detail"].as_str().is_some_and(|told| told.contains("again")), "{answer}");
        place.until_each_done(10 + round).await;
        // Sent again, it is stored once, whether or not the commit had arrived.
        let (status, answer) = place.post(path, &body).await;
        assert!(matches!(status, 200 | 201 | 409), "{status} {answer}");
        assert_eq!(place.database.number(&there), 1, "{name}");
    }
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);
}
