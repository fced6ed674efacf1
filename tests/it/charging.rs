//! Usage that is charged through a (fake) Stripe. The values of every situation are computed by hand.

mod again;
mod endings;
mod faults;
mod items;
mod meters;
mod months;
mod nightly;
mod prices;
mod set_up;

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::fake_stripe::{Account, FakeStripe, TEST_KEY};
use crate::support::requests::{Time, Usage, org, rate_card, usage};
use crate::support::world::{Setup, time, until};
use crate::support::{Daemon, SECRET, World};

/// A world beside a fake Stripe, on one clock. The account has a licensed price of 20 dollars (`price_pro`).
pub(crate) struct Shop {
    pub fake: FakeStripe,
    pub world: World,
}

/// The first instant of a shop.
pub(crate) const OPENING: &str = "2026-11-01T00:00:00Z";

fn settings(stripe: &str) -> [(&str, &str); 6] {
    [
        ("STRIPE_SECRET_KEY", TEST_KEY),
        ("COULOMB_STRIPE_API_BASE", stripe),
        ("COULOMB_STRIPE_REQUESTS_PER_SECOND", "100"),
        ("COULOMB_STRIPE_PULL_S", "1"),
        ("COULOMB_STRIPE_USAGE_S", "1"),
        ("COULOMB_STRIPE_FREEZE_AFTER_S", "0"),
    ]
}

impl Shop {
    /// A shop with the meter `tokens`, of which a thousand cost 0.25 dollars, on the opening.
    pub(crate) async fn open() -> Self {
        Self::open_with(|setup| setup).await
    }

    /// A shop with acme, which pays for `tokens` by the meter `mtr_1` at Stripe.
    pub(crate) async fn with_meter(way: &str, window: Option<&str>) -> Self {
        let shop = Self::open().await;
        shop.customer("acme").await;
        shop.stripe_meter("mtr_1", window);
        shop.subscribe("acme", &["price_pro", "price_mtr_1"]).await;
        shop.way("tokens", json!({ "way": way, "stripe_meter": "mtr_1" })).await;
        shop
    }

    /// A shop with acme, whose subscription has the plan alone. `tokens` go to Stripe as totals of hours.
    pub(crate) async fn without_price() -> Self {
        let shop = Self::open().await;
        shop.customer("acme").await;
        shop.stripe_meter("mtr_1", Some("hour"));
        shop.subscribe("acme", &["price_pro"]).await;
        shop.way("tokens", json!({ "way": "totals", "stripe_meter": "mtr_1" })).await;
        shop
    }

    /// Starts the daemon again, after a change of the database.
    pub(crate) fn restart_after(&mut self, change: &str) {
        self.world.daemons.clear();
        self.world.execute(change);
        let settings = settings(self.fake.url());
        let daemon = Daemon::clocked_with(&self.world.database, self.world.clock(), &settings);
        self.world.daemons.push(daemon);
    }

    pub(crate) async fn open_with(more: impl FnOnce(Setup) -> Setup) -> Self {
        let fake = FakeStripe::start_at(time(OPENING).timestamp());
        let account = fake.account("");
        account.create("product", json!({ "id": "prod_1" }));
        account.create(
            "price",
            json!({ "id": "price_pro", "product": "prod_1", "unit_amount": 2000,
                "recurring": { "interval": "month" } }),
        );
        let setup = settings(fake.url())
            .iter()
            .fold(World::new().at(OPENING), |setup, (name, value)| setup.setting(name, value))
            .meter("tokens")
            .with(rate_card("tokens", json!([{ "unit_cost": "0.00025" }])).since("2026-01-01T00:00:00Z"));
        let world = more(setup).start().await;
        fake.set_endpoint(&format!("{}/webhooks/stripe", world.daemon().base), SECRET);
        let shop = Self { fake, world };
        shop.told().await;
        shop
    }

    pub(crate) fn account(&self) -> Account {
        self.fake.account("")
    }

    /// Adds an org with a customer (`cus_<org>`) that has a card.
    pub(crate) async fn customer(&self, name: &str) {
        self.world.send(org(name)).await.ok();
        self.account().create(
            "customer",
            json!({ "id": format!("cus_{name}"), "metadata": { "org_id": name },
                "invoice_settings": { "default_payment_method": "pm_1" } }),
        );
        self.told().await;
    }

    /// Adds a meter at Stripe with a price of a cent a thousand units (`price_<id>`).
    pub(crate) fn stripe_meter(&self, id: &str, window: Option<&str>) {
        let account = self.account();
        account.create(
            "billing.meter",
            json!({ "id": id, "event_name": id, "display_name": id, "event_time_window": window }),
        );
        account.create(
            "price",
            json!({ "id": format!("price_{id}"), "product": "prod_1", "unit_amount_decimal": "0.001",
                "unit_amount": null,
                "recurring": { "interval": "month", "usage_type": "metered", "meter": id } }),
        );
    }

    /// Subscribes an org's customer to prices.
    pub(crate) async fn subscribe(&self, name: &str, prices: &[&str]) -> String {
        let items: Vec<Value> = prices.iter().map(|price| json!({ "price": price })).collect();
        let made = self.account().subscribe(json!({ "customer": format!("cus_{name}"), "items": items }));
        self.told().await;
        made["id"].as_str().expect("an id").to_owned()
    }

