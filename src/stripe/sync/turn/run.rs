//! A run within a turn: pages of several steps at once, then what no list showed, then the end.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use diesel::Connection;
use diesel::pg::PgConnection;
use futures_util::future::join_all;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::{CONCURRENT_OBJECTS, Stopped, Turn, read_one};
use crate::error::Error;
use crate::realm::Realm;
use crate::stripe::client::CallError;
use crate::stripe::inbox::{self, Fetch};
use crate::stripe::sync::accounts::{self, Account, Held};
use crate::stripe::sync::kinds;
use crate::stripe::sync::read::{EventPage, ReadPage, Reader};
use crate::stripe::sync::runs::{self, Run, Step, Tally};
use crate::stripe::sync::steps::Plan;
use crate::stripe::sync::store::{self, Cause, Expected};
use crate::stripe::sync::wanted;

/// Steps of a run whose pages are asked for at the same time.
const CONCURRENT_STEPS: usize = 8;
/// How long a turn begins new pages of a run, before it looks at events again.
const RUN_SLICE: Duration = Duration::from_secs(10);
/// How long it waits for a page until it looks whether it is to stop.
const A_LOOK: Duration = Duration::from_secs(1);
/// Objects of one round of a step that reads them one by one.
const UNSEEN_A_ROUND: i64 = 40;
/// How often the hold is renewed during a slice.
const RENEWAL: Duration = Duration::from_secs(10);

impl Turn<'_> {
    /// Goes on with a run; returns whether there is more of it.
    pub(super) fn go_on(&mut self, reader: &Reader, account: &Account, run: &Run) -> Result<bool, Stopped> {
        if run.began_at.is_none() {
            let (_, answer) = self.wait(reader.account())?;
            runs::begin(self.conn, run, answer.observed.timestamp(), (self.now)())?;
        }
        let waiting = runs::waiting(self.conn, run.run_id)?;
        let (one_by_one, lists): (Vec<Step>, Vec<Step>) =
            waiting.into_iter().partition(|step| matches!(step.plan, Plan::Unseen { .. }));
        if !lists.is_empty() {
            return self.read_lists(reader, run, lists);
        }
        // Only projected fetches tell which objects were seen.
        if !one_by_one.is_empty() && inbox::any_unprojected(self.conn)? {
            return Ok(false);
        }
        match one_by_one.first() {
            Some(step) => {
                self.read_unseen(reader, account, run, step)?;
                Ok(true)
            }
            None => self.finish(reader, run),
        }
    }

    /// Reads pages of several steps at once, and stores each with its cursor. Pages that were begun are read
    /// to their end: one with a hundred objects that are not whole takes a hundred requests more, and a slice
    /// that threw it away would never come to its end.
    fn read_lists(&mut self, reader: &Reader, run: &Run, steps: Vec<Step>) -> Result<bool, Stopped> {
        let mut slice = self.begin_slice(reader, steps);
        let (began, mut renewed, mut failed) = (Instant::now(), Instant::now(), None);
        while !(self.is_stopped)() {
            slice.is_over.store(began.elapsed() >= RUN_SLICE, Ordering::Relaxed);
            match self.wait(async { timeout(A_LOOK, slice.pages.recv()).await }) {
                Ok(None) => break,
                Ok(Some((step, Ok(page)))) => self.store_page(run, &step, page)?,
                Ok(Some((step, Err(error)))) if error.is_forbidden() => {
                    self.forbid(run, &step.object, &error)?;
                }
                Ok(Some((_, Err(error)))) => failed = Some(error),
                Err(_) => {}
            }
            if renewed.elapsed() > RENEWAL {
                renewed = Instant::now();
                if !accounts::hold(self.conn, Held::Reading, self.realm, &self.sync.holder)? {
                    break;
                }
            }
        }
        slice.tasks.iter().for_each(JoinHandle::abort);
        match failed {
            None => {
                runs::note_error(self.conn, run.run_id, None)?;
                Ok(true)
            }
            Some(error) => {
                runs::note_error(self.conn, run.run_id, Some(&error.to_string()))?;
                if !error.is_temporary() {
                    runs::end(self.conn, run.run_id, Some(&error.to_string()), (self.now)())?;
                }
                Err(error.into())
            }
        }
    }

    /// Lets pages of these steps be read, of several at once.
    fn begin_slice(&self, reader: &Reader, steps: Vec<Step>) -> Slice {
        let (sender, pages) = mpsc::channel(CONCURRENT_STEPS);
        let queue = Arc::new(Mutex::new(VecDeque::from(steps)));
        let is_over = Arc::new(AtomicBool::new(false));
        let task = |_| {
            let (reader, sender, queue) = (reader.clone(), sender.clone(), Arc::clone(&queue));
            let is_over = Arc::clone(&is_over);
            self.sync.runtime.spawn(async move {
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                    let Some(step) = next else { return };
                    if !read_step(&reader, step, &sender, &is_over).await {
                        return;
                    }
                }
            })
        };
        Slice { tasks: (0..CONCURRENT_STEPS).map(task).collect(), pages, is_over }
    }

    fn store_page(&mut self, run: &Run, step: &Step, page: StepPage) -> Result<(), Stopped> {
        let (now, realm) = ((self.now)(), self.realm);
        self.conn.transaction(|conn| {
            let (tally, rest) = match page {
                StepPage::Objects { fetches, rest, requests } => {
                    let tally = store_of_run(conn, realm, run, &step.object, fetches, now)?;
                    (Tally { requests: i64::from(requests), ..tally }, rest)
                }
                StepPage::Events { page, rest } => {
                    let observed = page.observed.timestamp();
                    let tally = store::events(conn, realm, &page.events, Expected::No, observed, now)?;
                    (Tally { requests: 1, ..tally }, rest)
                }
            };
            runs::advance(conn, run.run_id, step.step, rest.as_ref(), tally)
        })?;
        Ok(())
    }

    fn forbid(&mut self, run: &Run, object: &str, error: &CallError) -> Result<(), Stopped> {
        runs::forbid(self.conn, run.run_id, object)?;
        if accounts::note_forbidden(self.conn, self.realm, object, true)? {
            tracing::warn!(object, %error, "the Stripe key may not read this kind; the others are read");
        }
        Ok(())
    }

    /// Reads some of the objects that no list showed.
    fn read_unseen(
        &mut self,
        reader: &Reader,
        account: &Account,
        run: &Run,
        step: &Step,
    ) -> Result<(), Stopped> {
        let Plan::Unseen { before, after } = &step.plan else { return Ok(()) };
        let may_read = |kind: &&str| !account.forbidden.iter().any(|forbidden| forbidden == kind);
        let mut kinds: Vec<&str> = kinds::LISTED.iter().map(|kind| kind.object).filter(may_read).collect();
        // Tax ids come with their customers.
        if kinds.contains(&"customer") {
            kinds.push("tax_id");
        }
        let keys = wanted::unseen(self.conn, self.realm, &kinds, *before, after.as_ref(), UNSEEN_A_ROUND)?;
        let stripe_id = account.stripe_id.clone().unwrap_or_default();
        let mut fetches = Vec::new();
        for chunk in keys.chunks(CONCURRENT_OBJECTS) {
            let reads = chunk.iter().map(|(object, id)| read_one(reader, object, id, None, &stripe_id));
            for read in self.wait(join_all(reads)) {
                fetches.extend(read?);
            }
        }
        let rest = keys.last().map(|last| Plan::Unseen { before: *before, after: Some(last.clone()) });
        let rest = rest.filter(|_| keys.len() as i64 == UNSEEN_A_ROUND);
        let (now, realm, requests) = ((self.now)(), self.realm, keys.len() as i64);
        self.conn.transaction(|conn| {
            let tally = store_of_run(conn, realm, run, &step.object, fetches, now)?;
            runs::advance(conn, run.run_id, step.step, rest.as_ref(), Tally { requests, ..tally })
        })?;
        Ok(())
    }

    /// Pulls what happened meanwhile, and ends the run.
    fn finish(&mut self, reader: &Reader, run: &Run) -> Result<bool, Stopped> {
        let account = self.account()?;
        let began = runs::stripe_began(self.conn, run.run_id)?;
        let since = account.pulled_until.into_iter().chain(began).min();
        self.pull(reader, &Account { pulled_until: since, ..account })?;
        runs::end(self.conn, run.run_id, None, (self.now)())?;
        Ok(false)
    }
}

