//! What a price buys, and how many units that is for how much of a period. Pure.

use chrono::{DateTime, Months, TimeDelta, Utc};
use rust_decimal::Decimal;

use super::facts::{Line, Pack, Period, Version};
use super::model::{Expiry, NewClaim};
use crate::battery::grants;
use crate::error::Error;
use crate::money::round_units;
use crate::quantity::is_bounded;

/// A paid period longer than this is a year.
const YEAR_FROM: TimeDelta = TimeDelta::days(300);
const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 24 * HOUR_S;
/// Stands between the key of a line and the number of a portion of it.
const PORTION: char = '~';

/// A plan in a version, or a pack.
#[derive(Clone, Debug)]
pub(super) enum Bought {
    Plan(String, Version),
    Pack(Pack),
}

impl Bought {
    /// Units for `part` of the period `full`, portion by portion. A year of a plan without units for a year
    /// is granted month by month, counted from the start of the year; everything else in one portion, by the
    /// share of the time.
    pub(super) fn portions(
        &self,
        quantity: i64,
        full: Period,
        part: Period,
    ) -> Result<Vec<(Period, Decimal)>, Error> {
        let length = full.end - full.start;
        let (units, monthly) = match self {
            Self::Plan(_, version) => (version.of(length), length > YEAR_FROM && version.annual.is_none()),
            Self::Pack(pack) => (pack.units, false),
        };
        let whole = times(units, quantity)?;
        if !monthly {
            return Ok(vec![(part, share(whole, part, full)?)]);
        }
        let nth = |n| full.start.checked_add_months(Months::new(n)).unwrap_or(full.end);
        let mut portions = Vec::new();
        for n in 0_u32.. {
            let month = Period { start: nth(n), end: nth(n + 1) };
            if month.start >= part.end || month.start >= month.end {
                break;
            }
            let portion = Period { start: month.start.max(part.start), end: month.end.min(part.end) };
            if portion.start < portion.end {
                portions.push((portion, share(whole, portion, month)?));
            }
        }
        Ok(portions)
    }

    /// What the line is claimed as.
    pub(super) fn claim(
        &self,
        key: &str,
        line: &Line,
        quantity: i64,
        units: Decimal,
        period: Period,
    ) -> NewClaim {
        match self {
            Self::Plan(plan, version) => {
                NewClaim { quantity, ..of_plan(key, line, (plan.clone(), version.version), units, period) }
            }
            Self::Pack(pack) => NewClaim {
                subscription: line.subscription.clone(),
                price: line.price.clone(),
                period: Some((period.start, period.end)),
                ..of_pack(key, pack, quantity, units)
            },
        }
    }

    /// Plan and version, where it is one.
    pub(super) fn plan(&self) -> Option<(String, i32)> {
        match self {
            Self::Plan(plan, version) => Some((plan.clone(), version.version)),
            Self::Pack(_) => None,
        }
    }

    /// What people call it.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Plan(plan, _) => plan,
            Self::Pack(pack) => pack.id.as_deref().unwrap_or_default(),
        }
    }
}

impl Version {
    /// Units for a period of this length.
    fn of(&self, length: TimeDelta) -> Decimal {
        self.annual.filter(|_| length > YEAR_FROM).unwrap_or(self.units)
    }
}

/// The key of a portion of a line.
pub(super) fn portion_key(key: &str, n: usize) -> String {
    if n == 0 { key.to_owned() } else { format!("{key}{PORTION}{}", n + 1) }
}

/// Whether a claim's key is that of the line, or of a portion of it.
pub(super) fn is_of(claimed: &str, key: &str) -> bool {
    claimed.strip_prefix(key).is_some_and(|rest| rest.is_empty() || rest.starts_with(PORTION))
}

pub(super) fn of_plan(
    key: &str,
    line: &Line,
    plan: (String, i32),
    units: Decimal,
    period: Period,
) -> NewClaim {
    NewClaim {
        line: key.to_owned(),
        what: "subscription",
        units,
        source: grants::GrantSource::Subscription,
        priority: None,
        effective_at: None,
        expires: Expiry::At(period.end),
        plan: Some(plan),
        pack: None,
        subscription: line.subscription.clone(),
        price: line.price.clone(),
        quantity: line.quantity.unwrap_or(1),
        period: Some((period.start, period.end)),
    }
}

pub(super) fn of_pack(key: &str, pack: &Pack, quantity: i64, units: Decimal) -> NewClaim {
    NewClaim {
        line: key.to_owned(),
        what: "pack",
        units,
        source: grants::GrantSource::Purchase,
        priority: pack.priority,
        effective_at: None,
        expires: pack.days.map_or(Expiry::Never, Expiry::Days),
        plan: None,
        pack: pack.id.clone(),
        subscription: None,
        price: None,
        quantity,
        period: None,
    }
}

pub(super) fn times(units: Decimal, quantity: i64) -> Result<Decimal, Error> {
    let product = units.checked_mul(Decimal::from(quantity)).map(round_units);
    product.filter(|units| is_bounded(*units)).ok_or_else(too_large)
}

/// The share of the time, in whole hours: the instants of one change (the line's own, that of the invoice,
/// that of the payment) lie seconds apart, and what a period consists of is to sum up to it. Periods of less
/// than a day are told to the second.
fn share(units: Decimal, part: Period, whole: Period) -> Result<Decimal, Error> {
    let seconds = |period: Period| (period.end - period.start).num_seconds();
    let unit = if seconds(whole) >= DAY_S { HOUR_S } else { 1 };
    let length = |period: Period| Decimal::from((seconds(period) + unit / 2) / unit);
    let product = units.checked_mul(length(part)).and_then(|units| units.checked_div(length(whole)));
    product.map(round_units).filter(|units| is_bounded(*units)).ok_or_else(too_large)
}

pub(super) fn too_large() -> Error {
    Error::Internal("battery units are too large to be reckoned with".to_owned())
}

impl Period {
    /// Whether all of `part` lies in it.
    pub(super) fn covers(&self, part: Period) -> bool {
        self.start <= part.start && part.end <= self.end
    }

    /// Of a time.
    pub(super) fn of(start: DateTime<Utc>, end: DateTime<Utc>) -> Self {
        Self { start, end }
    }
}
