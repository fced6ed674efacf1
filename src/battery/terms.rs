//! Terms: what plans and orgs say about batteries. Each process keeps them in memory with the limits of
//! quotas, under the catalogue's version. Owns `battery_settings`.

use std::collections::HashMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;

use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::schema::{battery_settings, plan_versions};

/// The terms of a version of a plan.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Units for each paid period.
    pub units: Decimal,
    /// Units for a paid year; `None`: `units`.
    pub annual_units: Option<Decimal>,
    /// Units for a trial; `None`: `units`.
    pub trial_units: Option<Decimal>,
    /// The allowance: units for each local day.
    pub daily: Decimal,
    /// How far below zero the battery may be used; `None`: no limit.
    pub debt_limit: Option<Decimal>,
}

/// The terms of all plans and orgs.
#[derive(Debug, Default)]
pub struct AllTerms {
    by_plan: HashMap<String, HashMap<i32, Terms>>,
    /// Debt limits that orgs have of their own.
    own_debt_limits: HashMap<i64, Option<Decimal>>,
}

type TermsRow = (String, i32, Decimal, Option<Decimal>, Option<Decimal>, Decimal, Option<Decimal>);

type Columns = (
    plan_versions::plan_id,
    plan_versions::version,
    plan_versions::battery_units,
    plan_versions::annual_battery_units,
    plan_versions::trial_battery_units,
    plan_versions::daily_battery,
    plan_versions::battery_debt_limit,
);
const COLUMNS: Columns = (
    plan_versions::plan_id,
    plan_versions::version,
    plan_versions::battery_units,
    plan_versions::annual_battery_units,
    plan_versions::trial_battery_units,
    plan_versions::daily_battery,
    plan_versions::battery_debt_limit,
);

impl AllTerms {
    /// Reads the terms of all plans and orgs.
    pub fn load(conn: &mut PgConnection) -> Result<Self, Error> {
        let rows = plan_versions::table.select(COLUMNS).load(conn)?;
        let settings =
            battery_settings::table.select((battery_settings::org_id, battery_settings::debt_limit));
        Ok(Self::from_rows(rows, settings.load(conn)?))
    }

    /// Reads the terms of one org and its plan only.
    pub fn load_for(conn: &mut PgConnection, org: &OrgContext) -> Result<Self, Error> {
        let rows = match &org.plan {
            Some(plan) => plan_versions::table.find((plan, org.plan_version)).select(COLUMNS).load(conn)?,
            None => Vec::new(),
        };
        let settings = battery_settings::table
            .find(org.org_id)
            .select((battery_settings::org_id, battery_settings::debt_limit));
        Ok(Self::from_rows(rows, settings.load(conn)?))
    }

    fn from_rows(rows: Vec<TermsRow>, settings: Vec<(i64, Option<Decimal>)>) -> Self {
        let mut all = Self { own_debt_limits: settings.into_iter().collect(), ..Self::default() };
        for (plan, version, units, annual_units, trial_units, daily, debt_limit) in rows {
            let terms = Terms { units, annual_units, trial_units, daily, debt_limit };
            all.by_plan.entry(plan).or_default().insert(version, terms);
        }
        all
    }

    /// Whether any plan has a daily allowance.
    #[must_use]
    pub fn any_daily(&self) -> bool {
        self.by_plan.values().flat_map(HashMap::values).any(|terms| terms.daily > Decimal::ZERO)
    }

    fn of_org(&self, org: &OrgContext) -> Option<&Terms> {
        self.of_version(org.plan.as_deref()?, org.plan_version)
    }

    /// The terms of a version of a plan.
    #[must_use]
    pub fn of_version(&self, plan: &str, version: i32) -> Option<&Terms> {
        self.by_plan.get(plan)?.get(&version)
    }

    /// The org's allowance of a local day; zero: it has none.
    #[must_use]
    pub fn daily(&self, org: &OrgContext) -> Decimal {
        self.of_org(org).map_or(Decimal::ZERO, |terms| terms.daily)
    }

    /// How far below zero the org's battery may be used; `None`: no limit. The org's own limit counts before
    /// that of its plan.
    #[must_use]
    pub fn debt_limit(&self, org: &OrgContext) -> Option<Decimal> {
        match self.own_debt_limits.get(&org.org_id) {
            Some(own) => *own,
            None => self.of_org(org)?.debt_limit,
        }
    }
}
