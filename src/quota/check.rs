//! Checks: may this be used? Nothing changes. Checks that come together share one query.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use serde::Serialize;
use utoipa::ToSchema;

use super::counters::{self, Count, CounterKey};
use super::lane::Work;
use super::limits::Limits;
use super::orgs::{OrgRef, Orgs};
use super::quantity::Quantity;
use super::standing::{self, Ask, Standing};
use super::{Parts, reservations};
use crate::error::Error;
use crate::usage::catalog::{self, Catalog};

/// What is asked: each item may name another org.
pub type Items = Vec<(OrgRef, Ask)>;

/// The answer to one item.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Verdict {
    /// Whether it fits under every hard limit.
    pub allowed: bool,
    /// Public id of the org.
    pub org: String,
    /// Key of the meter.
    pub meter: String,
    /// What was asked for.
    pub amount: Quantity,
    /// How the org stands under each limit; empty: nothing limits this.
    pub quotas: Vec<Standing>,
}

pub(super) struct Checks(pub(super) Arc<Parts>);

impl Work<Items, Vec<Verdict>> for Checks {
    fn run(
        &self,
        conn: &mut PgConnection,
        jobs: &[Items],
    ) -> Result<Vec<Result<Vec<Verdict>, Error>>, Error> {
        let orgs = Orgs::find(conn, &self.0.directory, jobs.iter().flatten().map(|(org, _)| org))?;
        let now = self.0.clock.now();
        let (mut catalog, mut limits) = match self.0.held() {
            Some(held) => held,
            None => self.0.refreshed(conn)?,
        };
        loop {
            let keys = keys(&catalog, &limits, &orgs, jobs, now);
            let (version, counts) = look(conn, &keys, &orgs, now)?;
            if version == catalog.version {
                let verdicts =
                    jobs.iter().map(|items| verdicts(&catalog, &limits, &orgs, &counts, items, now));
                return Ok(verdicts.collect());
            }
            (catalog, limits) = self.0.refreshed(conn)?;
        }
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
        if let (Some(org), Some(meter)) = (orgs.get(org), standing::meter(catalog, &ask.meter)) {
            let at = (ask.dimensions.as_slice(), ask.subject.as_deref());
            let applying = standing::applying(catalog, limits, org, meter.meter_id, at, now);
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
                    count.reserved -= row.amount;
                }
            }
        }
    }
    Ok((version, counts))
}

fn verdicts(
    catalog: &Catalog,
    limits: &Limits,
    orgs: &Orgs,
    counts: &BTreeMap<CounterKey, Count>,
    items: &Items,
    now: DateTime<Utc>,
) -> Result<Vec<Verdict>, Error> {
    let verdict = |(n, (org, ask)): (usize, &(OrgRef, Ask))| {
        let context = orgs.get(org).ok_or_else(|| {
            Error::invalid(format!("items.{n}.org"), "is no org here: use its public or external id")
        })?;
        let meter = standing::meter(catalog, &ask.meter).ok_or_else(|| {
            let rule = format!(
                "`{}` is no meter of kind sum or count that counts: /v1/meters lists them",
                ask.meter
            );
            Error::invalid(format!("items.{n}.meter"), rule)
        })?;
        let at = (ask.dimensions.as_slice(), ask.subject.as_deref());
        let applying = standing::applying(catalog, limits, context, meter.meter_id, at, now);
        let count = |key: &CounterKey| counts.get(key).copied().unwrap_or_default();
        Ok(Verdict {
            allowed: applying.iter().all(|at| at.fits(count(&at.key), ask.amount)),
            org: context.public_id.to_string(),
            meter: meter.key.clone(),
            amount: Quantity(ask.amount),
            quotas: applying.iter().filter_map(|at| at.standing(meter, context, count(&at.key))).collect(),
        })
    };
    items.iter().enumerate().map(verdict).collect()
}
