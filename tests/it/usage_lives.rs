//! Random lives of an org's usage: events of any day, late ones, price changes, voids, amendments and
//! closings in any order. The test computes in another way what the remaining events cost under the cards of
//! their time. All months together must cost that, and the books must equal the records. The same seed gives
//! the same life.

mod levels;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use reqwest::StatusCode;
use rust_decimal::Decimal;
use serde_json::{Value, json};

use crate::support::{Daemon, Database, TestClock};

/// Steps of a life.
const STEPS: u64 = 40;
/// How often a request is sent that is answered 503.
const MOST_TRIES: u32 = 5;

/// Pseudo-random numbers from a seed (SplitMix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }

    /// Up to `bound`, with this many decimal places.
    fn decimal(&mut self, bound: u64, places: u32) -> Decimal {
        Decimal::new(i64::try_from(1 + self.below(bound * 10_u64.pow(places))).expect("small"), places)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Flat,
    Graduated,
    Volume,
    Package,
}

/// A rate card: its first day, and two prices and a bound, of which each kind uses what it needs.
#[derive(Clone, Debug)]
struct Card {
    valid_from: String,
    low: Decimal,
    high: Decimal,
    bound: Decimal,
}

impl Card {
    fn rates(&self, kind: Kind) -> Value {
        let Self { low, high, bound, .. } = self;
        let steps = json!([{ "up_to": bound.to_string(), "unit_cost": low.to_string() },
            { "unit_cost": high.to_string(), "flat_cost": "2.5" }]);
        match kind {
            Kind::Flat => json!([{ "unit_cost": low.to_string(), "battery_units": high.to_string() }]),
            Kind::Graduated => json!([{ "tiers": { "mode": "graduated", "tiers": steps } }]),
            Kind::Volume => json!([{ "tiers": { "mode": "volume", "tiers": steps } }]),
            Kind::Package => json!([{ "tiers": { "mode": "package", "tiers": [
                { "unit_cost": high.to_string(), "package_size": bound.to_string() }] } }]),
        }
    }

    /// The cost of a month.
    fn total(&self, kind: Kind, quantity: Decimal) -> Decimal {
        let above = quantity > self.bound;
        if quantity.is_zero() {
            return quantity;
        }
        let beyond = Decimal::new(25, 1);
        match kind {
            Kind::Flat => quantity * self.low,
            Kind::Graduated if above => self.bound * self.low + (quantity - self.bound) * self.high + beyond,
            Kind::Volume if above => quantity * self.high + beyond,
            Kind::Graduated | Kind::Volume => quantity * self.low,
            Kind::Package => (quantity / self.bound).ceil() * self.high,
        }
    }
}

/// A month's priced quantity and its cost, by card. If two cards with tiers price a month, each event starts
/// at the quantity of both together. A void gives back the card's charge, less what the card's tiers cost
/// without the event, starting where the cards before it end.
#[derive(Default)]
struct Month {
    cards: BTreeMap<(String, usize), (Decimal, Decimal)>,
}

impl Month {
    /// What a card's tiers cost between two quantities of a month.
    fn between(card: &Card, kind: Kind, from: Decimal, to: Decimal) -> Decimal {
        card.total(kind, to) - card.total(kind, from)
    }

    fn stands(&self) -> Decimal {
        self.cards.values().map(|(quantity, _)| quantity).sum()
    }

    fn uses(&mut self, cards: &[Card], card: usize, kind: Kind, from: Decimal, quantity: Decimal) {
        let own = self.cards.entry((cards[card].valid_from.clone(), card)).or_default();
        own.0 += quantity;
        own.1 += Self::between(&cards[card], kind, from, from + quantity);
    }

    /// Returns where the event's place was: at the end of its card without it, if the card charged exactly
    /// what its tiers cost; else at the end of the month.
    fn gives_back(&mut self, cards: &[Card], card: usize, kind: Kind, quantity: Decimal) -> Decimal {
        let key = (cards[card].valid_from.clone(), card);
        let before: Decimal = self.cards.range(..key.clone()).map(|(_, (quantity, _))| quantity).sum();
        let (own, charged) = self.cards.get_mut(&key).expect("a charge");
        let whole = *charged == Self::between(&cards[card], kind, before, before + *own);
        *own -= quantity;
        *charged = Self::between(&cards[card], kind, before, before + *own);
        if whole { before + *own } else { self.stands() }
    }
}

/// The present state of an event.
struct Event {
    month: u64,
    card: usize,
    quantity: Decimal,
    stands: bool,
}

struct Place {
    database: Database,
    daemon: Daemon,
    key: String,
    clock: TestClock,
    ticks: AtomicU64,
}

impl Place {
    fn new() -> Self {
        let database = Database::new();
        let clock = TestClock::at("2026-11-26T12:00:00Z");
        let daemon = Daemon::clocked(&database, &clock);
        let key = database.key("usage:write,usage:read,usage:backfill,billing:write,billing:read", None);
        Self { database, daemon, key, clock, ticks: AtomicU64::new(0) }
    }

