//! Invoices of both origins.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveDate, NaiveTime, Utc};
use diesel::pg::PgConnection;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable, Timestamptz};
use rust_decimal::Decimal;
use serde::{Serialize, Serializer};
use serde_json::json;
use utoipa::ToSchema;

use super::{OwnPage, TwoOrigins, as_one, either_origin, narrowed, when};
use crate::billing::invoices::{Invoice, InvoiceFilter, InvoiceLine, InvoiceView};
use crate::billing::read::{Origin, Position};
use crate::error::Error;
use crate::invoicing::shown::{self, OwnInvoice, OwnInvoiceLine};
use crate::money::decimal_places;
use crate::schema::{orgs, own_invoice_lines as l, own_invoices as t};

either_origin! {
    /// An invoice of either origin.
    AnyInvoice: InvoiceView | OwnInvoiceView
}

/// An invoice of our own as a look-up shows it: the fields of Stripe's invoices, and its own.
#[derive(Debug, ToSchema)]
pub struct OwnInvoiceView {
    /// The fields that invoices of both origins have.
    #[serde(flatten)]
    pub row: Invoice,
    /// Its own.
    #[serde(flatten)]
    pub own: OwnInvoice,
}

impl Serialize for OwnInvoiceView {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        as_one(to, &[&self.row, &self.own])
    }
}

#[derive(Queryable)]
struct ListedInvoice {
    org_id: i64,
    org: String,
    id: String,
    currency: String,
    subscription_id: Option<String>,
    reason: String,
    created_at: DateTime<Utc>,
    number: Option<String>,
    finalized_at: Option<DateTime<Utc>>,
    due_date: Option<NaiveDate>,
    period: (Option<DateTime<Utc>>, Option<DateTime<Utc>>),
    amounts: (i64, i64, i64, i64, i64, i64, i64),
    paid_at: Option<DateTime<Utc>>,
    voided_at: Option<DateTime<Utc>>,
    status: String,
    written_off_at: Option<DateTime<Utc>>,
    noted: i64,
}

/// The columns of a [`ListedInvoice`].
macro_rules! listed {
    () => {
        (
            t::org_id,
            orgs::public_id,
            t::invoice_id,
            t::currency,
            t::subscription_id,
            t::reason,
            t::created_at,
            t::number,
            t::finalized_at,
            t::due_date,
            (t::period_start, t::period_end),
            (
                t::subtotal,
                t::discount_total,
                t::tax_total,
                t::total,
                t::amount_paid,
                t::amount_credited,
                t::amount_written_off,
            ),
            t::paid_at,
            t::voided_at,
            t::status,
            diesel::dsl::sql::<Nullable<Timestamptz>>(
                "(SELECT max(e.occurred_at) FROM account_entries e WHERE e.kind = 'write_off'
                      AND own_invoices.amount_written_off > 0
                      AND (e.org_id, e.document_id) = (own_invoices.org_id, own_invoices.invoice_id))",
            ),
            diesel::dsl::sql::<BigInt>(
                "(SELECT coalesce(sum(n.total), 0)::bigint FROM own_credit_notes n
                  WHERE (n.org_id, n.invoice_id) = (own_invoices.org_id, own_invoices.invoice_id))",
            ),
        )
    };
}

/// The end of the day on which an invoice is due, in UTC.
fn due_at(day: NaiveDate) -> DateTime<Utc> {
    day.checked_add_days(Days::new(1)).unwrap_or(day).and_time(NaiveTime::MIN).and_utc()
}

impl ListedInvoice {
    /// In the shape of Stripe's invoices.
    fn row(self, livemode: bool) -> Invoice {
        let (subtotal, discount, tax, total, paid, credited, written_off) = self.amounts;
        let asks = matches!(self.status.as_str(), "open" | "draft");
        let remaining = if asks { total - paid - credited - written_off } else { 0 };
        Invoice {
            account: String::new(),
            livemode,
            id: self.id,
            customer_id: None,
            subscription_id: self.subscription_id,
            number: self.number,
            status: Some(self.status),
            billing_reason: Some(self.reason),
            collection_method: Some("send_invoice".to_owned()),
            currency: Some(self.currency),
            subtotal: Some(subtotal),
            discount_total: Some(discount),
            tax_total: Some(tax),
            total: Some(total),
            amount_due: Some(total - credited),
            amount_paid: Some(paid),
            amount_remaining: Some(remaining),
            starting_balance: None,
            ending_balance: None,
            pre_payment_credit_notes_amount: Some(credited),
            post_payment_credit_notes_amount: Some(self.noted - credited),
            period_start: self.period.0,
            period_end: self.period.1,
            finalized_at: self.finalized_at,
            due_at: self.due_date.map(due_at),
            paid_at: self.paid_at,
            voided_at: self.voided_at,
            marked_uncollectible_at: self.written_off_at,
            next_payment_attempt: None,
            attempt_count: None,
            payment_intent_id: None,
            charge_id: None,
            paid_out_of_band: None,
            hosted_invoice_url: None,
            invoice_pdf: None,
            description: None,
            customer_name: None,
            customer_email: None,
            customer_address: None,
            customer_tax_exempt: None,
            customer_tax_ids: None,
            lines_complete: true,
            created: Some(self.created_at),
            deleted: false,
            metadata: json!({}),
        }
    }
}

