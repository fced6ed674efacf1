//! Migrations: up, down and up again; refused where the database is newer or a migration was changed.

use coulomb::db::migrate;

use crate::support::Database;

fn shape(database: &Database) -> String {
    let sql = "SELECT string_agg(table_name || '.' || column_name || ' ' || data_type || ' ' || is_nullable
        || ' ' || coalesce(column_default, ''), E'\\n' ORDER BY table_name, column_name)
        FROM information_schema.columns WHERE table_schema = 'coulomb'";
    let indexes =
        "SELECT string_agg(indexdef, E'\\n' ORDER BY indexdef) FROM pg_indexes WHERE schemaname = 'coulomb'";
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
        "SELECT string_agg(tablename, ' ' ORDER BY tablename) FROM pg_tables WHERE schemaname = 'coulomb'",
    );
    assert_eq!(left.as_deref(), Some("__diesel_schema_migrations coulomb_migrations"));
    database.run(&["migrate"]);
    assert_eq!(shape(&database), there);
    assert_eq!(database.run(&["migrate"]).trim(), "nothing to do: the schema is this binary's");
}

#[test]
fn a_newer_database_and_a_changed_migration_are_refused() {
    let database = Database::new();
    database.execute("INSERT INTO coulomb_migrations (version, sha256) VALUES ('99990101000000', 'x')");
    let refused = database.command(&["migrate"]).output().expect("runs");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(told.contains("newer than this binary"), "{told}");
    database.execute(
        "DELETE FROM coulomb_migrations WHERE sha256 = 'x'; UPDATE coulomb_migrations
        SET sha256 = 'y' WHERE version = (SELECT min(version) FROM coulomb_migrations)",
    );
    let refused = database.command(&["serve"]).output().expect("runs");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("another text than this binary has"), "{told}");
}

/// Daemons that start together on an empty database do not disturb each other.
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

