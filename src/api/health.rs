//! `/healthz`, `/readyz`, `/metrics`: for probes and Prometheus. They do not wait for the API's connections.

use std::time::Duration;

use actix_web::http::header::ACCEPT;
use actix_web::{HttpRequest, HttpResponse, web};
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable};

use crate::app::App;
use crate::charging::charges;
use crate::db;
use crate::error::{Error, Problem};
use crate::messages::state;
use crate::stripe::sync;
use crate::time::ClockState;

/// How long a probe waits for the database.
const PATIENCE: Duration = Duration::from_secs(2);

/// Says that the process runs.
#[utoipa::path(get, path = "/healthz", tag = "operation",
responses((status = 200, description = "Running", body = String, content_type = "text/plain")))]
pub(crate) async fn healthz() -> HttpResponse {
    HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ok\n")
}

/// Says whether the daemon can work: the database can be read and written, and all threads run.
///
/// A thread counts as failed once it has ended, or when one turn of it takes longer than two minutes (threads
/// that requests wait for) or fifteen (background work).
#[utoipa::path(
    get,
    path = "/readyz",
    tag = "operation",
    responses(
        (status = 200, description = "Ready", body = String, content_type = "text/plain"),
        (status = 503,
            description = "The database is away or nothing can be stored in it (a standby, read-only, its \
                disk full), or a thread has ended or hangs (`thread_unwell`)",
            body = Problem,
            content_type = "application/problem+json"),
    )
)]
pub(crate) async fn readyz(app: web::Data<App>) -> Result<HttpResponse, Error> {
    if let ClockState::Jumped(jump) = app.clock.state() {
        return Err(Error::ClockJumped(jump.num_seconds()));
    }
    backlog(&app).await?.writable()?;
    app.threads.check()?;
    Ok(HttpResponse::Ok().content_type("text/plain; charset=utf-8").body("ready\n"))
}

