//! What the database itself refuses to the roles of the daemon and of an org.

use diesel::connection::SimpleConnection;
use diesel::prelude::*;

use crate::support::rows::{meter, org, put, record};
use crate::support::{Daemon, Database};

/// An org with a record in an old month and one in the running month.
fn used(database: &Database) -> String {
    org(database, "acme", "UTC");
    meter(database, "tokens", "sum", "");
    put(database, &record("acme", "tokens", "old", "2026-01-15T00:00:00Z", "1"));
    let now = chrono::Utc::now();
    put(database, &record("acme", "tokens", "new", &now.to_rfc3339(), "1"));
    database.run(&["rebuild", "summaries"]);
    now.format("%Y-%m-01").to_string()
}

fn refusal(conn: &mut PgConnection, sql: &str) -> String {
    // A statement that is not refused is rolled back.
    let done = conn.transaction(|conn| {
        conn.batch_execute(sql)?;
        Err::<(), _>(diesel::result::Error::RollbackTransaction)
    });
    match done {
        Err(diesel::result::Error::RollbackTransaction) | Ok(()) => String::new(),
        Err(error) => error.to_string(),
    }
}

/// Each statement with a part of the database's error; empty: it is allowed.
#[test]
fn the_daemon_changes_nothing_that_stays() {
    let database = Database::new();
    let running = used(&database);
    database.key("usage:write", None);
    let mut conn = database.platform();
    let denied = "permission denied";
    let cases = [
        ("UPDATE rate_cards SET valid_from = now()", denied),
        ("DELETE FROM rate_cards", denied),
        ("UPDATE meter_versions SET name = ''", denied),
        ("DELETE FROM plan_versions", denied),
        ("TRUNCATE plan_versions", denied),
        ("UPDATE api_keys SET scopes = '{admin}'", denied),
        ("UPDATE api_keys SET revoked_at = now()", ""),
        ("DELETE FROM api_keys", denied),
        ("UPDATE orgs SET public_id = 'org_other'", denied),
        ("UPDATE orgs SET name = 'Acme'", ""),
        ("DELETE FROM orgs", denied),
        ("UPDATE battery_grants SET amount = 1000000", denied),
        ("UPDATE battery_grants SET remaining = remaining", ""),
        ("DELETE FROM battery_grants", denied),
        ("UPDATE usage_records SET quantity = 0", denied),
        ("DELETE FROM stripe_inbox", denied),
        ("SELECT drop_usage_partition('2026-01-01', false)", "2026-01 is not closed by every org"),
        ("SELECT drop_usage_partition('2026-01-01', true)", ""),
        (&format!("SELECT drop_usage_partition('{running}', false)"), "is not over"),
        (&format!("SELECT drop_usage_partition('{running}', true)"), "is not over"),
    ];
    for (sql, said) in cases {
        let refused = refusal(&mut conn, sql);
        assert!(refused.contains(said) && refused.is_empty() == said.is_empty(), "{sql}: {refused}");
    }
    // The org has closed the month, so it may be dropped.
    database.execute(
        "INSERT INTO usage_closings (org_id, month, closed_at, actor)
        SELECT org_id, '2026-01-01', now(), 'test' FROM orgs",
    );
    assert_eq!(refusal(&mut conn, "SELECT drop_usage_partition('2026-01-01', false)"), "");
}

/// A login that inherits an org's role sees the org that it names, and nothing if it names none.
#[tokio::test]
async fn a_login_that_inherits_an_orgs_role_sees_no_other_orgs_keys() {
    let database = Database::new();
    let _daemon = Daemon::start(&database);
    used(&database);
    let mut conn = database.owner();
    let mut count = |settings: &str| {
        conn.transaction(|conn| {
            conn.batch_execute(&format!(
                "CREATE ROLE coulomb_test_reader IN ROLE coulomb_org; {settings};
                 SET LOCAL ROLE coulomb_test_reader"
            ))?;
            let seen: i64 = diesel::select(diesel::dsl::sql::<diesel::sql_types::BigInt>(
                "(SELECT count(*) FROM usage_key_times)",
            ))
            .get_result(conn)?;
            conn.batch_execute("RESET ROLE; DROP ROLE coulomb_test_reader")?;
            Ok::<_, diesel::result::Error>(seen)
        })
        .expect("reads")
    };
    assert_eq!(count("SELECT 1"), 0);
    assert_eq!(count("SET LOCAL coulomb.org_id = '999'"), 0);
    assert_eq!(
        count("SELECT set_config('coulomb.org_id', (SELECT org_id::text FROM orgs LIMIT 1), true)"),
        2
    );
}
