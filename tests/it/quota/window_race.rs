//! No window of an hour ever has more than its limit, whoever reports what, when, and to which daemon.

use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::{Value, json};

use super::platform;
use crate::support::requests::quota;
use crate::support::world::time;

const CLIENTS: u64 = 64;
const OPS: u64 = 40;
const LIMIT: i64 = 100;
const NOW: &str = "2026-11-20T12:00:00Z";

struct Place {
    bases: Vec<String>,
    key: String,
    http: reqwest::Client,
}

/// Pseudo-random numbers, the same in every run.
fn roll(dice: &mut u64, sides: u64) -> u64 {
    *dice ^= *dice << 13;
    *dice ^= *dice >> 7;
    *dice ^= *dice << 17;
    *dice % sides
}

impl Place {
    async fn post(&self, dice: &mut u64, path: &str, body: &Value) -> (u16, Value) {
        loop {
            let base = &self.bases[usize::try_from(roll(dice, 2)).expect("small")];
            let sent = self.http.post(format!("{base}{path}")).bearer_auth(&self.key).json(body).send().await;
            let response = sent.expect("an answer");
            let status = response.status().as_u16();
            if matches!(status, 429 | 503) {
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
                continue;
            }
            return (status, response.json().await.expect("JSON"));
        }
    }
}

/// Reports usage of the last three hours, and reserves and settles usage of now. Returns how much was taken
/// and how often something was refused.
async fn run(place: Arc<Place>, client: u64) -> (i64, u32) {
    let mut dice = client * 7919 + 1;
    let (mut taken, mut refused) = (0, 0);
    for op in 0..OPS {
        let amount = i64::try_from(1 + roll(&mut dice, 9)).expect("small");
        let (status, answer) = if roll(&mut dice, 4) == 0 {
            let body = json!({ "org": "acme", "meter": "tokens", "amount": amount,
                "id": format!("r{client}-{op}") });
            let (status, answer) = place.post(&mut dice, "/v1/quota/reserve", &body).await;
            if status == 201 {
                let path = format!("/v1/quota/r{client}-{op}/settle");
                let (status, answer) = place.post(&mut dice, &path, &json!({ "org": "acme" })).await;
                assert_eq!((status, &answer["overage"]), (200, &json!("0")), "{answer}");
            }
            (status, answer)
        } else {
            let back = i64::try_from(roll(&mut dice, 3 * 3600)).expect("small");
            let at = (time(NOW) - TimeDelta::seconds(back)).to_rfc3339_opts(SecondsFormat::Secs, true);
            let event = json!({ "event_name": "llm", "org": "acme", "id": format!("e{client}-{op}"),
                "occurred_at": at, "data": { "tokens": amount } });
            place.post(&mut dice, "/v1/usage", &event).await
        };
        match status {
            200..=202 => taken += amount,
            409 => refused += 1,
            _ => panic!("{status} {answer}"),
        }
    }
    (taken, refused)
}

/// The most that lies in any hour, both ends included.
fn fullest_hour(records: &[(DateTime<Utc>, i64)]) -> i64 {
    let until = |end: &DateTime<Utc>| {
        let within = |at: &DateTime<Utc>| *at >= *end - TimeDelta::hours(1) && at <= end;
        records.iter().filter(|(at, _)| within(at)).map(|(_, quantity)| quantity).sum()
    };
    records.iter().map(|(at, _)| until(at)).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_window_ever_has_more_than_its_limit() {
    let refusing = quota(LIMIT).period("rolling_1h").with("refuse_usage", true);
    let world = platform().at(NOW).daemons(2).with(refusing).start().await;
    let bases = world.daemons.iter().map(|daemon| daemon.base.clone()).collect();
    let place = Arc::new(Place { bases, key: world.key.clone(), http: reqwest::Client::new() });
    let clients: Vec<_> = (0..CLIENTS).map(|n| tokio::spawn(run(Arc::clone(&place), n))).collect();
    let (mut taken, mut refused) = (0, 0);
    for client in clients {
        let done = client.await.expect("a client's checks hold");
        (taken, refused) = (taken + done.0, refused + done.1);
    }
    let listed = world
        .value(
            "SELECT json_agg(json_build_array(occurred_at, quantity::bigint))::text
             FROM usage_records r JOIN meters m USING (meter_id) WHERE m.key = 'tokens'",
        )
        .expect("records");
    let records: Vec<(DateTime<Utc>, i64)> = serde_json::from_str(&listed).expect("JSON");
    let (most, sum) = (fullest_hour(&records), records.iter().map(|(_, quantity)| quantity).sum::<i64>());
    println!("{} records, {taken} taken, {refused} refused, {most} in the fullest hour", records.len());
    assert_eq!(sum, taken, "what was taken is recorded, and what was refused is not");
    assert!(most <= LIMIT, "an hour has {most} of {LIMIT}");
    assert!(most > LIMIT * 9 / 10 && refused > 100, "nothing came near the limit: {most}, {refused}");
    assert_eq!(world.number("SELECT count(*) FROM quota_counters WHERE reserved <> 0"), 0);
    world.is_sound();
}
