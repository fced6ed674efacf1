//! Step 5, decisions → changed accounts, and rows that record what was done.
//!
//! [`grants`] makes grants, [`clawbacks`] takes units back or gives them again, [`store`] reads and writes
//! the rows of `battery_effects` and `battery_returns`. The accounts change in memory; the caller writes
//! them.

mod clawbacks;
mod grants;
mod store;

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use diesel::pg::PgConnection;

use super::model::{CauseKind, GrantClawbacks, SaleSource, SourceDecision};
use crate::battery::{Account, Accounts};
use crate::error::Error;

pub(crate) use store::load_clawbacks;

/// What step 6 has to follow up.
#[derive(Default)]
pub(super) struct Applied<'a> {
    pub(super) decisions: Vec<&'a SourceDecision<'a>>,
    /// Subscriptions with a new grant or a new waiting line. Lines of theirs that wait for a grant or a
    /// period may find it now.
    pub(super) subscriptions: BTreeSet<String>,
    /// Subscriptions whose grants changed. Unused time of theirs may belong to another grant now.
    pub(super) regranted: BTreeSet<String>,
    /// Sources that came to belong to another org since step 2. The battery of that org is not locked.
    pub(super) of_other_orgs: Vec<&'a SaleSource>,
}

/// Applies the decisions to the accounts, and stores what was done.
pub(super) fn apply<'a>(
    conn: &mut PgConnection,
    accounts: &mut Accounts,
    decisions: &'a [SourceDecision<'a>],
    now: DateTime<Utc>,
) -> Result<Applied<'a>, Error> {
    let mut posting = Posting::new(store::load_clawbacks(conn, &grants_of(decisions))?, now);
    // Grants first, then clawbacks: when one source loses the period that another one grants, the clawback
    // then finds the new units, and takes nothing else.
    for one in decisions {
        if let Some(account) = one.facts.org().and_then(|org| accounts.get_mut(org)) {
            posting.make_grants(account, one);
        }
    }
    let mut applied = Applied::default();
    let (losing, keeping): (Vec<_>, Vec<_>) = decisions.iter().partition(|one| one.loses);
    for one in keeping.into_iter().chain(losing) {
        let account = match one.facts.org() {
            Some(org) => match accounts.get_mut(org) {
                Some(account) => Some(account),
                None if one.facts.is_competitor => continue,
                None => {
                    applied.of_other_orgs.push(one.source);
                    continue;
                }
            },
            None if one.facts.is_competitor => continue,
            None => None,
        };
        applied.add(one);
        if let Some(account) = account
            && posting.apply_clawbacks(account, one)?
        {
            applied.regranted.extend(subscriptions_of(one));
        }
    }
    // A grant that was made after its end expires.
    accounts.iter_mut().for_each(|account| account.catch_up(now));
    posting.store(conn)?;
    Ok(applied)
}

impl<'a> Applied<'a> {
    fn add(&mut self, one: &'a SourceDecision<'a>) {
        let (facts, decision) = (one.facts, &one.decision);
        // Only a new wait counts: two waiting lines would else requeue each other for ever.
        let is_new = |line: &str| facts.waiting.iter().all(|waiting| waiting.line != line);
        if !decision.grants.is_empty() || decision.waits.iter().any(|wait| is_new(&wait.line)) {
            self.subscriptions.extend(subscriptions_of(one));
        }
        let grants = decision.grants.iter().filter(|grant| !grant.units.is_zero());
        self.regranted.extend(grants.filter_map(|grant| grant.subscription.clone()));
        self.decisions.push(one);
    }
}

fn subscriptions_of(one: &SourceDecision<'_>) -> impl Iterator<Item = String> {
    one.facts.lines.iter().filter_map(|line| line.subscription.clone())
}

/// A grant by its org and number.
type GrantPlace = (i64, i64);
pub(crate) type ClawbacksByGrant = BTreeMap<GrantPlace, GrantClawbacks>;

/// The grants that these decisions may change: those that the sources made or took from, and those that hold
/// the time of a proration.
fn grants_of(decisions: &[SourceDecision<'_>]) -> BTreeSet<GrantPlace> {
    let grants = decisions.iter().flat_map(|one| {
        let org = one.facts.org();
        let own = one.facts.effects.iter().filter_map(|effect| Some((effect.org_id, effect.grant?)));
        let overlapping = one.facts.lines.iter().flat_map(|line| &line.overlapping_grants);
        own.chain(overlapping.filter_map(move |grant| Some((org?, grant.number))))
    });
    grants.collect()
}

/// A cause whose amount changed at a grant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ChangedCause {
    grant: GrantPlace,
    kind: CauseKind,
    id: String,
}

/// Changes of this transaction that are not stored yet.
struct Posting {
    clawbacks: ClawbacksByGrant,
    /// Numbers of the grants that were made now, by source.
    new_grants: BTreeMap<SaleSource, Vec<i64>>,
    new_effects: Vec<store::EffectRow>,
    /// Effects whose units moved to another grant.
    moved_effects: Vec<store::EffectRow>,
    changed_causes: BTreeSet<ChangedCause>,
    /// Sources whose paid amount is another one now.
    changed_paid: Vec<(SaleSource, i64)>,
    now: DateTime<Utc>,
}

impl Posting {
    fn new(clawbacks: ClawbacksByGrant, now: DateTime<Utc>) -> Self {
        Self {
            clawbacks,
            new_grants: BTreeMap::new(),
            new_effects: Vec::new(),
            moved_effects: Vec::new(),
            changed_causes: BTreeSet::new(),
            changed_paid: Vec::new(),
            now,
        }
    }

    fn clawbacks_of(&mut self, account: &Account, grant: i64) -> Option<&mut GrantClawbacks> {
        self.clawbacks.get_mut(&(account.org_id, grant))
    }
}
