//! The columns of each kind of row: name, SQL, meaning, unit.

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Type {
    Text,
    Integer,
    /// An amount in minor units of the row's `currency`.
    Amount,
    /// An amount in major units: the column of the same name without `_major` has it in minor units.
    Major,
    /// A number with decimal places, exact, as text.
    Decimal,
    Boolean,
    /// An instant in UTC.
    Time,
    Json,
}

impl Type {
    /// Its unit or form, for the documentation.
    #[must_use]
    pub fn unit(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Integer => "integer",
            Self::Amount => "minor units",
            Self::Major => "major units",
            Self::Decimal => "decimal",
            Self::Boolean => "true, false",
            Self::Time => "time, UTC",
            Self::Json => "JSON",
        }
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Never changes: files of other programs depend on it.
    pub name: &'static str,
    pub holds: Type,
    pub meaning: &'static str,
    /// Whether the control totals have its sum.
    pub summed: bool,
    /// SQL over the rows of [`super::Kind::from`].
    pub sql: &'static str,
}

const fn column(holds: Type, name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    Column { name, holds, meaning, summed: false, sql }
}

const fn text(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Text, name, sql, meaning)
}

const fn integer(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Integer, name, sql, meaning)
}

const fn amount(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Amount, name, sql, meaning)
}

const fn summed(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    Column { summed: true, ..amount(name, sql, meaning) }
}

const fn major(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Major, name, sql, meaning)
}

const fn time(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Time, name, sql, meaning)
}

const fn boolean(name: &'static str, sql: &'static str, meaning: &'static str) -> Column {
    column(Type::Boolean, name, sql, meaning)
}

const ORG_ID: Column =
    text("org_id", "o.public_id", "The org billed (`org_…`); empty when the customer has none");
const ORG_EXTERNAL_ID: Column = text("org_external_id", "o.external_id", "The org's id in your own systems");
const ACCOUNT: Column =
    text("account", "d.account", "Connected Stripe account; empty for the platform's own");
const LIVEMODE: Column = boolean("livemode", "d.livemode", "False for Stripe's test mode");
const CURRENCY: Column =
    text("currency", "d.currency", "ISO 4217 code, lower case, of the amounts in this row");
const METADATA: Column =
    column(Type::Json, "metadata", "d.metadata::text", "Metadata at Stripe, an object of texts");

pub(super) const INVOICES: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`in_…`)"),
    text("number", "d.number", "Number shown to the customer; drafts have none"),
    text("status", "d.status", "draft, open, paid, void or uncollectible"),
    text("customer_id", "d.customer_id", "Stripe customer billed"),
    text("customer_name", "d.customer_name", "Name of the customer when it was issued"),
    text("customer_email", "d.customer_email", "E-mail address of the customer when it was issued"),
    text("subscription_id", "d.subscription_id", "Subscription billed"),
    text("billing_reason", "d.billing_reason", "Why it was made: subscription_cycle, manual, …"),
    text("collection_method", "d.collection_method", "charge_automatically or send_invoice"),
    CURRENCY,
    summed("subtotal", "d.subtotal", "Sum of the lines before discounts on the invoice and exclusive tax"),
    summed("discount_total", "d.discount_total", "Sum of the discounts"),
    summed("tax_total", "d.tax_total", "Sum of the taxes, inclusive and exclusive"),
    summed("total", "d.total", "Total after discounts and tax"),
    summed("amount_due", "d.amount_due", "Due after the customer's balance was applied"),
    summed("amount_paid", "d.amount_paid", "Paid so far"),
    summed("amount_remaining", "d.amount_remaining", "Still to be paid"),
    major("total_major", "d.total", "`total`"),
    major("amount_due_major", "d.amount_due", "`amount_due`"),
    major("amount_paid_major", "d.amount_paid", "`amount_paid`"),
    major("amount_remaining_major", "d.amount_remaining", "`amount_remaining`"),
    amount(
        "starting_balance",
        "d.starting_balance",
        "The customer's balance before the invoice; negative: credit",
    ),
    amount("ending_balance", "d.ending_balance", "The customer's balance after it was issued"),
    amount(
        "pre_payment_credit_notes_amount",
        "d.pre_payment_credit_notes_amount",
        "Credit notes issued before it was paid",
    ),
    amount(
        "post_payment_credit_notes_amount",
        "d.post_payment_credit_notes_amount",
        "Credit notes issued after it was paid",
    ),
    time("created", "d.created", "When it was made"),
    time("finalized_at", "d.finalized_at", "When it was issued"),
    time("due_at", "d.due_at", "When payment is due"),
    time("paid_at", "d.paid_at", "When it was paid"),
    time("voided_at", "d.voided_at", "When it was voided"),
    time("marked_uncollectible_at", "d.marked_uncollectible_at", "When it was given up"),
    time("period_start", "d.period_start", "Start of the period that items were collected in"),
    time("period_end", "d.period_end", "End of that period, not included"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent, in older Stripe versions"),
    text("charge_id", "d.charge_id", "Latest charge, in older Stripe versions"),
    boolean(
        "paid_out_of_band",
        "coalesce(d.paid_out_of_band, \
             EXISTS (SELECT FROM invoice_payments y \
                 WHERE y.invoice_id = d.id AND y.account = d.account AND y.livemode = d.livemode \
                 AND y.status = 'paid' AND y.payment_record_id IS NOT NULL))",
        "Paid outside Stripe, as it says itself or a record of that payment does",
    ),
    boolean("lines_complete", "d.lines_complete", "False when Stripe sent only some of its lines"),
    text("hosted_invoice_url", "d.hosted_invoice_url", "Page for the customer"),
    text("invoice_pdf", "d.invoice_pdf", "Link to the document"),
    text("description", "d.description", "Memo shown to the customer"),
    METADATA,
];

