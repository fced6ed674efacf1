//! Background work: one table of workers, each a thread with its own database connection.

mod tasks;

use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel::pg::PgConnection;

use crate::app::App;
use crate::billing::directory;
use crate::error::Error;
use crate::panics;
use crate::threads::Heartbeat;
use crate::time::ClockState;

/// What a worker does after a turn.
enum NextTurn {
    /// Start at once: there is more to do.
    AtOnce,
    /// Rest until woken, or until the worker's interval is over.
    AfterInterval,
    /// Rest for this long, or until the daemon stops.
    After(Duration),
    /// There is more to do, but webhooks wait for their answer: pause for this long, or until fewer wait.
    WhenCalm(Duration),
}

/// A longer turn counts as hanging. Every worker splits its work: after some seconds it starts a new turn and
/// checks its connection and whether to stop.
const LONGEST_TURN: Duration = Duration::from_secs(900);

type LastTurn = fn(&App, &mut PgConnection) -> Result<(), Error>;

/// A line of the table.
struct Worker {
    name: &'static str,
    /// How many threads run it.
    threads: fn(&App) -> u16,
    /// How long it rests when there is nothing to do.
    interval: Duration,
    /// Whether new deliveries in the inbox end its rest.
    woken_by_inbox: bool,
    turn: fn(&App, &mut PgConnection) -> Result<NextTurn, Error>,
    /// What is left to do when the daemon stops.
    last_turn: Option<LastTurn>,
}

/// Every worker. Any number of replicas may run each at the same time: a worker takes its rows with SKIP
/// LOCKED, or its work may be done twice.
const WORKERS: &[Worker] = &[
    Worker {
        name: "projector",
        threads: |app| app.config.projectors,
        interval: Duration::from_millis(500),
        woken_by_inbox: true,
        turn: tasks::project_inbox,
        last_turn: None,
    },
    Worker {
        name: "org-listener",
        threads: |_| 1,
        interval: directory::HEARD_WITHIN,
        woken_by_inbox: false,
        turn: tasks::listen_for_orgs,
        last_turn: None,
    },
    Worker {
        name: "key-sweeper",
        threads: |_| 1,
        interval: Duration::from_secs(600),
        woken_by_inbox: false,
        turn: tasks::delete_idempotency_keys,
        last_turn: None,
    },
    Worker {
        name: "usage-partitions",
        threads: |_| 1,
        interval: Duration::from_secs(600),
        woken_by_inbox: false,
        turn: tasks::maintain_partitions,
        last_turn: None,
    },
    Worker {
        name: "use-writer",
        threads: |_| 1,
        interval: Duration::from_secs(1),
        woken_by_inbox: false,
        turn: tasks::write_tallies,
        last_turn: None,
    },
    Worker {
        name: "eraser",
        threads: |_| 1,
        interval: Duration::from_secs(5),
        woken_by_inbox: false,
        turn: tasks::erase_orgs,
        last_turn: None,
    },
    Worker {
        name: "usage-refresh",
        threads: |_| 1,
        interval: Duration::from_secs(5),
        woken_by_inbox: false,
        turn: tasks::repair_summaries,
        last_turn: None,
    },
    Worker {
        name: "reservation-sweeper",
        threads: |_| 1,
        interval: Duration::from_secs(1),
        woken_by_inbox: false,
        turn: tasks::end_overdue_reservations,
        last_turn: None,
    },
    Worker {
        name: "local-subscriptions",
        threads: |_| 1,
        interval: Duration::from_secs(60),
        woken_by_inbox: false,
        turn: tasks::update_local_subscriptions,
        last_turn: None,
    },
    Worker {
        name: "billing-run",
        threads: |_| 1,
        interval: Duration::from_secs(5),
        woken_by_inbox: false,
        turn: tasks::run_billing,
        last_turn: None,
    },
    Worker {
        name: "battery-upkeep",
        threads: |_| 1,
        interval: Duration::from_secs(1),
        woken_by_inbox: false,
        turn: tasks::update_batteries,
        last_turn: None,
    },
    Worker {
        name: "quota-cleaner",
        threads: |_| 1,
        interval: Duration::from_secs(600),
        woken_by_inbox: false,
        turn: tasks::delete_quota_periods,
        last_turn: None,
    },
    Worker {
        name: "message-dispatcher",
        threads: |_| 1,
        interval: Duration::from_millis(100),
        woken_by_inbox: false,
        turn: tasks::assign_messages,
        last_turn: None,
    },
    Worker {
        name: "message-sender",
        threads: |_| 1,
        interval: Duration::from_millis(100),
        woken_by_inbox: false,
        turn: tasks::send_messages,
        last_turn: Some(tasks::finish_messages),
    },
    Worker {
        name: "stripe-sync",
        threads: |app| u16::from(app.stripe.is_some()),
        interval: Duration::from_secs(1),
        woken_by_inbox: false,
        turn: tasks::read_stripe,
        last_turn: Some(tasks::release_stripe),
    },
    Worker {
        name: "stripe-charger",
        threads: |app| u16::from(app.stripe.is_some()),
        interval: Duration::from_secs(1),
        woken_by_inbox: false,
        turn: tasks::charge_usage,
        last_turn: Some(tasks::release_charging),
    },
    Worker {
        name: "message-cleaner",
        threads: |_| 1,
        interval: Duration::from_secs(600),
        woken_by_inbox: false,
        turn: tasks::delete_messages,
        last_turn: None,
    },
];

