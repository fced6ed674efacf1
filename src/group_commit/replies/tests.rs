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

fn waits<T>(reply: &mut Reply<T>, bell: &Arc<Bell>) -> bool {
    let waker = Waker::from(Arc::clone(bell));
    Pin::new(reply).poll(&mut Context::from_waker(&waker)).is_pending()
}

fn now<T>(reply: &mut Reply<T>) -> Option<Result<T, NoReply>> {
    match Pin::new(reply).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Like [`waits`], inside the task that asks.
async fn begins<T>(reply: &mut Reply<T>) -> bool {
    poll_fn(|context| Poll::Ready(Pin::new(&mut *reply).poll(context).is_pending())).await
}

/// Waits for `count` senders and sends all replies together, the n-th with n.
fn answer_all(senders: &mpsc::Receiver<ReplySender<usize>>, count: usize) {
    let senders: Vec<_> = senders.iter().take(count).collect();
    let mut replies = Replies::new();
    for (n, sender) in senders.into_iter().enumerate() {
        replies.push(sender, n);
    }
    replies.send();
}

#[test]
fn a_batch_is_answered_in_order_on_a_thread_as_it_serves_http() {
    const COUNT: usize = 300;
    let (senders, asked) = mpsc::channel();
    let writer = thread::spawn(move || answer_all(&asked, COUNT));
    let told = LocalSet::new().block_on(&single(), async move {
        let (tell, mut told) = unbounded_channel();
        for _ in 0..COUNT {
            let (tell, (sender, reply)) = (tell.clone(), reply_channel());
            let senders = senders.clone();
            spawn_local(async move {
                let mut reply = reply;
                // Drops the sender while a receiver waits.
                assert!(begins(&mut reply).await);
                senders.send(sender).expect("a writer");
                tell.send(reply.await).expect("counted");
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
            let ((one, mut a), (two, mut b)) = (reply_channel(), reply_channel());
            assert!(waits(&mut a, &bells.0) && waits(&mut b, &bells.1));
            let mut replies = Replies::new();
            replies.push(one, 1);
            replies.push(two, 2);
            thread::spawn(move || replies.send()).join().expect("sends");
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
    let (senders, asked) = mpsc::channel();
    let local = |_| {
        let senders = senders.clone();
        thread::spawn(move || LocalSet::new().block_on(&single(), ask(senders, EACH)))
    };
    let mut threads: Vec<_> = (0..3).map(local).collect();
    let sender = senders.clone();
    threads.push(thread::spawn(move || single().block_on(ask(sender, EACH))));
    let sender = senders.clone();
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
async fn ask(senders: mpsc::Sender<ReplySender<usize>>, count: usize) -> Vec<usize> {
    let tasks: Vec<_> = (0..count)
        .map(|_| {
            let ((sender, mut reply), senders) = (reply_channel(), senders.clone());
            tokio::spawn(async move {
                assert!(begins(&mut reply).await);
                senders.send(sender).expect("a writer");
                reply.await.expect("answered")
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
    let (dropped, mut reply) = reply_channel::<u8>();
    let bell = Arc::<Bell>::default();
    assert!(waits(&mut reply, &bell));
    // As when a writer panics.
    thread::spawn(move || {
        let _held = dropped;
        std::panic::resume_unwind(Box::new(()));
    })
    .join()
    .expect_err("panics");
    assert_eq!(bell.rung(), 1);
    assert_eq!(now(&mut reply), Some(Err(NoReply)));

    let (dropped, reply) = reply_channel::<u8>();
    drop(dropped);
    assert_eq!(single().block_on(reply), Err(NoReply));
}

#[test]
fn a_batch_that_is_dropped_wakes_as_one_that_is_sent() {
    let bells = [Arc::<Bell>::default(), Arc::<Bell>::default()];
    let (mut replies, mut received) = (Replies::new(), Vec::new());
    for bell in &bells {
        let (sender, mut reply) = reply_channel();
        assert!(waits(&mut reply, bell));
        replies.push(sender, 7);
        received.push(reply);
    }
    drop(replies);
    assert_eq!(bells.map(|bell| bell.rung()), [1, 1]);
    assert_eq!(received.iter_mut().map(now).collect::<Vec<_>>(), [Some(Ok(7)), Some(Ok(7))]);
}

#[test]
fn what_nobody_waits_for_leaves_nothing() {
    let (value, bell) = (Arc::new(()), Arc::<Bell>::default());
    let (unasked, reply) = reply_channel();
    drop(reply);
    let (gone, mut reply) = reply_channel();
    assert!(waits(&mut reply, &bell));
    assert_eq!(Arc::strong_count(&bell), 2);
    drop(reply);
    assert_eq!(Arc::strong_count(&bell), 1, "the waker is dropped with its receiver");
    let (read_late, mut late) = reply_channel();
    let (never_read, unread) = reply_channel();
    let mut replies = Replies::new();
    for sender in [unasked, gone, read_late, never_read] {
        replies.push(sender, Arc::clone(&value));
    }
    replies.send();
    assert_eq!((bell.rung(), Arc::strong_count(&value)), (0, 3), "replies that may still be read are kept");
    assert!(matches!(now(&mut late), Some(Ok(_))), "answered before the first poll");
    drop(unread);
    assert_eq!(Arc::strong_count(&value), 1);
}

#[test]
fn a_runtime_that_is_gone_or_stands_still_loses_nobody() {
    let bell = Arc::<Bell>::default();
    // Tasks of a runtime that share their wait with a task elsewhere.
    let wait = |runtime: &Runtime| {
        let bell = Arc::clone(&bell);
        let wait = async move {
            let mut both = [reply_channel(), reply_channel()];
            assert!(both.iter_mut().all(|(_, reply)| waits(reply, &bell)));
            both
        };
        runtime.block_on(async { tokio::spawn(wait).await.expect("runs") })
    };
    let reply = |both: [(ReplySender<u8>, Reply<u8>); 2]| {
        let mut replies = Replies::new();
        let received = both.map(|(sender, reply)| {
            replies.push(sender, 1);
            reply
        });
        replies.send();
        received
    };
    // No task runs on this runtime when the message comes; then the runtime ends.
    let still = single();
    let held = reply(wait(&still));
    assert_eq!(bell.rung(), 0);
    drop(still);
    assert_eq!(bell.rung(), 2);
    // The runtime has ended when the message comes.
    let over = single();
    let waiting = wait(&over);
    drop(over);
    let more = reply(waiting);
    assert_eq!(bell.rung(), 4);
    // Two runtimes take turns on this thread, each with its own mailbox.
    let (one, two) = (single(), single());
    let (in_one, in_two) = (wait(&one), wait(&two));
    let most = [reply(in_one), reply(in_two)];
    two.block_on(async { tokio::spawn(yield_now()).await.expect("runs") });
    assert_eq!(bell.rung(), 6);
    one.block_on(async { tokio::spawn(yield_now()).await.expect("runs") });
    assert_eq!(bell.rung(), 8);
    // Outside a task the wait does not use the runtime.
    let _entered = one.enter();
    let mut outside = [reply_channel(), reply_channel()];
    assert!(outside.iter_mut().all(|(_, reply)| waits(reply, &bell)));
    let last = reply(outside);
    assert_eq!(bell.rung(), 10);
    drop((held, more, most, last));
}
