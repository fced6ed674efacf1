//! One test binary: real daemons over a real PostgreSQL, called over real HTTP.

#![recursion_limit = "256"]

#[allow(unreachable_pub, reason = "a library to the tests")]
mod support;

mod answers;
mod architecture;
mod auth;
mod battery;
mod battery_commands;
mod battery_effects;
mod battery_reads;
mod billing_periods;
mod closing;
mod commands;
mod commands_line;
mod crashes;
mod directory;
mod documents;
mod documents_rendered;
mod embedded;
mod entitlements;
mod exports;
mod faults;
mod hostile;
mod inbox;
mod invoicing;
mod links;
mod local_months;
mod logs;
mod messages;
mod meters;
mod migrations;
mod mirrors;
mod month_ends;
mod openapi;
mod org_names;
mod org_plans;
mod own_rates;
mod partitions;
mod plan_changes;
mod plans;
mod projection;
mod quota;
mod quota_race;
mod random_invoices;
mod reads;
mod rights;
mod scenarios;
mod schema;
mod serving;
mod subscriptions;
mod unpriced;
mod usage;
mod usage_corrected;
mod usage_invoices;
mod usage_levels;
mod usage_lives;
mod usage_reads;
mod usage_rebuild;
mod usage_refused;
mod usage_storm;
mod usage_values;
mod usage_wire;
mod webhooks;
