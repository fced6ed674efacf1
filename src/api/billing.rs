//! Orgs and what Stripe says of them.

pub mod credit_notes;
pub mod customers;
pub mod disputes;
pub mod invoices;
pub mod org_query;
pub mod orgs;
pub mod payments;
pub mod prices;
pub mod products;
pub mod read;
pub mod refunds;
pub mod subscriptions;
