//! Billing periods are stored: usage counts to the period that contained it, whatever happened to the
//! subscription later.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::objects::{Object, customer, subscription};
use crate::support::requests::{Time, meter, org, plan, quota, request, usage};
use crate::support::world::Setup;

const UPDATED: &str = "customer.subscription.updated";

/// A platform that accepts old usage of `tokens`, and an org `acme` in Berlin with a quota by billing period.
fn platform(time: &str) -> Setup {
    let scopes = "billing:read,billing:write,usage:read,usage:write,usage:backfill";
    let setup = World::new().at(time).scopes(scopes).with(meter("tokens"));
    setup.with(org("acme").zone("Europe/Berlin")).with(quota(1000).period("billing"))
}

/// The same, where Stripe has sent that `cus_1` belongs to the org.
async fn linked(setup: Setup) -> World {
    let world = setup.start().await;
    world.deliver(customer("cus_1").org("acme").created_event().at(world.now())).await;
    world
}

/// What happens at a time.
enum Then<'a> {
    /// An event of Stripe about `sub_1`: status, period, when it ended.
    Told(&'a str, &'a str, &'a str, Option<&'a str>),
    /// A command on the local subscription.
    Local(&'a str, Value),
    /// Usage at a time.
    Used(&'a str, i64),
}

/// A name, what happens when, and the history at the end.
type Case = (&'static str, Vec<(&'static str, Then<'static>)>, Vec<[&'static str; 4]>);

fn told(status: &str, start: &str, end: &str, ended: Option<&str>) -> Object {
    let told = subscription("sub_1").status(status).period(start, end);
    told.with("ended_at", ended.map(|ended| ended.second()))
}

