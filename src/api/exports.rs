//! Downloads of exports, and their control totals.

pub mod battery;
pub mod columns;
pub mod download;
pub mod invoices;
pub mod usage;
