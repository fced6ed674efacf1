//! Invoices of our own, for orgs that Stripe does not bill: what they are charged, what they paid, and what
//! they owe.

pub mod amounts;
