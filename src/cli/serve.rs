//! `coulomb serve`

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::{TimeDelta, Utc};

use super::running::Daemon;
use super::{Failure, open};
use crate::app::App;
use crate::auth::{self, NewKey, PLATFORM, Scope};
use crate::battery::effects::{skipped, waiting};
use crate::billing::acting_realms;
use crate::config::{Config, describe_database};
use crate::db::{self, Db, DbOptions, migrate};
use crate::error::Error;
use crate::server;
use crate::time::Clock;
use crate::workers::Workers;

/// How far the clocks of daemon and database may differ at the start: as much as the age of Stripe's
/// signatures.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(300);

/// Runs the daemon. `file` is the settings file; the run file names it for commands.
pub(super) fn run(config: Config, file: Option<&Path>) -> Result<(), Failure> {
    server::check(&config)?;
    let template = server::template(&config).map_err(server::ServeError::from)?;
    let server = open::server(&config)?;
    let mut owner = db::connect_as_login(&server.owner_url)?;
    let migrated = migrate::run(&mut owner)?;
    if !migrated.applied.is_empty() {
        tracing::info!(applied = migrated.applied.join(", "), "migrated");
    }
    let clock = Clock::system();
    if server.embedded.is_none() {
        check_clock(&mut owner, &clock)?;
    }
    trust_realms(&mut owner, &config, clock.now())?;
    drop(owner);
    let admin_key = first_key(&server.url, migrated.roles)?;

    let db = Db::new(DbOptions {
        url: server.url.clone(),
        size: u32::from(config.pool_size),
        wait: Duration::from_millis(u64::from(config.pool_wait_ms)),
        statement_timeout: Duration::from_millis(u64::from(config.statement_timeout_ms)),
        lock_timeout: Duration::from_millis(u64::from(config.lock_timeout_ms)),
        silence: Duration::from_millis(u64::from(config.database_silence_ms)),
        roles: migrated.roles,
    });
    let app = App::new(config, clock, db);
    let app = Arc::new(match template {
        Some(template) => app.with_template(template),
        None => app,
    });
    let data_dir = server.embedded.as_ref().map(|embedded| embedded.data_dir().to_owned());
    let place = data_dir.as_ref().map_or_else(
        || describe_database(&server.url),
        |data_dir| format!("{} (embedded PostgreSQL)", data_dir.display()),
    );
    let daemon = Daemon {
        pid: std::process::id(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        scheme: if app.config.tls_cert.is_some() { "https" } else { "http" }.to_owned(),
        address: app.config.listen,
        database: place,
        data_dir,
        config: file.and_then(|file| file.canonicalize().ok()),
    };
    let served = actix_web::rt::System::new().block_on(listen(&app, daemon, admin_key.as_deref()));
    app.inbox.stop();
    app.usage.stop();
    app.quotas.stop();
    drop(app);
    JOINED.store(true, Ordering::SeqCst);
    if let Some(embedded) = server.embedded {
        embedded.stop()?;
    }
    tracing::info!("stopped");
    served
}

/// Lets the realms act that the settings name. If others acted so far, requeues everything that depends on
/// it.
fn trust_realms(
    conn: &mut diesel::pg::PgConnection,
    config: &Config,
    now: chrono::DateTime<Utc>,
) -> Result<(), Failure> {
    let change = db::run_with_retries(conn, |conn| {
        let change = acting_realms::establish(conn, &config.acting_realms(), now)?;
        match change {
            acting_realms::ActingChange::None => {}
            acting_realms::ActingChange::First => waiting::requeue_all(conn)?,
            acting_realms::ActingChange::Other => skipped::requeue_all(conn)?,
        }
        Ok(change)
    })?;
    if change == acting_realms::ActingChange::Other {
        let (mode, accounts) = (config.stripe_mode, config.stripe_accounts.join(","));
        tracing::warn!(?mode, accounts, "other realms of Stripe act than before");
    }
    Ok(())
}

/// Refuses to start with a clock far from the database's: entries never change, so a wrong date would stay.
/// Not asked of the embedded server, which has this machine's clock: a daemon that runs on a shifted clock,
/// to replay the past, is meant to.
fn check_clock(conn: &mut diesel::pg::PgConnection, clock: &Clock) -> Result<(), Failure> {
    let apart = clock.now() - db::server_time(conn)?;
    if apart.abs() < CLOCKS_APART {
        return Ok(());
    }
    let side = if apart > TimeDelta::zero() { "ahead of" } else { "behind" };
    Err(format!(
        "the clock of this machine is {} s {side} the database's: set both by NTP, then start again",
        apart.num_seconds().abs()
    )
    .into())
}

async fn listen(app: &Arc<App>, mut daemon: Daemon, admin_key: Option<&str>) -> Result<(), Failure> {
    let (server, address) = server::bind(app)?;
    daemon.address = address;
    let handle = server.handle();
    let workers = Workers::start(app);
    tracing::info!(%address, data = daemon.database, "listening");
    let _left = daemon.leave(&app.config);
    print_greeting(greeting(app, &daemon, admin_key), admin_key.is_some());
    let drain = Duration::from_secs(u64::from(app.config.drain_s));
    actix_web::rt::spawn(async move {
        ask_to_stop().await;
        tracing::info!("draining");
        end_by_force_after(drain);
        handle.stop(true).await;
    });
    let served = server.await;
    // Joining threads blocks; there is nothing else left to run.
    workers.stop();
    served.map_err(Into::into)
}

/// True once all worker threads have ended.
static JOINED: AtomicBool = AtomicBool::new(false);
/// How long threads may take to end after the last request.
const ENDED_WITHIN: Duration = Duration::from_secs(2);
/// How long they may take after that, without a database.
const LEFT_WITHIN: Duration = Duration::from_secs(5);

/// Ends the process after this time, even when the database does not answer.
fn end_by_force_after(drain: Duration) {
    std::thread::spawn(move || {
        std::thread::sleep(drain + ENDED_WITHIN);
        db::close_connections();
        std::thread::sleep(LEFT_WITHIN);
        if !JOINED.load(Ordering::SeqCst) {
            tracing::error!("threads that do not end are left behind");
            std::process::exit(1);
        }
    });
}

/// SIGTERM, or Ctrl-C on a terminal.
async fn ask_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}

