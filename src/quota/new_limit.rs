//! Limits as a request or a plans file gives them, for an org or a plan.

use std::collections::BTreeMap;

use serde::Deserialize;
use utoipa::ToSchema;

use super::define::SlotDefinition;
use super::limits::{self, Enforcement, LimitTerms};
use super::plan_quotas::at_place;
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
    #[serde(deserialize_with = "limits::must_be_given")]
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
    pub fn split(self) -> Result<(Option<String>, SlotDefinition, LimitTerms), Error> {
        let Self { org, meter, filter, per_subject, period, limit, enforcement, refuse_usage, thresholds } =
            self;
        let enforcement = enforcement.unwrap_or(Enforcement::Hard);
        let mut terms = LimitTerms { limit, enforcement, refuse_usage, thresholds };
        terms.check()?;
        Ok((org, SlotDefinition { meter, filter, per_subject, period }, terms))
    }
}

/// The limits of a plan, checked.
///
/// # Errors
/// [`Error::Invalid`] naming the place in the list.
pub fn plan_limits(limits: Vec<NewLimit>) -> Result<Vec<(SlotDefinition, LimitTerms)>, Error> {
    if limits.len() > 100 {
        return Err(Error::invalid("quotas", "must be at most 100"));
    }
    let of_plan = |limit: NewLimit| match limit.split()? {
        (None, definition, terms) => Ok((definition, terms)),
        (Some(_), ..) => Err(Error::invalid("org", "is not for plans: leave it out")),
    };
    let checked = |(n, limit)| of_plan(limit).map_err(|error| at_place(n, error));
    limits.into_iter().enumerate().map(checked).collect()
}
