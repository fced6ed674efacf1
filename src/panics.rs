//! Panics: a bug of ours must end neither a thread nor somebody else's request.
//!
//! Every panic is logged with its place in the source, and counted by the kind of its thread. A thread
//! catches it around the smallest piece of work that can be given up: a transaction, a turn, a request. If
//! several inputs were worked on together, each is then tried alone, so that only the input that causes the
//! panic is refused or set aside.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::panic::{AssertUnwindSafe, PanicHookInfo, catch_unwind, set_hook};
use std::pin::pin;
use std::sync::LazyLock;
use std::task::Poll;
use std::thread;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;

use crate::error::Error;
use crate::logging;

/// How much of a panic's message is logged, in characters.
const LONGEST_MESSAGE: usize = 500;

/// The kind of a thread, such as `http` or `projector`: a label of the metric.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct ThreadKind {
    thread: &'static str,
}

/// Counts panics by kind of thread.
pub type PanicCounter = Family<ThreadKind, Counter>;

static COUNTER: LazyLock<PanicCounter> = LazyLock::new(|| {
    let counter = PanicCounter::default();
    for thread in ["http", "blocking", "other"] {
        drop(counter.get_or_create(&ThreadKind { thread }));
    }
    counter
});

thread_local! {
    static KIND: Cell<Option<&'static str>> = const { Cell::new(None) };
    /// How many panics this thread has had.
    static PANICS: Cell<u64> = const { Cell::new(0) };
    /// Where in the source this thread's last panic happened.
    static LAST_PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The counter of this process, for the metrics.
#[must_use]
pub fn counter() -> PanicCounter {
    COUNTER.clone()
}

/// Lets the metric of this kind of thread exist, with 0, before its first panic.
pub(crate) fn register_thread_kind(thread: &'static str) {
    drop(COUNTER.get_or_create(&ThreadKind { thread }));
}

/// Sets the kind of the calling thread.
pub(crate) fn set_thread_kind(kind: &'static str) {
    KIND.set(Some(kind));
}

/// How many panics the calling thread has had.
pub(crate) fn count_on_this_thread() -> u64 {
    PANICS.get()
}

/// From now on panics are logged and counted. They are not written to standard error directly, which might
/// fail or block.
pub fn install_hook() {
    set_hook(Box::new(log_and_count));
}

fn log_and_count(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(
        || "an unknown place".to_owned(),
        |at| format!("{}:{}:{}", without_build_directory(at.file()), at.line(), at.column()),
    );
    let current = thread::current();
    let name = current.name().unwrap_or_default();
    let thread = KIND.get().unwrap_or(match name {
        name if name.starts_with("actix-") => "http",
        name if name.starts_with("tokio-") => "blocking",
        _ => "other",
    });
    COUNTER.get_or_create(&ThreadKind { thread }).inc();
    PANICS.set(PANICS.get() + 1);
    LAST_PLACE.with(|last| last.replace(place.clone()));
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    let message: String = text.chars().take(LONGEST_MESSAGE).collect();
    if tracing::dispatcher::has_been_set() {
        tracing::error!(place, thread = name, ?message, "a fault of ours: please report it");
    } else {
        logging::print_line(format_args!("a fault of ours at {place}, please report it: {message:?}"));
    }
}

/// The path of a source file without the directories of the machine that built it.
fn without_build_directory(file: &str) -> &str {
    let Some(src) = file.rfind("/src/") else {
        return if file.starts_with('/') { file.rsplit('/').next().unwrap_or(file) } else { file };
    };
    let package = file[..src].rfind('/').map_or(0, |slash| slash + 1);
    &file[package..]
}

/// Runs `work`; `None` if it panicked. The caller must discard what `work` may have left half done.
pub fn catch_as_none<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Runs a task; `None` if it panicked.
pub(crate) async fn catch_in_task<F: Future>(task: F) -> Option<F::Output> {
    let mut task = pin!(task);
    poll_fn(|context| {
        catch_as_none(|| task.as_mut().poll(context)).map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// Runs `work`, and turns a panic into an error. After a panic the caller must drop a connection on which
/// `work` had a transaction open.
///
/// # Errors
/// The error of `work`, or [`Error::Panicked`].
pub fn catch_as_error<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    catch_as_none(work).unwrap_or_else(|| Err(last_panic_error()))
}

/// The error for the last panic of this thread.
pub(crate) fn last_panic_error() -> Error {
    Error::Panicked(LAST_PLACE.with(|place| place.borrow().clone()))
}

/// Panics if a test asks for it with `TEST_PANIC=<place>:<part of the input>`, and `input` contains that
/// part. Builds without debug assertions do nothing here.
#[cfg(debug_assertions)]
pub(crate) fn panic_if_test_asks<T: AsRef<[u8]>>(place: &str, input: impl FnOnce() -> T) {
    static REQUEST: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
        let request = std::env::var("TEST_PANIC").ok()?;
        request.split_once(':').map(|(place, part)| (place.to_owned(), part.to_owned()))
    });
    if let Some((requested, part)) = &*REQUEST
        && requested == place
    {
        let found = input().as_ref().windows(part.len()).any(|window| window == part.as_bytes());
        assert!(!found, "a test asked for this");
    }
}

#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn panic_if_test_asks<T: AsRef<[u8]>>(_: &str, _: impl FnOnce() -> T) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_show_no_directory_of_the_build_machine() {
        let paths = [
            ("src/usage/rating.rs", "src/usage/rating.rs"),
            ("/home/builder/coulomb/src/usage/rating.rs", "coulomb/src/usage/rating.rs"),
            (
                "/root/.cargo/registry/src/index.crates.io-1949/rust_decimal-1.43.0/src/decimal.rs",
                "rust_decimal-1.43.0/src/decimal.rs",
            ),
            ("/rustc/5980/library/core/src/option.rs", "core/src/option.rs"),
            ("/home/builder/secret.rs", "secret.rs"),
        ];
        for (path, shown) in paths {
            assert_eq!(without_build_directory(path), shown);
        }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let before = count_on_this_thread();
        install_hook();
        let error = catch_as_error::<()>(|| panic!("on purpose")).expect_err("it panics");
        assert!(error.is_panic() && !error.is_transient() && !error.is_about_data());
        assert!(error.to_string().contains("src/panics.rs:"), "{error}");
        assert_eq!(count_on_this_thread(), before + 1);
    }
}
