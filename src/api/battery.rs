//! Batteries, their grants and entries, packs, and effects that wait.

pub mod by_hand;
pub mod effects;
pub mod ignored;
pub mod packs;
pub mod reads;
