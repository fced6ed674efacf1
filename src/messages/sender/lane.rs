//! A lane in the memory of the daemon that holds it: what waits, and what is on its way.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender as Results;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::AbortHandle;

use crate::auth::PLATFORM;
use crate::egress::{Client, Reply, SendError};
use crate::messages::deliveries::{DueDelivery, Outcome, Verdict};
use crate::messages::lanes::LaneKey;
use crate::messages::retry;
use crate::messages::secrets::{self, Signer};
use crate::time::Clock;

/// Requests of a daemon at the same time.
pub(super) const PLACES: usize = 512;
/// Requests to one endpoint at the same time; to one that is slow or fails, so few.
const MOST_IN_FLIGHT: usize = 16;
const FEW_IN_FLIGHT: usize = 2;
/// An endpoint that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);
/// After so many failures in a row the lane pauses, and then tries one delivery: 1, 2, 4, … seconds.
const FAILURES_UNTIL_PAUSE: u32 = 10;
const LONGEST_PAUSE_S: i64 = 300;
/// Largest body of a request. A larger one is sent without its object.
const BODY_LIMIT: usize = 256 * 1024;

/// What all lanes of a daemon share.
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) clock: Clock,
    pub(super) runtime: Handle,
    /// Places for requests.
    pub(super) places: Arc<Semaphore>,
    pub(super) results: Results<Outcome>,
    /// How long a request may take.
    pub(super) timeout: Duration,
    /// Until then the lanes are held for certain. A request begins only if it also ends before.
    pub(super) held_until: Mutex<Instant>,
}

impl Shared {
    fn may_begin(&self) -> bool {
        let until = *self.held_until.lock().unwrap_or_else(PoisonError::into_inner);
        until > Instant::now() + self.timeout
    }
}

/// Where and how a lane sends.
pub(super) struct Target {
    pub(super) url: String,
    pub(super) ordered: bool,
    pub(super) with_object: bool,
    /// Keys that sign, with the time when each stops.
    pub(super) signers: Vec<(Option<DateTime<Utc>>, Signer)>,
}

/// Counts the holds of this process.
static HOLDS: AtomicU64 = AtomicU64::new(0);

pub(super) struct Lane {
    pub(super) key: LaneKey,
    /// Unique in this process: after a loss the same lane may be held again while old results still come.
    pub(super) hold: u64,
    state: Mutex<LaneState>,
}

struct LaneState {
    target: Arc<Target>,
    waiting: VecDeque<DueDelivery>,
    /// Numbers that wait here, are on their way, or have a result that is not stored yet.
    /// Each with the org of its message.
    taken: HashMap<i64, i64>,
    in_flight: usize,
    tasks: Vec<AbortHandle>,
    is_slow: bool,
    failures_in_row: u32,
    paused_until: Option<DateTime<Utc>>,
    is_closed: bool,
    /// When it last had something to do.
    active_at: Instant,
    /// When the database may be asked again for what is due.
    look_at: Instant,
}

impl Lane {
    pub(super) fn new(key: LaneKey, target: Target) -> Arc<Self> {
        let now = Instant::now();
        let state = LaneState {
            target: Arc::new(target),
            waiting: VecDeque::new(),
            taken: HashMap::new(),
            in_flight: 0,
            tasks: Vec::new(),
            is_slow: false,
            failures_in_row: 0,
            paused_until: None,
            is_closed: false,
            active_at: now,
            look_at: now,
        };
        Arc::new(Self { key, hold: HOLDS.fetch_add(1, Ordering::Relaxed), state: Mutex::new(state) })
    }

