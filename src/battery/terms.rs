//! What plans and orgs say of batteries, held in memory with the limits of quotas, under the catalogue's
//! version. Owns `battery_settings`.

use std::collections::HashMap;

use diesel::pg::PgConnection;
use diesel::prelude::*;
use rust_decimal::Decimal;

use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::schema::{battery_settings, plan_versions};

/// What a version of a plan says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    /// Units for each paid period.
    pub units: Decimal,
    /// In their place for a paid year.
    pub annual_units: Option<Decimal>,
    /// In their place for a trial.
    pub trial_units: Option<Decimal>,
    /// Units for each local day.
    pub daily: Decimal,
    /// How far below zero the battery may be used; none: without limit.
    pub debt_limit: Option<Decimal>,
}

/// All of it.
#[derive(Debug, Default)]
pub struct AllTerms {
    of_plan: HashMap<String, HashMap<i32, Terms>>,
    /// Debt limits that orgs have of their own.
    of_org: HashMap<i64, Option<Decimal>>,
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
    /// Reads all of it.
    pub fn load(conn: &mut PgConnection) -> Result<Self, Error> {
        let rows = plan_versions::table.select(COLUMNS).load(conn)?;
        let settings =
            battery_settings::table.select((battery_settings::org_id, battery_settings::debt_limit));
        Ok(Self::of_rows(rows, settings.load(conn)?))
    }

    /// Reads what concerns one org, for whoever is asked about it alone.
    pub fn load_for(conn: &mut PgConnection, org: &OrgContext) -> Result<Self, Error> {
        let rows = match &org.plan {
            Some(plan) => plan_versions::table.find((plan, org.plan_version)).select(COLUMNS).load(conn)?,
            None => Vec::new(),
        };
        let settings = battery_settings::table
            .find(org.org_id)
            .select((battery_settings::org_id, battery_settings::debt_limit));
        Ok(Self::of_rows(rows, settings.load(conn)?))
    }

    fn of_rows(rows: Vec<TermsRow>, settings: Vec<(i64, Option<Decimal>)>) -> Self {
        let mut all = Self { of_org: settings.into_iter().collect(), ..Self::default() };
        for (plan, version, units, annual_units, trial_units, daily, debt_limit) in rows {
            let terms = Terms { units, annual_units, trial_units, daily, debt_limit };
            all.of_plan.entry(plan).or_default().insert(version, terms);
        }
        all
    }

    /// Whether any plan has a daily allowance.
    #[must_use]
    pub fn any_daily(&self) -> bool {
        self.of_plan.values().flat_map(HashMap::values).any(|terms| terms.daily > Decimal::ZERO)
    }

    /// What the org's plan says.
    #[must_use]
    pub fn of(&self, org: &OrgContext) -> Option<&Terms> {
        self.of_plan.get(org.plan.as_deref()?)?.get(&org.plan_version)
    }

    /// What a version of a plan says.
    #[must_use]
    pub fn of_plan(&self, plan: &str, version: i32) -> Option<&Terms> {
        self.of_plan.get(plan)?.get(&version)
    }

    /// The allowance of a day.
    #[must_use]
    pub fn daily(&self, org: &OrgContext) -> Decimal {
        self.of(org).map_or(Decimal::ZERO, |terms| terms.daily)
    }

    /// How far below zero the org's battery may be used; none: without limit.
    #[must_use]
    pub fn debt_limit(&self, org: &OrgContext) -> Option<Decimal> {
        match self.of_org.get(&org.org_id) {
            Some(own) => *own,
            None => self.of(org)?.debt_limit,
        }
    }
}
