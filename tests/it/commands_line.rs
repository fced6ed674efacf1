//! The command line: which database a command uses, what it refuses, how it ends.

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use reqwest::Method;
use serde_json::json;

use crate::support::daemon::answer;
use crate::support::{Daemon, Database};

const COULOMB: &str = env!("CARGO_BIN_EXE_coulomb");

/// A command in a shell without the daemon's settings.
fn elsewhere(args: &[&str], home: &Path) -> Command {
    let mut command = Command::new(COULOMB);
    command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("HOME", home).env("COULOMB_RUN_DIR", home.join("run")).env("XDG_DATA_HOME", home);
    command
}

fn told(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Runs it: exit code, standard output, standard error.
fn ran(command: &mut Command) -> (Option<i32>, String, String) {
    let output = command.output().expect("the coulomb binary runs");
    (output.status.code(), String::from_utf8_lossy(&output.stdout).into_owned(), told(&output))
}

const ON_A_DATABASE: &[&[&str]] = &[
    &["key", "create", "--scopes", "admin"],
    &["export", "invoices"],
    &["doctor"],
    &["dump"],
    &["verify"],
    &["migrate"],
    &["migrate", "--revert", "1"],
    &["stripe", "inbox", "list"],
    &["rebuild", "mirrors", "--yes"],
];

#[test]
fn only_serve_makes_a_cluster() {
    let home = tempfile::tempdir().expect("a directory");
    for args in ON_A_DATABASE {
        let data_dir = home.path().join("data");
        let (code, out, told) = ran(elsewhere(args, home.path()).env("COULOMB_DATA_DIR", &data_dir));
        assert_eq!(code, Some(2), "{args:?}: {out}{told}");
        assert!(told.contains("holds no database: set DATABASE_URL, COULOMB_DATA_DIR or --config"), "{told}");
        assert!(*args == ["doctor"] || out.is_empty(), "{args:?}: {out}");
        assert!(!data_dir.exists(), "{args:?} made a directory");
    }
}

#[test]
fn a_database_without_our_tables_is_said_to_be_so() {
    let database = Database::empty();
    for args in ON_A_DATABASE.iter().filter(|args| args[0] != "migrate" && args[0] != "doctor") {
        let (code, out, told) = ran(&mut database.command(args));
        assert_eq!((code, out.as_str()), (Some(2), ""), "{args:?}: {told}");
        assert!(told.contains("has no tables of Coulomb"), "{told}");
    }
    let (code, out, _) = ran(&mut database.command(&["doctor"]));
    assert!(code == Some(3) && out.contains("BAD  schema: the database has no tables of Coulomb"), "{out}");
    database.run(&["migrate", "--plan"]);
    let relations = "SELECT count(*) FROM pg_class WHERE relnamespace NOT IN (SELECT oid FROM pg_namespace
        WHERE nspname IN ('pg_catalog', 'information_schema', 'pg_toast'))";
    assert_eq!(database.number(relations), 0, "these commands create nothing");
}

#[test]
fn what_a_typo_names_is_refused() {
    let database = Database::new();
    for (args, code, why) in [
        (&["export", "drift", "--kind", "bogus"][..], 2, "kind: must be one of missed_event, "),
        (&["stripe", "drift", "--limit", "0"], 2, "0 is not in 1..=500"),
        (&["stripe", "meters", "charges", "--limit", "501"], 2, "501 is not in 1..=500"),
        (&["stripe", "meters", "charges", "--meter", "nosuch"], 1, "there is no meter here"),
        (&["stripe", "preview", "--org", "acme", "--account", "acct_x"], 2, "COULOMB_STRIPE_ACCOUNTS"),
    ] {
        let (ended, out, told) = ran(&mut database.command(args));
        assert_eq!((ended, out.as_str()), (Some(code), ""), "{args:?}: {told}");
        assert!(told.contains(why), "{args:?}: {told}");
    }
}

#[test]
fn a_command_does_not_migrate() {
    let database = Database::new();
    database.run(&["migrate", "--revert", "1"]);
    let (code, _, told) = ran(&mut database.command(&["key", "list"]));
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("lacks 1 migration(s) of this binary: run `coulomb migrate`"), "{told}");
}