    fn lock(&self) -> MutexGuard<'_, LaneState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_target(&self, target: Target) {
        self.lock().target = Arc::new(target);
    }

    /// How many deliveries it wants to have, those that it has taken included; `None`: it wants no more for
    /// now.
    pub(super) fn wish(&self, buffer: usize) -> Option<(usize, Arc<Target>)> {
        let state = self.lock();
        let buffer = if state.is_slow { buffer.min(4 * FEW_IN_FLIGHT) } else { buffer };
        let has_room = state.waiting.len() <= buffer / 2;
        let is_time = Instant::now() >= state.look_at;
        let wants = has_room && is_time && !state.is_closed;
        wants.then(|| (state.taken.len() + buffer - state.waiting.len(), Arc::clone(&state.target)))
    }

    /// Puts deliveries in, those left out that it has. The next look comes after `pause`.
    pub(super) fn put(&self, found: Vec<DueDelivery>, pause: Duration) {
        let mut state = self.lock();
        // In an ordered lane an org has one delivery at a time.
        let blocked: HashSet<i64> =
            if state.target.ordered { state.taken.values().copied().collect() } else { HashSet::new() };
        for delivery in found {
            let is_taken = state.taken.contains_key(&delivery.sequence);
            if !is_taken && !blocked.contains(&delivery.message_org_id) {
                state.taken.insert(delivery.sequence, delivery.message_org_id);
                state.waiting.push_back(delivery);
                state.active_at = Instant::now();
            }
        }
        state.look_at = Instant::now() + pause;
    }

    /// Forgets deliveries whose results are stored.
    pub(super) fn stored(&self, sequences: impl Iterator<Item = i64>) {
        let mut state = self.lock();
        for sequence in sequences {
            state.taken.remove(&sequence);
        }
        state.look_at = Instant::now();
    }

    /// Nothing waits or is on its way, and nothing has for `time`.
    pub(super) fn is_idle(&self, time: Duration) -> bool {
        let state = self.lock();
        state.taken.is_empty() && state.in_flight == 0 && state.active_at.elapsed() >= time
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().in_flight
    }

    /// Sends nothing more. With `abort` also ends what is on its way.
    pub(super) fn close(&self, abort: bool) {
        let mut state = self.lock();
        state.is_closed = true;
        state.waiting.clear();
        let tasks = if abort { std::mem::take(&mut state.tasks) } else { Vec::new() };
        // What ends takes the lock.
        drop(state);
        tasks.iter().for_each(AbortHandle::abort);
    }

    /// Starts as many requests as the lane and the daemon have places for.
    pub(super) fn pump(self: &Arc<Self>, shared: &Arc<Shared>) {
        let mut state = self.lock();
        if state.is_closed || state.paused_until.is_some_and(|until| until > shared.clock.now()) {
            return;
        }
        while state.in_flight < state.places(shared.places.available_permits())
            && !state.waiting.is_empty()
            && shared.may_begin()
        {
            let Ok(place) = Arc::clone(&shared.places).try_acquire_owned() else { return };
            let Some(delivery) = state.waiting.pop_front() else { return };
            state.in_flight += 1;
            let underway = Underway { shared: Arc::clone(shared), lane: Arc::clone(self), outcome: None };
            let sending = send(underway, Arc::clone(&state.target), delivery);
            let task = shared.runtime.spawn(finish(sending, place));
            state.tasks.retain(|task| !task.is_finished());
            state.tasks.push(task.abort_handle());
        }
    }

    fn came_back(&self, took: Duration, delivered: bool, now: DateTime<Utc>) {
        let mut state = self.lock();
        state.active_at = Instant::now();
        state.is_slow = took > SLOW || !delivered;
        state.failures_in_row = if delivered { 0 } else { state.failures_in_row.saturating_add(1) };
        let beyond = state.failures_in_row.checked_sub(FAILURES_UNTIL_PAUSE);
        let pause = beyond.map(|n| 1_i64.checked_shl(n.min(16)).unwrap_or(LONGEST_PAUSE_S));
        state.paused_until = pause.map(|pause| now + TimeDelta::seconds(pause.min(LONGEST_PAUSE_S)));
    }
}

impl LaneState {
    /// How many requests the lane may have on their way when the daemon has so many free places.
    fn places(&self, free: usize) -> usize {
        let own = match (self.paused_until, self.is_slow) {
            (Some(_), _) => 1,
            (None, true) => FEW_IN_FLIGHT,
            (None, false) => MOST_IN_FLIGHT,
        };
        // The fewer are free, the smaller the share of each lane: the last quarter is for those without one.
        let share = match free {
            free if free > PLACES / 2 => MOST_IN_FLIGHT,
            free if free > PLACES / 4 => FEW_IN_FLIGHT,
            _ => 1,
        };
        own.min(share)
    }
}

/// Runs a sending to its end; then its place goes to the lane's next one, or to another lane.
async fn finish(sending: impl Future<Output = (Arc<Shared>, Arc<Lane>)>, place: OwnedSemaphorePermit) {
    let (shared, lane) = sending.await;
    drop(place);
    // While places are rare, the next turn gives them to the lanes in another order each time.
    if shared.places.available_permits() > PLACES / 8 {
        lane.pump(&shared);
    }
}

/// A request that has a place in its lane. At its end, whoever ends it, it gives back the place and reports
/// what it knows: no attempt stays without a report while the daemon lives.
struct Underway {
    shared: Arc<Shared>,
    lane: Arc<Lane>,
    /// `None`: nothing is sent yet.
    outcome: Option<Outcome>,
}

impl Drop for Underway {
    fn drop(&mut self) {
        self.lane.lock().in_flight -= 1;
        if let Some(outcome) = self.outcome.take() {
            // The daemon ends when nobody receives: then the delivery is repeated.
            let _ = self.shared.results.send(outcome);
        }
    }
}

