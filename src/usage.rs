//! Usage: what services report, metered, priced and summed up in the transaction that answers them.
//!
//! A batch walks `api::usage::events` → `metering::event` (read and validate) → `metering::resolve` (meters,
//! series, days, prices) → `ingest` (one transaction, by `metering::posting`: claims, records, summaries,
//! counters).

pub mod correct;
pub mod current;

pub mod ingest;
pub mod records;

pub mod summaries;
