//! Lanes: requests that come together share one transaction. A bounded queue, and threads that each take whatever has gathered.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use diesel::pg::PgConnection;
use tokio::sync::mpsc;

use crate::answers::{self, Batch, Ticket};
use crate::db::Db;
use crate::error::Error;
use crate::shares::{Holder, Shares};

/// Requests of one transaction, at most.
const BATCH: usize = 512;
/// Attempts at a batch: a lost connection or race, a catalogue that changed meanwhile.
const ATTEMPTS: u32 = 5;

type Answer<A> = Result<A, Error>;
type Waiting<J, A> = (J, Ticket<Answer<A>>);

/// What does a batch. All of it or nothing is done; `Ok` has one answer for each job, in order.
pub(super) trait Work<J, A>: Send + Sync + 'static {
    /// Does the jobs and answers them.
    ///
    /// # Errors
    /// When none was done. A transient error makes the lane try again.
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
        name: &str,
        threads: usize,
        capacity: usize,
        db: &Db,
        work: Arc<impl Work<J, A>>,
    ) -> Self {
        let (queue, jobs) = mpsc::channel(capacity);
        let jobs = Arc::new(Mutex::new(jobs));
        let threads = (0..threads).map(|n| {
            let (db, jobs, work) = (db.clone(), Arc::clone(&jobs), Arc::clone(&work));
            let thread = std::thread::Builder::new().name(format!("{name}-{n}"));
            thread.spawn(move || drain(&db, &jobs, &*work)).expect("the system starts a thread")
        });
        let threads = Mutex::new(threads.collect());
        Self { queue: Mutex::new(Some(queue)), places: Shares::new(capacity), threads }
    }

    /// Has a job done.
    ///
    /// # Errors
    /// [`Error::TooMany`] when too many wait, or too many of `holder`; [`Error::Busy`] when the database is
    /// away; else the job's own.
    pub(super) async fn ask(&self, holder: Holder, job: J) -> Answer<A> {
        const FULL: Error = Error::TooMany("too many such requests wait: try again in a second");
        const AWAY: Error = Error::Busy("the database is away for the moment: try again in a second");
        let queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner).clone().ok_or(AWAY)?;
        let _place = self.places.take(holder, 1).ok_or(FULL)?;
        let (answer, answered) = answers::ticket();
        queue.try_send((job, answer)).map_err(|_| FULL)?;
        drop(queue);
        answered.await.map_err(|_| AWAY)?
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

fn drain<J, A>(db: &Db, jobs: &Mutex<mpsc::Receiver<Waiting<J, A>>>, work: &impl Work<J, A>) {
    let mut conn = None;
    while let Some(batch) = next_batch(jobs) {
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
    let mut tries = 0;
    loop {
        if held.is_none() {
            *held = Some(db.dedicated()?);
        }
        let Some(conn) = held.as_mut() else { continue };
        match work.run(conn, jobs) {
            Err(error) if error.is_transient() && tries < ATTEMPTS => {
                if error.is_disconnected() {
                    *held = None;
                }
                tries += 1;
            }
            // What the database refuses in one job must not refuse its neighbours.
            Err(error) if !error.is_transient() && jobs.len() > 1 => {
                tracing::warn!(%error, jobs = jobs.len(), "a batch failed, its requests are done one by one");
                let mut done = Vec::with_capacity(jobs.len());
                for job in jobs {
                    done.push(match work.run(conn, std::slice::from_ref(job)) {
                        Ok(mut answers) => {
                            answers.pop().unwrap_or_else(|| Err(Error::Internal("no answer".to_owned())))
                        }
                        Err(error) => Err(error),
                    });
                }
                return Ok(done);
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
