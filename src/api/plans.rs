//! Plans, local subscriptions, entitlements.

pub mod catalogue;
pub mod entitlements;
pub mod subscriptions;