#[tokio::test]
async fn commands_work_on_the_running_daemon() {
    let (database, home) = (Database::new(), tempfile::tempdir().expect("a directory"));
    std::fs::set_permissions(home.path(), std::fs::Permissions::from_mode(0o755)).expect("it is ours");
    let run_dir = home.path().join("run");
    let mut daemon = Daemon::with(&database, &[("COULOMB_RUN_DIR", run_dir.to_str().expect("UTF-8"))]);
    let (code, key, told) = ran(&mut elsewhere(&["key", "create", "--scopes", "billing:read"], home.path()));
    assert_eq!(code, Some(0), "{told}");
    let (status, body) = daemon.get("/v1/invoices", key.trim()).await;
    assert_eq!(status, 200, "{body}");
    let (code, out, told) = ran(&mut elsewhere(&["doctor"], home.path()));
    assert!(code == Some(0) && out.contains("ok   daemon: a daemon runs here"), "{out}{told}");

    let left =
        std::fs::read_dir(&run_dir).expect("a run directory").next().expect("a file").expect("readable");
    let text = std::fs::read_to_string(left.path()).expect("readable");
    let password = database.url.split(['@', ':']).nth(2).expect("a password");
    assert!(!text.contains(password) && text.contains("\"pid\""), "{text}");

    // A user who may not read the daemon's settings is told what to do.
    if rustix::process::geteuid().is_root() {
        let copy = home.path().join("coulomb");
        std::fs::copy(COULOMB, &copy).expect("copies");
        let mut other = Command::new(&copy);
        other.args(["key", "list"]).env_clear().env("COULOMB_RUN_DIR", &run_dir).env("HOME", "/nonexistent");
        let (code, _, told) = ran(other.uid(65534).gid(65534).current_dir("/"));
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains("a daemon runs here (process "), "{told}");
        assert!(told.contains("run this as the daemon's user or as root, or set DATABASE_URL"), "{told}");
    }

    let second = Daemon::with(&database, &[("COULOMB_RUN_DIR", run_dir.to_str().expect("UTF-8"))]);
    let (code, _, told) = ran(&mut elsewhere(&["key", "list"], home.path()));
    assert!(code == Some(2) && told.contains("several daemons run"), "{told}");
    drop(second);
    assert_eq!(
        ran(&mut elsewhere(&["key", "list"], home.path())).0,
        Some(0),
        "the run file of a killed daemon does not count"
    );
    daemon.stop();
    let (code, _, told) = ran(&mut elsewhere(&["key", "list"], home.path()));
    assert!(code == Some(2) && told.contains("no daemon runs here"), "{told}");
}

#[test]
fn a_revert_destroys_data_only_by_name() {
    let database = Database::new();
    database.key("admin", None);
    let steps = database.number("SELECT count(*) FROM coulomb_migrations").to_string();
    let name = database.value("SELECT current_database()").expect("a name");
    let (code, _, told) = ran(&mut database.command(&["migrate", "--revert", &steps]));
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("1 api_keys") && told.contains(&format!("--destroy-data-of {name}")), "{told}");
    let (code, _, told) =
        ran(&mut database.command(&["migrate", "--revert", &steps, "--destroy-data-of", "other"]));
    assert!(code == Some(2) && told.contains("names another database"), "{told}");
    assert_eq!(database.number("SELECT count(*) FROM api_keys"), 1);
    assert_eq!(database.run(&["migrate"]).trim(), "nothing to do: the schema is this binary's");
    database.run(&["migrate", "--revert", &steps, "--destroy-data-of", &name]);
    assert_eq!(database.value("SELECT to_regclass('api_keys')"), None);
}

/// A revert warns of the columns that it drops, as it does of tables.
#[test]
fn a_revert_sees_the_columns_that_go() {
    let database = Database::new();
    database.execute(
        "INSERT INTO stripe_arrivals (deliveries, received_at, signatures, user_agents, bodies, last_error)
         VALUES (1, '{}', '{}', '{}', '{}', 'broken')",
    );
    let steps = database.number("SELECT count(*) FROM coulomb_migrations WHERE version >= '20261121001500'");
    let (code, _, told) = ran(&mut database.command(&["migrate", "--revert", &steps.to_string()]));
    assert!(code == Some(2) && told.contains("1 stripe_arrivals (last_error)"), "{told}");
}

