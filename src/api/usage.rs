//! Usage events, meters, rate cards, reads and corrections.

mod answer;
pub mod breakdown;
pub mod correct;
mod csv_list;
mod event_body;
pub mod events;
mod intake;
pub mod meters;
pub mod rates;
pub mod reads;
pub mod uncharged;
pub mod unpriced;
pub mod wire;
