//! Metering: the rules by which usage is counted and priced, and the transaction that writes it.
//!
//! - The rules: `meters.rs`, `rates.rs`, `slots.rs`, `closings.rs`; `catalog.rs` has all of them in memory
//!   under one version.
//! - An event: `event.rs` reads it, `data.rs` reads its fields, `resolve.rs` makes of it what will be
//!   written (`usage.rs`), by `series.rs`, `rating.rs`, `periods.rs`, `unpriced.rs` and `digest.rs`.
//! - The writing: `posting.rs`, with `counters.rs` (`rolling.rs`: of rolling windows), `levels.rs` and
//!   `partitions.rs`.
//!
//! `usage` and `quota` stand above it.

pub mod catalog;
pub mod closings;
pub mod counters;
pub mod data;
pub mod digest;
pub mod event;
pub mod levels;
pub mod meters;
pub mod partitions;
pub mod periods;
pub mod posting;
pub mod rates;
pub mod rating;
pub mod resolve;
pub mod rolling;
pub mod series;
pub mod slots;
pub mod unpriced;
pub mod usage;
pub mod windows;
