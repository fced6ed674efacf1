//! Invoices of our own, for orgs that Stripe does not bill: what they are charged, what they paid, and what
//! they owe.

pub mod account;
pub mod amounts;
pub mod checks;
pub mod commands;
pub mod coupons;
pub mod credit_notes;
mod drafts;
pub mod exports;
pub mod file;
mod finalise;
pub mod imports;
pub mod invoices;
pub mod lines;
pub(crate) mod numbers;
mod paid;
pub mod payment_accounts;
pub mod payments;
pub mod period_usage;
pub mod plan_change;
pub mod profiles;
pub mod reads;
pub mod reminders;
pub mod run;
pub mod sellers;
mod settle;
pub mod shown;
pub mod tax_rates;
pub mod uncharged;
mod undo;
mod usage_lines;
