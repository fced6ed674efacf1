//! The lives of an org's subscriptions, as the database tells them: JSON of [`super::org_plan`]'s making,
//! read into what [`super::periods`] reckons with.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use serde::Deserialize;

use super::periods::{BillingPeriods, Known, Life, Told};
use super::plan_times::PlanTimes;
use crate::error::Error;

type At = DateTime<Utc>;

/// Microseconds since the epoch.
#[derive(Clone, Copy, Deserialize)]
struct Micros(i64);

impl Micros {
    /// The instant; what lies beyond those that there are is as far as can be.
    fn at(self) -> At {
        DateTime::from_timestamp_micros(self.0).unwrap_or(At::MAX_UTC)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Operation {
    Stripe(Stripe),
    Local(Local),
}

#[derive(Deserialize)]
struct Stripe {
    created: Option<Micros>,
    anchor: Option<Micros>,
    started: Option<Micros>,
    ended: Option<Micros>,
    until: Option<Micros>,
    ends_with_period: bool,
    goes_on: bool,
    /// Of the mode that does not act.
    idle: bool,
    /// Null: it never had any period.
    prices: Option<Vec<Price>>,
}

/// The periods of items of one price, in one order.
#[derive(Deserialize)]
struct Price {
    rank: Option<i32>,
    plan: Option<String>,
    starts: Vec<Micros>,
    ends: Vec<Micros>,
    item_numbers: Vec<i32>,
    first_seen: Vec<Micros>,
    last_seen: Vec<Micros>,
}

/// A plan that a local subscription had until an instant.
#[derive(Deserialize)]
struct Earlier {
    plan: String,
    until: Micros,
}

impl Price {
    fn known(self) -> impl Iterator<Item = Known> {
        let plan: Option<Arc<str>> = self.plan.map(Into::into);
        let (bounds, seen) =
            (self.starts.into_iter().zip(self.ends), self.first_seen.into_iter().zip(self.last_seen));
        bounds.zip(seen).zip(self.item_numbers).map(move |((bounds, seen), item_number)| Known {
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
struct Local {
    created: Micros,
    trial_end: Option<Micros>,
    start: Micros,
    valid_until: Micros,
    over: Micros,
    ended: Option<Micros>,
    months: i64,
    rank: Option<i32>,
    plan: String,
    earlier: Vec<Earlier>,
}

/// The periods and plans of an org whose subscriptions the database tells so; `None`: it never had any. Those
/// of the mode that does not act give no plan, and count as periods while the org has no other: whoever tries
/// Coulomb with Stripe's test mode sees the periods, and neither plan nor money.
///
/// # Errors
/// When the text is not of [`super::org_plan`]'s making.
pub(super) fn of_org(
    told: Option<&str>,
    by_default: Option<Arc<str>>,
) -> Result<(BillingPeriods, PlanTimes), Error> {
    let rows: Vec<Operation> = serde_json::from_str(told.unwrap_or("[]"))
        .map_err(|error| Error::Internal(format!("subscriptions of an org cannot be read: {error}")))?;
    let (idle, acting): (Vec<Operation>, Vec<Operation>) = rows.into_iter().partition(Operation::is_idle);
    let acting: Vec<Life> = acting.into_iter().map(Life::from).collect();
    let plans = PlanTimes::new(&acting, by_default);
    let lives = if acting.is_empty() { idle.into_iter().map(Life::from).collect() } else { acting };
    Ok((BillingPeriods::of(lives), plans))
}

impl Operation {
    fn is_idle(&self) -> bool {
        matches!(self, Self::Stripe(row) if row.idle)
    }
}

impl From<Operation> for Life {
    fn from(row: Operation) -> Self {
        match row {
            Operation::Stripe(row) => row.into(),
            Operation::Local(row) => row.into(),
        }
    }
}

impl From<Stripe> for Life {
    fn from(row: Stripe) -> Self {
        let known: Vec<Known> = row.prices.into_iter().flatten().flat_map(Price::known).collect();
        let newest = known.iter().filter(|known| known.rank.is_some()).max_by_key(|known| known.start);
        let rank = newest.and_then(|known| known.rank);
        Self {
            known,
            anchor: row.anchor.map(Micros::at),
            started: row.started.map(Micros::at),
            ended: row.ended.map(Micros::at),
            goes_on: row.goes_on,
            until: row.until.map(Micros::at),
            ends_with_period: row.ends_with_period && row.until.is_none(),
            told: Vec::new(),
            plan: None,
            earlier_plans: Vec::new(),
            precedence: (rank, true, row.created.map(Micros::at)),
        }
    }
}

impl From<Local> for Life {
    /// A trial from its creation, then whole intervals up to what is paid for and the days of grace: when it
    /// is paid for late, they are what was paid for.
    fn from(row: Local) -> Self {
        let (created, valid_until) = (row.created.at(), row.valid_until.at());
        let trial_end = row.trial_end.map_or(created, Micros::at);
        let mut told = Vec::new();
        if created < trial_end {
            told.push(Told { start: created, end: trial_end, months: None });
        }
        let first_paid = if trial_end < valid_until { row.start.at() } else { valid_until };
        if first_paid < row.over.at() {
            told.push(Told { start: first_paid, end: row.over.at(), months: Some(row.months) });
        }
        Self {
            told,
            plan: Some(row.plan.into()),
            earlier_plans: row.earlier.into_iter().map(|had| (had.plan.into(), had.until.at())).collect(),
            ended: row.ended.map(Micros::at),
            precedence: (row.rank, false, Some(created)),
            ..Self::default()
        }
    }
}