#[test]
fn an_error_of_a_setting_shows_no_secret() {
    let database = Database::new();
    for (name, value) in [
        ("DATABASE_URL", "mysql://coulomb:hunter2@127.0.0.1/coulomb"),
        ("DATABASE_URL", "postgres://coulomb:hunter2@127.0.0.1:1/coulomb"),
        ("DATABASE_URL", "postgres://coulomb:hunter2@nowhere.invalid/coulomb"),
        ("DATABASE_URL", "postgres://coulomb:hun/ter2@127.0.0.1/coulomb"),
        ("DATABASE_URL", "postgres://coulomb:hun@ter2@127.0.0.1/coulomb"),
        ("DATABASE_URL", "hunter2"),
        ("DATABASE_URL", "host=127.0.0.1 port=1 password=hunter2"),
        ("COULOMB_DATABASE_OWNER_URL", "hunter2"),
        ("STRIPE_WEBHOOK_SECRET_FILE", "hunter2"),
    ] {
        for args in [&["doctor"][..], &["key", "list"], &["serve"], &["config"], &["migrate"]] {
            let (code, out, told) = ran(database.command(args).env(name, value));
            let all = format!("{out}{told}");
            assert!(!all.contains("hun") && !all.contains("ter2"), "{args:?} with {name}={value}: {all}");
            assert!(code != Some(0) || args == ["config"], "{args:?} with {name}={value}");
            assert_ne!(code, Some(101), "{all}");
        }
    }
}

#[test]
fn misspelled_settings_are_refused() {
    let database = Database::new();
    for (name, value, sentence) in [
        ("COULOMB_POOLSIZE", "4", "COULOMB_POOLSIZE is not a setting: did you mean COULOMB_POOL_SIZE?"),
        ("COULOMB_LOG", "inof", "COULOMB_LOG has `inof`, but must be error, warn, info, debug, trace or off"),
        ("COULOMB_PORT", "8080", "COULOMB_PORT is not a setting"),
    ] {
        for args in [&["serve"][..], &["key", "list"], &["config"]] {
            let (code, _, told) = ran(database.command(args).env(name, value));
            assert_eq!(code, Some(2), "{told}");
            assert!(told.contains(sentence), "{told}");
        }
    }
    // Kubernetes sets such a variable for a service of our name.
    let (code, _, told) = ran(database.command(&["config"]).env("COULOMB_PORT", "tcp://10.0.0.1:8080"));
    assert_eq!(code, Some(0), "{told}");
}

#[test]
fn address_and_certificate_are_checked_before_a_cluster_is_made() {
    let home = tempfile::tempdir().expect("a directory");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let taken = taken.local_addr().map(|address| (address.to_string(), taken)).expect("an address");
    for (settings, sentence) in [
        (vec![("COULOMB_LISTEN", taken.0.as_str())], "where nothing can listen"),
        (
            vec![("COULOMB_TLS_CERT", "/nonexistent"), ("COULOMB_TLS_KEY", "/nonexistent")],
            "COULOMB_TLS_CERT names /nonexistent, which cannot be used",
        ),
    ] {
        let data_dir = home.path().join("data");
        let mut serve = elsewhere(&["serve"], home.path());
        let (code, _, told) = ran(serve.env("COULOMB_DATA_DIR", &data_dir).envs(settings));
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(sentence), "{told}");
        assert!(!data_dir.exists(), "nothing is made");
    }
}

#[test]
fn a_reader_that_goes_away_ends_a_command_quietly() {
    let database = Database::new();
    database.key("admin", None);
    for args in [
        &["openapi"][..],
        &["config"],
        &["completions", "bash"],
        &["key", "list"],
        &["dump"],
        &["doctor"],
        &["migrate", "--plan"],
        &["export", "invoices"],
        &["help"],
    ] {
        let mut command = database.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("runs");
        drop(child.stdout.take());
        let output = child.wait_with_output().expect("ends");
        let told = told(&output);
        assert!(!told.contains("panicked") && !told.contains("Broken pipe"), "{args:?}: {told}");
        let quiet = output.status.signal() == Some(13) || output.status.code() == Some(0);
        assert!(quiet, "{args:?}: {:?} {told}", output.status);
    }
}

