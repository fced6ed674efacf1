//! Migrations: up, down and up again; refused where the database is newer or was changed.

use coulomb::db::migrate;
use diesel::Connection as _;

use crate::support::Database;

fn shape(database: &Database) -> String {
    let sql = "SELECT string_agg(table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || coalesce(column_default, ''), E'\\n' ORDER BY table_name, column_name)
        FROM information_schema.columns WHERE table_schema = 'public'";
    let indexes =
        "SELECT string_agg(indexdef, E'\\n' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'public'";
    database.value(sql).unwrap_or_default() + &database.value(indexes).unwrap_or_default()
}

#[test]
fn up_down_up() {
    let database = Database::empty();
    let first = database.run(&["migrate"]);
    assert!(first.starts_with("applied"), "{first}");
    let there = shape(&database);
    let all = first.split(", ").count();
    database.run(&["migrate", "--revert", &all.to_string()]);
    let left = database.value(
        "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'public'",
    );
    assert_eq!(left.as_deref(), Some("__diesel_schema_migrations coulomb_migrations"));
    database.run(&["migrate"]);
    assert_eq!(shape(&database), there);
    assert_eq!(database.run(&["migrate"]).trim(), "nothing to do: the schema is this binary's");
}

#[test]
fn a_newer_database_and_a_changed_migration_are_refused() {
    let database = Database::new();
    database.execute("INSERT INTO coulomb_migrations VALUES ('99990101000000', 'x')");
    let refused = database.command(&["migrate"]).output().expect("runs");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(told.contains("newer than this binary"), "{told}");
    database.execute("DELETE FROM coulomb_migrations WHERE sha256 = 'x'; UPDATE coulomb_migrations SET sha256 = 'y' WHERE version = (SELECT min(version) FROM coulomb_migrations)");
    let refused = database.command(&["serve"]).output().expect("runs");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("another text than this binary has"), "{told}");
}

/// Daemons that start together on an empty database do not trip over each other.
#[test]
fn many_migrate_at_once() {
    let database = Database::empty();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..6)
            .map(|_| scope.spawn(|| migrate::run(&mut database.owner()).expect("migrates").applied.len()))
            .collect();
        let applied: usize = threads.into_iter().map(|thread| thread.join().expect("no panic")).sum();
        assert!(
            applied > 0
                && database.number("SELECT count(*) FROM coulomb_migrations")
                    == i64::try_from(applied).expect("small")
        );
    });
}

/// A wrong setting ends the start with one sentence that names it.
#[test]
fn a_wrong_setting_is_one_sentence() {
    let database = Database::new();
    for (name, value, told) in [
        (
            "COULOMB_LISTEN",
            "everywhere",
            "coulomb: COULOMB_LISTEN is `everywhere`, but must be an address with a port such as 127.0.0.1:8080\n",
        ),
        (
            "COULOMB_TLS_CERT",
            "/nonexistent",
            "coulomb: COULOMB_TLS_CERT and COULOMB_TLS_KEY go together: set both for HTTPS or neither for HTTP\n",
        ),
    ] {
        let output = database.command(&["serve"]).env(name, value).output().expect("runs");
        assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stderr).as_ref()), (Some(2), told));
    }
}

#[test]
fn roles_are_applied_beside_whoever_locks_tables_in_another_order() {
    use diesel::connection::SimpleConnection;
    let database = Database::new();
    // As a version before had them; what is as it should be is left alone, and locks nothing.
    database.execute("COMMENT ON TABLE coulomb_migrations IS 'other rights'");
    let mut reader = database.owner();
    // Policies of quotas come before those of battery_settings. Who is checked for deadlocks is the other.
    reader
        .batch_execute(
            "SET deadlock_timeout = '10min'; BEGIN; LOCK TABLE battery_settings IN ACCESS SHARE MODE",
        )
        .expect("locks");
    let url = database.url.clone();
    let migrating = std::thread::spawn(move || {
        let mut owner = diesel::PgConnection::establish(&url).expect("the database answers");
        migrate::run(&mut owner).map(|done| done.roles).map_err(|error| error.to_string())
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'battery_settings'::regclass";
    while database.number(waits) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    reader.batch_execute("LOCK TABLE quotas IN ACCESS SHARE MODE; COMMIT").expect("the other one gives way");
    assert_eq!(migrating.join().expect("no panic"), Ok(true));
    reader.batch_execute("BEGIN; LOCK TABLE battery_settings IN ACCESS SHARE MODE").expect("locks");
    assert!(migrate::run(&mut database.owner()).expect("it waits for nobody").roles);
}
