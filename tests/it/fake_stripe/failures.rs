//! What goes wrong on purpose, and how events are delivered.

use serde_json::json;

use super::{MIDNIGHT, client};
use crate::support::fake_stripe::{Chances, Fault, LIVE_KEY};
use crate::support::receiver::{Receiver, Reply as Answer};

#[tokio::test]
async fn too_many_requests_are_refused_with_a_reason() {
    let client = client();
    client.fake.limit_requests(Some(2.0));
    let mut statuses = Vec::new();
    for _ in 0..3 {
        statuses.push(client.get("/v1/customers").await);
    }
    assert_eq!(statuses.iter().map(|reply| reply.status).collect::<Vec<_>>(), [200, 200, 429]);
    let last = &statuses[2];
    assert_eq!((last.header("stripe-rate-limited-reason"), last.header("retry-after")), ("global-rate", "1"));
    assert_eq!(last.body["error"]["code"], "rate_limit");
    // Another mode has a budget of its own.
    assert_eq!(client.send(client.request("GET", "/v1/customers", LIVE_KEY)).await.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(client.get("/v1/customers").await.status, 200);
    assert_eq!(client.fake.requests().iter().filter(|request| request.status == 429).count(), 1);
}

#[tokio::test]
async fn faults_happen_before_or_after_the_effect() {
    let client = client();
    let account = client.fake.account("");
    let body = "metadata[org_id]=acme";
    let patient = std::time::Duration::from_millis(200);
    let cases = [
        (Fault::Before(503), Some(503), 0),
        (Fault::Conflict, Some(409), 0),
        (Fault::Limited("endpoint-rate", 2), Some(429), 0),
        (Fault::After(502), Some(502), 1),
        (Fault::CutHeaders, None, 1),
        (Fault::CutBody, None, 1),
        (Fault::Hang, None, 0),
        (Fault::HangAfter, None, 1),
    ];
    for (fault, status, effects) in cases {
        let before = account.ids("customer").len();
        client.fake.fail_next("/v1/customers", fault);
        let sent = client.form("/v1/customers", body).timeout(patient).send().await;
        let seen = match sent {
            Ok(answer) => {
                let status = answer.status().as_u16();
                answer.bytes().await.ok().map(|_| status)
            }
            Err(_) => None,
        };
        assert_eq!(seen, status, "{fault:?}");
        assert_eq!(account.ids("customer").len() - before, effects, "{fault:?}");
    }
    // Half of the requests fail by chance, and the same seed fails the same ones.
    let mut runs = Vec::new();
    for _ in 0..2 {
        client.fake.set_faults(7, Chances { before: 0.5, ..Chances::default() });
        let mut statuses = Vec::new();
        for _ in 0..20 {
            statuses.push(client.get("/v1/customers").await.status);
        }
        runs.push(statuses);
    }
    assert_eq!(runs[0], runs[1]);
    let failed = runs[0].iter().filter(|status| **status >= 500).count();
    assert!((4..=16).contains(&failed), "{:?}", runs[0]);
}

#[tokio::test]
async fn objects_change_between_pages() {
    let client = client();
    let account = client.fake.account("");
    for number in 1..=4 {
        account.create("customer", json!({ "id": format!("cus_{number}"), "created": MIDNIGHT + number }));
    }
    client.fake.on_every(2, |fake| {
        fake.account("").create("customer", json!({ "id": "cus_9", "created": MIDNIGHT + 9 }));
        fake.account("").delete("customer", "cus_2");
    });
    assert_eq!(client.get("/v1/customers?limit=2").await.page(), "cus_4 cus_3+");
    assert_eq!(client.get("/v1/customers?limit=2&starting_after=cus_3").await.page(), "cus_1");
}

#[tokio::test]
async fn events_are_signed_and_delivered_repeated_or_withheld() {
    let client = client();
    let (account, receiver) = (client.fake.account(""), Receiver::start());
    client.fake.set_endpoint(&receiver.url, "whsec_1");
    client.fake.set_deliveries(0.3, 0.3, true);
    for number in 0..40 {
        account.create("customer", json!({ "id": format!("cus_{number}") }));
    }
    assert_eq!(client.fake.deliver_all().await, 0);
    let received = receiver.received();
    let ids: Vec<String> =
        received.iter().map(|one| one.json()["id"].as_str().expect("an id").to_owned()).collect();
    let distinct: std::collections::BTreeSet<&String> = ids.iter().collect();
    let withheld = client.fake.withheld();
    assert_eq!(distinct.len() + withheld.len(), 40);
    assert!(!withheld.is_empty() && ids.len() > distinct.len());
    assert!(withheld.iter().all(|id| !distinct.contains(id)));
    let told: Vec<String> =
        account.events().iter().map(|event| event["id"].as_str().expect("an id").to_owned()).collect();
    let in_order: Vec<&String> = told.iter().filter(|id| distinct.contains(id)).collect();
    assert_ne!(ids.iter().collect::<Vec<_>>()[..5], in_order[..5]);
    for id in &withheld {
        assert_eq!(client.get(&format!("/v1/events/{id}")).await.status, 200);
    }
    let body = received[0].body.as_bytes();
    let signature = format!("t={MIDNIGHT},v1={}", crate::support::stripe::v1("whsec_1", MIDNIGHT, body));
    assert_eq!(received[0].header("stripe-signature"), signature);
    // What was not taken waits, and comes again.
    client.fake.set_deliveries(0.0, 0.0, false);
    receiver.answers(|_| Answer::status(500));
    account.create("customer", json!({ "id": "cus_late" }));
    assert_eq!((client.fake.deliver_all().await, client.fake.waiting()), (1, 1));
    receiver.answers(|_| Answer::status(200));
    assert_eq!((client.fake.deliver_all().await, client.fake.waiting()), (0, 0));
}
