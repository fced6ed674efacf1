//! Every kind in both generations, field by field, from fixtures; then the rules for all kinds; then real
//! events, where they are available.

mod invoices;
mod payments;
mod real_events;
mod returns;
mod rules;
mod sales;

use chrono::{DateTime, Utc};
use serde_json::Value;

use super::{ObjectRef, ShapeError, read};
use crate::billing::MirrorBatch;
use crate::stripe::Realm;

/// A fixture by name, parsed.
macro_rules! fixture {
    ($name:literal) => {
        serde_json::from_str(include_str!(concat!("../../../../tests/it/fixtures/stripe/", $name, ".json")))
            .expect("a fixture is JSON")
    };
}
use fixture;

fn realm() -> Realm {
    Realm { account: "acct_1".to_owned(), livemode: true }
}

/// Reads a snapshot as the kind and id that its fields `object` and `id` name.
fn try_read(snapshot: &Value, deleted: bool) -> Result<MirrorBatch, ShapeError> {
    let realm = realm();
    let field = |name: &str| snapshot[name].as_str().unwrap_or_default();
    let mut batch = MirrorBatch::default();
    read(
        &ObjectRef { realm: &realm, object: field("object"), id: field("id"), deleted, more: None },
        &snapshot.into(),
        &mut batch,
    )?;
    Ok(batch)
}

fn read_live(snapshot: Value) -> MirrorBatch {
    try_read(&snapshot, false).expect("a readable snapshot")
}

fn text(text: &str) -> Option<String> {
    Some(text.to_owned())
}

fn at(seconds: i64) -> Option<DateTime<Utc>> {
    DateTime::from_timestamp(seconds, 0)
}

/// The payments that a batch recomputes.
fn payment_ids(batch: &MirrorBatch) -> Vec<&str> {
    batch.payment_keys.iter().map(|key| &*key.id).collect()
}
