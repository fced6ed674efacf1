//! Random lives of a level: sets and changes of three subjects at few instants, late and in any order, voided
//! and amended, also in closed months. The test computes the expected level for each instant.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};
use rust_decimal::{Decimal, RoundingStrategy};
use serde_json::{Value, json};

use super::{Chance, Place};

const STEPS: u64 = 50;
const SUBJECTS: [&str; 3] = ["", "u1", "u2"];

/// The present state of an event.
#[derive(Clone, Debug)]
struct Said {
    at: DateTime<Utc>,
    subject: &'static str,
    sets: bool,
    value: Decimal,
    stands: bool,
}

fn at(text: &str) -> DateTime<Utc> {
    text.parse().expect("a time")
}

impl Said {
    /// Few instants, so that several events share one.
    fn by(chance: &mut Chance) -> Self {
        let hours = i64::try_from(24 * 3 * chance.below(28) + 12 * chance.below(2)).expect("small");
        let at = at("2026-09-01T00:00:00Z") + TimeDelta::hours(hours);
        let said = Self { at, subject: SUBJECTS[0], sets: false, value: Decimal::ZERO, stands: true };
        let subject = SUBJECTS[usize::try_from(chance.below(3)).expect("small")];
        Self { subject, ..said }.anew(chance)
    }

    /// Another value for the same instant.
    fn anew(self, chance: &mut Chance) -> Self {
        let (sets, value) = (chance.below(3) == 0, chance.decimal(40, 3));
        let less = !sets && chance.below(2) == 0;
        Self { sets, value: if less { -value } else { value }, ..self }
    }

    fn event(&self, id: i32) -> Value {
        let field = if self.sets { "there" } else { "by" };
        let mut event =
            json!({ "event_name": format!("work{id}"), "data": { field: self.value.to_string() } });
        if !self.subject.is_empty() {
            event["subject"] = self.subject.into();
        }
        event
    }
}

/// The level: the last of these sets and the changes from it on. Below zero counts as zero.
fn level<'a>(events: impl Iterator<Item = &'a Said> + Clone) -> Decimal {
    let last = events.clone().filter(|event| event.sets).map(|event| (event.at, event.value)).max();
    let counts = |event: &&Said| !event.sets && last.is_none_or(|(at, _)| event.at >= at);
    let changes: Decimal = events.filter(counts).map(|event| event.value).sum();
    (last.map_or(Decimal::ZERO, |(_, value)| value) + changes).max(Decimal::ZERO)
}

/// Start, end, average and peak over `[from, to)`, from the level of each span without events.
fn course(events: &[&Said], from: DateTime<Utc>, to: DateTime<Utc>) -> [Decimal; 4] {
    let within = events.iter().map(|event| event.at).filter(|at| *at > from && *at < to);
    let edges: Vec<DateTime<Utc>> = BTreeSet::from_iter(within.chain([from, to])).into_iter().collect();
    let held = |edge: DateTime<Utc>| level(events.iter().copied().filter(move |event| event.at <= edge));
    let spans: Vec<(Decimal, Decimal)> =
        edges.windows(2).map(|edge| (held(edge[0]), (edge[1] - edge[0]).num_seconds().into())).collect();
    let weighted: Decimal = spans.iter().map(|(level, seconds)| level * seconds).sum();
    let average = weighted / Decimal::from((to - from).num_seconds());
    [
        spans[0].0,
        spans[spans.len() - 1].0,
        average.round_dp_with_strategy(12, RoundingStrategy::MidpointNearestEven),
        spans.iter().map(|(level, _)| *level).max().expect("a span"),
    ]
}

