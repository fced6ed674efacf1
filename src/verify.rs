//! Promise kept: everything derived can be rebuilt. What is stored is compared with what its inputs make of
//! it: the mirrors with the inbox ([`mirrors`]), the books of usage with its records ([`usage`]). Batteries
//! check their own books.
//!
//! Whoever checks changes nothing, holds up nobody, and tells nobody. Each comparison sees one state of the
//! database, so the daemon may be at work meanwhile.

pub mod mirrors;
pub mod usage;

/// Is told how far a check has come: what is looked at, how much of how much is done.
pub type Watch<'a> = &'a mut dyn FnMut(&'static str, u64, u64);
