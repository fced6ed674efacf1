//! The private PostgreSQL server: it starts, keeps committed data, and stops with its daemon.

use std::fs::{self, Permissions};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use coulomb::db::embedded::{Embedded, Options};
use diesel::prelude::*;
use diesel::sql_types::Text;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};

/// The environment variable that names a data directory for [`holds_a_cluster_until_killed`].
const HELD: &str = "COULOMB_TEST_HELD_DIR";

#[derive(QueryableByName)]
struct Value {
    #[diesel(sql_type = Text)]
    value: String,
}

/// A directory for a cluster. Another user may enter its parents, as the server may run as another user.
fn scratch() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o711)).unwrap();
    dir
}

fn options(data_dir: impl Into<PathBuf>) -> Options {
    Options { install: false, program: Some(env!("CARGO_BIN_EXE_coulomb").into()), ..Options::new(data_dir) }
}

fn start(data_dir: &Path) -> Embedded {
    Embedded::start(&options(data_dir)).unwrap()
}

/// For tests that do not check what is left behind.
fn start_temporary(data_dir: &Path) -> Embedded {
    Embedded::start(&Options { temporary: true, ..options(data_dir) }).unwrap()
}

fn try_value(url: &str, sql: &str) -> Result<String, String> {
    let mut connection = PgConnection::establish(url).map_err(|error| error.to_string())?;
    let rows: Vec<Value> = diesel::sql_query(format!("SELECT ({sql})::text AS value"))
        .load(&mut connection)
        .map_err(|error| error.to_string())?;
    Ok(rows.into_iter().next().unwrap().value)
}

fn value(url: &str, sql: &str) -> String {
    try_value(url, sql).unwrap()
}

fn execute(url: &str, sql: &str) {
    let mut connection = PgConnection::establish(url).unwrap();
    diesel::sql_query(sql).execute(&mut connection).unwrap();
}

/// The process id of the postmaster, from its file.
fn postmaster(data_dir: &Path) -> Pid {
    let file = fs::read_to_string(data_dir.join("pgdata/postmaster.pid")).unwrap();
    Pid::from_raw(file.lines().next().unwrap().trim().parse().unwrap()).unwrap()
}

fn guard(data_dir: &Path) -> Pid {
    let file = fs::read_to_string(data_dir.join("coulomb.lock")).unwrap();
    Pid::from_raw(file.split(' ').next().unwrap().parse().unwrap()).unwrap()
}

fn eventually(what: &str, at_most: Duration, mut is_so: impl FnMut() -> bool) {
    let until = Instant::now() + at_most;
    while !is_so() {
        assert!(Instant::now() < until, "not within {at_most:?}: {what}");
        thread::sleep(Duration::from_millis(20));
    }
}

fn is_gone(pid: Pid) -> bool {
    test_kill_process(pid).is_err()
}

#[test]
fn keeps_its_data_over_a_restart() {
    let dir = scratch();
    let data_dir = dir.path().join("new/data");
    let first = start(&data_dir);
    let url = first.url().to_owned();
    execute(&url, "CREATE TABLE kept AS SELECT 'Grüße' AS word");
    let server = postmaster(&data_dir);
    first.stop().unwrap();
    assert!(is_gone(server));
    assert!(try_value(&url, "1").is_err());

    let again = start(&data_dir);
    assert_eq!(again.url(), url, "the address stays the same after a restart");
    assert_eq!(value(&url, "SELECT word FROM kept"), "Grüße");
    assert_eq!(again.data_dir(), data_dir.canonicalize().unwrap());
}

#[test]
fn commits_are_durable_and_nothing_listens_on_the_network() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let embedded = start_temporary(&data_dir);
    for (setting, expected) in [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("data_checksums", "on"),
        ("listen_addresses", ""),
        ("server_encoding", "UTF8"),
        ("lc_collate", "C"),
        ("TimeZone", "UTC"),
        ("max_wal_size", "2GB"),
        ("max_connections", "400"),
    ] {
        assert_eq!(value(embedded.url(), &format!("current_setting('{setting}')")), expected, "{setting}");
    }
    assert_eq!(value(embedded.url(), "current_database() || '/' || current_user"), "coulomb/coulomb");
    let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
    assert_eq!(mode(&data_dir.join("password")), 0o600);
    assert_eq!(mode(&data_dir.join("pgdata")), 0o700);
    let socket_dir = value(embedded.url(), "current_setting('unix_socket_directories')");
    assert_eq!(mode(Path::new(&socket_dir)), 0o700);
    let wrong = embedded.url().replace("coulomb:", "coulomb:x");
    assert!(try_value(&wrong, "1").unwrap_err().contains("password authentication failed"));
}

#[test]
fn settings_that_lose_commits_are_refused_or_overruled() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let embedded = start(&data_dir);
    execute(embedded.url(), "ALTER SYSTEM SET fsync = off");
    execute(embedded.url(), "ALTER SYSTEM SET work_mem = '7MB'");
    embedded.stop().unwrap();
    let embedded = start(&data_dir);
    assert_eq!(value(embedded.url(), "current_setting('fsync') || current_setting('work_mem')"), "on7MB");
    execute(embedded.url(), "ALTER ROLE coulomb SET synchronous_commit = off");
    embedded.stop().unwrap();
    let error = Embedded::start(&options(&data_dir)).unwrap_err().to_string();
    assert!(error.contains("synchronous_commit = off"), "{error}");
}

