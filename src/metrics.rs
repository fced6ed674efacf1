//! Prometheus metrics. What the database knows is asked when the metrics are read.

use std::collections::HashSet;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use actix_web::http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::metering::event::Tally;
use crate::threads::State;

/// Labels of an answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Route {
    route: String,
    status: u16,
}

/// A thread of ours.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Worker {
    worker: String,
}

/// What becomes of webhook deliveries, of projected Stripe events, and of usage events.
const DELIVERIES: [&str; 2] = ["stored", "refused"];
const PROJECTED: [&str; 5] = ["applied", "superseded", "without_object", "failed", "repeated"];
const USAGE: [&str; 4] = ["accepted", "duplicate", "conflict", "rejected"];

type Seconds = Gauge<f64, AtomicU64>;

/// How something ended.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Outcome {
    outcome: &'static str,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    answers: Family<Route, Counter>,
    seconds: Family<Route, Histogram>,
    deliveries: Family<Outcome, Counter>,
    projected: Family<Outcome, Counter>,
    usage: Family<Outcome, Counter>,
    alive: Family<Worker, Gauge>,
    last_turn_s: Family<Worker, Seconds>,
    turn_s: Family<Worker, Seconds>,
    /// Stripe events stored, not yet projected, quarantined ones left out, and markers of effects that have
    /// not happened.
    pub inbox_pending: Gauge,
    /// Age of the oldest of them.
    pub inbox_oldest_s: Gauge,
    pub inbox_quarantined: Gauge,
    /// Effects of Stripe's payments that wait for an org, a price or a pack.
    pub effects_waiting: Gauge,
    /// Reservations that lapsed and that nobody has settled, as long as they are remembered.
    pub reservations_lapsed: Gauge,
    /// Usage events that no rate of their meter fits.
    pub usage_unpriced: Gauge,
    /// API connections in use.
    pub pool_in_use: Gauge,
    /// 1 while the database answers.
    pub database_up: Gauge,
    /// 1 while it can be written: it is no standby, not read-only, and had room lately.
    pub database_writable: Gauge,
    /// Rows of daily summaries and unique values that did not say what their records say.
    pub usage_summaries_repaired: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("coulomb"),
            answers: Family::default(),
            seconds: Family::new_with_constructor(|| Histogram::new(exponential_buckets(0.0005, 2.0, 16))),
            deliveries: Family::default(),
            projected: Family::default(),
            usage: Family::default(),
            alive: Family::default(),
            last_turn_s: Family::default(),
            turn_s: Family::default(),
            inbox_pending: Gauge::default(),
            inbox_oldest_s: Gauge::default(),
            inbox_quarantined: Gauge::default(),
            effects_waiting: Gauge::default(),
            reservations_lapsed: Gauge::default(),
            usage_unpriced: Gauge::default(),
            pool_in_use: Gauge::default(),
            database_up: Gauge::default(),
            database_writable: Gauge::default(),
            usage_summaries_repaired: Counter::default(),
        };
        // A counter that appears with its first count hides that count from `increase`.
        for (family, outcomes) in [
            (&metrics.deliveries, &DELIVERIES[..]),
            (&metrics.projected, &PROJECTED),
            (&metrics.usage, &USAGE),
        ] {
            outcomes.iter().for_each(|outcome| drop(family.get_or_create(&Outcome { outcome })));
        }
        metrics.registered()
    }
}

