//! Panics: a fault of ours ends neither a thread nor a request of somebody else.
//!
//! Every panic is logged with its place, and counted by the kind of its thread. Threads catch it around the
//! smallest piece of work that can be given up: a transaction, a turn, a request. What was worked on together
//! is then tried again alone, so that only the input that causes the panic is refused, or set aside.

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

/// Longest message of a panic that is logged, in characters.
const MESSAGE: usize = 500;

/// The kind of a thread.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct Kind {
    thread: &'static str,
}

/// Panics by kind of thread.
pub type Count = Family<Kind, Counter>;

static COUNT: LazyLock<Count> = LazyLock::new(|| {
    let count = Count::default();
    for thread in ["http", "blocking", "other"] {
        drop(count.get_or_create(&Kind { thread }));
    }
    count
});

thread_local! {
    static KIND: Cell<Option<&'static str>> = const { Cell::new(None) };
    static SEEN: Cell<u64> = const { Cell::new(0) };
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// The counter of all panics of this process.
#[must_use]
pub fn count() -> Count {
    COUNT.clone()
}

/// Has the counter of a kind of thread begin at 0, before its first panic.
pub(crate) fn expect(thread: &'static str) {
    drop(COUNT.get_or_create(&Kind { thread }));
}

/// Says of what kind this thread is.
pub(crate) fn this_thread_is(kind: &'static str) {
    KIND.set(Some(kind));
}

/// How many panics this thread has caught.
pub(crate) fn seen() -> u64 {
    SEEN.get()
}

/// Has panics logged and counted, and not written to standard error, which might fail or block.
pub fn report() {
    set_hook(Box::new(note));
}

fn note(panic: &PanicHookInfo<'_>) {
    let place = panic.location().map_or_else(
        || "an unknown place".to_owned(),
        |at| format!("{}:{}:{}", trimmed(at.file()), at.line(), at.column()),
    );
    let current = thread::current();
    let name = current.name().unwrap_or_default();
    let thread = KIND.get().unwrap_or(match name {
        name if name.starts_with("actix-") => "http",
        name if name.starts_with("tokio-") => "blocking",
        _ => "other",
    });
    COUNT.get_or_create(&Kind { thread }).inc();
    SEEN.set(SEEN.get() + 1);
    PLACE.with(|last| last.replace(place.clone()));
    let payload = panic.payload();
    let said = payload.downcast_ref::<&str>().copied();
    let said = said.or_else(|| payload.downcast_ref::<String>().map(String::as_str)).unwrap_or_default();
    let message: String = said.chars().take(MESSAGE).collect();
    if tracing::dispatcher::has_been_set() {
        tracing::error!(place, thread = name, ?message, "a fault of ours: please report it");
    } else {
        logging::say(format_args!("a fault of ours at {place}, please report it: {message:?}"));
    }
}

/// The path of a source file without the directories of the machine that built it.
fn trimmed(file: &str) -> &str {
    let Some(src) = file.rfind("/src/") else {
        return if file.starts_with('/') { file.rsplit('/').next().unwrap_or(file) } else { file };
    };
    let package = file[..src].rfind('/').map_or(0, |slash| slash + 1);
    &file[package..]
}

/// Does `work`; `None` when it panicked. Whoever calls this gives up what `work` may have left half done.
pub fn caught<T>(work: impl FnOnce() -> T) -> Option<T> {
    catch_unwind(AssertUnwindSafe(work)).ok()
}

/// Runs a task; `None` when it panicked.
pub(crate) async fn caught_in<F: Future>(task: F) -> Option<F::Output> {
    let mut task = pin!(task);
    poll_fn(|context| {
        caught(|| task.as_mut().poll(context)).map_or(Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// Does `work`, and makes an error of a panic. A connection that `work` had a transaction open on must be
/// dropped then.
///
/// # Errors
/// What `work` says, or [`Error::Panicked`].
pub fn catch<T>(work: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
    caught(work).unwrap_or_else(|| Err(panicked()))
}

/// The error that stands for the last panic of this thread.
pub(crate) fn panicked() -> Error {
    Error::Panicked(PLACE.with(|place| place.borrow().clone()))
}

/// Panics where a test asks for it, by `TEST_PANIC=<place>:<part of what it is about>`. Builds without debug
/// assertions have none of this.
#[cfg(debug_assertions)]
pub(crate) fn provoke<T: AsRef<[u8]>>(place: &str, about: impl FnOnce() -> T) {
    static WANTED: LazyLock<Option<(String, String)>> = LazyLock::new(|| {
        let wanted = std::env::var("TEST_PANIC").ok()?;
        wanted.split_once(':').map(|(place, part)| (place.to_owned(), part.to_owned()))
    });
    if let Some((wanted, part)) = &*WANTED
        && wanted == place
    {
        let found = about().as_ref().windows(part.len()).any(|window| window == part.as_bytes());
        assert!(!found, "a test asked for this");
    }
}

/// See above.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub(crate) fn provoke<T: AsRef<[u8]>>(_: &str, _: impl FnOnce() -> T) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_tell_nothing_of_the_machine_that_built_it() {
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
        for (path, told) in paths {
            assert_eq!(trimmed(path), told);
        }
    }

    #[test]
    fn a_panic_becomes_an_error() {
        let before = seen();
        report();
        let error = catch::<()>(|| panic!("on purpose")).expect_err("it panics");
        assert!(error.is_panic() && !error.is_transient() && !error.is_about_data());
        assert!(error.to_string().contains("src/panics.rs:"), "{error}");
        assert_eq!(seen(), before + 1);
    }
}
