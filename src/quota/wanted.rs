//! Limits as somebody wants them, for an org or a plan.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::define::Counted;
use super::limits::{self, Enforcement, Terms};
use crate::error::Error;
use crate::metering::slots::PeriodKind;
use crate::quantity::{Percent, Quantity, QuantityFromZero};

/// What a limit of an org or a plan is to be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLimit {
    /// Public or external id of the org. For quotas of orgs only.
    #[serde(default)]
    pub org: Option<String>,
    /// Key of the meter: one of kind `sum`, `count` or `level`.
    pub meter: String,
    /// Dimension to value: only usage that has them all. Empty: all usage of the meter.
    #[serde(default)]
    pub filter: BTreeMap<String, String>,
    /// One counter, and so one limit, for each subject.
    #[serde(default)]
    pub per_subject: bool,
    /// How long a counter runs.
    pub period: PeriodKind,
    /// The limit; null: no limit. 0 allows nothing.
    #[serde(deserialize_with = "limits::given")]
    #[schema(required, value_type = Option<QuantityFromZero>)]
    pub limit: Option<Quantity>,
    /// `hard` (when left out): what does not fit is refused. `soft`: it is recorded as overage.
    #[serde(default)]
    pub enforcement: Option<Enforcement>,
    /// Refuse usage over the limit when it is reported; otherwise it is recorded as overage. For hard limits
    /// only.
    #[serde(default)]
    pub refuse_usage: bool,
    /// Percent of the limit, above 0 and at most 1000, at most 10 of them; reaching one sends a message, once
    /// a period.
    #[serde(default)]
    #[schema(value_type = Vec<Percent>, max_items = 10)]
    pub thresholds: Vec<Quantity>,
}

impl NewLimit {
    /// The org that it names, what it counts, and its terms.
    ///
    /// # Errors
    /// [`Error::Invalid`] for terms that contradict each other.
    pub fn split(self) -> Result<(Option<String>, Counted, Terms), Error> {
        let Self { org, meter, filter, per_subject, period, limit, enforcement, refuse_usage, thresholds } =
            self;
        let enforcement = enforcement.unwrap_or(Enforcement::Hard);
        let mut terms = Terms { limit, enforcement, refuse_usage, thresholds };
        terms.check()?;
        Ok((org, Counted { meter, filter, per_subject, period }, terms))
    }
}

/// The limits of a plan as they are put, checked.
///
/// # Errors
/// [`Error::Invalid`] naming the place in the list.
pub fn limits_of_plan(limits: Vec<NewLimit>) -> Result<Vec<(Counted, Terms)>, Error> {
    if limits.len() > 100 {
        return Err(Error::invalid("quotas", "must be at most 100"));
    }
    let split = |(n, limit): (usize, NewLimit)| {
        let at = |field: &str| format!("quotas.{n}.{field}");
        let (org, counted, terms) = limit.split().map_err(|error| match error {
            Error::Invalid { field, rule } => Error::invalid(at(&field), rule),
            other => other,
        })?;
        match org {
            None => Ok((counted, terms)),
            Some(_) => Err(Error::invalid(at("org"), "is not for plans: leave it out")),
        }
    };
    limits.into_iter().enumerate().map(split).collect()
}
