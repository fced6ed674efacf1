//! A database that answers and accepts no writes.

use std::time::Instant;

use super::{BACK_WITHIN, Place, eventually};
use crate::support::{Database, Server};

/// Makes the database read-only for new connections, or writable again.
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

/// Waits until `/readyz` gives this reason.
async fn until_unready(place: &Place, wanted: &str) {
    let begun = Instant::now();
    loop {
        let (status, answer) = place.daemon.get_text("/readyz").await;
        if status == 503 && answer.contains(wanted) {
            return;
        }
        assert!(begun.elapsed() < BACK_WITHIN, "{status} {answer}");
    }
}

/// The last line of output of a daemon that cannot start.
fn refused_start(database: &Database) -> String {
    let started =
        database.command(&["serve"]).env("COULOMB_LISTEN", "127.0.0.1:0").output().expect("it runs");
    let said = String::from_utf8_lossy(&started.stderr);
    assert_eq!(started.status.code(), Some(1), "{said}");
    said.lines().last().unwrap_or_default().to_owned()
}

/// A standby server, until it is made the primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_standby_is_not_ready_until_it_is_the_primary() {
    let server = Server::start("-standby");
    let mut place = Place::on(Database::at(&server.url), &[]).await;
    place.until_each_done(0).await;
    server.becomes_standby();
    until_unready(&place, "the database is a read-only standby: nothing can be stored").await;
    assert_eq!(place.daemon.metric("coulomb_database_writable").await, Some(0));
    assert_eq!(place.post("/v1/usage", &place.event("u1", 1)).await.0, 503);
    // Reads continue.
    assert_eq!(place.daemon.get("/v1/orgs/acme", &place.key).await.0, 200);
    assert_eq!(
        refused_start(&place.database),
        "coulomb: DATABASE_URL names a standby server, but Coulomb has to write: name the primary server, \
         and a user and database that may"
    );
    place.database.execute("SELECT pg_promote()");
    place.until_each_done(1).await;
    eventually("nothing is in recovery", || {
        place.database.value("SELECT pg_is_in_recovery()").as_deref() == Some("false")
    })
    .await;
    assert_eq!(place.daemon.get_text("/readyz").await.0, 200);
    place.daemon.projected().await;
    assert_eq!(place.database.number("SELECT count(*) FROM usage_records"), 2);
    assert_eq!(place.database.unbalanced(), [] as [String; 0]);
    assert_eq!(place.daemon.stop(), Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_read_only_database_is_not_ready() {
    let place = Place::new(&[]).await;
    read_only(&place.database, true);
    until_unready(&place, "the database is read-only: nothing can be stored").await;
    assert_eq!(place.daemon.metric("coulomb_database_up").await, Some(1));
    assert_eq!(place.daemon.metric("coulomb_database_writable").await, Some(0));
    assert_eq!(place.post("/v1/usage", &place.event("1", 1)).await.0, 503);
    // The daemon does not migrate a standby, and says so at the start.
    assert_eq!(
        refused_start(&place.database),
        "coulomb: DATABASE_URL names a database that is read-only, but Coulomb has to write: name the \
            primary server, \
         and a user and database that may"
    );
    read_only(&place.database, false);
    place.until_done("/v1/usage", &place.event("1", 1), 200).await;
    assert_eq!(place.daemon.get_text("/readyz").await.0, 200);
    assert_eq!(place.database.number("SELECT count(*) FROM usage_records"), 1);
}
