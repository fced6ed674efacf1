//! `coulomb serve`

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Utc};

use super::{Failure, open};
use crate::app::App;
use crate::auth::{self, NewKey, PLATFORM, Scope};
use crate::config::Config;
use crate::db::{self, Db, DbOptions, migrate};
use crate::error::Error;
use crate::server;
use crate::time::Clock;
use crate::workers::Workers;

/// How far the clocks of daemon and database may be apart at the start. Stripe's signatures may be as old.
const CLOCKS_APART: TimeDelta = TimeDelta::seconds(300);

pub(super) fn run(config: Config) -> Result<(), Failure> {
    let server = open::server(&config)?;
    let mut owner = db::establish(&server.owner_url)?;
    let migrated = migrate::run(&mut owner)?;
    if !migrated.applied.is_empty() {
        tracing::info!(applied = migrated.applied.join(", "), "migrated");
    }
    let clock = Clock::system();
    check_clock(&mut owner, &clock)?;
    drop(owner);
    let admin_key = first_key(&server.url, migrated.roles)?;

    let db = Db::new(DbOptions {
        url: server.url.clone(),
        size: u32::from(config.pool_size),
        wait: Duration::from_millis(u64::from(config.pool_wait_ms)),
        statement_timeout: Duration::from_millis(u64::from(config.statement_timeout_ms)),
        roles: migrated.roles,
    });
    let app = Arc::new(App::new(config, clock, db));
    let place = server.embedded.as_ref().map_or_else(
        || "the server of DATABASE_URL".to_owned(),
        |embedded| format!("{} (embedded PostgreSQL)", embedded.data_dir().display()),
    );
    let served = actix_web::rt::System::new().block_on(listen(&app, &place, admin_key.as_deref()));
    app.inbox.stop();
    app.usage.stop();
    app.quotas.stop();
    drop(app);
    if let Some(embedded) = server.embedded {
        embedded.stop()?;
    }
    tracing::info!("stopped");
    served
}

/// Refuses to start with a clock far from the database's: entries never change, so a wrong date would stay.
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

async fn listen(app: &Arc<App>, place: &str, admin_key: Option<&str>) -> Result<(), Failure> {
    let (server, address) = server::bind(app)?;
    let handle = server.handle();
    let workers = Workers::start(app);
    tracing::info!(%address, data = place, "listening");
    say_where(greeting(app, address, place, admin_key), admin_key.is_some());
    actix_web::rt::spawn(async move {
        ask_to_stop().await;
        tracing::info!("draining");
        handle.stop(true).await;
    });
    let served = server.await;
    // Joining threads blocks; there is nothing else left to run.
    workers.stop();
    served.map_err(Into::into)
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

/// On the first start, makes the key with which all others are made.
fn first_key(url: &str, roles: bool) -> Result<Option<String>, Failure> {
    let mut conn = db::connect(url, roles)?;
    let made = db::retrying(&mut conn, |conn| {
        // Two daemons may start at once on an empty database.
        diesel::connection::SimpleConnection::batch_execute(
            conn,
            "LOCK TABLE api_keys IN SHARE ROW EXCLUSIVE MODE",
        )?;
        if !auth::none_yet(conn)? {
            return Ok(None);
        }
        let new = NewKey {
            org_id: PLATFORM,
            name: "first admin key".to_owned(),
            scopes: vec![Scope::Admin],
            expires_at: None,
        };
        auth::create(conn, &new, Utc::now()).map(|(_, key)| Some(key))
    });
    made.map_err(|error: Error| error.into())
}

/// Tells it on standard output, on a thread of its own: the reader may be gone or may not read, and the daemon runs all the same.
fn say_where(greeting: String, has_key: bool) {
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

/// Where things are; on the first start also the key and three commands that work.
fn greeting(app: &App, address: SocketAddr, place: &str, admin_key: Option<&str>) -> String {
    let scheme = if app.config.tls_cert.is_some() { "https" } else { "http" };
    let base = format!("{scheme}://{address}");
    let mut text = format!("Coulomb listens on {base} (API: {base}/docs), data in {place}.\n");
    if app.signing_secrets.is_empty() {
        text += &format!(
            "Stripe webhooks are refused until STRIPE_WEBHOOK_SECRET is set; point Stripe at {base}/webhooks/stripe.\n"
        );
    }
    if let Some(key) = admin_key {
        text += &format!(
            "\nAdmin key, shown this once:\n  {key}\n\nTry:\n  \
             curl {base}/readyz\n  \
             curl -H 'Authorization: Bearer {key}' {base}/v1/invoices\n  \
             curl -H 'Authorization: Bearer {key}' -H 'Content-Type: application/json' -d '{{\"name\":\"Acme\",\"external_id\":\"acme\"}}' {base}/v1/orgs\n\n"
        );
    }
    text
}
