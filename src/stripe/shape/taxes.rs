//! The taxes of a line of an invoice or credit note.

use serde_json::{Value, json};

use super::{ObjectFields, ShapeError};

/// The list that has them: `tax_amounts` became `taxes` in `2025-03-31.basil`.
pub(super) fn list_of(line: ObjectFields<'_>) -> &'static str {
    if line.has("taxes") { "taxes" } else { "tax_amounts" }
}

/// The taxes of a line, as the mirror keeps them; `None` if the line has no list of them.
///
/// Since basil a tax only names its rate. Before, the line lists its rates beside, with their percentages.
pub(super) fn of_line(line: ObjectFields<'_>) -> Result<Option<Value>, ShapeError> {
    let list = list_of(line);
    if !line.has(list) {
        return Ok(None);
    }
    let rates = line.list("tax_rates");
    let tax = |tax: ObjectFields<'_>| {
        let rate_id = tax.at("tax_rate_details").id("tax_rate").or_else(|| tax.id("tax_rate"));
        let beside = rates.iter().find(|rate| rate_id.is_some() && rate.own_id() == rate_id);
        let percentage = match beside {
            Some(rate) => rate.percent("percentage")?,
            None => tax.at("tax_rate").percent("percentage")?,
        };
        let inclusive = tax
            .flag("inclusive")
            .or_else(|| tax.text("tax_behavior").map(|behavior| behavior == "inclusive"));
        Ok(json!({
            "amount": tax.money("amount")?,
            "taxable_amount": tax.money("taxable_amount")?,
            "inclusive": inclusive,
            "reason": tax.text("taxability_reason"),
            "rate_id": rate_id,
            "percentage": percentage.map(|percentage| percentage.normalize().to_string()),
        }))
    };
    line.list(list).into_iter().map(tax).collect::<Result<_, _>>().map(Some)
}
