//! What becomes of messages that are not accepted.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use coulomb::messages::retention;
use serde_json::{Value, json};

use super::{acme, endpoint, message, on, receiving, write};
use crate::support::World;
use crate::support::receiver::{Receiver, Reply};
use crate::support::world::until;

const START: &str = "2026-11-28T12:00:00Z";

async fn world() -> World {
    World::new().at(START).org("acme").start().await
}

/// Waits until this many attempts of the first delivery are noted, and returns all.
async fn attempts(world: &World, id: &str, count: usize) -> Vec<Value> {
    let path = format!("/v1/message_endpoints/{id}/deliveries/1/attempts");
    until("the attempts are noted", || async { world.get(&path).await.rows().len() >= count }).await;
    world.get(&path).await.rows().to_vec()
}

/// When the next attempt of the first delivery is due.
async fn due(world: &World, id: &str) -> DateTime<Utc> {
    let deliveries = world.get(&format!("/v1/message_endpoints/{id}/deliveries")).await;
    deliveries.text("data.0.next_attempt_at").parse().expect("a time")
}

fn turn(world: &World, to: DateTime<Utc>) {
    world.turn(&to.to_rfc3339());
}

#[tokio::test]
async fn a_delivery_is_tried_for_about_three_days_and_then_given_up() {
    let world = world().await;
    let (receiver, id) = receiving(&world).await;
    receiver.answers(|_| Reply { body: "no".repeat(3000), ..Reply::status(503) });
    let began = world.clock().now();
    write(&world, [message(acme(&world), 1)], began);
    for tried in 1..=11 {
        attempts(&world, &id, tried).await;
        let next = due(&world, &id).await;
        assert!(next > world.clock().now(), "{tried}");
        turn(&world, next - TimeDelta::milliseconds(1));
        tokio::time::sleep(std::time::Duration::from_millis(250)).await;
        assert_eq!(receiver.count(), tried, "too early");
        turn(&world, next);
    }
    let all = attempts(&world, &id, 12).await;
    let spent = world.clock().now() - began;
    assert!((TimeDelta::hours(57)..TimeDelta::hours(87)).contains(&spent), "{spent}");
    let listed = world.get(&format!("/v1/message_endpoints/{id}/deliveries")).await;
    assert_eq!(listed.pick(["data.0.state", "data.0.attempts"]), json!(["given_up", 12]));
    assert!(all.iter().all(|one| one["status"] == 503 && one["error"].is_null()), "{all:?}");
    assert!(all.iter().all(|one| one["excerpt"].as_str().is_some_and(|text| text.len() == 1024)));
    let got = receiver.received();
    assert!(got.iter().all(|one| one.header("webhook-id") == got[0].header("webhook-id")));
    assert_ne!(got[0].header("webhook-timestamp"), got[11].header("webhook-timestamp"));

    // By hand it is sent again, with a schedule of its own.
    receiver.answers_with(200);
    // After so many failures the endpoint has a rest of seconds.
    turn(&world, world.clock().now() + TimeDelta::seconds(10));
    world.send(on(&id, "deliveries/1/resend", json!(null))).await.status(200);
    assert_eq!(attempts(&world, &id, 13).await[12]["status"], 200);
    let listed = world.get(&format!("/v1/message_endpoints/{id}/deliveries?state=delivered")).await;
    assert_eq!(listed.column("sequence"), json!([1]));
}

