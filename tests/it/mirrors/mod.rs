//! Mirrors in a real PostgreSQL.

mod payments;
mod rows;

use coulomb::billing::MirrorBatch;
use coulomb::stripe::Realm;
use coulomb::stripe::shape::{ObjectRef, read};
use diesel::prelude::*;
use serde_json::Value;

use crate::support::Database;

/// Empty mirror tables.
fn database() -> (Database, PgConnection) {
    let database = Database::new();
    let conn = database.platform();
    (database, conn)
}

/// Adds an object to a batch, in the live mode of an account.
fn add(batch: &mut MirrorBatch, account: &str, snapshot: &Value) {
    let realm = Realm { account: account.to_owned(), livemode: true };
    let field = |name: &str| snapshot[name].as_str().expect(name);
    let object =
        ObjectRef { realm: &realm, object: field("object"), id: field("id"), deleted: false, more: None };
    read(&object, &snapshot.into(), batch).expect("a readable snapshot");
}

fn batch(snapshots: &[Value]) -> MirrorBatch {
    let mut batch = MirrorBatch::default();
    for snapshot in snapshots {
        add(&mut batch, "", snapshot);
    }
    batch
}

/// Writes as the projection does: payments that stored rows name are recomputed too.
fn write(conn: &mut PgConnection, mut batch: MirrorBatch) {
    conn.transaction(|conn| {
        let stored = batch.stored_payment_keys(conn)?;
        batch.payment_keys.extend(stored);
        batch.write(conn, true)
    })
    .unwrap();
}