impl Place {
    /// Runs the life of a level on its own org and meter.
    pub(super) async fn level(&self, id: i32, seed: u64) {
        let mut chance = Chance(seed);
        let (org, key) = (format!("org{id}"), format!("level{id}"));
        self.daemon.org(&self.key, &org, "UTC").await;
        let meter = json!({ "key": key, "event_name": format!("work{id}"), "aggregation": "level",
            "value_field": "there", "change_field": "by" });
        self.post("/v1/meters", &meter).await;
        let quota = |per_subject: bool| {
            json!({ "org": org, "meter": key, "period": "always", "limit": 1,
                "per_subject": per_subject })
        };
        self.post("/v1/quotas", &quota(false)).await;
        let (mut events, mut closed): (BTreeMap<String, Said>, u32) = (BTreeMap::new(), 8);
        for step in 0..STEPS {
            if step == STEPS / 2 {
                // It begins with the present level.
                self.post("/v1/quotas", &quota(true)).await;
            }
            let named = |id: &str| json!({ "org": org, "source": "t", "id": id, "reason": "wrong" });
            let known = u64::try_from(events.len()).expect("few").max(1);
            let chosen = usize::try_from(chance.below(known)).expect("small");
            let chosen =
                events.iter().filter(|(_, said)| said.stands).map(|(name, _)| name.clone()).nth(chosen);
            match (chance.below(20), chosen) {
                (0, _) if closed < 10 => {
                    closed += 1;
                    let month = json!({ "org": org, "month": format!("2026-{closed:02}") });
                    self.post("/v1/usage/closings", &month).await;
                }
                (16..20, Some(name)) => {
                    self.post("/v1/usage/void", &named(&name)).await;
                    events.get_mut(&name).expect("known").stands = false;
                }
                (12..16, Some(name)) => {
                    let said = events.get_mut(&name).expect("known");
                    *said = said.clone().anew(&mut chance);
                    let mut body = named(&name);
                    body["event"] = said.event(id);
                    self.post("/v1/usage/amend", &body).await;
                }
                _ => {
                    let mut batch = Vec::new();
                    for n in 0..=chance.below(3) {
                        let (name, said) = (format!("e{step}-{n}"), Said::by(&mut chance));
                        let mut sent = said.event(id);
                        (sent["id"], sent["source"], sent["org"]) = (json!(name), json!("t"), json!(org));
                        sent["occurred_at"] = said.at.to_rfc3339().into();
                        batch.push(sent);
                        events.insert(name, said);
                    }
                    self.tick();
                    let answers = self.daemon.usage(&self.key, &json!(batch)).await;
                    assert_eq!(answers, vec!["accepted"; batch.len()], "seed {seed}");
                    if chance.below(4) == 0 {
                        let answers = self.daemon.usage(&self.key, &json!(batch)).await;
                        assert_eq!(answers, vec!["duplicate"; batch.len()], "seed {seed}");
                    }
                }
            }
            if step % 5 == 4 {
                self.level_is(&org, &key, &events, &format!("seed {seed}, step {step}")).await;
            }
        }
    }

    /// Compares the level in the API with the level that the events give.
    async fn level_is(&self, org: &str, key: &str, events: &BTreeMap<String, Said>, place: &str) {
        let of = |subject: &str| -> Vec<&Said> {
            events.values().filter(|said| said.stands && said.subject == subject).collect()
        };
        for (from, to) in [
            ("2026-09-01T00:00:00Z", "2026-10-01T00:00:00Z"),
            ("2026-10-01T00:00:00Z", "2026-11-01T00:00:00Z"),
            ("2026-11-01T00:00:00Z", "2026-11-26T12:00:00Z"),
            // At, just before and just after instants at which events may have happened.
            ("2026-09-10T00:00:00Z", "2026-10-13T12:00:00Z"),
            ("2026-09-30T23:59:59Z", "2026-10-01T00:00:01Z"),
            ("2026-08-01T00:00:00Z", "2026-09-01T00:00:00Z"),
        ] {
            let path = format!("/v1/usage/levels?org={org}&meter={key}&from={from}&to={to}");
            let (status, page) = self.daemon.get(&path, &self.key).await;
            assert_eq!(status, 200, "{page}");
            let rows = page["data"].as_array().expect("rows");
            for subject in SUBJECTS {
                let events = of(subject);
                let [start, end, average, peak] = course(&events, at(from), at(to));
                let wanted = [level(events.iter().copied()), start, end, average, peak];
                let row = rows.iter().find(|row| row["subject"].as_str().unwrap_or_default() == subject);
                let figure = |row: &Value, name: &str| -> Decimal {
                    row[name].as_str().expect("text").parse().expect("a decimal")
                };
                let told = row.map_or([Decimal::ZERO; 5], |row| {
                    ["level", "start", "end", "average", "peak"].map(|name| figure(row, name))
                });
                assert_eq!(told, wanted, "{place}: {subject:?} from {from} to {to}");
            }
        }
        let used = |per_subject: bool, subject: &str| -> Decimal {
            let used = self.database.value(&format!(
                "SELECT coalesce(sum(used), 0)::text FROM quota_counters c JOIN quota_slots USING (slot_id)
                 JOIN meters USING (meter_id)
                 WHERE key = '{key}' AND per_subject = {per_subject} AND subject = '{subject}'"
            ));
            used.expect("a sum").parse().expect("a decimal")
        };
        let levels = SUBJECTS.map(|subject| level(of(subject).into_iter()));
        assert_eq!(used(false, ""), levels.iter().sum::<Decimal>(), "{place}: counter");
        let quotas = format!(
            "SELECT count(*) FROM quota_slots JOIN meters USING (meter_id)
             WHERE key = '{key}' AND per_subject"
        );
        if self.database.number(&quotas) == 1 {
            assert_eq!(SUBJECTS.map(|subject| used(true, subject)), levels, "{place}: counters of subjects");
        }
    }
}
