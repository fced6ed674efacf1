//! A database in which most requested ids exist, so that hostile values get past the first checks.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, invoice, purchase, subscription};
use crate::support::{Daemon, Database};

/// The ids in the database.
pub(super) struct Seed {
    /// A key with all rights.
    pub(super) key: String,
    /// Cursors from the daemon, and forged ones.
    pub(super) cursors: Vec<String>,
    acme: String,
    quota: String,
    grant: String,
    endpoint: String,
    reservation: String,
    invoice: String,
    payment: String,
    credit_note: String,
    refund: String,
}

impl Seed {
    pub(super) async fn make(database: &Database, daemon: &Daemon) -> Self {
        let key = database.key("admin", None);
        let send = async |method: Method, path: &str, body: Value| -> Value {
            let (status, made) = answer(daemon.request(method, path, &key).json(&body)).await;
            assert!(status.is_success(), "{path}: {status} {made}");
            made
        };
        let mut acme = String::new();
        for org in ["acme", "beta", "gamma"] {
            let made = send(Method::POST, "/v1/orgs", json!({ "name": org, "external_id": org })).await;
            let body = json!({ "org": made["id"], "name": org, "scopes": ["usage:read"] });
            acme = if org == "acme" { text(&made["id"]) } else { acme };
            send(Method::POST, "/v1/keys", body).await;
        }
        let mut endpoint = String::new();
        for _ in 0..2 {
            // Nothing is sent: the name has no address.
            let body = json!({ "url": "https://hook.invalid/" });
            endpoint = text(&send(Method::POST, "/v1/message_endpoints", body).await["id"]);
        }
        for meter in ["tokens", "calls"] {
            let body = json!({ "key": meter, "event_name": "llm.call", "aggregation": "sum",
                "value_field": "tokens", "dimensions": ["model"] });
            send(Method::POST, "/v1/meters", body).await;
            for cost in ["0.5", "0.25"] {
                let body =
                    json!({ "currency": "usd", "rates": [{ "unit_cost": cost, "battery_units": "0.1" }] });
                send(Method::POST, &format!("/v1/meters/{meter}/rate_cards"), body).await;
            }
            let event = json!({ "id": meter, "org": "acme", "event_name": "llm.call", "member": meter,
                "data": { "tokens": 12, "model": meter } });
            send(Method::POST, "/v1/usage", event).await;
        }
        for plan in ["basic", "pro"] {
            let price = json!({ "amount": 2000, "currency": "usd", "stripe_price": format!("price_{plan}") });
            let body = json!({ "name": plan, "monthly": price, "battery_units": "10", "daily_battery": "1" });
            send(Method::PUT, &format!("/v1/plans/{plan}"), body).await;
            let body = json!({ "name": plan, "units": "5", "stripe_prices": [format!("price_pack_{plan}")] });
            send(Method::PUT, &format!("/v1/battery/packs/{plan}"), body).await;
        }
        send(Method::POST, "/v1/orgs/acme/subscription", json!({ "plan": "basic", "paid": true })).await;
        send(Method::POST, "/v1/orgs/acme/subscription/cancel", json!({ "at_period_end": false })).await;
        send(Method::POST, "/v1/orgs/acme/subscription", json!({ "plan": "pro", "paid": true })).await;
        let mut quota = String::new();
        for period in ["day", "month"] {
            let limit = json!({ "org": "acme", "meter": "tokens", "period": period, "limit": "1000000",
                "per_subject": true, "thresholds": ["0.000001"] });
            quota = text(&send(Method::POST, "/v1/quotas", limit).await["id"]);
            let exempt = json!({ "org": "acme", "meter": "tokens", "period": period, "per_subject": true,
                "subject": "s", "reason": "r" });
            send(Method::POST, "/v1/quota_exemptions", exempt).await;
            for subject in ["a", "b"] {
                let event = json!({ "id": format!("{period}{subject}"), "org": "acme",
                    "event_name": "llm.call", "subject": subject, "data": { "tokens": 1 } });
                send(Method::POST, "/v1/usage", event).await;
            }
        }
        let mut grant = String::new();
        for reason in ["one", "two"] {
            let body = json!({ "org": "acme", "amount": "100", "reason": reason });
            grant = text(&send(Method::POST, "/v1/battery/grants", body).await["id"]);
        }
        let reserve =
            json!({ "org": "acme", "meter": "tokens", "amount": "5", "subject": "a", "expires_in_s": 600 });
        let reservation = text(&send(Method::POST, "/v1/quota/reserve", reserve).await["id"]);
        mirrors(daemon).await;
        let mut ids = Vec::new();
        let mut last = (String::new(), String::new());
        for (path, body) in settings_of_invoices() {
            send(Method::PUT, path, body).await;
        }
        for n in 1..3 {
            let item = json!({ "description": "work", "unit_price": "10" });
            send(Method::POST, "/v1/orgs/acme/invoice_items", item.clone()).await;
            let invoice = json!({ "org": "acme", "items": [item], "take_items": false, "finalize": true });
            let invoice = text(&send(Method::POST, "/v1/invoices", invoice).await["id"]);
            let payment = json!({ "org": "acme", "amount": 500, "currency": "usd", "processor": "paypal",
                "reference": format!("seed-{n}") });
            let payment = text(&send(Method::POST, "/v1/payments", payment).await["id"]);
            let note =
                json!({ "invoice": invoice, "reason": "why", "lines": [{ "line": 1, "amount": 100 }] });
            let note = text(&send(Method::POST, "/v1/credit_notes", note).await["id"]);
            let back = json!({ "amount": 100, "reason": "why" });
            let back = text(&send(Method::POST, &format!("/v1/payments/{payment}/refund"), back).await["id"]);
            last = (invoice, payment);
            ids = vec![note, back];
        }
        let (invoice, payment) = last;
        let [credit_note, refund] = ids.try_into().expect("two");
        Self {
            key,
            cursors: Vec::new(),
            acme,
            quota,
            grant,
            endpoint,
            reservation,
            invoice,
            payment,
            credit_note,
            refund,
        }
    }

