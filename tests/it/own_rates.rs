//! Rate cards of orgs and plans, and tiers by billing period. All values were worked out by hand.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read,admin";

fn second(text: &str) -> i64 {
    text.parse::<DateTime<Utc>>().expect("a time").timestamp()
}

/// A daemon on a clock, with the meter `tokens` and the plans `free` (the default), `basic` and `pro`, which
/// the prices `price_basic` and `price_pro` buy.
struct House {
    database: Database,
    daemon: Daemon,
    clock: TestClock,
    key: String,
    told: std::cell::Cell<u32>,
}

/// What happens, one after the other.
enum Step {
    /// Usage of an id, an org, a model, a time and a quantity, and what it costs.
    Use(&'static str, &'static str, &'static str, &'static str, &'static str, &'static str),
    /// It is taken back.
    Void(&'static str, &'static str),
    /// It is replaced by this quantity.
    Amend(&'static str, &'static str, &'static str),
    /// The month is closed for the org.
    Close(&'static str, &'static str),
    /// What all months of the org cost by now.
    Costs(&'static str, &'static str),
}
use Step::{Amend, Close, Costs, Use, Void};

impl House {
    async fn new() -> Self {
        let database = Database::new();
        let clock = TestClock::at("2026-10-01T00:00:00Z");
        let daemon = Daemon::clocked(&database, &clock);
        let key = database.key(KEYS, None);
        let house = Self { database, daemon, clock, key, told: std::cell::Cell::new(0) };
        let meter = json!({ "key": "tokens", "event_name": "tokens", "aggregation": "sum", "value_field": "n",
            "dimensions": ["model"] });
        house.post("/v1/meters", &meter, 201).await;
        for plan in ["free", "basic", "pro"] {
            let body = json!({ "name": plan, "default": plan == "free", "rank": i32::from(plan != "free"),
                "stripe_prices": [format!("price_{plan}")] });
            let put = house.daemon.request(Method::PUT, &format!("/v1/plans/{plan}"), &house.key).json(&body);
            assert_eq!(answer(put).await.0, 200, "{plan}");
        }
        house
    }

    async fn post(&self, path: &str, body: &Value, expected: u16) -> Value {
        let (status, answer) = self.daemon.post(path, &self.key, body).await;
        assert_eq!(status, expected, "{path} {body}: {answer}");
        answer
    }

    /// A card from a day on, of whom `of` says.
    async fn card(&self, of: Value, day: &str, rates: Value) -> Value {
        let mut body = json!({ "currency": "usd", "rates": rates, "backdate": true,
            "valid_from": format!("2026-{day}T00:00:00Z") });
        for (name, value) in of.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        self.post("/v1/meters/tokens/rate_cards", &body, 201).await
    }

    /// Stripe tells at `at` that the org's subscription has that price for that period.
    async fn told(&self, org: &str, at: &str, price: &str, (start, end): (&str, &str)) {
        self.clock.turn(at);
        let n = self.told.get();
        self.told.set(n + 1);
        let customer_id = format!("cus_{org}");
        let mut bought = subscription(&format!("sub_{org}"), &customer_id, "active", price);
        let first = second("2026-10-15T00:00:00Z");
        (bought["start_date"], bought["created"]) = (first.into(), first.into());
        let item = &mut bought["items"]["data"][0];
        item["current_period_start"] = second(start).into();
        item["current_period_end"] = second(end).into();
        let made = event(&format!("evt_c{n}"), "customer.created", 1, customer(&customer_id, Some(org)));
        let kind = "customer.subscription.updated";
        for told in [made, event(&format!("evt_s{n}"), kind, second(at), bought)] {
            self.daemon.deliver_at(&told, second(at)).await;
        }
        self.daemon.projected().await;
        tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    }

    async fn costs(&self, org: &str) -> String {
        let path = format!("/v1/usage/daily?org={org}&from=2026-10-01&to=2027-02-01&group_by=meter");
        let (status, page) = self.daemon.get(&path, &self.key).await;
        assert_eq!(status, 200, "{page}");
        page["data"][0]["cost"].as_str().unwrap_or("0").to_owned()
    }

    async fn cost_of(&self, org: &str, id: &str) -> String {
        let sql = format!(
            "SELECT trim_scale(sum(r.cost)) FROM usage_records r JOIN orgs o USING (org_id)
             WHERE o.external_id = '{org}' AND r.event_id = '{id}'"
        );
        self.database.value(&sql).unwrap_or_default()
    }