/// On the first start, makes the admin key, with which all other keys are made.
fn first_key(url: &str, roles: bool) -> Result<Option<String>, Failure> {
    let mut conn = db::connect_as_command(url, roles)?;
    let made = db::run_with_retries(&mut conn, |conn| {
        if !auth::none_yet(conn)? {
            return Ok(None);
        }
        let new = NewKey {
            org_id: PLATFORM,
            name: "first admin key".to_owned(),
            scopes: vec![Scope::Admin],
            expires_at: None,
            requests_per_minute: None,
        };
        auth::create(conn, &new, Utc::now()).map(|(_, key)| Some(key))
    });
    made.map_err(|error: Error| error.into())
}

/// Writes the greeting to standard output, on a thread of its own: the daemon runs even when nobody reads it.
fn print_greeting(greeting: String, has_key: bool) {
    let say = move || {
        let mut out = std::io::stdout().lock();
        if let Err(error) = out.write_all(greeting.as_bytes()).and_then(|()| out.flush()) {
            tracing::warn!(%error, "the greeting could not be written to standard output");
            if has_key {
                tracing::warn!(
                    "nobody has seen the first admin key: make another one with `coulomb key create`"
                );
            }
        }
    };
    let _ = std::thread::Builder::new().name("greeting".to_owned()).spawn(say);
}

/// The addresses; on the first start also the admin key and three commands to try.
fn greeting(app: &App, daemon: &Daemon, admin_key: Option<&str>) -> String {
    let Daemon { scheme, address, database: place, .. } = daemon;
    let base = format!("{scheme}://{address}");
    let mut text = format!("Coulomb listens on {base} (API: {base}/docs), data in {place}.\n");
    if app.signing_secrets.is_empty() {
        text += &format!(
            "Stripe webhooks are refused until STRIPE_WEBHOOK_SECRET is set; point Stripe at \
             {base}/webhooks/stripe.\n"
        );
    }
    if let Some(key) = admin_key {
        text += &format!(
            "\nAdmin key, shown this once:\n  {key}\n\nTry:\n  \
             curl {base}/readyz\n  \
             curl -H 'Authorization: Bearer {key}' {base}/v1/invoices\n  \
             curl -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d \
             '{{\"name\":\"Acme\",\"external_id\":\"acme\"}}' {base}/v1/orgs\n\n"
        );
    }
    text
}
