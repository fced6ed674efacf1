//! Prometheus metrics. `api/health.rs` reads values that are in the database when somebody asks for the
//! metrics.

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

use crate::messages::sender::SendTally;
use crate::metering::event::Tally;
use crate::threads::ThreadState;

/// Labels of an HTTP answer.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct AnswerLabels {
    route: String,
    status: u16,
}

/// Label of one of the daemon's threads.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct WorkerLabel {
    worker: String,
}

/// Possible outcomes of webhook deliveries, of projected Stripe events, and of usage events.
const DELIVERY_OUTCOMES: [&str; 2] = ["stored", "refused"];
const PROJECTION_OUTCOMES: [&str; 5] = ["applied", "superseded", "without_object", "failed", "repeated"];
const ATTEMPT_OUTCOMES: [&str; 3] = ["delivered", "refused", "unanswered"];
const USAGE_OUTCOMES: [&str; 4] = ["accepted", "duplicate", "conflict", "rejected"];

const CHARGE_STATES: [&str; 4] = ["waiting", "planned", "sent", "failed"];

type Seconds = Gauge<f64, AtomicU64>;

/// Label of a counter by outcome.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OutcomeLabel {
    outcome: &'static str,
}

/// Label of a gauge by state.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct StateLabel {
    state: &'static str,
}

/// Every metric of the process.
pub struct Metrics {
    registry: Registry,
    answers: Family<AnswerLabels, Counter>,
    answer_time_s: Family<AnswerLabels, Histogram>,
    deliveries: Family<OutcomeLabel, Counter>,
    projected: Family<OutcomeLabel, Counter>,
    usage: Family<OutcomeLabel, Counter>,
    /// Requests without a valid key.
    pub auth_failures: Counter,
    attempts: Family<OutcomeLabel, Counter>,
    worker_alive: Family<WorkerLabel, Gauge>,
    worker_last_turn_s: Family<WorkerLabel, Seconds>,
    worker_turn_s: Family<WorkerLabel, Seconds>,
    /// Stripe events that are stored but not yet projected, without quarantined ones; plus effects of events
    /// that have not happened yet.
    pub inbox_pending: Gauge,
    /// Age in seconds of the oldest Stripe event that is not yet projected.
    pub inbox_oldest_s: Gauge,
    pub inbox_quarantined: Gauge,
    pub stripe: StripeGauges,
    /// Stripe payments whose effect on a battery waits for an org, a price or a pack.
    pub effects_waiting: Gauge,
    /// Reservations of the last 35 days that lapsed and that nobody has settled.
    pub reservations_lapsed: Gauge,
    /// Usage events for which their meter has no matching rate.
    pub usage_unpriced: Gauge,
    /// Messages that wait to be assigned, and deliveries that wait to be sent.
    pub messages_waiting: Gauge,
    /// Age in seconds of the oldest of them.
    pub messages_oldest_s: Gauge,
    /// Charges through Stripe that are not confirmed, by state.
    charges: Family<StateLabel, Gauge>,
    /// Age in seconds of the oldest charge that is planned and not sent.
    pub charges_oldest_s: Gauge,
    /// API connections in use.
    pub pool_in_use: Gauge,
    /// 1 while the database answers.
    pub database_up: Gauge,
    /// 1 while the database accepts writes: it is no standby, not read-only, and its disk was not full
    /// lately.
    pub database_writable: Gauge,
    /// Rows of daily summaries and unique values that differed from their usage records.
    pub usage_summaries_repaired: Counter,
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            registry: Registry::with_prefix("coulomb"),
            answers: Family::default(),
            answer_time_s: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.0005, 2.0, 16))
            }),
            deliveries: Family::default(),
            projected: Family::default(),
            usage: Family::default(),
            auth_failures: Counter::default(),
            attempts: Family::default(),
            worker_alive: Family::default(),
            worker_last_turn_s: Family::default(),
            worker_turn_s: Family::default(),
            inbox_pending: Gauge::default(),
            inbox_oldest_s: Gauge::default(),
            inbox_quarantined: Gauge::default(),
            stripe: StripeGauges::default(),
            effects_waiting: Gauge::default(),
            reservations_lapsed: Gauge::default(),
            usage_unpriced: Gauge::default(),
            messages_waiting: Gauge::default(),
            messages_oldest_s: Gauge::default(),
            charges: Family::default(),
            charges_oldest_s: Gauge::default(),
            pool_in_use: Gauge::default(),
            database_up: Gauge::default(),
            database_writable: Gauge::default(),
            usage_summaries_repaired: Counter::default(),
        };
        // Every counter starts at 0: Prometheus' `increase` does not see the first count of a new counter.
        for (family, outcomes) in [
            (&metrics.deliveries, &DELIVERY_OUTCOMES[..]),
            (&metrics.projected, &PROJECTION_OUTCOMES),
            (&metrics.usage, &USAGE_OUTCOMES),
            (&metrics.attempts, &ATTEMPT_OUTCOMES),
        ] {
            outcomes.iter().for_each(|outcome| drop(family.get_or_create(&OutcomeLabel { outcome })));
        }
        CHARGE_STATES.iter().for_each(|state| metrics.set_charges(state, 0));
        metrics.register_all()
    }
}

