//! Lanes: requests that come together share one transaction. A bounded queue, and threads that each take
//! whatever has gathered.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use diesel::pg::PgConnection;
use tokio::sync::mpsc;

use crate::answers::{self, Batch, Ticket};
use crate::db::Db;
use crate::error::Error;
use crate::panics;
use crate::shares::{Holder, Shares};
use crate::threads::{Heartbeat, Threads};

/// Requests of one transaction, at most.
const BATCH: usize = 512;
/// Attempts at a batch: a lost connection or race, a catalogue that changed meanwhile.
const ATTEMPTS: u32 = 5;
/// Longest turn of a thread that is believed to be work.
const LONGEST: Duration = Duration::from_secs(120);
/// How long a connection is looked for where it is not known whether the batch was done.
const PATIENCE: Duration = Duration::from_secs(5);

type Answer<A> = Result<A, Error>;
type Waiting<J, A> = (J, Ticket<Answer<A>>);

/// What does a batch. All of it or nothing is done; `Ok` has one answer for each job, in order.
pub(super) trait Work<J, A>: Send + Sync + 'static {
    /// Does the jobs and answers them.
    ///
    /// # Errors
    /// When none was done; a transient error makes the lane try again. [`Error::OutcomeUnknown`] does, too:
    /// jobs that were done may be done again, and get the answer that they would have got.
    fn run(&self, conn: &mut PgConnection, jobs: &[J]) -> Result<Vec<Answer<A>>, Error>;
}

/// A queue with the threads that drain it. `J` is what is asked, `A` the answer.
pub(super) struct Lane<J, A> {
    queue: Mutex<Option<mpsc::Sender<Waiting<J, A>>>>,
    /// Places in the queue.
    places: Arc<Shares>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl<J: Send + 'static, A: Send + 'static> Lane<J, A> {
    pub(super) fn start(
        name: &'static str,
        threads: &Threads,
        workers: usize,
        capacity: usize,
        db: &Db,
        work: Arc<impl Work<J, A>>,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(capacity);
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..workers).map(|n| {
            let (db, jobs, work) = (db.clone(), Arc::clone(&jobs), Arc::clone(&work));
            let body = move |heartbeat: &Heartbeat| {
                heartbeat.run_again_after_panic(|| drain(&db, &jobs, &*work, heartbeat))
            };
            threads.spawn(name, n, LONGEST, body)
        });
        let threads = Mutex::new(threads.collect());
        Self { queue: Mutex::new(Some(queue)), places: Shares::new(capacity), threads }
    }

    /// Has a job done.
    ///
    /// # Errors
    /// [`Error::TooMany`] when too many wait, or too many of `holder`; [`Error::Busy`] when the database is
    /// away, [`Error::OutcomeUnknown`] when it is not known whether the job was done; else the job's own.
    pub(super) async fn ask(&self, holder: Holder, job: J) -> Answer<A> {
        const FULL: Error = Error::TooMany("too many such requests wait: try again in a second");
        const AWAY: Error = Error::Busy("the database is away for the moment: try again in a second");
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(AWAY)?;
        let _place = self.places.take(holder, 1).ok_or(FULL)?;
        let (answer, answered) = answers::ticket();
        queue.try_send((job, answer)).map_err(|_| FULL)?;
        drop(queue);
        answers::soon(answered).await?.map_err(|_| AWAY)?
    }

    /// Takes no more jobs, does those that wait, ends the threads.
    pub(super) fn stop(&self) {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).take();
        for thread in self.threads.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // A panic was reported when it happened; whoever waited was told.
            let _ = thread.join();
        }
    }
}

