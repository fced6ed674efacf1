//! What the products that use Coulomb do with it, step by step, each figure reckoned by hand. Time is turned
//! by the test.

mod cloudwa;
mod fenta;
mod gateway;
mod omnichat;

use serde_json::{Value, json};

use crate::support::{Daemon, Database, TestClock};

/// A product's platform: its database, a daemon on a turned clock, and a key that may do all.
struct Platform {
    database: Database,
    clock: TestClock,
    daemon: Daemon,
    key: String,
}

impl Platform {
    fn at(time: &str) -> Self {
        let (database, clock) = (Database::new(), TestClock::at(time));
        let daemon = Daemon::clocked(&database, &clock);
        let key =
            database.key("admin,billing:write,billing:read,usage:read,usage:write,usage:backfill", None);
        Self { database, clock, daemon, key }
    }

    /// `POST` that must be answered so.
    async fn post(&self, path: &str, body: Value, expected: u16) -> Value {
        let (status, answer) = self.daemon.post(path, &self.key, &body).await;
        assert_eq!(status.as_u16(), expected, "{path} {body}: {answer}");
        answer
    }

    /// `PUT` that must be taken.
    async fn put(&self, path: &str, body: Value) -> Value {
        let request = self.daemon.request(reqwest::Method::PUT, path, &self.key).json(&body);
        let (status, answer) = crate::support::daemon::answer(request).await;
        assert_eq!(status.as_u16(), 200, "{path} {body}: {answer}");
        answer
    }

    /// Puts an org that does not pay through Stripe on a plan, paid for a month.
    async fn on_plan(&self, org: &str, plan: &str) {
        self.post(&format!("/v1/orgs/{org}/subscription"), json!({ "plan": plan, "paid": true }), 201).await;
        self.plan_of(org, Some(plan)).await;
    }

    /// Waits until the org is on this plan for every part of the daemon.
    async fn plan_of(&self, org: &str, plan: Option<&str>) {
        for _ in 0..100 {
            let entitled = self.get(&format!("/v1/orgs/{org}/entitlements")).await;
            if entitled["plan"]["id"].as_str() == plan {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        panic!("{org} is not on {plan:?}");
    }

    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.daemon.get(path, &self.key).await;
        assert_eq!(status.as_u16(), 200, "{path}: {answer}");
        answer
    }

    async fn reserve(&self, org: &str, meter: &str, amount: i64, more: Value, expected: u16) -> Value {
        let mut body = json!({ "org": org, "meter": meter, "amount": amount });
        body.as_object_mut().expect("an object").extend(more.as_object().cloned().expect("an object"));
        self.post("/v1/quota/reserve", body, expected).await
    }
}

fn text<'a>(value: &'a Value, name: &str) -> &'a str {
    value[name].as_str().unwrap_or_else(|| panic!("no text {name} in {value}"))
}
