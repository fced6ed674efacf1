//! Sends deliveries that are due: one thread that talks to the database, one that talks to endpoints.
//!
//! In a turn the first stores results, renews its hold on lanes, takes lanes that have something due, and
//! loads what is due. A slow or dead endpoint takes few places and only its own lane's time.

mod lane;

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use diesel::pg::PgConnection;
use tokio::sync::{Notify, Semaphore};

use self::lane::{Lane, PLACES, Shared, Target};
use super::deliveries::{self, LaneWish, Outcome, Verdict};
use super::endpoints::{self, Sending};
use super::lanes::{self, Holder, LaneKey, LaneTally};
use super::retry::FAILING_LIMIT;
use super::secrets::{self, Signature, Signer, StoredSecret};
use crate::db;
use crate::egress::{Client, ClientOptions};
use crate::error::Error;
use crate::ids;
use crate::threads::Threads;
use crate::time::Clock;

/// Deliveries that a lane has in memory at most, beside those on their way; and all lanes together.
const BUFFER: usize = 256;
const ALL_BUFFERS: usize = 8192;
/// Lanes that a daemon holds at most, and takes in one turn: other daemons take some, too.
const MOST_LANES: usize = 1000;
const LANES_A_TURN: i64 = 20;
/// Results that are stored in one transaction.
const RESULTS: usize = 1000;
/// How often the hold is renewed, with the settings of the endpoints.
const RENEWAL: Duration = Duration::from_secs(1);
/// How often the daemon looks for dead holders.
const LOOK_FOR_DEAD: Duration = Duration::from_secs(1);
/// A lane without work is given back after this time.
const IDLE: Duration = Duration::from_millis(500);
/// How long a lane that had no more waits until it is looked at again.
const LOOK_PAUSE: Duration = Duration::from_millis(100);
/// How long a turn waits for a result while requests are on their way.
const RESULT_WAIT: Duration = Duration::from_millis(50);
/// How long requests may take after the daemon is told to stop.
const LAST_WAIT: Duration = Duration::from_secs(10);
/// How long the report of a request that was ended may take.
const REPORT_WAIT: Duration = Duration::from_millis(200);

/// Sends messages. Its owner calls [`Sender::turn`] again and again.
pub struct Sender {
    shared: Arc<Shared>,
    state: Mutex<State>,
    ended: Arc<Notify>,
}

struct State {
    results: Receiver<Outcome>,
    /// Results that are not stored yet.
    unstored: Vec<Outcome>,
    holder: Option<Holder>,
    lanes: HashMap<LaneKey, Arc<Lane>>,
    renewed: Instant,
    looked_for_dead: Instant,
    /// Which lane gets free places first.
    first: usize,
}

/// Results of attempts that a turn stored.
#[derive(Clone, Copy, Debug, Default)]
pub struct SendTally {
    /// Answered with 2xx.
    pub delivered: u64,
    /// Answered otherwise.
    pub refused: u64,
    /// Not answered.
    pub unanswered: u64,
}

