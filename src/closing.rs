//! Closing of months, and what bookkeeping gets of them.
//!
//! A closed month takes no more usage and no more entries: what comes later is posted to the open month and
//! names the month that it belongs to. So a closed month's records, documents and entries are a fixed set.
//! The manifest of a month ([`manifest`]) states their totals and digests, is signed, and names the digest of
//! the manifest before it. The exports ([`exports`]) are the texts that the digests are of. Journals
//! ([`journal`]) turn entries into double entries.

pub mod accounts_file;
mod booked;
pub mod chart;
pub mod check;
mod debtors;
pub mod exports;
pub mod journal;
pub mod manifest;
pub mod month;
pub mod postings;
