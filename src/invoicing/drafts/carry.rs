//! Credit that is more than what an invoice charges.
//!
//! A downgrade may give back more than the next fee. An invoice below 0 is none: so credit items are set off
//! against what is charged at their own tax rate, the oldest first, and what is left of them waits as items
//! for the next invoice. The invoice then comes to 0, counts as paid, and the subscription goes on. Stripe
//! carries such a rest in the customer's invoice balance, and applies it to the next invoice
//! (docs.stripe.com/billing/customer/balance). Here it stays an item, so that its tax is given back on an
//! invoice, at its rate, and never as money without a document.
//!
//! A draft of credits alone waits for people (`total_below_zero`): it charges nothing that they could be set
//! off against. So does one whose usage is corrected by more than it charges: usage is no item.

use std::collections::BTreeMap;

use rust_decimal::Decimal;

use crate::documents::content::LineKind;
use crate::error::Error;
use crate::invoicing::amounts::{Amounts, TaxGroup};
use crate::invoicing::lines::{DraftLine, ItemBody, ItemKind};
use crate::money::major_units;
use crate::quantity::Quantity;
use crate::time::Moment;

/// Discounts depend on the lines, and the lines that stay on discounts: so often it is tried.
const TRIES: u32 = 4;

/// A draft that is not below 0 any more.
pub(super) struct Carried {
    pub(super) lines: Vec<DraftLine>,
    pub(super) amounts: Amounts,
    /// Items for the next invoice.
    pub(super) carried: Vec<ItemBody>,
}

/// Whether a document with these amounts would be below 0.
pub(super) fn is_below_zero(amounts: &Amounts) -> bool {
    amounts.totals.total < 0 || amounts.totals.net < 0
}

/// Takes credit off the lines as far as it exceeds the others. `None`: that cannot make a draft of them.
pub(super) fn carry(
    lines: &[DraftLine],
    amounts: &Amounts,
    currency: &str,
    priced: impl Fn(&[DraftLine]) -> Result<Amounts, Error>,
) -> Result<Option<Carried>, Error> {
    let (mut lines, mut amounts, mut carried) = (lines.to_vec(), amounts.clone(), Vec::new());
    for _ in 0..TRIES {
        if !is_below_zero(&amounts) {
            carried.reverse();
            return Ok(Some(Carried { lines, amounts, carried }));
        }
        let excess = excess(&lines, &amounts);
        take(&mut lines, excess, currency, &mut carried);
        if lines.is_empty() {
            return Ok(None);
        }
        amounts = priced(&lines)?;
    }
    Ok(None)
}

/// By how much the lines of each tax rate are below 0 after discounts.
fn excess(lines: &[DraftLine], amounts: &Amounts) -> BTreeMap<TaxGroup, i64> {
    let mut sums: BTreeMap<TaxGroup, i64> = BTreeMap::new();
    for (line, computed) in lines.iter().zip(&amounts.lines) {
        *sums.entry(line.tax_rate.group()).or_default() += line.amount - computed.discount;
    }
    sums.into_iter().filter(|(_, sum)| *sum < 0).map(|(group, sum)| (group, -sum)).collect()
}

/// Moves so much credit of each tax rate from the lines to the items, the newest first.
fn take(
    lines: &mut Vec<DraftLine>,
    mut excess: BTreeMap<TaxGroup, i64>,
    currency: &str,
    carried: &mut Vec<ItemBody>,
) {
    for place in (0..lines.len()).rev() {
        let line = &lines[place];
        let is_credit = matches!(line.kind, LineKind::Item | LineKind::Proration) && line.amount < 0;
        let Some(left) = excess.get_mut(&line.tax_rate.group()).filter(|left| is_credit && **left > 0) else {
            continue;
        };
        let part = (*left).min(-line.amount);
        *left -= part;
        if part == -line.amount {
            carried.push(item(&lines.remove(place)));
        } else {
            carried.push(item(&of_amount(line, -part, currency)));
            lines[place] = of_amount(line, line.amount + part, currency);
        }
    }
}

/// A part of a credit line.
fn of_amount(line: &DraftLine, amount: i64, currency: &str) -> DraftLine {
    DraftLine {
        quantity: Decimal::NEGATIVE_ONE,
        unit: None,
        unit_price: major_units(-amount, currency),
        base_quantity: Decimal::ONE,
        amount,
        ..line.clone()
    }
}

/// The item of a line. It keeps its tax rate, also when that of the org changes.
fn item(line: &DraftLine) -> ItemBody {
    ItemBody {
        description: line.description.clone(),
        quantity: Quantity(line.quantity),
        unit: line.unit.clone(),
        unit_price: Quantity(line.unit_price),
        base_quantity: Quantity(line.base_quantity),
        tax_rate: Some(line.tax_rate.id.clone()),
        from: line.from.map(Moment),
        to: line.to.map(Moment),
        kind: if line.kind == LineKind::Proration { ItemKind::Proration } else { ItemKind::Item },
    }
}
