//! Checks, a dry run: would this usage fit under every limit now? Nothing is set aside or written. Checks
//! that arrive together share one query.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::limit_status::{
    BatteryStatus, LimitStatus, RequestedUsage, applicable_limits, battery_units, limited_meter,
    no_such_meter, reach,
};
use super::orgs::Orgs;
use super::rulebook::Rulebook;
use super::{QuotaContext, reservations};
use crate::battery::terms::AllTerms;
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::error::Error;
use crate::group_commit::{Session, Work};
use crate::metering::catalog;
use crate::metering::counters::{self, CounterKey, Counts};
use crate::metering::meters::Meter;
use crate::panics;
use crate::quantity::Quantity;

/// The questions of one request; each may name another org.
pub type CheckItems = Vec<(OrgRef, RequestedUsage)>;

/// Why an org may use nothing.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OrgRefusal {
    /// `org_suspended`, `org_archived` or `org_erased`.
    pub code: &'static str,
    /// The reason, for people.
    pub detail: String,
}

/// The answer to one item.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Verdict {
    /// Whether the org may use anything, it fits under every hard limit, and the battery holds enough.
    pub allowed: bool,
    /// Why the org may use nothing at all: it is suspended or archived.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<OrgRefusal>,
    /// Public id of the org.
    pub org: String,
    /// Key of the meter.
    pub meter: String,
    /// What was asked for.
    pub amount: Quantity,
    /// How the org stands under each limit; empty: nothing limits this.
    pub quotas: Vec<LimitStatus>,
    /// How its battery stands, where the usage burns any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub battery: Option<BatteryStatus>,
}

pub(super) struct CheckWork(pub(super) Arc<QuotaContext>);

impl Work for CheckWork {
    type Input = CheckItems;
    type Output = Result<Vec<Verdict>, Error>;

    fn run(
        &mut self,
        session: &mut Session,
        requests: &mut [CheckItems],
    ) -> Result<Vec<Self::Output>, Error> {
        let (conn, requests) = (session.connection()?, &*requests);
        requests
            .iter()
            .for_each(|request| panics::panic_if_test_asks("quota-reader", || format!("{request:?}")));
        let items = || requests.iter().flatten();
        let orgs = Orgs::find(conn, &self.0.directory, items().map(|(org, _)| org))?;
        let now = self.0.clock.now();
        self.0.rules.while_unchanged(conn, |conn, rules| {
            let questions = Questions { rules, orgs: &orgs, now };
            let batteries = read_batteries(conn, &rules.limits.battery, &questions.burning(items()), now)?;
            let (version, counts) = read_counters(conn, rules, &questions.counters(items()), &orgs, now)?;
            let state = CurrentState { questions, counts, batteries };
            let verdicts = || requests.iter().map(|items| state.verdicts(items)).collect();
            Ok((version == rules.version()).then(verdicts))
        })
    }
}

/// What decides which counters and batteries the items are about.
struct Questions<'a> {
    rules: &'a Rulebook,
    orgs: &'a Orgs,
    now: DateTime<Utc>,
}

impl<'a> Questions<'a> {
    /// Org and meter of an item; `None`: there is no such org or meter.
    fn find(&self, (org, usage): &(OrgRef, RequestedUsage)) -> Option<(&'a OrgContext, &'a Meter)> {
        Some((self.orgs.get(org)?, limited_meter(&self.rules.catalog, &usage.meter)?))
    }

    /// The counters of limits that the items may meet.
    fn counters<'i>(
        &self,
        items: impl Iterator<Item = &'i (OrgRef, RequestedUsage)>,
    ) -> BTreeSet<CounterKey> {
        let limits = items.filter_map(|item| {
            let (org, meter) = self.find(item)?;
            Some(applicable_limits(self.rules, org, meter.meter_id, &item.1, self.now))
        });
        let limits = limits.flatten().filter(|limit| limit.limit.is_some());
        limits.flat_map(|limit| limit.keys().collect::<Vec<_>>()).collect()
    }

    /// The orgs whose battery the items would burn from.
    fn burning<'i>(
        &self,
        items: impl Iterator<Item = &'i (OrgRef, RequestedUsage)>,
    ) -> BTreeMap<i64, &'a OrgContext> {
        let burning = items.filter_map(|item| {
            let (org, meter) = self.find(item)?;
            let units = battery_units(&self.rules.catalog, org, meter.meter_id, &item.1, self.now).ok()?;
            (!units.is_zero()).then_some((org.org_id, org))
        });
        burning.collect()
    }
}