#[test]
fn recovers_from_a_killed_postmaster() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let embedded = start_temporary(&data_dir);
    execute(embedded.url(), "CREATE TABLE kept (n bigint)");
    let mut busy = PgConnection::establish(embedded.url()).unwrap();
    execute(embedded.url(), "INSERT INTO kept (n) SELECT generate_series(1, 1000)");
    let before = postmaster(&data_dir);
    // A busy backend does not notice that its postmaster died.
    let computing = thread::spawn(move || {
        diesel::sql_query("SELECT count(*) AS value FROM generate_series(1, 100000000000)").execute(&mut busy)
    });
    thread::sleep(Duration::from_millis(100));
    kill_process(before, Signal::KILL).unwrap();
    eventually("the server is back", Duration::from_secs(20), || {
        try_value(embedded.url(), "SELECT count(*) FROM kept").is_ok_and(|count| count == "1000")
    });
    assert_ne!(postmaster(&data_dir), before);
    assert!(computing.join().unwrap().is_err());
}

#[test]
fn replaces_a_killed_guard() {
    let dir = scratch();
    for temporary in [false, true] {
        let data_dir = dir.path().join(format!("data{temporary}"));
        let embedded = Embedded::start(&Options { temporary, ..options(&data_dir) }).unwrap();
        execute(embedded.url(), "CREATE TABLE kept AS SELECT 1 AS n");
        let (killed, orphan) = (guard(&data_dir), postmaster(&data_dir));
        kill_process(killed, Signal::KILL).unwrap();
        eventually("the server has another guard", Duration::from_secs(20), || {
            guard(&data_dir) != killed
                && is_gone(orphan)
                && try_value(embedded.url(), "SELECT n FROM kept").is_ok_and(|n| n == "1")
        });
        let server = postmaster(&data_dir);
        embedded.stop().unwrap();
        assert!(is_gone(server));
    }
}

/// Not a test by itself: [`the_server_goes_with_a_killed_daemon`] runs it as another process and kills it.
#[test]
#[ignore = "run by another test"]
fn holds_a_cluster_until_killed() {
    if let Some(dir) = std::env::var_os(HELD) {
        let embedded = start(Path::new(&dir));
        println!("\nurl {}", embedded.url());
        thread::sleep(Duration::from_secs(120));
    }
}

fn holder(data_dir: &Path) -> (Child, String) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["embedded::holds_a_cluster_until_killed", "--exact", "--ignored", "--nocapture"])
        .env(HELD, data_dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
    let url = lines.filter_map(|line| line.strip_prefix("url ").map(str::to_owned)).next().unwrap();
    (child, url)
}

#[test]
fn the_server_goes_with_a_killed_daemon() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let (mut daemon, url) = holder(&data_dir);
    execute(&url, "CREATE TABLE kept AS SELECT 1 AS n");
    let (guard, server) = (guard(&data_dir), postmaster(&data_dir));
    daemon.kill().unwrap();
    daemon.wait().unwrap();
    eventually("server and guard are gone", Duration::from_secs(5), || is_gone(server) && is_gone(guard));
    let embedded = start(&data_dir);
    assert_eq!(value(embedded.url(), "SELECT n FROM kept"), "1");
}

#[test]
fn stops_a_server_whose_daemon_and_guard_were_killed() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let (mut daemon, url) = holder(&data_dir);
    execute(&url, "CREATE TABLE kept AS SELECT 1 AS n");
    let (guard, orphan) = (guard(&data_dir), postmaster(&data_dir));
    daemon.kill().unwrap();
    kill_process(guard, Signal::KILL).unwrap();
    daemon.wait().unwrap();
    let embedded = start(&data_dir);
    assert!(is_gone(orphan) || postmaster(&data_dir) != orphan);
    assert_eq!(value(embedded.url(), "SELECT n FROM kept"), "1");
}

#[test]
fn a_second_daemon_on_the_directory_is_refused() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let first = start_temporary(&data_dir);
    let error = Embedded::start(&options(&data_dir)).unwrap_err().to_string();
    assert!(error.contains("in use by another coulomb"), "{error}");
    assert!(error.contains(&format!("(process {}", std::process::id())), "{error}");
    assert_eq!(value(first.url(), "1"), "1", "the first one does not notice");
}

#[test]
fn root_runs_the_server_as_another_user() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let _embedded = start_temporary(&data_dir);
    let own = rustix::process::geteuid().as_raw();
    let owner = fs::metadata(data_dir.join("pgdata")).unwrap().uid();
    assert_ne!(owner, 0);
    let status = fs::read_to_string(format!("/proc/{}/status", postmaster(&data_dir).as_raw_nonzero()));
    if let Ok(status) = status {
        let line = |name| status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned();
        assert_eq!(line("Uid:").split_whitespace().next(), Some(owner.to_string().as_str()));
        if own == 0 {
            assert_eq!(line("Groups:"), "", "none of root's groups are left");
        }
    }
    if own != 0 {
        assert_eq!(owner, own);
    }
}

