//! The Stripe world that an object lives in.

/// Account and mode. The same id in two realms names two objects; they never mix.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Realm {
    /// Connected account (`acct_…`), empty for the platform's own.
    pub account: String,
    /// Live or test mode, as the Stripe event says.
    pub livemode: bool,
}
