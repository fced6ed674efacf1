//! Limits: which ones hold for an org. They and the catalogue are the rulebook.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::battery::terms::AllTerms;
use crate::billing::directory::OrgContext;
use crate::billing::plans::{self, PlanVersion};
use crate::error::Error;
use crate::quantity::Quantity;
use crate::schema::{plan_quotas, quota_exemptions, quotas};

/// What a limit does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enforcement {
    /// What does not fit is refused.
    Hard,
    /// What does not fit is allowed and recorded as overage.
    Soft,
}

impl Enforcement {
    /// Its name in the database and on the wire.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Hard => "hard",
            Self::Soft => "soft",
        }
    }

    fn parse(name: &str) -> Result<Self, Error> {
        match name {
            "hard" => Ok(Self::Hard),
            "soft" => Ok(Self::Soft),
            _ => Err(Error::Internal(format!("a quota has the enforcement {name}"))),
        }
    }
}

/// Limit, enforcement, `refuse_usage` and thresholds, as `quotas` and `plan_quotas` have them.
pub(super) type LimitTermsRow = (Option<Decimal>, String, bool, Vec<Option<Decimal>>);

/// How much, and what then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[schema(as = Terms)]
pub struct LimitTerms {
    /// The limit; null: no limit. 0 allows nothing.
    #[serde(deserialize_with = "must_be_given")]
    #[schema(required)]
    pub limit: Option<Quantity>,
    /// `hard` when left out.
    #[serde(default = "hard")]
    pub enforcement: Enforcement,
    /// Refuse usage over the limit when it is reported; otherwise it is recorded as overage. For hard limits
    /// only.
    #[serde(default)]
    pub refuse_usage: bool,
    /// Percent of the limit, above 0 and at most 1000, at most 10 of them; reaching one sends a message, once
    /// a period.
    #[serde(default)]
    pub thresholds: Vec<Quantity>,
}

/// A field that may be null and must be given, so that "no limit" is never a forgotten field.
pub(super) fn must_be_given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Quantity>, D::Error> {
    Option::deserialize(from)
}

fn hard() -> Enforcement {
    Enforcement::Hard
}

impl LimitTerms {
    /// # Errors
    /// [`Error::Invalid`] naming the field.
    pub fn check(&mut self) -> Result<(), Error> {
        if self.limit.is_some_and(|limit| limit.0 < Decimal::ZERO) {
            return Err(Error::invalid("limit", "must be 0 or more, or null for no limit"));
        }
        if self.refuse_usage && self.enforcement == Enforcement::Soft {
            return Err(Error::invalid(
                "refuse_usage",
                "is for hard limits: make `enforcement` hard or leave it out",
            ));
        }
        self.thresholds.sort();
        self.thresholds.dedup();
        let possible = |percent: &Quantity| percent.0 > Decimal::ZERO && percent.0 <= Decimal::ONE_THOUSAND;
        if self.thresholds.len() > 10 || !self.thresholds.iter().all(possible) {
            return Err(Error::invalid(
                "thresholds",
                "must be at most 10 percentages, each above 0 and at most 1000",
            ));
        }
        Ok(())
    }

    /// The terms that a row of `quotas` or `plan_quotas` has.
    pub(super) fn from_row(
        (limit, enforcement, refuse_usage, thresholds): LimitTermsRow,
    ) -> Result<Self, Error> {
        Ok(Self {
            limit: limit.map(Quantity),
            enforcement: Enforcement::parse(&enforcement)?,
            refuse_usage,
            thresholds: thresholds.into_iter().flatten().map(Quantity).collect(),
        })
    }

    /// The thresholds as the column has them.
    pub(super) fn threshold_percents(&self) -> Vec<Decimal> {
        self.thresholds.iter().map(|percent| percent.0).collect()
    }
}

/// Where a limit comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// The org's own quota of that public id.
    Quota(String),
    Plan(String),
}

impl LimitSource {
    pub(super) fn quota(&self) -> Option<&String> {
        if let Self::Quota(id) = self { Some(id) } else { None }
    }

    pub(super) fn plan(&self) -> Option<&String> {
        if let Self::Plan(id) = self { Some(id) } else { None }
    }
}

/// A limit on a slot.
#[derive(Clone, Debug)]
pub struct Limit {
    pub source: LimitSource,
    pub terms: LimitTerms,
}

impl Limit {
    /// The quantity that must not be exceeded.
    #[must_use]
    pub fn hard_limit(&self) -> Option<Decimal> {
        self.terms.limit.filter(|_| self.terms.enforcement == Enforcement::Hard).map(|limit| limit.0)
    }

    /// The quantity over which reported usage is refused.
    #[must_use]
    pub fn refusing_limit(&self) -> Option<Decimal> {
        self.hard_limit().filter(|_| self.terms.refuse_usage)
    }
}

