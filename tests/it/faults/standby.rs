//! A database that answers and cannot be written.

use std::time::Instant;

use super::{BACK_WITHIN, Place};
use crate::support::Database;

/// Makes the database read-only for whoever connects from now on, or takes that back.
fn read_only(database: &Database, on: bool) {
    let name = database.value("SELECT current_database()").expect("a name");
    let setting = if on { "on" } else { "off" };
    database.execute(&format!(
        "SET default_transaction_read_only = off; BEGIN READ WRITE;
         ALTER DATABASE {name} SET default_transaction_read_only = {setting}; COMMIT;
         SELECT pg_terminate_backend(pid) FROM pg_stat_activity
         WHERE datname = current_database() AND pid <> pg_backend_pid()"
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_not_ready() {
    let place = Place::new(&[]).await;
    read_only(&place.database, true);
    let begun = Instant::now();
    loop {
        let (status, answer) = place.daemon.get_text("/readyz").await;
        if status == 503 && answer.contains("the database is read-only: nothing can be stored") {
            break;
        }
        assert!(begun.elapsed() < BACK_WITHIN, "{status} {answer}");
    }
    assert_eq!(place.daemon.metric("coulomb_database_up").await, Some(1));
    assert_eq!(place.daemon.metric("coulomb_database_writable").await, Some(0));
    assert_eq!(place.post("/v1/usage", &place.event("1", 1)).await.0, 503);
    // Nothing is migrated there, and a start says so.
    let started =
        place.database.command(&["serve"]).env("COULOMB_LISTEN", "127.0.0.1:0").output().expect("it runs");
    let said = String::from_utf8_lossy(&started.stderr);
    assert_eq!(started.status.code(), Some(1), "{said}");
    let last = said.lines().last().unwrap_or_default();
    assert_eq!(
        last,
        "coulomb: DATABASE_URL names a database that is read-only, but Coulomb has to write: name the primary server, \
         and a user and database that may"
    );
    read_only(&place.database, false);
    place.until_done("/v1/usage", &place.event("1", 1), 200).await;
    assert_eq!(place.daemon.get_text("/readyz").await.0, 200);
    assert_eq!(place.database.number("SELECT count(*) FROM usage_records"), 1);
}
