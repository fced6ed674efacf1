//! The HTTP API: routes, handlers, and the API's description. Handlers translate between wire and domain; the
//! rules are in the domain, which does not know this module.

pub mod audit;
pub mod battery;
pub mod billing;
pub mod closings;
pub mod commands;
pub mod described;
mod docs;
mod endpoint;
pub mod exports;
pub mod health;
pub mod http;
pub mod invoicing;
pub mod keys;
pub mod messages;
pub mod openapi;
pub mod params;
pub mod plans;
pub mod quotas;
pub mod reads;
mod routes;
pub mod serve;
pub mod stripe;
pub mod usage;
