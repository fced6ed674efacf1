//! A quota that is newer than the usage: its past periods show what the records say. Computed by hand.

use serde_json::{Value, json};

use crate::support::World;
use crate::support::objects::{customer, subscription};
use crate::support::requests::{self, Request, Usage, amend, close, meter, plan, quota, usage, void};

const KEYS: &str = "billing:read,billing:write,usage:read,usage:write,usage:backfill";

/// Steps of a case, in order.
enum Step {
    /// Turns the clock to this time.
    At(&'static str),
    /// Usage: id, time, subject, quantity.
    Use(&'static str, &'static str, &'static str, i64),
    /// Like `Use`, for the neighbour, another org of the case.
    Neighbour(&'static str, &'static str, i64),
    /// Voids the event.
    Void(&'static str),
    /// Amends the event to this quantity.
    Amend(&'static str, i64),
    /// Closes October.
    Close,
    /// Stripe's subscription has periods from the 11th to the 11th, beginning in October.
    Subscribed,
    /// The org moves to Tokyo.
    Tokyo,
    /// Makes a quota of the org on the case's slot.
    Quota,
    /// Deletes the quota.
    NoQuota,
    /// Makes a quota of the neighbour.
    TheirQuota,
    /// A plan has a limit on the slot, so the slot is counted for every org.
    Plan,
    /// The expected history now: first day, subject, used amount.
    History(&'static [&'static str]),
    /// Like `History`, for the neighbour.
    TheirHistory(&'static [&'static str]),
}
use Step::{
    Amend, At, Close, History, Neighbour, NoQuota, Plan, Quota, Subscribed, TheirHistory, TheirQuota, Tokyo,
    Use, Void,
};

/// A case with its own org, neighbour and meter.
struct Case<'a> {
    world: &'a World,
    name: &'a str,
    id: i32,
    counted: Value,
    quotas: [Option<String>; 2],
}

async fn world_at(time: &str) -> World {
    World::new().at(time).scopes(KEYS).start().await
}

/// Runs a case; returns the quotas and their final histories.
async fn run(
    world: &World,
    (id, name): (i32, &str),
    counted: Value,
    steps: &[Step],
) -> Vec<(String, Vec<String>)> {
    let (meter_key, event_name) = (format!("meter-{id}"), format!("work{id}"));
    world.send(meter(&meter_key).event_name(&event_name)).await.status(201);
    for n in [0, 1] {
        world.send(requests::org(&org(id, n))).await.status(201);
    }
    let mut case = Case { world, name, id, counted, quotas: [None, None] };
    for step in steps {
        case.step(step).await;
    }
    let mut left = Vec::new();
    for quota in case.quotas.into_iter().flatten() {
        let rows = history(world, &quota).await;
        left.push((quota, rows));
    }
    left
}

/// `period subject used` of every period of a quota.
async fn history(world: &World, quota: &str) -> Vec<String> {
    let page = world.get(&format!("/v1/quotas/{quota}/history")).await.status(200);
    let text = |row: &Value, field: &str| row[field].as_str().unwrap_or_default().to_owned();
    let line = |row: &Value| ["period", "subject", "used"].map(|field| text(row, field)).join(" ");
    page.rows().iter().map(line).collect()
}

fn org(id: i32, n: usize) -> String {
    format!("org{id}-{n}")
}

impl Case<'_> {
    fn org(&self) -> String {
        org(self.id, 0)
    }

    fn meter(&self) -> String {
        format!("meter-{}", self.id)
    }

    fn usage(&self, n: usize, quantity: i64) -> Usage {
        usage(&org(self.id, n), &format!("work{}", self.id)).quantity(quantity)
    }

    /// The case's slot, with a limit that is never reached.
    fn limit(&self) -> Request {
        let mut request = quota(1_000_000).meter(&self.meter());
        for (name, value) in self.counted.as_object().into_iter().flatten() {
            request = request.with(name, value.clone());
        }
        request
    }

