//! The rules by which records are counted: which meters add up, which rate cards have tiers, which slots
//! count which usage.

use std::collections::{BTreeSet, HashSet};

use chrono::{DateTime, NaiveDate, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;

use crate::billing::org_plan::AsOf;
use crate::config::Config;
use crate::error::Error;
use crate::metering::meters::Aggregation;
use crate::metering::partitions;
use crate::metering::periods::CountedDays;
use crate::metering::rates::TierPeriod;
use crate::metering::slots::PeriodKind;
use crate::schema::{meters, quota_slot_orgs, quota_slots, rate_cards};

/// What the counting daemon is configured with.
#[derive(Clone, Copy, Debug)]
pub struct CountingSettings {
    /// The time, and the grace days, by which an org's plan and periods are found.
    pub as_of: AsOf,
    /// How long counters of quotas are kept.
    pub kept: CountedDays,
}

impl CountingSettings {
    #[must_use]
    pub fn new(config: &Config, now: DateTime<Utc>) -> Self {
        Self {
            as_of: AsOf { now, grace_days: config.past_due_grace_days },
            kept: CountedDays {
                org: config.quota_retention_days,
                subject: config.quota_subject_retention_days,
            },
        }
    }
}

/// The rules as they are now. Lists of meters hold row ids.
#[derive(Debug)]
pub struct CountingRules {
    pub(super) additive: Vec<i32>,
    pub(super) maxima: Vec<i32>,
    pub(super) uniques: Vec<i32>,
    pub(super) latest: Vec<i32>,
    pub(super) levels: Vec<i32>,
    /// Meters that have a rate card with tiers.
    pub(super) tiered: Vec<i32>,
    /// Meters that have a rate card whose tiers are counted by the billing period.
    pub(super) tiered_by_billing: Vec<i32>,
    pub(super) slots: Vec<SlotRule>,
    /// Whether a missing counter of a past period is a difference. Normally not: it may have been cleaned up.
    pub past_counters: bool,
    /// The first local day whose records are all stored; `None`: all days.
    pub first_whole_day: Option<NaiveDate>,
    pub(in crate::integrity) settings: CountingSettings,
}

#[derive(Clone, Debug)]
pub(super) struct SlotRule {
    pub(super) slot_id: i32,
    pub(super) meter_id: i32,
    pub(super) per_subject: bool,
    pub(super) period: PeriodKind,
    pub(super) created_at: DateTime<Utc>,
    /// Whether it counts usage of every org.
    pub(super) everywhere: bool,
    /// The orgs that have or had a quota of their own on it.
    pub(super) orgs: HashSet<i64>,
}

impl SlotRule {
    pub(super) fn counts(&self, org_id: i64) -> bool {
        self.everywhere || self.orgs.contains(&org_id)
    }
}

impl CountingRules {
    pub fn load(conn: &mut PgConnection, settings: CountingSettings) -> Result<Self, Error> {
        let all: Vec<(i32, String)> =
            meters::table.select((meters::meter_id, meters::aggregation)).load(conn)?;
        let of = |wanted: &dyn Fn(Aggregation) -> bool| -> Vec<i32> {
            let fits = |name: &str| Aggregation::parse(name).is_some_and(wanted);
            all.iter().filter(|(_, name)| fits(name)).map(|(id, _)| *id).collect()
        };
        let additive = of(&Aggregation::is_additive);
        let maxima = of(&|a| a == Aggregation::Max);
        let uniques = of(&|a| a == Aggregation::Unique);
        let latest = of(&|a| a == Aggregation::Latest);
        let levels = of(&|a| a == Aggregation::Level);
        let tiers = diesel::dsl::sql::<diesel::sql_types::Bool>("rates @? '$[*].tiers'");
        let with_tiers = rate_cards::table.filter(tiers).select((rate_cards::meter_id, rate_cards::period));
        let with_tiers: Vec<(i32, String)> = with_tiers.distinct().load(conn)?;
        let is_billing = |(_, period): &&(i32, String)| period == TierPeriod::Billing.name();
        let tiered_by_billing: Vec<i32> = with_tiers.iter().filter(is_billing).map(|(id, _)| *id).collect();
        // These too are counted by the month while an org has no billing period.
        let tiered: BTreeSet<i32> = with_tiers.iter().map(|(meter_id, _)| *meter_id).collect();
        let tiered = tiered.into_iter().collect();
        let slots = slots(conn)?;
        let first_whole_day = partitions::first_whole_day(conn)?;
        Ok(Self {
            additive,
            maxima,
            uniques,
            latest,
            levels,
            tiered,
            tiered_by_billing,
            slots,
            past_counters: false,
            first_whole_day,
            settings,
        })
    }

    #[must_use]
    pub fn slot_count(&self) -> usize {
        self.slots.len()
    }
}

fn slots(conn: &mut PgConnection) -> Result<Vec<SlotRule>, Error> {
    type SlotRow = (i32, i32, bool, String, bool, DateTime<Utc>);
    let rows: Vec<SlotRow> = quota_slots::table
        .select((
            quota_slots::slot_id,
            quota_slots::meter_id,
            quota_slots::per_subject,
            quota_slots::period,
            quota_slots::everywhere,
            quota_slots::created_at,
        ))
        .order(quota_slots::slot_id)
        .load(conn)?;
    let orgs: Vec<(i32, i64)> =
        quota_slot_orgs::table.select((quota_slot_orgs::slot_id, quota_slot_orgs::org_id)).load(conn)?;
    rows.into_iter()
        .map(|(slot_id, meter_id, per_subject, period, everywhere, created_at)| {
            let period = PeriodKind::parse(&period)
                .ok_or_else(|| Error::Internal(format!("quota slot {slot_id} has the period {period}")))?;
            let orgs = orgs.iter().filter(|(slot, _)| *slot == slot_id).map(|(_, org)| *org).collect();
            Ok(SlotRule { slot_id, meter_id, per_subject, period, created_at, everywhere, orgs })
        })
        .collect()
}
