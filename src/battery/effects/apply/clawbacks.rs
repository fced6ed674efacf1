//! Takes units of grants back, and gives them again: unused time, repeated periods, reversed sales, returned
//! money.

use rust_decimal::Decimal;
use serde_json::Value;

use super::{ChangedCause, Posting, store};
use crate::battery::effects::model::clawbacks::CauseAmount;
use crate::battery::effects::model::facts::{LineEffect, PaidAmount};
use crate::battery::effects::model::{
    CauseKind, ClawbackCause, EffectKind, SaleSource, SourceDecision, UnusedTimeClawback,
};
use crate::battery::{Account, EntryKind, Note};
use crate::error::Error;

impl Posting {
    /// Applies everything of a source but its new grants. Returns whether one of its grants was reversed just
    /// now, or is valid again.
    pub(super) fn apply_clawbacks(
        &mut self,
        account: &mut Account,
        one: &SourceDecision<'_>,
    ) -> Result<bool, Error> {
        let SourceDecision { source, facts, decision, repeats, returned, .. } = one;
        let paid = facts.paid();
        if facts.effects.iter().any(|effect| effect.paid != paid.minor) {
            self.changed_paid.push(((*source).clone(), paid.minor));
        }
        let is_reversed = facts.is_reversed();
        for effect in facts.effects.iter().filter(|effect| effect.is_clawback()) {
            self.keep_unused_time(account, source, effect, is_reversed)?;
        }
        for clawback in &decision.clawbacks {
            self.claw_back_unused_time(account, source, &paid, clawback)?;
        }
        let mut has_changed = false;
        for effect in facts.effects.iter().filter(|effect| effect.is_grant()) {
            has_changed |= self.set_repeated(account, source, effect, repeats.get(&effect.line))?;
        }
        let made_before = facts.effects.iter().filter(|effect| effect.is_grant());
        let mut grants: Vec<i64> = made_before.filter_map(|effect| effect.grant).collect();
        grants.extend(self.new_grants.remove(*source).unwrap_or_default());
        for grant in grants {
            self.set_paid(account, source, grant, paid.minor)?;
            has_changed |= self.set_reversed(account, source, grant, is_reversed)?;
            self.set_returned(account, source, grant, returned)?;
        }
        Ok(has_changed)
    }

    /// Unused time that a line of the source clawed back before: it stays clawed back, unless nothing of the
    /// source is left.
    fn keep_unused_time(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        effect: &LineEffect,
        is_reversed: bool,
    ) -> Result<(), Error> {
        let Some(grant) = effect.grant else { return Ok(()) };
        let units = if is_reversed { Decimal::ZERO } else { -effect.units };
        let cause = source.grant_key(&effect.line);
        let amount = CauseAmount::from_units(units);
        self.set_cause(account, grant, (CauseKind::Proration, &cause), amount, &source.link())
    }

    /// Claws unused time back from the grant that holds it, and gives it back to the grant that lost it
    /// before.
    fn claw_back_unused_time(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        paid: &PaidAmount,
        clawback: &UnusedTimeClawback,
    ) -> Result<(), Error> {
        let key = source.grant_key(&clawback.line);
        let cause = (CauseKind::Proration, key.as_str());
        let link = source.link();
        if let Some(grant) = clawback.from_grant {
            self.set_cause(account, grant, cause, CauseAmount::default(), &link)?;
        }
        if let Some(grant) = clawback.grant {
            self.set_cause(account, grant, cause, CauseAmount::from_units(clawback.units), &link)?;
        }
        let effect = store::EffectRow {
            grant_number: clawback.grant,
            what: EffectKind::ProrationBack.name(),
            units: -clawback.units,
            plan_id: clawback.plan.as_ref().map(|(plan, _)| plan.clone()),
            plan_version: clawback.plan.as_ref().map(|(_, version)| *version),
            subscription_id: clawback.subscription.clone(),
            price_id: clawback.price.clone(),
            quantity: clawback.quantity,
            period_start: clawback.period.map(|(start, _)| start),
            period_end: clawback.period.map(|(_, end)| end),
            ..store::EffectRow::new(source, &clawback.line, account.org_id, paid, self.now)
        };
        if clawback.moves { &mut self.moved_effects } else { &mut self.new_effects }.push(effect);
        Ok(())
    }