impl Metrics {
    fn registered(mut self) -> Self {
        let r = &mut self.registry;
        r.register("http_requests", "Answers by route and status", self.answers.clone());
        r.register_with_unit("http_request", "Time to answer", Unit::Seconds, self.seconds.clone());
        r.register(
            "stripe_deliveries",
            "Webhook deliveries by outcome: stored, refused",
            self.deliveries.clone(),
        );
        r.register(
            "stripe_projected",
            "Projected Stripe events by outcome: applied, superseded, without_object, failed; repeated: \
                deliveries of events that were there",
            self.projected.clone(),
        );
        r.register(
            "usage_events",
            "Usage events by outcome: accepted, duplicate, conflict, rejected",
            self.usage.clone(),
        );
        r.register(
            "stripe_inbox_pending",
            "Stripe events stored, not yet projected, and effects of them that have not happened",
            self.inbox_pending.clone(),
        );
        r.register_with_unit(
            "stripe_inbox_oldest",
            "Age of the oldest Stripe event not yet projected",
            Unit::Seconds,
            self.inbox_oldest_s.clone(),
        );
        r.register(
            "stripe_inbox_quarantined",
            "Stripe events whose projection was given up until retried by hand",
            self.inbox_quarantined.clone(),
        );
        r.register(
            "battery_effects_waiting",
            "Effects of Stripe's payments on batteries that wait for an org, a price or a pack",
            self.effects_waiting.clone(),
        );
        r.register(
            "quota_reservations_lapsed",
            "Reservations of the last 35 days that lapsed and that nobody has settled: usage may be missing",
            self.reservations_lapsed.clone(),
        );
        r.register(
            "usage_unpriced_events",
            "Usage events that no rate of their meter fits: they cost nothing until they are priced",
            self.usage_unpriced.clone(),
        );
        r.register("pool_connections_in_use", "API database connections in use", self.pool_in_use.clone());
        r.register(
            "usage_summaries_repaired",
            "Rows of daily summaries and unique values that did not say what their records say",
            self.usage_summaries_repaired.clone(),
        );
        r.register(
            "worker_alive",
            "1 while a thread has not ended and its turn takes no longer than it may",
            self.alive.clone(),
        );
        r.register_with_unit(
            "worker_last_turn_age",
            "Time since the end of a thread's last turn; those that wait for requests have turns only with \
                them",
            Unit::Seconds,
            self.last_turn_s.clone(),
        );
        r.register_with_unit(
            "worker_turn",
            "How long the present turn of a thread has taken; 0 while it rests",
            Unit::Seconds,
            self.turn_s.clone(),
        );
        r.register(
            "panics",
            "Panics by kind of thread: faults in Coulomb that its log tells more about",
            crate::panics::count(),
        );
        r.register(
            "log_lines_dropped",
            "Log lines that found no reader, no room on the disk, or too many lines before them",
            crate::logging::dropped(),
        );
        r.register("database_up", "1 while the database answers", self.database_up.clone());
        r.register(
            "database_writable",
            "1 while the database can be written: no standby, not read-only, with room lately",
            self.database_writable.clone(),
        );
        self
    }

    /// Counts an answer.
    pub fn answered(&self, route: impl Into<String>, status: StatusCode, elapsed: Duration) {
        let labels = Route { route: route.into(), status: status.as_u16() };
        self.answers.get_or_create(&labels).inc();
        self.seconds.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }

    /// Counts a webhook delivery.
    pub fn delivered(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&Outcome { outcome }).inc();
    }

    /// Counts projected Stripe events.
    pub fn projected(&self, outcome: &'static str, events: u64) {
        self.projected.get_or_create(&Outcome { outcome }).inc_by(events);
    }

    /// Counts usage events by what became of them.
    pub fn usage(&self, tally: Tally) {
        let counts = [tally.accepted, tally.duplicate, tally.conflict, tally.rejected];
        for (outcome, count) in USAGE.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.usage.get_or_create(&Outcome { outcome }).inc_by(count);
        }
    }

    /// Shows how each of the daemon's threads is.
    pub fn threads(&self, states: &[State]) {
        for state in states {
            let worker = Worker { worker: state.name.clone() };
            self.alive.get_or_create(&worker).set(i64::from(state.alive));
            self.last_turn_s.get_or_create(&worker).set(state.since.as_secs_f64());
            self.turn_s.get_or_create(&worker).set(state.turn.as_secs_f64());
        }
    }

    /// The text exposition (OpenMetrics 1.0).
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// The older text format of Prometheus (0.0.4), in which a counter's own name ends in `_total`.
    #[must_use]
    pub fn render_classic(&self) -> String {
        let text = self.render();
        let describes = |line: &str| -> Option<String> {
            let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
            Some(name.to_owned())
        };
        let counters: HashSet<String> = text.lines().filter_map(describes).collect();
        let mut classic = String::with_capacity(text.len());
        for line in text.lines().filter(|line| !line.starts_with("# UNIT ") && *line != "# EOF") {
            let mut words = line.splitn(4, ' ');
            match (words.next(), words.next(), words.next(), words.next()) {
                (Some("#"), Some(what), Some(name), Some(rest)) if counters.contains(name) => {
                    classic += &format!("# {what} {name}_total {rest}\n");
                }
                _ => {
                    classic += line;
                    classic.push('\n');
                }
            }
        }
        classic
    }
}
