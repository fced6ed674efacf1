use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::task::Wake;
use std::thread;

use tokio::runtime::{Builder, Runtime};
use tokio::task::{LocalSet, spawn_local, yield_now};

use super::*;

/// A waker that counts.
#[derive(Default)]
struct Bell(AtomicUsize);

impl Bell {
    fn rung(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

fn single() -> Runtime {
    Builder::new_current_thread().build().expect("a runtime")
}

fn waits<T>(answer: &mut Answer<T>, bell: &Arc<Bell>) -> bool {
    let waker = Waker::from(Arc::clone(bell));
    Pin::new(answer).poll(&mut Context::from_waker(&waker)).is_pending()
}

fn now<T>(answer: &mut Answer<T>) -> Option<Result<T, Lost>> {
    match Pin::new(answer).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// As [`waits`], for the task that asks.
async fn begins<T>(answer: &mut Answer<T>) -> bool {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *answer).poll(context).is_pending())).await
}

/// Waits for `count` tickets and answers them in one batch, the n-th with n.
fn answer_all(tickets: &mpsc::Receiver<Ticket<usize>>, count: usize) {
    let tickets: Vec<_> = tickets.iter().take(count).collect();
    let mut batch = Batch::new();
    for (n, ticket) in tickets.into_iter().enumerate() {
        batch.push(ticket, n);
    }
    batch.send();
}

#[test]
fn a_batch_is_answered_in_order_on_a_thread_as_it_serves_http() {
    const COUNT: usize = 300;
    let (tickets, asked) = mpsc::channel();
    let writer = thread::spawn(move || answer_all(&asked, COUNT));
    let told = LocalSet::new().block_on(&single(), async move {
        let (tell, mut told) = unbounded_channel();
        for _ in 0..COUNT {
            let (tell, (ticket, answer)) = (tell.clone(), ticket());
            let tickets = tickets.clone();
            spawn_local(async move {
                let mut answer = answer;
                // The ticket goes when somebody waits.
                assert!(begins(&mut answer).await);
                tickets.send(ticket).expect("a writer");
                tell.send(answer.await).expect("counted");
            });
        }
        drop(tell);
        let mut all = Vec::new();
        while let Some(one) = told.recv().await {
            all.push(one.expect("answered"));
        }
        all
    });
    writer.join().expect("writes");
    assert_eq!(told, (0..COUNT).collect::<Vec<_>>());
}

#[test]
fn the_tasks_of_a_thread_are_woken_there_by_one_message() {
    let (first, second) = (Arc::<Bell>::default(), Arc::<Bell>::default());
    let bells = (Arc::clone(&first), Arc::clone(&second));
    LocalSet::new().block_on(&single(), async move {
        let task = spawn_local(async move {
            let ((one, mut a), (two, mut b)) = (ticket(), ticket());
            assert!(waits(&mut a, &bells.0) && waits(&mut b, &bells.1));
            let mut batch = Batch::new();
            batch.push(one, 1);
            batch.push(two, 2);
            thread::spawn(move || batch.send()).join().expect("sends");
            assert_eq!((bells.0.rung(), bells.1.rung()), (0, 0), "the message is still on its way");
            yield_now().await;
            yield_now().await;
            assert_eq!((bells.0.rung(), bells.1.rung()), (1, 1));
            assert_eq!((now(&mut a), now(&mut b)), (Some(Ok(1)), Some(Ok(2))));
        });
        task.await.expect("runs");
    });
}

#[test]
fn one_batch_answers_several_threads_and_every_kind_of_runtime() {
    const EACH: usize = 50;
    let (tickets, asked) = mpsc::channel();
    let local = |_| {
        let tickets = tickets.clone();
        thread::spawn(move || LocalSet::new().block_on(&single(), ask(tickets, EACH)))
    };
    let mut threads: Vec<_> = (0..3).map(local).collect();
    let sender = tickets.clone();
    threads.push(thread::spawn(move || single().block_on(ask(sender, EACH))));
    let sender = tickets.clone();
    threads.push(thread::spawn(move || {
        Builder::new_multi_thread().worker_threads(2).build().expect("a runtime").block_on(ask(sender, EACH))
    }));
    answer_all(&asked, EACH * threads.len());
    let mut all: Vec<usize> =
        threads.into_iter().flat_map(|thread| thread.join().expect("answered")).collect();
    all.sort_unstable();
    assert_eq!(all, (0..EACH * 5).collect::<Vec<_>>());
}