/// What the daemon reads at Stripe.
#[derive(Debug, Default)]
pub struct StripeGauges {
    pub failing: Gauge,
    pub pulled_s: Gauge,
    pub wanted: Gauge,
    pub run_objects: Gauge,
    pub run_steps_left: Gauge,
    pub runs_failed: Gauge,
    pub drift: Gauge,
}

impl Metrics {
    fn register_all(mut self) -> Self {
        self.register_requests();
        self.register_state();
        self.register_process();
        self
    }

    /// Registers the counters of requests, deliveries and events.
    fn register_requests(&mut self) {
        let r = &mut self.registry;
        r.register("http_requests", "Answers by route and status", self.answers.clone());
        r.register_with_unit("http_request", "Time to answer", Unit::Seconds, self.answer_time_s.clone());
        r.register(
            "stripe_deliveries",
            "Webhook deliveries by outcome: stored, refused",
            self.deliveries.clone(),
        );
        r.register(
            "stripe_projected",
            "Projected Stripe events by outcome: applied, superseded, without_object, failed; repeated: \
                deliveries of events that were stored before",
            self.projected.clone(),
        );
        r.register(
            "usage_events",
            "Usage events by outcome: accepted, duplicate, conflict, rejected",
            self.usage.clone(),
        );
        r.register("auth_failures", "Requests without a valid key", self.auth_failures.clone());
        r.register(
            "message_attempts",
            "Attempts to send a message by outcome: delivered (2xx), refused (another answer), unanswered",
            self.attempts.clone(),
        );
    }

    /// Registers the state of the inbox, batteries, reservations, usage and the pool.
    fn register_state(&mut self) {
        let r = &mut self.registry;
        r.register(
            "stripe_inbox_pending",
            "Stripe events stored but not yet projected, and effects of events that have not happened yet",
            self.inbox_pending.clone(),
        );
        r.register_with_unit(
            "stripe_inbox_oldest",
            "Age of the oldest Stripe event that is not yet projected",
            Unit::Seconds,
            self.inbox_oldest_s.clone(),
        );
        r.register(
            "stripe_inbox_quarantined",
            "Stripe events whose projection failed too often; they wait for a retry by hand",
            self.inbox_quarantined.clone(),
        );
        r.register(
            "battery_effects_waiting",
            "Stripe payments whose effect on a battery waits for an org, a price or a pack",
            self.effects_waiting.clone(),
        );
        r.register(
            "quota_reservations_lapsed",
            "Reservations of the last 35 days that lapsed and that nobody has settled: usage may be missing",
            self.reservations_lapsed.clone(),
        );
        r.register(
            "usage_unpriced_events",
            "Usage events for which their meter has no matching rate: they cost nothing until priced",
            self.usage_unpriced.clone(),
        );
        let s = &self.stripe;
        r.register("stripe_accounts_failing", "Stripe accounts whose calls fail", s.failing.clone());
        r.register_with_unit(
            "stripe_pulled",
            "Time since Stripe was last asked for events, of the account that waits longest",
            Unit::Seconds,
            s.pulled_s.clone(),
        );
        r.register("stripe_wanted", "Stripe objects to read one by one", s.wanted.clone());
        r.register(
            "stripe_run_objects",
            "Objects and events that running backfills and comparisons have read",
            s.run_objects.clone(),
        );
        r.register(
            "stripe_run_steps_left",
            "Steps of running backfills and comparisons that are not done",
            s.run_steps_left.clone(),
        );
        r.register(
            "stripe_runs_failed",
            "Stripe accounts whose newest backfill or comparison failed",
            s.runs_failed.clone(),
        );
        r.register(
            "stripe_drift_found",
            "Differences between mirrors and Stripe that were found so far",
            s.drift.clone(),
        );
        r.register(
            "message_deliveries_waiting",
            "Messages that wait to be assigned, and deliveries that wait to be sent",
            self.messages_waiting.clone(),
        );
        r.register_with_unit(
            "message_oldest",
            "Age of the oldest message that an enabled endpoint has not got",
            Unit::Seconds,
            self.messages_oldest_s.clone(),
        );
        r.register(
            "stripe_charges",
            "Charges of usage through Stripe that are not confirmed, by state: waiting, planned, sent, \
                failed",
            self.charges.clone(),
        );
        r.register_with_unit(
            "stripe_charge_oldest",
            "Age of the oldest charge that is planned and not sent",
            Unit::Seconds,
            self.charges_oldest_s.clone(),
        );
        r.register("pool_connections_in_use", "API database connections in use", self.pool_in_use.clone());
        r.register(
            "usage_summaries_repaired",
            "Rows of daily summaries and unique values that differed from their usage records",
            self.usage_summaries_repaired.clone(),
        );
    }

