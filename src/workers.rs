//! Background work: one table of workers, each a thread with its own connection.

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;

use crate::api::commands;
use crate::app::App;
use crate::battery::{effects, upkeep};
use crate::billing::directory;
use crate::db;
use crate::error::Error;
use crate::integrity::derived_tables::CountingSettings;
use crate::metering::counters;
use crate::metering::{catalog, partitions};
use crate::panics;
use crate::plans::{subscriptions, unit_grants};
use crate::quota::{reservation_batch, reservations};
use crate::stripe::project;
use crate::threads::Pulse;
use crate::time::Belief;
use crate::wake::Wake;

/// What a turn of a worker came to.
enum Turn {
    /// There is more to do at once.
    More,
    /// Rest until woken or the interval is over.
    Rest,
    /// Rest so long, or until the daemon stops.
    RestFor(Duration),
    /// There is more to do, after as long a pause, or when fewer deliveries come.
    Pause(Duration),
}

/// No worker has as much to do at once: each looks at its connection again, and whether to stop, after some
/// seconds.
const LONGEST_TURN: Duration = Duration::from_secs(900);

/// A line of the table.
struct Worker {
    name: &'static str,
    /// How many threads run it.
    threads: fn(&App) -> u16,
    /// How long it rests when there is nothing to do.
    interval: Duration,
    /// Rests shorter when something was put into the inbox.
    woken: bool,
    turn: fn(&App, &mut PgConnection) -> Result<Turn, Error>,
}

/// Every worker. Each may run on any number of replicas at once: rows are claimed with SKIP LOCKED, or the
/// work may be done twice.
const WORKERS: &[Worker] = &[
    Worker {
        name: "projector",
        threads: |app| app.config.projectors,
        interval: Duration::from_millis(500),
        woken: true,
        turn: project_inbox,
    },
    Worker {
        name: "org-listener",
        threads: |_| 1,
        interval: directory::HEARD_WITHIN,
        woken: false,
        turn: listen_for_orgs,
    },
    Worker {
        name: "key-sweeper",
        threads: |_| 1,
        interval: Duration::from_secs(600),
        woken: false,
        turn: forget_idempotency_keys,
    },
    Worker {
        name: "usage-partitions",
        threads: |_| 1,
        interval: Duration::from_secs(600),
        woken: false,
        turn: keep_partitions,
    },
    Worker {
        name: "usage-refresh",
        threads: |_| 1,
        interval: Duration::from_secs(5),
        woken: false,
        turn: refresh_usage,
    },
    Worker {
        name: "reservation-sweeper",
        threads: |_| 1,
        interval: Duration::from_secs(1),
        woken: false,
        turn: end_overdue_reservations,
    },
    Worker {
        name: "local-subscriptions",
        threads: |_| 1,
        interval: Duration::from_secs(60),
        woken: false,
        turn: keep_local_subscriptions,
    },
    Worker {
        name: "battery-upkeep",
        threads: |_| 1,
        interval: Duration::from_secs(1),
        woken: false,
        turn: keep_batteries,
    },
    Worker {
        name: "quota-cleaner",
        threads: |_| 1,
        interval: Duration::from_secs(600),
        woken: false,
        turn: forget_quota_periods,
    },
];

fn keep_local_subscriptions(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    let now = app.clock.now();
    if subscriptions::end_due(conn, now)? > 0 {
        return Ok(Turn::More);
    }
    let mut after = None;
    loop {
        after = unit_grants::grant_begun(conn, after, now)?;
        if after.is_none() {
            return Ok(Turn::Rest);
        }
    }
}

fn end_overdue_reservations(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    let ended = reservation_batch::end_overdue(conn, app.clock.now())?;
    Ok(if ended == 0 { Turn::Rest } else { Turn::More })
}

/// What is due in batteries that nobody uses, and the allowances of days that have begun.
fn keep_batteries(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    let now = app.clock.now();
    let posted = db::once(conn, |conn| upkeep::post_due(conn, now))?;
    Ok(if grant_allowances(app, conn, now)? || posted > 0 { Turn::More } else { Turn::Rest })
}