impl Sender {
    /// Starts the thread that talks to endpoints.
    #[must_use]
    pub fn start(threads: &Threads, options: ClientOptions, clock: Clock) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            // Each may wait for a name server; none waits for another.
            .max_blocking_threads(PLACES)
            .build()
            .expect("the system starts a runtime");
        let handle = runtime.handle().clone();
        let ended = Arc::new(Notify::new());
        let until_ended = Arc::clone(&ended);
        threads.spawn("message-http", 0, Duration::MAX, move |_| {
            runtime.block_on(until_ended.notified());
            // A resolver that hangs must not keep the daemon.
            runtime.shutdown_background();
        });
        let (sender, results) = channel();
        let now = Instant::now();
        let shared = Shared {
            timeout: options.timeout,
            client: Client::new(options),
            clock,
            runtime: handle,
            places: Arc::new(Semaphore::new(PLACES)),
            results: sender,
            held_until: Mutex::new(now),
        };
        let state = State {
            results,
            unstored: Vec::new(),
            holder: None,
            lanes: HashMap::new(),
            renewed: now,
            looked_for_dead: now,
            first: 0,
        };
        Self { shared: Arc::new(shared), state: Mutex::new(state), ended }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stores results and starts what is due. Returns whether requests are on their way.
    ///
    /// # Errors
    /// Of the database. Results that are not stored wait for the next turn.
    pub fn turn(&self, conn: &mut PgConnection) -> Result<(bool, SendTally), Error> {
        let state = &mut *self.state();
        self.know_session(state, conn);
        let tally = self.store(state, conn)?;
        self.hold(state, conn)?;
        self.load(state, conn)?;
        state.first = state.first.wrapping_add(1) % state.lanes.len().max(1);
        let (before, after): (Vec<_>, Vec<_>) =
            state.lanes.values().enumerate().partition(|(place, _)| *place < state.first);
        after.into_iter().chain(before).for_each(|(_, lane)| lane.pump(&self.shared));
        self.release_idle(state, conn)?;
        let is_busy = state.lanes.values().any(|lane| lane.in_flight() > 0);
        if is_busy && let Ok(result) = state.results.recv_timeout(RESULT_WAIT) {
            state.unstored.push(result);
        }
        Ok((is_busy || !state.unstored.is_empty(), tally))
    }

    /// Starts nothing more, waits for what is on its way, stores the results, and gives all lanes back. What
    /// has no answer by then is sent again by the next holder.
    ///
    /// # Errors
    /// Of the database: then the lanes are free when the session has ended.
    pub fn finish(&self, conn: &mut PgConnection) -> Result<SendTally, Error> {
        let state = &mut *self.state();
        state.lanes.values().for_each(|lane| lane.close(false));
        let until = Instant::now() + LAST_WAIT.min(self.shared.timeout);
        while state.lanes.values().any(|lane| lane.in_flight() > 0) {
            let left = until.saturating_duration_since(Instant::now());
            match state.results.recv_timeout(left) {
                Ok(result) => state.unstored.push(result),
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
            }
        }
        state.lanes.values().for_each(|lane| lane.close(true));
        while state.lanes.values().any(|lane| lane.in_flight() > 0) {
            let Ok(result) = state.results.recv_timeout(REPORT_WAIT) else { break };
            state.unstored.push(result);
        }
        let mut tally = SendTally::default();
        loop {
            let stored = self.store(state, conn)?;
            tally.add(stored);
            if stored.is_empty() {
                break;
            }
        }
        self.ended.notify_one();
        let lanes: Vec<LaneKey> = state.lanes.drain().map(|(key, _)| key).collect();
        if let Some(holder) = &state.holder {
            db::run_once(conn, |conn| Ok(lanes::release(conn, holder, &lanes)?))?;
        }
        Ok(tally)
    }

    /// A new connection is a new holder: what the old one held is given up, because others may have it now.
    fn know_session(&self, state: &mut State, conn: &mut PgConnection) {
        let session = db::session_numbers(conn);
        if state.holder.as_ref().is_some_and(|holder| holder.session == session) {
            return;
        }
        for (_, lane) in state.lanes.drain() {
            lane.close(true);
        }
        // Twice the time of a request, and what a turn may take between two renewals.
        let hold = self.shared.timeout * 2 + Duration::from_secs(15);
        let hold = TimeDelta::from_std(hold).unwrap_or(TimeDelta::seconds(60));
        state.holder = Some(Holder { name: ids::fresh("hold"), session, hold });
        state.renewed = Instant::now() - RENEWAL;
        state.looked_for_dead = Instant::now() - LOOK_FOR_DEAD;
    }