    /// Registers the threads, the panics, the log, and whether the database works.
    fn register_process(&mut self) {
        let r = &mut self.registry;
        r.register(
            "worker_alive",
            "1 while a thread has not ended and its current turn does not hang",
            self.worker_alive.clone(),
        );
        r.register_with_unit(
            "worker_last_turn_age",
            "Time since the end of a thread's last turn; a thread that serves requests has no turns \
                without requests",
            Unit::Seconds,
            self.worker_last_turn_s.clone(),
        );
        r.register_with_unit(
            "worker_turn",
            "How long the current turn of a thread has taken; 0 while it rests",
            Unit::Seconds,
            self.worker_turn_s.clone(),
        );
        r.register(
            "panics",
            "Panics by kind of thread: bugs in Coulomb; the log has more about each",
            crate::panics::counter(),
        );
        r.register(
            "log_lines_dropped",
            "Log lines lost because nobody read them, the disk was full, or too many lines waited",
            crate::logging::dropped_lines(),
        );
        r.register("database_up", "1 while the database answers", self.database_up.clone());
        r.register(
            "database_writable",
            "1 while the database accepts writes: no standby, not read-only, disk not full lately",
            self.database_writable.clone(),
        );
    }

    pub fn count_answer(&self, route: impl Into<String>, status: StatusCode, elapsed: Duration) {
        let labels = AnswerLabels { route: route.into(), status: status.as_u16() };
        self.answers.get_or_create(&labels).inc();
        self.answer_time_s.get_or_create(&labels).observe(elapsed.as_secs_f64());
    }

    /// Counts a webhook delivery; `outcome` is `stored` or `refused`.
    pub fn count_delivery(&self, outcome: &'static str) {
        self.deliveries.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    /// Counts projected Stripe events; see [`PROJECTION_OUTCOMES`].
    pub fn count_projected(&self, outcome: &'static str, events: u64) {
        self.projected.get_or_create(&OutcomeLabel { outcome }).inc_by(events);
    }

    /// Counts usage events by outcome.
    pub fn count_usage(&self, tally: Tally) {
        let counts = [tally.accepted, tally.duplicate, tally.conflict, tally.rejected];
        for (outcome, count) in USAGE_OUTCOMES.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.usage.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
        }
    }

    /// Counts attempts to send messages.
    pub fn count_attempts(&self, tally: SendTally) {
        let counts = [tally.delivered, tally.refused, tally.unanswered];
        for (outcome, count) in ATTEMPT_OUTCOMES.into_iter().zip(counts).filter(|(_, count)| *count > 0) {
            self.attempts.get_or_create(&OutcomeLabel { outcome }).inc_by(count);
        }
    }

    /// Sets how many charges through Stripe are in a state.
    pub fn set_charges(&self, state: &'static str, charges: i64) {
        self.charges.get_or_create(&StateLabel { state }).set(charges);
    }

    /// Sets the metrics of the daemon's threads.
    pub fn set_threads(&self, states: &[ThreadState]) {
        for state in states {
            let worker = WorkerLabel { worker: state.name.clone() };
            self.worker_alive.get_or_create(&worker).set(i64::from(state.alive));
            self.worker_last_turn_s.get_or_create(&worker).set(state.since_last_turn.as_secs_f64());
            self.worker_turn_s.get_or_create(&worker).set(state.current_turn.as_secs_f64());
        }
    }

    /// All metrics in the OpenMetrics 1.0 text format.
    #[must_use]
    pub fn render_openmetrics(&self) -> String {
        let mut text = String::new();
        // Writing to a String cannot fail.
        let _ = encode(&mut text, &self.registry);
        text
    }

    /// All metrics in Prometheus' older text format (0.0.4): there a counter's name itself ends in `_total`.
    #[must_use]
    pub fn render_prometheus_text(&self) -> String {
        let text = self.render_openmetrics();
        let counter_name = |line: &str| -> Option<String> {
            let name = line.strip_prefix("# TYPE ")?.strip_suffix(" counter")?;
            Some(name.to_owned())
        };
        let counters: HashSet<String> = text.lines().filter_map(counter_name).collect();
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