    /// Lets a meter go to Stripe.
    pub(crate) async fn way(&self, meter: &str, body: Value) {
        self.world.put(&format!("/v1/stripe/meters/{meter}"), body).await.status(200);
    }

    /// Lets both clocks go to a time. What is due at Stripe happens on its way.
    pub(crate) async fn turn(&self, to: &str) {
        self.fake.advance_to(time(to).timestamp());
        self.world.turn(to);
        self.told().await;
    }

    /// Delivers what Stripe tells, and waits until it is projected.
    pub(crate) async fn told(&self) {
        let mut refused = 0;
        while self.fake.waiting() > 0 {
            // Stripe delivers again what was answered 503, as a busy machine may answer.
            if self.fake.deliver_all().await > 0 {
                refused += 1;
                assert!(refused < 60, "{:?}", self.fake.deliveries().last());
                tokio::time::sleep(std::time::Duration::from_millis(500)).await;
            }
        }
        self.world.daemon().projected().await;
    }

    /// Waits until usage that came is planned and sent, and the day's comparison is over: else it would see
    /// the next time of a test whose clock jumps. What a turn does after planning may still go on.
    pub(crate) async fn settled(&self) {
        // Planning is due when a second passed.
        let clock = self.world.clock();
        let next = clock.now() + chrono::TimeDelta::seconds(1);
        self.turn(&next.rfc3339()).await;
        let scanned = format!(
            "SELECT (NOT EXISTS (SELECT FROM stripe_meters WHERE stripe_meter_id IS NOT NULL
                     AND NOT discarded AND scanned_until IS DISTINCT FROM '{0}')
                 AND NOT EXISTS (SELECT FROM stripe_charges WHERE state = 'planned'
                     AND next_attempt_at <= '{0}')
                 AND (extract(hour FROM '{0}'::timestamptz AT TIME ZONE 'UTC') < 3
                     OR NOT EXISTS (SELECT FROM stripe_charging WHERE compared_on IS DISTINCT FROM
                         ('{0}'::timestamptz AT TIME ZONE 'UTC')::date)))::int",
            next.rfc3339()
        );
        until("usage is planned and sent", || async { self.world.number(&scanned) == 1 }).await;
    }

    /// Usage of tokens.
    pub(crate) async fn used(&self, org: &str, quantity: i64, at: &str) -> String {
        let event: Usage = usage(org, "tokens").quantity(quantity).at(at);
        let id = event.clone().json()["id"].as_str().expect("an id").to_owned();
        self.world.used(event).await;
        id
    }

    /// `state quantity/delivered reason` of each charge of an org, in the order of time.
    pub(crate) fn charges(&self) -> Vec<String> {
        let sql = "SELECT string_agg(concat_ws(' ', to_char(period_start AT TIME ZONE 'UTC', 'DD HH24:MI'),
                 state, concat(trim_scale(quantity), '/', trim_scale(delivered)),
                 CASE WHEN moved <> 0 THEN concat('-', trim_scale(moved)) END,
                 CASE WHEN carried <> 0 THEN concat('+', trim_scale(carried)) END, amount, reason), '|'
                 ORDER BY org_id, period_start, part, charge_id) FROM stripe_charges";
        let all = self.world.value(sql).unwrap_or_default();
        all.split('|').filter(|one| !one.is_empty()).map(str::to_owned).collect()
    }

    /// What the fake sums of a customer between two times.
    pub(crate) fn total(&self, meter: &str, org: &str, from: &str, to: &str) -> String {
        let second = |text: &str| time(text).timestamp();
        let sum = self.account().meter_total(meter, &format!("cus_{org}"), second(from), second(to));
        sum.normalize().to_string()
    }

    /// `status total: line, line …` of each invoice of an org's customer, the oldest first.
    pub(crate) fn invoices(&self, org: &str) -> Vec<String> {
        let customer = format!("cus_{org}");
        let mut all = self.account().all("invoice");
        all.retain(|invoice| invoice["customer"] == customer.as_str());
        let line = |line: &Value| line["amount"].to_string();
        let shown = |invoice: &Value| {
            let lines: Vec<String> =
                invoice["lines"]["data"].as_array().expect("lines").iter().map(line).collect();
            format!(
                "{} {}: {}",
                invoice["status"].as_str().expect("a status"),
                invoice["total"],
                lines.join(" ")
            )
        };
        all.iter().map(shown).collect()
    }

    /// Waits until something holds of the shop, while Stripe's events are delivered. The clocks go on a
    /// little: usage is planned once a second, and that may have been before an event was projected.
    pub(crate) async fn until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for round in 1..1500 {
            if is_so(self) {
                return;
            }
            if round % 100 == 0 {
                let next = self.world.clock().now() + chrono::TimeDelta::seconds(1);
                self.turn(&next.rfc3339()).await;
            }
            self.fake.deliver_all().await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let freezes = self.world.value("SELECT json_agg(f)::text FROM stripe_freezes f");
        let items = self.account().all("invoiceitem");
        panic!("not true: {what}\n{:#?}\n{items:#?}\n{freezes:?}", self.charges());
    }
}
