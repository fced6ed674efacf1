//! Parts for tests. Start at [`World`]: a database, a daemon and a key. `requests` has builders of requests,
//! `answer` checks answers, `objects` has Stripe's objects and events.

pub mod answer;
pub mod battery;
pub mod cluster;
pub mod daemon;
pub mod documents;
pub mod en16931;
pub mod events;
pub mod fake_stripe;
pub mod invoicing;
pub mod json;
pub mod objects;
pub mod proxy;
pub mod receiver;
pub mod requests;
pub mod rows;
pub mod stripe;
pub mod usage;
pub mod world;

pub use cluster::{Database, Server};
pub use daemon::{Daemon, TestClock};
pub use proxy::Proxy;
pub use world::World;

/// The signing secret of test daemons.
pub const SECRET: &str = "whsec_test";

/// Directory of recorded Stripe events, if there is one; else says so and returns `None`.
pub fn recorded_events() -> Option<std::path::PathBuf> {
    let beside = || std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/stripe-events");
    let dir = std::env::var_os("COULOMB_STRIPE_EVENTS").map_or_else(beside, Into::into);
    if dir.is_dir() {
        return Some(dir);
    }
    println!(
        "skipped: no recorded Stripe events at {} (COULOMB_STRIPE_EVENTS names another place)",
        dir.display()
    );
    None
}