/// Lines in the shape of Stripe's, by org and invoice.
fn lines(
    conn: &mut PgConnection,
    invoices: &[ListedInvoice],
    livemode: bool,
) -> Result<BTreeMap<(i64, String), Vec<InvoiceLine>>, Error> {
    let ids: Vec<&str> = invoices.iter().map(|invoice| invoice.id.as_str()).collect();
    let found: Vec<(i64, String, OwnInvoiceLine)> = l::table
        .filter(l::invoice_id.eq_any(ids))
        .order((l::org_id, l::invoice_id, l::line_number))
        .select((l::org_id, l::invoice_id, OwnInvoiceLine::as_select()))
        .load(conn)?;
    let currencies: BTreeMap<&str, (&str, Option<&str>)> = invoices
        .iter()
        .map(|invoice| (&*invoice.id, (&*invoice.currency, invoice.subscription_id.as_deref())))
        .collect();
    let mut lines: BTreeMap<(i64, String), Vec<InvoiceLine>> = BTreeMap::new();
    for (org_id, invoice, line) in found {
        let (currency, subscription) = currencies.get(&*invoice).copied().unwrap_or_default();
        let line = shown_line(&invoice, line, (currency, subscription), livemode);
        lines.entry((org_id, invoice)).or_default().push(line);
    }
    Ok(lines)
}

fn shown_line(
    invoice: &str,
    line: OwnInvoiceLine,
    (currency, subscription): (&str, Option<&str>),
    livemode: bool,
) -> InvoiceLine {
    let is_fee = line.kind == "fee";
    let minor = Decimal::from(10_i64.pow(u32::from(decimal_places(currency))));
    let unit_amount =
        line.unit_price.checked_mul(minor).and_then(|price| price.checked_div(line.base_quantity));
    InvoiceLine {
        account: String::new(),
        livemode,
        invoice_id: invoice.to_owned(),
        line_number: line.number - 1,
        id: None,
        type_: Some(if is_fee { "subscription" } else { "invoiceitem" }.to_owned()),
        amount: Some(line.amount),
        currency: Some(currency.to_owned()),
        quantity: Some(line.quantity).filter(Decimal::is_integer).and_then(|count| i64::try_from(count).ok()),
        description: Some(line.description),
        period_start: line.period_start,
        period_end: line.period_end,
        price_id: None,
        product_id: None,
        unit_amount_decimal: unit_amount.map(|price| price.round_dp(12).normalize()),
        subscription_id: subscription.filter(|_| is_fee).map(str::to_owned),
        subscription_item_id: None,
        invoice_item_id: None,
        proration: Some(line.kind == "proration"),
        discount_amount: Some(line.discount),
        tax_amount: Some(line.tax),
        taxes: Some(json!([{ "amount": line.tax, "rate_id": line.tax_rate_id,
            "percentage": line.tax_percent }])),
        metadata: json!({}),
        usage_type: match line.kind.as_str() {
            "fee" => Some("licensed".to_owned()),
            "usage" => Some("metered".to_owned()),
            _ => None,
        },
    }
}

impl TwoOrigins for Invoice {
    type Any = AnyInvoice;

    fn expands_lines(filter: &InvoiceFilter) -> bool {
        !filter.expand.is_empty()
    }

    fn own_page(
        conn: &mut PgConnection,
        page: &OwnPage<'_, InvoiceFilter>,
    ) -> Result<Vec<(Position, InvoiceView)>, Error> {
        let filter = page.filter.clone();
        if filter.customer.is_some() || filter.deleted == Some(true) {
            return Ok(Vec::new());
        }
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = narrowed!(joined, t, invoice_id, page);
        when! { query,
            filter.status => |status| t::status.eq(status),
            filter.subscription => |id| t::subscription_id.eq(id),
            filter.number => |number| t::number.eq(number),
            filter.currency => |currency| t::currency.eq(currency),
            filter.issued_from => |from| t::finalized_at.ge(from.0),
            filter.issued_before => |before| t::finalized_at.lt(before.0),
            filter.paid_from => |from| t::paid_at.ge(from.0),
            filter.paid_before => |before| t::paid_at.lt(before.0),
            filter.period_from => |from| t::period_start.ge(from.0),
            filter.period_before => |before| t::period_start.lt(before.0),
        }
        let found: Vec<ListedInvoice> = query.load(conn)?;
        let mut lines =
            if filter.expand.is_empty() { None } else { Some(lines(conn, &found, page.livemode)?) };
        let view = |invoice: ListedInvoice| {
            let position = Position::of_own(invoice.created_at, &invoice.id, page.livemode);
            let key = (invoice.org_id, invoice.id.clone());
            let lines = lines.as_mut().map(|lines| lines.remove(&key).unwrap_or_default());
            let org = Some(invoice.org.clone());
            let row = invoice.row(page.livemode);
            (position, InvoiceView { row, origin: Origin::Own, org, lines, raw: None })
        };
        Ok(found.into_iter().map(view).collect())
    }

    fn own(
        conn: &mut PgConnection,
        id: &str,
        org: Option<&str>,
        livemode: bool,
    ) -> Result<AnyInvoice, Error> {
        let joined = t::table.inner_join(orgs::table.on(orgs::org_id.eq(t::org_id))).select(listed!());
        let mut query = joined.filter(t::invoice_id.eq(id)).into_boxed();
        when! { query, org.map(str::to_owned) => |org| orgs::public_id.eq(org) }
        let found: Option<ListedInvoice> = query.first(conn).optional()?;
        let found = found.ok_or(Error::NotFound("invoice"))?;
        let own = shown::show(conn, (found.org_id, &found.org), id)?;
        Ok(AnyInvoice::Own(Box::new(OwnInvoiceView { row: found.row(livemode), own })))
    }
}
