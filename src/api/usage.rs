//! Usage events, meters, rate cards, reads and corrections.

pub mod correct;
pub mod events;
pub mod meters;
pub mod rates;
pub mod reads;
pub mod unpriced;
pub mod wire;