    /// Chance decides the order of batches of one microsecond, so time moves on.
    fn tick(&self) {
        let ticks = self.ticks.fetch_add(1, Ordering::Relaxed);
        self.clock.turn(&format!("2026-11-26T12:00:{:02}.{:06}Z", ticks / 1_000_000, ticks % 1_000_000));
    }

    /// Sends it again when the daemon asks for that: a loaded machine may search a day for too long.
    async fn post(&self, path: &str, body: &Value) {
        self.tick();
        let mut busy = 0;
        loop {
            let (status, answer) = self.daemon.post(path, &self.key, body).await;
            if status.is_success() {
                return;
            }
            busy += 1;
            let again = status == StatusCode::SERVICE_UNAVAILABLE && busy < MOST_TRIES;
            assert!(again, "{path} {body}: {status} {answer}");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    }

    fn card(&self, id: i32, version: usize, kind: Kind, card: &Card) {
        let version = i32::try_from(version).expect("few");
        self.database.card(id, version, &card.valid_from, &card.rates(kind));
    }

    fn cost(&self, id: i32) -> Decimal {
        let sum = self.database.value(&format!(
            "SELECT trim_scale(coalesce(sum(cost), 0))::text FROM daily_summaries JOIN usage_series
                 USING (org_id, series_id) WHERE meter_id = {id}"
        ));
        sum.expect("a sum").parse().expect("a decimal")
    }

    /// Runs a life on its own org and meter, beside meters of the other aggregations. `amid`: prices change
    /// within months, too.
    async fn live(&self, id: i32, kind: Kind, amid: bool, seed: u64) {
        let mut chance = Chance(seed);
        let (org, event_name) = (format!("org{id}"), format!("work{id}"));
        self.daemon.org(&self.key, &org, "UTC").await;
        self.database.meter(id, &event_name, "sum", "", None);
        self.database.slot(id, id, &json!({}), false, "month");
        for (n, aggregation) in (1..).zip(["count", "max", "unique", "latest"]) {
            self.database.meter(id + n, &event_name, aggregation, "", None);
        }
        let (mut cards, mut events): (Vec<Card>, BTreeMap<String, Event>) = (Vec::new(), BTreeMap::new());
        let mut closed = 8;
        let mut months: BTreeMap<u64, Month> = BTreeMap::new();
        for step in 0..STEPS {
            let what = if step == 0 { 0 } else { chance.below(20) };
            if what == 0 {
                let (month, day) = (9 + chance.below(3), if amid { 1 + chance.below(28) } else { 1 });
                let valid_from = if step == 0 {
                    "2026-01-01T00:00:00Z".to_owned()
                } else {
                    format!("2026-{month:02}-{day:02}T00:00:00Z")
                };
                let card = Card {
                    valid_from,
                    low: chance.decimal(2, 6),
                    high: chance.decimal(2, 6),
                    bound: Decimal::from(10 + chance.below(90)),
                };
                cards.push(card);
                // In a month that already has usage, two cards would price it.
                if !amid && step > 0 && events.values().any(|event| event.month >= month) {
                    cards.pop();
                } else {
                    self.card(id, cards.len(), kind, &cards[cards.len() - 1]);
                }
            } else if what == 1 && closed < 10 {
                closed += 1;
                self.post("/v1/usage/closings", &json!({ "org": org, "month": format!("2026-{closed:02}") }))
                    .await;
            } else {
                let quantity = chance.decimal(50, 3);
                let known = events.len() as u64;
                let chosen =
                    events.keys().nth(usize::try_from(chance.below(known.max(1))).expect("small")).cloned();
                let named = |id: &str| json!({ "org": org, "source": "t", "id": id, "reason": "wrong" });
                match chosen.filter(|id| what >= 13 && events[id].stands) {
                    Some(id) if what >= 17 => {
                        self.post("/v1/usage/void", &named(&id)).await;
                        let event = events.get_mut(&id).expect("known");
                        event.stands = false;
                        let month = months.entry(event.month).or_default();
                        month.gives_back(&cards, event.card, kind, event.quantity);
                    }
                    Some(id) => {
                        let mut body = named(&id);
                        body["event"] =
                            json!({ "event_name": event_name, "data": { "value": quantity.to_string() } });
                        self.post("/v1/usage/amend", &body).await;
                        let event = events.get_mut(&id).expect("known");
                        let month = months.entry(event.month).or_default();
                        let from = month.gives_back(&cards, event.card, kind, event.quantity);
                        month.uses(&cards, event.card, kind, from, quantity);
                        event.quantity = quantity;
                    }
                    None => {
                        let (month, name) = (9 + chance.below(3), format!("e{step}"));
                        let at = format!(
                            "2026-{month:02}-{:02}T{:02}:30:00Z",
                            1 + chance.below(26),
                            chance.below(12)
                        );
                        let sent = json!({ "id": name, "source": "t", "org": org, "event_name": event_name,
                            "occurred_at": at,
                            "data": { "value": quantity.to_string() } });
                        self.tick();
                        assert_eq!(self.daemon.usage(&self.key, &sent).await, ["accepted"]);
                        let card = (0..cards.len())
                            .filter(|n| cards[*n].valid_from <= at)
                            .max_by_key(|n| (cards[*n].valid_from.clone(), *n))
                            .expect("one from January on");
                        let used = months.entry(month).or_default();
                        used.uses(&cards, card, kind, used.stands(), quantity);
                        events.insert(name, Event { month, card, quantity, stands: true });
                    }
                }
            }
        }
        let charged: Decimal =
            months.values().flat_map(|month| month.cards.values()).map(|(_, cost)| cost).sum();
        assert_eq!(self.cost(id), charged.normalize(), "{kind:?}, amid {amid}, seed {seed}: by each month");
        // If no month has two cards, the sum is the cost of the months, in any order of the steps.
        if kind == Kind::Flat || !amid {
            let mut months: BTreeMap<(u64, usize), Decimal> = BTreeMap::new();
            for event in events.values().filter(|event| event.stands) {
                *months.entry((event.month, event.card)).or_default() += event.quantity;
            }
            let expected: Decimal = months.iter().map(|((_, card), q)| cards[*card].total(kind, *q)).sum();
            assert_eq!(self.cost(id), expected.normalize(), "{kind:?}, amid {amid}, seed {seed}");
        }
        let counted: Decimal = events.values().filter(|event| event.stands).map(|event| event.quantity).sum();
        let used = self.database.value(&format!(
            "SELECT trim_scale(coalesce(sum(used), 0))::text FROM quota_counters WHERE slot_id = {id}"
        ));
        assert_eq!(
            used.expect("a sum").parse::<Decimal>().expect("a decimal"),
            counted.normalize(),
            "seed {seed}"
        );
        // When everything is voided, the cost is zero: every charge is given back, in any order.
        if seed.is_multiple_of(2) {
            for (id, _) in events.iter().filter(|(_, event)| event.stands) {
                self.post("/v1/usage/void", &json!({ "org": org, "source": "t", "id": id, "reason": "all" }))
                    .await;
            }
            assert_eq!(self.cost(id), Decimal::ZERO, "{kind:?}, amid {amid}, seed {seed}: everything voided");
        }
    }

    /// Rows of the books, without rows of zeros.
    fn books(&self) -> BTreeSet<String> {
        let rows = self.database.value(
            "SELECT string_agg(row, chr(10)) FROM (
                 SELECT concat_ws(' ', 'day', org_id, series_id, day, trim_scale(quantity), count,
                     trim_scale(cost), trim_scale(battery_units), latest_at) AS row
                 FROM daily_summaries WHERE count <> 0 OR cost <> 0
                 UNION ALL
                 SELECT concat_ws(' ', 'level', org_id, series_id, subject, set_at, trim_scale(set_value),
                     trim_scale(changes))
                 FROM usage_levels WHERE (set_value, changes) <> (0, 0)
                 UNION ALL
                 SELECT concat_ws(' ', 'counter', org_id, slot_id, subject, period, began, trim_scale(used))
                 FROM quota_counters WHERE used <> 0) r",
        );
        rows.unwrap_or_default().lines().map(str::to_owned).collect()
    }