#[tokio::test]
async fn the_receiver_says_when_and_redirects_are_failures() {
    let world = world().await;
    let (receiver, id) = receiving(&world).await;
    let elsewhere = Receiver::start();
    let headers = format!("retry-after: 3600\r\nlocation: {}\r\n", elsewhere.url);
    receiver.answers(move |_| Reply { headers: headers.clone(), ..Reply::status(302) });
    write(&world, [message(acme(&world), 1)], world.clock().now());
    let all = attempts(&world, &id, 1).await;
    assert_eq!(all[0]["status"], 302);
    assert_eq!(due(&world, &id).await, world.clock().now() + TimeDelta::hours(1));
    assert_eq!(elsewhere.count(), 0);
    let failing = world.get(&format!("/v1/message_endpoints/{id}")).await;
    assert_eq!(failing["failing_since"], START);
    receiver.answers_with(204);
    world.turn("2026-11-28T13:00:00Z");
    assert_eq!(attempts(&world, &id, 2).await[1]["status"], 204);
    until("it fails no longer", || async {
        world.get(&format!("/v1/message_endpoints/{id}")).await["failing_since"].is_null()
    })
    .await;
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_disabled_and_the_others_hear_of_it() {
    let world = world().await;
    let (other, _) = receiving(&world).await;
    let (gone, id) = receiving(&world).await;
    gone.answers_with(410);
    write(&world, [message(acme(&world), 1)], world.clock().now());
    let told = other.gets(2).await.remove(1).json();
    assert_eq!(told["type"], "endpoint.disabled");
    assert_eq!(told["data"], json!({ "org": null, "endpoint": id, "url": gone.url, "reason": "gone" }));
    let shown = world.get(&format!("/v1/message_endpoints/{id}")).await;
    assert_eq!(shown.pick(["enabled", "disabled_reason"]), json!([false, "gone"]));
    let said = String::from_utf8(world.command(&["doctor"]).output().expect("it runs").stdout).expect("text");
    let line = said.lines().find(|line| line.contains("endpoints:")).expect("a finding");
    assert!(line.starts_with("BAD ") && line.contains(&id) && line.contains("answered 410"), "{line}");

    // What comes meanwhile is not assigned to it; what waited goes on when it is enabled, and a replay brings
    // the rest.
    write(&world, [message(acme(&world), 2)], world.clock().now());
    other.gets(3).await;
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert_eq!(gone.count(), 1);
    gone.answers_with(200);
    world.patch(&format!("/v1/message_endpoints/{id}"), json!({ "enabled": true })).await.ok();
    turn(&world, due(&world, &id).await);
    assert_eq!(gone.gets(2).await[1].json()["data"], json!({ "n": 1 }));
    let replay = world.send(on(&id, "replay", json!({ "since": START }))).await.status(200);
    assert_eq!(replay["deliveries"], 3);
    let mut again: Vec<i64> = gone.gets(5).await[2..].iter().map(|got| got.sequence()).collect();
    again.sort_unstable();
    assert_eq!(again, [2, 3, 4], "in whatever order");
    let said = String::from_utf8(world.command(&["doctor"]).output().expect("it runs").stdout).expect("text");
    assert!(said.contains("ok   endpoints: no endpoint of messages fails"), "{said}");
}

#[tokio::test]
async fn an_endpoint_that_only_fails_for_days_is_disabled() {
    let world = world().await;
    let (other, _) = receiving(&world).await;
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/", free.local_addr().expect("an address"));
    drop(free);
    let (id, _) = endpoint(&world, json!({ "url": url, "kinds": ["invoice."] })).await;
    write(&world, [message(acme(&world), 1)], world.clock().now());
    let first = attempts(&world, &id, 1).await;
    assert_eq!(first[0]["status"], Value::Null);
    assert!(first[0]["error"].as_str().is_some_and(|why| why.contains("refused")), "{first:?}");
    world.turn("2026-12-03T11:59:59Z");
    attempts(&world, &id, 2).await;
    assert_eq!(world.get(&format!("/v1/message_endpoints/{id}")).await["enabled"], true);
    world.turn("2026-12-03T13:00:00Z");
    let told = other.gets(2).await.remove(1).json();
    assert_eq!((&told["type"], &told["data"]["reason"]), (&json!("endpoint.disabled"), &json!("failing")));
}

/// The retention deletes deliveries and empties messages; their keys stay, so a cause that is processed again
/// writes none a second time.
#[tokio::test]
async fn old_messages_go_and_are_not_written_again() {
    let world = world().await;
    let (receiver, _) = receiving(&world).await;
    write(&world, [message(acme(&world), 1)], world.clock().now());
    receiver.gets(1).await;
    until("it is noted", || async {
        world.number("SELECT count(*) FROM message_deliveries WHERE state = 'delivered'") == 1
    })
    .await;
    world.turn("2026-11-29T12:00:00Z");
    write(&world, [message(acme(&world), 2)], world.clock().now());
    receiver.gets(2).await;
    let oldest = world.clock().now() - TimeDelta::hours(1);
    assert_eq!(retention::forget_old(&mut world.platform(), oldest).expect("deleted"), 2);
    assert_eq!(retention::forget_old(&mut world.platform(), oldest).expect("deleted"), 0);
    assert_eq!(world.get("/v1/messages").await.column("data.n"), json!([2]));
    assert_eq!(world.number("SELECT min(sequence) FROM message_deliveries"), 2);
    assert_eq!(world.number("SELECT count(*) FROM message_attempts WHERE sequence = 1"), 0);
    write(&world, [message(acme(&world), 1)], world.clock().now());
    assert_eq!(world.number("SELECT count(*) FROM outbox_messages WHERE payload IS NOT NULL"), 1);
    assert_eq!(world.number("SELECT count(*) FROM outbox_messages"), 2);
}

/// The daemon loses its session at the database while a request is on its way, and sends again by a new one.
/// Each sending has its row, and a delivery that has ended is sent no more.
#[tokio::test]
async fn every_sending_is_an_attempt_also_after_a_lost_session() {
    let world = super::world().start().await;
    let (receiver, id) = receiving(&world).await;
    receiver.answers(|_| Reply { after: Duration::from_millis(700), ..Reply::status(200) });
    write(&world, [message(acme(&world), 1)], Utc::now());
    receiver.gets(1).await;
    let ended = "SELECT count(pg_terminate_backend(holder_pid)) FROM message_lanes
        WHERE holder_pid IS NOT NULL";
    assert_eq!(world.number(ended), 1);
    receiver.gets(2).await;
    until("it is delivered", || async {
        world.number("SELECT count(*) FROM message_deliveries WHERE state = 'delivered'") == 1
    })
    .await;
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(receiver.count(), 2);
    let attempts = world.get(&format!("/v1/message_endpoints/{id}/deliveries/1/attempts")).await;
    assert_eq!(attempts.column("attempt"), json!([1, 2]));
    let told = world.value("SELECT concat_ws(' ', attempts, failures, state) FROM message_deliveries");
    assert_eq!(told.as_deref(), Some("2 0 delivered"));
}