fn drain<J, A>(
    db: &Db,
    jobs: &Mutex<mpsc::Receiver<Waiting<J, A>>>,
    work: &impl Work<J, A>,
    heartbeat: &Heartbeat,
) {
    let mut conn = None;
    while let Some(batch) = next_batch(jobs) {
        let _turn = heartbeat.begin_turn();
        let (batch, answers): (Vec<J>, Vec<_>) = batch.into_iter().unzip();
        match attempt(db, &mut conn, &batch, work) {
            Ok(done) => {
                let mut told = Batch::new();
                for (answer, done) in answers.into_iter().zip(done) {
                    // A client that went away is told nothing.
                    told.push(answer, done);
                }
                told.send();
            }
            // Dropping the answers tells the handlers.
            Err(error) => tracing::error!(%error, jobs = batch.len(), "requests about quotas were not done"),
        }
    }
}

fn attempt<J, A>(
    db: &Db,
    held: &mut Option<PgConnection>,
    jobs: &[J],
    work: &impl Work<J, A>,
) -> Result<Vec<Answer<A>>, Error> {
    let (mut tries, mut unsure, started) = (0, false, Instant::now());
    loop {
        match run(db, held, jobs, work) {
            Err(error)
                if (held.is_some() && error.is_transient() && !error.is_timeout()
                    || matches!(error, Error::OutcomeUnknown))
                    && tries < ATTEMPTS =>
            {
                unsure |= matches!(error, Error::OutcomeUnknown);
                if error.is_disconnected() {
                    *held = None;
                }
                tries += 1;
            }
            // What was done may be found once there is a connection again.
            Err(error)
                if unsure && held.is_none() && error.is_transient() && started.elapsed() < PATIENCE =>
            {
                std::thread::sleep(Duration::from_millis(50));
            }
            Err(error) if unsure => {
                if error.is_disconnected() {
                    *held = None;
                }
                return Ok(unknown(jobs));
            }
            // What is refused in one job, or makes us panic, must not refuse its neighbours.
            Err(error) if !error.is_transient() && jobs.len() > 1 => {
                tracing::warn!(%error, jobs = jobs.len(), "a batch failed, its requests are done one by one");
                return Ok(jobs.iter().map(|job| run_alone(db, held, job, work)).collect());
            }
            Err(error) if jobs.len() == 1 && !error.is_transient() => return Ok(vec![Err(error)]),
            result => {
                if result.as_ref().is_err_and(Error::is_disconnected) {
                    *held = None;
                }
                return result;
            }
        }
    }
}

/// Does the jobs over the connection that is held. After a panic nothing is known of it, and it is dropped.
fn run<J, A>(
    db: &Db,
    held: &mut Option<PgConnection>,
    jobs: &[J],
    work: &impl Work<J, A>,
) -> Result<Vec<Answer<A>>, Error> {
    let conn = match &mut *held {
        Some(conn) => conn,
        none => none.insert(db.connect_serving_thread()?),
    };
    let done = panics::catch_as_error(|| work.run(conn, jobs));
    if done.as_ref().is_err_and(Error::is_panic) {
        *held = None;
    }
    done
}

fn run_alone<J, A>(db: &Db, held: &mut Option<PgConnection>, job: &J, work: &impl Work<J, A>) -> Answer<A> {
    let mut answers = run(db, held, std::slice::from_ref(job), work)?;
    answers.pop().unwrap_or_else(|| Err(Error::Internal("no answer".to_owned())))
}

/// The answer of all when nobody knows whether they were done.
fn unknown<J, A>(jobs: &[J]) -> Vec<Answer<A>> {
    jobs.iter().map(|_| Err(Error::OutcomeUnknown)).collect()
}

/// Waits for a job and takes those that came with it; `None` when there will be no more.
fn next_batch<T>(jobs: &Mutex<mpsc::Receiver<T>>) -> Option<Vec<T>> {
    let mut jobs = jobs.lock().unwrap_or_else(PoisonError::into_inner);
    let mut batch = vec![jobs.blocking_recv()?];
    while batch.len() < BATCH {
        let Ok(job) = jobs.try_recv() else { break };
        batch.push(job);
    }
    Some(batch)
}
