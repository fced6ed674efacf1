//! The inbox: Stripe events as received.
//!
//! A delivery *arrives* ([`land`]): the deliveries of one commit become one row of `stripe_arrivals`, and
//! then Stripe gets its answer. A projector *files* the delivery ([`file`]): its event becomes a row of
//! `stripe_inbox`, which never changes. If the event is there already, a row of `stripe_inbox_redeliveries`
//! is added instead. All slow work, such as looking for repeats, happens after Stripe has its answer.

mod arrivals;
mod called;
mod filing;
mod operator;
mod unfiled;
mod writer;

use chrono::{DateTime, Utc};

pub use arrivals::{Arrival, land, set_aside, take, take_these};
pub use called::{AddedEvent, FETCH, Fetch, add_events, add_fetches, any_unprojected};
pub use filing::{Filed, Filing, file};
pub use operator::{Entry, State, TypeCount, count_by_type, find, list, retry, retry_all};
pub use unfiled::{Unfiled, count_failed, unfiled};
pub use writer::{InboxWriter, Refused};

/// A delivery with a valid signature.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The `Stripe-Signature` header, for audit.
    pub signature: String,
    /// The `User-Agent` header, for audit.
    pub user_agent: Option<String>,
    pub received_at: DateTime<Utc>,
    /// The bytes that were signed.
    pub body: bytes::Bytes,
}
