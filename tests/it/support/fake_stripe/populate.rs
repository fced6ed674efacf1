//! Fills an account with what a business leaves behind in a hundred days.

use serde_json::{Value, json};

use super::Account;
use super::random::Random;
use super::state::{Clock, RealmName, State};
use super::store::Cause;

/// How far back the account begins, in seconds.
const SPAN: i64 = 100 * 86_400;
impl Account {
    /// Makes at least so many objects with their events, and not many more. A few fall into one second. The
    /// same seed makes the same account.
    pub fn populate(&self, objects: usize, seed: u64) {
        self.handle.lock().populate(&self.realm, objects, seed);
    }

    /// Changes so many things as life does: customers come and go, invoices are paid, refunded, disputed.
    pub fn mutate(&self, changes: usize, seed: u64) {
        let mut random = Random::new(seed);
        for _ in 0..changes {
            self.handle.lock().act(&self.realm, &mut random);
        }
    }
}

impl State {
    fn populate(&mut self, realm: &RealmName, objects: usize, seed: u64) {
        let mut random = Random::new(seed);
        let clock = self.clock;
        let now = self.now();
        self.clock = Clock::Fixed(now - SPAN);
        self.make_catalogue(realm, &mut random);
        let before = self.realm(realm).len();
        let mut made = 0;
        while made < objects {
            // The share of objects that are made is the share of the time that is over, so that the last ones
            // are of now. Three acts fall into one second.
            let share =
                i64::try_from(made).expect("a count") * SPAN / i64::try_from(objects).expect("a count");
            self.advance_to(now - SPAN + share);
            for _ in 0..3 {
                self.act(realm, &mut random);
            }
            made = self.realm(realm).len() - before;
        }
        self.advance_to(now);
        self.clock = clock;
    }

    /// Products, prices, coupons, tax rates, a meter and a test clock, unless they are there.
    fn make_catalogue(&mut self, realm: &RealmName, random: &mut Random) {
        if self.realm(realm).find("product", "prod_plan0").is_some() {
            return;
        }
        let cause = Cause::default();
        let mut make = |kind: &str, fields: Value| self.create(realm, kind, fields, &cause);
        let window = json!({ "id": "mtr_tokens", "display_name": "Tokens", "event_name": "tokens",
            "event_time_window": "hour" });
        make("billing.meter", window);
        make("test_helpers.test_clock", json!({ "id": "clock_one", "name": "One" }));
        make("tax_rate", json!({ "percentage": 19.0 }));
        make("tax_rate", json!({ "percentage": 7.0, "inclusive": true, "active": false }));
        for (number, percent) in [10, 20, 50].into_iter().enumerate() {
            let coupon = format!("SAVE{percent}");
            make("coupon", json!({ "id": coupon, "percent_off": percent, "name": "Welcome" }));
            let code = format!("WELCOME{number}");
            let promotion = json!({ "type": "coupon", "coupon": coupon });
            make("promotion_code", json!({ "code": code, "promotion": promotion }));
        }
        for number in 0..5 {
            let product = format!("prod_plan{number}");
            make("product", json!({ "id": product, "name": format!("Plan {number}"), "active": number < 4 }));
            let month = 900 + 100 * random.between(0, 40);
            for (interval, amount) in [("month", month), ("year", month * 10)] {
                make(
                    "price",
                    json!({ "id": format!("price_{interval}{number}"), "product": product,
                    "unit_amount": amount, "recurring": { "interval": interval },
                    "nickname": format!("Plan {number}, each {interval}"), "active": number < 4 }),
                );
            }
        }
        make("product", json!({ "id": "prod_tokens", "name": "Tokens" }));
        make(
            "price",
            json!({ "id": "price_tokens", "product": "prod_tokens", "unit_amount_decimal": "0.25",
            "recurring": { "interval": "month", "usage_type": "metered", "meter": "mtr_tokens" } }),
        );
        make("product", json!({ "id": "prod_pack", "name": "Pack" }));
        make("price", json!({ "id": "price_pack", "product": "prod_pack", "unit_amount": 5000 }));
    }

    /// One thing that happens in the life of a business.
    fn act(&mut self, realm: &RealmName, random: &mut Random) {
        match random.below(100) {
            0..28 => self.new_subscriber(realm, random),
            28..33 => drop(self.new_customer(realm, random)),
            33..41 => self.sell_by_invoice(realm, random),
            41..47 => self.sell_by_session(realm, random),
            _ => self.change_something(realm, random),
        }
    }