/// Grants some orgs the allowance of their day; tells whether there are more.
fn grant_allowances(app: &App, conn: &mut PgConnection, now: DateTime<Utc>) -> Result<bool, Error> {
    let version = catalog::version(conn)?;
    let rules = app.rules.at(version).map_or_else(|| app.rules.refresh(conn), Ok)?;
    if !rules.limits.battery.any_daily() {
        return Ok(false);
    }
    let Some(step) = app.allowances.next(conn, now)? else { return Ok(false) };
    let granted = db::once(conn, |conn| {
        // By the plans as they are when it commits.
        if catalog::lock_shared(conn)? != rules.version() {
            return Ok(None);
        }
        upkeep::grant(conn, &app.directory, &rules.limits.battery, step, now).map(Some)
    })?;
    if let Some(reached) = granted {
        app.allowances.done(step, reached);
    }
    Ok(true)
}

/// A billing period lasts three years at most.
const BILLING_DAYS: i64 = 3 * 366;

fn forget_quota_periods(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    if !may_delete(app) {
        return Ok(Turn::Rest);
    }
    let now = app.clock.now();
    // A day more: local days begin before those of UTC.
    let before = |days: i64| (now - TimeDelta::days(days + 1)).date_naive();
    let days = i64::from(app.config.quota_retention_days);
    let oldest = counters::CounterHorizon {
        org: before(days),
        subject: before(i64::from(app.config.quota_subject_retention_days)),
        billing: before(days + BILLING_DAYS),
    };
    // Ended reservations are remembered as long as usage may come late.
    let late = TimeDelta::days(i64::from(app.config.usage_window_back_days));
    let forgotten = counters::delete_old(conn, oldest)? + reservations::forget_old(conn, now - late)?;
    Ok(if forgotten == 0 { Turn::Rest } else { Turn::More })
}

/// Markers that are worked on together. Each may lock an account that usage waits for, and costs a tenth of a
/// millisecond meanwhile.
const EFFECTS_BATCH: u32 = 250;

/// While many deliveries wait for their answer, a projector rests so many times as long as its turn took:
/// Stripe waits for answers, and nobody for a projection by some tenths of a second.
const YIELDING: u32 = 15;
/// But no longer than this.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// And no longer than deliveries come so fast: when there were few at so many looks, one after the other, it
/// goes on.
const LULLS: u32 = 3;
/// How far the looks are apart.
const LOOK: Duration = Duration::from_millis(10);

fn project_inbox(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    let begun = Instant::now();
    // The same share of the time, in shorter turns.
    let shorter = if app.inbox.is_pressed() { 2 } else { 1 };
    let options = project::Options {
        batch: (app.config.projection_batch / shorter).max(1),
        attempts: app.config.projection_attempts,
        org_per_customer: app.config.stripe_org_per_customer,
    };
    let step = project::step(conn, &options, app.clock.now())?;
    for (outcome, events) in [
        ("applied", step.applied),
        ("superseded", step.superseded),
        ("without_object", step.without_object),
        ("failed", step.failed),
        ("repeated", step.repeated),
    ] {
        app.metrics.projected(outcome, events);
    }
    // What was projected acts at once; what others have projected, or a command has let happen, does too.
    let options = effects::Options { batch: EFFECTS_BATCH, proration: app.config.battery_proration };
    let (mut effects, mut full) = (0_u64, true);
    // As many markers as so many events may leave.
    while full && effects <= 2 * step.taken() {
        let done = effects::run_batch(conn, &options, app.clock.now())?;
        full = done >= EFFECTS_BATCH as usize;
        effects += u64::try_from(done).unwrap_or(u64::MAX);
    }
    Ok(if step.taken() == 0 && effects == 0 {
        Turn::Rest
    } else if app.inbox.is_pressed() {
        Turn::Pause((begun.elapsed() * YIELDING).min(LONGEST_PAUSE))
    } else {
        Turn::More
    })
}

fn listen_for_orgs(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    app.directory.listen(conn)?;
    Ok(if app.directory.renew(conn)? { Turn::More } else { Turn::Rest })
}

/// How long a worker rests before it looks again at a clock that jumped.
const DOUBTED_CLOCK_REST: Duration = Duration::from_secs(1);

/// Whether old rows may be deleted by the clock. A daemon that starts with a wrong clock must not delete what
/// is not old.
fn may_delete(app: &App) -> bool {
    app.clock.belief() == Belief::Settled
}

