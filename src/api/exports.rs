//! Downloads of exports, and their control totals.

pub mod battery;
pub mod breakdown;
pub mod columns;
pub mod download;
pub mod drift;
pub mod invoices;
pub mod usage;
