//! One PostgreSQL for all tests, and a fresh database for each test.
//!
//! The server is the daemon's own embedded one. It stops, and its directory is deleted, when this process
//! ends in any way: its guard waits for the end of its standard input, which this process keeps open.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use coulomb::db::{self, migrate};
use diesel::connection::SimpleConnection;
use diesel::prelude::*;

/// A server. It stops and its directory is deleted when this is dropped or this process ends.
pub struct Server {
    pub url: String,
    /// Its data directory.
    pub dir: PathBuf,
    /// When this closes, the server stops.
    _stdin: ChildStdin,
}

const TEMPLATE: &str = "coulomb_template";

impl Server {
    /// An empty server; `name` makes its directory unique.
    pub fn start(name: &str) -> Self {
        Self::start_in(&std::env::temp_dir().join(format!("coulomb-it-{}{name}", std::process::id())))
    }

    /// An empty server with its data in `dir`.
    #[allow(clippy::zombie_processes, reason = "it ends with this process, or soon after this is dropped")]
    pub fn start_in(dir: &Path) -> Self {
        let dir = dir.to_owned();
        let mut guard = Command::new(env!("CARGO_BIN_EXE_coulomb"))
            .arg("postgres")
            .arg("--temporary")
            .arg("--data-dir")
            .arg(&dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the coulomb binary runs");
        let mut line = String::new();
        BufReader::new(guard.stdout.take().expect("piped")).read_line(&mut line).expect("the guard reports");
        let report: serde_json::Value = serde_json::from_str(&line).expect("the guard reports JSON");
        let url = report["url"]
            .as_str()
            .unwrap_or_else(|| panic!("no PostgreSQL for the tests: {report}"))
            .to_owned();
        Self { url, dir, _stdin: guard.stdin.take().expect("piped") }
    }

    /// Starts it again as a standby without a primary.
    pub fn becomes_standby(&self) {
        std::fs::write(self.dir.join("pgdata/standby.signal"), "").expect("written");
        let postmaster = rustix::process::Pid::from_raw(self.processes()[0]).expect("a process");
        rustix::process::kill_process(postmaster, rustix::process::Signal::INT).expect("it ends");
    }

    pub fn processes(&self) -> Vec<i32> {
        let file = std::fs::read_to_string(self.dir.join("pgdata/postmaster.pid")).expect("it runs");
        let postmaster = file.lines().next().and_then(|pid| pid.trim().parse().ok()).expect("a process");
        let parent = |pid: i32| {
            let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
            status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse::<i32>().ok()
        };
        let all = std::fs::read_dir("/proc").expect("Linux").flatten();
        let pids = all.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        std::iter::once(postmaster).chain(pids.filter(|pid| parent(*pid) == Some(postmaster))).collect()
    }
}

fn cluster() -> &'static Server {
    static CLUSTER: OnceLock<Server> = OnceLock::new();
    CLUSTER.get_or_init(|| {
        let server = Server::start("");
        let mut conn = PgConnection::establish(&server.url).expect("the cluster answers");
        conn.batch_execute(&format!("CREATE DATABASE {TEMPLATE}")).expect("a template");
        let template = named(&server.url, TEMPLATE);
        migrate::run(&mut PgConnection::establish(&template).expect("the template answers"))
            .expect("migrates");
        server
    })
}

/// The URL of another database on the same server.
fn named(url: &str, database: &str) -> String {
    let (server, _) = url.rsplit_once('/').expect("a URL names a database");
    format!("{server}/{database}")
}

/// A test's own database.
pub struct Database {
    /// Its URL for the owner.
    pub url: String,
    name: String,
    /// What [`Database::value`] asks with, many times a second while a test waits.
    asking: Mutex<Option<PgConnection>>,
    /// The mode and the connected accounts that act. Most events of the tests are in test mode.
    pub realms: (&'static str, &'static str),
}

/// The realms of most tests.
const REALMS: (&str, &str) = ("test", "acct_1,acct_2,acct_9");

impl Database {
    /// A migrated database.
    pub fn new() -> Self {
        Self::create(&format!("TEMPLATE {TEMPLATE}"))
    }

    /// An empty database.
    pub fn empty() -> Self {
        Self::create("TEMPLATE template0")
    }

    /// A database that another server runs; dropping this keeps it.
    pub fn at(url: &str) -> Self {
        Self { url: url.to_owned(), name: String::new(), asking: Mutex::default(), realms: REALMS }
    }

    fn create(how: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let name = format!("test_{}", NEXT.fetch_add(1, Ordering::Relaxed));
        let cluster = cluster();
        let mut conn = PgConnection::establish(&cluster.url).expect("the cluster answers");
        conn.batch_execute(&format!("CREATE DATABASE {name} {how}")).expect("a database");
        Self { url: named(&cluster.url, &name), name, asking: Mutex::default(), realms: REALMS }
    }

    /// A connection of the owner.
    pub fn owner(&self) -> PgConnection {
        db::connect_as_login(&self.url).expect("the database answers")
    }

    /// A connection like those of the daemon's workers.
    pub fn platform(&self) -> PgConnection {
        db::connect_as_command(&self.url, true).expect("the database answers")
    }

    /// The only value of a query's row, as text.
    pub fn value(&self, sql: &str) -> Option<String> {
        #[derive(QueryableByName)]
        struct Row {
            #[diesel(sql_type = diesel::sql_types::Nullable<diesel::sql_types::Text>)]
            value: Option<String>,
        }
        let sql = format!("SELECT (SELECT ({sql})::text) AS value");
        let mut asking = self.asking.lock().unwrap_or_else(PoisonError::into_inner);
        let mut conn = asking.take().unwrap_or_else(|| self.owner());
        let found = diesel::sql_query(&sql).get_result::<Row>(&mut conn);
        // A test may have ended the connection, or the server.
        let found = found.or_else(|_| {
            conn = self.owner();
            diesel::sql_query(&sql).get_result::<Row>(&mut conn)
        });
        let value = found.expect("the query runs").value;
        *asking = Some(conn);
        value
    }

    /// Like [`Database::value`], as a number.
    pub fn number(&self, sql: &str) -> i64 {
        self.value(sql).expect("a value").parse().expect("a number")
    }

    /// Runs statements as the owner.
    pub fn execute(&self, sql: &str) {
        self.owner().batch_execute(sql).expect("the statements run");
    }

    /// The directory for run files of this database's daemons; no other test uses it.
    pub fn run_dir(&self) -> std::path::PathBuf {
        let name = if self.name.is_empty() { "other" } else { &self.name };
        cluster().dir.join("daemons").join(name)
    }

    /// A `coulomb` command on this database.
    pub fn command(&self, args: &[&str]) -> Command {
        // Some commands refuse to run beside other connections.
        *self.asking.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let mut command = Command::new(env!("CARGO_BIN_EXE_coulomb"));
        command.args(args).env("DATABASE_URL", &self.url).env("COULOMB_LOG", "warn");
        command.env("COULOMB_RUN_DIR", self.run_dir());
        command.env("COULOMB_STRIPE_MODE", self.realms.0).env("COULOMB_STRIPE_ACCOUNTS", self.realms.1);
        command
    }

    /// The output of a `coulomb` command, which must succeed.
    pub fn run(&self, args: &[&str]) -> String {
        let output = self.command(args).output().expect("the coulomb binary runs");
        assert!(output.status.success(), "coulomb {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        if self.name.is_empty() {
            return;
        }
        let Ok(mut conn) = PgConnection::establish(&cluster().url) else { return };
        // If this fails, the database goes with the server.
        let _ = conn.batch_execute(&format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
    }
}