    async fn quota(&mut self, n: usize) {
        let made = self.world.send(self.limit().org(&org(self.id, n))).await.ok();
        self.quotas[n] = Some(made.id());
    }

    async fn told(&self, n: usize, rows: &[&str]) {
        let quota = self.quotas[n].as_deref().expect("a quota");
        assert_eq!(history(self.world, quota).await, rows, "{}: org {n}", self.name);
    }

    /// Stripe sends a subscription that began on 11 October, then its next period.
    async fn subscribed(&self) {
        let (cus, sub) = (format!("cus_{}", self.id), format!("sub_{}", self.id));
        let org = customer(&cus).org(&self.org()).created_event();
        let months = [
            ("first", "2026-10-11T00:00:00Z", "2026-11-11T00:00:00Z"),
            ("second", "2026-11-11T00:00:00Z", "2026-12-11T00:00:00Z"),
        ];
        self.world.tell([org.at(months[0].1)]).await;
        for (name, start, end) in months {
            let bought = subscription(&sub).customer(&cus).created(months[0].1).period(start, end);
            let event = bought.happened("customer.subscription.updated").at(start);
            self.world.tell([event.id(&format!("evt_{sub}_{name}"))]).await;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1100)).await;
    }

    async fn step(&mut self, step: &Step) {
        let world = self.world;
        match step {
            At(time) => world.turn(time),
            Use(id, at, "", quantity) => world.used(self.usage(0, *quantity).id(id).at(*at)).await,
            Use(id, at, subject, quantity) => {
                world.used(self.usage(0, *quantity).id(id).at(*at).subject(subject)).await;
            }
            Neighbour(id, at, quantity) => world.used(self.usage(1, *quantity).id(id).at(*at)).await,
            Void(id) => drop(world.send(void(id).org(&self.org())).await.ok()),
            Amend(id, quantity) => {
                world.send(amend(id, self.usage(0, *quantity)).org(&self.org())).await.ok();
            }
            Close => drop(world.send(close("2026-10").org(&self.org())).await.ok()),
            Subscribed => self.subscribed().await,
            Tokyo => {
                let zone = json!({ "time_zone": "Asia/Tokyo" });
                world.patch(&format!("/v1/orgs/{}", self.org()), zone).await.ok();
            }
            Quota => self.quota(0).await,
            TheirQuota => self.quota(1).await,
            NoQuota => {
                let quota = self.quotas[0].take().expect("a quota");
                world.delete(&format!("/v1/quotas/{quota}")).await.ok();
            }
            Plan => {
                let limits = [self.limit().without("org")];
                world.send(plan(&format!("plan{}", self.id)).limits(limits)).await.ok();
            }
            History(rows) => self.told(0, rows).await,
            TheirHistory(rows) => self.told(1, rows).await,
        }
    }
}

const SEP: &str = "2026-09-10T08:00:00Z";
const OCT_5: &str = "2026-10-05T08:00:00Z";
const OCT_20: &str = "2026-10-20T08:00:00Z";
const NOV_3: &str = "2026-11-03T08:00:00Z";
const NOV_20: &str = "2026-11-20T08:00:00Z";

fn months() -> Value {
    json!({ "period": "month" })
}

