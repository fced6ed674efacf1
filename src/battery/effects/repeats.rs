//! Periods that several invoices sold: each is granted once. Pure.
//!
//! Of one org, subscription item, price, period and quantity nobody holds more than one sale of them comes
//! to: `units × what was settled and did not come back ÷ what was settled`, of the invoice where that is
//! most; where it is the same, of the one that was paid first. The others wait, so that somebody sees that
//! the period was paid for twice; when the one that counts is voided or refunded, the next one does. Other
//! items, quantities, prices and periods (a cycle that begins anew in the middle of a period) are sales of
//! their own. Parts of a period are not compared: who changes to and fro with one `proration_date` buys the
//! same part again.
//!
//! Two invoices for one period come of a replacement that is paid beside the original
//! (<https://github.com/useautumn/autumn/pull/3469>), and of an invoice that is made again by a retry: grants
//! that are told apart by the id of the invoice alone are then given twice
//! (<https://github.com/masumi-network/sokosumi/pull/3120>).

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

use super::bought::is_of;
use super::decide::line_keys;
use super::facts::{Facts, Line};
use super::model::{self, Outcome, Reason, Wait};
use super::{Kind, SaleSource};

/// Lines of sources (by their claims) that another invoice stands for: its id, or none where nobody needs to
/// know, as somebody has dismissed the line or all of it came back.
pub(super) type Repeats = BTreeMap<SaleSource, BTreeMap<String, Option<String>>>;

/// What is granted once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Sale {
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

/// One invoice's sale of it.
#[derive(Debug)]
struct Sold<'a> {
    source: &'a SaleSource,
    /// The line as it is claimed.
    claim: &'a str,
    held: Decimal,
    /// When it was paid and made.
    since: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
}

/// What of these sources is a repetition: of what they came to before, and of what they come to now.
pub(super) fn repeats<'a>(
    judged: impl IntoIterator<Item = (&'a SaleSource, &'a Facts, Option<&'a Outcome>)>,
) -> Repeats {
    let mut repeats = Repeats::new();
    let mut sales: BTreeMap<Sale, Vec<Sold<'a>>> = BTreeMap::new();
    for (source, facts, outcome) in judged {
        let Some(org_id) = model::org_of(facts).filter(|_| source.kind == Kind::Invoice) else { continue };
        let share = share(facts);
        let invoice = facts.invoice.as_ref();
        let since = invoice.map(|invoice| (invoice.paid_at, invoice.created)).unwrap_or_default();
        let keys = line_keys(&facts.lines);
        for (claim, units, quantity, start, end) in claimed(facts, outcome) {
            let Some((key, line)) = keys.iter().zip(&facts.lines).find(|(key, _)| is_of(claim, key)) else {
                continue;
            };
            if units <= Decimal::ZERO || line.proration == Some(true) {
                continue;
            }
            let dismissed = facts.waiting.iter().any(|waiting| waiting.dismissed && waiting.line == *key);
            if dismissed {
                repeats.entry(source.clone()).or_default().insert(claim.to_owned(), None);
                continue;
            }
            let Some(subscription) = line.subscription.clone().filter(|_| !model::is_undone(facts)) else {
                continue;
            };
            let sale = Sale {
                account: source.realm.account.clone(),
                livemode: source.realm.livemode,
                org_id,
                subscription,
                item: line.item.clone(),
                price: line.price.clone(),
                start,
                end,
                quantity,
            };
            let held = units.checked_mul(share).unwrap_or(units);
            sales.entry(sale).or_default().push(Sold { source, claim, held, since });
        }
    }
    for mut sold in sales.into_values() {
        sold.sort_by(|a, b| b.held.cmp(&a.held).then_with(|| (a.since, a.source).cmp(&(b.since, b.source))));
        let Some(first) = sold.first().map(|first| first.source) else { continue };
        for other in sold.iter().filter(|other| other.source != first) {
            let lines = repeats.entry(other.source.clone()).or_default();
            let by = Some(first.id.clone()).filter(|_| !other.held.is_zero());
            lines.insert(other.claim.to_owned(), by);
        }
    }
    repeats
}

type Claimed<'a> = (&'a str, Decimal, i64, DateTime<Utc>, DateTime<Utc>);

/// Whole periods that the source granted or is about to grant.
fn claimed<'a>(facts: &'a Facts, outcome: Option<&'a Outcome>) -> Vec<Claimed<'a>> {
    let before = facts.claims.iter().filter_map(|claim| {
        Some((claim.line.as_str(), claim.units, claim.quantity?, claim.start?, claim.end?))
    });
    let new = outcome.into_iter().flat_map(|outcome| &outcome.grants).filter_map(|grant| {
        let (start, end) = grant.period?;
        Some((grant.line.as_str(), grant.units, grant.quantity, start, end))
    });
    before.chain(new).collect()
}

/// The share of a sale that was settled and did not come back.
pub(super) fn share(facts: &Facts) -> Decimal {
    let settled = model::settled(facts).0;
    if model::is_undone(facts) {
        return Decimal::ZERO;
    }
    if settled <= 0 {
        return Decimal::ONE;
    }
    let returned = facts.returned.iter().map(|cause| cause.minor).fold(0, i64::saturating_add);
    Decimal::from(settled.saturating_sub(returned).max(0)) / Decimal::from(settled)
}

/// Lets what would be granted again wait instead, and tells of what was granted before another invoice came.
pub(super) fn let_wait(facts: &Facts, outcome: &mut Outcome, lines: &BTreeMap<String, Option<String>>) {
    outcome.grants.retain(|grant| !lines.contains_key(&grant.line));
    let keys = line_keys(&facts.lines);
    for (key, line) in keys.iter().zip(&facts.lines) {
        let by = lines.iter().find_map(|(claim, by)| by.as_ref().filter(|_| is_of(claim, key)));
        if let Some(by) = by {
            outcome.waits.push(wait(key, line, by));
        }
    }
}

fn wait(key: &str, line: &Line, by: &str) -> Wait {
    let detail = format!(
        "period already granted by invoice {by}: this line counts when that one is voided or refunded; \
         where it was paid twice, refund this one, or dismiss this, and it never counts"
    );
    Wait {
        line: key.to_owned(),
        reason: Reason::AlreadyGranted,
        detail,
        price: line.price.clone(),
        product: line.product.clone(),
        subscription: line.subscription.clone(),
    }
}