    async fn run(&self, steps: &[Step]) {
        for step in steps {
            match step {
                Use(id, org, model, at, n, cost) => {
                    let sent = json!({ "id": id, "source": "t", "org": org, "event_name": "tokens",
                        "occurred_at": format!("2026-{at}:00:00Z"), "data": { "n": n, "model": model } });
                    assert_eq!(self.daemon.usage(&self.key, &sent).await, ["accepted"], "{id}");
                    assert_eq!(self.cost_of(org, id).await, *cost, "{id}: {n} of {model} by {org} on {at}");
                }
                Void(org, id) => {
                    let body = json!({ "org": org, "source": "t", "id": id, "reason": "wrong" });
                    self.post("/v1/usage/void", &body, 200).await;
                }
                Amend(org, id, n) => {
                    let event = json!({ "event_name": "tokens", "data": { "n": n, "model": "small" } });
                    let body =
                        json!({ "org": org, "source": "t", "id": id, "reason": "wrong", "event": event });
                    self.post("/v1/usage/amend", &body, 200).await;
                }
                Close(org, month) => {
                    self.post("/v1/usage/closings", &json!({ "org": org, "month": month }), 200).await;
                }
                Costs(org, cost) => assert_eq!(self.costs(org).await, *cost, "{org} in all"),
            }
        }
    }

    fn is_sound(&self) {
        assert_eq!(self.database.unbalanced(), [] as [String; 0]);
        self.database.run(&["verify"]);
    }

    /// The counters are what they would be if they were made anew.
    fn rebuilt(&self) {
        let all = "SELECT string_agg(concat_ws(' ', org_id, rate_card_id, rate, period, began,
            trim_scale(quantity)), '; ' ORDER BY org_id, rate_card_id, rate, period, began)
            FROM rating_counters";
        let before = self.database.value(all);
        assert!(before.is_some());
        self.database.execute("UPDATE rating_counters SET quantity = quantity + 1");
        self.database.run(&["rebuild", "summaries"]);
        assert_eq!(self.database.value(all), before);
        self.is_sound();
    }
}

/// The first 100 are free, then each costs `price`.
fn allowance(price: &str) -> Value {
    json!([{ "tiers": { "mode": "graduated", "tiers": [
        { "up_to": "100", "unit_cost": "0" }, { "unit_cost": price } ] } }])
}

#[tokio::test(flavor = "multi_thread")]
async fn usage_is_priced_by_the_orgs_card_then_its_plans_then_the_meters() {
    let house = House::new().await;
    let acme = house.daemon.org(&house.key, "acme", "UTC").await;
    for org in ["own", "none", "local"] {
        house.daemon.org(&house.key, org, "UTC").await;
    }
    let large = |price: &str| json!([{ "when": { "model": "large" }, "unit_cost": price }]);
    house.clock.turn("2026-10-01T00:00:00Z");
    house.card(json!({}), "09-01", json!([{ "unit_cost": "0.01" }])).await;
    house.card(json!({ "plan": "basic" }), "09-01", large("0.009")).await;
    house.card(json!({ "plan": "pro" }), "09-01", large("0.008")).await;
    house.card(json!({ "plan": "free" }), "09-01", large("0.02")).await;
    let own = house.card(json!({ "org": "own" }), "09-01", large("0.005")).await;
    assert_eq!((&own["plan"], own["org"].as_str().is_some()), (&Value::Null, true));
    house.card(json!({ "org": "own" }), "11-10", json!([])).await;
    // A local subscription: basic from 1 October, pro from 1 November.
    house.clock.turn("2026-10-01T06:00:00Z");
    let body = json!({ "plan": "basic", "paid": true });
    house.post("/v1/orgs/local/subscription", &body, 201).await;
    house.post("/v1/orgs/local/subscription/activate", &json!({}), 200).await;
    house.clock.turn("2026-11-01T06:00:00Z");
    house.post("/v1/orgs/local/subscription/change", &json!({ "plan": "pro" }), 200).await;
    // Basic from 15 October, pro from 5 November on, within the period.
    let first = ("2026-10-15T00:00:00Z", "2026-11-15T00:00:00Z");
    house.told("acme", "2026-10-15T00:00:00Z", "price_basic", first).await;
    house.told("acme", "2026-11-05T09:00:00Z", "price_pro", first).await;
    let second = ("2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z");
    house.told("acme", "2026-11-15T00:00:00Z", "price_pro", second).await;
    house.clock.turn("2026-11-20T12:00:00Z");
    house
        .run(&[
            // No plan of its own then: the default one.
            Use("a", "acme", "large", "10-14T12", "100", "2"),
            Use("b", "acme", "large", "10-15T12", "100", "0.9"),
            // What the plan does not price is priced by the meter.
            Use("c", "acme", "small", "10-15T12", "100", "1"),
            Use("d", "acme", "large", "11-05T08", "100", "0.9"),
            Use("e", "acme", "large", "11-05T09", "100", "0.8"),
            Use("f", "acme", "large", "11-20T11", "100", "0.8"),
            Use("g", "own", "large", "10-20T12", "100", "0.5"),
            Use("h", "own", "small", "10-20T12", "100", "1"),
            // Its own prices have ended: those of the default plan.
            Use("i", "own", "large", "11-11T12", "100", "2"),
            Use("j", "none", "large", "11-11T12", "100", "2"),
            Use("k", "none", "small", "11-11T12", "100", "1"),
            Use("l", "local", "large", "10-01T05", "100", "2"),
            Use("m", "local", "large", "11-01T05", "100", "0.9"),
            Use("n", "local", "large", "11-01T06", "100", "0.8"),
            Costs("acme", "6.4"),
            // What was priced by a card is given back by it.
            Void("acme", "d"),
            Amend("acme", "c", "50"),
            Costs("acme", "5"),
        ])
        .await;
    house.is_sound();
    // An org reads its own cards and those that are not an org's.
    let seen = |org: Option<&str>| {
        let key = house.database.key("usage:read", org);
        let house = &house;
        async move {
            let (status, page) = house.daemon.get("/v1/meters/tokens/rate_cards?limit=100", &key).await;
            assert_eq!(status, 200, "{page}");
            page["data"].as_array().expect("cards").len()
        }
    };
    assert_eq!([seen(None).await, seen(Some(&acme)).await], [6, 4]);
    for (query, cards) in [("plan=pro", 1), ("org=own", 2), ("org=acme", 0)] {
        let path = format!("/v1/meters/tokens/rate_cards?{query}");
        let (status, page) = house.daemon.get(&path, &house.key).await;
        assert_eq!((status.as_u16(), page["data"].as_array().map(Vec::len)), (200, Some(cards)), "{query}");
    }
}

