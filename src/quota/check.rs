//! Checks: may this be used? Nothing changes. Checks that come together share one query.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::group_commit::Work;
use super::limit_status::{self, Ask, Battery, LimitStatus};
use super::limits::Limits;
use super::orgs::Orgs;
use super::quantity::Quantity;
use super::{Rulebook, reservations};
use crate::battery::terms::AllTerms;
use crate::battery::{Accounts, Depth};
use crate::billing::directory::OrgContext;
use crate::billing::org_name::OrgRef;
use crate::error::Error;
use crate::metering::catalog::{self, Catalog};
use crate::metering::counters::{self, Count, CounterKey};
use crate::panics;

/// What is asked: each item may name another org.
pub type Items = Vec<(OrgRef, Ask)>;

/// The answer to one item.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Verdict {
    /// Whether it fits under every hard limit, and the battery holds enough.
    pub allowed: bool,
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
    pub battery: Option<Battery>,
}

pub(super) struct Checks(pub(super) Arc<Rulebook>);

impl Work<Items, Vec<Verdict>> for Checks {
    fn run(
        &self,
        conn: &mut PgConnection,
        jobs: &[Items],
    ) -> Result<Vec<Result<Vec<Verdict>, Error>>, Error> {
        jobs.iter().for_each(|job| panics::panic_if_test_asks("quota-reader", || format!("{job:?}")));
        let orgs = Orgs::find(conn, &self.0.directory, jobs.iter().flatten().map(|(org, _)| org))?;
        let now = self.0.clock.now();
        self.0.while_unchanged(conn, |conn, (catalog, limits)| {
            let keys = keys(catalog, limits, &orgs, jobs, now);
            let accounts = asked(conn, catalog, limits, &orgs, jobs, now)?;
            let (version, counts) = look(conn, &keys, &orgs, now)?;
            let book = CheckRules { catalog, limits, orgs: &orgs, counts: &counts, accounts: &accounts, now };
            let verdicts = || jobs.iter().map(|items| book.verdicts(items)).collect();
            Ok((version == catalog.version).then(verdicts))
        })
    }
}

/// The counters that matter to these checks.
fn keys(
    catalog: &Catalog,
    limits: &Limits,
    orgs: &Orgs,
    jobs: &[Items],
    now: DateTime<Utc>,
) -> BTreeSet<CounterKey> {
    let mut keys = BTreeSet::new();
    for (org, ask) in jobs.iter().flatten() {
        if let (Some(org), Some(meter)) = (orgs.get(org), limit_status::meter(catalog, &ask.meter)) {
            let at = (ask.dimensions.as_slice(), ask.subject.as_deref());
            let applying = limit_status::applying(catalog, limits, org, meter.meter_id, at, now);
            keys.extend(applying.into_iter().filter(|at| at.limit.is_some()).map(|at| at.key));
        }
    }
    keys
}

/// The catalogue's version, and counters as they are but for overdue reservations, which count no longer.
pub(super) fn look(
    conn: &mut PgConnection,
    keys: &BTreeSet<CounterKey>,
    orgs: &Orgs,
    now: DateTime<Utc>,
) -> Result<(i64, BTreeMap<CounterKey, Count>), Error> {
    if keys.is_empty() {
        return Ok((catalog::version(conn)?, BTreeMap::new()));
    }
    let (version, mut counts) = counters::read_with_version(conn, keys)?;
    if counts.values().any(|count| !count.reserved.is_zero()) {
        for row in reservations::overdue(conn, &orgs.ids(), now)? {
            for key in &row.held {
                if let Some(count) = counts.get_mut(key) {
                    count.reserved = count.reserved - row.amount;
                }
            }
        }
    }
    Ok((version, counts))
}

/// The batteries that matter to these checks.
fn asked(
    conn: &mut PgConnection,
    catalog: &Catalog,
    limits: &Limits,
    orgs: &Orgs,
    jobs: &[Items],
    now: DateTime<Utc>,
) -> Result<Accounts, Error> {
    let mut burning: BTreeMap<i64, &OrgContext> = BTreeMap::new();
    for (org, ask) in jobs.iter().flatten() {
        if let (Some(org), Some(meter)) = (orgs.get(org), limit_status::meter(catalog, &ask.meter))
            && limit_status::battery_units(catalog, org, meter.meter_id, ask, now)
                .is_ok_and(|units| !units.is_zero())
        {
            burning.insert(org.org_id, org);
        }
    }
    batteries(conn, &limits.battery, &burning, now)
}

/// The batteries of these orgs, with today's allowance, as they are but for overdue reservations.
pub(super) fn batteries(
    conn: &mut PgConnection,
    terms: &AllTerms,
    burning: &BTreeMap<i64, &OrgContext>,
    now: DateTime<Utc>,
) -> Result<Accounts, Error> {
    if burning.is_empty() {
        return Ok(Accounts::default());
    }
    let mut accounts = Accounts::read(conn, burning.keys().copied().collect(), Depth::Live, now)?;
    for org_id in burning.keys() {
        accounts.ensure(*org_id);
    }
    accounts.allow(burning.values().copied(), terms, now);
    if accounts.iter_mut().any(|account| !account.reserved().is_zero()) {
        for row in reservations::overdue(conn, &burning.keys().copied().collect(), now)? {
            if let Some(account) = accounts.get_mut(row.org_id) {
                account.release(row.battery_units);
            }
        }
    }
    Ok(accounts)
}

/// What checks are decided by.
struct CheckRules<'a> {
    catalog: &'a Catalog,
    limits: &'a Limits,
    orgs: &'a Orgs,
    counts: &'a BTreeMap<CounterKey, Count>,
    accounts: &'a Accounts,
    now: DateTime<Utc>,
}

impl CheckRules<'_> {
    fn verdicts(&self, items: &Items) -> Result<Vec<Verdict>, Error> {
        items.iter().enumerate().map(|(n, (org, ask))| self.verdict(n, org, ask)).collect()
    }

    fn verdict(&self, n: usize, org: &OrgRef, ask: &Ask) -> Result<Verdict, Error> {
        let unknown = || Error::UnknownOrg(format!("items.{n}.org").into());
        let context = self.orgs.get(org).ok_or_else(unknown)?;
        let meter = limit_status::meter(self.catalog, &ask.meter).ok_or_else(|| {
            let rule = format!(
                "`{}` is no meter of kind sum, count or level that counts: /v1/meters lists them",
                ask.meter
            );
            Error::invalid(format!("items.{n}.meter"), rule)
        })?;
        let at = (ask.dimensions.as_slice(), ask.subject.as_deref());
        let applying =
            limit_status::applying(self.catalog, self.limits, context, meter.meter_id, at, self.now);
        let count = |key: &CounterKey| self.counts.get(key).copied().unwrap_or_default();
        let units = limit_status::battery_units(self.catalog, context, meter.meter_id, ask, self.now)?;
        let account = self.accounts.get(context.org_id).filter(|_| !units.is_zero());
        let debt_limit = self.limits.battery.debt_limit(context);
        let holds = account.is_none_or(|account| account.fits(units, debt_limit));
        Ok(Verdict {
            allowed: holds && applying.iter().all(|at| at.fits(count(&at.key), ask.amount)),
            org: context.public_id.to_string(),
            meter: meter.key.clone(),
            amount: Quantity(ask.amount),
            quotas: applying.iter().filter_map(|at| at.standing(meter, context, count(&at.key))).collect(),
            battery: account.map(|account| Battery::of(account, debt_limit, units)),
        })
    }
}
