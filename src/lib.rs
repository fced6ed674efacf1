//! Coulomb: a billing and metering daemon, one binary beside one PostgreSQL.
//!
//! `ARCHITECTURE.md` tells how a webhook, a usage batch and an export walk through these modules.

pub mod answers;
pub mod app;
pub mod audit;
pub mod auth;
pub mod battery;
pub mod billing;
pub mod cli;
pub mod commands;
pub mod config;
pub mod connections;
pub mod db;
pub mod dump;
pub mod error;
pub mod export;
pub mod health;
pub mod http;
pub mod ids;
pub mod logging;
pub mod metrics;
pub mod money;
pub mod openapi;
pub mod page;
pub mod params;
pub mod plans;
pub mod quantity;
pub mod quota;
pub mod realm;
pub mod routes;
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod schema;
pub mod server;
pub mod shares;
pub mod stripe;
pub mod time;
pub mod usage;
pub mod verify;
pub mod workers;
