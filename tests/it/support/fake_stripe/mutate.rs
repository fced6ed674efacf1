//! Changes of what is there, as life brings them.

use std::sync::Arc;

use serde_json::{Value, json};

use super::random::Random;
use super::state::{RealmName, State};
use super::store::Cause;

impl State {
    /// An object of this kind that is not deleted and fits, near a random moment. `None`: none is near.
    fn any(
        &self,
        realm: &RealmName,
        kind: &str,
        random: &mut Random,
        fits: impl Fn(&Value) -> bool,
    ) -> Option<(String, Arc<Value>)> {
        let order = &self.realm(realm).table(kind)?.order;
        let (first, last) = (order.keys().next()?.0, order.keys().next_back()?.0);
        let from = (random.between(first, last), random.below(1000));
        let around = order.range(from..).take(20).chain(order.range(..from).rev().take(20));
        let found = around.map(|(_, entry)| entry).find(|entry| !entry.deleted && fits(&entry.value))?;
        let id = found.value["id"].as_str().unwrap_or_default().to_owned();
        Some((id, Arc::clone(&found.value)))
    }

    /// Changes one thing. What finds no object to change does nothing.
    pub(super) fn change_something(&mut self, realm: &RealmName, random: &mut Random) {
        match random.below(53) {
            0..9 => self.change_customer(realm, random),
            9..13 => self.return_money(realm, random),
            13..17 => self.dispute_something(realm, random),
            17..21 => self.credit_something(realm, random),
            21..25 => self.give_up_invoice(realm, random),
            25..32 => self.end_subscription(realm, random),
            32..38 => self.switch_plan(realm, random),
            38..40 => self.delete_something(realm, random),
            40..44 => self.add_pending_item(realm, random),
            44..47 => self.change_catalogue(realm, random),
            _ => self.use_more(realm, random),
        };
    }

    fn put(&mut self, realm: &RealmName, kind: &str, id: &str, changes: &Value) {
        self.update(realm, kind, id, changes, &Cause::default());
    }

    fn change_customer(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let (id, customer) = self.any(realm, "customer", random, |_| true)?;
        let changes = match random.below(4) {
            0 => json!({ "name": format!("Renamed {}", random.below(1000)) }),
            1 => json!({ "metadata": { "note": random.below(1000).to_string() } }),
            2 => json!({ "email": format!("new{}@example.com", random.below(1000)) }),
            _ if customer["metadata"]["org_id"].is_null() => {
                json!({ "metadata": { "org_id": format!("org_{id}") } })
            }
            _ => json!({ "metadata": { "note": null }, "description": "Without a note" }),
        };
        self.put(realm, "customer", &id, &changes);
        Some(())
    }

    /// A refund of a part or the rest; a few refunds fail later.
    fn return_money(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        if random.chance(0.15)
            && let Some((id, refund)) =
                self.any(realm, "refund", random, |refund| refund["status"] == "succeeded")
        {
            self.put(realm, "refund", &id, &json!({ "status": "failed" }));
            let charge = refund["charge"].as_str()?.to_owned();
            let charged = Arc::clone(&self.realm(realm).find("charge", &charge)?.value);
            let left = charged["amount_refunded"].as_i64()? - refund["amount"].as_i64()?;
            self.put(realm, "charge", &charge, &json!({ "amount_refunded": left }));
            return Some(());
        }
        let open = |charge: &Value| charge["status"] == "succeeded" && charge["refunded"] == false;
        let (id, charge) = self.any(realm, "charge", random, open)?;
        let left = charge["amount"].as_i64()? - charge["amount_refunded"].as_i64()?;
        let amount = if random.chance(0.5) { left } else { (left / 3).max(1) };
        self.refund(realm, &id, amount);
        Some(())
    }

