//! What corrections, closed months and price changes come to: cases with values that were worked out by hand.

use serde_json::{Value, json};

use crate::support::{Daemon, Database, TestClock};

const KEYS: &str = "usage:write,usage:read,usage:backfill,usage:price,billing:write,billing:read";

/// What happens in a case, one after the other.
enum Step {
    /// Usage of an id, a day and a quantity.
    Use(&'static str, &'static str, &'static str),
    /// It is taken back.
    Void(&'static str),
    /// It is replaced by this quantity.
    Amend(&'static str, &'static str),
    /// October is closed.
    Close,
    /// A new rate card from this time on.
    Card(&'static str, Value),
    /// The costs of October and November by now.
    Cost(&'static str, &'static str),
    /// What the counters of October and November hold by now.
    Used(&'static str, &'static str),
}
use Step::{Amend, Card, Close, Cost, Use, Used, Void};

struct Place {
    database: Database,
    daemon: Daemon,
    key: String,
}

impl Place {
    fn new() -> Self {
        let database = Database::new();
        let daemon = Daemon::clocked(&database, &TestClock::at("2026-11-26T12:00:00Z"));
        let key = database.key(KEYS, None);
        Self { database, daemon, key }
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, answer) = self.daemon.post(path, &self.key, &body).await;
        assert!(status.is_success(), "{path} {body}: {status} {answer}");
        answer
    }

    /// Runs a case on a meter and an org of its own.
    async fn run(&self, id: i32, name: &str, aggregation: &str, rates: Option<&Value>, steps: &[Step]) {
        let (org, event_name) = (format!("org{id}"), format!("work{id}"));
        self.daemon.org(&self.key, &org, "UTC").await;
        self.database.meter(id, &event_name, aggregation, "model", rates);
        if aggregation == "sum" {
            self.database.slot(id, id, &json!({}), false, "month");
        }
        let event = |day: &str, value: &str| {
            let data = json!({ "value": value, "model": "a" });
            json!({ "event_name": event_name, "occurred_at": format!("{day}T12:00:00Z"), "data": data })
        };
        let named = |id: &str| json!({ "org": org, "source": "t", "id": id, "reason": "wrong" });
        let mut version = 1;
        for step in steps {
            match step {
                Use(id, day, value) => {
                    let mut sent = event(day, value);
                    (sent["id"], sent["source"], sent["org"]) = (json!(id), json!("t"), json!(org));
                    assert_eq!(self.daemon.usage(&self.key, &sent).await, ["accepted"], "{name}: {id}");
                }
                Void(id) => drop(self.post("/v1/usage/void", named(id)).await),
                Amend(id, value) => {
                    let mut body = named(id);
                    body["event"] = event("", value);
                    body["event"].as_object_mut().expect("an object").remove("occurred_at");
                    self.post("/v1/usage/amend", body).await;
                }
                Close => {
                    self.post("/v1/usage/closings", json!({ "org": org, "month": "2026-10" })).await;
                }
                Card(valid_from, rates) => {
                    version += 1;
                    self.database.execute(&format!(
                        "INSERT INTO rate_cards
                             (rate_card_id, meter_id, version, valid_from, currency, rates, created_at)
                         VALUES ({id} * 100 + {version}, {id}, {version}, '{valid_from}', 'usd', '{rates}',
                             now());
                         UPDATE catalog SET version = version + 1"
                    ));
                }
                Cost(october, november) => {
                    let told = [self.cost(&org, id, "2026-10").await, self.cost(&org, id, "2026-11").await];
                    assert_eq!(told, [*october, *november], "{name}: costs");
                }
                Used(october, november) => {
                    let used = |month: &str| {
                        self.database.value(&format!(
                            "SELECT coalesce(sum(trim_scale(used)), 0)::text FROM quota_counters
                             WHERE slot_id = {id} AND period = '{month}-01'"
                        ))
                    };
                    let told = [used("2026-10"), used("2026-11")].map(Option::unwrap_or_default);
                    assert_eq!(told, [*october, *november], "{name}: counters");
                }
            }
        }
    }

    async fn rows(&self, org: &str, id: i32, month: &str) -> Vec<Value> {
        let next = if month == "2026-10" { "2026-11" } else { "2026-12" };
        let path =
            format!("/v1/usage/daily?org={org}&meter=meter-{id}&from={month}-01&to={next}-01&group_by=month");
        let (status, page) = self.daemon.get(&path, &self.key).await;
        assert_eq!(status, 200, "{page}");
        page["data"].as_array().expect("rows").clone()
    }

    async fn cost(&self, org: &str, id: i32, month: &str) -> String {
        let rows = self.rows(org, id, month).await;
        rows.first().map_or_else(|| "0".to_owned(), |row| row["cost"].as_str().expect("a cost").to_owned())
    }

    fn is_sound(&self) {
        assert_eq!(self.database.unbalanced(), [] as [String; 0]);
        self.database.run(&["verify"]);
    }
}

fn tiers(mode: &str, tiers: Value) -> Value {
    json!([{ "tiers": { "mode": mode, "tiers": tiers } }])
}

/// 1 each for the first 100, 0.5 each beyond.
fn graduated() -> Value {
    tiers("graduated", json!([{ "up_to": "100", "unit_cost": "1" }, { "unit_cost": "0.5" }]))
}

/// Twice as dear.
fn dearer() -> Value {
    tiers("graduated", json!([{ "up_to": "100", "unit_cost": "2" }, { "unit_cost": "1" }]))
}

/// The first 100 are free.
fn free(price: &str) -> Value {
    tiers("graduated", json!([{ "up_to": "100", "unit_cost": "0" }, { "unit_cost": price }]))
}

/// Up to 100 all of it at 1, above that all of it at 0.4, and 3 beside.
fn volume() -> Value {
    tiers("volume", json!([{ "up_to": "100", "unit_cost": "1" }, { "unit_cost": "0.4", "flat_cost": "3" }]))
}

/// 7 for every begun ten.
fn package() -> Value {
    tiers("package", json!([{ "unit_cost": "7", "package_size": "10" }]))
}

/// What is taken back is given back as it was charged: rated in its own month, posted to that or, where it is
/// closed, to the open one.
#[tokio::test(flavor = "multi_thread")]
async fn corrections_are_rated_where_they_belong_and_posted_where_it_is_open() {
    const OCT: &str = "2026-10-27";
    const NOV: &str = "2026-11-20";
    let place = Place::new();
    let cases: [(&str, Value, Vec<Step>); 14] = [
        (
            "a flat price, closed",
            json!([{ "unit_cost": "0.8" }]),
            vec![
                Use("1", OCT, "150"),
                Close,
                Used("150", "0"),
                Void("1"),
                Cost("120", "-120"),
                Used("0", "0"),
            ],
        ),
        (
            // 3 × 0.333333333333, amended to 7: 2.333333333331 in all
            "a flat price that does not come out even",
            json!([{ "unit_cost": "0.333333333333" }]),
            vec![
                Use("1", OCT, "3"),
                Close,
                Amend("1", "7"),
                Cost("0.999999999999", "1.333333333332"),
                Void("1"),
                Cost("0.999999999999", "-0.999999999999"),
            ],
        ),
        (
            // 100 + 50 × 0.5
            "graduated, closed",
            graduated(),
            vec![
                Use("1", OCT, "150"),
                Close,
                Void("1"),
                Cost("125", "-125"),
                Use("2", NOV, "20"),
                Cost("125", "-105"),
                Use("3", NOV, "130"),
                // 100 + 50 × 0.5 of November, less 125
                Cost("125", "0"),
                Used("0", "150"),
            ],
        ),
        (
            // 80 at 1; then 20 at 1 and 30 at 0.5. Without the first October would have cost 50: 65 less.
            "graduated, closed, the first of two",
            graduated(),
            vec![
                Use("1", OCT, "80"),
                Use("2", OCT, "50"),
                Cost("115", "0"),
                Close,
                Void("1"),
                Cost("115", "-65"),
                Void("2"),
                Cost("115", "-115"),
                Used("0", "0"),
            ],
        ),
        (
            // 150 would have cost 125, 140 cost 120
            "graduated, amended",
            graduated(),
            vec![Use("1", OCT, "150"), Close, Amend("1", "140"), Cost("125", "-5"), Used("140", "0")],
        ),
        (
            // 100 and 120 × 0.5 in November; October's void is not rated in November's tiers.
            "graduated, with much in the open month",
            graduated(),
            vec![
                Use("1", OCT, "90"),
                Use("2", NOV, "220"),
                Close,
                Void("1"),
                Cost("90", "70"),
                Amend("2", "100"),
                Cost("90", "10"),
                Used("0", "100"),
            ],
        ),
        (
            // 60 and 50 are 110: 44 + 3. Without the 50 they had cost 60: 13 more.
            "volume, closed",
            volume(),
            vec![
                Use("1", OCT, "60"),
                Use("2", OCT, "50"),
                Cost("47", "0"),
                Close,
                Void("2"),
                Cost("47", "13"),
                Void("1"),
                Cost("47", "-47"),
            ],
        ),
        (
            "volume, open",
            volume(),
            vec![
                Use("1", NOV, "60"),
                Use("2", NOV, "50"),
                Void("1"),
                Cost("0", "50"),
                Amend("2", "200"),
                Cost("0", "83"),
                Void("2"),
                Cost("0", "0"),
            ],
        ),
        (
            // 25 are three packages, 34 four; 25 again three
            "packages, closed",
            package(),
            vec![
                Use("1", OCT, "25"),
                Use("2", OCT, "9"),
                Cost("28", "0"),
                Close,
                Void("2"),
                Cost("28", "-7"),
                Amend("1", "30"),
                Cost("28", "-7"),
                Amend("1", "31"),
                Cost("28", "0"),
                Void("1"),
                Cost("28", "-28"),
            ],
        ),
        (
            "packages, open",
            package(),
            vec![
                Use("1", NOV, "25"),
                Use("2", NOV, "9"),
                Void("1"),
                Cost("0", "7"),
                Void("2"),
                Cost("0", "0"),
            ],
        ),
        (
            // Late usage is rated in its month, which stood at 90: 10 at 1, 10 at 0.5.
            "late usage of a closed month",
            graduated(),
            vec![
                Use("1", OCT, "90"),
                Close,
                Use("2", OCT, "20"),
                Cost("90", "15"),
                Used("110", "0"),
                Void("2"),
                Cost("90", "0"),
                Used("90", "0"),
            ],
        ),
        (
            "late usage that is amended, and taken back when more has come",
            graduated(),
            vec![
                Use("1", OCT, "90"),
                Close,
                Use("2", OCT, "20"),
                Amend("2", "60"),
                // 10 at 1, 50 at 0.5
                Cost("90", "35"),
                Use("3", NOV, "10"),
                Cost("90", "45"),
                Void("1"),
                // 60 at 1 instead of 125
                Cost("90", "-20"),
                Used("60", "10"),
            ],
        ),
        (
            "taken back before the closing",
            graduated(),
            vec![Use("1", OCT, "150"), Void("1"), Close, Cost("0", "0"), Used("0", "0")],
        ),
        (
            "amended before the closing and taken back after it",
            graduated(),
            vec![
                Use("1", OCT, "150"),
                Amend("1", "120"),
                Close,
                Void("1"),
                Cost("110", "-110"),
                Used("0", "0"),
            ],
        ),
    ];
    for (id, (name, rates, steps)) in (1..).zip(&cases) {
        place.run(id, name, "sum", Some(rates), steps).await;
    }
    // Of a meter without tiers a void needs no more than its record.
    place.is_sound();
}

/// A price change within a month goes on in the tiers where the month stands; nothing is free twice.
#[tokio::test(flavor = "multi_thread")]
async fn a_price_change_goes_on_in_the_tiers() {
    const CHANGE: &str = "2026-11-10T00:00:00Z";
    const BEFORE: &str = "2026-11-05";
    const AFTER: &str = "2026-11-15";
    let place = Place::new();
    let cases: [(&str, Value, Vec<Step>); 12] = [
        (
            // 60 at 1; 40 × 2 and 20 × 1; 60 at 0.5, for the month stands at 120. The last is taken back as
            // what the first card charged for 120 less its price of 60; 10 more stand at 120 again, although
            // that card counts in no month any more.
            "amended under a card that was replaced since",
            graduated(),
            vec![
                Use("1", BEFORE, "60"),
                Card(CHANGE, dearer()),
                Use("2", AFTER, "60"),
                Use("3", BEFORE, "60"),
                Cost("0", "190"),
                Card("2026-10-01T00:00:00Z", dearer()),
                Amend("3", "10"),
                Cost("0", "165"),
                Void("3"),
                Cost("0", "160"),
            ],
        ),
        (
            // As before, but nothing was replaced: the counter says the same as the records.
            "amended under a card that counts still",
            graduated(),
            vec![
                Use("1", BEFORE, "60"),
                Card(CHANGE, dearer()),
                Use("2", AFTER, "60"),
                Use("3", BEFORE, "60"),
                Amend("3", "10"),
                Cost("0", "165"),
            ],
        ),
        (
            // 10 of the later 90 are free, 80 at 0.12. The first cost nothing, so nothing is given back.
            "the allowance is the month's",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "90"),
                Cost("0", "9.6"),
                Void("1"),
                Cost("0", "9.6"),
                Void("2"),
                Cost("0", "0"),
            ],
        ),
        (
            "the later is taken back first",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "90"),
                Void("2"),
                Cost("0", "0"),
                Use("3", AFTER, "15"),
                // 10 free, 5 at 0.12
                Cost("0", "0.6"),
            ],
        ),
        (
            // 110: 10 at 0.1. Amended to 120 it stands where it stood: 20 at 0.1.
            "an amendment stands where the event stood",
            free("0.1"),
            vec![
                Use("1", BEFORE, "110"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "50"),
                Cost("0", "7"),
                Amend("1", "120"),
                Cost("0", "8"),
                Amend("2", "60"),
                Cost("0", "9.2"),
            ],
        ),
        (
            // The month stands at 140 when the late 10 come: 10 at the old 0.1.
            "late usage of the time before",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "50"),
                Cost("0", "4.8"),
                Use("3", BEFORE, "10"),
                Cost("0", "5.8"),
                Void("3"),
                Cost("0", "4.8"),
            ],
        ),
        (
            // 90 at a flat 0.2 are 18; the month stands at 90, so 10 are free and 20 cost 0.12.
            "from a flat price to tiers",
            json!([{ "unit_cost": "0.2" }]),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "30"),
                Cost("0", "20.4"),
                Void("1"),
                Cost("0", "2.4"),
            ],
        ),
        (
            "from tiers to a flat price and back",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(CHANGE, json!([{ "unit_cost": "0.2" }])),
                Use("2", AFTER, "20"),
                Cost("0", "4"),
                Card("2026-11-18T00:00:00Z", free("0.12")),
                Use("3", "2026-11-19", "5"),
                // The month stands at 110.
                Cost("0", "4.6"),
            ],
        ),
        (
            // One rate for all becomes one for model a: its usage of the month counts.
            "from one rate to one by dimension",
            free("0.1"),
            vec![
                Use("1", BEFORE, "90"),
                Card(
                    CHANGE,
                    json!([{ "when": { "model": "a" }, "tiers": { "mode": "graduated", "tiers": [
                        { "up_to": "100", "unit_cost": "0" }, { "unit_cost": "0.3" } ] } },
                            { "unit_cost": "1" }]),
                ),
                Use("2", AFTER, "20"),
                Cost("0", "3"),
            ],
        ),
        (
            // 95 in packages of ten: 70; then the month is in its tenth package, and 6 more begin the
            // eleventh.
            "packages",
            package(),
            vec![
                Use("1", BEFORE, "95"),
                Card(CHANGE, tiers("package", json!([{ "unit_cost": "8", "package_size": "10" }]))),
                Use("2", AFTER, "5"),
                Cost("0", "70"),
                Use("3", AFTER, "1"),
                Cost("0", "78"),
            ],
        ),
        (
            // A card that was replaced before it priced anything changes nothing.
            "a card that is replaced by another of the same time",
            free("0.1"),
            vec![
                Card(CHANGE, free("5")),
                Use("1", BEFORE, "90"),
                Card(CHANGE, free("0.12")),
                Use("2", AFTER, "30"),
                Cost("0", "2.4"),
            ],
        ),
        (
            // Both belong to October; given back in November.
            "in a closed month",
            free("0.1"),
            vec![
                Use("1", "2026-10-05", "120"),
                Card("2026-10-10T00:00:00Z", free("0.12")),
                Use("2", "2026-10-15", "50"),
                Cost("8", "0"),
                Close,
                Void("2"),
                Cost("8", "-6"),
                Void("1"),
                Cost("8", "-8"),
            ],
        ),
    ];
    for (id, (name, rates, steps)) in (1..).zip(&cases) {
        place.run(id, name, "sum", Some(rates), steps).await;
    }
    place.is_sound();
    // The counters are what the records say, also when they are made anew.
    place.database.execute("DELETE FROM rating_counters");
    place.database.run(&["rebuild", "summaries"]);
    place.is_sound();
}

