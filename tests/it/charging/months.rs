//! A month of usage of many orgs, three ways at once, while Stripe fails, daemons are killed, and usage comes
//! late and is taken back: what Stripe bills equals our books to the unit.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::{DateTime, TimeDelta, Utc};
use serde_json::{Value, json};

use crate::support::fake_stripe::{Chances, FakeStripe, TEST_KEY};
use crate::support::{Daemon, Database, SECRET};

/// Orgs; `COULOMB_TEST_CHARGED_ORGS` sets another number.
const ORGS: usize = 20;
/// Events of each org and meter.
const EVENTS: usize = 20;
/// How long usage comes while things fail, in seconds. The period ends when all of it is sent.
const STORM: i64 = 30;
const DAYS: i64 = 30;
const HOUR: i64 = 3600;

const METERS: [(&str, &str); 3] =
    [("totals", r#""way":"totals""#), ("deltas", r#""way":"deltas""#), ("items", r#""way":"invoice_items""#)];

fn now() -> i64 {
    i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs())
        .expect("in range")
}

/// A number generator: the same seed gives the same month.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        i64::try_from((self.0 >> 33) % u64::try_from(limit).expect("above 0")).expect("in range")
    }
}

struct Month {
    fake: FakeStripe,
    database: Database,
    daemon: Daemon,
    key: String,
    /// End of every org's billing period.
    end: i64,
    orgs: usize,
    random: Random,
    sent: Vec<(String, String)>,
}

fn start(database: &Database, fake: &FakeStripe) -> Daemon {
    let daemon = Daemon::with(
        database,
        &[
            ("COULOMB_STRIPE_MODE", "test"),
            ("STRIPE_SECRET_KEY", TEST_KEY),
            ("COULOMB_STRIPE_API_BASE", fake.url()),
            ("COULOMB_STRIPE_REQUESTS_PER_SECOND", "100"),
            ("COULOMB_STRIPE_PULL_S", "1"),
            ("COULOMB_STRIPE_USAGE_S", "1"),
            ("COULOMB_STRIPE_FREEZE_AFTER_S", "0"),
        ],
    );
    fake.set_endpoint(&format!("{}/webhooks/stripe", daemon.base), SECRET);
    daemon
}

impl Month {
    async fn begin() -> Self {
        let orgs = std::env::var("COULOMB_TEST_CHARGED_ORGS").ok().and_then(|text| text.parse().ok());
        let orgs = orgs.unwrap_or(ORGS);
        let fake = FakeStripe::start_at(now());
        let database = Database::new();
        let daemon = start(&database, &fake);
        let key = database.key("billing:write,billing:read,usage:read,usage:write", None);
        let end = now() + 24 * HOUR;
        let month = Self { fake, database, daemon, key, end, orgs, random: Random(7), sent: Vec::new() };
        month.found().await;
        month
    }