    /// Stores the results that have come.
    fn store(&self, state: &mut State, conn: &mut PgConnection) -> Result<SendTally, Error> {
        state.unstored.extend(state.results.try_iter().take(RESULTS));
        if state.unstored.is_empty() {
            return Ok(SendTally::default());
        }
        // The order of the rows keeps deadlocks out.
        state.unstored.sort_by(|a, b| (&a.lane, a.sequence).cmp(&(&b.lane, b.sequence)));
        let now = self.shared.clock.now();
        let closed = db::run_once(conn, |conn| store_results(conn, &state.unstored, now))?;
        let tally = SendTally::of(&state.unstored);
        for results in state.unstored.chunk_by(|a, b| a.lane == b.lane) {
            if let Some(lane) = state.lanes.get(&results[0].lane) {
                let own = results.iter().filter(|one| one.hold == lane.hold);
                lane.stored(own.map(|one| one.sequence));
            }
        }
        state.unstored.clear();
        for lane in closed.iter().filter_map(|lane| state.lanes.get(lane)) {
            lane.close(false);
        }
        Ok(tally)
    }

    /// Renews the hold on lanes, and takes new ones.
    fn hold(&self, state: &mut State, conn: &mut PgConnection) -> Result<(), Error> {
        let Some(holder) = &state.holder else { return Ok(()) };
        if state.looked_for_dead.elapsed() >= LOOK_FOR_DEAD {
            lanes::free_dead(conn)?;
            state.looked_for_dead = Instant::now();
        }
        let mut held = None;
        let before = Instant::now();
        if state.renewed.elapsed() >= RENEWAL {
            held = Some(lanes::renew(conn, holder)?);
            state.renewed = before;
        }
        let mut new = Vec::new();
        if state.lanes.len() < MOST_LANES {
            new = lanes::take(conn, holder, LANES_A_TURN, self.shared.clock.now())?;
        }
        if held.is_some() || state.lanes.is_empty() {
            let until = before + holder.hold.to_std().unwrap_or_default();
            *self.shared.held_until.lock().unwrap_or_else(PoisonError::into_inner) = until;
        }
        if let Some(held) = &held {
            state.lanes.retain(|key, lane| {
                let is_held = held.contains(key);
                if !is_held {
                    lane.close(false);
                }
                is_held
            });
        }
        let of_interest: Vec<LaneKey> = held.unwrap_or_default().into_iter().chain(new).collect();
        if of_interest.is_empty() {
            return Ok(());
        }
        for (key, target) in targets(conn, &of_interest)? {
            match state.lanes.get(&key) {
                Some(lane) => lane.set_target(target),
                None => drop(state.lanes.insert(key.clone(), Lane::new(key, target))),
            }
        }
        Ok(())
    }

    /// Loads what is due into lanes that have room.
    fn load(&self, state: &State, conn: &mut PgConnection) -> Result<(), Error> {
        let buffer = (ALL_BUFFERS / state.lanes.len().max(1)).clamp(8, BUFFER);
        let wishes: Vec<LaneWish> = state
            .lanes
            .values()
            .filter_map(|lane| {
                let (limit, target) = lane.wish(buffer)?;
                Some(LaneWish {
                    lane: lane.key.clone(),
                    ordered: target.ordered,
                    with_object: target.with_object,
                    limit: i64::try_from(limit).unwrap_or(i64::MAX),
                })
            })
            .collect();
        if wishes.is_empty() {
            return Ok(());
        }
        let mut found: BTreeMap<LaneKey, Vec<_>> = BTreeMap::new();
        for delivery in deliveries::due(conn, &wishes, self.shared.clock.now())? {
            found.entry((delivery.org_id, delivery.endpoint_id.clone())).or_default().push(delivery);
        }
        for wish in &wishes {
            let Some(lane) = state.lanes.get(&wish.lane) else { continue };
            let found = found.remove(&wish.lane).unwrap_or_default();
            let is_all = i64::try_from(found.len()).is_ok_and(|count| count < wish.limit);
            lane.put(found, if is_all { LOOK_PAUSE } else { Duration::ZERO });
        }
        Ok(())
    }