    /// Claws a grant back whose period is repeated, or gives it again. `repeat`: the line is repeated, by
    /// that invoice.
    fn set_repeated(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        effect: &LineEffect,
        repeat: Option<&Option<String>>,
    ) -> Result<bool, Error> {
        let Some(grant) = effect.grant else { return Ok(false) };
        let units = if repeat.is_some() { effect.units } else { Decimal::ZERO };
        let invoice = repeat.and_then(Option::as_ref).unwrap_or(&source.id);
        let link = source.link_to(source.kind.name(), invoice);
        self.set_invoice_cause(account, grant, &source.repeated_period_cause(), units, &link)
    }

    /// Claws all of a grant back whose sale is reversed, or gives it again.
    fn set_reversed(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        grant: i64,
        is_reversed: bool,
    ) -> Result<bool, Error> {
        let Some(clawbacks) = self.clawbacks_of(account, grant) else { return Ok(false) };
        let units = if is_reversed { clawbacks.granted } else { Decimal::ZERO };
        self.set_invoice_cause(account, grant, &source.id, units, &source.link())
    }

    /// Returns whether the cause had other units before.
    fn set_invoice_cause(
        &mut self,
        account: &mut Account,
        grant: i64,
        id: &str,
        units: Decimal,
        link: &Value,
    ) -> Result<bool, Error> {
        let Some(clawbacks) = self.clawbacks_of(account, grant) else { return Ok(false) };
        let before = clawbacks.amount_of(CauseKind::Invoice, id).units;
        self.set_cause(account, grant, (CauseKind::Invoice, id), CauseAmount::from_units(units), link)?;
        Ok(before != units)
    }

    /// Counts returned money by what was paid for the source of the grant.
    fn set_paid(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        grant: i64,
        paid: i64,
    ) -> Result<(), Error> {
        let Some(clawbacks) = self.clawbacks_of(account, grant) else { return Ok(()) };
        let more = clawbacks.set_paid(paid)?;
        self.move_units(account, grant, more, source.kind.name(), &source.link())
    }

    /// Claws back the share of the money that was returned.
    fn set_returned(
        &mut self,
        account: &mut Account,
        source: &SaleSource,
        grant: i64,
        returned: &[ClawbackCause],
    ) -> Result<(), Error> {
        let Some(clawbacks) = self.clawbacks_of(account, grant) else { return Ok(()) };
        let is_changed =
            |cause: &&ClawbackCause| clawbacks.amount_of(cause.kind, &cause.id).minor != cause.minor;
        let changed: Vec<&ClawbackCause> = returned.iter().filter(is_changed).collect();
        if changed.len() > 1 && clawbacks.replace_causes(&changed)? {
            for cause in changed {
                self.note_changed(account, grant, cause.kind, &cause.id);
            }
            return Ok(());
        }
        for cause in changed {
            let link = source.link_to(cause.kind.name(), &cause.id);
            let amount = CauseAmount::from_money(cause.minor);
            self.set_cause(account, grant, (cause.kind, &cause.id), amount, &link)?;
        }
        Ok(())
    }

    /// Sets what a cause counts for at a grant, and moves the units that this makes a difference of.
    fn set_cause(
        &mut self,
        account: &mut Account,
        grant: i64,
        (kind, id): (CauseKind, &str),
        amount: CauseAmount,
        link: &Value,
    ) -> Result<(), Error> {
        let Some(clawbacks) = self.clawbacks_of(account, grant) else { return Ok(()) };
        let Some(more) = clawbacks.set_cause(kind, id, amount)? else { return Ok(()) };
        self.note_changed(account, grant, kind, id);
        self.move_units(account, grant, more, kind.name(), link)
    }

    fn note_changed(&mut self, account: &Account, grant: i64, kind: CauseKind, id: &str) {
        let grant = (account.org_id, grant);
        self.changed_causes.insert(ChangedCause { grant, kind, id: id.to_owned() });
    }

    /// Claws units of a grant back, or (below zero) gives them again.
    fn move_units(
        &self,
        account: &mut Account,
        grant: i64,
        more: Decimal,
        cause: &str,
        link: &Value,
    ) -> Result<(), Error> {
        let note = Note { link: Some(link.clone()), ..Note::new(cause) };
        if more > Decimal::ZERO {
            if !account.claw_back(grant, more, note, self.now) {
                return Err(Error::Internal(format!("grant {grant} of org {} is gone", account.org_id)));
            }
        } else if more < Decimal::ZERO {
            account.give_back(EntryKind::Clawback, -more, Some(grant), note, self.now);
        }
        Ok(())
    }
}