/// Makes one attempt and reports its result.
async fn send(
    mut underway: Underway,
    target: Arc<Target>,
    delivery: DueDelivery,
) -> (Arc<Shared>, Arc<Lane>) {
    let (shared, lane) = (Arc::clone(&underway.shared), Arc::clone(&underway.lane));
    let (at, began) = (shared.clock.now(), Instant::now());
    underway.outcome = Some(Outcome {
        lane: lane.key.clone(),
        hold: lane.hold,
        sequence: delivery.sequence,
        failures_before: delivery.failures,
        at,
        status: None,
        duration_ms: 0,
        error: Some("the daemon gave it up before the answer".to_owned()),
        excerpt: None,
        verdict: Verdict::Unknown,
    });
    let result = match body(&delivery) {
        Some(body) => post(&shared.client, &target, &delivery, body, at).await,
        None => Err(SendError::Failed("the message is older than the retention".to_owned())),
    };
    let took = began.elapsed();
    let outcome = outcome(&lane, &delivery, (at, took), result, shared.clock.now());
    lane.came_back(took, outcome.verdict == Verdict::Delivered, shared.clock.now());
    underway.outcome = Some(outcome);
    drop(underway);
    (shared, lane)
}

async fn post(
    client: &Client,
    target: &Target,
    delivery: &DueDelivery,
    body: String,
    at: DateTime<Utc>,
) -> Result<Reply, SendError> {
    let signers = target.signers.iter().filter(|(end, _)| end.is_none_or(|end| end > at));
    let signers = signers.map(|(_, signer)| signer);
    let signature = secrets::header(signers, &delivery.message_id, at.timestamp(), &body);
    let headers = [
        ("webhook-id", delivery.message_id.clone()),
        ("webhook-timestamp", at.timestamp().to_string()),
        ("webhook-signature", signature),
        ("coulomb-sequence", delivery.sequence.to_string()),
    ];
    client.post(&target.url, &headers, Bytes::from(body)).await
}

/// What is sent: type, time, org, and the data, with the object in it if there is one. `None` when the
/// message is no longer kept.
fn body(delivery: &DueDelivery) -> Option<String> {
    let data = delivery.data.as_deref()?;
    let object = delivery.object.as_deref().filter(|object| object.len() + data.len() < BODY_LIMIT);
    let data = match (object, data.strip_suffix('}')) {
        (Some(object), Some("{")) => format!("{{\"object\": {object}}}"),
        (Some(object), Some(start)) => format!("{start}, \"object\": {object}}}"),
        _ => data.to_owned(),
    };
    let text = |text: &str| serde_json::Value::from(text).to_string();
    let org = delivery.org.as_deref().map_or_else(|| "null".to_owned(), text);
    let written_at = delivery.written_at.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true);
    Some(format!(
        "{{\"type\": {}, \"timestamp\": \"{written_at}\", \"org\": {org}, \"data\": {data}}}",
        text(&delivery.kind)
    ))
}

/// The text for the attempt. An org must not learn addresses of the inside: the log has them for operators.
fn told(lane: &Lane, error: &SendError) -> String {
    let (org_id, endpoint) = &lane.key;
    if *org_id == PLATFORM {
        return error.to_string();
    }
    if let SendError::NotAllowed(why) = error {
        tracing::warn!(endpoint, "a message was not sent: {why}");
    }
    error.for_tenants()
}

fn outcome(
    lane: &Lane,
    delivery: &DueDelivery,
    (at, took): (DateTime<Utc>, Duration),
    result: Result<Reply, SendError>,
    now: DateTime<Utc>,
) -> Outcome {
    let mut chance = [0_u8];
    // Without random numbers all retries come at the same distance.
    let _ = getrandom::fill(&mut chance);
    let again = |retry_after: Option<&str>| match delivery.data {
        Some(_) => retry::next_attempt(delivery.failures, retry_after, chance[0], now),
        None => None,
    };
    let (status, error, excerpt, next) = match result {
        Ok(reply) if (200..300).contains(&reply.status) => {
            (Some(reply.status), None, Some(reply.excerpt), Some(Verdict::Delivered))
        }
        Ok(reply) => {
            let next = again(reply.retry_after.as_deref()).map(Verdict::Waits);
            (Some(reply.status), None, Some(reply.excerpt), next)
        }
        Err(error) => (None, Some(told(lane, &error)), None, again(None).map(Verdict::Waits)),
    };
    Outcome {
        lane: lane.key.clone(),
        hold: lane.hold,
        sequence: delivery.sequence,
        failures_before: delivery.failures,
        at,
        status: status.and_then(|status| i16::try_from(status).ok()),
        duration_ms: i32::try_from(took.as_millis()).unwrap_or(i32::MAX),
        error,
        excerpt: excerpt.filter(|text| !text.is_empty()),
        verdict: next.unwrap_or(Verdict::GivenUp),
    }
}
