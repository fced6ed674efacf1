//! Quotas: limits on what a meter counts in a period.
//!
//! Counting is apart from limiting. A *slot* says what is counted (a meter, a filter, a period); its counters are kept by the
//! transaction that writes the usage, whether or not a limit applies. A quota puts a limit on a slot.

pub mod counters;
pub mod slots;
