//! The books that are counted from usage records: daily summaries, unique values, the counters of tiers and
//! of quotas. What each must say, by the records; where it says something else; how it is put right while
//! usage goes on being written.
//!
//! *Finding* takes no lock: one statement reads records and book in one snapshot, and whoever writes usage
//! commits both together. It may look at many orgs at once ([`parts`]): records lie in the order of time, so
//! a pass for each org alone would read all of them again and again. *Mending* is of one org: it makes and
//! locks the rows at fault first, in the order in which usage is written to them, and computes anew after
//! that: whoever holds such a row has committed by then, records and all; whoever waits for it adds to what
//! is written here. So writers of these very rows wait for one computation, and no one else waits. Unique
//! values are not locked by whoever finds them there already, so mending them holds up all writing of usage.
//!
//! A row of zeros says the same as no row.

mod compare;
mod expected;
mod keys;
mod mend;
pub mod parts;
mod rules;

use diesel::pg::PgConnection;
use diesel::prelude::*;

use crate::error::Error;
pub use compare::{Difference, differences, orgs_that_differ};
use expected::Sides;
pub use expected::VALUE_DIGEST;
pub use keys::unmatched_keys;
pub use mend::mend;
use parts::Orgs;
pub use rules::{Given, Rules};

/// A table counted from usage records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DerivedTable {
    /// `daily_summaries`.
    Summaries,
    /// `usage_uniques`.
    Uniques,
    /// `rating_counters`. Only over whole months.
    Rating,
    /// `usage_levels`.
    Levels,
    /// `quota_counters.used`; that of levels is counted from `usage_levels`.
    Quotas,
    /// `unpriced_usage`. Only over all days, while every record is there.
    Unpriced,
}

/// The row ids of the orgs that there are, in order.
pub fn orgs(conn: &mut PgConnection, within: Orgs) -> Result<Vec<i64>, Error> {
    use crate::schema::orgs::dsl::{org_id, orgs};
    let within = org_id.between(within.first, within.last);
    Ok(orgs.filter(within).select(org_id).order(org_id).load(conn)?)
}

/// As [`orgs`], all that ever had usage.
pub fn orgs_with_usage(conn: &mut PgConnection) -> Result<Vec<i64>, Error> {
    use crate::schema::{orgs, usage_series};
    let series = usage_series::table.filter(usage_series::org_id.eq(orgs::org_id));
    let orgs = orgs::table.filter(diesel::dsl::exists(series)).select(orgs::org_id).order(orgs::org_id);
    Ok(orgs.load(conn)?)
}

impl DerivedTable {
    /// Every book, in the order in which usage is written to them.
    pub const ALL: [Self; 6] =
        [Self::Rating, Self::Levels, Self::Quotas, Self::Uniques, Self::Summaries, Self::Unpriced];

    /// Its table.
    #[must_use]
    pub fn table(self) -> &'static str {
        match self {
            Self::Summaries => "daily_summaries",
            Self::Uniques => "usage_uniques",
            Self::Rating => "rating_counters",
            Self::Levels => "usage_levels",
            Self::Quotas => "quota_counters",
            Self::Unpriced => "unpriced_usage",
        }
    }

    /// Its primary key.
    fn keys(self) -> &'static [&'static str] {
        match self {
            Self::Summaries => &["org_id", "series_id", "day"],
            Self::Uniques => &["org_id", "series_id", "day", "value_digest"],
            Self::Rating => &["org_id", "meter_id", "rate_card_id", "rate", "period", "began"],
            Self::Levels => &["org_id", "series_id", "subject"],
            Self::Quotas => &["org_id", "slot_id", "subject", "period", "began"],
            Self::Unpriced => &["org_id", "series_id"],
        }
    }

    /// What is counted in it. A unique value is there or not: `n` stands for that.
    fn values(self) -> &'static [&'static str] {
        match self {
            Self::Summaries => &["quantity", "count", "cost", "battery_units", "latest_at"],
            Self::Uniques => &["n"],
            Self::Rating => &["quantity"],
            Self::Levels => &["set_value", "changes", "set_at", "changed_at"],
            Self::Quotas => &["used"],
            Self::Unpriced => &["events", "quantity", "first_seen", "last_seen"],
        }
    }
}
