//! Webhooks, the inbox for operators, and what the daemon reads at Stripe.

pub mod charges;
pub mod inbox;
pub mod meters;
pub mod sync;
pub mod webhook;