fn forget_idempotency_keys(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    if !may_delete(app) {
        return Ok(Turn::Rest);
    }
    let forgotten = commands::forget_old(conn, app.clock.now())?;
    Ok(if forgotten == 0 { Turn::Rest } else { Turn::More })
}

fn keep_partitions(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    let now = app.clock.now();
    partitions::create_ahead(conn, now, app.config.usage_window_back_days)?;
    let retired = if may_delete(app) { partitions::remove_oldest(conn, &app.config, now)? } else { None };
    if retired.is_some() {
        app.partitions.forget();
    }
    Ok(if retired.is_some() { Turn::More } else { Turn::Rest })
}

fn refresh_usage(app: &App, conn: &mut PgConnection) -> Result<Turn, Error> {
    let turn = app.summary_repair.turn(conn, CountingSettings::new(&app.config, app.clock.now()))?;
    app.metrics.usage_summaries_repaired.inc_by(turn.repaired);
    Ok(turn.rest.map_or(Turn::Rest, Turn::RestFor))
}

/// Running workers.
pub struct Workers {
    wake: Arc<Wake>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts the table's workers.
    #[must_use]
    pub fn start(app: &Arc<App>) -> Self {
        let mut threads = Vec::new();
        for worker in WORKERS {
            for n in 0..usize::from((worker.threads)(app)) {
                let daemon = Arc::clone(app);
                let body = move |pulse: &Pulse| pulse.go_on(|| run(worker, &daemon, pulse));
                threads.push(app.threads.spawn(worker.name, n, LONGEST_TURN, body));
            }
        }
        Self { wake: Arc::clone(&app.wake), threads }
    }

    /// Lets each worker finish its turn, then ends it.
    pub fn stop(self) {
        self.wake.stop();
        for thread in self.threads {
            // A panic was reported when it happened.
            let _ = thread.join();
        }
    }
}

fn run(worker: &Worker, app: &App, pulse: &Pulse) {
    let mut conn = None;
    let mut failures = 0_u32;
    while !app.wake.is_stopped() {
        let seen = app.wake.generation();
        if matches!(app.clock.belief(), Belief::Doubted(_)) {
            app.wake.rest(seen, DOUBTED_CLOCK_REST, false);
            continue;
        }
        match turn(worker, app, &mut conn, pulse) {
            Ok(Turn::More) => failures = 0,
            Ok(Turn::Rest) => {
                failures = 0;
                app.wake.rest(seen, worker.interval, worker.woken);
            }
            Ok(Turn::RestFor(rest)) => {
                failures = 0;
                app.wake.rest(seen, rest, false);
            }
            Ok(Turn::Pause(pause)) => {
                failures = 0;
                pause_while_pressed(app, pause);
            }
            Err(error) => {
                // A lost race is tried again at once, a lost database with growing rests.
                if error.is_disconnected() {
                    conn = None;
                }
                failures += 1;
                if failures > 1 {
                    tracing::warn!(worker = worker.name, %error, failures, "a worker's turn failed, it goes \
                        on");
                }
                let rest = Duration::from_millis(50 << failures.min(6));
                app.wake.rest(app.wake.generation(), rest, false);
            }
        }
    }
}

/// Rests for `pause`, or until few deliveries wait for their answer.
fn pause_while_pressed(app: &App, pause: Duration) {
    let (begun, mut lulls) = (Instant::now(), 0);
    while begun.elapsed() < pause && lulls < LULLS && !app.wake.is_stopped() {
        app.wake.rest(0, LOOK, false);
        lulls = if app.inbox.is_pressed() { 0 } else { lulls + 1 };
    }
}

fn turn(worker: &Worker, app: &App, held: &mut Option<PgConnection>, pulse: &Pulse) -> Result<Turn, Error> {
    let _turn = pulse.turn();
    let conn = match &mut *held {
        Some(conn) => conn,
        none => none.insert(app.db.dedicated()?),
    };
    let panics = panics::seen();
    let done = panics::catch(|| {
        let done = (worker.turn)(app, conn);
        panics::provoke(worker.name, || "turn");
        done
    });
    // Also where the turn itself went on after one: the connection had a transaction open.
    if panics::seen() != panics {
        *held = None;
    }
    done
}
