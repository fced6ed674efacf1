//! Billing periods are kept: usage is counted to the period that contained it, whatever became of the
//! subscription since.

use chrono::{DateTime, Utc};
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write,usage:backfill";

fn second(text: &str) -> i64 {
    text.parse::<DateTime<Utc>>().expect("a time").timestamp()
}

/// A daemon on a clock, an org `acme` with the customer `cus_1`, and a quota by billing period.
struct House {
    database: Database,
    daemon: Daemon,
    clock: TestClock,
    key: String,
    quota: String,
}

/// What happens at a time.
enum Then<'a> {
    /// Stripe tells of `sub_1`: status, period, when it ended.
    Told(&'a str, &'a str, &'a str, Option<&'a str>),
    /// A command on the local subscription.
    Local(&'a str, Value),
    /// So much usage of then.
    Used(&'a str, i64),
}

/// A name, what happens when, and the history in the end.
type Case<'a> = (&'a str, Vec<(&'a str, Then<'a>)>, Vec<[&'a str; 4]>);

impl House {
    async fn at(time: &str) -> Self {
        Self::on(Database::new(), time).await
    }

    async fn on(database: Database, time: &str) -> Self {
        database.meter(1, "tokens", "sum", "", None);
        let clock = TestClock::at(time);
        let daemon = Daemon::clocked(&database, &clock);
        let key = database.key(KEYS, None);
        daemon.org(&key, "acme", "Europe/Berlin").await;
        let quota = json!({ "org": "acme", "meter": "meter-1", "period": "billing", "limit": 1000 });
        let (status, quota) = daemon.post("/v1/quotas", &key, &quota).await;
        assert_eq!(status, 201, "{quota}");
        let quota = quota["id"].as_str().expect("an id").to_owned();
        let made = event("evt_c", "customer.created", 1, customer("cus_1", Some("acme")));
        daemon.deliver_at(&made, second(time)).await;
        Self { database, daemon, clock, key, quota }
    }

    async fn lives(&self, life: &[(&str, Then<'_>)]) {
        for (n, (at, then)) in life.iter().enumerate() {
            self.clock.turn(at);
            match then {
                Then::Told(status, start, end, ended) => {
                    let mut told = subscription("sub_1", "cus_1", status, "price_pro");
                    let item = &mut told["items"]["data"][0];
                    item["current_period_start"] = second(start).into();
                    item["current_period_end"] = second(end).into();
                    told["ended_at"] = ended.map(second).into();
                    let told = event(&format!("evt_{n}"), "customer.subscription.updated", second(at), told);
                    self.daemon.deliver_at(&told, second(at)).await;
                    self.daemon.projected().await;
                    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
                }
                Then::Local(what, body) => {
                    let path = format!("/v1/orgs/acme/subscription{what}");
                    let request = self.daemon.request(Method::POST, &path, &self.key).json(body);
                    let (status, answered) = answer(request).await;
                    assert!(status.is_success(), "{path}: {status} {answered}");
                }
                Then::Used(occurred_at, n_tokens) => {
                    let used = json!([{ "id": format!("u{n}"), "org": "acme", "event_name": "tokens",
                        "occurred_at": occurred_at, "data": { "value": n_tokens } }]);
                    assert_eq!(self.daemon.usage(&self.key, &used).await, ["accepted"], "{occurred_at}");
                }
            }
        }
    }

    /// The quota's history, by pages of one: label, start, end, used.
    async fn history(&self) -> Vec<[String; 4]> {
        let (mut rows, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/v1/quotas/{}/history?limit=1{cursor}", self.quota);
            let (status, page) = self.daemon.get(&path, &self.key).await;
            assert_eq!(status, 200, "{page}");
            let text = |row: &Value, field| row[field].as_str().expect("text").to_owned();
            let page_rows = page["data"].as_array().expect("rows");
            rows.extend(
                page_rows.iter().map(|row| ["period", "start", "end", "used"].map(|field| text(row, field))),
            );
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return rows,
            }
        }
    }
}

/// Lives of subscriptions and what the quota's history says in the end, by hand.
#[tokio::test]
async fn usage_is_counted_to_the_period_that_contained_it() {
    use Then::{Local, Told, Used};
    let lives: [Case<'_>; 3] = [
        (
            "every month on the 29th, cancelled at once in the second one",
            vec![
                (
                    "2026-01-29T09:00:01Z",
                    Told("active", "2026-01-29T09:00:00Z", "2026-02-28T09:00:00Z", None),
                ),
                ("2026-02-10T00:00:00Z", Used("2026-02-10T00:00:00Z", 5)),
                (
                    "2026-02-28T09:00:01Z",
                    Told("active", "2026-02-28T09:00:00Z", "2026-03-29T09:00:00Z", None),
                ),
                ("2026-03-01T00:00:00Z", Used("2026-03-01T00:00:00Z", 7)),
                ("2026-03-01T00:00:00Z", Used("2026-02-28T08:59:59Z", 2)),
                (
                    "2026-03-10T12:00:00Z",
                    Told(
                        "canceled",
                        "2026-02-28T09:00:00Z",
                        "2026-03-29T09:00:00Z",
                        Some("2026-03-10T12:00:00Z"),
                    ),
                ),
                ("2026-03-10T13:00:00Z", Used("2026-03-10T11:00:00Z", 3)),
                // It is on no plan any more: a calendar month.
                ("2026-03-11T00:00:00Z", Used("2026-03-11T00:00:00Z", 4)),
            ],
            vec![
                ["2026-03-01", "2026-02-28T23:00:00Z", "2026-03-31T22:00:00Z", "4"],
                ["2026-02-28", "2026-02-28T09:00:00Z", "2026-03-10T12:00:00Z", "10"],
                ["2026-01-29", "2026-01-29T09:00:00Z", "2026-02-28T09:00:00Z", "7"],
            ],
        ),
        (
            "a trial, then paid, and on the same day from months to years",
            vec![
                (
                    "2026-05-01T08:00:01Z",
                    Told("trialing", "2026-05-01T08:00:00Z", "2026-05-15T08:00:00Z", None),
                ),
                ("2026-05-10T00:00:00Z", Used("2026-05-10T00:00:00Z", 1)),
                (
                    "2026-05-15T08:00:01Z",
                    Told("active", "2026-05-15T08:00:00Z", "2026-06-15T08:00:00Z", None),
                ),
                ("2026-05-15T12:00:00Z", Used("2026-05-15T12:00:00Z", 2)),
                (
                    "2026-05-15T20:00:01Z",
                    Told("active", "2026-05-15T20:00:00Z", "2027-05-15T20:00:00Z", None),
                ),
                ("2026-05-15T21:00:00Z", Used("2026-05-15T21:00:00Z", 4)),
                ("2026-06-01T00:00:00Z", Used("2026-05-15T07:59:59Z", 8)),
                ("2026-06-01T00:00:00Z", Used("2026-05-15T19:59:59Z", 16)),
            ],
            vec![
                ["2026-05-15", "2026-05-15T20:00:00Z", "2027-05-15T20:00:00Z", "4"],
                ["2026-05-15", "2026-05-15T08:00:00Z", "2026-05-15T20:00:00Z", "18"],
                ["2026-05-01", "2026-05-01T08:00:00Z", "2026-05-15T08:00:00Z", "9"],
            ],
        ),
        (
            "local: a trial, paid, cancelled, and begun again on the same day",
            vec![
                ("2026-06-01T10:00:00Z", Local("", json!({ "plan": "pro", "trial_days": 10 }))),
                ("2026-06-03T00:00:00Z", Used("2026-06-03T00:00:00Z", 1)),
                ("2026-06-05T00:00:00Z", Local("/activate", json!({}))),
                ("2026-06-12T00:00:00Z", Used("2026-06-12T00:00:00Z", 2)),
                ("2026-06-20T06:00:00Z", Local("/cancel", json!({ "at_period_end": false }))),
                ("2026-06-20T07:00:00Z", Used("2026-06-20T05:00:00Z", 4)),
                ("2026-06-20T12:00:00Z", Used("2026-06-20T12:00:00Z", 8)),
                ("2026-06-20T18:00:00Z", Local("", json!({ "plan": "pro", "paid": true }))),
                ("2026-06-21T00:00:00Z", Used("2026-06-21T00:00:00Z", 16)),
                ("2026-06-21T00:00:00Z", Used("2026-06-11T09:59:59Z", 32)),
            ],
            vec![
                ["2026-06-20", "2026-06-20T18:00:00Z", "2026-07-20T18:00:00Z", "16"],
                ["2026-06-11", "2026-06-11T10:00:00Z", "2026-06-20T06:00:00Z", "6"],
                ["2026-06-01", "2026-06-01T10:00:00Z", "2026-06-11T10:00:00Z", "33"],
                ["2026-06-01", "2026-05-31T22:00:00Z", "2026-06-30T22:00:00Z", "8"],
            ],
        ),
    ];
    for (name, life, history) in lives {
        let house = House::at(life[0].0).await;
        let pro = house.daemon.request(Method::PUT, "/v1/plans/pro", &house.key);
        assert_eq!(answer(pro.json(&json!({ "name": "Pro" }))).await.0, 200);
        house.lives(&life).await;
        let expected: Vec<[String; 4]> = history.iter().map(|row| row.map(str::to_owned)).collect();
        assert_eq!(house.history().await, expected, "{name}");
        // Records and counters agree, and so does whoever counts anew.
        assert_eq!(house.database.unbalanced(), [""; 0], "{name}");
        house.database.run(&["verify"]);
    }
}

/// What the events tell of periods can be told anew, and is compared.
#[tokio::test]
async fn periods_and_their_counters_are_verified_and_rebuilt() {
    let house = House::at("2026-10-20T09:00:00Z").await;
    let months = |start, end| Then::Told("active", start, end, None);
    house
        .lives(&[
            ("2026-10-20T09:00:01Z", months("2026-10-20T09:00:00Z", "2026-11-20T09:00:00Z")),
            ("2026-11-05T00:00:00Z", Then::Used("2026-11-05T00:00:00Z", 5)),
            // It restarts on the day on which it began a month ago, twice.
            ("2026-11-20T07:00:01Z", months("2026-11-20T07:00:00Z", "2026-12-20T07:00:00Z")),
            ("2026-11-20T08:00:00Z", Then::Used("2026-11-20T07:30:00Z", 6)),
            ("2026-11-20T11:00:01Z", months("2026-11-20T11:00:00Z", "2026-12-20T11:00:00Z")),
            ("2026-11-20T12:00:00Z", Then::Used("2026-11-20T12:00:00Z", 7)),
        ])
        .await;
    let dump = || house.database.run(&["dump"]);
    let (before, fails) = (dump(), |what: &str| {
        let verify = house.database.command(&["verify"]).output().expect("it runs");
        let said = String::from_utf8_lossy(&verify.stdout).into_owned();
        assert!(!verify.status.success() && said.contains(what), "{what}: {said}");
    });
    house.database.run(&["verify"]);
    let period = "WHERE subscription_id = 'sub_1' AND period_start = '2026-11-20T07:00:00Z'";
    for change in [
        format!("UPDATE subscription_periods SET period_end = period_end + interval '1 day' {period}"),
        format!("DELETE FROM subscription_periods {period}"),
        format!("UPDATE subscription_periods SET last_seen = first_seen - interval '1 day' {period}"),
    ] {
        house.database.execute(&change);
        fails("subscription_periods");
        house.database.run(&["rebuild", "mirrors", "--yes"]);
        house.daemon.projected().await;
        house.database.run(&["verify"]);
    }
    let second = "WHERE began = '2026-11-20T07:00:00Z'";
    for change in [
        format!("UPDATE quota_counters SET used = used + 1 {second}"),
        format!("UPDATE quota_counters SET began = began + interval '1 hour' {second}"),
    ] {
        house.database.execute(&change);
        fails("quota_counters");
        house.database.run(&["rebuild", "summaries"]);
        house.database.execute("DELETE FROM quota_counters WHERE used = 0");
        house.database.run(&["verify"]);
    }
    assert_eq!(dump(), before);
}

/// What is known of periods is the same whatever order their events come in, and however often.
#[tokio::test]
async fn periods_are_of_the_set_of_events() {
    let database = Database::new();
    let daemon = Daemon::start(&database);
    // A trial, made longer; paid, at another price; the price before again, and a restart in the second of
    // it.
    let told = [
        (10, "trialing", "price_a", "2026-03-01T00:00:00Z", "2026-03-15T00:00:00Z"),
        (20, "trialing", "price_a", "2026-03-01T00:00:00Z", "2026-03-29T00:00:00Z"),
        (30, "active", "price_b", "2026-03-29T00:00:00Z", "2026-04-29T00:00:00Z"),
        (40, "active", "price_a", "2026-03-29T00:00:00Z", "2026-04-29T00:00:00Z"),
        (40, "active", "price_a", "2026-04-02T00:00:00Z", "2026-05-02T00:00:00Z"),
    ];
    let mut orders: Vec<Vec<usize>> = vec![Vec::new()];
    for n in 0..told.len() {
        let with = |order: &Vec<usize>, place: usize| {
            let mut order = order.clone();
            order.insert(place, n);
            order
        };
        orders =
            orders.iter().flat_map(|order| (0..=order.len()).map(move |place| with(order, place))).collect();
    }
    assert_eq!(orders.len(), 120);
    for (number, order) in orders.iter().enumerate() {
        // Every third is told twice.
        let again = order.iter().filter(|_| number % 3 == 0).rev();
        for n in order.iter().chain(again) {
            let (created, status, price, start, end) = told[*n];
            let mut object = subscription(&format!("sub_{number}"), "cus_1", status, price);
            let item = &mut object["items"]["data"][0];
            item["current_period_start"] = second(start).into();
            item["current_period_end"] = second(end).into();
            let id = format!("evt_{number}_{n}");
            daemon.deliver(&event(&id, "customer.subscription.updated", created, object)).await;
        }
    }
    daemon.projected().await;
    let rows = database.value(
        "SELECT string_agg(told || ' × ' || number, E'\\n' ORDER BY told) FROM (
             SELECT told, count(*) AS number FROM (
                 SELECT string_agg(concat_ws(' ', price_id, to_char(period_start, 'MM-DD'),
                     to_char(period_end, 'MM-DD'),
                     extract(epoch FROM first_seen)::int, extract(epoch FROM last_seen)::int), ', '
                     ORDER BY period_start, price_id) AS told
                 FROM subscription_periods GROUP BY subscription_id) s GROUP BY told) n",
    );
    let expected = "price_a 03-01 03-29 10 20, price_a 03-29 04-29 40 40, price_b 03-29 04-29 30 30, price_a \
        04-02 05-02 40 40 × 120";
    assert_eq!(rows.as_deref(), Some(expected));
    database.run(&["verify"]);
}

/// Whoever tries the mode that does not act (here: live mode) sees the periods, and no plan; a subscription
/// that counts ends that.
#[tokio::test]
async fn a_mode_that_does_not_act_gives_periods_to_who_has_no_other() {
    let house = House::at("2026-03-10T09:00:00Z").await;
    // It would buy a plan, which what counts later does not.
    let plan = json!({ "name": "Pro", "stripe_prices": ["price_sold"] });
    let put = house.daemon.request(Method::PUT, "/v1/plans/pro", &house.key).json(&plan);
    assert_eq!(answer(put).await.0, 200);
    let (start, end) = ("2026-03-10T08:00:00Z", "2026-04-10T08:00:00Z");
    for (kind, mut object) in [
        ("customer.created", customer("cus_2", Some("acme"))),
        ("customer.subscription.updated", subscription("sub_2", "cus_2", "active", "price_sold")),
    ] {
        object["livemode"] = true.into();
        if object["object"] == "subscription" {
            let item = &mut object["items"]["data"][0];
            item["current_period_start"] = second(start).into();
            item["current_period_end"] = second(end).into();
        }
        let mut told = event(&format!("evt_live_{kind}"), kind, second(start), object);
        told["livemode"] = true.into();
        house.daemon.deliver_at(&told, second("2026-03-10T09:00:00Z")).await;
    }
    house.daemon.projected().await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    house.lives(&[("2026-03-20T00:00:00Z", Then::Used("2026-03-20T00:00:00Z", 5))]).await;
    let row = |start: &str, end: &str, used: &str| [&start[..10], start, end, used].map(str::to_owned);
    assert_eq!(house.history().await, [row(start, end, "5")]);
    let (status, org) = house.daemon.get("/v1/orgs/acme/entitlements", &house.key).await;
    assert_eq!(
        (status.as_u16(), &org["plan"], &org["subscription"]),
        (200, &json!(null), &json!(null)),
        "{org}"
    );
    // One that acts counts alone from then on, for what happened before, too.
    let (start, end) = ("2026-03-15T00:00:00Z", "2026-04-15T00:00:00Z");
    house
        .lives(&[
            ("2026-03-21T00:00:00Z", Then::Told("active", start, end, None)),
            ("2026-03-21T00:00:01Z", Then::Used("2026-03-20T00:00:00Z", 2)),
            ("2026-03-21T00:00:02Z", Then::Used("2026-03-12T00:00:00Z", 7)),
        ])
        .await;
    // What was counted stays. 12 March lies in the month before the first that is known of the one that acts.
    let expected = [
        row(start, end, "2"),
        row("2026-03-10T08:00:00Z", start, "5"),
        row("2026-02-15T00:00:00Z", start, "7"),
    ];
    assert_eq!(house.history().await, expected);
    house.database.run(&["verify"]);
}
