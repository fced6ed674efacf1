//! The tables that are computed from usage records: daily summaries, unique values, counters of tiers and of
//! quotas, levels, unpriced usage. [`expected`] computes each again as SQL, [`differences`] compares,
//! [`repair`] repairs while usage is being written.
//!
//! *Comparing* takes no lock. A writer of usage commits records and derived rows together, so one statement
//! reads both in one snapshot. It compares many orgs at once ([`parts`]), because records are stored in the
//! order of time: a pass for each org alone would read all of them again and again.
//!
//! *Repairing* handles one org. It first creates and locks the wrong rows, in the order in which writers of
//! usage lock them, and computes after that. A writer that had such a row has then committed, with its
//! records; a writer that waits adds to the repaired row. So only writers of these rows wait, and for one
//! computation. Unique values are the exception: a writer does not lock those that exist, so their repair
//! stops all writing of usage.
//!
//! A row of zeros means the same as no row.

mod differences;
mod expected;
mod keys;
pub mod parts;
mod repair;
mod rules;

use diesel::pg::PgConnection;
use diesel::prelude::*;

use crate::error::Error;
pub use differences::{Difference, differences, orgs_that_differ};
use expected::Sides;
pub use expected::VALUE_DIGEST;
pub use keys::unmatched_keys;
use parts::Orgs;
pub use repair::repair;
pub use rules::{CountingRules, CountingSettings};

/// A table that is computed from usage records.
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
    /// `quota_counters.used`. Quotas of levels are computed from `usage_levels`.
    Quotas,
    /// `unpriced_usage`. Only over all days, while every record is there.
    Unpriced,
}

/// Row ids of the orgs, in order.
pub fn orgs(conn: &mut PgConnection, within: Orgs) -> Result<Vec<i64>, Error> {
    use crate::schema::orgs::dsl::{org_id, orgs};
    let within = org_id.between(within.first, within.last);
    Ok(orgs.filter(within).select(org_id).order(org_id).load(conn)?)
}

/// Row ids of the orgs that ever had usage, in order.
pub fn orgs_with_usage(conn: &mut PgConnection) -> Result<Vec<i64>, Error> {
    use crate::schema::{orgs, usage_series};
    let series = usage_series::table.filter(usage_series::org_id.eq(orgs::org_id));
    let orgs = orgs::table.filter(diesel::dsl::exists(series)).select(orgs::org_id).order(orgs::org_id);
    Ok(orgs.load(conn)?)
}

impl DerivedTable {
    /// Every table, in the order in which usage is written to them.
    pub const ALL: [Self; 6] =
        [Self::Rating, Self::Levels, Self::Quotas, Self::Uniques, Self::Summaries, Self::Unpriced];

    #[must_use]
    pub fn sql_name(self) -> &'static str {
        match self {
            Self::Summaries => "daily_summaries",
            Self::Uniques => "usage_uniques",
            Self::Rating => "rating_counters",
            Self::Levels => "usage_levels",
            Self::Quotas => "quota_counters",
            Self::Unpriced => "unpriced_usage",
        }
    }

    /// The columns of its primary key.
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

    /// The columns that are compared. A unique value has none: `n` is 1 where its row exists.
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
