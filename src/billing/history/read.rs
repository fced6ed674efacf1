//! Reads the histories of an org's subscriptions from the JSON that [`org_plan`](crate::billing::org_plan)
//! makes.

use std::sync::Arc;

use serde::Deserialize;

use super::{At, KnownPeriod, LocalPeriods, SubscriptionHistory};
use crate::billing::periods::BillingPeriods;
use crate::billing::plan_times::PlanTimes;
use crate::error::Error;

/// Microseconds since the epoch.
#[derive(Clone, Copy, Deserialize)]
struct UnixMicros(i64);

impl UnixMicros {
    /// The instant; the latest one possible if the number is out of range.
    fn at(self) -> At {
        At::from_timestamp_micros(self.0).unwrap_or(At::MAX_UTC)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum SubscriptionJson {
    Stripe(StripeJson),
    Local(LocalJson),
}

#[derive(Deserialize)]
struct StripeJson {
    created: Option<UnixMicros>,
    anchor: Option<UnixMicros>,
    started: Option<UnixMicros>,
    ended: Option<UnixMicros>,
    until: Option<UnixMicros>,
    ends_with_period: bool,
    goes_on: bool,
    /// It is in the mode that does not act (`COULOMB_STRIPE_MODE`).
    idle: bool,
    /// Null: no event showed a period.
    prices: Option<Vec<PricePeriods>>,
}

/// The periods of items of one price: one array for each column.
#[derive(Deserialize)]
struct PricePeriods {
    rank: Option<i32>,
    plan: Option<String>,
    starts: Vec<UnixMicros>,
    ends: Vec<UnixMicros>,
    item_numbers: Vec<i32>,
    first_seen: Vec<UnixMicros>,
    last_seen: Vec<UnixMicros>,
}

/// A plan that a local subscription had before.
#[derive(Deserialize)]
struct EarlierPlan {
    plan: String,
    until: UnixMicros,
}

impl PricePeriods {
    fn known_periods(self) -> impl Iterator<Item = KnownPeriod> {
        let plan: Option<Arc<str>> = self.plan.map(Into::into);
        let (bounds, seen) =
            (self.starts.into_iter().zip(self.ends), self.first_seen.into_iter().zip(self.last_seen));
        bounds.zip(seen).zip(self.item_numbers).map(move |((bounds, seen), item_number)| KnownPeriod {
            start: bounds.0.at(),
            end: bounds.1.at(),
            item_number,
            first_seen: seen.0.at(),
            last_seen: seen.1.at(),
            rank: self.rank,
            plan: plan.clone(),
        })
    }
}

#[derive(Deserialize)]
struct LocalJson {
    created: UnixMicros,
    trial_end: Option<UnixMicros>,
    start: UnixMicros,
    valid_until: UnixMicros,
    over: UnixMicros,
    ended: Option<UnixMicros>,
    months: i64,
    rank: Option<i32>,
    plan: String,
    earlier: Vec<EarlierPlan>,
}

/// The periods and plans of an org; `json` is `None` if it never had a subscription.
///
/// A subscription in the mode that does not act gives no plan. Its periods count only if the org has no other
/// subscription: somebody who tries Coulomb with Stripe's test mode sees periods, but neither plan nor money.
///
/// # Errors
/// When the text does not come from [`org_plan`](crate::billing::org_plan).
pub(in crate::billing) fn read(
    json: Option<&str>,
    by_default: Option<Arc<str>>,
) -> Result<(BillingPeriods, PlanTimes), Error> {
    let rows: Vec<SubscriptionJson> = serde_json::from_str(json.unwrap_or("[]"))
        .map_err(|error| Error::Internal(format!("subscriptions of an org cannot be read: {error}")))?;
    let (idle, acting): (Vec<SubscriptionJson>, Vec<SubscriptionJson>) =
        rows.into_iter().partition(SubscriptionJson::is_idle);
    let histories = |rows: Vec<SubscriptionJson>| -> Vec<SubscriptionHistory> {
        rows.into_iter().map(SubscriptionHistory::from).collect()
    };
    let acting = histories(acting);
    let plans = PlanTimes::new(&acting, by_default);
    let with_periods = if acting.is_empty() { histories(idle) } else { acting };
    Ok((BillingPeriods::new(&with_periods), plans))
}

impl SubscriptionJson {
    fn is_idle(&self) -> bool {
        matches!(self, Self::Stripe(row) if row.idle)
    }
}

impl From<SubscriptionJson> for SubscriptionHistory {
    fn from(row: SubscriptionJson) -> Self {
        match row {
            SubscriptionJson::Stripe(row) => row.into(),
            SubscriptionJson::Local(row) => row.into(),
        }
    }
}

impl From<StripeJson> for SubscriptionHistory {
    fn from(row: StripeJson) -> Self {
        let known_periods: Vec<KnownPeriod> =
            row.prices.into_iter().flatten().flat_map(PricePeriods::known_periods).collect();
        let newest =
            known_periods.iter().filter(|known| known.rank.is_some()).max_by_key(|known| known.start);
        let rank = newest.and_then(|known| known.rank);
        Self {
            known_periods,
            anchor: row.anchor.map(UnixMicros::at),
            started: row.started.map(UnixMicros::at),
            ended: row.ended.map(UnixMicros::at),
            goes_on: row.goes_on,
            until: row.until.map(UnixMicros::at),
            ends_with_period: row.ends_with_period && row.until.is_none(),
            local_periods: Vec::new(),
            plan: None,
            earlier_plans: Vec::new(),
            precedence: (rank, true, row.created.map(UnixMicros::at)),
        }
    }
}

impl From<LocalJson> for SubscriptionHistory {
    /// The trial begins when the subscription is created. Then whole intervals follow until the days of grace
    /// are over: a late payment pays for those days.
    fn from(row: LocalJson) -> Self {
        let (created, valid_until) = (row.created.at(), row.valid_until.at());
        let trial_end = row.trial_end.map_or(created, UnixMicros::at);
        let mut local_periods = Vec::new();
        if created < trial_end {
            local_periods.push(LocalPeriods { start: created, end: trial_end, months: None });
        }
        let first_paid = if trial_end < valid_until { row.start.at() } else { valid_until };
        if first_paid < row.over.at() {
            local_periods.push(LocalPeriods {
                start: first_paid,
                end: row.over.at(),
                months: Some(row.months),
            });
        }
        Self {
            local_periods,
            plan: Some(row.plan.into()),
            earlier_plans: row.earlier.into_iter().map(|had| (had.plan.into(), had.until.at())).collect(),
            ended: row.ended.map(UnixMicros::at),
            precedence: (row.rank, false, Some(created)),
            ..Self::default()
        }
    }
}
