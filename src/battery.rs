//! Battery: the prepaid credit of an org, in units. Grants add units, and a ledger holds every change. Ledger
//! entries never change.
//!
//! Who changes a battery locks its account ([`accounts::Accounts::lock`]), decides in memory
//! ([`account::Account`]), and writes the changes with their entries. So entries are numbered without gaps,
//! and no unit is used twice. Accounts are locked in the order of their orgs, after counters and reservations
//! of quotas, before daily summaries.
//!
//! Invariants: the balance is the sum of the entries. It is also what remains of the grants, less the debt.
//! There is debt only while nothing remains.
//!
//! Words: a *grant* adds units, *usage* burns them, an *expiry* ends what remains of a grant, a *clawback*
//! takes units of a grant back because money was returned, a *void* takes away what remains of a grant by
//! hand. An *allowance* is a grant for one local day. *Draws* of an entry say what each grant lost by it.

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
mod told;
pub mod upkeep;

pub use account::{Account, NewGrant, Note};
pub use accounts::{Accounts, Depth};
pub use entries::EntryKind;
pub use grants::GrantSource;
