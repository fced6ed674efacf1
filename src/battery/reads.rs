//! Batteries as they are asked for: balances, grants, entries, statements. Grants are named by their ids
//! here; their numbers stay inside.

pub mod balance;
pub mod entries;
pub mod grants;
pub mod statement;

use rust_decimal::Decimal;

/// Units on the wire.
fn text(units: Decimal) -> String {
    units.normalize().to_string()
}
