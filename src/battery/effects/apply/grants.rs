//! Makes the grants of a source.

use chrono::TimeDelta;
use rust_decimal::Decimal;

use super::{Posting, store};
use crate::battery::effects::model::facts::PaidAmount;
use crate::battery::effects::model::{Expiry, GrantClawbacks, LineGrant, SaleSource, SourceDecision};
use crate::battery::{Account, NewGrant};

impl Posting {
    pub(super) fn make_grants(&mut self, account: &mut Account, one: &SourceDecision<'_>) {
        let paid = one.facts.paid();
        for grant in &one.decision.grants {
            self.make_grant(account, one.source, &paid, grant);
        }
    }

    /// Records the line also where it grants nothing, so that it is not decided again.
    fn make_grant(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        paid: &PaidAmount,
        grant: &LineGrant,
    ) {
        let number = (grant.units > Decimal::ZERO).then(|| {
            let number = account.grant_for_now(self.new_grant(source, grant), self.now);
            self.clawbacks.insert((account.org_id, number), GrantClawbacks::new(grant.units, paid.minor));
            self.new_grants.entry(source.clone()).or_default().push(number);
            number
        });
        self.new_effects.push(store::EffectRow {
            grant_number: number,
            what: grant.kind.name(),
            units: grant.units,
            plan_id: grant.plan.as_ref().map(|(plan, _)| plan.clone()),
            plan_version: grant.plan.as_ref().map(|(_, version)| *version),
            pack_id: grant.pack.clone(),
            subscription_id: grant.subscription.clone(),
            price_id: grant.price.clone(),
            quantity: grant.quantity,
            period_start: grant.period.map(|(start, _)| start),
            period_end: grant.period.map(|(_, end)| end),
            ..store::EffectRow::new(source, &grant.line, account.org_id, paid, self.now)
        });
    }

    fn new_grant(&self, source: &SaleSource, grant: &LineGrant) -> NewGrant {
        let expires_at = match grant.expiry {
            Expiry::Never => None,
            Expiry::At(at) => Some(at),
            Expiry::Days(days) => Some(self.now + TimeDelta::days(i64::from(days))),
        };
        NewGrant {
            source: grant.source,
            key: source.grant_key(&grant.line),
            amount: grant.units,
            priority: grant.priority,
            effective_at: grant.effective_at,
            expires_at,
            link: Some(source.link()),
            reason: None,
            actor: None,
        }
    }
}