#[test]
fn root_hears_which_directory_is_closed_to_the_server() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: only root changes the user");
    }
    let dir = scratch();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let error = Embedded::start(&options(closed.join("data"))).unwrap_err().to_string();
    assert!(
        error.contains(&format!("cannot enter {}:", closed.canonicalize().unwrap().display())),
        "{error}"
    );
    assert!(error.contains("COULOMB_DATA_DIR"), "{error}");
}

#[test]
fn temporary_leaves_nothing_behind() {
    let dir = scratch();
    // The path is too long for a socket, so the daemon also looks in the temporary directory.
    let data_dir = dir.path().join("x".repeat(100));
    let embedded = start_temporary(&data_dir);
    let socket_dir = PathBuf::from(value(embedded.url(), "current_setting('unix_socket_directories')"));
    assert!(socket_dir.exists() && !socket_dir.starts_with(&data_dir));
    embedded.stop().unwrap();
    assert!(!data_dir.exists() && !socket_dir.exists());

    fs::write(dir.path().join("letters"), "kept").unwrap();
    let error = Embedded::start(&Options { temporary: true, ..options(dir.path()) }).unwrap_err().to_string();
    assert!(error.contains("is not empty"), "{error}");
    assert!(dir.path().join("letters").exists());
}

#[test]
fn a_half_made_cluster_is_made_anew() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    fs::create_dir_all(data_dir.join("pgdata.partial/base")).unwrap();
    fs::set_permissions(&data_dir, Permissions::from_mode(0o711)).unwrap();
    fs::write(data_dir.join("pgdata.partial/PG_VERSION"), "15\n").unwrap();
    fs::write(data_dir.join("pgdata.pwfile"), "left over").unwrap();
    let embedded = start(&data_dir);
    assert_eq!(value(embedded.url(), "1"), "1");
    assert!(!data_dir.join("pgdata.partial").exists() && !data_dir.join("pgdata.pwfile").exists());
}

#[test]
fn killed_while_making_the_cluster() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    let mut guard = Command::new(env!("CARGO_BIN_EXE_coulomb"))
        .args(["postgres", "--no-install", "--data-dir"])
        .arg(&data_dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let partial = data_dir.join("pgdata.partial/PG_VERSION");
    eventually("initdb works", Duration::from_secs(20), || partial.exists());
    guard.kill().unwrap();
    guard.wait().unwrap();
    assert!(!data_dir.join("pgdata").exists());
    assert_eq!(value(start(&data_dir).url(), "1"), "1");
}

#[test]
fn a_cluster_of_another_version_is_told_apart() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    start(&data_dir).stop().unwrap();
    fs::write(data_dir.join("pgdata/PG_VERSION"), "14\n").unwrap();
    let error = Embedded::start(&options(&data_dir)).unwrap_err().to_string();
    assert!(error.contains("made by PostgreSQL 14") && error.contains("pg_upgrade"), "{error}");
}

#[test]
fn errors_carry_the_last_lines_of_the_tool() {
    let dir = scratch();
    let data_dir = dir.path().join("data");
    start(&data_dir).stop().unwrap();
    let conf = data_dir.join("pgdata/postgresql.conf");
    let text = fs::read_to_string(&conf).unwrap();
    fs::write(&conf, text + "shared_buffers = plenty\n").unwrap();
    let error = Embedded::start(&options(&data_dir)).unwrap_err().to_string();
    assert!(error.contains("did not start") && error.contains("\"plenty\""), "{error}");
    let bin_dir = Some(dir.path().to_path_buf());
    let error =
        Embedded::start(&Options { bin_dir, ..options(dir.path().join("b")) }).unwrap_err().to_string();
    assert!(error.contains("postgres_bin_dir"), "{error}");
}

#[test]
fn the_guard_speaks_one_line_and_ends_with_its_input() {
    let dir = scratch();
    let mut guard = Command::new(env!("CARGO_BIN_EXE_coulomb"))
        .args(["postgres", "--no-install", "--temporary", "--data-dir"])
        .arg(dir.path().join("data"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = BufReader::new(guard.stdout.take().unwrap());
    let mut line = String::new();
    out.read_line(&mut line).unwrap();
    let ready: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(value(ready["url"].as_str().unwrap(), "1"), "1");
    assert!(ready["pid"].as_u64().is_some() && ready["version"].as_str().is_some());
    drop(guard.stdin.take());
    assert!(guard.wait().unwrap().success());
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, "");
}

#[test]
fn the_stop_does_not_wait_for_open_transactions() {
    let dir = scratch();
    let embedded = start(&dir.path().join("data"));
    let mut open = PgConnection::establish(embedded.url()).unwrap();
    diesel::sql_query("BEGIN").execute(&mut open).unwrap();
    diesel::sql_query("CREATE TABLE unfinished (n bigint)").execute(&mut open).unwrap();
    let at = Instant::now();
    embedded.stop().unwrap();
    assert!(at.elapsed() < Duration::from_secs(10), "{:?}", at.elapsed());
}
