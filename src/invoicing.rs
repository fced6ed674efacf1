//! Invoices of our own, for orgs that Stripe does not bill: what they are charged, what they paid, and what
//! they owe.

pub mod account;
pub mod amounts;
pub mod checks;
pub mod coupons;
mod drafts;
pub mod invoices;
pub mod lines;
pub mod payment_accounts;
pub mod profiles;
pub mod sellers;
pub mod tax_rates;
mod usage_lines;
