//! Requests about invoices of our own, and what must always be true of their books.
//!
//! By default the seller is `blazz`, the org `acme`, the currency euro, and there is no tax (the rate
//! `zero`).

use reqwest::Method;
use serde_json::{Value, json};

use super::cluster::Database;
use super::requests::{Request, request};
use super::world::{Setup, World};

/// A seller in UTC, the default one, whose lines have the rate `zero`.
pub fn seller(id: &str) -> Request {
    let party = json!({ "name": format!("{id} Ltd"), "address": { "line1": "Main Street 1",
        "postal_code": "10115", "city": "Berlin", "country": "DE" }, "vat_id": "DE123456789" });
    let body = json!({ "party": party, "settings": { "tax_rate": "zero" }, "default": true });
    request(Method::PUT, format!("/v1/sellers/{id}"), body)
}

/// A tax rate: standard, or the zero rate for `0`.
pub fn tax_rate(id: &str, percent: &str) -> Request {
    let category = if percent == "0" { "Z" } else { "S" };
    let body = json!({ "name": "VAT", "category": category, "percent": percent });
    request(Method::PUT, format!("/v1/tax_rates/{id}"), body)
}

/// A coupon of so many percent.
pub fn coupon(code: &str, percent: &str) -> Request {
    request(Method::PUT, format!("/v1/coupons/{code}"), json!({ "name": code, "percent": percent }))
}

/// Gives an org a coupon.
pub fn give(org: &str, code: &str) -> Request {
    request(Method::PUT, format!("/v1/orgs/{org}/coupons/{code}"), Value::Null)
}

/// The billing profile of an org, in euro, which the clock does not invoice.
pub fn billing(org: &str) -> Request {
    let party = json!({ "name": org, "address": { "line1": "Side Street 2", "postal_code": "80331",
        "city": "Munich", "country": "DE" } });
    let body = json!({ "party": party, "currency": "eur", "automatic": false });
    request(Method::PUT, format!("/v1/orgs/{org}/billing"), body)
}

/// An invoice by hand; a draft without lines.
pub fn invoice(org: &str) -> Request {
    request(Method::POST, "/v1/invoices", json!({ "org": org, "items": [] }))
}

/// A line that waits for the next draft.
pub fn item(org: &str, unit_price: &str) -> Request {
    let body = json!({ "description": "work", "unit_price": unit_price });
    request(Method::POST, format!("/v1/orgs/{org}/invoice_items"), body)
}

/// A command on an invoice: `finalize`, `void` or `write_off`.
pub fn on_invoice(id: &str, command: &str) -> Request {
    request(Method::POST, format!("/v1/invoices/{id}/{command}"), Value::Null)
}

/// A payment by PayPal, in euro; each has a reference of its own.
pub fn payment(org: &str, amount: i64) -> Request {
    use std::sync::atomic::{AtomicU32, Ordering};
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let reference = format!("PAYID-{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let body = json!({ "org": org, "amount": amount, "currency": "eur", "processor": "paypal",
        "reference": reference });
    request(Method::POST, "/v1/payments", body)
}

/// Gives money of a payment back.
pub fn refund(payment: &str, amount: i64) -> Request {
    let body = json!({ "amount": amount, "reason": "a test" });
    request(Method::POST, format!("/v1/payments/{payment}/refund"), body)
}

/// Money of a payment is taken back.
pub fn reversal(payment: &str, amount: i64) -> Request {
    let body = json!({ "amount": amount, "reason": "bounced" });
    request(Method::POST, format!("/v1/payments/{payment}/reverse"), body)
}

/// A credit note over a whole invoice.
pub fn credit_note(invoice: &str) -> Request {
    request(Method::POST, "/v1/credit_notes", json!({ "invoice": invoice, "reason": "a test" }))
}

/// A correction of the account by hand.
pub fn adjustment(org: &str, amount: i64) -> Request {
    let body = json!({ "amount": amount, "currency": "eur", "reason": "a test" });
    request(Method::POST, format!("/v1/orgs/{org}/account/adjustments"), body)
}

impl Request {
    /// Of an invoice: a line of one piece at this price, in major units.
    pub fn item(mut self, unit_price: &str) -> Self {
        let items = self.body["items"].as_array_mut().expect("an invoice");
        items.push(json!({ "description": "work", "unit_price": unit_price }));
        self
    }

    /// Of an invoice: finalise it at once.
    pub fn finalized(self) -> Self {
        self.with("finalize", true)
    }

    /// Of a payment, refund or reversal: the processor's id of it.
    pub fn reference(self, reference: &str) -> Self {
        self.with("reference", reference)
    }

    /// Of a payment: it pays these invoices, in this order.
    pub fn for_invoices<const N: usize>(self, ids: [&str; N]) -> Self {
        self.with("invoices", ids.map(|id| json!({ "invoice": id })).to_vec())
    }

    /// Of a credit note: so much of this line.
    pub fn credits(mut self, line: i32, amount: i64) -> Self {
        let lines = &mut self.body["lines"];
        if !lines.is_array() {
            *lines = json!([]);
        }
        lines.as_array_mut().expect("a list").push(json!({ "line": line, "amount": amount }));
        self
    }

    /// Amounts are in this currency.
    pub fn currency(self, currency: &str) -> Self {
        self.with("currency", currency)
    }
}