#[tokio::test]
async fn cards_of_nobody_are_refused() {
    let house = House::new().await;
    house.daemon.org(&house.key, "acme", "UTC").await;
    for (of, field) in [
        (json!({ "plan": "prro" }), "plan"),
        (json!({ "org": "nobody" }), "org"),
        (json!({ "org": "acme", "plan": "pro" }), "plan"),
        (json!({ "period": "weekly" }), "period"),
    ] {
        let mut body = json!({ "currency": "usd", "rates": [{ "unit_cost": "1" }] });
        for (name, value) in of.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        let (status, problem) = house.daemon.post("/v1/meters/tokens/rate_cards", &house.key, &body).await;
        assert!(status.is_client_error(), "{of}: {problem}");
        assert_eq!(problem["field"], field, "{of}: {problem}");
    }
    for query in ["plan=prro", "org=nobody"] {
        let path = format!("/v1/meters/tokens/rate_cards?{query}");
        assert!(house.daemon.get(&path, &house.key).await.0.is_client_error(), "{query}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tiers_are_counted_by_the_billing_period_where_the_card_says_so() {
    let house = House::new().await;
    for org in ["acme", "loose"] {
        house.daemon.org(&house.key, org, "UTC").await;
    }
    house.card(json!({ "period": "billing" }), "09-01", allowance("1")).await;
    let periods =
        [("2026-10-15T00:00:00Z", "2026-11-15T00:00:00Z"), ("2026-11-15T00:00:00Z", "2026-12-15T00:00:00Z")];
    for period in periods {
        house.told("acme", period.0, "price_pro", period).await;
    }
    house.clock.turn("2026-11-20T12:00:00Z");
    house
        .run(&[
            // One period over two months: 60 + 60, of which 100 are free.
            Use("a", "acme", "small", "10-20T12", "60", "0"),
            Use("b", "acme", "small", "11-02T12", "60", "20"),
            // The next one begins anew, in the same month.
            Use("c", "acme", "small", "11-15T00", "90", "0"),
            Use("d", "acme", "small", "11-16T12", "30", "20"),
            // Late usage stands in its own period: 120 + 5.
            Use("e", "acme", "small", "11-14T23", "5", "5"),
            Costs("acme", "45"),
            // While there is no billing period it is the local month: before it, and of an org without one.
            Use("f", "acme", "small", "10-02T12", "110", "10"),
            Use("g", "loose", "small", "10-20T12", "60", "0"),
            Use("h", "loose", "small", "11-02T12", "60", "0"),
            Use("i", "loose", "small", "11-20T11", "50", "10"),
            Costs("acme", "55"),
        ])
        .await;
    house.is_sound();
    house
        .run(&[
            // October is closed. The period holds 125 then 65: its 25 are given back, in November.
            Close("acme", "2026-10"),
            Void("acme", "a"),
            Costs("acme", "30"),
            // 65 + 60 = 125 again, by what was posted to the closed month's day.
            Use("j", "acme", "small", "10-21T12", "60", "25"),
            // 125, 60 of which become 10: 75.
            Amend("acme", "b", "10"),
            Costs("acme", "30"),
        ])
        .await;
    house.rebuilt();
    for id in ["b", "e", "j", "c", "d", "f"] {
        house.run(&[Void("acme", id)]).await;
    }
    house.run(&[Costs("acme", "0")]).await;
    house.rebuilt();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_plan_goes_on_in_the_tiers() {
    let house = House::new().await;
    house.daemon.org(&house.key, "acme", "UTC").await;
    house.card(json!({ "plan": "basic" }), "09-01", allowance("1")).await;
    house.card(json!({ "plan": "pro" }), "09-01", allowance("0.5")).await;
    let period = ("2026-11-01T00:00:00Z", "2026-12-01T00:00:00Z");
    house.told("acme", "2026-11-01T00:00:00Z", "price_basic", period).await;
    house.told("acme", "2026-11-10T00:00:00Z", "price_pro", period).await;
    house.told("acme", "2026-11-20T00:00:00Z", "price_basic", period).await;
    house.clock.turn("2026-11-25T12:00:00Z");
    house
        .run(&[
            Use("a", "acme", "small", "11-02T12", "80", "0"),
            // 20 more are free, whatever the plan.
            Use("b", "acme", "small", "11-12T12", "60", "20"),
            // Basic again: it stands at 140.
            Use("c", "acme", "small", "11-21T12", "10", "10"),
            Use("d", "acme", "small", "11-13T12", "10", "5"),
            // Of what pro priced one is taken back: it stood behind basic's first 80, and gives back what it
            // cost.
            Void("acme", "d"),
            Costs("acme", "30"),
            // The other one too; basic goes on at 90.
            Void("acme", "b"),
            Costs("acme", "10"),
            Use("e", "acme", "small", "11-22T12", "20", "10"),
        ])
        .await;
    house.is_sound();
    house.rebuilt();
    for id in ["a", "c", "e"] {
        house.run(&[Void("acme", id)]).await;
    }
    house.run(&[Costs("acme", "0")]).await;
    house.rebuilt();
}

#[tokio::test(flavor = "multi_thread")]
async fn reservations_and_levels_have_the_orgs_own_prices() {
    let house = House::new().await;
    for org in ["acme", "other"] {
        house.daemon.org(&house.key, org, "UTC").await;
    }
    let burns = |units: &str| json!([{ "unit_cost": "0", "battery_units": units }]);
    house.card(json!({}), "09-01", burns("2")).await;
    house.card(json!({ "org": "acme" }), "09-01", burns("1")).await;
    house.database.execute(
        "INSERT INTO battery_settings (org_id, debt_limit, updated_at)
         SELECT org_id, 15, now() FROM orgs WHERE org_id > 0
         ON CONFLICT DO NOTHING",
    );
    for (org, status) in [("acme", 201), ("other", 409)] {
        let body = json!({ "org": org, "meter": "tokens", "amount": 10, "dimensions": { "model": "small" } });
        let (got, answer) = house.daemon.post("/v1/quota/reserve", &house.key, &body).await;
        assert_eq!(got, status, "{org}: {answer}");
    }
    let seats = json!({ "key": "seats", "event_name": "seats", "aggregation": "level", "value_field": "n" });
    house.post("/v1/meters", &seats, 201).await;
    for (of, price) in [(json!({}), "3"), (json!({ "org": "acme" }), "2")] {
        let mut body = json!({ "currency": "usd", "rates": [{ "unit_cost": price }], "backdate": true,
            "valid_from": "2026-09-01T00:00:00Z" });
        body["org"] = of["org"].clone();
        body["price_by"] = json!(if of["org"].is_null() { "peak" } else { "average" });
        house.post("/v1/meters/seats/rate_cards", &body, 201).await;
    }
    for (org, cost) in [("acme", "20"), ("other", "30")] {
        let sent = json!({ "id": org, "org": org, "event_name": "seats", "data": { "n": 10 },
            "occurred_at": "2026-09-20T00:00:00Z" });
        assert_eq!(house.daemon.usage(&house.key, &sent).await, ["accepted"]);
        let path = format!("/v1/usage/levels?org={org}&from=2026-09-20T00:00:00Z&to=2026-09-21T00:00:00Z");
        let (_, page) = house.daemon.get(&path, &house.key).await;
        assert_eq!(page["data"][0]["cost"], cost, "{page}");
    }
}
