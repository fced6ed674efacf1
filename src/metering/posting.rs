//! Posting: writes usage inside the caller's transaction. Ingest, settlements and corrections all use it.
//!
//! In the order of a transaction: `keys.rs` claims the events' keys (`repeats.rs`: is it really a repeat?),
//! `tiers.rs` raises the counters of tiers and prices events (`priced_usage.rs`), `write.rs` writes records
//! (`records.rs`, `binary.rs`), counters and daily summaries (`totals.rs`) and batteries (`burn.rs`).
//! `locks.rs` locks all these rows for a transaction that writes in several steps.

mod binary;
mod burn;
mod keys;
mod locks;
mod priced_usage;
mod records;
mod repeats;
mod tiers;
mod totals;
mod write;

pub(crate) use self::burn::{Burn, new_batch, units};
pub(crate) use self::keys::{Key, claim, claim_new, is_repeat, key, unclaim};
pub(crate) use self::locks::lock_rows;
pub(crate) use self::priced_usage::{PricedUsage, read_priced};
pub(crate) use self::records::{month_of, record_exists};
pub(crate) use self::tiers::{Tiers, is_only_card, tier_period};
pub(crate) use self::totals::{counted, counted_by};
pub(crate) use self::write::{write, write_rows};
