//! Orgs, and the mirrors of Stripe's objects.

pub mod mirrors;
pub mod org_query;
pub mod orgs;
pub mod read;
