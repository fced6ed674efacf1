//! Limits: which ones hold for an org, held in memory under the catalogue's version.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, PoisonError, RwLock};

use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::quantity::Quantity;
use crate::battery::terms::AllTerms;
use crate::billing::directory::OrgContext;
use crate::billing::plans::{self, PlanVersion};
use crate::error::Error;
use crate::metering::catalog;
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

/// How much, and what then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Terms {
    /// The limit; null: no limit. 0 allows nothing.
    #[serde(deserialize_with = "given")]
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

/// An `Option` that must be written, so that "no limit" is never a field forgotten.
fn given<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<Quantity>, D::Error> {
    Option::deserialize(from)
}

fn hard() -> Enforcement {
    Enforcement::Hard
}

impl Terms {
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

    /// The terms of a row.
    pub(super) fn of_row(
        limit: Option<Decimal>,
        enforcement: &str,
        refuse_usage: bool,
        thresholds: Vec<Option<Decimal>>,
    ) -> Result<Self, Error> {
        Ok(Self {
            limit: limit.map(Quantity),
            enforcement: Enforcement::parse(enforcement)?,
            refuse_usage,
            thresholds: thresholds.into_iter().flatten().map(Quantity).collect(),
        })
    }
}

/// Where a limit comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// The org's own quota of that public id.
    Quota(String),
    Plan(String),
}

/// A limit on a slot.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Where it comes from.
    pub source: LimitSource,
    /// How much, and what then.
    pub terms: Terms,
}

impl Limit {
    /// The quantity that must not be exceeded.
    #[must_use]
    pub fn hard(&self) -> Option<Decimal> {
        self.terms.limit.filter(|_| self.terms.enforcement == Enforcement::Hard).map(|limit| limit.0)
    }

    /// The quantity over which reported usage is refused.
    #[must_use]
    pub fn refusing(&self) -> Option<Decimal> {
        self.hard().filter(|_| self.terms.refuse_usage)
    }
}

/// Every limit and exemption, and the terms of every plan, at one version of the catalogue.
#[derive(Debug, Default)]
pub struct Limits {
    pub version: i64,
    /// What plans and orgs say of batteries.
    pub battery: AllTerms,
    of_org: HashMap<(i64, i32), Limit>,
    /// By plan, version and slot.
    of_plan: HashMap<String, BTreeMap<(i32, i32), Limit>>,
    refusing_orgs: HashSet<i64>,
    refusing_plans: HashSet<String>,
    exempt: HashMap<(i64, i32), HashSet<String>>,
    /// By plan and version.
    plans: HashMap<String, BTreeMap<i32, Arc<HeldPlan>>>,
}

/// A plan in one of its versions.
#[derive(Debug)]
pub struct HeldPlan {
    /// What people call the plan.
    pub name: String,
    pub version: PlanVersion,
}

impl Limits {
    /// The version of a plan that an org has.
    #[must_use]
    pub fn plan(&self, org: &OrgContext) -> Option<&Arc<HeldPlan>> {
        self.plans.get(org.plan.as_deref()?)?.get(&org.plan_version)
    }

    /// The limit that holds for an org on a slot: its own quota, else its plan's, else none.
    #[must_use]
    pub fn of(&self, org: &OrgContext, slot_id: i32) -> Option<&Limit> {
        let of_plan = || self.of_plan.get(org.plan.as_deref()?)?.get(&(org.plan_version, slot_id));
        self.of_org.get(&(org.org_id, slot_id)).or_else(of_plan)
    }

    /// Whether limits on a slot do not hold this subject of the org.
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

    /// Whether any quota of this org may refuse reported usage. False: [`super::enforce::admit`] need not be
    /// asked.
    #[must_use]
    pub fn may_refuse(&self, org: &OrgContext) -> bool {
        self.refusing_orgs.contains(&org.org_id)
            || org.plan.as_ref().is_some_and(|plan| self.refusing_plans.contains(plan))
    }
}

/// The limits as this process last saw them.
#[derive(Default)]
pub struct LimitsCache(RwLock<Arc<Limits>>);

impl LimitsCache {
    /// What is held. Version 0: nothing was loaded yet.
    #[must_use]
    pub fn get(&self) -> Arc<Limits> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Loads what the database has, unless a newer one is held already. Not inside a transaction.
    pub fn refresh(&self, conn: &mut PgConnection) -> Result<Arc<Limits>, Error> {
        let loaded = Arc::new(load(conn)?);
        let mut held = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if held.version < loaded.version {
            *held = loaded;
        }
        Ok(Arc::clone(&held))
    }
}

/// Reads all of it in one snapshot.
fn load(conn: &mut PgConnection) -> Result<Limits, Error> {
    type Settings = (Option<Decimal>, String, bool, Vec<Option<Decimal>>);
    let limit = |source, (limit, enforcement, refuse, thresholds): Settings| {
        Ok::<_, Error>(Limit { source, terms: Terms::of_row(limit, &enforcement, refuse, thresholds)? })
    };
    conn.build_transaction().repeatable_read().read_only().run(|conn| {
        let mut loaded =
            Limits { version: catalog::version(conn)?, battery: AllTerms::load(conn)?, ..Limits::default() };
        let own: Vec<(i64, i32, String, Settings)> = quotas::table
            .select((
                quotas::org_id,
                quotas::slot_id,
                quotas::quota_id,
                (quotas::limit_quantity, quotas::enforcement, quotas::refuse_usage, quotas::thresholds),
            ))
            .load(conn)?;
        for (org_id, slot_id, quota_id, settings) in own {
            let limit = limit(LimitSource::Quota(quota_id), settings)?;
            if limit.refusing().is_some() {
                loaded.refusing_orgs.insert(org_id);
            }
            loaded.of_org.insert((org_id, slot_id), limit);
        }
        let of_plans: Vec<(String, (i32, i32), Settings)> = plan_quotas::table
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
        for (plan, slot, settings) in of_plans {
            let limit = limit(LimitSource::Plan(plan.clone()), settings)?;
            if limit.refusing().is_some() {
                loaded.refusing_plans.insert(plan.clone());
            }
            loaded.of_plan.entry(plan).or_default().insert(slot, limit);
        }
        for (plan, name, version) in plans::all_versions(conn)? {
            let held = Arc::new(HeldPlan { name, version });
            loaded.plans.entry(plan).or_default().insert(held.version.version, held);
        }
        let exempt = (quota_exemptions::org_id, quota_exemptions::slot_id, quota_exemptions::subject);
        for (org_id, slot_id, subject) in
            quota_exemptions::table.select(exempt).load::<(i64, i32, String)>(conn)?
        {
            loaded.exempt.entry((org_id, slot_id)).or_default().insert(subject);
        }
        Ok(loaded)
    })
}