pub(super) const LINES: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("invoice_id", "d.id", "Invoice that it belongs to"),
    integer("line_number", "n.line_number::bigint", "Place in the invoice, from 0"),
    text("id", "n.id", "Stripe's id; older Stripe versions may give the subscription or invoice item"),
    text("invoice_number", "d.number", "Number of the invoice"),
    text("invoice_status", "d.status", "Status of the invoice"),
    text("customer_id", "d.customer_id", "Stripe customer billed"),
    text("type", "n.type", "subscription or invoiceitem"),
    text("description", "n.description", "Text of the line"),
    text(
        "currency",
        "coalesce(n.currency, d.currency)",
        "ISO 4217 code, lower case, of the amounts in this row",
    ),
    integer("quantity", "n.quantity", "How many"),
    column(
        Type::Decimal,
        "unit_amount_decimal",
        "n.unit_amount_decimal::text",
        "Price of one, in minor units with up to 12 decimal places",
    ),
    summed("amount", "n.amount", "Amount before discounts on the line and exclusive tax"),
    summed("discount_amount", "n.discount_amount", "Sum of the discounts on the line"),
    summed("tax_amount", "n.tax_amount", "Sum of the taxes on the line"),
    major("amount_major", "n.amount", "`amount`"),
    time("period_start", "n.period_start", "Start of the period billed"),
    time("period_end", "n.period_end", "End of the period billed, not included"),
    text("price_id", "n.price_id", "Price, or plan in older Stripe versions"),
    text("product_id", "n.product_id", "Product of the price"),
    text("subscription_id", "n.subscription_id", "Subscription billed"),
    text("subscription_item_id", "n.subscription_item_id", "Subscription item billed"),
    text("invoice_item_id", "n.invoice_item_id", "Invoice item billed"),
    boolean("proration", "n.proration", "Whether it prorates an earlier line"),
    time("invoice_created", "d.created", "When the invoice was made"),
    time("invoice_finalized_at", "d.finalized_at", "When the invoice was issued"),
    time("invoice_paid_at", "d.paid_at", "When the invoice was paid"),
    boolean(
        "invoice_lines_complete",
        "d.lines_complete",
        "False when Stripe sent only some lines of the invoice",
    ),
    column(Type::Json, "metadata", "n.metadata::text", "Metadata of the line at Stripe, an object of texts"),
];

