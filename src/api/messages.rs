//! Messages to the outside: who gets them, and what was sent.

pub mod deliveries;
pub mod endpoints;
pub mod list;
