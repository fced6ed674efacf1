//! What Stripe sends, in the order of its journey: the signature is checked, the inbox stores the event, the
//! order chooses the winning snapshot, the projection writes it into the mirrors.

pub mod bodies;
pub mod client;
mod effects;
pub mod event;
pub mod inbox;
pub mod json;
mod kinds;
pub mod order;
pub mod project;
pub mod shape;
pub mod signature;
pub mod sync;

pub use crate::realm::Realm;
