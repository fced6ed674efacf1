//! What Stripe sends: signature, inbox, which snapshot wins, projection.
pub mod bodies;
mod effects;
pub mod event;
pub mod inbox;
pub mod json;
mod kinds;
pub mod order;
pub mod project;
pub mod shape;
pub mod signature;

pub use crate::realm::Realm;
