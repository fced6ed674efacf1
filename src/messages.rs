//! Messages to the outside: what happened, told to the servers of operators and orgs.
//!
//! 1. [`write()`] stores a message in the transaction of its cause (`message.rs`). [`kinds`] lists all kinds.
//! 2. [`dispatch`] assigns committed messages to the endpoints that want them ([`endpoints`]), each with the
//!    next number of its endpoint: one row of `message_deliveries`.
//! 3. [`sender`] sends what is due. One daemon at a time holds an endpoint (its *lane*, [`lanes`]), so its
//!    rates and its order are decided in one memory. A result is one row of `message_attempts`.
//!
//! A delivery is repeated until it is answered with 2xx, for about three days ([`retry`]): at least once. A
//! daemon that dies between an answer and its commit makes the next holder send again, under the same
//! `webhook-id`.

pub mod deliveries;
pub mod dispatch;
pub mod endpoints;
pub mod kinds;
pub mod lanes;
mod message;
pub mod retention;
pub mod retry;
pub mod secrets;
pub mod sender;
pub mod state;

pub use self::message::{Message, MessageFilter, NewMessage, find, list, write};
