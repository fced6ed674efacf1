//! Usage: what services report. It is counted, priced and summed up in one transaction, before its caller
//! gets a reply.
//!
//! `ingest` stores usage, `correct` takes it back, replaces it or prices it later. `records`, `summaries`,
//! `breakdown` and `current` read it. `derived_tables` and `refresh` check the tables that follow from the
//! records.

pub mod breakdown;
pub mod correct;
pub mod current;
pub mod exports;
mod grouped;

pub mod ingest;
pub mod records;

pub mod summaries;