async fn lives(world: &World, life: &[(&str, Then<'_>)]) {
    for (n, (at, then)) in life.iter().enumerate() {
        world.turn(at);
        match then {
            Then::Told(status, start, end, ended) => {
                let event = told(status, start, end, *ended).happened(UPDATED);
                world.tell([event.id(&format!("evt_{n}")).at(*at)]).await;
                world.settles().await;
            }
            Then::Local(what, body) => {
                let path = format!("/v1/orgs/acme/subscription{what}");
                world.send(request(reqwest::Method::POST, path, body.clone())).await.ok();
            }
            Then::Used(occurred_at, quantity) => {
                let used = usage("acme", "tokens").at(*occurred_at).quantity(*quantity);
                world.used(used.id(&format!("u{n}"))).await;
            }
        }
    }
}

/// The history of the org's quota, read one row a page: label, start, end, used.
async fn history(world: &World) -> Vec<[String; 4]> {
    let quota = world.get("/v1/quotas?org=acme").await.text("data.0.id");
    let rows = world.all(&format!("/v1/quotas/{quota}/history?"), 1).await;
    let fields = ["period", "start", "end", "used"];
    rows.iter().map(|row| fields.map(|field| row[field].as_str().expect("text").to_owned())).collect()
}

/// Lives of subscriptions and the quota's history at the end, computed by hand.
fn cases() -> Vec<Case> {
    use Then::{Local, Told, Used};
    vec![
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
                // It has no plan any more: a calendar month.
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
    ]
}

#[tokio::test]
async fn usage_is_counted_to_the_period_that_contained_it() {
    for (name, life, expected) in cases() {
        let world = linked(platform(life[0].0).with(plan("pro"))).await;
        lives(&world, &life).await;
        assert_eq!(history(&world).await, expected, "{name}");
        // Records and counters agree, and a rebuild gives the same.
        world.balances();
        world.run(&["verify"]);
    }
}

/// The periods that the events show can be rebuilt, and are compared.
#[tokio::test]
async fn periods_and_their_counters_are_verified_and_rebuilt() {
    let world = linked(platform("2026-10-20T09:00:00Z")).await;
    let months = |start, end| Then::Told("active", start, end, None);
    lives(
        &world,
        &[
            ("2026-10-20T09:00:01Z", months("2026-10-20T09:00:00Z", "2026-11-20T09:00:00Z")),
            ("2026-11-05T00:00:00Z", Then::Used("2026-11-05T00:00:00Z", 5)),
            // A month after its start it restarts twice on one day.
            ("2026-11-20T07:00:01Z", months("2026-11-20T07:00:00Z", "2026-12-20T07:00:00Z")),
            ("2026-11-20T08:00:00Z", Then::Used("2026-11-20T07:30:00Z", 6)),
            ("2026-11-20T11:00:01Z", months("2026-11-20T11:00:00Z", "2026-12-20T11:00:00Z")),
            ("2026-11-20T12:00:00Z", Then::Used("2026-11-20T12:00:00Z", 7)),
        ],
    )
    .await;
    let dump = || world.run(&["dump"]);
    let (before, fails) = (dump(), |what: &str| {
        let verify = world.command(&["verify"]).output().expect("it runs");
        let said = String::from_utf8_lossy(&verify.stdout).into_owned();
        assert!(!verify.status.success() && said.contains(what), "{what}: {said}");
    });
    world.run(&["verify"]);
    let period = "WHERE subscription_id = 'sub_1' AND period_start = '2026-11-20T07:00:00Z'";
    for change in [
        format!("UPDATE subscription_periods SET period_end = period_end + interval '1 day' {period}"),
        format!("DELETE FROM subscription_periods {period}"),
        format!("UPDATE subscription_periods SET last_seen = first_seen - interval '1 day' {period}"),
    ] {
        world.execute(&change);
        fails("subscription_periods");
        world.run(&["rebuild", "mirrors", "--yes"]);
        world.daemon().projected().await;
        world.run(&["verify"]);
    }
    let second = "WHERE began = '2026-11-20T07:00:00Z'";
    for change in [
        format!("UPDATE quota_counters SET used = used + 1 {second}"),
        format!("UPDATE quota_counters SET began = began + interval '1 hour' {second}"),
    ] {
        world.execute(&change);
        fails("quota_counters");
        world.run(&["rebuild", "summaries"]);
        world.execute("DELETE FROM quota_counters WHERE used = 0");
        world.run(&["verify"]);
    }
    assert_eq!(dump(), before);
}

/// The known periods are the same in any order of the events, and with repeats.
#[tokio::test]
async fn periods_are_of_the_set_of_events() {
    let world = World::new().start().await;
    // A trial, extended; then paid, at another price; then the old price again, and a restart in the same
    // second.
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
        // Every third event comes twice.
        let again = order.iter().filter(|_| number % 3 == 0).rev();
        for n in order.iter().chain(again) {
            let (created, status, price, start, end) = told[*n];
            let told = subscription(&format!("sub_{number}")).status(status).price(price).period(start, end);
            world.deliver(told.happened(UPDATED).id(&format!("evt_{number}_{n}")).at(created)).await;
        }
    }
    world.daemon().projected().await;
    let rows = world.value(
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
    world.run(&["verify"]);
}

/// A mode that does not act (here live mode) gives its orgs billing periods and no plan. It stops when a
/// subscription that acts exists.
#[tokio::test]
async fn a_mode_that_does_not_act_gives_periods_to_who_has_no_other() {
    // Its price would buy a plan; the price of the later one does not.
    let setup = platform("2026-03-10T09:00:00Z").with(plan("pro").prices(["price_sold"]));
    let world = linked(setup).await;
    let (start, end) = ("2026-03-10T08:00:00Z", "2026-04-10T08:00:00Z");
    let live = |object: Object, kind: &str| {
        let event = object.with("livemode", true).happened(kind).at(start);
        event.id(&format!("evt_live_{kind}")).with("livemode", true)
    };
    let sold = subscription("sub_2").customer("cus_2").price("price_sold").period(start, end);
    let customer = customer("cus_2").org("acme");
    world.tell([live(customer, "customer.created"), live(sold, UPDATED)]).await;
    world.settles().await;
    lives(&world, &[("2026-03-20T00:00:00Z", Then::Used("2026-03-20T00:00:00Z", 5))]).await;
    let row = |start: &str, end: &str, used: &str| [&start[..10], start, end, used].map(str::to_owned);
    assert_eq!(history(&world).await, [row(start, end, "5")]);
    let entitled = world.get("/v1/orgs/acme/entitlements").await.status(200);
    assert_eq!(entitled.pick(["plan", "subscription"]), json!([null, null]), "{entitled}");
    // From then on only the subscription that acts counts, also for earlier usage.
    let (start, end) = ("2026-03-15T00:00:00Z", "2026-04-15T00:00:00Z");
    let later = [
        ("2026-03-21T00:00:00Z", Then::Told("active", start, end, None)),
        ("2026-03-21T00:00:01Z", Then::Used("2026-03-20T00:00:00Z", 2)),
        ("2026-03-21T00:00:02Z", Then::Used("2026-03-12T00:00:00Z", 7)),
    ];
    lives(&world, &later).await;
    // Stored counters stay. 12 March is in the month before the first known period of the acting one.
    let expected = [
        row(start, end, "2"),
        row("2026-03-10T08:00:00Z", start, "5"),
        row("2026-02-15T00:00:00Z", start, "7"),
    ];
    assert_eq!(history(&world).await, expected);
    world.run(&["verify"]);
}