    /// A customer. Most name their org and have a card; a few belong to the test clock.
    pub(super) fn new_customer(&mut self, realm: &RealmName, random: &mut Random) -> Value {
        let number = self.number();
        let mut given = json!({ "name": format!("Customer {number}"), "currency": "usd",
            "email": format!("customer{number}@example.com") });
        if random.chance(0.85) {
            given["metadata"] = json!({ "org_id": format!("org_{number}") });
        }
        if random.chance(0.9) {
            given["invoice_settings"] = json!({ "default_payment_method": format!("pm_{number}") });
        }
        if random.chance(0.03) && self.realm(realm).find("test_helpers.test_clock", "clock_one").is_some() {
            given["test_clock"] = json!("clock_one");
        }
        let cause = Cause::default();
        let customer = self.create(realm, "customer", given, &cause);
        if random.chance(0.15) {
            let given =
                json!({ "customer": customer["id"], "value": format!("DE{:09}", number % 1_000_000_000) });
            self.create(realm, "tax_id", given, &cause);
        }
        (*customer).clone()
    }

    fn new_subscriber(&mut self, realm: &RealmName, random: &mut Random) {
        let customer = self.new_customer(realm, random);
        let interval = if random.chance(0.9) { "month" } else { "year" };
        let price = format!("price_{interval}{}", random.below(4));
        let mut items = vec![json!({ "price": price, "quantity": random.between(1, 5) })];
        if random.chance(0.3) {
            items.push(json!({ "price": "price_tokens" }));
        }
        let cause = Cause::default();
        if random.chance(0.05) {
            let inline = json!({ "_inline": true, "product": "prod_pack", "unit_amount": 1234,
                "recurring": { "interval": "month" } });
            let inline = self.create(realm, "price", inline, &cause);
            items = vec![json!({ "price": inline["id"] })];
        }
        let mut given = json!({ "customer": customer["id"], "items": items });
        if random.chance(0.1) {
            given["trial_period_days"] = json!(14);
        }
        if random.chance(0.05) {
            given["collection_method"] = json!("send_invoice");
            given["days_until_due"] = json!(30);
        }
        self.subscribe(realm, given, &cause);
        self.use_tokens(realm, &customer, random);
    }

    pub(super) fn use_tokens(&mut self, realm: &RealmName, customer: &Value, random: &mut Random) {
        let payload =
            json!({ "stripe_customer_id": customer["id"], "value": random.between(1, 900).to_string() });
        let given = json!({ "event_name": "tokens", "payload": payload });
        let taken = self.take_meter_event(realm, &given);
        debug_assert!(taken.is_ok(), "a new identifier at the current time");
    }

    /// An invoice of 1 to 40 lines: mostly few.
    fn sell_by_invoice(&mut self, realm: &RealmName, random: &mut Random) {
        let customer = self.new_customer(realm, random);
        let most = if random.chance(0.2) { 40 } else { 4 };
        let details = json!({ "price": "price_pack", "product": "prod_pack" });
        let pricing =
            json!({ "type": "price_details", "price_details": details, "unit_amount_decimal": "5000" });
        let lines: Vec<Value> = (0..random.between(1, most))
            .map(|_| {
                let quantity = random.between(1, 3);
                json!({ "amount": 5000 * quantity, "quantity": quantity, "description": "Pack",
                    "pricing": pricing })
            })
            .collect();
        let cause = Cause::default();
        let given = json!({ "customer": customer["id"], "lines": lines });
        let invoice = self.create(realm, "invoice", given, &cause);
        let id = invoice["id"].as_str().unwrap_or_default();
        if random.chance(0.9) {
            self.finalise(realm, id, &cause);
        }
        if random.chance(0.7) {
            self.collect(realm, id, &cause);
        }
    }

    fn sell_by_session(&mut self, realm: &RealmName, random: &mut Random) {
        let customer = self.new_customer(realm, random);
        let items: Vec<Value> = (0..random.between(1, 12))
            .map(|_| json!({ "amount_total": 5000, "quantity": 1, "description": "Pack", "currency": "usd" }))
            .collect();
        let total = 5000 * i64::try_from(items.len()).expect("a count");
        let cause = Cause::default();
        let given = json!({ "customer": customer["id"], "line_items": items, "amount_total": total,
            "amount_subtotal": total, "client_reference_id": customer["metadata"]["org_id"] });
        let session = self.create(realm, "checkout.session", given, &cause);
        let id = session["id"].as_str().unwrap_or_default().to_owned();
        if random.chance(0.2) {
            self.update(realm, "checkout.session", &id, &json!({ "status": "expired" }), &cause);
            return;
        }
        let intent = json!({ "amount": total, "currency": "usd", "customer": customer["id"] });
        let intent = self.create(realm, "payment_intent", intent, &cause)["id"].clone();
        let charge = json!({ "amount": total, "currency": "usd", "customer": customer["id"],
            "payment_intent": intent });
        let charge = self.create(realm, "charge", charge, &cause)["id"].clone();
        let succeeded = json!({ "status": "succeeded", "latest_charge": charge });
        self.update(realm, "payment_intent", intent.as_str().unwrap_or_default(), &succeeded, &cause);
        let done = json!({ "status": "complete", "payment_status": "paid", "payment_intent": intent });
        self.update(realm, "checkout.session", &id, &done, &cause);
    }
}
