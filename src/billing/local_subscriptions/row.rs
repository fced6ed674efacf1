//! One local subscription: its periods, its status at an instant, and the periods it is owed units for.

use chrono::{DateTime, Months, TimeDelta, Utc};
use diesel::prelude::*;
use serde::Serialize;
use utoipa::ToSchema;

use crate::schema::local_subscriptions as t;

/// A subscription of an org that does not pay through Stripe.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LocalSubscription {
    /// `lsub_…`
    pub id: String,
    /// The plan.
    pub plan: String,
    /// Its version.
    pub version: i32,
    /// `trial`, `active`, `past_due` (the days of grace after what was paid for), `expired` or `cancelled`.
    pub status: String,
    /// Months that a paid period lasts.
    pub interval_months: i32,
    /// When it began.
    pub created_at: DateTime<Utc>,
    /// End of its trial; null: it had none.
    pub trial_end: Option<DateTime<Utc>>,
    /// Start of the present period; of the last one when it is over.
    pub current_period_start: DateTime<Utc>,
    /// End of that period.
    pub current_period_end: DateTime<Utc>,
    /// Until when it is paid for, or on trial.
    pub valid_until: DateTime<Utc>,
    /// Whether it ends then as cancelled.
    pub cancel_at_period_end: bool,
    /// When it ended.
    pub ended_at: Option<DateTime<Utc>>,
}

/// A period for which a subscription is owed its plan's battery units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owed {
    /// Row id of the org.
    pub org_id: i64,
    /// `lsub_…`
    pub subscription_id: String,
    /// The plan that the subscription has now.
    pub plan_id: String,
    pub version: i32,
    /// Whether the period is the trial; else it is paid for.
    pub trial: bool,
    pub period_start: DateTime<Utc>,
    /// Before the end of a whole interval if the payment was for less.
    pub period_end: DateTime<Utc>,
    /// Months that a whole paid period lasts.
    pub interval_months: i32,
}

#[derive(Clone, Debug, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = t)]
pub(super) struct LocalSubscriptionRow {
    pub(super) org_id: i64,
    pub(super) subscription_id: String,
    pub(super) plan_id: String,
    pub(super) version: i32,
    pub(super) status: String,
    pub(super) interval_months: i32,
    pub(super) created_at: DateTime<Utc>,
    pub(super) trial_end: Option<DateTime<Utc>>,
    pub(super) period_start: DateTime<Utc>,
    pub(super) valid_until: DateTime<Utc>,
    pub(super) cancel_at_period_end: bool,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pub(super) grace_days: i32,
    pub(super) trial_plan_id: Option<String>,
}

impl LocalSubscriptionRow {
    /// Whether the stored status says that it is not over.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.status.as_str(), "trial" | "active")
    }

    /// When it is over if nobody pays: after the days of grace; a cancelled one has none.
    pub(super) fn over_at(&self) -> DateTime<Utc> {
        let grace = if self.cancel_at_period_end { 0 } else { self.grace_days };
        self.valid_until + TimeDelta::days(i64::from(grace))
    }

    /// The status at `now`, whether or not it is stored yet.
    pub(super) fn status_at(&self, now: DateTime<Utc>) -> &str {
        match self.is_open() && self.over_at() <= now {
            true if self.cancel_at_period_end => "cancelled",
            true => "expired",
            false if self.is_open() && self.valid_until <= now => "past_due",
            false => &self.status,
        }
    }

    /// When paid period `n` begins, counted from 0.
    pub(super) fn nth(&self, n: u32) -> Option<DateTime<Utc>> {
        let months = u32::try_from(self.interval_months).ok()?.checked_mul(n)?;
        self.period_start.checked_add_months(Months::new(months))
    }

    /// Its periods in order. Each: whether it is the trial, and `[start, end)`.
    pub(super) fn periods(&self) -> Vec<(bool, DateTime<Utc>, DateTime<Utc>)> {
        let mut periods = Vec::new();
        let trial_end = self.trial_end.unwrap_or(self.created_at);
        if self.created_at < trial_end {
            periods.push((true, self.created_at, trial_end));
        }
        // A trial that nobody paid for has no other period.
        if self.valid_until > trial_end {
            let starts = (0..).map_while(|n| self.nth(n)).take_while(|start| *start < self.valid_until);
            let paid = starts.zip((1..).map_while(|n| self.nth(n)));
            periods.extend(paid.map(|(start, end)| (false, start, end.min(self.valid_until))));
        }
        periods
    }

    /// The periods that had begun by `now`, and before it ended.
    pub(super) fn owed(&self, now: DateTime<Utc>) -> Vec<Owed> {
        let begun = |start: &DateTime<Utc>| *start <= now && self.ended_at.is_none_or(|ended| *start < ended);
        let owed = |(trial, period_start, period_end)| Owed {
            org_id: self.org_id,
            subscription_id: self.subscription_id.clone(),
            plan_id: self.plan_id.clone(),
            version: self.version,
            trial,
            period_start,
            period_end,
            interval_months: self.interval_months,
        };
        self.periods().into_iter().filter(|(_, start, _)| begun(start)).map(owed).collect()
    }

    /// The subscription at `now`, as the API shows it.
    pub(super) fn shown(self, now: DateTime<Utc>) -> LocalSubscription {
        let status = self.status_at(now).to_owned();
        let until = self.ended_at.unwrap_or(self.valid_until).min(now);
        // A period that begins at this instant is the present one, not the period that ends at it.
        let present = self.periods().into_iter().rfind(|(_, start, _)| *start <= until);
        let (_, start, end) = present.filter(|(_, start, _)| *start < self.valid_until).unwrap_or((
            false,
            self.period_start,
            self.valid_until,
        ));
        let ended_at =
            self.ended_at.or((status == "expired" || status == "cancelled").then(|| self.over_at()));
        LocalSubscription {
            id: self.subscription_id,
            plan: self.plan_id,
            version: self.version,
            status,
            interval_months: self.interval_months,
            created_at: self.created_at,
            trial_end: self.trial_end,
            current_period_start: start,
            current_period_end: end,
            valid_until: self.valid_until,
            cancel_at_period_end: self.cancel_at_period_end,
            ended_at,
        }
    }

    /// The end of the paid time after `periods` more intervals. If the paid time ends with an interval, they
    /// are counted from `period_start`: 31 January, 28 February, 31 March.
    pub(super) fn extended(&self, periods: u32) -> Option<DateTime<Utc>> {
        let whole = (0..).map_while(|n| Some((n, self.nth(n)?))).find(|(_, end)| *end >= self.valid_until);
        match whole {
            Some((n, end)) if end == self.valid_until => self.nth(n + periods),
            _ => {
                let months = u32::try_from(self.interval_months).ok()?.checked_mul(periods)?;
                self.valid_until.checked_add_months(Months::new(months))
            }
        }
    }
}
