//! The HTTP API: routes, handlers, and its description. Handlers translate between wire and domain and hold
//! no rules. Whatever the domain knows stands below: nothing there knows this module.

pub mod battery;
pub mod billing;
pub mod commands;
pub mod described;
mod docs;
mod endpoint;
pub mod exports;
pub mod health;
pub mod http;
pub mod keys;
pub mod openapi;
pub mod params;
pub mod plans;
pub mod quotas;
pub mod reads;
mod routes;
pub mod serve;
pub mod stripe;
pub mod usage;