    fn dispute_something(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let is_open = |dispute: &Value| !matches!(dispute["status"].as_str(), Some("won" | "lost"));
        if random.chance(0.5)
            && let Some((id, _)) = self.any(realm, "dispute", random, is_open)
        {
            let status = *random.pick(&["under_review", "won", "lost"]);
            self.put(realm, "dispute", &id, &json!({ "status": status }));
            return Some(());
        }
        let (id, _) = self.any(realm, "charge", random, |charge| {
            charge["status"] == "succeeded" && charge["disputed"] == false
        })?;
        self.dispute(realm, &id);
        Some(())
    }

    fn credit_something(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let (id, invoice) = self.any(realm, "invoice", random, |invoice| {
            matches!(invoice["status"].as_str(), Some("open" | "paid"))
                && invoice["post_payment_credit_notes_amount"] == 0
                && invoice["amount_remaining"].as_i64() != invoice["amount_paid"].as_i64()
        })?;
        let total = invoice["total"].as_i64()?;
        self.credit(realm, &id, (total / 4).max(1));
        Some(())
    }

    fn give_up_invoice(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let is_open = |invoice: &Value| invoice["status"] == "open";
        let (id, _) = self.any(realm, "invoice", random, is_open)?;
        let status = *random.pick(&["void", "uncollectible", "paid"]);
        self.put(realm, "invoice", &id, &json!({ "status": status }));
        Some(())
    }

    fn end_subscription(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let runs = |subscription: &Value| {
            matches!(subscription["status"].as_str(), Some("active" | "past_due" | "trialing"))
        };
        let (id, subscription) = self.any(realm, "subscription", random, runs)?;
        if random.chance(0.5) {
            self.cancel(realm, &id, &Cause::default());
            return Some(());
        }
        let ends = subscription["cancel_at_period_end"] != true;
        let at =
            if ends { subscription["items"]["data"][0]["current_period_end"].clone() } else { Value::Null };
        let canceled_at = if ends { json!(self.now_for(realm, &subscription)) } else { Value::Null };
        let changes = json!({ "cancel_at_period_end": ends, "cancel_at": at, "canceled_at": canceled_at });
        self.put(realm, "subscription", &id, &changes);
        Some(())
    }

    fn switch_plan(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let runs = |subscription: &Value| subscription["status"] == "active";
        let (id, subscription) = self.any(realm, "subscription", random, runs)?;
        let price = format!("price_month{}", random.below(4));
        let price = self.realm(realm).find("price", &price)?.value.clone();
        let mut items = subscription["items"]["data"].clone();
        items[0]["quantity"] = json!(random.between(1, 9));
        if items[0]["price"]["recurring"]["interval"] == "month" {
            items[0]["price"] = (*price).clone();
        }
        self.put(realm, "subscription", &id, &json!({ "items": { "data": items } }));
        Some(())
    }

    fn delete_something(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let (kind, fits): (&str, fn(&Value) -> bool) = match random.below(4) {
            0 => ("invoice", |invoice| invoice["status"] == "draft"),
            1 => ("invoiceitem", |item| item["invoice"].is_null()),
            2 => ("tax_id", |_| true),
            _ => ("customer", |_| true),
        };
        let (id, _) = self.any(realm, kind, random, fits)?;
        self.delete(realm, kind, &id, &Cause::default());
        Some(())
    }

    fn add_pending_item(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let (_, subscription) = self.any(realm, "subscription", random, |it| it["status"] == "active")?;
        let amount = random.between(1, 5000);
        let given = json!({ "customer": subscription["customer"], "amount": amount, "net_amount": amount,
            "description": "Extra" });
        self.create(realm, "invoiceitem", given, &Cause::default());
        Some(())
    }

    fn change_catalogue(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let kind = *random.pick(&["product", "price", "promotion_code", "tax_rate"]);
        let (id, object) = self.any(realm, kind, random, |_| true)?;
        let active = object["active"] != true;
        let note = json!({ "note": random.below(1000).to_string() });
        self.put(realm, kind, &id, &json!({ "active": active, "metadata": note }));
        Some(())
    }

    fn use_more(&mut self, realm: &RealmName, random: &mut Random) -> Option<()> {
        let (_, customer) = self.any(realm, "customer", random, |_| true)?;
        self.use_tokens(realm, &customer, random);
        Some(())
    }
}
