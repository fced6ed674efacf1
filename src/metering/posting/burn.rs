//! Burns the battery units of a batch: one ledger entry for each org, in the transaction that writes the
//! records.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use uuid::Uuid;

use crate::battery::terms::AllTerms;
use crate::battery::{Accounts, Depth, Note};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::usage::Usage;
use crate::quantity::Sum;

/// How a batch burns batteries.
pub(crate) struct Burn<'a> {
    /// Daily allowances of plans, which are granted first; `None`: no allowance is granted.
    pub(crate) terms: Option<&'a AllTerms>,
    /// The accounts, when they are locked already because a battery may refuse usage.
    pub(crate) locked: Option<Accounts>,
    pub(crate) depth: Depth,
    /// The time of the entries.
    pub(crate) now: DateTime<Utc>,
}

/// A new number for the records and ledger entries of one transaction. Eleven random bits make it differ from
/// that of another transaction in the same microsecond.
#[must_use]
pub(crate) fn new_batch(now: DateTime<Utc>) -> i64 {
    let random = i64::try_from(Uuid::now_v7().as_u128() & 0x7ff).expect("11 bits");
    (now.timestamp_micros() << 11) | random
}

/// The battery units of a usage event on all its meters.
#[must_use]
pub(crate) fn units(usage: &Usage) -> Sum {
    usage.metered.iter().map(|metered| metered.battery_units).sum()
}

impl Burn<'_> {
    /// Burns the units of `usage`, one entry for each org. Negative units are given back.
    pub(super) fn post(self, conn: &mut PgConnection, usage: &[&Usage], batch: i64) -> Result<(), Error> {
        let mut burned: BTreeMap<i64, Sum> = BTreeMap::new();
        let mut orgs: HashMap<i64, &OrgContext> = HashMap::new();
        for usage in usage {
            let units = units(usage);
            if !units.is_zero() {
                *burned.entry(usage.org.org_id).or_default() += units;
                orgs.insert(usage.org.org_id, &usage.org);
            }
        }
        let mut accounts = match self.locked {
            Some(locked) => locked,
            None => {
                let mut accounts = Accounts::lock(conn, burned.keys().copied(), self.depth, self.now)?;
                if let Some(terms) = self.terms {
                    accounts.grant_allowances(orgs.values().copied(), terms, self.now);
                }
                accounts
            }
        };
        for (org_id, units) in burned {
            let account = accounts.get_mut(org_id);
            let account = account.ok_or_else(|| Error::Internal("a battery was not locked".to_owned()))?;
            account.clear_admitted();
            account.burn_usage(units, Note { batch: Some(batch), ..Note::new("usage") }, self.now);
        }
        accounts.write(conn)
    }
}
