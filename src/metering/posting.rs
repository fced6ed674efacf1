//! Posting: what usage changes, row by row, inside the caller's transaction: its keys, records, counters,
//! tiers, batteries and daily summaries. Whoever takes usage, settles it or takes it back posts it by these.

mod binary;
mod burn;
mod keys;
mod locks;
mod priced;
mod records;
mod retold;
mod tiers;
mod totals;
mod write;

pub(crate) use self::burn::{Burn, batch, units};
pub(crate) use self::keys::{Key, claim, claim_new, is_repeat, key, unclaim};
pub(crate) use self::locks::lock_rows;
pub(crate) use self::priced::{Priced, of_periods};
pub(crate) use self::records::{is_there, month_of};
pub(crate) use self::tiers::{Tiers, is_alone, period_at};
pub use self::totals::value_digest;
pub(crate) use self::totals::{counted, counted_by};
pub(crate) use self::write::{write, write_rows};