/// What does not add up has nothing to give back: a closed month stays as it was told, and the open one has
/// its own values alone.
#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_add_up_stays_in_a_closed_month() {
    const OCT: &str = "2026-10-27";
    let today = "2026-11-26";
    let place = Place::new();
    // (aggregation, steps, October, November), each quantity and count
    let cases: [(&str, Vec<Step>, &str, &str); 9] = [
        ("max", vec![Use("1", OCT, "10"), Use("2", OCT, "7"), Close, Void("1")], "10 of 2", "none"),
        ("latest", vec![Use("1", OCT, "10"), Close, Void("1")], "10 of 1", "none"),
        ("unique", vec![Use("1", OCT, "10"), Use("2", OCT, "7"), Close, Void("1")], "2 of 2", "none"),
        // What comes to the open month counts by itself, on the very day of the void.
        ("max", vec![Use("1", OCT, "10"), Close, Void("1"), Use("2", today, "3")], "10 of 1", "3 of 1"),
        ("max", vec![Use("2", today, "3"), Use("1", OCT, "10"), Close, Void("1")], "10 of 1", "3 of 1"),
        ("latest", vec![Use("1", OCT, "10"), Close, Void("1"), Use("2", today, "3")], "10 of 1", "3 of 1"),
        ("unique", vec![Use("1", OCT, "10"), Use("2", today, "10"), Close, Void("1")], "1 of 1", "1 of 1"),
        // An amendment is what comes late: posted to today, and taken back from there.
        ("max", vec![Use("1", OCT, "10"), Close, Amend("1", "4")], "10 of 1", "4 of 1"),
        ("unique", vec![Use("1", OCT, "10"), Close, Amend("1", "4"), Void("1")], "1 of 1", "none"),
    ];
    for (id, (aggregation, steps, october, november)) in (1..).zip(&cases) {
        let name = format!("{id}: {aggregation}");
        place.run(id, &name, aggregation, None, steps).await;
        for (month, expected) in [("2026-10", october), ("2026-11", november)] {
            let rows = place.rows(&format!("org{id}"), id, month).await;
            let told = rows.first().map_or_else(
                || "none".to_owned(),
                |row| format!("{} of {}", row["quantity"].as_str().expect("a quantity"), row["count"]),
            );
            assert_eq!(told, *expected, "{name} in {month}");
        }
    }
    place.is_sound();
    // Nothing changes by itself later.
    let before = place.database.value("SELECT jsonb_agg(d ORDER BY d)::text FROM daily_summaries d");
    place.database.run(&["rebuild", "summaries"]);
    assert_eq!(place.database.value("SELECT jsonb_agg(d ORDER BY d)::text FROM daily_summaries d"), before);
}
