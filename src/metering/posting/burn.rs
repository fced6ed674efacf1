//! What a batch burns of batteries: one ledger entry for each org, in the transaction that writes the
//! records.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;
use uuid::Uuid;

use crate::battery::terms::AllTerms;
use crate::battery::{Accounts, Depth, Note};
use crate::billing::directory::OrgContext;
use crate::error::Error;
use crate::metering::resolve::Usage;
use crate::quantity::Sum;

/// How a batch burns.
pub(crate) struct Burn<'a> {
    /// What plans allow a day; none: nothing is granted on the way.
    pub(crate) terms: Option<&'a AllTerms>,
    /// The accounts, where they had to be asked whether they hold enough.
    pub(crate) locked: Option<Accounts>,
    pub(crate) depth: Depth,
    /// The time of the entries.
    pub(crate) now: DateTime<Utc>,
}

/// A number that records and ledger entries of one transaction share. Of two transactions of the same
/// microsecond it differs by chance.
#[must_use]
pub(crate) fn batch(now: DateTime<Utc>) -> i64 {
    let random = i64::try_from(Uuid::now_v7().as_u128() & 0x7ff).expect("11 bits");
    (now.timestamp_micros() << 11) | random
}

/// The battery units of a usage event, on all its meters.
#[must_use]
pub(crate) fn units(usage: &Usage) -> Sum {
    usage.metered.iter().map(|metered| metered.battery_units).sum()
}

impl Burn<'_> {
    /// Burns the units of `usage`, one entry for each org; what is taken back is given back.
    pub(super) fn post(self, conn: &mut PgConnection, usage: &[&Usage], batch: i64) -> Result<(), Error> {
        let mut burned: BTreeMap<i64, Sum> = BTreeMap::new();
        let mut orgs: HashMap<i64, &OrgContext> = HashMap::new();
        for one in usage {
            let units = units(one);
            if !units.is_zero() {
                *burned.entry(one.org.org_id).or_default() += units;
                orgs.insert(one.org.org_id, &one.org);
            }
        }
        let mut accounts = match self.locked {
            Some(locked) => locked,
            None => {
                let mut accounts = Accounts::lock(conn, burned.keys().copied(), self.depth, self.now)?;
                if let Some(terms) = self.terms {
                    accounts.allow(orgs.values().copied(), terms, self.now);
                }
                accounts
            }
        };
        for (org_id, units) in burned {
            let account = accounts.get_mut(org_id);
            let account = account.ok_or_else(|| Error::Internal("a battery was not locked".to_owned()))?;
            account.forget_pending();
            account.use_up(units, Note { batch: Some(batch), ..Note::new("usage") }, self.now);
        }
        accounts.write(conn)
    }
}
