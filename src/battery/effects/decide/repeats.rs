//! Repeats: periods that several invoices sold. Each period is granted once. Pure.
//!
//! Two invoices repeat each other if org, subscription item, price, period and quantity are the same. Of
//! those the one counts that keeps the most units: `units × what was paid and not returned ÷ what was paid`.
//! If they keep the same, the one counts that was paid first. The others wait, so that somebody sees that the
//! period was paid for twice. When the one that counts is voided or refunded, the next one counts.
//!
//! Other items, quantities, prices and periods are sales of their own, such as a cycle that begins anew in
//! the middle of a period. Prorations are not compared: who changes to and fro with one `proration_date` buys
//! the same part again.
//!
//! Two invoices for one period come from a replacement that is paid beside the original
//! (<https://github.com/useautumn/autumn/pull/3469>), and from an invoice that a retry makes again: a grant
//! whose key is the id of the invoice is then given twice
//! (<https://github.com/masumi-network/sokosumi/pull/3120>).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::returns;
use crate::battery::effects::model::facts::{Facts, Line};
use crate::battery::effects::model::line_keys::is_line_or_portion;
use crate::battery::effects::model::{Decision, LineWait, RepeatedLines, SaleSource, SourceKind, WaitReason};

/// What is granted once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct SoldPeriod {
    account: String,
    livemode: bool,
    org_id: i64,
    subscription: String,
    item: Option<String>,
    price: Option<String>,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
    quantity: i64,
}

/// One invoice that sold it.
#[derive(Debug)]
struct Seller<'a> {
    source: &'a SaleSource,
    /// Key of the line or portion.
    line: &'a str,
    units_kept: Decimal,
    /// When the invoice was paid and created.
    paid: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
}

/// The repeated lines of these sources, among what they did before and what they are about to do.
pub(crate) fn find<'a>(
    sources: impl IntoIterator<Item = (&'a SaleSource, &'a Facts, Option<&'a Decision>)>,
) -> BTreeMap<SaleSource, RepeatedLines> {
    let mut repeats: BTreeMap<SaleSource, RepeatedLines> = BTreeMap::new();
    let mut sellers: BTreeMap<SoldPeriod, Vec<Seller<'a>>> = BTreeMap::new();
    for (source, facts, decision) in sources {
        let Some(org_id) = facts.org().filter(|_| source.kind == SourceKind::Invoice) else { continue };
        let kept_share = kept_share(facts);
        let invoice = facts.invoice.as_ref();
        let paid = invoice.map(|invoice| (invoice.paid_at, invoice.created)).unwrap_or_default();
        let lines = facts.keyed_lines();
        for granted in granted_periods(facts, decision) {
            let mut keyed = lines.iter();
            let Some((key, line)) = keyed.find(|(key, _)| is_line_or_portion(granted.line, key)) else {
                continue;
            };
            if granted.units <= Decimal::ZERO || line.proration == Some(true) {
                continue;
            }
            if facts.waiting.iter().any(|waiting| waiting.dismissed && waiting.line == *key) {
                repeats.entry(source.clone()).or_default().insert(granted.line.to_owned(), None);
                continue;
            }
            let subscription = line.subscription.clone().filter(|_| !facts.is_reversed());
            let Some(subscription) = subscription else { continue };
            let sold = SoldPeriod {
                account: source.realm.account.clone(),
                livemode: source.realm.livemode,
                org_id,
                subscription,
                item: line.item.clone(),
                price: line.price.clone(),
                start: granted.start,
                end: granted.end,
                quantity: granted.quantity,
            };
            let units_kept = granted.units.checked_mul(kept_share).unwrap_or(granted.units);
            sellers.entry(sold).or_default().push(Seller { source, line: granted.line, units_kept, paid });
        }
    }
    for mut sellers in sellers.into_values() {
        sellers.sort_by(|a, b| {
            b.units_kept.cmp(&a.units_kept).then_with(|| (a.paid, a.source).cmp(&(b.paid, b.source)))
        });
        let Some(first) = sellers.first().map(|first| first.source) else { continue };
        for other in sellers.iter().filter(|other| other.source != first) {
            let counts = Some(first.id.clone()).filter(|_| !other.units_kept.is_zero());
            repeats.entry(other.source.clone()).or_default().insert(other.line.to_owned(), counts);
        }
    }
    repeats
}

/// A whole period that a source granted or is about to grant.
struct GrantedPeriod<'a> {
    line: &'a str,
    units: Decimal,
    quantity: i64,
    start: DateTime<Utc>,
    end: DateTime<Utc>,
}

fn granted_periods<'a>(facts: &'a Facts, decision: Option<&'a Decision>) -> Vec<GrantedPeriod<'a>> {
    let before = facts.effects.iter().filter_map(|effect| {
        let (quantity, start, end) = (effect.quantity?, effect.start?, effect.end?);
        Some(GrantedPeriod { line: &effect.line, units: effect.units, quantity, start, end })
    });
    let new = decision.into_iter().flat_map(|decision| &decision.grants).filter_map(|grant| {
        let (start, end) = grant.period?;
        Some(GrantedPeriod { line: &grant.line, units: grant.units, quantity: grant.quantity, start, end })
    });
    before.chain(new).collect()
}

/// The share of what was paid that was not returned, from 0 to 1. Of a sale for nothing: 1.
pub(super) fn kept_share(facts: &Facts) -> Decimal {
    let paid = facts.paid().minor;
    if facts.is_reversed() {
        return Decimal::ZERO;
    }
    if paid <= 0 {
        return Decimal::ONE;
    }
    let returned = returns::causes(&facts.returned);
    let returned = returned.iter().map(|cause| cause.minor).fold(0, i64::saturating_add);
    Decimal::from(paid.saturating_sub(returned).max(0)) / Decimal::from(paid)
}

/// Lets repeated lines wait: those that would be granted again, and those that were granted before the
/// invoice came that counts.
pub(super) fn wait_in_place_of_repeats(facts: &Facts, decision: &mut Decision, repeats: &RepeatedLines) {
    decision.grants.retain(|grant| !repeats.contains_key(&grant.line));
    for (key, line) in facts.keyed_lines() {
        let mut repeats = repeats.iter();
        let counts = repeats
            .find_map(|(repeated, counts)| counts.as_ref().filter(|_| is_line_or_portion(repeated, &key)));
        if let Some(counts) = counts {
            decision.waits.push(wait(key, line, counts));
        }
    }
}

fn wait(key: String, line: &Line, counts: &str) -> LineWait {
    let detail = format!(
        "period already granted by invoice {counts}: this line counts when that one is voided or refunded; \
         where it was paid twice, refund this one, or dismiss this, and it never counts"
    );
    LineWait {
        line: key,
        reason: WaitReason::AlreadyGranted,
        detail,
        price: line.price.clone(),
        product: line.product.clone(),
        subscription: line.subscription.clone(),
    }
}
