//! The prices of the cases.

use serde_json::{Value, json};

pub(super) fn tiers(mode: &str, tiers: Value) -> Value {
    json!([{ "tiers": { "mode": mode, "tiers": tiers } }])
}

/// 1 each for the first 100, 0.5 each beyond.
pub(super) fn graduated() -> Value {
    tiers("graduated", json!([{ "up_to": "100", "unit_cost": "1" }, { "unit_cost": "0.5" }]))
}

/// Twice the price.
pub(super) fn dearer() -> Value {
    tiers("graduated", json!([{ "up_to": "100", "unit_cost": "2" }, { "unit_cost": "1" }]))
}

/// The first 100 are free.
pub(super) fn free(price: &str) -> Value {
    tiers("graduated", json!([{ "up_to": "100", "unit_cost": "0" }, { "unit_cost": price }]))
}

/// Up to 100, every unit costs 1; above that, every unit costs 0.4, and 3 flat.
pub(super) fn volume() -> Value {
    tiers("volume", json!([{ "up_to": "100", "unit_cost": "1" }, { "unit_cost": "0.4", "flat_cost": "3" }]))
}

/// 7 for every started package of ten.
pub(super) fn package() -> Value {
    tiers("package", json!([{ "unit_cost": "7", "package_size": "10" }]))
}
