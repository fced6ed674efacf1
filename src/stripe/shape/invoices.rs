//! Invoices and their lines. `2025-03-31.basil` moved the subscription into `parent`, prices into `pricing`,
//! taxes into `taxes`, and payments out of the invoice, into invoice payments.

use rust_decimal::Decimal;
use serde_json::{Value, json};

use super::{ObjectFields, ShapeError, taxes};
use crate::billing::invoices::{Invoice, InvoiceLine, InvoiceWithLines};

pub(in crate::stripe) fn invoice(from: ObjectFields<'_>) -> Result<InvoiceWithLines, ShapeError> {
    let lines =
        (0..).zip(from.list("lines")).map(|(number, entry)| line(entry, number)).collect::<Result<_, _>>()?;
    let parent = from.at("parent").at("subscription_details");
    let transitions = from.at("status_transitions");
    let status = status(from);
    let [amount_due, amount_paid, amount_remaining] = amounts(from)?;
    let invoice = Invoice {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        id: from.object.id.to_owned(),
        customer_id: from.id("customer"),
        subscription_id: from.id("subscription").or_else(|| parent.id("subscription")),
        number: from.text("number"),
        status,
        billing_reason: from.text("billing_reason"),
        collection_method: from.text("collection_method").or_else(|| from.text("billing")),
        currency: from.text("currency"),
        subtotal: from.money("subtotal")?,
        discount_total: from.money_sum("total_discount_amounts", "amount")?,
        tax_total: tax_total(from)?,
        total: from.money("total")?,
        amount_due,
        amount_paid,
        amount_remaining,
        starting_balance: from.money("starting_balance")?,
        ending_balance: from.money("ending_balance")?,
        pre_payment_credit_notes_amount: from.money("pre_payment_credit_notes_amount")?,
        post_payment_credit_notes_amount: from.money("post_payment_credit_notes_amount")?,
        period_start: from.time("period_start"),
        period_end: from.time("period_end"),
        finalized_at: transitions.time("finalized_at").or_else(|| from.time("finalized_at")),
        due_at: from.time("due_date"),
        paid_at: transitions.time("paid_at"),
        voided_at: transitions.time("voided_at"),
        marked_uncollectible_at: transitions.time("marked_uncollectible_at"),
        next_payment_attempt: from.time("next_payment_attempt"),
        attempt_count: from.small("attempt_count"),
        payment_intent_id: from.id("payment_intent"),
        charge_id: from.id("charge"),
        paid_out_of_band: from.flag("paid_out_of_band"),
        hosted_invoice_url: from.text("hosted_invoice_url"),
        invoice_pdf: from.text("invoice_pdf"),
        description: from.text("description"),
        customer_name: from.text("customer_name"),
        customer_email: from.text("customer_email"),
        lines_complete: from.list_complete("lines"),
        // `created` was called `date` before 2019-03-14.
        created: from.time("created").or_else(|| from.time("date")),
        deleted: from.object.deleted,
        metadata: from.metadata(),
        customer_address: from.json("customer_address"),
        customer_tax_exempt: from.text("customer_tax_exempt"),
        customer_tax_ids: customer_tax_ids(from),
    };
    Ok(InvoiceWithLines { invoice, lines })
}

/// The status. Before 2018 an invoice had three flags instead. Closed and unpaid meant that Stripe would not
/// collect it any more.
fn status(from: ObjectFields<'_>) -> Option<String> {
    let derived = || {
        let is = |flag| from.flag(flag) == Some(true);
        from.flag("paid")?;
        Some(match () {
            () if is("paid") => "paid",
            () if is("forgiven") => "uncollectible",
            () if is("closed") => "void",
            () if is("attempted") || from.has("number") => "open",
            () => "draft",
        })
    };
    from.text("status").or_else(|| derived().map(str::to_owned))
}

/// The amounts due, paid and remaining. Shapes before 2018 have only the amount due, and whether all of it is
/// paid.
fn amounts(from: ObjectFields<'_>) -> Result<[Option<i64>; 3], ShapeError> {
    let due = from.money("amount_due")?;
    let settled = from.flag("paid").filter(|_| !from.has("status"));
    let all_or_nothing = due.zip(settled).map(|(due, paid)| if paid { due } else { 0 });
    let paid = from.money("amount_paid")?.or(all_or_nothing);
    let remaining = || settled.and(due?.checked_sub(paid?));
    Ok([due, paid, from.money("amount_remaining")?.or_else(remaining)])
}

