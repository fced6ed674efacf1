//! Offers: what a price buys, and how many units it grants for how much of a period. Pure.

use chrono::{Months, TimeDelta};
use rust_decimal::Decimal;

use crate::battery::effects::model::facts::{Line, Pack, Period, Version};
use crate::battery::effects::model::{EffectKind, Expiry, LineGrant, units_too_large};
use crate::battery::grants::GrantSource;
use crate::error::Error;
use crate::money::round_units;
use crate::quantity::is_bounded;

/// A paid period longer than this is a year.
const YEAR_FROM: TimeDelta = TimeDelta::days(300);
const HOUR_S: i64 = 3_600;
const DAY_S: i64 = 24 * HOUR_S;

#[derive(Clone, Debug)]
pub(super) enum Offer {
    /// The id of a plan, and its version.
    Plan(String, Version),
    Pack(Pack),
}

/// Units for a part of a period.
pub(super) type Portion = (Period, Decimal);

impl Offer {
    /// Units for `part` of the period `full`, by the share of the time. A plan that is paid for a year and
    /// has no units for a year is granted month by month, counted from the start of the year; everything else
    /// is one portion.
    pub(super) fn portions(&self, quantity: i64, full: Period, part: Period) -> Result<Vec<Portion>, Error> {
        let length = full.end - full.start;
        let (units, is_monthly) = match self {
            Self::Plan(_, version) => {
                (version.units_for(length), length > YEAR_FROM && version.annual.is_none())
            }
            Self::Pack(pack) => (pack.units, false),
        };
        let whole = multiply(units, quantity)?;
        if !is_monthly {
            return Ok(vec![(part, share(whole, part, full)?)]);
        }
        let month_start = |n| full.start.checked_add_months(Months::new(n)).unwrap_or(full.end);
        let mut portions = Vec::new();
        for n in 0_u32.. {
            let month = Period { start: month_start(n), end: month_start(n + 1) };
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

    /// Units for a whole period of what the line buys. Of a year that is granted month by month: those of a
    /// month.
    pub(super) fn units_of_whole_period(&self, line: &Line) -> Result<Decimal, Error> {
        let full = line.full_period.or(line.period()).filter(|full| full.start < full.end);
        let Some(full) = full else { return Ok(Decimal::ZERO) };
        let quantity = line.quantity_or_one().max(0);
        match self {
            Self::Plan(..) => {
                let portions = self.portions(quantity, full, full)?;
                Ok(portions.first().map_or(Decimal::ZERO, |(_, units)| *units))
            }
            Self::Pack(pack) => multiply(pack.units, quantity),
        }
    }

    /// A grant for a prorated line.
    pub(super) fn prorated_grant(
        &self,
        key: &str,
        line: &Line,
        quantity: i64,
        (period, units): Portion,
    ) -> LineGrant {
        match self {
            Self::Plan(plan, version) => LineGrant {
                kind: EffectKind::Proration,
                quantity,
                ..plan_grant(key, line, (plan.clone(), version.version), units, period)
            },
            Self::Pack(pack) => LineGrant {
                subscription: line.subscription.clone(),
                price: line.price.clone(),
                period: Some((period.start, period.end)),
                ..pack_grant(key, pack, quantity, units)
            },
        }
    }

    /// Whether it is a pack.
    pub(super) fn is_pack(&self) -> bool {
        matches!(self, Self::Pack(_))
    }

    /// Whether both are plans, or both the same pack: then units of one are set against units of the other.
    pub(super) fn is_comparable(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plan(..), Self::Plan(..)) => true,
            (Self::Pack(a), Self::Pack(b)) => a.id == b.id,
            _ => false,
        }
    }

    /// Plan and version; `None` for a pack.
    pub(super) fn plan(&self) -> Option<(String, i32)> {
        match self {
            Self::Plan(plan, version) => Some((plan.clone(), version.version)),
            Self::Pack(_) => None,
        }
    }

    /// The id of the plan or pack, for sentences.
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Plan(plan, _) => plan,
            Self::Pack(pack) => pack.id.as_deref().unwrap_or_default(),
        }
    }
}

impl Version {
    fn units_for(&self, length: TimeDelta) -> Decimal {
        self.annual.filter(|_| length > YEAR_FROM).unwrap_or(self.units)
    }
}

/// A grant for a period of a plan. It expires with the period.
pub(super) fn plan_grant(
    key: &str,
    line: &Line,
    plan: (String, i32),
    units: Decimal,
    period: Period,
) -> LineGrant {
    LineGrant {
        line: key.to_owned(),
        kind: EffectKind::Subscription,
        units,
        source: GrantSource::Subscription,
        priority: None,
        effective_at: None,
        expiry: Expiry::At(period.end),
        plan: Some(plan),
        pack: None,
        subscription: line.subscription.clone(),
        price: line.price.clone(),
        quantity: line.quantity_or_one(),
        period: Some((period.start, period.end)),
    }
}

/// A grant for so many packs, of no period.
pub(super) fn pack_grant(key: &str, pack: &Pack, quantity: i64, units: Decimal) -> LineGrant {
    LineGrant {
        line: key.to_owned(),
        kind: EffectKind::Pack,
        units,
        source: GrantSource::Purchase,
        priority: pack.priority,
        effective_at: None,
        expiry: pack.days.map_or(Expiry::Never, Expiry::Days),
        plan: None,
        pack: pack.id.clone(),
        subscription: None,
        price: None,
        quantity,
        period: None,
    }
}

pub(super) fn multiply(units: Decimal, quantity: i64) -> Result<Decimal, Error> {
    let product = units.checked_mul(Decimal::from(quantity)).map(round_units);
    product.filter(|units| is_bounded(*units)).ok_or_else(units_too_large)
}

/// The share of `part` in `whole`, counted in whole hours: the instants of one change (of the line, of the
/// invoice, of the payment) lie seconds apart, and the parts of a period must sum up to the period. Periods
/// of less than a day are counted in seconds.
fn share(units: Decimal, part: Period, whole: Period) -> Result<Decimal, Error> {
    let seconds = |period: Period| (period.end - period.start).num_seconds();
    let unit = if seconds(whole) >= DAY_S { HOUR_S } else { 1 };
    let length = |period: Period| Decimal::from((seconds(period) + unit / 2) / unit);
    let product = units.checked_mul(length(part)).and_then(|units| units.checked_div(length(whole)));
    product.map(round_units).filter(|units| is_bounded(*units)).ok_or_else(units_too_large)
}
