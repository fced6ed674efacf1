//! What products do with Coulomb, step by step, with figures computed by hand. The test turns the clock.

mod blazz;
mod cloudwa;
mod fenta;
mod gateway;
mod omnichat;

use crate::support::World;
use crate::support::requests::subscribe;
use crate::support::world::{Setup, until};

/// A product's platform on a test clock, with a key that may do everything.
fn product(time: &str) -> Setup {
    let scopes = "admin,billing:write,billing:read,usage:read,usage:write,usage:backfill";
    World::new().at(time).scopes(scopes)
}

impl World {
    /// Puts an org that does not pay through Stripe on a plan, paid for a month.
    async fn puts_on_plan(&self, org: &str, plan: &str) {
        self.send(subscribe(org, plan).with("paid", true)).await.status(201);
        self.has_plan(org, Some(plan)).await;
    }

    /// Waits until every part of the daemon knows that the org is on this plan.
    async fn has_plan(&self, org: &str, plan: Option<&str>) {
        let path = format!("/v1/orgs/{org}/entitlements");
        let is_on = async || self.get(&path).await.status(200).at("plan.id").as_str() == plan;
        until(&format!("{org} is on {plan:?}"), is_on).await;
    }
}