    /// The value of a path parameter.
    pub(super) fn path(&self, path: &str, name: &str) -> String {
        let known = match (path, name) {
            (_, "key") => "tokens",
            (_, "code") => "ONE",
            (_, "org") => "acme",
            (_, "customer_id") => "cus_1",
            (_, "inbox_id" | "sequence") => "1",
            (path, _) if path.starts_with("/v1/orgs/") => &self.acme,
            (path, _) if path.starts_with("/v1/plans/") => "pro",
            (path, _) if path.starts_with("/v1/quotas/") => &self.quota,
            (path, _) if path.starts_with("/v1/quota/") => &self.reservation,
            (path, _) if path.starts_with("/v1/battery/grants/") => &self.grant,
            (path, _) if path.starts_with("/v1/message_endpoints/") => &self.endpoint,
            (path, _) if path.starts_with("/v1/battery/packs/") => "pro",
            (path, _) if path.starts_with("/v1/battery/effects/") => "1",
            (path, _) if path.starts_with("/v1/customers/") => "cus_1",
            (path, _) if path.starts_with("/v1/subscriptions/") => "sub_1",
            (path, _) if path.starts_with("/v1/invoices/") => &self.invoice,
            (path, _) if path.starts_with("/v1/payments/") => &self.payment,
            (path, _) if path.starts_with("/v1/credit_notes/") => &self.credit_note,
            (path, _) if path.starts_with("/v1/refunds/") => &self.refund,
            (path, _) if path.starts_with("/v1/sellers/") => "one",
            (path, _) if path.starts_with("/v1/tax_rates/") => "one",
            (path, _) if path.starts_with("/v1/payment_accounts/") => "one",
            _ => "some_1",
        };
        known.to_owned()
    }

