//! Public ids: a prefix that says what the id names, then a UUIDv7 in hex, so ids sort by age.

use uuid::Uuid;

/// A fresh id such as `org_0199c3e2a7f07d4cb2a7c1d2e3f40516`.
#[must_use]
pub fn fresh(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::now_v7().simple())
}
