//! What tests are built from: a shared cluster with a database each, daemons, signed deliveries, events.

pub mod battery;
pub mod cluster;
pub mod daemon;
pub mod events;
pub mod proxy;
pub mod stripe;
pub mod usage;

pub use cluster::{Database, Server};
pub use daemon::{Daemon, TestClock};
pub use proxy::Proxy;

/// The signing secret that test daemons know.
pub const SECRET: &str = "whsec_test";

/// Stripe's recorded events, where this checkout has them beside it; says so and gives `None` where it does
/// not.
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