#[tokio::test]
async fn a_key_that_has_expired_is_not_made() {
    let database = Database::new();
    let past = ["key", "create", "--scopes", "admin", "--expires-at", "2020-01-01T00:00:00Z"];
    let (code, out, told) = ran(&mut database.command(&past));
    assert!(code == Some(1) && out.is_empty() && told.contains("expires_at"), "{told}");
    let admin = database.key("admin", None);
    let daemon = Daemon::start(&database);
    let body = json!({ "name": "old", "scopes": ["billing:read"], "expires_at": "2020-01-01T00:00:00Z" });
    let (status, refused) = answer(daemon.request(Method::POST, "/v1/keys", &admin).json(&body)).await;
    assert_eq!(status, 400, "{refused}");
    assert!(refused.to_string().contains("expires_at"), "{refused}");
    assert_eq!(database.number("SELECT count(*) FROM api_keys"), 1);
}

/// If standard output cannot be written, standard error says what was done and its id, and nothing panics.
#[test]
fn what_was_done_is_said_where_it_cannot_be_shown() {
    let database = Database::new();
    database.execute(
        "INSERT INTO orgs (public_id, external_id, name, time_zone, created_at, metadata)
             VALUES ('org_acme', 'acme', 'Acme', 'UTC', now(), '{}');
         INSERT INTO org_refs (ref, org_id)
         SELECT 'acme', org_id FROM orgs",
    );
    let into_nothing = |args: &[&str]| {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("a device");
        let output = database.command(args).stdout(full).output().expect("runs");
        (output.status.code(), told(&output))
    };
    let (code, said) = into_nothing(&["key", "create", "--scopes", "admin"]);
    let id = database.value("SELECT key_id FROM api_keys").expect("it was made");
    assert!(
        code == Some(1) && said.contains(&format!("the key {id} was made and nobody has seen it")),
        "{said}"
    );
    let grant = ["battery", "grant", "--org", "acme", "--amount", "5", "--reason", "test"];
    let (code, said) = into_nothing(&grant);
    let id = database.value("SELECT grant_id FROM battery_grants").expect("it was made");
    assert!(code == Some(1) && said.contains(&format!("the grant {id} was made, but")), "{said}");
    for args in
        [&["openapi"][..], &["key", "list"], &["completions", "bash"], &["doctor"], &["migrate", "--plan"]]
    {
        let (code, said) = into_nothing(args);
        assert!(code == Some(1) && said.contains("standard output cannot be written"), "{args:?}: {said}");
        assert!(!said.contains("panicked"), "{args:?}: {said}");
    }
}

#[tokio::test]
async fn nothing_is_reverted_under_a_daemon() {
    let database = Database::new();
    let mut daemon = Daemon::start(&database);
    let key = database.key("admin", None);
    let (code, _, said) = ran(&mut database.command(&["migrate", "--revert", "1"]));
    assert!(code == Some(2) && said.contains("connection(s) to this database are open"), "{said}");
    assert_eq!(daemon.get("/v1/orgs", &key).await.0, 200);
    assert_eq!(daemon.stop(), Some(0));
    let (code, out, said) = ran(&mut database.command(&["migrate", "--revert", "1"]));
    assert!(code == Some(0) && out.starts_with("took back"), "{out}{said}");
}

/// Empty ranges and too few files are refused with a reason.
#[test]
fn what_cannot_be_meant_is_refused() {
    let database = Database::new();
    let (code, _, said) = ran(&mut database.command(&["verify", "--from", "2027-01", "--to", "2026-01"]));
    assert!(code == Some(2) && said.contains("--from must be before --to"), "{said}");
    let (code, _, said) = ran(&mut database.command(&["rebuild", "mirrors"]));
    assert!(code == Some(2) && said.contains("--yes"), "{said}");
    let (code, _, said) = ran(database
        .command(&["migrate", "--plan"])
        .env_remove("DATABASE_URL")
        .env("COULOMB_DATABASE_OWNER_URL", "postgresql://u:hunter2@localhost/db"));
    assert!(code == Some(2) && said.contains("COULOMB_DATABASE_OWNER_URL stands alone"), "{said}");
    assert!(!said.contains("hunter2"), "{said}");
    let limited = format!("ulimit -n 200 && exec {COULOMB} serve");
    let mut shell = Command::new("sh");
    shell.args(["-c", &limited]).env("DATABASE_URL", &database.url).env("COULOMB_LISTEN", "127.0.0.1:0");
    let (code, _, said) = ran(&mut shell);
    assert!(code == Some(2) && said.contains("the limit of open files is 200"), "{said}");
}