    /// The value of a body's field, where its name shows what it means.
    pub(super) fn field(&self, path: &str, name: &str) -> Option<Value> {
        Some(match name {
            "org" => json!("acme"),
            "meter" => json!("tokens"),
            "plan" => json!("pro"),
            "event_name" | "type" => json!("llm.call"),
            "reason" => json!("why"),
            "amount" if is_money(path) => json!(1),
            "amount" | "units" | "limit" | "debt_limit" => json!("1"),
            "percent" => json!("5"),
            "seller" => json!("one"),
            "invoice" => json!(self.invoice),
            "currency" => json!("usd"),
            "scopes" => json!(["usage:read"]),
            "month" => json!("2026-01"),
            "id" if path.starts_with("/v1/usage/") => json!("calls"),
            "key" if path == "/v1/meters" => json!("words"),
            "aggregation" => json!("count"),
            "version" | "from" | "to" => json!(1),
            _ => return None,
        })
    }
}

/// Whether the path takes amounts of money, which are whole numbers.
fn is_money(path: &str) -> bool {
    path.starts_with("/v1/payments") || path.ends_with("/account/adjustments")
}

/// Two of each, for invoices of our own.
fn settings_of_invoices() -> Vec<(&'static str, Value)> {
    let party = json!({ "name": "somebody" });
    let rate = json!({ "name": "VAT", "category": "S", "percent": "5" });
    let coupon = json!({ "name": "C", "percent": "5" });
    let account = json!({ "seller": "one", "name": "bank", "shown": true });
    let settings = json!({ "tax_rate": "one" });
    let seller = |first: bool| json!({ "party": party, "settings": settings, "default": first });
    vec![
        ("/v1/tax_rates/one", rate.clone()),
        ("/v1/tax_rates/two", rate),
        ("/v1/sellers/one", seller(true)),
        ("/v1/sellers/two", seller(false)),
        ("/v1/coupons/ONE", coupon.clone()),
        ("/v1/coupons/TWO", coupon),
        ("/v1/payment_accounts/one", account.clone()),
        ("/v1/payment_accounts/two", account),
        ("/v1/orgs/acme/billing", json!({ "party": party, "currency": "usd", "automatic": false })),
        ("/v1/orgs/acme/coupons/ONE", json!({})),
    ]
}

async fn mirrors(daemon: &Daemon) {
    let mut events = purchase();
    let object = |kind: &str, id: &str, more: Value| {
        let mut object = json!({ "id": id, "object": kind, "created": 1_760_000_000, "livemode": false,
            "currency": "usd", "metadata": {}, "amount": 5, "status": "succeeded" });
        object.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        object
    };
    for n in 2..4 {
        let id = |kind: &str| format!("{kind}_{n}");
        let of =
            json!({ "payment_intent": "pi_1", "charge": "ch_1", "customer": "cus_1", "invoice": "in_1" });
        let product = object("product", &id("prod"), json!({ "name": "p", "active": true }));
        let price = object(
            "price",
            &id("price"),
            json!({ "product": "prod_2", "active": true, "unit_amount": 5, "type": "one_time" }),
        );
        let note = json!({ "customer": "cus_1", "invoice": "in_1", "status": "issued", "total": 5,
            "subtotal": 5, "number": "C" });
        events.extend([
            event(&id("evt_c"), "customer.created", 1_760_000_000, customer(&id("cus"), Some("acme"))),
            event(
                &id("evt_s"),
                "customer.subscription.created",
                1_760_000_000,
                subscription(&id("sub"), "cus_1", "active", "price_pro"),
            ),
            event(&id("evt_i"), "invoice.created", 1_760_000_000, invoice(&id("in"), "cus_1", "open", 2000)),
            event(
                &id("evt_p"),
                "payment_intent.created",
                1_760_000_000,
                object("payment_intent", &id("pi"), json!({ "customer": "cus_1" })),
            ),
            event(&id("evt_r"), "refund.created", 1_760_000_000, object("refund", &id("re"), of.clone())),
            event(&id("evt_d"), "charge.dispute.created", 1_760_000_000, object("dispute", &id("dp"), of)),
            event(&id("evt_n"), "credit_note.created", 1_760_000_000, object("credit_note", &id("cn"), note)),
            event(&id("evt_o"), "product.created", 1_760_000_000, product),
            event(&id("evt_q"), "price.created", 1_760_000_000, price),
        ]);
    }
    daemon.deliver_all(&events).await;
    daemon.projected().await;
}

fn text(id: &Value) -> String {
    id.as_str().unwrap_or_else(|| panic!("an id: {id}")).to_owned()
}
