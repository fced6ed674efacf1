//! Files for finance.

pub mod battery;
pub mod invoices;