/// How long a worker rests before it checks again a clock that jumped.
const JUMPED_CLOCK_REST: Duration = Duration::from_secs(1);

/// How often a projector that pauses checks whether few webhooks wait.
const CALM_CHECK: Duration = Duration::from_millis(10);
/// How many such checks in a row must find few webhooks until the projector goes on.
const CALM_CHECKS: u32 = 3;

/// Running workers.
pub struct Workers {
    app: Arc<App>,
    threads: Vec<JoinHandle<()>>,
}

impl Workers {
    /// Starts all workers of the table.
    #[must_use]
    pub fn start(app: &Arc<App>) -> Self {
        let mut threads = Vec::new();
        for worker in WORKERS {
            for n in 0..usize::from((worker.threads)(app)) {
                let app_of_thread = Arc::clone(app);
                let body = move |heartbeat: &Heartbeat| {
                    heartbeat.run_again_after_panic(|| run(worker, &app_of_thread, heartbeat))
                };
                threads.push(app.threads.spawn(worker.name, n, LONGEST_TURN, body));
            }
        }
        Self { app: Arc::clone(app), threads }
    }

    /// Ends every worker after its current turn, and writes what was only counted until now.
    pub fn stop(self) {
        self.app.wake.stop();
        for thread in self.threads {
            // A panic was logged when it happened.
            let _ = thread.join();
        }
        if let Err(error) = tasks::write_all_tallies(&self.app) {
            tracing::warn!(%error, "what was counted for the audit log in the last minute is lost");
        }
    }
}

/// Runs turns until the daemon stops.
fn run(worker: &Worker, app: &App, heartbeat: &Heartbeat) {
    let mut conn = None;
    let mut failures = 0_u32;
    while !app.wake.is_stopped() {
        let generation = app.wake.generation();
        if matches!(app.clock.state(), ClockState::Jumped(_)) {
            app.wake.rest(generation, JUMPED_CLOCK_REST, false);
            continue;
        }
        match run_turn(worker, app, &mut conn, heartbeat) {
            Ok(next) => {
                failures = 0;
                match next {
                    NextTurn::AtOnce => {}
                    NextTurn::AfterInterval => {
                        app.wake.rest(generation, worker.interval, worker.woken_by_inbox);
                    }
                    NextTurn::After(rest) => app.wake.rest(generation, rest, false),
                    NextTurn::WhenCalm(pause) => pause_until_calm(app, pause),
                }
            }
            Err(error) => {
                if error.is_disconnected() {
                    conn = None;
                }
                failures += 1;
                if failures > 1 {
                    tracing::warn!(worker = worker.name, %error, failures, "a worker's turn failed, it goes \
                        on");
                }
                // The rests grow: short after a lost race, longer while the database is away.
                let rest = Duration::from_millis(50 << failures.min(6));
                app.wake.rest(app.wake.generation(), rest, false);
            }
        }
    }
    if let (Some(last_turn), Some(conn)) = (worker.last_turn, &mut conn)
        && let Err(error) = last_turn(app, conn)
    {
        tracing::warn!(worker = worker.name, %error, "a worker could not finish its work");
    }
}

/// Rests for `pause`, or until few webhooks wait for their answer.
fn pause_until_calm(app: &App, pause: Duration) {
    let (began, mut calm_checks) = (Instant::now(), 0);
    while began.elapsed() < pause && calm_checks < CALM_CHECKS && !app.wake.is_stopped() {
        app.wake.rest(0, CALM_CHECK, false);
        calm_checks = if app.inbox.is_pressed() { 0 } else { calm_checks + 1 };
    }
}

/// Runs one turn, and connects first if the worker has no connection.
fn run_turn(
    worker: &Worker,
    app: &App,
    kept: &mut Option<PgConnection>,
    heartbeat: &Heartbeat,
) -> Result<NextTurn, Error> {
    let _turn = heartbeat.begin_turn();
    let conn = match &mut *kept {
        Some(conn) => conn,
        none => none.insert(app.db.connect_worker()?),
    };
    let panics_before = panics::count_on_this_thread();
    let result = panics::catch_as_error(|| {
        let result = (worker.turn)(app, conn);
        panics::panic_if_test_asks(worker.name, || "turn");
        result
    });
    // Also if the turn caught the panic itself and went on: the connection had a transaction open.
    if panics::count_on_this_thread() != panics_before {
        *kept = None;
    }
    result
}