    /// Makes meters, prices, customers and subscriptions.
    async fn found(&self) {
        let account = self.fake.account("");
        account.create("product", json!({ "id": "prod_1" }));
        let recurring = |meter: &str| {
            json!({ "interval": "day", "interval_count": DAYS, "usage_type": "metered",
                "meter": meter })
        };
        for (id, window) in [("mtr_totals", Some("hour")), ("mtr_deltas", None)] {
            account.create(
                "billing.meter",
                json!({ "id": id, "event_name": id, "display_name": id, "event_time_window": window }),
            );
            account.create(
                "price",
                json!({ "id": format!("price_{id}"), "product": "prod_1", "unit_amount": 1,
                    "recurring": recurring(id) }),
            );
        }
        for org in 0..self.orgs {
            self.post("/v1/orgs", json!({ "external_id": format!("org{org}"), "name": "An org" })).await;
            account.create(
                "customer",
                json!({ "id": format!("cus_{org}"), "metadata": { "org_id": format!("org{org}") },
                    "invoice_settings": { "default_payment_method": "pm_1" } }),
            );
            let items = json!([{ "price": "price_mtr_totals" }, { "price": "price_mtr_deltas" }]);
            account.subscribe(json!({ "customer": format!("cus_{org}"), "items": items,
                "start_date": self.end - DAYS * 24 * HOUR, "created": self.end - DAYS * 24 * HOUR,
                "billing_cycle_anchor": self.end - DAYS * 24 * HOUR }));
        }
        while self.fake.deliver_all().await > 0 {}
        self.daemon.projected().await;
        let since = shown(self.end - DAYS * 24 * HOUR);
        for (meter, way) in METERS {
            let body =
                json!({ "key": meter, "event_name": meter, "aggregation": "sum", "value_field": "value" });
            self.post("/v1/meters", body).await;
            let valid_from = shown(now() - 40 * 24 * HOUR);
            let card = json!({ "currency": "usd", "valid_from": valid_from, "backdate": true,
                "rates": [{ "unit_cost": "0.0003" }] });
            self.post(&format!("/v1/meters/{meter}/rate_cards"), card).await;
            let at_stripe =
                if meter == "items" { String::new() } else { format!(r#","stripe_meter":"mtr_{meter}""#) };
            let body: Value =
                serde_json::from_str(&format!(r#"{{{way}{at_stripe},"since":"{since}"}}"#)).expect("JSON");
            let path = format!("/v1/stripe/meters/{meter}");
            let set = self.daemon.request(reqwest::Method::PUT, &path, &self.key).json(&body);
            let (status, answer) = crate::support::daemon::answer(set).await;
            assert_eq!(status, 200, "{answer}");
        }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.daemon.post(path, &self.key, &body).await;
        assert!(status.is_success(), "{path} {body} {answer}");
        answer
    }

    /// Reports usage of some org, at any time of the period; sometimes takes an earlier event back.
    async fn use_some(&mut self, n: usize) {
        let org = format!("org{}", n % self.orgs);
        let mut events = Vec::new();
        for (meter, _) in METERS {
            let ago = 60 + self.random.below((DAYS - 1) * 24 * HOUR);
            let id = format!("{org}-{meter}-{n}");
            events.push(json!({ "id": id, "source": "t", "org": org, "event_name": meter,
                "occurred_at": shown(now().min(self.end) - ago),
                "data": { "value": 1 + self.random.below(50) } }));
            self.sent.push((org.clone(), id));
        }
        self.post("/v1/usage", json!(events)).await;
        if n.is_multiple_of(5) {
            let position = usize::try_from(self.random.below(self.sent.len() as i64)).expect("a place");
            let (org, id) = self.sent.swap_remove(position);
            let body = json!({ "org": org, "source": "t", "id": id, "reason": "a mistake" });
            self.post("/v1/usage/void", body).await;
        }
    }

    /// Lets every period end in some seconds, as a new anchor does: the running buckets are cut there.
    async fn end_periods_soon(&mut self) {
        // Time for the daemon to hear of it.
        self.end = now() + 20 + i64::try_from(self.orgs / 40).expect("few");
        let account = self.fake.account("");
        for subscription in account.all("subscription") {
            let mut items = subscription["items"]["data"].clone();
            for item in items.as_array_mut().expect("items") {
                item["current_period_end"] = json!(self.end);
            }
            let id = subscription["id"].as_str().expect("an id");
            account.update("subscription", id, json!({ "items": { "data": items } }));
        }
        self.fake.set_time(now());
        while self.fake.deliver_all().await > 0 {}
        self.daemon.projected().await;
    }

    fn restart(&mut self) {
        self.daemon.kill();
        self.daemon = start(&self.database, &self.fake);
    }

    fn count(&self, condition: &str) -> i64 {
        self.database.number(&format!("SELECT count(*) FROM stripe_charges WHERE {condition}"))
    }

    async fn wait_until(&self, what: &str, is_so: impl Fn(&Self) -> bool) {
        for _ in 0..3000 + 12 * self.orgs {
            if is_so(self) {
                return;
            }
            self.fake.deliver_all().await;
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let state = "SELECT string_agg(concat_ws(' ', state, way, reason, detail), E'\n') FROM
            (SELECT state, way, reason, detail FROM stripe_charges WHERE state NOT IN ('sent', 'confirmed')
             LIMIT 20) c";
        panic!("not true after a long time: {what}\n{:?}", self.database.value(state));
    }
}

fn shown(second: i64) -> String {
    let time: DateTime<Utc> = DateTime::from_timestamp(second, 0).expect("a time");
    time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stripe_bills_equals_our_books_to_the_unit_in_each_way() {
    let mut month = Month::begin().await;
    month.fake.set_faults(
        11,
        Chances {
            before: 0.03,
            after: 0.04,
            conflict: 0.02,
            hang: 0.02 / month.orgs as f64,
            cut_headers: 0.03,
            cut_body: 0.03,
        },
    );
    // Less than the daemon asks for: some requests are answered 429.
    month.fake.limit_requests(Some(80.0));
    let began = now();
    let (events, mut kills) = (month.orgs * EVENTS, 0);
    for n in 0..events {
        month.use_some(n).await;
        if n % 10 == 0 {
            month.fake.set_time(now());
            let _ = month.fake.deliver_all().await;
        }
        // About four kills, at any moment.
        if n > 0 && n % (events / 5) == usize::try_from(month.random.below(3)).expect("small") {
            month.restart();
            kills += 1;
        }
        let due = i64::try_from(n).expect("few") * STORM / i64::try_from(events).expect("few");
        if now() - began < due {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    month.restart();
    // Voids of deltas are taken off what is used later.
    for org in 0..month.orgs {
        let last = |meter: &str| {
            json!({ "id": format!("last-{meter}-{org}"), "source": "t", "org": format!("org{org}"),
                "event_name": meter, "data": { "value": 2000 } })
        };
        month.post("/v1/usage", json!([last("totals"), last("deltas"), last("items")])).await;
    }
    let usage_came = shown(now() + 1);
    month
        .wait_until("all usage of the period is sent", |month| {
            month.count("state NOT IN ('sent', 'confirmed')") == 0
                && month.database.number(&format!(
                    "SELECT count(*) FROM stripe_meters WHERE stripe_meter_id IS NOT NULL
                    AND scanned_until < '{usage_came}'"
                )) == 0
        })
        .await;
    month.end_periods_soon().await;
    let wait = TimeDelta::seconds((month.end + 2 - now()).max(0)).to_std().expect("not negative");
    tokio::time::sleep(wait).await;
    // The period ends: Stripe drafts invoices, and the daemon puts items on them, while things still fail.
    month.fake.advance_to(month.end + 5);
    month
        .wait_until("every draft has its usage", |month| {
            month.count("way = 'invoice_items' AND state IN ('sent', 'confirmed')") >= month.orgs as i64
        })
        .await;
    month.restart();
    month
        .wait_until("all usage is sent", |month| {
            month.count("state NOT IN ('sent', 'confirmed')") == 0
                && month.database.number(
                    "SELECT count(*) FROM stripe_meters WHERE stripe_meter_id IS NOT NULL
                    AND scanned_until < now() - interval '5 s'",
                ) == 0
        })
        .await;
    month.fake.set_faults(12, Chances::default());
    month.fake.advance_to(month.end + 2 * HOUR);
    let mut billed = Vec::new();
    let invoices = month.fake.account("").all("invoice");
    for org in 0..month.orgs {
        let of_period = |invoice: &&Value| {
            invoice["customer"] == format!("cus_{org}").as_str()
                && invoice["billing_reason"] == "subscription_cycle"
        };
        let invoice = invoices.iter().find(of_period).expect("an invoice of the period");
        let amount = |price: Option<&str>| -> i64 {
            let lines = invoice["lines"]["data"].as_array().expect("lines").iter();
            let of = |line: &&Value| match price {
                Some(price) => line["pricing"]["price_details"]["price"] == price,
                None => line["parent"]["type"] == "invoice_item_details",
            };
            lines.filter(of).map(|line| line["amount"].as_i64().expect("an amount")).sum()
        };
        let theirs = [amount(Some("price_mtr_totals")), amount(Some("price_mtr_deltas")), amount(None)];
        let books = |meter: &str, what: &str| {
            month.database.number(&format!(
                "SELECT coalesce(round({what}), 0)::bigint FROM usage_records r JOIN meters m USING (meter_id)
                 JOIN orgs o USING (org_id)
                 WHERE m.key = '{meter}' AND o.external_id = 'org{org}' AND r.occurred_at < '{}'",
                shown(month.end)
            ))
        };
        // A unit costs a cent at Stripe, and 0.03 cents on our card.
        let ours = [
            books("totals", "sum(r.quantity)"),
            books("deltas", "sum(r.quantity)"),
            books("items", "sum(r.cost) * 100"),
        ];
        billed.push((org, theirs, ours));
    }
    let wrong: Vec<_> = billed.iter().filter(|(_, theirs, ours)| theirs != ours).collect();
    assert!(wrong.is_empty(), "org, billed, books of totals, deltas, items: {wrong:?}");
    assert!(billed.iter().all(|(_, theirs, _)| theirs.iter().all(|amount| *amount > 0)), "{billed:?}");
    assert!(kills >= 3, "{kills} kills");
    let requests = month.fake.requests();
    let limited = requests.iter().filter(|request| request.status == 429).count();
    println!(
        "{} charges, {kills} kills, {} requests, {limited} of them too many",
        month.count("true"),
        requests.len()
    );
}