/// A new quota shows what was used in its past periods. Corrections change that, in any order.
#[expect(clippy::too_many_lines, reason = "a table")]
fn cases() -> Vec<(&'static str, Value, Vec<Step>)> {
    let used = || [Use("a", OCT_5, "", 100), Use("b", OCT_20, "", 150), Use("c", NOV_3, "", 40)];
    let after = |steps: Vec<Step>| used().into_iter().chain(steps).collect::<Vec<_>>();
    vec![
        ("months", months(), {
            let mut steps = after(vec![
                Quota,
                History(&["2026-11-01  40", "2026-10-01  250", "2026-09-01  7"]),
                Void("b"),
                History(&["2026-11-01  40", "2026-10-01  100", "2026-09-01  7"]),
                Amend("a", 70),
                Use("d", OCT_20, "", 5),
                History(&["2026-11-01  40", "2026-10-01  75", "2026-09-01  7"]),
            ]);
            steps.insert(0, Use("s", SEP, "", 7));
            steps
        }),
        (
            // Posted to November; it belongs to October.
            "months, taken back before, when October was closed",
            months(),
            after(vec![
                Close,
                Void("b"),
                Amend("a", 30),
                Use("d", OCT_20, "", 5),
                Quota,
                History(&["2026-11-01  40", "2026-10-01  35"]),
                Void("d"),
                History(&["2026-11-01  40", "2026-10-01  30"]),
            ]),
        ),
        (
            "days",
            json!({ "period": "day" }),
            after(vec![
                Quota,
                History(&["2026-11-03  40", "2026-10-20  150", "2026-10-05  100"]),
                Void("b"),
                Use("d", OCT_5, "", 1),
                History(&["2026-11-03  40", "2026-10-20  0", "2026-10-05  101"]),
            ]),
        ),
        (
            // In UTC it was still October.
            "months of another zone",
            months(),
            vec![
                Tokyo,
                Use("a", "2026-10-31T14:59:59.999Z", "", 1),
                Use("b", "2026-10-31T15:00:00Z", "", 2),
                Quota,
                History(&["2026-11-01  2", "2026-10-01  1"]),
                Void("a"),
                History(&["2026-11-01  2", "2026-10-01  0"]),
            ],
        ),
        (
            "billing periods",
            json!({ "period": "billing" }),
            vec![
                Subscribed,
                Use("a", OCT_20, "", 100),
                Use("b", NOV_3, "", 150),
                Use("c", NOV_20, "", 40),
                Quota,
                History(&["2026-11-11  40", "2026-10-11  250"]),
                Amend("b", 60),
                History(&["2026-11-11  40", "2026-10-11  160"]),
                Void("b"),
                History(&["2026-11-11  40", "2026-10-11  100"]),
            ],
        ),
        (
            // Counters of subjects are kept for seven days after their period. A correction of older usage
            // makes a new counter, which the history does not show.
            "days of subjects",
            json!({ "period": "day", "per_subject": true }),
            vec![
                Use("a", NOV_3, "u1", 100),
                Use("b", NOV_20, "u1", 150),
                Use("c", NOV_20, "u2", 20),
                Quota,
                History(&["2026-11-20 u1 150", "2026-11-20 u2 20"]),
                Void("a"),
                Use("d", NOV_3, "u2", 9),
                Use("e", NOV_20, "u2", 3),
                Void("b"),
                History(&["2026-11-20 u1 0", "2026-11-20 u2 23"]),
            ],
        ),
        (
            "months of subjects",
            json!({ "period": "month", "per_subject": true }),
            vec![
                Use("a", OCT_20, "u1", 100),
                Use("b", NOV_20, "u1", 150),
                Quota,
                Void("a"),
                History(&["2026-11-01 u1 150"]),
            ],
        ),
        (
            // 400 days ago is 22 October 2025; older periods are not kept.
            "more than a year",
            months(),
            vec![
                Use("a", "2025-09-30T23:00:00Z", "", 1),
                Use("b", "2025-10-01T00:00:00Z", "", 2),
                Use("c", "2025-12-01T00:00:00Z", "", 4),
                Quota,
                Void("a"),
                History(&["2025-12-01  4", "2025-10-01  2"]),
                Void("b"),
                History(&["2025-12-01  4", "2025-10-01  0"]),
            ],
        ),
        (
            // Usage that only plans limit is counted from the running period on, until the org has its own
            // quota.
            "counted for everybody before",
            months(),
            after(vec![
                Plan,
                Void("b"),
                Quota,
                History(&["2026-11-01  40", "2026-10-01  100"]),
                Void("a"),
                History(&["2026-11-01  40", "2026-10-01  0"]),
            ]),
        ),
        (
            "taken away, and made again",
            months(),
            after(vec![Quota, NoQuota, Void("b"), Quota, History(&["2026-11-01  40", "2026-10-01  100"])]),
        ),
        (
            "others join",
            months(),
            after(vec![
                Quota,
                Neighbour("a", OCT_5, 11),
                Neighbour("b", NOV_3, 12),
                TheirQuota,
                TheirHistory(&["2026-11-01  12", "2026-10-01  11"]),
                Plan,
                History(&["2026-11-01  40", "2026-10-01  250"]),
                TheirHistory(&["2026-11-01  12", "2026-10-01  11"]),
            ]),
        ),
        (
            "usage that named no subject",
            json!({ "period": "billing", "per_subject": true }),
            after(vec![
                Use("d", OCT_5, "u1", 3),
                Quota,
                History(&["2026-11-01  40", "2026-10-01  250", "2026-10-01 u1 3"]),
            ]),
        ),
    ]
}