/// A wrong setting stops the start with one sentence that names it.
#[test]
fn a_wrong_setting_is_one_sentence() {
    let database = Database::new();
    for (name, value, told) in [
        (
            "COULOMB_LISTEN",
            "everywhere",
            "coulomb: COULOMB_LISTEN is `everywhere`, but must be an address with a port such as \
                127.0.0.1:8080\n",
        ),
        (
            "COULOMB_TLS_CERT",
            "/nonexistent",
            "coulomb: COULOMB_TLS_CERT stands alone: set COULOMB_TLS_CERT and COULOMB_TLS_KEY for HTTPS, or \
                neither for HTTP\n",
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
    // State of an older version. The migration changes only what differs, and locks nothing else.
    database.execute("COMMENT ON TABLE coulomb_migrations IS 'other rights'");
    // PostgreSQL checks a wait for deadlock once, after this time. A busy machine must reach the second lock
    // by then.
    let name = database.value("SELECT current_database()").expect("a name");
    database.execute(&format!("ALTER DATABASE {name} SET deadlock_timeout = '5s'"));
    let mut reader = database.owner();
    // The migration locks quotas before battery_settings, the reader the other way round. The reader's check
    // for deadlocks comes too late, so the migration finds the deadlock and gives way.
    reader
        .batch_execute(
            "SET deadlock_timeout = '10min'; BEGIN; LOCK TABLE battery_settings IN ACCESS SHARE MODE",
        )
        .expect("locks");
    let url = database.url.clone();
    let migrating = std::thread::spawn(move || {
        let mut owner = coulomb::db::connect_as_login(&url).expect("the database answers");
        migrate::run(&mut owner).map(|done| done.roles).map_err(|error| error.to_string())
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'battery_settings'::regclass";
    while database.number(waits) == 0 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    reader.batch_execute("LOCK TABLE quotas IN ACCESS SHARE MODE; COMMIT").expect("the migration gives way");
    assert_eq!(migrating.join().expect("no panic"), Ok(true));
    reader.batch_execute("BEGIN; LOCK TABLE battery_settings IN ACCESS SHARE MODE").expect("locks");
    assert!(migrate::run(&mut database.owner()).expect("it waits for no lock").roles);
}

/// A database from a binary older than the schema `coulomb`: everything is in `public`.
fn old_installation() -> Database {
    let database = Database::empty();
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
    let mut names: Vec<_> = std::fs::read_dir(dir)
        .expect("the migrations")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.file_name().is_some_and(|name| *name < *"2026-11-21-001501"))
        .collect();
    names.sort();
    database.execute(
        "CREATE TABLE public.coulomb_migrations (version text PRIMARY KEY, sha256 text NOT NULL);
         CREATE TABLE public.__diesel_schema_migrations (
             version varchar(50) PRIMARY KEY,
             run_on timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP
         );
         -- Another program's.
         INSERT INTO public.__diesel_schema_migrations (version) VALUES ('20200101000000')",
    );
    for path in names {
        let up = std::fs::read_to_string(path.join("up.sql")).expect("a text");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let version: String = name.chars().filter(char::is_ascii_digit).take(14).collect();
        let sha256 = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&up));
        database.execute(&format!(
            "SET search_path = public; BEGIN; {up};
             INSERT INTO coulomb_migrations (version, sha256) VALUES ('{version}', '{sha256}');
             INSERT INTO __diesel_schema_migrations (version) VALUES ('{version}'); COMMIT"
        ));
    }
    database.execute(
        "SET search_path = public;
         INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
         VALUES ('org_old', 'old', 'Old', 'UTC', now(), '{}');
         INSERT INTO org_refs (ref, org_id)
         SELECT unnest(ARRAY['org_old', 'old']), org_id FROM orgs;
         SELECT make_usage_partition('2026-01-15')",
    );
    database
}

const OURS_IN_PUBLIC: &str =
    "SELECT string_agg(relname || ' ' || relkind::text, ', ' ORDER BY relname) FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p', 'v')";

#[tokio::test]
async fn an_installation_in_public_is_moved_with_its_data() {
    let database = old_installation();
    database.execute("CREATE TABLE public.customers_of_others (id int)");
    let refused = database.command(&["key", "list"]).output().expect("runs");
    let told = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(told.contains("of this binary: run `coulomb migrate`"), "{told}");
    let daemon = crate::support::Daemon::start(&database);
    let key = database.key("admin", None);
    let (status, orgs) = daemon.get("/v1/orgs", &key).await;
    assert_eq!((status.as_u16(), orgs["data"][0]["name"].as_str()), (200, Some("Old")), "{orgs}");
    assert_eq!(
        database.value(OURS_IN_PUBLIC).as_deref(),
        Some("__diesel_schema_migrations r, coulomb_migrations v, customers_of_others r")
    );
    assert_eq!(shape(&database), shape(&Database::new()), "like a database that began in the schema");
    assert_eq!(database.value("SELECT make_usage_partition('2026-01-15')").as_deref(), Some("false"));
    assert_eq!(database.value("SELECT make_usage_partition('2025-01-15')").as_deref(), Some("true"));
    // The older binary reads `public`, and must see there that the database is newer.
    let newest = "SELECT max(version) FROM public.coulomb_migrations";
    assert!(database.value(newest).expect("a version").as_str() > "20261121001500");
    drop(daemon);

    let count = "SELECT count(*) FROM coulomb_migrations WHERE version > '20261121001500'";
    let steps = database.number(count).to_string();
    let name = database.value("SELECT current_database()").expect("a name");
    database.execute(
        "DELETE FROM public.__diesel_schema_migrations; DROP TABLE public.__diesel_schema_migrations",
    );
    database.run(&["migrate", "--revert", &steps, "--destroy-data-of", &name]);
    assert_eq!(database.value("SELECT name FROM public.orgs").as_deref(), Some("Old"));
    assert_eq!(
        database.value("SELECT to_regnamespace('coulomb')"),
        None,
        "everything is where it was before"
    );
    let made = "SELECT public.make_usage_partition('2024-01-15')";
    assert_eq!(database.value(made).as_deref(), Some("true"));
    database.run(&["migrate"]);
    assert_eq!(database.value("SELECT name FROM orgs").as_deref(), Some("Old"));
}

/// Other programs in the same database keep their tables, of whatever name, and we have ours.
#[tokio::test]
async fn a_database_may_be_shared() {
    let database = Database::empty();
    database.execute(
        "CREATE TABLE public.invoices (theirs text); INSERT INTO public.invoices (theirs) VALUES ('x');
         CREATE TABLE public.coulomb_readings (theirs text);
         CREATE TABLE public.__diesel_schema_migrations (theirs text)",
    );
    let daemon = crate::support::Daemon::start(&database);
    let key = database.key("admin", None);
    let (status, invoices) = daemon.get("/v1/invoices", &key).await;
    assert_eq!((status.as_u16(), invoices["data"].as_array().map(Vec::len)), (200, Some(0)), "{invoices}");
    drop(daemon);
    let verified = database.command(&["verify"]).output().expect("runs");
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
    assert_eq!(database.value("SELECT theirs FROM public.invoices").as_deref(), Some("x"));
    let rights = "SELECT has_table_privilege('coulomb_org', 'public.invoices', 'SELECT')
        OR has_table_privilege('coulomb_platform', 'public.invoices', 'SELECT')";
    assert_eq!(database.value(rights).as_deref(), Some("false"), "our roles see nothing of theirs");
    let mentions = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'coulomb'::regnamespace
        AND (prosrc ~ 'public[.]'
            OR 'public' = ANY (regexp_split_to_array(array_to_string(proconfig, ','), '[ ,=]+')))";
    assert_eq!(database.number(mentions), 0, "no function uses public");
}

#[test]
fn a_failed_migration_leaves_nothing() {
    let database = Database::empty();
    database.execute("CREATE SCHEMA coulomb; CREATE TABLE coulomb.battery_packs (theirs text)");
    let failed = database.command(&["migrate"]).output().expect("runs");
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert_eq!(failed.status.code(), Some(1), "{told}");
    assert!(told.contains("nothing was changed") && told.contains("battery_packs"), "{told}");
    let tables = "SELECT string_agg(relname, ' ') FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'S')
        AND relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)";
    assert_eq!(database.value(tables).as_deref(), Some("battery_packs"));

    let database = Database::empty();
    database.execute("CREATE SCHEMA usage_partitions");
    let failed = database.command(&["migrate"]).output().expect("runs");
    let told = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(told.contains("has a schema usage_partitions that is not Coulomb's"), "{told}");
    assert_eq!(database.value("SELECT to_regnamespace('coulomb')"), None);
}