/// Shows metrics for Prometheus.
///
/// The format is OpenMetrics, or Prometheus' older text format for clients that do not accept it. While the
/// database cannot be reached, its gauges keep their last values and `coulomb_database_up` is 0.
#[utoipa::path(
    get,
    path = "/metrics",
    tag = "operation",
    responses((status = 200, description = "The metrics", content(
        (String = "application/openmetrics-text"), (String = "text/plain")
    )))
)]
pub(crate) async fn metrics(app: web::Data<App>, request: HttpRequest) -> HttpResponse {
    let backlog = backlog(&app).await;
    let m = &app.metrics;
    m.database_up.set(i64::from(backlog.is_ok()));
    m.database_writable.set(i64::from(backlog.as_ref().is_ok_and(|backlog| backlog.writable().is_ok())));
    if let Ok(backlog) = backlog {
        m.inbox_pending.set(backlog.pending);
        m.inbox_quarantined.set(backlog.quarantined);
        m.effects_waiting.set(backlog.waiting);
        m.reservations_lapsed.set(backlog.lapsed);
        m.usage_unpriced.set(backlog.unpriced);
        m.inbox_oldest_s.set(backlog.oldest_s.unwrap_or(0));
        set_messages(&app).await;
        set_stripe(&app).await;
        set_charges(&app).await;
    }
    m.pool_in_use.set(i64::from(app.db.load().0));
    m.set_threads(&app.threads.states());
    let accepted = request.headers().get(ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let (content_type, text) = if accepted.contains("application/openmetrics-text") {
        ("application/openmetrics-text; version=1.0.0; charset=utf-8", m.render_openmetrics())
    } else {
        ("text/plain; version=0.0.4; charset=utf-8", m.render_prometheus_text())
    };
    HttpResponse::Ok().content_type(content_type).body(text)
}

/// Sets the metrics of charges through Stripe. If they cannot be read in time, they stay as they are.
async fn set_charges(app: &web::Data<App>) {
    let now = app.clock.now();
    let asked = app.db.probe(move |conn| Ok(charges::counts(conn, now)?));
    if let Ok(Ok(counts)) = tokio::time::timeout(PATIENCE, asked).await {
        for (state, number) in [
            ("waiting", counts.waiting),
            ("planned", counts.planned),
            ("sent", counts.sent),
            ("failed", counts.failed),
        ] {
            app.metrics.set_charges(state, number);
        }
        app.metrics.charges_oldest_s.set(counts.oldest_s);
    }
}

/// Sets the metrics of messages. If they cannot be read in time, they stay as they are.
async fn set_messages(app: &web::Data<App>) {
    let now = app.clock.now();
    let asked = app.db.probe(move |conn| Ok(state::backlog(conn, now)?));
    if let Ok(Ok(backlog)) = tokio::time::timeout(PATIENCE, asked).await {
        app.metrics.messages_waiting.set(backlog.waiting);
        app.metrics.messages_oldest_s.set(backlog.oldest_s);
    }
}

/// Sets the metrics of what is read at Stripe. If they cannot be read in time, they stay as they are.
async fn set_stripe(app: &web::Data<App>) {
    if app.stripe.is_none() {
        return;
    }
    let now = app.clock.now();
    let asked = app.db.probe(move |conn| Ok(sync::backlog(conn, now)?));
    if let Ok(Ok(backlog)) = tokio::time::timeout(PATIENCE, asked).await {
        let gauges = &app.metrics.stripe;
        gauges.failing.set(backlog.failing);
        gauges.pulled_s.set(backlog.pulled_s);
        gauges.wanted.set(backlog.wanted);
        gauges.run_objects.set(backlog.run_objects);
        gauges.run_steps_left.set(backlog.run_steps_left);
        gauges.runs_failed.set(backlog.failed_runs);
        gauges.drift.set(backlog.drift);
    }
}

#[derive(QueryableByName)]
struct Backlog {
    #[diesel(sql_type = BigInt)]
    pending: i64,
    #[diesel(sql_type = BigInt)]
    quarantined: i64,
    #[diesel(sql_type = BigInt)]
    waiting: i64,
    #[diesel(sql_type = BigInt)]
    lapsed: i64,
    #[diesel(sql_type = BigInt)]
    unpriced: i64,
    #[diesel(sql_type = Nullable<BigInt>)]
    oldest_s: Option<i64>,
    #[diesel(sql_type = Bool)]
    standby: bool,
    #[diesel(sql_type = Bool)]
    read_only: bool,
}

impl Backlog {
    /// Fails when the database is read-only, or had no room at the last write.
    fn writable(&self) -> Result<(), Error> {
        Err(Error::NotWritable(match (self.standby, self.read_only, db::disk_was_full_lately()) {
            (true, ..) => "the database is a read-only standby",
            (_, true, _) => "the database is read-only",
            (.., true) => "the database has no room left on its disk",
            _ => return Ok(()),
        }))
    }
}

/// Reads the backlog, over the connection that is reserved for probes.
async fn backlog(app: &web::Data<App>) -> Result<Backlog, Error> {
    let now = app.clock.now();
    let asked = app.db.probe(move |conn| {
        diesel::sql_query(
            "SELECT (SELECT coalesce(sum(deliveries), 0)::bigint FROM stripe_arrivals)
                        + count(*) FILTER (WHERE quarantined_at IS NULL)
                        + (SELECT count(*) FROM battery_effects_queue) AS pending,
                    count(quarantined_at) AS quarantined,
                    (SELECT count(*) FROM battery_effects_waiting WHERE dismissed_at IS NULL) AS waiting,
                    (SELECT count(*) FROM quota_reservations WHERE state = 'expired') AS lapsed,
                    (SELECT coalesce(sum(events), 0)::bigint FROM unpriced_usage) AS unpriced,
                    extract(epoch FROM $1 - least(
                        (SELECT received_at
                         FROM stripe_inbox
                         WHERE inbox_id = min(q.inbox_id) FILTER (WHERE quarantined_at IS NULL)),
                        (SELECT received_at[1]
                         FROM stripe_arrivals
                         ORDER BY arrival_id
                         LIMIT 1)))::bigint AS oldest_s,
                    pg_is_in_recovery() AS standby,
                    current_setting('transaction_read_only')::bool AS read_only
             FROM stripe_inbox_queue q",
        )
        .bind::<diesel::sql_types::Timestamptz, _>(now)
        .get_result(conn)
        .map_err(Error::from)
    });
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer,
        Err(_) => Err(Error::Busy("the database does not answer")),
    }
}
