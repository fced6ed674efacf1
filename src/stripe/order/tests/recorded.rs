//! A real purchase, if there are recordings: fifteen events of one second, in their true order.

use std::{collections::BTreeMap, env, fs, path::PathBuf};

use super::*;

fn recordings() -> Option<PathBuf> {
    let root = env::var_os("COULOMB_STRIPE_EVENTS").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/stripe-events"),
        PathBuf::from,
    );
    let purchase = root.join("seq__2025-11-17.clover__upgrade_by_card");
    if !purchase.is_dir() {
        println!("skipped: no recordings at {}; set COULOMB_STRIPE_EVENTS", purchase.display());
        return None;
    }
    Some(purchase)
}

#[test]
fn every_object_of_a_real_purchase_ends_in_its_last_snapshot() {
    let Some(purchase) = recordings() else { return };
    let mut files: Vec<PathBuf> =
        fs::read_dir(purchase).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 15, "the purchase is incomplete");
    let mut objects: BTreeMap<(String, String), Vec<Stored>> = BTreeMap::new();
    for file in files {
        let event: Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let (text, data) = (|key: &str| event[key].as_str().unwrap().to_owned(), &event["data"]);
        let named = |key: &str| data["object"][key].as_str().unwrap().to_owned();
        objects.entry((named("object"), named("id"))).or_default().push(Stored {
            id: text("id"),
            event_type: text("type"),
            created: event["created"].as_i64().unwrap(),
            snapshot: data["object"].clone(),
            previous: data.get("previous_attributes").cloned(),
        });
    }
    assert_eq!(objects.len(), 7);
    for ((object, id), mut events) in objects {
        let last = events.last().unwrap().snapshot.clone();
        for _ in 0..2 {
            let (at, ambiguous) = winner(&object, &events);
            assert_eq!(events[at].snapshot, last, "{object} {id}");
            assert!(!ambiguous, "{object} {id}");
            events.reverse();
        }
    }
}