    async fn lives(&self, seeds: std::ops::Range<u64>) {
        let mut id = 10;
        for seed in seeds {
            for kind in [Kind::Flat, Kind::Graduated, Kind::Volume, Kind::Package] {
                for amid in [false, true] {
                    self.live(id, kind, amid, seed * 100 + u64::from(amid)).await;
                    id += 10;
                }
            }
            self.level(id, seed).await;
            id += 10;
        }
        // Makes slots old enough to have counted the whole life.
        self.database.execute("UPDATE quota_slots SET created_at = '2026-01-01'");
        assert_eq!(self.database.unbalanced(), [] as [String; 0]);
        self.database.run(&["verify"]);
        let before = self.books();
        self.database.execute(
            "DELETE FROM daily_summaries; DELETE FROM usage_uniques; DELETE FROM rating_counters;
             UPDATE usage_levels SET changes = changes + 1; UPDATE quota_counters SET used = used + 1",
        );
        self.database.run(&["rebuild", "summaries"]);
        let differ: Vec<String> = self.books().symmetric_difference(&before).cloned().collect();
        assert_eq!(differ, [] as [String; 0]);
        self.database.run(&["verify"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_survives_is_what_is_charged() {
    Place::new().lives(1..3).await;
}

/// As above, with many more lives: `cargo test --test it usage_lives -- --ignored`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn what_survives_is_what_is_charged_in_many_lives() {
    Place::new().lives(3..60).await;
}