/// Stores fetches of a run. Returns the figures of this kind of object; those of others are added to theirs.
fn store_of_run(
    conn: &mut PgConnection,
    realm: &Realm,
    run: &Run,
    object: &str,
    fetches: Vec<Fetch>,
    now: DateTime<Utc>,
) -> Result<Tally, Error> {
    let cause = Cause { run_id: Some(run.run_id), brings_in: run.is_backfill(), reason: None };
    let mut tallies = store::fetches(conn, realm, fetches, cause, now)?;
    let own = tallies.remove(object).unwrap_or_default();
    for (other, tally) in tallies {
        runs::add(conn, run.run_id, &other, tally)?;
    }
    Ok(own)
}

/// What a turn reads of a run.
struct Slice {
    tasks: Vec<JoinHandle<()>>,
    pages: mpsc::Receiver<(Step, Result<StepPage, CallError>)>,
    /// No page is begun any more.
    is_over: Arc<AtomicBool>,
}

/// A page of a step.
enum StepPage {
    Objects { fetches: Vec<Fetch>, rest: Option<Plan>, requests: u32 },
    Events { page: EventPage, rest: Option<Plan> },
}

/// Reads pages of a step, as fast as they are stored, until the slice is over. Returns whether to go on with
/// another step.
async fn read_step(
    reader: &Reader,
    mut step: Step,
    pages: &mpsc::Sender<(Step, Result<StepPage, CallError>)>,
    is_over: &AtomicBool,
) -> bool {
    while !is_over.load(Ordering::Relaxed) {
        let page = read_page(reader, &step).await;
        let (rest, failed) = match &page {
            Ok(StepPage::Objects { rest, .. } | StepPage::Events { rest, .. }) => (rest.clone(), false),
            Err(error) => (None, !error.is_forbidden()),
        };
        if pages.send((step.clone(), page)).await.is_err() || failed {
            return false;
        }
        let Some(rest) = rest else { return true };
        step.plan = rest;
    }
    false
}

async fn read_page(reader: &Reader, step: &Step) -> Result<StepPage, CallError> {
    match &step.plan {
        Plan::List { params, window } => {
            let kind = kinds::find(&step.object).ok_or_else(|| {
                CallError::Unreadable(format!("Coulomb does not know the kind {}", step.object))
            })?;
            let ReadPage { fetches, rest, requests } = reader.page(kind, params, window).await?;
            let rest = rest.map(|window| Plan::List { params: params.clone(), window });
            Ok(StepPage::Objects { fetches, rest, requests })
        }
        Plan::Events { window } => {
            let page = reader.events(window).await?;
            let rest = page.rest.clone().map(|window| Plan::Events { window });
            Ok(StepPage::Events { page, rest })
        }
        Plan::TestClocks => {
            let (fetches, requests) = reader.on_test_clocks().await?;
            Ok(StepPage::Objects { fetches, rest: None, requests })
        }
        Plan::Unseen { .. } => Ok(StepPage::Objects { fetches: Vec::new(), rest: None, requests: 0 }),
    }
}
