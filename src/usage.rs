//! Usage: what services report, metered, priced and summed up in the transaction that answers them.
//!
//! A batch walks `http` → `event` (read and validate) → `resolve` (meters, series, days; `rating`) → `ingest`
//! (one transaction: claims, records, summaries, counters).

pub mod books;
pub mod correct;
pub mod current;
pub mod ingest;
pub mod records;
pub mod refresh;
pub mod summaries;
