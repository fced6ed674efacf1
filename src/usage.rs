//! Usage: what services report, metered, priced and summed up in the transaction that answers them.
//!
//! A batch walks `http` → `event` (read and validate) → `resolve` (meters, series, days; `rating`) → `ingest`
//! (one transaction: claims, records, summaries, counters).

pub mod books;
pub mod catalog;
pub mod closings;
pub mod correct;
pub mod correct_http;
pub mod current;
mod data;
pub mod event;
pub mod http;
pub mod ingest;
pub mod levels;
pub mod meters;
pub mod meters_http;
pub mod partitions;
pub mod rates;
pub mod rates_http;
pub mod rating;
pub mod reads_http;
pub mod records;
pub mod refresh;
pub mod resolve;
pub mod series;
pub mod summaries;
pub mod unpriced;
pub mod unpriced_http;
pub mod wire_http;
