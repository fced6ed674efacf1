//! Webhooks, and the inbox for operators.

pub mod inbox;
pub mod webhook;
