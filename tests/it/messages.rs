//! Messages to the outside: endpoints, deliveries, and what is sent.

use chrono::{DateTime, Utc};
use coulomb::messages::{self, NewMessage};
use diesel::Connection;
use serde_json::{Value, json};

use crate::support::receiver::Receiver;
use crate::support::requests::{Request, request};
use crate::support::world::Setup;
use crate::support::{Database, World};

mod endpoints;
mod kills;
mod kinds;
mod order;
mod retries;
mod sending;
mod standard;

/// A world whose messages may go to this machine.
fn world() -> Setup {
    World::new()
        .setting("COULOMB_MESSAGE_ALLOW_HTTP", "true")
        .setting("COULOMB_MESSAGE_ALLOW", "127.0.0.0/8")
        .org("acme")
}

/// Makes an endpoint; returns its id and its secret.
async fn endpoint(world: &World, body: Value) -> (String, String) {
    let made = world.post("/v1/message_endpoints", body).await.status(201);
    (made.id(), made.text("secret"))
}

/// A receiver, and the id of its endpoint.
async fn receiving(world: &World) -> (Receiver, String) {
    let receiver = Receiver::start();
    let (id, _) = endpoint(world, receiver.endpoint()).await;
    (receiver, id)
}

/// A message that no part of the daemon writes by itself.
fn message(org_id: i64, n: usize) -> NewMessage {
    NewMessage {
        org_id,
        kind: "invoice.reminder",
        dedupe_key: format!("test:{n}"),
        data: json!({ "n": n }),
        object: Some(json!({ "big": "thing" })),
    }
}

/// Writes messages, each in a transaction of its own.
fn write(database: &Database, new: impl IntoIterator<Item = NewMessage>, now: DateTime<Utc>) {
    let mut conn = database.platform();
    for message in new {
        conn.transaction(|conn| messages::write(conn, vec![message], now)).expect("written");
    }
}

/// The row id of the org `acme`.
fn acme(database: &Database) -> i64 {
    database.number("SELECT org_id FROM org_refs WHERE ref = 'acme'")
}

/// A command on an endpoint.
fn on(id: &str, command: &str, body: Value) -> Request {
    request(reqwest::Method::POST, format!("/v1/message_endpoints/{id}/{command}"), body)
}
