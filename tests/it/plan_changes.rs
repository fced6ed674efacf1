//! A change that was acknowledged counts from its answer on, on the daemon that acknowledged it.

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::daemon::answer;
use crate::support::events::{customer, event, subscription};
use crate::support::{Daemon, Database};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write";

/// A daemon with a plan whose limit refuses five tokens, `small`, one that has no limit, `large`, and an org
/// `acme` on the first.
struct House {
    _database: Database,
    daemon: Daemon,
    key: String,
}

impl House {
    async fn new() -> Self {
        let database = Database::new();
        database.meter(1, "tokens", "sum", "", None);
        let daemon = Daemon::start(&database);
        let key = database.key(KEYS, None);
        let house = Self { _database: database, daemon, key };
        for (id, limit) in [("small", json!(1)), ("large", json!(null))] {
            let quotas = json!([{ "meter": "meter-1", "period": "day", "limit": limit }]);
            let body = json!({ "name": id, "quotas": quotas, "stripe_prices": [format!("price_{id}")] });
            house.done(Method::PUT, &format!("/v1/plans/{id}"), body).await;
        }
        house.daemon.org(&house.key, "acme", "UTC").await;
        house
    }

    /// A command, which must succeed.
    async fn done(&self, method: Method, path: &str, body: Value) -> Value {
        let (status, answered) = answer(self.daemon.request(method, path, &self.key).json(&body)).await;
        assert!(status.is_success(), "{path} {body}: {status} {answered}");
        answered
    }

    async fn subscription(&self, what: &str, body: Value) {
        self.done(Method::POST, &format!("/v1/orgs/acme/subscription{what}"), body).await;
    }

    /// Whether five tokens can be reserved at this moment.
    async fn reserves(&self, org: &str) -> bool {
        let body = json!({ "org": org, "meter": "meter-1", "amount": 5 });
        let (status, answered) = self.daemon.post("/v1/quota/reserve", &self.key, &body).await;
        assert!(matches!(status.as_u16(), 201 | 409), "{answered}");
        status == 201
    }

    async fn entitlements(&self, org: &str) -> Value {
        self.daemon.get(&format!("/v1/orgs/{org}/entitlements"), &self.key).await.1
    }
}

#[tokio::test]
async fn a_change_of_plan_counts_from_its_answer_on() {
    let house = House::new().await;
    house.subscription("", json!({ "plan": "small", "paid": true })).await;
    let mut wrong = Vec::new();
    for n in 0..50 {
        let (plan, fits) = if n % 2 == 0 { ("large", true) } else { ("small", false) };
        house.subscription("/change", json!({ "plan": plan })).await;
        wrong.extend((house.reserves("acme").await != fits).then(|| format!("{n}: change to {plan}")));
    }
    house.subscription("/change", json!({ "plan": "small" })).await;
    for n in 0..10 {
        house.subscription("/cancel", json!({ "at_period_end": false })).await;
        // Without a plan nothing limits it.
        wrong.extend((!house.reserves("acme").await).then(|| format!("{n}: cancel")));
        house.subscription("/activate", json!({})).await;
        wrong.extend(house.reserves("acme").await.then(|| format!("{n}: activate")));
    }
    assert_eq!(wrong, [""; 0], "these went by what was before");
}

#[tokio::test]
async fn a_move_to_another_version_counts_from_its_answer_on() {
    let house = House::new().await;
    house.subscription("", json!({ "plan": "small", "paid": true })).await;
    let free = json!({ "name": "small", "quotas": [{ "meter": "meter-1", "period": "day", "limit": null }] });
    house.done(Method::PUT, "/v1/plans/small", free).await;
    let own = house.done(Method::GET, "/v1/orgs/acme/subscription", json!({})).await;
    let path = format!("/v1/subscriptions/{}/move", own["id"].as_str().expect("an id"));
    let mut wrong = Vec::new();
    for n in 0..10 {
        house.done(Method::POST, &path, json!({ "version": 2 })).await;
        wrong.extend((!house.reserves("acme").await).then(|| format!("{n}: one to 2")));
        house.done(Method::POST, "/v1/plans/small/move", json!({ "from": 2, "to": 1 })).await;
        wrong.extend(house.reserves("acme").await.then(|| format!("{n}: all to 1")));
    }
    // Quotas of a plan's version, of an org, and exemptions, are counted under the catalogue's lock; they
    // must be as quick.
    for n in 0..5 {
        house.done(Method::POST, "/v1/plans/small/move", json!({ "from": 1, "to": 2 })).await;
        for (limit, fits) in [(json!(1), false), (json!(null), true)] {
            let quotas = json!([{ "meter": "meter-1", "period": "day", "limit": limit }]);
            house.done(Method::PUT, "/v1/plans/small/quotas", json!({ "quotas": quotas })).await;
            wrong.extend((house.reserves("acme").await != fits).then(|| format!("{n}: quotas of the plan")));
        }
        let limit = json!({ "org": "acme", "meter": "meter-1", "period": "day", "limit": 0 });
        let quota = house.done(Method::POST, "/v1/quotas", limit).await;
        wrong.extend(house.reserves("acme").await.then(|| format!("{n}: quota of the org")));
        let path = format!("/v1/quotas/{}", quota["id"].as_str().expect("an id"));
        house.done(Method::DELETE, &path, json!({})).await;
        wrong.extend((!house.reserves("acme").await).then(|| format!("{n}: no quota of the org")));
        house.done(Method::POST, "/v1/plans/small/move", json!({ "from": 2, "to": 1 })).await;
    }
    assert_eq!(wrong, [""; 0], "these went by what was before");
}

#[tokio::test]
async fn a_link_and_a_zone_count_from_their_answer_on() {
    let house = House::new().await;
    let other = house.daemon.org(&house.key, "other", "UTC").await;
    let (_, acme) = house.daemon.get("/v1/orgs?external_id=acme", &house.key).await;
    let acme = acme["data"][0]["id"].as_str().expect("an id").to_owned();
    let bought = subscription("sub_1", "cus_1", "active", "price_small");
    house.daemon.deliver(&event("evt_c", "customer.created", 1, customer("cus_1", None))).await;
    house.daemon.deliver(&event("evt_1", "customer.subscription.created", 10, bought)).await;
    house.daemon.projected().await;
    let mut wrong = Vec::new();
    for n in 0..10 {
        let (to, from) = if n % 2 == 0 { (&other, &acme) } else { (&acme, &other) };
        house.done(Method::PUT, &format!("/v1/orgs/{to}/stripe_customers/cus_1"), json!({})).await;
        let (gets, loses) = (house.reserves(to).await, house.reserves(from).await);
        wrong.extend((gets || !loses).then(|| format!("{n}: link")));
    }
    let resets = |seen: &Value| seen["quotas"][0]["resets_at"].as_str().unwrap_or_default().to_owned();
    for n in 0..10 {
        let before = resets(&house.entitlements(&acme).await);
        let zone = if n % 2 == 0 { "Asia/Tokyo" } else { "UTC" };
        house.done(Method::PATCH, &format!("/v1/orgs/{acme}"), json!({ "time_zone": zone })).await;
        let after = resets(&house.entitlements(&acme).await);
        wrong.extend((before == after).then(|| format!("{n}: zone {before}")));
    }
    assert_eq!(wrong, [""; 0], "these went by what was before");
}
