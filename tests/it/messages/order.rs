//! Ordered endpoints: the messages of an org come one after the other.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use serde_json::json;

use super::{endpoint, message, world, write};
use crate::support::World;
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::until;

const ORGS: usize = 5;
const EACH: usize = 12;

/// A third of all answers is a failure: an org's later messages wait for the failed one, other orgs go on.
#[tokio::test]
async fn an_orgs_messages_come_in_order_through_failures_on_two_daemons() {
    let mut setup = world().daemons(2);
    for n in 0..ORGS {
        setup = setup.org(&format!("org-{n}"));
    }
    let world = setup.start().await;
    let receiver = Receiver::start();
    let (id, _) = endpoint(&world, json!({ "url": receiver.url, "ordered": true })).await;
    let mut calls = 0;
    receiver.answers(move |_| {
        calls += 1;
        Reply { after: Duration::from_millis(20), ..Reply::status(if calls % 3 == 0 { 500 } else { 200 }) }
    });
    let orgs: Vec<i64> = (0..ORGS)
        .map(|n| world.number(&format!("SELECT org_id FROM org_refs WHERE ref = 'org-{n}'")))
        .collect();
    write(&world, (0..ORGS * EACH).map(|n| message(orgs[n % ORGS], n)), Utc::now());
    // The waits of retries are seconds here: let them end at once.
    let mut conn = world.owner();
    until("all are delivered", || {
        use diesel::connection::SimpleConnection;
        conn.batch_execute(
            "UPDATE message_deliveries SET next_attempt_at = created_at WHERE state = 'waiting';
             UPDATE message_lanes SET due_at = '-infinity' WHERE due_at <> 'infinity'",
        )
        .expect("updated");
        let ended = world.number("SELECT count(*) FROM message_deliveries WHERE state <> 'waiting'");
        async move { ended == (ORGS * EACH) as i64 }
    })
    .await;
    let got = receiver.received();
    assert!(got.len() > ORGS * EACH, "some failed");
    assert!(receiver.most_open() <= ORGS && receiver.most_open() > 1, "{}", receiver.most_open());
    let mut last: BTreeMap<String, i64> = BTreeMap::new();
    for one in &got {
        let org = one.json()["org"].as_str().expect("an org").to_owned();
        let before = last.insert(org, one.sequence());
        assert!(before.is_none_or(|before| before <= one.sequence()), "{before:?} {one:?}");
    }
    let failed = world.number("SELECT count(*) FROM message_attempts WHERE status = 500");
    assert_eq!(usize::try_from(failed).expect("small"), got.len() - ORGS * EACH);
    assert_eq!(world.get(&format!("/v1/message_endpoints/{id}")).await["last_sequence"], 60);
}

/// While an org's first message waits for its retry, its second is not sent; another org's is.
#[tokio::test]
async fn the_next_message_of_an_org_waits_and_other_orgs_go_on() {
    let world = World::new().at("2026-11-28T12:00:00Z").org("acme").org("other").start().await;
    let receiver = Receiver::start();
    endpoint(&world, json!({ "url": receiver.url, "ordered": true })).await;
    receiver.answers(|got| Reply::status(if got.json()["data"]["n"] == 0 { 500 } else { 200 }));
    let other = world.number("SELECT org_id FROM org_refs WHERE ref = 'other'");
    let acme = super::acme(&world);
    write(&world, [message(acme, 0), message(acme, 1), message(other, 2)], world.clock().now());
    receiver.gets(2).await;
    tokio::time::sleep(Duration::from_millis(400)).await;
    let numbers = |all: &[crate::support::receiver::Received]| {
        all.iter().map(|got| got.json()["data"]["n"].as_i64().expect("a number")).collect::<Vec<_>>()
    };
    let mut first = numbers(&receiver.received());
    first.sort_unstable();
    assert_eq!(first, [0, 2]);
    // When it is given up, the next one goes.
    for _ in 0..11 {
        let wait = TimeDelta::hours(24);
        let count = receiver.count();
        let later = world.clock().now() + wait;
        world.execute("UPDATE message_lanes SET failing_since = NULL");
        world.turn(&later.to_rfc3339());
        receiver.gets(count + 1).await;
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    // After ten failures in a row the endpoint gets a rest.
    world.turn(&(world.clock().now() + TimeDelta::minutes(1)).to_rfc3339());
    let got = receiver.gets(14).await;
    assert_eq!(numbers(&got)[2..], [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
}
