//! Coulomb: a billing and metering daemon, one binary beside one PostgreSQL.
//!
//! `ARCHITECTURE.md` describes the modules, and the way of a webhook, a usage batch and an export through
//! them.

pub mod api;
pub mod app;
pub mod audit;
pub mod auth;
pub(crate) mod backoff;
pub mod battery;
pub mod billing;
pub mod charging;
pub mod cli;
pub mod closing;
pub mod config;
pub mod connections;
pub mod db;
pub mod documents;
pub mod dump;
pub mod egress;
pub mod erasure;
pub mod error;
pub mod export;
pub mod group_commit;
pub mod ids;
pub mod integrity;
pub mod invoicing;
pub mod json;
pub mod limits;
pub mod logging;
pub mod messages;
pub mod metering;
pub mod metrics;
pub mod money;
pub mod networks;
pub mod page;
pub mod panics;
pub mod plans;
pub mod quantity;
pub mod quota;
pub mod realm;
#[allow(unreachable_pub, clippy::all)]
pub mod schema;
pub mod server;
pub mod shares;
pub mod signing;
pub mod stripe;
pub mod text;
pub mod threads;
pub mod time;
pub mod usage;
pub mod wake;
pub mod workers;