impl Setup {
    /// The seller `blazz`, the rate `zero`, and an org with a billing profile.
    pub fn invoiced(self, org: &str) -> Self {
        self.with(tax_rate("zero", "0")).with(seller("blazz")).org(org).with(billing(org))
    }
}

impl World {
    /// Makes and finalises an invoice of one line without tax, at this price in major units.
    pub async fn invoiced(&self, org: &str, unit_price: &str) -> String {
        self.send(invoice(org).item(unit_price).finalized()).await.status(201).id()
    }

    /// Records a payment; returns its id.
    pub async fn paid(&self, org: &str, amount: i64) -> String {
        self.send(payment(org, amount)).await.status(201).id()
    }

    /// `status remaining` of an invoice.
    pub async fn stands(&self, invoice: &str) -> String {
        let found = self.get(&format!("/v1/invoices/{invoice}")).await.status(200);
        format!("{} {}", found.text("status"), found["amount_remaining"])
    }

    /// `balance/open/unused credit` of an org's account in euro.
    pub async fn account(&self, org: &str) -> String {
        let found = self.get(&format!("/v1/orgs/{org}/account")).await.status(200);
        let euro = found.list("balances").iter().find(|balance| balance["currency"] == "eur");
        let euro = euro.cloned().unwrap_or_else(|| json!({ "balance": 0, "open": 0, "unused_credit": 0 }));
        format!("{}/{}/{}", euro["balance"], euro["open"], euro["unused_credit"])
    }
}

/// What must be true of all books, as SQL that finds what breaks it.
const RULES: [(&str, &str); 6] = [
    (
        "an account stands at the sum of its entries, which have no gap",
        "SELECT a.org_id::text FROM accounts a LEFT JOIN account_entries e USING (org_id, currency)
         GROUP BY a.org_id, a.currency, a.balance, a.last_sequence
         HAVING (a.balance, a.last_sequence, a.last_sequence) IS DISTINCT FROM
             (coalesce(sum(e.amount), 0), coalesce(max(e.sequence), 0), count(e.sequence))",
    ),
    (
        "the balance after an entry is the sum up to it",
        "SELECT document_id FROM (SELECT document_id, balance_after, sum(amount)
             OVER (PARTITION BY org_id, currency ORDER BY sequence) AS sum FROM account_entries) e
         WHERE balance_after <> sum",
    ),
    (
        "no more is allocated than there is, and a credit pays a debt",
        "SELECT e.document_id FROM account_entries e
         CROSS JOIN LATERAL (SELECT coalesce(sum(amount), 0) AS allocated FROM account_allocations a
             WHERE (a.org_id, a.currency) = (e.org_id, e.currency)
                 AND e.sequence IN (a.credit_sequence, a.debit_sequence)) a
         WHERE allocated < 0 OR allocated > abs(e.amount)
         UNION ALL
         SELECT 'allocation ' || a.allocation FROM account_allocations a
         JOIN account_entries c ON (c.org_id, c.currency, c.sequence)
             = (a.org_id, a.currency, a.credit_sequence)
         JOIN account_entries d ON (d.org_id, d.currency, d.sequence)
             = (a.org_id, a.currency, a.debit_sequence)
         WHERE c.amount >= 0 OR d.amount <= 0",
    ),
    (
        "what an invoice asks for is what nothing pays of its entry",
        "SELECT i.invoice_id FROM own_invoices i
         JOIN account_entries e ON (e.org_id, e.document_id, e.kind) = (i.org_id, i.invoice_id, 'invoice')
         CROSS JOIN LATERAL (SELECT coalesce(sum(amount), 0) AS allocated FROM account_allocations a
             WHERE (a.org_id, a.currency, a.debit_sequence) = (e.org_id, e.currency, e.sequence)) a
         WHERE i.total - allocated <> CASE WHEN i.status = 'open'
             THEN i.total - i.amount_paid - i.amount_credited - i.amount_written_off ELSE 0 END",
    ),
    (
        "numbers have no gap and none is there twice",
        // Imported documents have numbers of their own.
        "SELECT seller_id FROM own_documents WHERE series_number > 0 GROUP BY seller_id, kind, series_year
         HAVING count(*) <> max(series_number) OR count(DISTINCT series_number) <> count(*)",
    ),
    (
        "the lines of an invoice add up to its totals",
        "SELECT i.invoice_id FROM own_invoices i
         LEFT JOIN (SELECT org_id, invoice_id, sum(amount) AS amount, sum(discount) AS discount,
                 sum(tax) AS tax FROM own_invoice_lines GROUP BY 1, 2) l USING (org_id, invoice_id)
         WHERE i.net_total + i.tax_total <> i.total OR (i.subtotal, i.discount_total, i.tax_total)
             IS DISTINCT FROM (coalesce(l.amount, 0), coalesce(l.discount, 0), coalesce(l.tax, 0))",
    ),
];

impl Database {
    /// Accounts, allocations, invoices, numbers and lines must agree.
    #[track_caller]
    pub fn books_add_up(&self) {
        for (rule, sql) in RULES {
            let broken = self.value(&format!("SELECT string_agg(x::text, ' ') FROM ({sql}) s (x)"));
            assert_eq!(broken, None, "{rule}");
        }
    }
}