    /// Gives lanes back that have nothing to do.
    fn release_idle(&self, state: &mut State, conn: &mut PgConnection) -> Result<(), Error> {
        let idle: Vec<LaneKey> =
            state.lanes.iter().filter(|(_, lane)| lane.is_idle(IDLE)).map(|(key, _)| key.clone()).collect();
        let Some(holder) = state.holder.as_ref().filter(|_| !idle.is_empty()) else { return Ok(()) };
        db::run_once(conn, |conn| Ok(lanes::release(conn, holder, &idle)?))?;
        for key in &idle {
            state.lanes.remove(key);
        }
        Ok(())
    }
}

impl SendTally {
    fn of(outcomes: &[Outcome]) -> Self {
        let mut tally = Self::default();
        for outcome in outcomes {
            match (&outcome.verdict, outcome.status) {
                (Verdict::Delivered, _) => tally.delivered += 1,
                (_, Some(_)) => tally.refused += 1,
                (_, None) => tally.unanswered += 1,
            }
        }
        tally
    }

    fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.refused += other.refused;
        self.unanswered += other.unanswered;
    }

    fn is_empty(self) -> bool {
        self.delivered + self.refused + self.unanswered == 0
    }
}

/// Stores results, and disables endpoints that are gone or have failed for too long. Returns their lanes.
fn store_results(
    conn: &mut PgConnection,
    outcomes: &[Outcome],
    now: DateTime<Utc>,
) -> Result<Vec<LaneKey>, Error> {
    deliveries::record(conn, outcomes)?;
    let mut disabled = Vec::new();
    for results in outcomes.chunk_by(|a, b| a.lane == b.lane) {
        let lane = &results[0].lane;
        let failed = |one: &&Outcome| matches!(one.verdict, Verdict::Waits(_) | Verdict::GivenUp);
        let tally = LaneTally {
            failed_at: results.iter().filter(failed).map(|one| one.at).min(),
            succeeded: results.iter().any(|one| one.verdict == Verdict::Delivered),
        };
        let failing_since = lanes::note(conn, (lane.0, &lane.1), tally)?;
        // 410: the receiver wants no more (Standard Webhooks, "Delivery success and failure").
        let reason = if results.iter().any(|one| one.status == Some(410)) {
            "gone"
        } else if failing_since.is_some_and(|since| since <= now - FAILING_LIMIT) {
            "failing"
        } else {
            continue;
        };
        if endpoints::disable(conn, (lane.0, &lane.1), reason, now)? {
            disabled.push(lane.clone());
        }
    }
    Ok(disabled)
}

/// Where and how these lanes send. Those that are disabled are left out.
fn targets(conn: &mut PgConnection, lanes: &[LaneKey]) -> Result<Vec<(LaneKey, Target)>, Error> {
    let ids: Vec<&str> = lanes.iter().map(|(_, id)| id.as_str()).collect();
    let stored = secrets::load(conn, &ids)?;
    endpoints::sending(conn, &ids)?.into_iter().map(|endpoint| target(endpoint, &stored)).collect()
}

fn target(endpoint: Sending, stored: &[StoredSecret]) -> Result<(LaneKey, Target), Error> {
    let signature = Signature::from_name(&endpoint.signature);
    let own = stored.iter().filter(|(org_id, id, ..)| (*org_id, id) == (endpoint.org_id, &endpoint.id));
    let signers = own.map(|(_, _, secret, end)| Ok((*end, Signer::new(signature, secret)?)));
    let target = Target {
        url: endpoint.url,
        ordered: endpoint.ordered,
        with_object: endpoint.with_object,
        signers: signers.collect::<Result<_, Error>>()?,
    };
    Ok(((endpoint.org_id, endpoint.id), target))
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.ended.notify_one();
    }
}
