//! What corrections, closed months and price changes lead to: cases with values computed by hand.

mod changes;
mod closed;
mod prices;

use serde_json::{Value, json};

use crate::support::World;
use crate::support::requests::{Usage, amend, close, org, usage, void};

const SCOPES: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read";

/// A name, the first prices, and the steps.
type Case = (&'static str, Value, Vec<Step>);

/// Steps of a case, in order.
enum Step {
    /// Usage: id, day, quantity.
    Use(&'static str, &'static str, &'static str),
    /// Voids the event.
    Void(&'static str),
    /// Amends the event to this quantity.
    Amend(&'static str, &'static str),
    /// Closes October.
    Close,
    /// A new rate card from this time on.
    Card(&'static str, Value),
    /// The costs of October and November so far.
    Cost(&'static str, &'static str),
    /// The counters of October and November so far.
    Used(&'static str, &'static str),
}
use Step::{Amend, Card, Close, Cost, Use, Used, Void};

async fn november() -> World {
    World::new().at("2026-11-26T12:00:00Z").scopes(SCOPES).start().await
}

/// A case, with its own meter and org.
struct Place<'a> {
    world: &'a World,
    id: i32,
    name: &'a str,
}

impl Place<'_> {
    fn org(&self) -> String {
        format!("org{}", self.id)
    }

    fn usage(&self, value: &str) -> Usage {
        usage(&self.org(), &format!("work{}", self.id)).quantity(value).dimension("model", "a")
    }

    async fn run(&self, aggregation: &str, rates: Option<&Value>, steps: &[Step]) {
        let (world, id, name) = (self.world, self.id, self.name);
        world.send(org(&self.org())).await.status(201);
        world.meter(id, &format!("work{id}"), aggregation, "model", rates);
        if aggregation == "sum" {
            world.slot(id, id, &json!({}), false, "month");
        }
        let mut version = 1;
        for step in steps {
            match step {
                Use(id, day, value) => {
                    world.used(self.usage(value).id(id).at(&*format!("{day}T12:00:00Z"))).await;
                }
                Void(id) => drop(world.send(void(id).org(&self.org())).await.ok()),
                Amend(id, value) => {
                    world.send(amend(id, self.usage(value)).org(&self.org())).await.ok();
                }
                Close => drop(world.send(close("2026-10").org(&self.org())).await.ok()),
                Card(since, rates) => {
                    version += 1;
                    world.card(id, version, since, rates);
                }
                Cost(october, november) => {
                    let told = [self.cost("2026-10").await, self.cost("2026-11").await];
                    assert_eq!(told, [*october, *november], "{name}: costs");
                }
                Used(october, november) => {
                    let told = [self.counter("2026-10"), self.counter("2026-11")];
                    assert_eq!(told, [*october, *november], "{name}: counters");
                }
            }
        }
    }

    async fn rows(&self, month: &str) -> Vec<Value> {
        let (org, id) = (self.org(), self.id);
        let next = if month == "2026-10" { "2026-11" } else { "2026-12" };
        let path =
            format!("/v1/usage/daily?org={org}&meter=meter-{id}&from={month}-01&to={next}-01&group_by=month");
        self.world.get(&path).await.status(200).rows().to_vec()
    }

    async fn cost(&self, month: &str) -> String {
        let rows = self.rows(month).await;
        rows.first().map_or_else(|| "0".to_owned(), |row| row["cost"].as_str().expect("a cost").to_owned())
    }

    fn counter(&self, month: &str) -> String {
        let used = self.world.value(&format!(
            "SELECT coalesce(sum(trim_scale(used)), 0)::text FROM quota_counters
             WHERE slot_id = {} AND period = '{month}-01'",
            self.id
        ));
        used.unwrap_or_default()
    }
}

/// Each case on its own meter and org, all in one world.
async fn run(cases: &[Case]) -> World {
    let world = november().await;
    for (id, (name, rates, steps)) in (1..).zip(cases) {
        Place { world: &world, id, name }.run("sum", Some(rates), steps).await;
    }
    world.is_sound();
    world
}

/// A void gives back the event's charge: rated in its own month, and posted there or, if that is closed, to
/// the open month.
#[tokio::test(flavor = "multi_thread")]
async fn corrections_are_rated_where_they_belong_and_posted_where_it_is_open() {
    run(&closed::cases()).await;
}

/// After a price change within a month, the tiers continue at the month's quantity; nothing is free twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_change_goes_on_in_the_tiers() {
    let world = run(&changes::cases()).await;
    // The counters are what the records say; a rebuild gives the same.
    world.execute("DELETE FROM rating_counters");
    world.run(&["rebuild", "summaries"]);
    world.is_sound();
}

/// Maxima, latest and distinct values have no amount to give back: a closed month keeps its values, and the
/// open one has only its own.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_add_up_stays_in_a_closed_month() {
    const OCT: &str = "2026-10-27";
    let today = "2026-11-26";
    let world = november().await;
    // (aggregation, steps, October, November), each quantity and count
    let cases: [(&str, Vec<Step>, &str, &str); 9] = [
        ("max", vec![Use("1", OCT, "10"), Use("2", OCT, "7"), Close, Void("1")], "10 of 2", "none"),
        ("latest", vec![Use("1", OCT, "10"), Close, Void("1")], "10 of 1", "none"),
        ("unique", vec![Use("1", OCT, "10"), Use("2", OCT, "7"), Close, Void("1")], "2 of 2", "none"),
        // Usage of the open month counts by itself, even on the day of the void.
        ("max", vec![Use("1", OCT, "10"), Close, Void("1"), Use("2", today, "3")], "10 of 1", "3 of 1"),
        ("max", vec![Use("2", today, "3"), Use("1", OCT, "10"), Close, Void("1")], "10 of 1", "3 of 1"),
        ("latest", vec![Use("1", OCT, "10"), Close, Void("1"), Use("2", today, "3")], "10 of 1", "3 of 1"),
        ("unique", vec![Use("1", OCT, "10"), Use("2", today, "10"), Close, Void("1")], "1 of 1", "1 of 1"),
        // An amendment counts as late usage: it is posted to today, and can be voided there.
        ("max", vec![Use("1", OCT, "10"), Close, Amend("1", "4")], "10 of 1", "4 of 1"),
        ("unique", vec![Use("1", OCT, "10"), Close, Amend("1", "4"), Void("1")], "1 of 1", "none"),
    ];
    for (id, (aggregation, steps, october, november)) in (1..).zip(&cases) {
        let name = format!("{id}: {aggregation}");
        let place = Place { world: &world, id, name: &name };
        place.run(aggregation, None, steps).await;
        for (month, expected) in [("2026-10", october), ("2026-11", november)] {
            let rows = place.rows(month).await;
            let told = rows.first().map_or_else(
                || "none".to_owned(),
                |row| format!("{} of {}", row["quantity"].as_str().expect("a quantity"), row["count"]),
            );
            assert_eq!(told, *expected, "{name} in {month}");
        }
    }
    world.is_sound();
    // Nothing changes by itself later.
    let days = || world.value("SELECT jsonb_agg(d ORDER BY d)::text FROM daily_summaries d");
    let before = days();
    world.run(&["rebuild", "summaries"]);
    assert_eq!(days(), before);
}