/// Asks from many tasks of this runtime.
async fn ask(tickets: mpsc::Sender<Ticket<usize>>, count: usize) -> Vec<usize> {
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let ((ticket, mut answer), tickets) = (ticket(), tickets.clone());
            tokio::spawn(async move {
                assert!(begins(&mut answer).await);
                tickets.send(ticket).expect("a writer");
                answer.await.expect("answered")
            })
        })
        .collect();
    let mut all = Vec::new();
    for task in tasks {
        all.push(task.await.expect("runs"));
    }
    all
}

#[test]
fn a_ticket_dropped_unanswered_ends_the_wait() {
    let (dropped, mut answer) = ticket::<u8>();
    let bell = Arc::<Bell>::default();
    assert!(waits(&mut answer, &bell));
    // As a writer that panics does.
    thread::spawn(move || {
        let _held = dropped;
        std::panic::resume_unwind(Box::new(()));
    })
    .join()
    .expect_err("panics");
    assert_eq!(bell.rung(), 1);
    assert_eq!(now(&mut answer), Some(Err(Lost)));

    let (dropped, answer) = ticket::<u8>();
    drop(dropped);
    assert_eq!(single().block_on(answer), Err(Lost));
}

#[test]
fn a_batch_that_is_dropped_wakes_as_one_that_is_sent() {
    let bells = [Arc::<Bell>::default(), Arc::<Bell>::default()];
    let (mut batch, mut answers) = (Batch::new(), Vec::new());
    for bell in &bells {
        let (ticket, mut answer) = ticket();
        assert!(waits(&mut answer, bell));
        batch.push(ticket, 7);
        answers.push(answer);
    }
    drop(batch);
    assert_eq!(bells.map(|bell| bell.rung()), [1, 1]);
    assert_eq!(answers.iter_mut().map(now).collect::<Vec<_>>(), [Some(Ok(7)), Some(Ok(7))]);
}

#[test]
fn what_nobody_waits_for_leaves_nothing() {
    let (value, bell) = (Arc::new(()), Arc::<Bell>::default());
    let (unasked, answer) = ticket();
    drop(answer);
    let (gone, mut answer) = ticket();
    assert!(waits(&mut answer, &bell));
    assert_eq!(Arc::strong_count(&bell), 2);
    drop(answer);
    assert_eq!(Arc::strong_count(&bell), 1, "the waker goes with who waited");
    let (read_late, mut late) = ticket();
    let (never_read, unread) = ticket();
    let mut batch = Batch::new();
    for ticket in [unasked, gone, read_late, never_read] {
        batch.push(ticket, Arc::clone(&value));
    }
    batch.send();
    assert_eq!((bell.rung(), Arc::strong_count(&value)), (0, 3), "those that may still be read are kept");
    assert!(matches!(now(&mut late), Some(Ok(_))), "answered before anybody looked");
    drop(unread);
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn a_runtime_that_is_gone_or_stands_still_loses_nobody() {
    let bell = Arc::<Bell>::default();
    // Tasks of a runtime that share their wait with somebody elsewhere.
    let wait = |runtime: &Runtime| {
        let bell = Arc::clone(&bell);
        let wait = async move {
            let mut both = [ticket(), ticket()];
            assert!(both.iter_mut().all(|(_, answer)| waits(answer, &bell)));
            both
        };
        runtime.block_on(async { tokio::spawn(wait).await.expect("runs") })
    };
    let answer = |both: [(Ticket<u8>, Answer<u8>); 2]| {
        let mut batch = Batch::new();
        let answers = both.map(|(ticket, answer)| {
            batch.push(ticket, 1);
            answer
        });
        batch.send();
        answers
    };
    // Nothing runs there when the message comes; then it ends.
    let still = single();
    let held = answer(wait(&still));
    assert_eq!(bell.rung(), 0);
    drop(still);
    assert_eq!(bell.rung(), 2);
    // It has ended when the message comes.
    let over = single();
    let waiting = wait(&over);
    drop(over);
    let more = answer(waiting);
    assert_eq!(bell.rung(), 4);
    // Two runtimes take turns on this thread, each with a mailbox of its own.
    let (one, two) = (single(), single());
    let (in_one, in_two) = (wait(&one), wait(&two));
    let most = [answer(in_one), answer(in_two)];
    two.block_on(async { tokio::spawn(yield_now()).await.expect("runs") });
    assert_eq!(bell.rung(), 6);
    one.block_on(async { tokio::spawn(yield_now()).await.expect("runs") });
    assert_eq!(bell.rung(), 8);
    // Who waits outside a task does so without the runtime.
    let _entered = one.enter();
    let mut outside = [ticket(), ticket()];
    assert!(outside.iter_mut().all(|(_, answer)| waits(answer, &bell)));
    let last = answer(outside);
    assert_eq!(bell.rung(), 10);
    drop((held, more, most, last));
}