/// Every limit and exemption, and the terms of every plan: the part of the rulebook that limits usage.
#[derive(Debug, Default)]
pub struct Limits {
    pub battery: AllTerms,
    /// By org and slot.
    org_limits: HashMap<(i64, i32), Limit>,
    /// By plan, then by version and slot.
    plan_limits: HashMap<String, BTreeMap<(i32, i32), Limit>>,
    refusing_orgs: HashSet<i64>,
    refusing_plans: HashSet<String>,
    /// Exempt subjects by org and slot.
    exempt: HashMap<(i64, i32), HashSet<String>>,
    /// By plan, then by version.
    plans: HashMap<String, BTreeMap<i32, Arc<NamedVersion>>>,
}

/// A version of a plan, with what people call the plan.
#[derive(Debug)]
pub struct NamedVersion {
    pub name: String,
    pub version: PlanVersion,
}

impl Limits {
    /// The version of a plan that an org has.
    #[must_use]
    pub fn plan(&self, org: &OrgContext) -> Option<&Arc<NamedVersion>> {
        self.plans.get(org.plan.as_deref()?)?.get(&org.plan_version)
    }

    /// The limit that holds for an org on a slot: its own quota, else its plan's, else none.
    #[must_use]
    pub fn limit(&self, org: &OrgContext, slot_id: i32) -> Option<&Limit> {
        let of_plan = || self.plan_limits.get(org.plan.as_deref()?)?.get(&(org.plan_version, slot_id));
        self.org_limits.get(&(org.org_id, slot_id)).or_else(of_plan)
    }

    /// Whether limits on a slot leave out this subject of the org.
    #[must_use]
    pub fn is_exempt(&self, org_id: i64, slot_id: i32, subject: Option<&str>) -> bool {
        let exempt = self.exempt.get(&(org_id, slot_id));
        exempt.zip(subject).is_some_and(|(exempt, subject)| exempt.contains(subject))
    }

    /// Whether the battery of this org may refuse what it does not hold.
    #[must_use]
    pub fn battery_may_refuse(&self, org: &OrgContext) -> bool {
        self.battery.debt_limit(org).is_some()
    }

    /// Whether any quota of this org may refuse reported usage. If none may, [`super::enforce::enforce`] has
    /// nothing to decide.
    #[must_use]
    pub fn may_refuse(&self, org: &OrgContext) -> bool {
        self.refusing_orgs.contains(&org.org_id)
            || org.plan.as_ref().is_some_and(|plan| self.refusing_plans.contains(plan))
    }
}

impl Limits {
    /// Reads all of them; the caller has one snapshot, or the catalogue's lock.
    pub(super) fn read(conn: &mut PgConnection) -> Result<Self, Error> {
        let mut loaded = Self { battery: AllTerms::load(conn)?, ..Self::default() };
        loaded.read_quotas(conn)?;
        loaded.read_plan_quotas(conn)?;
        for (plan, name, version) in plans::all_versions(conn)? {
            let named = Arc::new(NamedVersion { name, version });
            loaded.plans.entry(plan).or_default().insert(named.version.version, named);
        }
        let columns = (quota_exemptions::org_id, quota_exemptions::slot_id, quota_exemptions::subject);
        let exempt: Vec<(i64, i32, String)> = quota_exemptions::table.select(columns).load(conn)?;
        for (org_id, slot_id, subject) in exempt {
            loaded.exempt.entry((org_id, slot_id)).or_default().insert(subject);
        }
        Ok(loaded)
    }

    fn read_quotas(&mut self, conn: &mut PgConnection) -> Result<(), Error> {
        let rows: Vec<(i64, i32, String, LimitTermsRow)> = quotas::table
            .select((
                quotas::org_id,
                quotas::slot_id,
                quotas::quota_id,
                (quotas::limit_quantity, quotas::enforcement, quotas::refuse_usage, quotas::thresholds),
            ))
            .load(conn)?;
        for (org_id, slot_id, quota_id, terms) in rows {
            let limit = Limit { source: LimitSource::Quota(quota_id), terms: LimitTerms::from_row(terms)? };
            if limit.refusing_limit().is_some() {
                self.refusing_orgs.insert(org_id);
            }
            self.org_limits.insert((org_id, slot_id), limit);
        }
        Ok(())
    }

    fn read_plan_quotas(&mut self, conn: &mut PgConnection) -> Result<(), Error> {
        let rows: Vec<(String, (i32, i32), LimitTermsRow)> = plan_quotas::table
            .select((
                plan_quotas::plan_id,
                (plan_quotas::version, plan_quotas::slot_id),
                (
                    plan_quotas::limit_quantity,
                    plan_quotas::enforcement,
                    plan_quotas::refuse_usage,
                    plan_quotas::thresholds,
                ),
            ))
            .load(conn)?;
        for (plan, slot, terms) in rows {
            let limit =
                Limit { source: LimitSource::Plan(plan.clone()), terms: LimitTerms::from_row(terms)? };
            if limit.refusing_limit().is_some() {
                self.refusing_plans.insert(plan.clone());
            }
            self.plan_limits.entry(plan).or_default().insert(slot, limit);
        }
        Ok(())
    }
}
