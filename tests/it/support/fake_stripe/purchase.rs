//! Money that moves: payments of invoices, refunds, disputes, credit notes.

use serde_json::{Value, json};

use super::Account;
use super::state::{RealmName, State};
use super::store::Cause;

impl Account {
    /// Gives back an amount of a charge. Gives the refund.
    pub fn refund(&self, charge: &str, amount: i64) -> Value {
        self.handle.lock().refund(&self.realm, charge, amount)
    }

    /// A customer's bank disputes a charge. Gives the dispute.
    pub fn dispute(&self, charge: &str) -> Value {
        self.handle.lock().dispute(&self.realm, charge)
    }

    /// Credits an amount of an invoice. Gives the credit note.
    pub fn credit(&self, invoice: &str, amount: i64) -> Value {
        self.handle.lock().credit(&self.realm, invoice, amount)
    }
}

impl State {
    /// The intent, the charge and the payment of an open invoice, with their events in Stripe's order.
    pub(super) fn pay(&mut self, realm: &RealmName, invoice: &Value, method: &str, cause: &Cause) {
        let customer = &invoice["customer"];
        let now = self.now_for(realm, invoice);
        let intent = json!({ "amount": invoice["amount_due"], "currency": invoice["currency"],
            "customer": customer, "payment_method": method, "created": now });
        let intent = self.create(realm, "payment_intent", intent, cause)["id"].clone();
        let payment = json!({ "invoice": invoice["id"], "currency": invoice["currency"], "created": now,
            "amount_requested": invoice["amount_due"],
            "payment": { "type": "payment_intent", "payment_intent": intent } });
        let payment = self.create(realm, "invoice_payment", payment, cause);
        let paid = json!({ "status": "paid", "amount_paid": invoice["amount_due"],
            "status_transitions": { "paid_at": now } });
        let payment_id = payment["id"].as_str().unwrap_or_default().to_owned();
        self.update(realm, "invoice_payment", &payment_id, &paid, cause);
        let charge = json!({ "amount": invoice["amount_due"], "currency": invoice["currency"], "created": now,
            "customer": customer, "payment_intent": intent, "payment_method": method });
        let charge = self.create(realm, "charge", charge, cause)["id"].clone();
        let succeeded = json!({ "status": "succeeded", "latest_charge": charge });
        self.update(realm, "payment_intent", intent.as_str().unwrap_or_default(), &succeeded, cause);
    }

    pub(super) fn refund(&mut self, realm: &RealmName, charge: &str, amount: i64) -> Value {
        let cause = Cause::default();
        let entry = self.realm(realm).find("charge", charge).expect("a charge");
        let charged = entry.value.clone();
        let given = json!({ "amount": amount, "charge": charge, "currency": charged["currency"],
            "payment_intent": charged["payment_intent"] });
        let refund = self.create(realm, "refund", given, &cause);
        let sum = charged["amount_refunded"].as_i64().unwrap_or_default() + amount;
        self.update(realm, "charge", charge, &json!({ "amount_refunded": sum }), &cause);
        (*refund).clone()
    }

    pub(super) fn dispute(&mut self, realm: &RealmName, charge: &str) -> Value {
        let cause = Cause::default();
        let entry = self.realm(realm).find("charge", charge).expect("a charge");
        let charged = entry.value.clone();
        let given = json!({ "amount": charged["amount"], "charge": charge, "currency": charged["currency"],
            "payment_intent": charged["payment_intent"] });
        let dispute = self.create(realm, "dispute", given, &cause);
        self.update(realm, "charge", charge, &json!({ "disputed": true }), &cause);
        (*dispute).clone()
    }

    pub(super) fn credit(&mut self, realm: &RealmName, invoice: &str, amount: i64) -> Value {
        let cause = Cause::default();
        let entry = self.realm(realm).find("invoice", invoice).expect("an invoice");
        let invoiced = entry.value.clone();
        let line = json!({ "amount": amount, "description": "Credit", "quantity": 1,
            "invoice_line_item": invoiced["lines"]["data"][0]["id"], "type": "invoice_line_item" });
        let before_payment = invoiced["status"] == "open";
        let (kind, field) = if before_payment {
            ("pre_payment", "pre_payment_credit_notes_amount")
        } else {
            ("post_payment", "post_payment_credit_notes_amount")
        };
        let mut given = json!({ "amount": amount, "total": amount, "subtotal": amount,
            "customer": invoiced["customer"], "currency": invoiced["currency"], "invoice": invoice,
            "type": kind, "lines": [line], "subtotal_excluding_tax": amount,
            "total_excluding_tax": amount });
        let part = if before_payment { "pre_payment_amount" } else { "post_payment_amount" };
        given[part] = json!(amount);
        let note = self.create(realm, "credit_note", given, &cause);
        let sum = invoiced[field].as_i64().unwrap_or_default() + amount;
        self.update(realm, "invoice", invoice, &json!({ field: sum }), &cause);
        (*note).clone()
    }
}