/// Reads counters, and in the same statement the catalogue's version. Overdue reservations do not count.
pub(super) fn read_counters(
    conn: &mut PgConnection,
    rules: &Rulebook,
    keys: &BTreeSet<CounterKey>,
    orgs: &Orgs,
    now: DateTime<Utc>,
) -> Result<(i64, Counts), Error> {
    if keys.is_empty() {
        return Ok((catalog::version(conn)?, BTreeMap::new()));
    }
    let mut ranges = reach(&rules.catalog, keys);
    let (version, mut counts) = if ranges.is_empty() {
        counters::read_with_version(conn, keys)?
    } else {
        ranges.extend(keys.iter().map(|key| (key.clone(), key.clone())));
        counters::read_ranges_with_version(conn, &ranges)?
    };
    if counts.values().any(|count| !count.reserved.is_zero()) {
        for row in reservations::overdue(conn, &orgs.ids(), now)? {
            for key in &row.counters {
                if let Some(count) = counts.get_mut(key) {
                    count.reserved = count.reserved - row.amount;
                }
            }
        }
    }
    Ok((version, counts))
}

/// Reads the batteries of these orgs, with today's allowance. Overdue reservations do not count.
pub(super) fn read_batteries(
    conn: &mut PgConnection,
    terms: &AllTerms,
    orgs: &BTreeMap<i64, &OrgContext>,
    now: DateTime<Utc>,
) -> Result<Accounts, Error> {
    if orgs.is_empty() {
        return Ok(Accounts::default());
    }
    let mut accounts = Accounts::read(conn, orgs.keys().copied().collect(), Depth::Live, now)?;
    for org_id in orgs.keys() {
        accounts.add_empty(*org_id);
    }
    accounts.grant_allowances(orgs.values().copied(), terms, now);
    if accounts.iter_mut().any(|account| !account.reserved().is_zero()) {
        for row in reservations::overdue(conn, &orgs.keys().copied().collect(), now)? {
            if let Some(account) = accounts.get_mut(row.org_id) {
                account.release(row.battery_units);
            }
        }
    }
    Ok(accounts)
}

/// What checks are decided by.
struct CurrentState<'a> {
    questions: Questions<'a>,
    counts: Counts,
    batteries: Accounts,
}

impl CurrentState<'_> {
    fn verdicts(&self, items: &CheckItems) -> Result<Vec<Verdict>, Error> {
        items.iter().enumerate().map(|(n, (org, usage))| self.verdict(n, org, usage)).collect()
    }

    fn verdict(&self, n: usize, org: &OrgRef, usage: &RequestedUsage) -> Result<Verdict, Error> {
        let Questions { rules, orgs, now } = self.questions;
        let unknown_org = || Error::UnknownOrg(format!("items.{n}.org").into());
        let org = orgs.get(org).ok_or_else(unknown_org)?;
        let meter = limited_meter(&rules.catalog, &usage.meter)
            .ok_or_else(|| no_such_meter(format!("items.{n}.meter"), &usage.meter))?;
        let limits = applicable_limits(rules, org, meter.meter_id, usage, now);
        let units = battery_units(&rules.catalog, org, meter.meter_id, usage, now)?;
        let account = self.batteries.get(org.org_id).filter(|_| !units.is_zero());
        let debt_limit = rules.limits.battery.debt_limit(org);
        let holds = account.is_none_or(|account| account.fits(units, debt_limit));
        let refusal = org.standing.refusal();
        Ok(Verdict {
            allowed: refusal.is_none()
                && holds
                && limits.iter().all(|limit| limit.fits(&self.counts, usage.amount)),
            refused: refusal.map(|(code, detail)| OrgRefusal { code, detail }),
            org: org.public_id.to_string(),
            meter: meter.key.clone(),
            amount: Quantity(usage.amount),
            quotas: limits.iter().filter_map(|limit| limit.status(meter, org, &self.counts)).collect(),
            battery: account.map(|account| BatteryStatus::new(account, debt_limit, units)),
        })
    }
}
