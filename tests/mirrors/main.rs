//! Mirrors as a real PostgreSQL stores them. Needs `COULOMB_TEST_DATABASE_URL`; every test works in temporary tables
//! of its own.

mod payments;
mod rows;

use coulomb::billing::MirrorBatch;
use coulomb::stripe::Realm;
use coulomb::stripe::shape::{ObjectRef, read};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;
use serde_json::Value;

/// A connection to empty mirror tables, or nothing where no database is given.
fn database() -> Option<PgConnection> {
    let Ok(url) = std::env::var("COULOMB_TEST_DATABASE_URL") else {
        println!("skipped: set COULOMB_TEST_DATABASE_URL to a PostgreSQL database");
        return None;
    };
    let mut conn = PgConnection::establish(&url).expect("COULOMB_TEST_DATABASE_URL names a database");
    conn.batch_execute("SET search_path TO pg_temp").unwrap();
    conn.batch_execute(include_str!("../../migrations/2026-11-21-000300_mirrors/up.sql")).unwrap();
    Some(conn)
}

/// Adds an object to a batch, in the live mode of an account.
fn add(batch: &mut MirrorBatch, account: &str, snapshot: &Value) {
    let realm = Realm { account: account.to_owned(), livemode: true };
    let field = |name: &str| snapshot[name].as_str().expect(name);
    let object = ObjectRef { realm: &realm, object: field("object"), id: field("id"), deleted: false };
    read(&object, snapshot, batch).expect("a readable snapshot");
}

fn batch(snapshots: &[Value]) -> MirrorBatch {
    let mut batch = MirrorBatch::default();
    for snapshot in snapshots {
        add(&mut batch, "", snapshot);
    }
    batch
}

/// Writes as the projection does: what the stored rows name is recomputed as well.
fn write(conn: &mut PgConnection, mut batch: MirrorBatch) {
    conn.transaction(|conn| {
        let stored = batch.stored_payment_keys(conn)?;
        batch.payment_keys.extend(stored);
        batch.write(conn)
    })
    .unwrap();
}