/// Cases in which the clock moves.
fn lives() -> Vec<(&'static str, Value, Vec<Step>)> {
    let by_subject = || json!({ "period": "month", "per_subject": true });
    vec![
        (
            // Shown until the seventh day of the next month.
            "a month of subjects that is over",
            by_subject(),
            vec![
                At("2026-11-05T12:00:00Z"),
                Use("a", OCT_5, "u1", 100),
                Use("b", OCT_20, "u1", 150),
                Quota,
                History(&["2026-10-01 u1 250"]),
                Void("b"),
                History(&["2026-10-01 u1 100"]),
                At("2026-11-08T12:00:00Z"),
                Void("a"),
                History(&[]),
            ],
        ),
        (
            // The slot was made in November for one org, and counts for every org from December: the
            // neighbour's counters are right from November on, and all of them once it has a quota.
            "everybody's when it was one org's",
            months(),
            vec![
                At("2026-11-20T12:00:00Z"),
                Quota,
                Neighbour("a", OCT_5, 100),
                Neighbour("b", NOV_3, 10),
                At("2026-12-10T12:00:00Z"),
                Neighbour("c", "2026-12-02T08:00:00Z", 1),
                Plan,
                Neighbour("d", NOV_3, 20),
                Neighbour("e", OCT_5, 200),
                TheirQuota,
                TheirHistory(&["2026-12-01  1", "2026-11-01  30", "2026-10-01  300"]),
                History(&[]),
            ],
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn past_periods_say_what_was_used_in_them() {
    for (start, cases) in [("2026-11-26T12:00:00Z", cases()), ("2026-11-05T12:00:00Z", lives())] {
        let world = world_at(start).await;
        let mut told = Vec::new();
        for (id, (name, counted, steps)) in (1..).zip(cases) {
            told.extend(run(&world, (id, name), counted, &steps).await);
        }
        world.run(&["verify"]);
        // A rebuild gives the same as counting live.
        world.execute(
            "UPDATE quota_counters SET used = used + 1000 WHERE period >= '2026-10-01' AND subject = ''",
        );
        world.run(&["rebuild", "summaries"]);
        for (quota, rows) in told {
            assert_eq!(history(&world, &quota).await, rows, "{quota}");
        }
        world.run(&["verify"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_cleaned_away_is_not_compared() {
    let world = world_at("2026-11-05T12:00:00Z").await;
    let steps = [Quota, Use("a", SEP, "", 100), Use("b", SEP, "", 50)];
    run(&world, (1, "kept for 40 days"), months(), &steps).await;
    // The counter is cleaned up; a correction then makes a new one with only its own amount.
    world.execute("DELETE FROM quota_counters");
    world.send(void("b").org(&org(1, 0))).await.ok();
    assert_eq!(world.number("SELECT sum(used)::bigint FROM quota_counters"), -50);
    for (days, ends_well) in [("40", true), ("400", false)] {
        let mut verify = world.command(&["verify"]);
        let done = verify.env("COULOMB_QUOTA_RETENTION_DAYS", days).output().expect("it runs");
        assert_eq!(done.status.success(), ends_well, "{days}: {done:?}");
    }
}
