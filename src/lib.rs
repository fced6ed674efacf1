//! Coulomb: a billing and metering daemon, one binary beside one PostgreSQL.
//!
//! `ARCHITECTURE.md` tells how a webhook, a usage batch and an export walk through these modules.

pub mod billing;
pub mod db;
#[allow(missing_docs, unreachable_pub)] // generated
pub mod schema;
pub mod stripe;