/// The sum of inclusive and exclusive taxes, which was the field `tax` before basil.
fn tax_total(from: ObjectFields<'_>) -> Result<Option<i64>, ShapeError> {
    Ok(match from.money("tax")? {
        Some(tax) => Some(tax),
        None if from.has("total_taxes") => from.money_sum("total_taxes", "amount")?,
        None => from.money_sum("total_tax_amounts", "amount")?,
    })
}

fn line(from: ObjectFields<'_>, line_number: i32) -> Result<InvoiceLine, ShapeError> {
    let parent = from.at("parent");
    let kind = parent.text("type").or_else(|| from.text("type"));
    let details = match kind.as_deref() {
        Some("invoice_item_details") => parent.at("invoice_item_details"),
        _ => parent.at("subscription_item_details"),
    };
    let kind = kind.map(|kind| match &*kind {
        "subscription_item_details" => "subscription".to_owned(),
        "invoice_item_details" => "invoiceitem".to_owned(),
        _ => kind,
    });
    // The oldest shapes give the subscription or the invoice item as the line's id.
    let named = |prefix: &str| from.own_id().filter(|id| id.starts_with(prefix));
    let price = from.at("pricing").at("price_details");
    Ok(InvoiceLine {
        account: from.object.realm.account.clone(),
        livemode: from.object.realm.livemode,
        invoice_id: from.object.id.to_owned(),
        line_number,
        id: from.own_id(),
        type_: kind,
        amount: from.money("amount")?,
        currency: from.text("currency"),
        quantity: from.integer("quantity"),
        description: from.text("description"),
        period_start: from.at("period").time("start"),
        period_end: from.at("period").time("end"),
        price_id: price.id("price").or_else(|| from.id("price")).or_else(|| from.id("plan")),
        product_id: price.id("product").or_else(|| old_price(from).id("product")),
        unit_amount_decimal: unit_amount(from)?,
        subscription_id: from
            .id("subscription")
            .or_else(|| details.id("subscription"))
            .or_else(|| named("sub_")),
        subscription_item_id: from.id("subscription_item").or_else(|| details.id("subscription_item")),
        invoice_item_id: from
            .id("invoice_item")
            .or_else(|| details.id("invoice_item"))
            .or_else(|| named("ii_")),
        proration: from.flag("proration").or_else(|| details.flag("proration")),
        discount_amount: from.money_sum("discount_amounts", "amount")?,
        tax_amount: from.money_sum(taxes::list_of(from), "amount")?,
        metadata: from.metadata(),
        usage_type: usage_type(old_price(from)),
        taxes: taxes::of_line(from)?,
    })
}

/// The tax ids on the document; `None` if there is no list.
fn customer_tax_ids(from: ObjectFields<'_>) -> Option<Value> {
    let tax_id =
        |entry: &ObjectFields<'_>| json!({ "type": entry.text("type"), "value": entry.text("value") });
    from.has("customer_tax_ids").then(|| from.list("customer_tax_ids").iter().map(tax_id).collect())
}

/// `licensed` (counts what is bought) or `metered` (counts what was used), as a price, or a plan of older
/// shapes, says.
pub(super) fn usage_type(price: ObjectFields<'_>) -> Option<String> {
    price.at("recurring").text("usage_type").or_else(|| price.text("usage_type"))
}

/// The meter whose usage a price, or a plan of older shapes, charges
/// (<https://docs.stripe.com/api/prices/object#price_object-recurring-meter>).
pub(super) fn meter(price: ObjectFields<'_>) -> Option<String> {
    price.at("recurring").id("meter").or_else(|| price.id("meter"))
}

/// The price or plan that a line contains in shapes before basil.
fn old_price<'a>(line: ObjectFields<'a>) -> ObjectFields<'a> {
    line.at(if line.has("price") { "price" } else { "plan" })
}

fn unit_amount(line: ObjectFields<'_>) -> Result<Option<Decimal>, ShapeError> {
    if let Some(amount) = line.at("pricing").money_decimal("unit_amount_decimal")? {
        return Ok(Some(amount));
    }
    let price = old_price(line);
    for field in ["unit_amount_decimal", "amount_decimal"] {
        if let Some(amount) = price.money_decimal(field)? {
            return Ok(Some(amount));
        }
    }
    let whole = price.money(if price.has("unit_amount") { "unit_amount" } else { "amount" })?;
    Ok(whole.map(Decimal::from))
}