pub(super) const PAYMENTS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Id of the payment intent, else of the charge, else of the invoice payment"),
    text("status", "d.status", "succeeded once money moved, else the status at Stripe"),
    text("customer_id", "d.customer_id", "Stripe customer who pays"),
    text("invoice_id", "d.invoice_id", "Invoice paid"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent"),
    text("charge_id", "d.charge_id", "Charge that counts: the one that succeeded, else the latest"),
    CURRENCY,
    summed("amount", "d.amount", "Amount asked for"),
    summed("amount_received", "d.amount_received", "Amount received, before fees"),
    summed(
        "amount_refunded",
        "d.amount_refunded",
        "Amount given back, without refunds that failed or were canceled",
    ),
    major("amount_major", "d.amount", "`amount`"),
    major("amount_received_major", "d.amount_received", "`amount_received`"),
    major("amount_refunded_major", "d.amount_refunded", "`amount_refunded`"),
    text("payment_method_type", "d.payment_method_type", "card, sepa_debit, …"),
    boolean("disputed", "d.disputed", "Whether the payer disputes it, or did"),
    boolean("outside_stripe", "d.outside_stripe", "Whether the money moved outside Stripe"),
    text("failure_code", "d.failure_code", "Why it failed, for programs"),
    text("failure_message", "d.failure_message", "Why it failed, for people"),
    time("created", "d.created", "When it was begun"),
    time("paid_at", "d.paid_at", "When money moved"),
    text("description", "d.description", "Text given with it"),
    METADATA,
];

/// SQL: the amount of a refund; 0 if it failed or was canceled, because Stripe then returns the money to the
/// account (<https://docs.stripe.com/refunds#failed-refunds>).
const RETURNED: &str = "CASE WHEN d.status IN ('failed', 'canceled') THEN 0 ELSE d.amount END";

pub(super) const REFUNDS: &[Column] = &[
    ORG_ID,
    ORG_EXTERNAL_ID,
    ACCOUNT,
    LIVEMODE,
    text("id", "d.id", "Stripe's id (`re_…`, `pyr_…`)"),
    text("status", "d.status", "pending, requires_action, succeeded, failed or canceled"),
    text("customer_id", "p.customer_id", "Stripe customer of the payment"),
    text("invoice_id", "p.invoice_id", "Invoice of the payment"),
    text("payment_intent_id", "d.payment_intent_id", "Payment intent refunded"),
    text("charge_id", "d.charge_id", "Charge refunded"),
    CURRENCY,
    summed("amount", RETURNED, "Amount given back: 0 of a refund that failed or was canceled"),
    amount("amount_requested", "d.amount", "Amount of the refund, whatever became of it"),
    major("amount_major", RETURNED, "`amount`"),
    text("reason", "d.reason", "duplicate, fraudulent, requested_by_customer or expired_uncaptured_charge"),
    text("failure_reason", "d.failure_reason", "Why it failed"),
    time("created", "d.created", "When it was made"),
    METADATA,
];

#[cfg(test)]
mod tests {
    use crate::billing::exports::{Kind, Type};

    #[test]
    fn each_kind_has_its_currency_before_its_major_amounts_and_each_of_those_its_twin() {
        for kind in Kind::ALL {
            let columns = kind.columns();
            let at = |name: &str| columns.iter().position(|column| column.name == name);
            let currency = at("currency").expect("a currency");
            assert!(columns.iter().filter(|column| column.name == "currency").count() == 1);
            for (index, column) in columns.iter().enumerate() {
                assert_eq!(at(column.name), Some(index), "{} twice", column.name);
                assert!(!column.summed || column.holds == Type::Amount);
                if column.holds == Type::Major {
                    let twin = at(column.name.strip_suffix("_major").expect("named so")).expect("a twin");
                    assert_eq!(columns[twin].sql, column.sql);
                    assert!(currency < index);
                }
            }
        }
    }

    #[test]
    fn a_column_has_the_name_of_what_it_holds() {
        for column in Kind::ALL.iter().flat_map(|kind| kind.columns()) {
            let source = column.sql.trim_end_matches("::text").trim_end_matches("::bigint");
            let Some((_, source)) = source.split_once('.').filter(|_| !source.contains('(')) else {
                continue;
            };
            let name = column.name.trim_end_matches("_major");
            let name = name.strip_prefix("org_").unwrap_or(name).to_owned();
            let named = [
                source.to_owned(),
                format!("invoice_{source}"),
                source.replace("public_", ""),
                format!("{source}_requested"),
            ];
            assert!(named.contains(&name), "{} is {}", column.name, column.sql);
        }
    }
}
