//! Battery: prepaid credit of an org in units. It is made of grants, and kept as a ledger whose entries never
//! change.
//!
//! Whoever changes an org's battery locks its account ([`accounts::Accounts::lock`]), decides in memory
//! ([`account::Account`]), and writes the difference with its entries. So entries are numbered without gaps,
//! and nothing is admitted twice on the same units. Accounts are locked in the order of their orgs, after
//! counters and reservations of quotas, before daily summaries.
//!
//! What always holds: the balance is the sum of the entries, and what remains of the grants less the debt.
//! There is debt only while nothing remains.

pub mod account;
pub mod accounts;
pub mod by_hand;
pub mod effects;
pub mod entries;
pub mod exports;
pub mod grants;
pub mod packs;
pub mod reads;
pub mod terms;
#[cfg(test)]
mod tests;
pub mod upkeep;

pub use account::{Account, NewGrant, Note};
pub use accounts::{Accounts, Depth};
pub use entries::EntryKind;
pub use grants::GrantSource;
