//! What Stripe sends: signature, inbox, which snapshot wins, projection.

pub mod order;
pub mod signature;

/// The Stripe world that an object lives in. The same id in two realms names two objects.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm {
    /// Connected account (`acct_…`), empty for the platform's own.
    pub account: String,
    /// Live or test mode, as the Stripe event says.
    pub livemode: bool,
}
