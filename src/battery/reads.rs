//! Batteries as the API shows them: balances, grants, entries, statements. The API names grants by their ids;
//! their numbers stay inside.

pub mod balance;
pub mod entries;
pub mod grants;
pub mod statement;

use rust_decimal::Decimal;

/// Units as the API shows them.
fn units_text(units: Decimal) -> String {
    units.normalize().to_string()
}
